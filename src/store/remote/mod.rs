//! A server over the network: a deadline for each of its answers, a breaker while it is known to be
//! down, and one task that checks whether it is back.

mod breaker;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};

pub(crate) use breaker::{Breaker, Failure, Pauses};

use super::{StoreError, StoreErrorKind};
use crate::domain::clock::Clock;

/// A call that is woken this part of its deadline too late waits for twice as long again.
const GRACE_PART: u32 = 4;

/// What is known of a server, and how long its answers may take.
#[derive(Debug)]
pub(crate) struct Availability {
    breaker: Breaker,
    deadline: Duration,
    clock: Arc<dyn Clock>,
}

impl Availability {
    pub(crate) fn new(deadline: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            breaker: Breaker::default(),
            deadline,
            clock,
        }
    }

    /// Whether the server is known to be down: only the task that checks it calls it then.
    pub(crate) fn is_down(&self) -> bool {
        self.breaker.is_open()
    }

    /// Whether the server was found to be back so recently that other processes may not know yet.
    pub(crate) fn is_back_lately(&self) -> bool {
        self.breaker.is_back_lately(self.clock.elapsed())
    }

    /// The pauses between attempts, from now on.
    pub(crate) fn pauses(&self) -> Pauses {
        self.breaker.pauses(self.clock.elapsed())
    }
}

/// A server, and what its owner does when it goes and comes.
pub(crate) trait RemoteServer: Send + Sync + 'static {
    fn availability(&self) -> &Availability;

    /// Checks whether the server is alive, and connects where that is missing.
    fn revive(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// It is down: called once each time, by the call whose failure showed it.
    fn is_lost(&self, error: &StoreError);

    /// It is back: called before anybody calls it again.
    fn is_back(&self);

    /// It is called again, since it is back.
    fn is_called_again(&self) {}

    /// Whether an answer shows that the server is well. Not if it is writing that failed before,
    /// and nothing was written since.
    fn is_well(&self) -> bool {
        true
    }

    /// Where the check runs.
    fn runtime(&self) -> Handle {
        Handle::current()
    }
}

/// Why there is no answer.
pub(crate) trait CallError {
    /// The server wasn't called, because it is down.
    fn down() -> Self;

    /// The answer didn't come in time. The call may have been carried out.
    fn late() -> Self;

    fn error(&self) -> &StoreError;

    /// What the error tells of the server; `None` if it is only about the call.
    fn severity(&self) -> Option<Failure>;
}

impl CallError for StoreError {
    fn down() -> Self {
        Self::new(StoreErrorKind::Unavailable, "the server is unavailable")
    }

    fn late() -> Self {
        let text = "the server did not answer in time";
        Self::new(StoreErrorKind::Unavailable, text)
    }

    fn error(&self) -> &StoreError {
        self
    }

    fn severity(&self) -> Option<Failure> {
        Some(match self.kind() {
            StoreErrorKind::Unavailable => Failure::Final,
            _ => Failure::Passing,
        })
    }
}

/// Connects, and returns whether that succeeded. If not, checks continue in the background. If so,
/// the server is called again: whoever checked it may have ended with its runtime.
pub(crate) async fn connect<S: RemoteServer>(server: &Arc<S>) -> Result<(), StoreError> {
    let began = server.availability().clock.elapsed();
    let outcome = server.revive().await;
    match &outcome {
        Err(error) => failed(server, Failure::Final, began, error),
        Ok(()) if server.availability().is_down() => found_back(server),
        Ok(()) => {}
    }
    outcome
}

/// Waits for an answer, unless the server is known to be down: then nothing is sent, since `answer`
/// isn't polled. Callers pin it, since each of these futures would otherwise hold copies of it.
pub(crate) async fn ask<S: RemoteServer, T, E: CallError>(
    server: &Arc<S>,
    answer: impl Future<Output = Result<T, E>> + Unpin,
) -> Result<T, E> {
    if server.availability().is_down() {
        return Err(E::down());
    }
    wait_for(server, answer).await
}

/// Waits for an answer until the deadline, and counts what fails.
pub(crate) async fn wait_for<S: RemoteServer, T, E: CallError>(
    server: &Arc<S>,
    mut answer: impl Future<Output = Result<T, E>> + Unpin,
) -> Result<T, E> {
    let Availability {
        breaker,
        deadline,
        clock,
    } = server.availability();
    let began = clock.elapsed();
    let mut outcome = timeout(*deadline, &mut answer).await;
    // Woken late, this process was too busy to read an answer that may well be there: its delay is
    // not the server's.
    let grace = deadline.checked_div(GRACE_PART).unwrap_or_default();
    if outcome.is_err() && clock.elapsed().saturating_sub(began) > deadline.saturating_add(grace) {
        outcome = timeout(grace.saturating_mul(2), &mut answer).await;
    }
    let (error, severity) = match outcome {
        Ok(Ok(answer)) => {
            if server.is_well() {
                breaker.succeeded();
            }
            return Ok(answer);
        }
        Ok(Err(error)) => {
            let severity = error.severity();
            (error, severity)
        }
        Err(_) => (E::late(), Some(Failure::Passing)),
    };
    if let Some(severity) = severity {
        failed(server, severity, began, error.error());
    }
    Err(error)
}

/// Counts the failure of a call that began at `began`.
fn failed<S: RemoteServer>(server: &Arc<S>, failure: Failure, began: Duration, error: &StoreError) {
    let Availability { breaker, clock, .. } = server.availability();
    if breaker.failed(failure, began, clock.elapsed()) {
        server.is_lost(error);
        watch_for_recovery(server);
    }
}

/// Checks until the server is back: one task for each time that the breaker opens. It ends with the
/// owner.
fn watch_for_recovery<S: RemoteServer>(server: &Arc<S>) {
    let mut pauses = server.availability().pauses();
    let runtime = server.runtime();
    let server = Arc::downgrade(server);
    runtime.spawn(async move {
        loop {
            sleep(pauses.next()).await;
            let Some(server) = server.upgrade() else {
                return;
            };
            if !server.availability().is_down() {
                return;
            }
            if server.revive().await.is_ok() {
                found_back(&server);
                return;
            }
        }
    });
}

fn found_back<S: RemoteServer>(server: &Arc<S>) {
    server.is_back();
    let Availability { breaker, clock, .. } = server.availability();
    breaker.close(clock.elapsed());
    server.is_called_again();
}

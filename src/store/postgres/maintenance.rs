//! Periodic work other than heartbeats: cleaning up after dead instances.
//!
//! An instance is an open store. The counter in its row of `instance` goes up every two seconds.
//! Any process that sees the same count for longer than the recovery time, on its own monotonic
//! clock, declares the instance dead and deletes the row. Holds of an instance without a row are
//! resolved, as settlements through the lanes, so each hold is ended by whoever comes first. Hence
//! neither setting a clock nor a suspended machine releases holds of calls in progress. A process
//! that was only paused finds its row gone and starts over as a new instance; calls of released
//! holds are charged when it settles them, once, for a day.

mod recovery;
mod tasks;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::JoinHandle,
    time::timeout,
};

use self::{
    recovery::ORPHANED,
    tasks::{Outcomes, forget_expired_keys, prune, touch},
};
use super::{
    Shared, Work, answered,
    command::{Command, Reply},
    convert::Failure,
    heartbeat, late,
};
use crate::{domain::AccountId, store::StoreError};

const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How often it checks whether something is due.
pub(super) const IDLE: Duration = Duration::from_millis(250);

/// How long it waits for the lanes, so that a blocked lane doesn't hold up everything else.
const PATIENCE: Duration = Duration::from_secs(1);

/// Holds resolved, or rows pruned, in one go; others wait meanwhile.
const STEP: i64 = 1_000;

/// Steps in which a closing store resolves its open holds: more than can be needed.
const CLOSING_STEPS: u32 = 10_000;

pub(super) enum Request {
    Flush(Reply<()>),
    Close(Option<Reply<()>>),
}

pub(super) struct Maintenance {
    shared: Arc<Shared>,
    requests: UnboundedReceiver<Request>,
    lanes: Vec<JoinHandle<()>>,
    sweep_due: Duration,
    /// Accounts with a resolution in progress, and its result.
    resolving: Vec<(AccountId, oneshot::Receiver<Result<(), StoreError>>)>,
}

impl Maintenance {
    pub(super) fn new(
        shared: Arc<Shared>,
        requests: UnboundedReceiver<Request>,
        lanes: Vec<JoinHandle<()>>,
    ) -> Self {
        Self {
            shared,
            requests,
            lanes,
            sweep_due: Duration::ZERO,
            resolving: Vec::new(),
        }
    }

    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        let work = async |work: Work| {
            let mut transaction = work.begin().await?;
            heartbeat::register(&mut transaction, &work.instance(), &work).await?;
            transaction.commit().await
        };
        self.shared.in_time(work).await?;
        self.run_due(self.shared.settings.deadline).await
    }

    pub(super) async fn run(mut self) {
        loop {
            match timeout(IDLE, self.requests.recv()).await {
                Err(_) => {
                    if let Err(failure) = self.run_due(PATIENCE).await {
                        tasks::log(&self.shared, &failure.error);
                    }
                }
                Ok(Some(Request::Flush(reply))) => {
                    let _ = reply.send(self.flush().await);
                }
                Ok(Some(Request::Close(reply))) => {
                    let left = self.shut_down().await;
                    let _ = reply.map(|reply| reply.send(left));
                    return;
                }
                Ok(None) => {
                    let _ = self.shut_down().await;
                    return;
                }
            }
        }
    }

    /// Does everything that is due, even if some of it fails. Waits at most `patience` for the
    /// lanes.
    async fn run_due(&mut self, patience: Duration) -> Result<(), Failure> {
        let mut outcomes = Outcomes::new(&self.shared);
        let elapsed = self.shared.settings.clock.elapsed();
        outcomes.note(
            self.shared
                .heartbeat
                .lock()
                .await
                .run_due(&self.shared)
                .await,
        )?;
        if elapsed >= self.sweep_due {
            self.sweep_due = elapsed.saturating_add(SWEEP_EVERY);
            outcomes.note(self.shared.in_time(touch).await)?;
            outcomes.note(self.write_events().await)?;
            self.sweep(&mut outcomes, elapsed, patience).await?;
            outcomes.is_over();
            if outcomes.has_more {
                self.sweep_due = elapsed;
            }
        }
        outcomes.outcome()
    }

    async fn write_events(&self) -> Result<(), Failure> {
        let write = async |work: Work| work.write_events().await;
        self.shared.in_time(write).await
    }

    async fn sweep(
        &mut self,
        outcomes: &mut Outcomes,
        elapsed: Duration,
        patience: Duration,
    ) -> Result<(), Failure> {
        let own = self.shared.instance().id();
        let ended = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
        outcomes.note_part(self.resolve(own, ended, patience).await)?;
        let orphaned = async |work: Work| {
            let mut transaction = work.read().await?;
            let orphaned = sqlx::query_scalar(ORPHANED)
                .fetch_all(&mut *transaction)
                .await?;
            Ok(orphaned)
        };
        let orphaned: Vec<i64> = outcomes
            .note(self.shared.in_time(orphaned).await)?
            .unwrap_or_default();
        for instance in orphaned {
            outcomes.note_part(self.resolve(instance, i64::MAX, patience).await)?;
        }
        outcomes.note_part(self.resolve_leases(patience).await)?;
        outcomes.note_part(self.shared.in_time(forget_expired_keys).await)?;
        let forget_late = async |work: Work| late::forget_old(work, STEP).await;
        outcomes.note_part(self.shared.in_time(forget_late).await)?;
        let prune_audit = async |work: Work| work.prune_audit().await;
        outcomes.note_part(self.shared.in_time(prune_audit).await)?;
        outcomes.note_part(self.shared.in_time(prune).await)
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        self.flush_lanes().await?;
        let touched = self.shared.in_time(touch).await;
        touched.map_err(|failure| failure.error)?;
        let written = self.write_events().await;
        written.map_err(|failure| failure.error)?;
        let patience = self.shared.settings.deadline;
        let turned = self.run_due(patience).await;
        turned.map_err(|failure| failure.error)
    }

    /// Waits until every lane has finished what it was sent before.
    async fn flush_lanes(&self) -> Result<(), StoreError> {
        let answers = self.shared.lanes.iter().map(|lane| {
            let (reply, answer) = oneshot::channel();
            // A lane that has ended drops the reply, which `answered` reports as closed.
            let _ = lane.send(Command::Flush(reply));
            answer
        });
        let answers: Vec<_> = answers.collect();
        for answer in answers {
            answered(answer, self.shared.settings.deadline).await?;
        }
        Ok(())
    }

    /// Closes in order: open holds, this instance's row, the tasks.
    async fn shut_down(&mut self) -> Result<(), StoreError> {
        self.shared.close();
        let mut left = self.flush_lanes().await;
        left = left.and(self.deregister().await.map_err(|failure| failure.error));
        // If anything is left behind, others find it once this process is silent.
        self.shared.heartbeat.lock().await.stop();
        self.end_lanes().await;
        if let Err(error) = &left {
            tracing::error!(target: "tollgate::postgres", %error, "the store was not closed cleanly");
        }
        left
    }

    async fn deregister(&mut self) -> Result<(), Failure> {
        for _ in 0..CLOSING_STEPS {
            let patience = self.shared.settings.deadline;
            let own = self.shared.instance().id();
            if self.resolve(own, i64::MAX, patience).await? {
                break;
            }
        }
        self.shared.in_time(touch).await?;
        self.write_events().await?;
        if self
            .shared
            .settling
            .is_any_of(self.shared.instance().id().cast_unsigned())
        {
            // The lanes retry a few more times. After that other processes resolve it, once this
            // one is silent.
            return Err(Failure::slow());
        }
        // A later heartbeat would register this process again.
        self.shared.heartbeat.lock().await.stop();
        let forget = async |work: Work| {
            let mut transaction = work.begin().await?;
            sqlx::query("DELETE FROM instance WHERE id = $1")
                .bind(work.instance().id())
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        };
        self.shared.in_time(forget).await?;
        self.resolve_leases(self.shared.settings.deadline).await?;
        Ok(())
    }

    pub(super) async fn end_lanes(&mut self) {
        for lane in &self.shared.lanes {
            let _ = lane.send(Command::Close);
        }
        for lane in self.lanes.drain(..) {
            // If a lane panicked, that was reported already.
            let _ = lane.await;
        }
    }
}

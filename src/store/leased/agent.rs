//! The task that takes leases, reports and gives back: at intervals, and before where that is wanted.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Interval, MissedTickBehavior, interval, sleep},
};

use super::accounts::{Accounts, lock};
use crate::{
    domain::AccountId,
    store::{StoreError, StoreErrorKind},
};

/// Passes that follow each other at once, because there is more to do.
const PASSES_MAX: u32 = 8;

/// Passes in which a node that ends reports what is left.
const LAST_PASSES_MAX: u32 = 100;

/// Passes that somebody waits for: more than take all that can wait to be told. One that the store does not take counts
/// for many, or who waits would do so for long.
const ERRAND_PASSES: u32 = 64;
const FAILED_PASS: u32 = 24;

/// How long a node that ends waits before it tries again what the store did not take.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Those who wait for a report at once.
const ERRANDS_MAX: usize = 8_192;

/// Somebody waits until nothing is owed or withheld of an account, or of all.
pub(super) struct Errand {
    account: Option<AccountId>,
    passes_left: u32,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

impl Accounts {
    /// Waits until what is owed and withheld now of an account, or of all, is with the store.
    pub(super) fn cleared(
        &self,
        account: Option<AccountId>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let mut errands = lock(&self.errands);
        let is_full = errands.len() >= ERRANDS_MAX;
        if !is_full {
            errands.push(Errand {
                account,
                passes_left: ERRAND_PASSES,
                reply,
            });
        }
        drop(errands);
        self.urgent.notify_one();
        async move {
            if is_full {
                let text = "too many calls wait for a report of leases";
                return Err(StoreError::new(StoreErrorKind::Busy, text));
            }
            answer.await.unwrap_or_else(|_| Err(ended()))
        }
    }
}

fn ended() -> StoreError {
    StoreError::new(
        StoreErrorKind::Unavailable,
        "the leases of this node have ended",
    )
}

pub(super) fn unreported_rows() -> StoreError {
    StoreError::new(
        StoreErrorKind::Unavailable,
        "the store does not take what was served from leases",
    )
}

/// The agent's work, until the node ends and everything is told.
pub(super) async fn run(accounts: Arc<Accounts>) {
    let mut ticks = interval(accounts.settings.report_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !accounts.is_closed.load(Ordering::Acquire) {
        let is_tick = next(&mut ticks, &accounts.urgent).await;
        work(&accounts, is_tick).await;
    }
    leave(&accounts).await;
}

/// Waits until something is to be done; `true`: it is time for everything.
async fn next(ticks: &mut Interval, urgent: &Notify) -> bool {
    let mut urgent = pin!(urgent.notified());
    poll_fn(|context| {
        if ticks.poll_tick(context).is_ready() {
            return Poll::Ready(true);
        }
        urgent.as_mut().poll(context).map(|()| false)
    })
    .await
}

/// Does what is due, and goes on while there is more to do at once.
async fn work(accounts: &Accounts, is_tick: bool) {
    let mut is_tick = is_tick;
    for _ in 0..PASSES_MAX {
        let mut waiting = std::mem::take(&mut *lock(&accounts.errands));
        let passed = pass(accounts, is_tick).await;
        is_tick = false;
        waiting.retain_mut(|errand| errand.waits(accounts, passed));
        let is_urgent = passed.is_urgent || !waiting.is_empty();
        lock(&accounts.errands).append(&mut waiting);
        if !is_urgent {
            return;
        }
    }
    // It goes on after others had their turn.
    accounts.urgent.notify_one();
}

impl Errand {
    /// Answers if it is time to, which leaves nobody waiting.
    fn waits(&mut self, accounts: &Accounts, passed: Passed) -> bool {
        let is_clear = accounts.is_clear(self.account.as_ref());
        let cost = if passed.has_failed { FAILED_PASS } else { 1 };
        self.passes_left = self.passes_left.saturating_sub(cost);
        if !is_clear && self.passes_left > 0 {
            return true;
        }
        let (answer, _) = oneshot::channel();
        let answer = std::mem::replace(&mut self.reply, answer);
        // Whoever asked may have gone.
        let _ = answer.send(if is_clear {
            Ok(())
        } else {
            Err(unreported_rows())
        });
        false
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    /// There is more to do at once.
    is_urgent: bool,
    /// The store did not take everything.
    has_failed: bool,
}

/// Sends what is due and takes the answers.
async fn pass(accounts: &Accounts, is_tick: bool) -> Passed {
    let outgoing = accounts.due(is_tick);
    let mut sent = Vec::with_capacity(outgoing.len());
    // All are on their way before one is waited for.
    for outgoing in outgoing {
        let answer = accounts.store.lease(Arc::clone(&outgoing.step));
        sent.push((outgoing, answer));
    }
    let mut passed = Passed::default();
    for (outgoing, answer) in sent {
        let answer = answer.await;
        if let Err(error) = &answer {
            passed.has_failed = true;
            tracing::error!(
                target: "tollgate::ledger",
                %error,
                lease = %outgoing.step.id,
                account = %outgoing.account,
                rows = outgoing.step.served.len(),
                "the store did not take a step of a lease"
            );
        }
        passed.is_urgent |= accounts.answered(&outgoing, &answer);
    }
    passed
}

/// Ends in order: what is open is resolved, what was served is told, what is left is given back.
async fn leave(accounts: &Accounts) {
    for _ in 0..LAST_PASSES_MAX {
        accounts.close(None, false);
        // Each time: one may have been granted while the others were resolved.
        accounts.abandon();
        accounts.owe_all(None);
        let passed = pass(accounts, true).await;
        if accounts.is_empty() {
            break;
        }
        if !passed.is_urgent {
            sleep(RETRY_AFTER).await;
        }
    }
    let unreported = accounts.places.load(Ordering::Acquire);
    if unreported > 0 {
        tracing::error!(
            target: "tollgate::ledger",
            rows = unreported,
            "a node ended before the store took what it had served"
        );
    }
    for errand in lock(&accounts.errands).drain(..) {
        let _ = errand.reply.send(if unreported == 0 {
            Ok(())
        } else {
            Err(unreported_rows())
        });
    }
}

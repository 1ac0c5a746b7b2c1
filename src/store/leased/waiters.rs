//! Callers that wait until the store knows what this node served, or has its money back.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout},
};

use super::accounts::Accounts;
use crate::{
    domain::AccountId,
    store::{StoreError, StoreErrorKind},
    sync::lock,
};

/// Callers that may wait at the same time.
const WAITERS_MAX: usize = 8_192;

/// How long a caller waits.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// How often the store may fail before a waiting caller gets an error.
const FAILURES_MAX: u32 = 3;

#[derive(Default)]
pub(super) struct Waiters {
    waiting: Vec<Waiter>,
    /// The reporter has ended and won't be restarted.
    has_ended: bool,
}

/// A caller that waits until one account, or every account, has nothing to report or give back.
struct Waiter {
    account: Option<AccountId>,
    ends: Instant,
    failures_left: u32,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

fn unavailable(text: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, text)
}

fn ended() -> StoreError {
    unavailable("leasing has ended on this node")
}

pub(super) fn unreported_rows() -> StoreError {
    unavailable("the store does not accept lease reports")
}

/// Waits no longer than `limit`. Outside a Tokio runtime there is no timer; there the reporter
/// checks the deadline itself.
pub(super) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    match Handle::try_current() {
        Ok(_) => timeout(limit, future).await.ok(),
        Err(_) => Some(future.await),
    }
}

impl Accounts {
    /// Waits until what an account, or every account, has to report or give back now is with the
    /// store, or is known not to get there.
    pub(super) fn until_cleared(
        &self,
        account: Option<AccountId>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let enlisted = self.enlist(account);
        self.urgent.notify_one();
        async move {
            let Some(answer) = enlisted? else {
                return Ok(());
            };
            match within(WAIT_MAX, answer).await {
                Some(answer) => answer.unwrap_or_else(|_| Err(ended())),
                None => Err(unreported_rows()),
            }
        }
    }

    /// `None`: there is nothing to wait for.
    fn enlist(
        &self,
        account: Option<AccountId>,
    ) -> Result<Option<oneshot::Receiver<Result<(), StoreError>>>, StoreError> {
        let mut waiters = lock(&self.waiters);
        if waiters.has_ended {
            // Lost reports are no reason to stop asking the store.
            return match account {
                None if self.has_unreported() => Err(unreported_rows()),
                _ => Ok(None),
            };
        }
        if waiters.waiting.len() >= WAITERS_MAX {
            waiters.waiting.retain(|waiter| !waiter.reply.is_closed());
        }
        if waiters.waiting.len() >= WAITERS_MAX {
            let text = "too many calls wait for lease reports";
            return Err(StoreError::new(StoreErrorKind::Busy, text));
        }
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        waiters.waiting.push(Waiter {
            account,
            ends: now.checked_add(WAIT_MAX).unwrap_or(now),
            failures_left: FAILURES_MAX,
            reply,
        });
        Ok(Some(answer))
    }

    pub(super) fn has_unreported(&self) -> bool {
        self.unreported.load(Ordering::Acquire) > 0
    }

    /// Answers the callers that need not wait any longer. `failed` names the accounts whose step
    /// the store rejected. Returns whether others still wait.
    pub(super) fn answer_waiters(&self, failed: &[AccountId]) -> bool {
        let mut waiting = std::mem::take(&mut lock(&self.waiters).waiting);
        if waiting.is_empty() {
            return false;
        }
        let now = Instant::now();
        let mut all_clear = None;
        let is_finished = |waiter: &mut Waiter| {
            let (is_clear, has_failed) = match &waiter.account {
                Some(account) => (self.is_clear(Some(account)), failed.contains(account)),
                None => {
                    let is_clear = *all_clear.get_or_insert_with(|| self.is_clear(None));
                    (is_clear, !failed.is_empty())
                }
            };
            waiter.failures_left = waiter.failures_left.saturating_sub(u32::from(has_failed));
            let is_hopeless = waiter.failures_left == 0 || now >= waiter.ends;
            is_clear || is_hopeless || waiter.reply.is_closed()
        };
        let over: Vec<Waiter> = waiting.extract_if(.., is_finished).collect();
        for waiter in over {
            let is_clear = match &waiter.account {
                Some(account) => self.is_clear(Some(account)),
                None => all_clear.unwrap_or_default(),
            };
            waiter.answer(is_clear);
        }
        let others_wait = !waiting.is_empty();
        lock(&self.waiters).waiting.append(&mut waiting);
        others_wait
    }

    /// The reporter has ended: nothing is granted here any more, and nobody waits.
    pub(super) fn end(&self) {
        self.is_closed.store(true, Ordering::Release);
        let (calls, charged) = self.give_up();
        if calls > 0 {
            tracing::error!(
                target: "tollgate::ledger",
                calls,
                %charged,
                "leases ended before the store accepted their reports: these calls are not charged"
            );
        }
        let mut waiters = lock(&self.waiters);
        waiters.has_ended = true;
        let waiting = std::mem::take(&mut waiters.waiting);
        drop(waiters);
        let is_clear = !self.has_unreported();
        for waiter in waiting {
            waiter.answer(is_clear);
        }
    }
}

impl Waiter {
    fn answer(self, is_clear: bool) {
        let answer = if is_clear {
            Ok(())
        } else {
            Err(unreported_rows())
        };
        // The caller may have gone.
        let _ = self.reply.send(answer);
    }
}

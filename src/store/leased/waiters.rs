//! Those who wait until the store knows what this node served, or has back what it lent.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout},
};

use super::accounts::{Accounts, lock};
use crate::{
    domain::AccountId,
    store::{StoreError, StoreErrorKind},
};

/// Those who wait at once.
const WAITERS_MAX: usize = 8_192;

/// For how long one waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the store may fail what one waits for.
const FAILURES_MAX: u32 = 3;

#[derive(Default)]
pub(super) struct Waiters {
    waiting: Vec<Waiter>,
    /// There is no agent any more, and won't be.
    has_ended: bool,
}

/// Somebody waits until nothing is owed or withheld of an account, or of all.
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
    unavailable("the leases of this node have ended")
}

pub(super) fn unreported_rows() -> StoreError {
    unavailable("the store does not take what was served from leases")
}

/// Waits no longer than that. Off a runtime there is no timer; there the agent looks at its watch.
pub(super) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    match Handle::try_current() {
        Ok(_) => timeout(limit, future).await.ok(),
        Err(_) => Some(future.await),
    }
}

impl Accounts {
    /// Waits until what is owed and withheld now of an account, or of all, is with the store, or until it is known that
    /// it won't be.
    pub(super) fn cleared(
        &self,
        account: Option<AccountId>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let enlisted = self.enlist(account);
        self.urgent.notify_one();
        async move {
            let Some(answer) = enlisted? else {
                return Ok(());
            };
            match within(PATIENCE, answer).await {
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
            // What was lost is lost; it keeps nobody from asking the store.
            return match account {
                None if self.has_unreported() => Err(unreported_rows()),
                _ => Ok(None),
            };
        }
        if waiters.waiting.len() >= WAITERS_MAX {
            waiters.waiting.retain(|waiter| !waiter.reply.is_closed());
        }
        if waiters.waiting.len() >= WAITERS_MAX {
            let text = "too many calls wait for a report of leases";
            return Err(StoreError::new(StoreErrorKind::Busy, text));
        }
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        waiters.waiting.push(Waiter {
            account,
            ends: now.checked_add(PATIENCE).unwrap_or(now),
            failures_left: FAILURES_MAX,
            reply,
        });
        Ok(Some(answer))
    }

    pub(super) fn has_unreported(&self) -> bool {
        self.places.load(Ordering::Acquire) > 0
    }

    /// Answers those who need not wait any longer; `failed`: of these accounts the store did not take a step. Whether
    /// others wait on.
    pub(super) fn answer_waiters(&self, failed: &[AccountId]) -> bool {
        let mut waiting = std::mem::take(&mut lock(&self.waiters).waiting);
        if waiting.is_empty() {
            return false;
        }
        let now = Instant::now();
        let mut all_clear = None;
        let is_over = |waiter: &mut Waiter| {
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
        let over: Vec<Waiter> = waiting.extract_if(.., is_over).collect();
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

    /// There is no agent from now on: nothing is granted here, and nobody waits.
    pub(super) fn end(&self) {
        self.is_closed.store(true, Ordering::Release);
        let (calls, charged) = self.give_up();
        if calls > 0 {
            tracing::error!(
                target: "tollgate::ledger",
                calls,
                %charged,
                "leases ended before the store took what was served from them: it is not charged"
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
        // Whoever asked may have gone.
        let _ = self.reply.send(answer);
    }
}

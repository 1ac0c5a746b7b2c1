//! The ledger's calls.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::timeout};

use super::{
    RedisLedger, codec, listing,
    redis_call::{CREDIT_LINE, LIMITS, RedisCall},
    shared::{Failure, Shared, closed},
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{self, Balance, Budget, HoldRefusal, RefundRefusal, Snapshot},
        budget::{BudgetWindow, SpendingLimits},
        clock::Timestamp,
        money::Money,
        page::{Page, Paged},
        usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
    },
    store::{Ledger, StoreError, StoreErrorKind, StoreFuture},
};

/// The answer that comes through `reply`, or `Unavailable` after the deadline. The request is
/// carried out nevertheless.
async fn answered(
    answer: oneshot::Receiver<Result<(), StoreError>>,
    deadline: Duration,
) -> Result<(), StoreError> {
    match timeout(deadline, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(closed()),
        Err(_) => Err(Failure::slow().error),
    }
}

impl RedisLedger {
    /// Sends a request for a caller that waits.
    pub(super) fn ask<T, F>(&self, work: impl FnOnce(Arc<Shared>) -> F) -> StoreFuture<T>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let shared = &self.0.shared;
        if shared.is_closed() {
            return StoreFuture::ready(Err(closed()));
        }
        let work = work(Arc::clone(shared));
        StoreFuture::new(async { work.await.map_err(|failure| failure.error) })
    }

    /// Carries out the work even if the caller stops waiting.
    fn send<F>(&self, work: impl FnOnce(Arc<Shared>) -> F) -> StoreFuture<()>
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let shared = &self.0.shared;
        let (reply, answer) = oneshot::channel();
        let (ticket, work) = (shared.in_flight.ticket(), work(Arc::clone(shared)));
        shared.runtime.spawn(async move {
            let done = work.await.map_err(|failure| failure.error);
            drop(ticket);
            // The caller may have gone; what was done stays done.
            let _ = reply.send(done);
        });
        StoreFuture::new(answered(answer, shared.settings.deadline))
    }
}

impl Ledger for RedisLedger {
    fn window_end(&self, window: BudgetWindow, at: Timestamp) -> Option<Timestamp> {
        self.0.shared.settings.calendar.end(window, at)
    }

    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        self.ask(move |shared| async move { shared.hold(request).await })
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        // Once a settlement has arrived, its hold no longer expires, however long the server takes.
        self.0
            .shared
            .registry
            .begin_to_settle(&hold.call.account, hold.id);
        self.send(move |shared| async move { shared.settle(&hold, &settlement).await })
    }

    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool> {
        let (id, account) = (hold.id, hold.call.account.clone());
        let shared = &self.0.shared;
        if !shared
            .registry
            .extend(&account, id, shared.end_after(lifetime))
        {
            return StoreFuture::ready(Ok(false));
        }
        self.ask(move |shared| async move {
            // Others may have resolved it.
            let command = RedisCall::command("HEXISTS")
                .arg(shared.names.account(&account).open(id.instance))
                .arg(Shared::number(id));
            shared.ask(shared.shard(account.as_str()), &command).await
        })
    }

    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()> {
        let shared = &self.0.shared;
        let Ok(place) = Arc::clone(&shared.records).try_acquire_owned() else {
            let text = "too many rows wait to be written";
            return StoreFuture::ready(Err(StoreError::new(StoreErrorKind::Busy, text)));
        };
        self.send(move |shared| async move {
            let recorded = shared.record(&call, &settlement).await;
            drop(place);
            recorded
        })
    }

    fn credit(&self, credit: Credit) -> StoreFuture<Balance> {
        if credit.amount <= Money::ZERO {
            return StoreFuture::ready(Err(StoreError::from(RefundRefusal::OutOfRange)));
        }
        self.pay(credit.into())
    }

    fn adjust(&self, adjustment: Adjustment) -> StoreFuture<Balance> {
        match books::check(&adjustment, books::adjust) {
            Ok(()) => self.pay(adjustment),
            Err(refusal) => StoreFuture::ready(Err(refusal.into())),
        }
    }

    fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance> {
        if line.is_negative() {
            return StoreFuture::ready(Err(StoreError::negative_limit()));
        }
        let account = account.clone();
        self.ask(move |shared| async move {
            let keys = [shared.names.account(&account).books()];
            let command = RedisCall::script(&CREDIT_LINE, &keys).arg(line.nanos());
            let shard = shared.shard(account.as_str());
            let answer: Vec<Option<String>> = shared.ask(shard, &command).await?;
            Ok(codec::balance(&answer)?)
        })
    }

    fn balance(&self, account: &AccountId) -> StoreFuture<Balance> {
        let account = account.clone();
        self.ask(
            move |shared| async move { Ok(listing::snapshot(&shared, &account).await?.balance) },
        )
    }

    fn snapshot(&self, account: &AccountId) -> StoreFuture<Snapshot> {
        let account = account.clone();
        self.ask(move |shared| async move { listing::snapshot(&shared, &account).await })
    }

    fn set_limits(
        &self,
        account: &AccountId,
        budget: &BudgetId,
        limits: SpendingLimits,
    ) -> StoreFuture<Budget> {
        if !limits.are_sound() {
            return StoreFuture::ready(Err(StoreError::negative_limit()));
        }
        let (account, budget) = (account.clone(), budget.clone());
        self.ask(move |shared| async move {
            let (now, soft) = (shared.moment(), &limits.soft);
            let keys = [shared.names.account(&account).books()];
            let mut command = RedisCall::script(&LIMITS, &keys)
                .arg(budget.as_str())
                .arg(now.windows.day)
                .arg(now.windows.month)
                .arg(now.second);
            let hard = [limits.daily, limits.monthly, limits.total];
            for limit in hard {
                command = command.arg(codec::limit(limit));
            }
            for soft in [&soft.daily, &soft.monthly, &soft.total] {
                command = command.arg(codec::thresholds(soft));
            }
            command = match &limits.rolling {
                None => command.arg("-").arg("-").arg("-"),
                Some(rolling) => command
                    .arg(rolling.window.length().as_secs())
                    .arg(codec::limit(rolling.limit))
                    .arg(codec::thresholds(&rolling.soft)),
            };
            let shard = shared.shard(account.as_str());
            let (budget, rolling, soft): (String, String, String) =
                shared.ask(shard, &command).await?;
            let [rolling, soft] =
                [&rolling, &soft].map(|text| Some(text.as_str()).filter(|text| !text.is_empty()));
            Ok(codec::budget(&budget, rolling, soft)?)
        })
    }

    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget> {
        let (account, budget) = (account.clone(), budget.clone());
        self.ask(move |shared| async move {
            let command = RedisCall::command("HMGET")
                .arg(shared.names.account(&account).books())
                .arg(format!("b:{}", budget.as_str()))
                .arg(format!("r:{}", budget.as_str()))
                .arg(format!("s:{}", budget.as_str()));
            let shard = shared.shard(account.as_str());
            let (found, rolling, soft): (Option<String>, Option<String>, Option<String>) =
                shared.ask(shard, &command).await?;
            let read = |text: &str| codec::budget(text, rolling.as_deref(), soft.as_deref());
            let found = found.as_deref().map(read).transpose()?;
            Ok(found.unwrap_or_default().rolled(shared.moment()))
        })
    }

    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        let account = account.clone();
        self.ask(move |shared| async move { listing::usage(&shared, &account, &page).await })
    }

    fn usage_at(&self, account: &AccountId, position: u64) -> StoreFuture<Option<UsageEntry>> {
        let account = account.clone();
        self.ask(move |shared| async move { listing::usage_at(&shared, &account, position).await })
    }

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        let account = account.clone();
        self.ask(move |shared| async move { listing::transactions(&shared, &account, &page).await })
    }

    fn flush(&self) -> StoreFuture<()> {
        self.ask(move |shared| async move {
            // Covers calls in progress, what is due, and some slack.
            let deadline = shared.settings.deadline.saturating_mul(3);
            let flush = async {
                shared.in_flight.wait().await;
                shared.maintenance.lock().await.run_due(&shared).await
            };
            let flushed = timeout(deadline, flush).await;
            flushed.unwrap_or_else(|_| Err(Failure::slow()))
        })
    }
}

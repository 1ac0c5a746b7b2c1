//! The ledger's calls.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::timeout};

use super::{
    RedisLedger,
    codec::{self, corrupt},
    listing,
    question::{CLAIM, LIMITS, LINE, PAY, Question},
    shared::{Failure, Shared, closed},
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{Balance, Budget, HoldRefusal},
        budget::SpendingLimits,
        money::Money,
        page::{Page, Paged},
        usage::{
            Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry,
            is_reference,
        },
    },
    store::{Ledger, StoreError, StoreErrorKind, StoreFuture},
};

/// The answer that comes through `reply`, or `Unavailable` after the deadline. What was asked for is nevertheless
/// done.
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
    /// Asks on behalf of somebody who waits.
    fn ask<T, F>(&self, work: impl FnOnce(Arc<Shared>) -> F) -> StoreFuture<T>
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

    /// Does it in any case, whether or not somebody waits.
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
            // Whoever asked may have gone; what was done stays done.
            let _ = reply.send(done);
        });
        StoreFuture::new(answered(answer, shared.settings.deadline))
    }

    fn pay(&self, account: AccountId, amount: Money, reference: String) -> StoreFuture<Balance> {
        if !is_reference(&reference) {
            return StoreFuture::ready(Err(StoreError::no_reference()));
        }
        self.ask(move |shared| async move { shared.pay(&account, amount, &reference).await })
    }
}

impl Shared {
    /// Two steps, because a reference is every account's and a script is one account's: the reference is claimed for
    /// this payment, which never changes, and then the payment is made once. Cut off between the two, it is made by
    /// whoever asks for it again.
    async fn pay(
        self: &Arc<Self>,
        account: &AccountId,
        amount: Money,
        reference: &str,
    ) -> Result<Balance, Failure> {
        let claim = format!("{} {}", amount.nanos(), account.as_str());
        let question =
            Question::script(&CLAIM, &[self.names.reference(reference)]).arg(claim.as_str());
        let standing: String = self.ask(self.way(reference), &question).await?;
        if standing != claim {
            return Err(StoreError::reference_taken().into());
        }
        let names = self.names.account(account);
        let keys = [names.books(), names.references(), names.payments()];
        let question = Question::script(&PAY, &keys)
            .arg(amount.nanos())
            .arg(reference)
            .arg(self.settings.clock.now().to_string());
        let answer: Vec<String> = self.ask(self.way(account.as_str()), &question).await?;
        let Some((word, balance)) = answer.split_first() else {
            return Err(corrupt("answer").into());
        };
        match word.as_str() {
            "paid" => {
                let balance: Vec<_> = balance.iter().cloned().map(Some).collect();
                Ok(codec::balance(&balance)?)
            }
            "refused" => Err(StoreError::amount_out_of_range().into()),
            _ => Err(StoreError::reference_taken().into()),
        }
    }
}

impl Ledger for RedisLedger {
    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        self.ask(move |shared| async move { shared.hold(request).await })
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        // However long it has to wait for the server, time is up for its hold no more.
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
            let question = Question::command("HEXISTS")
                .arg(shared.names.account(&account).open(id.instance))
                .arg(Shared::number(id));
            shared.ask(shared.way(account.as_str()), &question).await
        })
    }

    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()> {
        let shared = &self.0.shared;
        let Ok(place) = Arc::clone(&shared.records).try_acquire_owned() else {
            let text = "too many rows are waiting";
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
            return StoreFuture::ready(Err(StoreError::amount_out_of_range()));
        }
        self.pay(credit.account, credit.amount, credit.reference)
    }

    fn adjust(&self, adjustment: Adjustment) -> StoreFuture<Balance> {
        if adjustment.amount.is_zero() {
            return StoreFuture::ready(Err(StoreError::amount_out_of_range()));
        }
        self.pay(adjustment.account, adjustment.amount, adjustment.reference)
    }

    fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance> {
        if line.is_negative() {
            return StoreFuture::ready(Err(StoreError::negative_limit()));
        }
        let account = account.clone();
        self.ask(move |shared| async move {
            let keys = [shared.names.account(&account).books()];
            let question = Question::script(&LINE, &keys).arg(line.nanos());
            let way = shared.way(account.as_str());
            let answer: Vec<Option<String>> = shared.ask(way, &question).await?;
            Ok(codec::balance(&answer)?)
        })
    }

    fn balance(&self, account: &AccountId) -> StoreFuture<Balance> {
        let account = account.clone();
        self.ask(move |shared| async move {
            let question = Question::command("HMGET")
                .arg(shared.names.account(&account).books())
                .arg(["deposited", "settled", "held", "credit_line"].as_slice());
            let way = shared.way(account.as_str());
            let answer: Vec<Option<String>> = shared.ask(way, &question).await?;
            Ok(codec::balance(&answer)?)
        })
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
            let (now, soft) = (shared.moment(), limits.soft);
            let keys = [shared.names.account(&account).books()];
            let mut question = Question::script(&LIMITS, &keys)
                .arg(budget.as_str())
                .arg(now.windows.day)
                .arg(now.windows.month)
                .arg(now.second);
            let hard = [limits.daily, limits.monthly, limits.total];
            for limit in hard
                .into_iter()
                .chain([soft.daily, soft.monthly, soft.total])
            {
                question = question.arg(codec::limit(limit));
            }
            question = match limits.rolling {
                None => question.arg("-").arg("-").arg("-"),
                Some(rolling) => question
                    .arg(rolling.window.length().as_secs())
                    .arg(codec::limit(rolling.limit))
                    .arg(codec::limit(rolling.soft)),
            };
            let answer: (String, String) =
                shared.ask(shared.way(account.as_str()), &question).await?;
            let rolling = Some(answer.1.as_str()).filter(|rolling| !rolling.is_empty());
            Ok(codec::budget(&answer.0, rolling)?)
        })
    }

    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget> {
        let (account, budget) = (account.clone(), budget.clone());
        self.ask(move |shared| async move {
            let question = Question::command("HMGET")
                .arg(shared.names.account(&account).books())
                .arg(format!("b:{}", budget.as_str()))
                .arg(format!("r:{}", budget.as_str()));
            let way = shared.way(account.as_str());
            let (found, rolling): (Option<String>, Option<String>) =
                shared.ask(way, &question).await?;
            let read = |text: &str| codec::budget(text, rolling.as_deref());
            let found = found.as_deref().map(read).transpose()?;
            Ok(found.unwrap_or_default().rolled(shared.moment()))
        })
    }

    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        let account = account.clone();
        self.ask(move |shared| async move { listing::usage(&shared, &account, &page).await })
    }

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        let account = account.clone();
        self.ask(move |shared| async move { listing::transactions(&shared, &account, &page).await })
    }

    fn flush(&self) -> StoreFuture<()> {
        self.ask(move |shared| async move {
            // What is on its way, what is due, and some patience.
            let deadline = shared.settings.deadline.saturating_mul(3);
            let flush = async {
                shared.in_flight.wait().await;
                shared.maintenance.lock().await.turn(&shared).await
            };
            let flushed = timeout(deadline, flush).await;
            flushed.unwrap_or_else(|_| Err(Failure::slow()))
        })
    }
}

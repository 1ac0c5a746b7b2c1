//! The ledger's calls: writes go through the lanes, reads through the pool.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{
    PostgresStore, answered, busy, closed,
    command::Command,
    convert::{Failure, is_storable},
    listing,
    maintenance::Request,
    statements, usage_log,
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{self, Balance, Budget, HoldRefusal, Snapshot},
        budget::{BudgetWindow, SpendingLimits},
        clock::Timestamp,
        money::Money,
        page::{Page, Paged},
        usage::{
            Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry,
            is_reference,
        },
    },
    store::{
        Ledger, StoreError, StoreErrorKind, StoreFuture, UsageLog,
        gauge::{Gauge, Permit},
    },
};

impl PostgresStore {
    /// Queues a change, or refuses it when too many wait.
    pub(super) fn queue<T: Send + 'static>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> StoreFuture<T> {
        let shared = &self.0.shared;
        if !Gauge::enter(&shared.gauge.queued, shared.settings.queue_max) {
            return StoreFuture::ready(Err(busy()));
        }
        self.send(command, answer)
    }

    fn pay(
        &self,
        change: Adjustment,
        rule: fn(&mut Balance, Money) -> Option<()>,
    ) -> StoreFuture<Balance> {
        if !is_reference(&change.reference) {
            return StoreFuture::ready(Err(StoreError::no_reference()));
        }
        let (reply, receiver) = oneshot::channel();
        let command = Command::Pay {
            change,
            rule,
            answer: None,
            reply,
        };
        self.queue(command, receiver)
    }
}

impl UsageLog for PostgresStore {
    fn usage_of_all(&self, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        self.ask(move |shared| async move {
            let log = &shared.log_final_up_to;
            usage_log::usage_of_all(&mut *shared.read().await?, &page, log).await
        })
    }
}

impl Ledger for PostgresStore {
    fn window_end(&self, window: BudgetWindow, at: Timestamp) -> Option<Timestamp> {
        self.0.shared.settings.calendar.end(window, at)
    }

    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        let shared = &self.0.shared;
        let (gauge, settings) = (&shared.gauge, &shared.settings);
        let permit = Permit::take(gauge, |gauge| &gauge.open_holds, settings.open_holds_max);
        if permit.is_none() {
            let text = "too many holds are open";
            return StoreFuture::ready(Err(StoreError::new(StoreErrorKind::Busy, text)));
        }
        if !Gauge::enter(&gauge.queued, settings.queue_max) {
            return StoreFuture::ready(Err(busy()));
        }
        let (reply, answer) = oneshot::channel();
        let command = Command::Hold {
            request,
            granted: None,
            permit,
            reply,
        };
        if shared.is_closed() || !shared.send(command) {
            return StoreFuture::ready(Err(closed()));
        }
        let deadline = settings.deadline;
        StoreFuture::new(async move {
            match answered(answer, deadline).await? {
                Err(refusal) => Ok(Err(refusal)),
                Ok(granted) => match granted.accept() {
                    Some(hold) => Ok(Ok(hold)),
                    None => Err(StoreError::internal("granted without a hold")),
                },
            }
        })
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        let (reply, answer) = oneshot::channel();
        let on_its_way = self.0.shared.settling.begin(hold.id);
        let command = Command::Settle {
            hold,
            settlement,
            _on_its_way: Some(on_its_way),
            reply: Some(reply),
        };
        self.send(command, answer)
    }

    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool> {
        let (reply, receiver) = oneshot::channel();
        let command = Command::Extend {
            account: hold.call.account.clone(),
            hold: hold.id,
            lifetime,
            _on_its_way: self.0.shared.settling.begin(hold.id),
            answer: None,
            reply,
        };
        // Never refused: it belongs to an open hold.
        self.send(command, receiver)
    }

    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()> {
        let shared = &self.0.shared;
        let most = shared.settings.open_holds_max;
        let Some(permit) = Permit::take(&shared.gauge, |gauge| &gauge.records, most) else {
            return StoreFuture::ready(Err(busy()));
        };
        let (reply, answer) = oneshot::channel();
        let command = Command::Record {
            call,
            settlement,
            permit,
            reply,
        };
        self.send(command, answer)
    }

    fn credit(&self, credit: Credit) -> StoreFuture<Balance> {
        self.pay(credit.into(), books::credit)
    }

    fn adjust(&self, adjustment: Adjustment) -> StoreFuture<Balance> {
        self.pay(adjustment, books::adjust)
    }

    fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance> {
        if line.is_negative() {
            return StoreFuture::ready(Err(StoreError::negative_limit()));
        }
        let (reply, receiver) = oneshot::channel();
        let command = Command::SetCreditLine {
            account: account.clone(),
            line,
            answer: None,
            reply,
        };
        self.queue(command, receiver)
    }

    fn balance(&self, account: &AccountId) -> StoreFuture<Balance> {
        let account = account.clone();
        self.ask(move |shared| async move {
            listing::balance(&mut *shared.read().await?, &account).await
        })
    }

    fn snapshot(&self, account: &AccountId) -> StoreFuture<Snapshot> {
        let account = account.clone();
        self.ask(move |shared| async move {
            listing::snapshot(&mut *shared.read().await?, &account).await
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
        let (reply, receiver) = oneshot::channel();
        let command = Command::SetLimits {
            account: account.clone(),
            budget: budget.clone(),
            limits,
            answer: None,
            reply,
        };
        self.queue(command, receiver)
    }

    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget> {
        let (account, budget) = (account.clone(), budget.clone());
        self.ask(move |shared| async move {
            let settings = &shared.settings;
            let now = settings.calendar.moment(settings.clock.now());
            if !is_storable(account.as_str()) || !is_storable(budget.as_str()) {
                return Ok(Budget::default().rolled(now));
            }
            let found = sqlx::query(
                "SELECT account, budget.id, daily, monthly, total, day, month, day_settled, day_held,
                 month_settled, month_held, total_settled, total_held, soft_daily,
                 soft_monthly, soft_total, rolling, thresholds
                 FROM budget JOIN account ON number = account
                 WHERE account.id = $1 AND budget.id = $2",
            )
            .bind(account.as_str())
            .bind(budget.as_str())
            .fetch_optional(&mut *shared.read().await?)
            .await?;
            let found = found.as_ref().map(statements::read_budget).transpose()?;
            Ok::<_, Failure>(found.unwrap_or_default().rolled(now))
        })
    }

    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        let account = account.clone();
        self.ask(move |shared| async move {
            listing::usage(&mut *shared.read().await?, &account, &page).await
        })
    }

    fn usage_at(&self, account: &AccountId, position: u64) -> StoreFuture<Option<UsageEntry>> {
        let account = account.clone();
        self.ask(move |shared| async move {
            listing::usage_at(&mut *shared.read().await?, &account, position).await
        })
    }

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        let account = account.clone();
        self.ask(move |shared| async move {
            listing::transactions(&mut *shared.read().await?, &account, &page).await
        })
    }

    fn flush(&self) -> StoreFuture<()> {
        let (reply, answer) = oneshot::channel();
        if self.0.maintenance.send(Request::Flush(reply)).is_err() {
            return StoreFuture::ready(Err(closed()));
        }
        // Covers the lanes, what is due, and some slack.
        let deadline = self.0.shared.settings.deadline.saturating_mul(3);
        StoreFuture::new(answered(answer, deadline))
    }
}

//! The ledger's calls: writes go to the writer, reads to the readers.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{
    SqliteStore,
    accounts::{ACCOUNT, find_budget, read_account},
    batch::UnitOfWork,
    busy, closed,
    command::{Booking, Command, HoldCommand, RecordCommand, SettleCommand},
    listing,
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{self, Balance, Budget, HoldRefusal, Snapshot},
        budget::{BudgetWindow, SpendingLimits},
        clock::Timestamp,
        money::Money,
        page::{Page, Paged},
        usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
    },
    store::{Ledger, StoreError, StoreErrorKind, StoreFuture, UsageLog, gauge::Gauge},
};

impl UsageLog for SqliteStore {
    fn usage_of_all(&self, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        self.0
            .readers
            .list(move |connection| listing::usage_of_all(connection, &page))
    }
}

impl Ledger for SqliteStore {
    fn window_end(&self, window: BudgetWindow, at: Timestamp) -> Option<Timestamp> {
        self.0.settings.calendar.end(window, at)
    }

    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        let (gauge, settings) = (&self.0.gauge, &self.0.settings);
        if let Err(damaged) = settings.damage.refuses() {
            return StoreFuture::ready(Err(damaged));
        }
        if !Gauge::enter(&gauge.open_holds, settings.open_holds_max) {
            let text = "too many holds are open";
            return StoreFuture::ready(Err(StoreError::new(StoreErrorKind::Busy, text)));
        }
        if !Gauge::enter(&gauge.queued, settings.queue_max) {
            Gauge::leave(&gauge.open_holds, 1);
            return StoreFuture::ready(Err(busy()));
        }
        let (reply, answer) = oneshot::channel();
        let command = Command::Hold(Box::new(HoldCommand {
            request,
            granted: None,
            reply,
        }));
        if self.0.writer.send(command).is_err() {
            return StoreFuture::ready(Err(closed()));
        }
        // A caller with a hold goes on into its handler, and those that it woke might have to wait
        // for that: so it doesn't help to answer.
        let deadline = settings.deadline;
        StoreFuture::new(async move {
            match super::answered(answer, deadline).await? {
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
        let on_its_way = self.0.settings.settling.begin(hold.id);
        let command = Command::Settle(Box::new(SettleCommand {
            hold,
            settlement,
            _on_its_way: Some(on_its_way),
            reply: Some(reply),
        }));
        self.0.send_and_help(command, answer)
    }

    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()> {
        if !Gauge::enter(&self.0.gauge.records, self.0.settings.open_holds_max) {
            return StoreFuture::ready(Err(busy()));
        }
        let (reply, answer) = oneshot::channel();
        let command = Command::Record(Box::new(RecordCommand {
            call,
            settlement,
            reply: Some(reply),
        }));
        self.0.send_and_help(command, answer)
    }

    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool> {
        let id = hold.id;
        let (reply, answer) = oneshot::channel();
        let on_its_way = self.0.settings.settling.begin(id);
        let work = move |unit: &mut UnitOfWork<'_>| {
            // While this waits, the hold isn't overdue.
            let _waiting = &on_its_way;
            unit.extend(id, lifetime).map(Ok)
        };
        let job = Box::new(Booking::new(work, reply));
        self.0.send(Command::Extend { hold: id, job }, answer)
    }

    fn credit(&self, credit: Credit) -> StoreFuture<Balance> {
        let change = Adjustment::from(credit);
        self.book(move |unit| unit.pay(&change, books::credit))
    }

    fn adjust(&self, change: Adjustment) -> StoreFuture<Balance> {
        self.book(move |unit| unit.pay(&change, books::adjust))
    }

    fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance> {
        if line.is_negative() {
            return StoreFuture::ready(Err(StoreError::negative_limit()));
        }
        let account = account.clone();
        self.book(move |unit| unit.set_credit_line(&account, line).map(Ok))
    }

    fn balance(&self, account: &AccountId) -> StoreFuture<Balance> {
        let account = account.clone();
        self.0.readers.read(move |connection| {
            let mut statement = connection.prepare_cached(ACCOUNT)?;
            Ok(read_account(&mut statement, &account)?.row.balance)
        })
    }

    fn snapshot(&self, account: &AccountId) -> StoreFuture<Snapshot> {
        let account = account.clone();
        self.0
            .readers
            .read(move |connection| listing::snapshot(connection, &account))
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
        self.book(move |unit| unit.set_limits(&account, &budget, limits.clone()).map(Ok))
    }

    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget> {
        let (account, budget) = (account.clone(), budget.clone());
        let settings = &self.0.settings;
        let now = settings.calendar.moment(settings.clock.now());
        self.0.readers.read(move |connection| {
            let found = find_budget(connection, &account, &budget)?;
            Ok(found.unwrap_or_default().rolled(now))
        })
    }

    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        let account = account.clone();
        self.0
            .readers
            .list(move |connection| listing::usage(connection, &account, &page))
    }

    fn usage_at(&self, account: &AccountId, position: u64) -> StoreFuture<Option<UsageEntry>> {
        let account = account.clone();
        self.0
            .readers
            .read(move |connection| listing::usage_at(connection, &account, position))
    }

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        let account = account.clone();
        self.0
            .readers
            .list(move |connection| listing::transactions(connection, &account, &page))
    }

    fn flush(&self) -> StoreFuture<()> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::Flush(reply), answer)
    }
}

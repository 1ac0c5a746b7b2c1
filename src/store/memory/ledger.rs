//! The ledger's calls; all of them are answered immediately.

use std::time::Duration;

use super::{MemoryStore, accounts::Account};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{self, Balance, Books, Budget, HoldRefusal, Snapshot},
        budget::{BudgetWindow, SpendingLimits},
        clock::Timestamp,
        money::Money,
        page::{Page, Paged},
        usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
    },
    store::{Ledger, StoreError, StoreFuture, UsageLog},
    sync::lock,
};

impl UsageLog for MemoryStore {
    fn usage_of_all(&self, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        let log = lock(&self.0.log);
        let rows = log.after(page.cursor().unwrap_or(0));
        let rows = rows.take(usize::from(page.limit()).saturating_add(1));
        let rows = rows.map(|row| (row.position, row.clone())).collect();
        drop(log);
        StoreFuture::ready(Ok(Paged::from_rows(&page, rows)))
    }
}

impl Ledger for MemoryStore {
    fn window_end(&self, window: BudgetWindow, at: Timestamp) -> Option<Timestamp> {
        self.0.calendar.end(window, at)
    }

    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        StoreFuture::ready(Ok(self.0.hold(request)))
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        self.0.settle(hold, settlement);
        StoreFuture::ready(Ok(()))
    }

    fn record(&self, call: Call, mut settlement: Settlement) -> StoreFuture<()> {
        settlement.charged = Money::ZERO;
        let id = call.account.clone();
        self.0.with_account(&id, |account| {
            let now = self.0.clock.now();
            self.0.log(account, call, Money::ZERO, settlement, now);
        });
        StoreFuture::ready(Ok(()))
    }

    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool> {
        StoreFuture::ready(Ok(self.0.extend(hold, lifetime)))
    }

    fn credit(&self, credit: Credit) -> StoreFuture<Balance> {
        StoreFuture::ready(self.0.pay(credit.into(), books::credit))
    }

    fn adjust(&self, adjustment: Adjustment) -> StoreFuture<Balance> {
        StoreFuture::ready(self.0.pay(adjustment, books::adjust))
    }

    fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance> {
        if line.is_negative() {
            return StoreFuture::ready(Err(StoreError::negative_limit()));
        }
        StoreFuture::ready(Ok(self.0.with_account(account, |account| {
            account.balance.credit_line = line;
            account.balance
        })))
    }

    fn balance(&self, account: &AccountId) -> StoreFuture<Balance> {
        let balance = self.0.with_known(account, |account| account.balance);
        StoreFuture::ready(Ok(balance.unwrap_or_default()))
    }

    fn snapshot(&self, account: &AccountId) -> StoreFuture<Snapshot> {
        let snapshot = self.0.with_known(account, |account| account.snapshot());
        StoreFuture::ready(Ok(snapshot.unwrap_or_default()))
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
        let now = self.0.calendar.moment(self.0.clock.now());
        StoreFuture::ready(Ok(self.0.with_account(account, |account| {
            let budget = account.budget(budget);
            budget.set_limits(limits, now);
            budget.clone()
        })))
    }

    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget> {
        let now = self.0.calendar.moment(self.0.clock.now());
        let known = |account: &mut Account| account.budgets.get(budget).cloned();
        let found = self.0.with_known(account, known).flatten();
        StoreFuture::ready(Ok(found.unwrap_or_default().rolled(now)))
    }

    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        let rows = self.0.with_known(account, |known| {
            known.usage(&lock(&self.0.log), account, &page)
        });
        let none = || Paged::from_rows(&page, Vec::new());
        StoreFuture::ready(Ok(rows.unwrap_or_else(none)))
    }

    fn usage_at(&self, account: &AccountId, position: u64) -> StoreFuture<Option<UsageEntry>> {
        let log = lock(&self.0.log);
        let found = log.row(position, account).map(|row| row.entry.clone());
        drop(log);
        StoreFuture::ready(Ok(found))
    }

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        let rows = self.0.with_known(account, |known| {
            known.transactions(&lock(&self.0.log), account, &page)
        });
        let none = || Paged::from_rows(&page, Vec::new());
        StoreFuture::ready(Ok(rows.unwrap_or_else(none)))
    }

    /// Nothing is pending here; expired holds are resolved.
    fn flush(&self) -> StoreFuture<()> {
        self.0.resolve_expired();
        StoreFuture::ready(Ok(()))
    }
}

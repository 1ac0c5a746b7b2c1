//! Ledgers of tests stand before another one and do something of their own with its calls.

/// What such a ledger passes on as it is: all but the life of a call.
macro_rules! pass_on_books {
    ($store:ident) => {
        pass_on_all_but_limits!($store);

        fn set_limits(
            &self,
            account: &AccountId,
            budget: &BudgetId,
            limits: SpendingLimits,
        ) -> StoreFuture<Budget> {
            self.$store.set_limits(account, budget, limits)
        }
    };
}

/// The same without what it changes in budgets.
macro_rules! pass_on_all_but_limits {
    ($store:ident) => {
        fn credit(&self, credit: Credit) -> StoreFuture<Balance> {
            self.$store.credit(credit)
        }

        fn adjust(&self, adjustment: Adjustment) -> StoreFuture<Balance> {
            self.$store.adjust(adjustment)
        }

        fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance> {
            self.$store.set_credit_line(account, line)
        }

        fn balance(&self, account: &AccountId) -> StoreFuture<Balance> {
            self.$store.balance(account)
        }

        fn snapshot(&self, account: &AccountId) -> StoreFuture<Snapshot> {
            self.$store.snapshot(account)
        }

        fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget> {
            self.$store.budget(account, budget)
        }

        fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>> {
            self.$store.usage(account, page)
        }

        fn usage_at(&self, account: &AccountId, position: u64) -> StoreFuture<Option<UsageEntry>> {
            self.$store.usage_at(account, position)
        }

        fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
            self.$store.transactions(account, page)
        }

        fn flush(&self) -> StoreFuture<()> {
            self.$store.flush()
        }
    };
}

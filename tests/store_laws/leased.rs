//! The laws of money once more, with a [`LeasedLedger`] in front of the engine. What is held is
//! asked for when the node has given back what is free, because leased money counts as held.
//!
//! Three don't hold for it, and are not here.
//! `transactions_are_payments_and_charges_in_their_order`: charges stand in the log in the order in
//! which they were reported, and those that the store settled itself stand before. Of
//! `a_soft_limit_is_told_once_in_a_window` the "once" holds; what is reported when its day has
//! ended is told of no more. `an_account_has_only_so_many_holds_open_and_others_theirs`: it may
//! have as many on a node, and as many in the store.

use std::time::Duration;

use tollgate::{
    books::{Balance, Budget, HoldRefusal, Snapshot},
    budget::{BudgetWindow, SpendingLimits},
    clock::Timestamp,
    money::Money,
    store::{AccountId, BudgetId, LeaseStore, LeasedLedger, Ledger, Page, Paged, StoreFuture},
    usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
};

/// Leases as soon as it can, and tells without having been asked.
pub(crate) fn eager(store: impl LeaseStore) -> LeasedLedger {
    LeasedLedger::builder(store)
        .busy_from(1)
        .report_every(Duration::from_millis(3))
        .start()
        .unwrap()
}

/// Gives back before it says what is held.
#[derive(Clone, Debug)]
struct Exact(LeasedLedger);

impl Exact {
    fn after_return<T: Send + Unpin + 'static>(
        &self,
        ask: impl FnOnce(&LeasedLedger) -> StoreFuture<T> + Send + 'static,
    ) -> StoreFuture<T> {
        let ledger = self.0.clone();
        let returned = ledger.give_back();
        StoreFuture::new(async move {
            returned.await?;
            ask(&ledger).await
        })
    }
}

impl Ledger for Exact {
    fn window_end(&self, window: BudgetWindow, at: Timestamp) -> Option<Timestamp> {
        self.0.window_end(window, at)
    }

    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        self.0.hold(request)
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        self.0.settle(hold, settlement)
    }

    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool> {
        self.0.extend(hold, lifetime)
    }

    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()> {
        self.0.record(call, settlement)
    }

    fn credit(&self, credit: Credit) -> StoreFuture<Balance> {
        self.0.credit(credit)
    }

    fn adjust(&self, adjustment: Adjustment) -> StoreFuture<Balance> {
        self.0.adjust(adjustment)
    }

    fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance> {
        self.0.set_credit_line(account, line)
    }

    fn balance(&self, account: &AccountId) -> StoreFuture<Balance> {
        let account = account.clone();
        self.after_return(move |ledger| ledger.balance(&account))
    }

    fn snapshot(&self, account: &AccountId) -> StoreFuture<Snapshot> {
        let account = account.clone();
        self.after_return(move |ledger| ledger.snapshot(&account))
    }

    fn set_limits(
        &self,
        account: &AccountId,
        budget: &BudgetId,
        limits: SpendingLimits,
    ) -> StoreFuture<Budget> {
        self.0.set_limits(account, budget, limits)
    }

    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget> {
        let (account, budget) = (account.clone(), budget.clone());
        self.after_return(move |ledger| ledger.budget(&account, &budget))
    }

    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        self.0.usage(account, page)
    }

    fn usage_at(&self, account: &AccountId, position: u64) -> StoreFuture<Option<UsageEntry>> {
        self.0.usage_at(account, position)
    }

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        self.0.transactions(account, page)
    }

    fn flush(&self) -> StoreFuture<()> {
        self.0.flush()
    }
}

macro_rules! laws {
    ($($room:ident::$law:ident,)*) => {
        #[cfg(feature = "postgres")]
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    if let Some((store, clock)) = crate::engines::postgres().await {
                        let ledger = super::eager(store.clone());
                        crate::$room::$law(super::Exact(ledger.clone()), clock).await;
                        ledger.close().await.unwrap();
                        store.close().await.unwrap();
                    }
                }
            )*
        }

        #[cfg(feature = "sqlite")]
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    let folder = tempfile::tempdir().unwrap();
                    let (store, clock) = crate::engines::sqlite(folder.path()).await;
                    let ledger = super::eager(store);
                    crate::$room::$law(super::Exact(ledger.clone()), clock).await;
                    ledger.close().await.unwrap();
                }
            )*
        }
    };
}

laws! {
    ledger::an_account_that_never_was_is_empty,
    ledger::a_reference_pays_once,
    ledger::a_payment_out_of_range_is_refused,
    ledger::a_payment_without_a_name_is_refused,
    ledger::a_settlement_takes_what_the_call_cost,
    ledger::a_refused_hold_changes_nothing,
    ledger::a_free_call_is_logged_and_costs_nothing,
    ledger::limits_count_what_was_spent_before,
    ledger::a_day_ends_and_the_month_goes_on,
    ledger::a_hold_is_settled_once,
    ledger::a_hold_that_outlives_its_time_is_given_back,
    ledger::a_late_settlement_charges_once_and_only_what_was_abandoned,
    ledger::a_late_settlement_adds_to_what_was_charged_and_never_takes,
    ledger::after_a_day_a_late_settlement_changes_nothing,
    operations::a_correction_counts_once_and_may_leave_less_than_nothing,
    refunds::a_refund_lowers_what_its_budgets_have_spent,
    refunds::a_refund_of_a_call_counts_where_the_call_did,
    refunds::a_call_is_given_back_once,
    refunds::refunds_of_one_call_that_meet_give_it_back_once,
    refunds::in_a_window_that_rolls_a_refund_takes_the_call_s_own_charge,
    refunds_of_rows::a_row_of_usage_is_found_by_its_position,
    refunds_of_rows::a_row_is_given_back_to_the_budgets_that_it_tells_of,
    refunds_of_rows::a_call_that_its_ledger_resolved_is_given_back_where_it_counted,
    operations::a_credit_line_is_spent_and_no_more,
    operations::a_hold_lives_longer_where_it_is_extended,
    operations::an_expired_hold_is_charged_where_that_was_asked_for,
    operations::an_idempotency_key_is_charged_once,
    operations::a_call_that_cost_nothing_frees_its_key,
    operations::an_abandoned_call_frees_its_key,
    operations::a_late_settlement_and_a_repetition_are_charged_once,
    operations::no_charge_is_larger_than_the_books_can_hold,
    operations::a_budget_that_is_named_twice_counts_once,
    operations::a_hundred_holds_with_one_idempotency_key_are_one,
    thresholds::what_an_account_is_down_to_is_told_once_until_more_is_paid_in,
    log::the_log_says_what_happened,
    log::usage_is_listed_newest_first_a_page_at_a_time,
    log::another_account_s_cursor_leads_to_what_is_older,
    statement::what_there_was_and_what_moved_is_what_there_is,
    races::money_for_ten_serves_ten_of_a_hundred,
    races::a_limit_for_ten_serves_ten_of_a_hundred,
    races::a_hundred_payments_with_one_reference_are_one,
    races::a_hundred_settlements_of_one_hold_are_one,
    races::the_books_balance_after_a_thousand_calls_of_every_kind,
}

//! What is given back.

use tollgate::{
    budget::{Calendar, Windows},
    clock::Timestamp,
    store::BudgetId,
    usage::{Adjustment, UsageEntry},
};

use super::{Oracle, WINDOWS, begin, distinct};

/// Where a call counts, as its hold said.
#[derive(Clone)]
pub(super) struct Counted {
    pub(super) budgets: Vec<BudgetId>,
    pub(super) windows: Windows,
}

impl Oracle {
    /// A row tells of the budgets in which its call counted, and of no others in which one counts.
    pub(crate) fn check_budgets_of(&self, row: &UsageEntry, told: &[BudgetId]) {
        if let Some(counted) = self.calls.get(&row.call.request_id)
            && !counted.budgets.is_empty()
        {
            assert_eq!(distinct(told), counted.budgets, "of {row:?}");
        }
    }

    /// Judges a refund. `is_exact` if nothing but what budgets were charged is ever given back to
    /// them.
    pub(crate) fn refund(
        &mut self,
        refund: &Adjustment,
        row: Option<&UsageEntry>,
        is_done: bool,
        is_exact: bool,
    ) {
        let (account, amount) = (&refund.account, i128::from(refund.amount.nanos()));
        if let Some(row) = row {
            let before = self.refunded.entry(row.position).or_default();
            let fits = *before + amount <= i128::from(row.settlement.charged.nanos());
            assert_eq!(is_done, fits, "a call is given back once");
            if !fits {
                return;
            }
            *before += amount;
        }
        assert!(is_done);
        let own = self.accounts.entry(account.clone()).or_default();
        own.deposited += amount;
        let now = Calendar::utc().windows(Timestamp::from_second(self.second).unwrap());
        let counted = row.map(|row| self.calls[&row.call.request_id].clone());
        for budget in distinct(&refund.budgets) {
            self.look_at(account, &budget, now);
            let current = self.windows[&(account.clone(), budget.clone())];
            let windows = counted.as_ref().map_or(current, |counted| counted.windows);
            let is_counted = counted
                .as_ref()
                .is_some_and(|counted| counted.budgets.contains(&budget));
            for window in WINDOWS {
                let from = begin(window, windows);
                let place = (account.clone(), budget.clone(), window, from);
                let settled = self.settled.entry(place).or_default();
                if is_exact && is_counted {
                    assert!(*settled >= amount, "more than {budget} was charged");
                }
                *settled = (*settled - amount).max(0);
            }
            let (second, place) = (self.second, (account.clone(), budget.clone()));
            if let Some(rolling) = self.rolling.get_mut(&place) {
                let call = row.map(|row| row.settled_at.as_second());
                rolling.refund(second, amount, call);
            }
        }
    }
}

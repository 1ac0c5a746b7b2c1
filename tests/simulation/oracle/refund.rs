//! What is given back.

use tollgate::{
    budget::{Calendar, Windows},
    store::{AccountId, BudgetId},
    usage::UsageEntry,
};

use super::{Oracle, WINDOWS, begin};

impl Oracle {
    /// Judges a refund to budgets, with the windows that each is in.
    pub(crate) fn refund(
        &mut self,
        account: &AccountId,
        amount: i64,
        budgets: &[(BudgetId, Windows)],
        row: Option<&UsageEntry>,
        is_done: bool,
    ) {
        let amount = i128::from(amount);
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
        for (budget, current) in budgets {
            let of_call = |row: &UsageEntry| {
                let noted = row.settlement.details.as_ref();
                let noted = noted.and_then(|details| details.windows);
                noted.unwrap_or_else(|| Calendar::utc().windows(row.call.started_at))
            };
            let windows = row.map_or(*current, of_call);
            for window in WINDOWS {
                let from = begin(window, windows);
                let place = (account.clone(), budget.clone(), window, from);
                let settled = self.settled.entry(place).or_default();
                *settled = (*settled - amount).max(0);
            }
            self.look_at(account, budget, *current);
            let (second, place) = (self.second, (account.clone(), budget.clone()));
            if let Some(rolling) = self.rolling.get_mut(&place) {
                let call = row.map(|row| row.settled_at.as_second());
                rolling.refund(second, amount, call);
            }
        }
    }
}

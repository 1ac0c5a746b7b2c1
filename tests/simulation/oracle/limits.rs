//! What limits admit.

use std::{collections::HashSet, time::Duration};

use tollgate::{
    budget::{BudgetWindow, Windows},
    store::{AccountId, BudgetId},
    usage::HoldRequest,
};

use super::{Oracle, WINDOWS, begin, distinct, in_order};

/// What counts against a limit.
#[derive(Clone, Copy)]
pub(super) enum Counted {
    WithHolds,
    ChargesAlone,
}

impl Oracle {
    /// Which limits don't cover the amount.
    pub(super) fn over(
        &self,
        request: &HoldRequest,
        windows: Windows,
        counted: Counted,
    ) -> HashSet<BudgetWindow> {
        let each = distinct(&request.budgets).into_iter();
        each.flat_map(|budget| self.over_in(&budget, request, windows, counted))
            .collect()
    }

    fn over_in(
        &self,
        budget: &BudgetId,
        request: &HoldRequest,
        windows: Windows,
        counted: Counted,
    ) -> HashSet<BudgetWindow> {
        let account = &request.call.account;
        let amount = i128::from(request.amount.nanos());
        let mut over = HashSet::new();
        let limits = self.limits.get(&(account.clone(), budget.clone()));
        let limits = limits.cloned().unwrap_or_default();
        for window in WINDOWS {
            let limit = match window {
                BudgetWindow::Day => limits.daily,
                BudgetWindow::Month => limits.monthly,
                BudgetWindow::Total => limits.total,
                other => unreachable!("{other:?} has no beginning"),
            };
            let place = (
                account.clone(),
                budget.clone(),
                window,
                begin(window, windows),
            );
            let held = match counted {
                Counted::WithHolds => self.held_in(&place),
                Counted::ChargesAlone => 0,
            };
            let spent = self.settled_in(&place) + held;
            if limit.is_some_and(|limit| spent + amount > i128::from(limit.nanos())) {
                over.insert(window);
            }
        }
        let left = match counted {
            Counted::WithHolds => self.left_rolling(account, budget, self.second),
            Counted::ChargesAlone => self.uncharged_rolling(account, budget, self.second),
        };
        if left.is_some_and(|left| amount > left) {
            over.insert(BudgetWindow::Rolling);
        }
        over
    }

    /// What a budget's window that rolls admits in a second.
    fn left_rolling(&self, account: &AccountId, budget: &BudgetId, second: i64) -> Option<i128> {
        let place = (account.clone(), budget.clone(), BudgetWindow::Total, 0);
        let uncharged = self.uncharged_rolling(account, budget, second)?;
        Some(uncharged - self.held_in(&place))
    }

    /// The same, of what is charged alone.
    fn uncharged_rolling(
        &self,
        account: &AccountId,
        budget: &BudgetId,
        second: i64,
    ) -> Option<i128> {
        let place = (account.clone(), budget.clone());
        let limit = self.limits.get(&place)?.rolling.as_ref()?.limit?;
        Some(i128::from(limit.nanos()) - self.rolling[&place].settled(second))
    }

    /// A hold that a limit refuses has looked at budgets up to the one that refuses it.
    pub(super) fn look_until_refused(&mut self, request: &HoldRequest, windows: Windows) {
        for budget in in_order(&request.budgets) {
            self.look_at(&request.call.account, &budget, windows);
            let gone = self.over_in(&budget, request, windows, Counted::ChargesAlone);
            if !gone.is_empty() {
                return;
            }
        }
    }

    /// After that time, and no earlier, it fits into each window that rolls.
    pub(super) fn check_wait(&self, request: &HoldRequest, wait: Option<Duration>) {
        let amount = i128::from(request.amount.nanos());
        let account = &request.call.account;
        let mut each = in_order(&request.budgets).into_iter();
        assert!(each.any(|budget| {
            let lacks = |left: Option<i128>| left.is_some_and(|left| amount > left);
            let is_charged = |second| lacks(self.uncharged_rolling(account, &budget, second));
            is_charged(self.second)
                && match wait {
                    Some(wait) => is_charged(self.second + wait.as_secs() as i64 - 1),
                    // It is more than the limit.
                    None => is_charged(i64::MAX / 4),
                }
        }));
    }

    /// It would fit everywhere but for what is held, and `limit` is where it does not fit.
    pub(super) fn check_only_held(
        &mut self,
        request: &HoldRequest,
        windows: Windows,
        limit: Option<BudgetWindow>,
    ) {
        let (account, amount) = (&request.call.account, i128::from(request.amount.nanos()));
        let available = self.available(account);
        assert!(
            available + self.held(account) >= amount,
            "the money is gone"
        );
        let gone = self.over(request, windows, Counted::ChargesAlone);
        assert!(gone.is_empty(), "gone: {gone:?}");
        let over = self.over(request, windows, Counted::WithHolds);
        match limit {
            None => assert!(available < amount, "the balance covers it"),
            Some(window) => assert!(available >= amount && over.contains(&window), "{over:?}"),
        }
        for budget in in_order(&request.budgets) {
            self.look_at(&request.call.account, &budget, windows);
        }
    }
}

//! Limits that are set.

use std::time::Duration;

use tollgate::{
    budget::{RollingLimit, RollingWindow, SoftLimits, SpendingLimits, Thresholds},
    money::Money,
    store::{AccountId, BudgetId, Ledger},
};

use super::{WINDOWS, World, at_once};

impl World {
    fn some_limit(&self) -> Option<Money> {
        self.dice
            .one_in(2)
            .then(|| Money::from_nanos(self.dice.between(0, 200)))
    }

    /// Up to eight, of few amounts, so that some stay when others change, and close together, so
    /// that a settlement crosses several.
    fn some_thresholds(&self) -> Thresholds {
        let some = (0..self.dice.roll(9)).map(|_| 4 * self.dice.between(0, 24));
        Thresholds::new(some.map(Money::from_nanos)).unwrap()
    }

    /// Often the same again.
    fn thresholds_after(&self, before: &Thresholds) -> Thresholds {
        match self.dice.one_in(2) {
            true => before.clone(),
            false => self.some_thresholds(),
        }
    }

    pub(super) fn rolling(
        &self,
        seconds: u64,
        limit: Option<Money>,
        soft: Thresholds,
    ) -> RollingLimit {
        RollingLimit {
            window: RollingWindow::new(Duration::from_secs(seconds)).unwrap(),
            limit,
            soft,
        }
    }

    pub(super) fn set_limits(&mut self, account: &AccountId) {
        let place = usize::try_from(self.dice.roll(3)).unwrap();
        let budget = self.budgets[place].clone();
        let before = at_once(self.ledger.store.budget(account, &budget));
        let before = before.unwrap().limits;
        if self.dice.one_in(4) {
            // They go and come back: what was told of them is forgotten.
            let (rolling, soft) = (before.rolling.clone(), SoftLimits::default());
            let rolling = rolling.filter(|_| self.dice.one_in(2));
            let rolling = rolling.map(|known| RollingLimit {
                soft: Thresholds::NONE,
                ..known
            });
            let gone = SpendingLimits {
                rolling,
                soft,
                ..before.clone()
            };
            self.limit(account, &budget, gone);
            return self.limit(account, &budget, before);
        }
        let known = before.rolling.map_or(Thresholds::NONE, |known| known.soft);
        let (limit, soft) = (self.some_limit(), self.thresholds_after(&known));
        // The same length again is the same window; another one recounts.
        let length = match self.dice.one_in(4) {
            true => *self.dice.pick(&WINDOWS),
            false => WINDOWS[place],
        };
        let rolling = self.rolling(length, limit, soft);
        let limits = SpendingLimits {
            rolling: (!self.dice.one_in(4)).then_some(rolling),
            daily: self.some_limit(),
            monthly: self.some_limit(),
            total: self.some_limit().filter(|_| self.dice.one_in(4)),
            soft: SoftLimits {
                daily: self.thresholds_after(&before.soft.daily),
                monthly: self.thresholds_after(&before.soft.monthly),
                total: self.thresholds_after(&before.soft.total),
            },
        };
        self.limit(account, &budget, limits);
    }

    pub(super) fn limit(&self, account: &AccountId, budget: &BudgetId, limits: SpendingLimits) {
        self.ledger.expire(account);
        let set = self.ledger.set_limits(account, budget, limits.clone());
        at_once(set).unwrap();
        let mut oracle = self.ledger.oracle.lock().unwrap();
        oracle.limits(account, budget, limits);
    }

    pub(super) fn set_credit_line(&mut self, account: &AccountId) {
        let line = self.dice.between(0, 60);
        self.ledger.expire(account);
        at_once(
            self.ledger
                .set_credit_line(account, Money::from_nanos(line)),
        )
        .unwrap();
        self.ledger
            .oracle
            .lock()
            .unwrap()
            .credit_line(account, line);
    }
}

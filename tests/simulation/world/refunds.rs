//! Refunds.

use tollgate::{
    clock::Clock,
    money::Money,
    store::{AccountId, Ledger, Page},
    usage::Adjustment,
};

use super::{World, at_once};

impl World {
    /// Gives something back to some budgets, of a call or of none.
    pub(super) fn refund(&mut self, account: &AccountId) {
        let amount = self.dice.between(1, 40);
        self.ledger.expire(account);
        let rows = at_once(self.ledger.usage(account, Page::first(50))).unwrap();
        let row = (!rows.items.is_empty() && self.dice.one_in(2))
            .then(|| self.dice.pick(&rows.items).clone());
        let reference = format!("refund-{}", self.ledger.clock.elapsed().as_nanos());
        let mut refund = Adjustment::new(account.clone(), Money::from_nanos(amount), reference);
        for budget in self.some_budgets().iter() {
            refund = refund.in_budget(budget.clone());
        }
        if let Some(row) = &row {
            refund = refund.of_call(row);
        }
        let current = refund.budgets.iter().map(|id| {
            let budget = at_once(self.ledger.budget(account, id)).unwrap();
            (id.clone(), budget.windows)
        });
        let current: Vec<_> = current.collect();
        let is_done = at_once(self.ledger.adjust(refund)).is_ok();
        self.tally.given_back += usize::from(is_done);
        let mut oracle = self.ledger.oracle.lock().unwrap();
        oracle.refund(account, amount, &current, row.as_ref(), is_done);
        drop(oracle);
        self.ledger
            .clock
            .advance(std::time::Duration::from_nanos(1));
    }
}

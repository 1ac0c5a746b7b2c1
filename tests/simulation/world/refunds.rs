//! Refunds.

use tollgate::{
    clock::Clock,
    money::Money,
    store::{AccountId, BudgetId, Ledger, Page, StoreErrorKind},
    usage::{Adjustment, UsageEntry},
};

use super::{World, at_once};

impl World {
    pub(super) fn refund(&mut self, account: &AccountId) {
        match self.dice.roll(8) {
            0 if !self.refunds.is_empty() => self.refund_again(),
            0..=1 => self.refund_of_another(account),
            2..=4 if !self.by_rows_alone => self.refund_to_some(account),
            _ => self.refund_a_row(account),
        }
        self.ledger
            .clock
            .advance(std::time::Duration::from_nanos(1));
    }

    fn reference(&self) -> String {
        format!("refund-{}", self.ledger.clock.elapsed().as_nanos())
    }

    fn some_row(&self, account: &AccountId) -> Option<UsageEntry> {
        self.ledger.expire(account);
        let mut rows = at_once(self.ledger.usage(account, Page::first(50))).unwrap();
        // Calls that one look ends do so in any order: some of the last are on the next page.
        let last = rows.items.last()?.settled_at;
        if rows.next_cursor.is_some() {
            rows.items.retain(|row| row.settled_at != last);
        }
        let order = |row: &UsageEntry| (row.settled_at, row.call.request_id.to_string());
        rows.items.sort_by_key(order);
        let row = (!rows.items.is_empty()).then(|| self.dice.pick(&rows.items).clone())?;
        let found = at_once(self.ledger.usage_at(account, row.position)).unwrap();
        assert_eq!(found.as_ref(), Some(&row));
        found
    }

    /// Gives something back to some budgets, of a call or of none.
    fn refund_to_some(&mut self, account: &AccountId) {
        let amount = Money::from_nanos(self.dice.between(1, 40));
        let row = self.some_row(account).filter(|_| self.dice.one_in(2));
        let mut refund = Adjustment::new(account.clone(), amount, self.reference());
        for budget in self.some_budgets().iter() {
            refund = refund.in_budget(budget.clone());
        }
        if let Some(row) = &row {
            refund = refund.of_call(row);
        }
        self.give_back(refund, row.as_ref());
    }

    /// Gives something of a call back, where its row says that it counted.
    fn refund_a_row(&mut self, account: &AccountId) {
        let Some(row) = self.some_row(account) else {
            return;
        };
        let amount = match self.dice.roll(3) {
            0 => row.settlement.charged.max(Money::from_nanos(1)),
            _ => Money::from_nanos(self.dice.between(1, 40)),
        };
        let refund = row.refund(amount, self.reference());
        let oracle = self.ledger.oracle.lock().unwrap();
        oracle.check_budgets_of(&row, &refund.budgets);
        drop(oracle);
        self.give_back(refund, Some(&row));
    }

    fn give_back(&mut self, refund: Adjustment, row: Option<&UsageEntry>) {
        let answer = at_once(self.ledger.adjust(refund.clone()));
        let is_done = answer.is_ok();
        if let Err(error) = answer {
            assert_eq!(error.kind(), StoreErrorKind::Refused);
        }
        self.tally.given_back += usize::from(is_done);
        let mut oracle = self.ledger.oracle.lock().unwrap();
        oracle.refund(&refund, row, is_done, self.by_rows_alone);
        if is_done {
            self.refunds.push(refund);
        }
    }

    /// The same again is booked once; under its reference, nothing else is.
    fn refund_again(&mut self) {
        let mut again = self.dice.pick(&self.refunds).clone();
        self.ledger.expire(&again.account);
        let is_same = self.dice.one_in(2);
        if !is_same {
            match self.dice.roll(4) {
                0 => again.amount = again.amount.saturating_add(Money::from_nanos(1)),
                1 => again = again.in_budget(BudgetId::new("another").unwrap()),
                2 => again.account = AccountId::new("carol").unwrap(),
                _ => match &mut again.call {
                    Some(call) => call.position += 1,
                    None => again.amount = again.amount.saturating_add(Money::from_nanos(1)),
                },
            }
        }
        match at_once(self.ledger.adjust(again)) {
            Ok(_) => assert!(is_same, "another refund has the reference"),
            Err(error) => assert!(
                !is_same && error.kind() == StoreErrorKind::Conflict,
                "{error}"
            ),
        }
        self.tally.given_back_again += 1;
    }

    /// A call of another account, or of another name, is not there.
    fn refund_of_another(&mut self, account: &AccountId) {
        let Some(mut row) = self.some_row(account) else {
            return;
        };
        if self.dice.one_in(2) {
            let mut others = self.accounts.iter().filter(|other| *other != account);
            row.call.account = others.next().unwrap().clone();
        } else {
            row.call.request_id = "unknown".into();
        }
        let refund = row.refund(Money::from_nanos(1), self.reference());
        self.ledger.expire(&refund.account);
        let refused = at_once(self.ledger.adjust(refund)).unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::NotFound);
    }
}

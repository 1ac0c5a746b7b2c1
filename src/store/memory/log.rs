//! The usage log: a ring in which each row points to the account's previous one.

use std::collections::{BTreeMap, VecDeque};

use crate::domain::{
    AccountId,
    clock::Timestamp,
    money::Money,
    usage::{Call, Settlement, UsageEntry},
};

/// What was given back of rows that are gone, and is forgotten with one refund: more than it adds.
const FORGOTTEN: usize = 8;

/// The latest rows of an account. Every row stores the links as they were when it was written, so a
/// page is read by following them, whatever other accounts wrote in between.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    /// The latest row.
    pub(super) usage: Option<u64>,
    /// The latest row that was charged.
    pub(super) charge: Option<u64>,
}

pub(super) struct Row {
    pub(super) entry: UsageEntry,
    pub(super) previous: Links,
}

pub(super) struct UsageLog {
    rows: VecDeque<Row>,
    rows_max: usize,
    next: u64,
    /// What was given back of calls, by their positions.
    refunded: BTreeMap<u64, Money>,
}

impl UsageLog {
    pub(super) fn new(rows_max: usize) -> Self {
        Self {
            rows: VecDeque::new(),
            rows_max,
            next: 1,
            refunded: BTreeMap::new(),
        }
    }

    /// The next position in the common order of rows and payments.
    pub(super) fn position(&mut self) -> u64 {
        let position = self.next;
        self.next = position.saturating_add(1);
        position
    }

    /// Writes a row; returns the oldest if it had to make room.
    #[must_use = "a row is large: drop it after the log is unlocked"]
    pub(super) fn append(
        &mut self,
        links: &mut Links,
        call: Call,
        held: Money,
        settlement: Settlement,
        settled_at: Timestamp,
    ) -> Option<Row> {
        let position = self.position();
        let is_full = self.rows.len() >= self.rows_max;
        let oldest = is_full.then(|| self.rows.pop_front()).flatten();
        let previous = *links;
        links.usage = Some(position);
        if !settlement.charged.is_zero() {
            links.charge = Some(position);
        }
        self.rows.push_back(Row {
            entry: UsageEntry {
                position,
                call,
                held,
                settlement,
                settled_at,
            },
            previous,
        });
        oldest
    }

    /// What was given back of the call at `position`.
    pub(super) fn refunded(&self, position: u64) -> Money {
        self.refunded.get(&position).copied().unwrap_or_default()
    }

    /// Notes what is given back of a call whose row is there. It is forgotten when the row is gone,
    /// by later refunds rather than by every row that makes room for another.
    pub(super) fn give_back(&mut self, position: u64, amount: Money) {
        let oldest = self.rows.front().map(|row| row.entry.position);
        let oldest = oldest.unwrap_or(self.next);
        for _ in 0..FORGOTTEN {
            match self.refunded.first_entry() {
                Some(first) if *first.key() < oldest => first.remove(),
                _ => break,
            };
        }
        let refunded = self.refunded.entry(position).or_default();
        *refunded = refunded.saturating_add(amount);
    }

    /// All rows after a position.
    pub(super) fn after(&self, position: u64) -> impl Iterator<Item = &UsageEntry> {
        let known = |row: &Row| row.entry.position <= position;
        let rows = self.rows.range(self.rows.partition_point(known)..);
        rows.map(|row| &row.entry)
    }

    /// The row at `position`, if it belongs to the account and is still there.
    pub(super) fn row(&self, position: u64, account: &AccountId) -> Option<&Row> {
        let found = self
            .rows
            .binary_search_by_key(&position, |row| row.entry.position);
        let row = self.rows.get(found.ok()?)?;
        (row.entry.call.account == *account).then_some(row)
    }

    /// The rows from `start` on, each found through the link in the one before it.
    pub(super) fn follow<'a>(
        &'a self,
        account: &'a AccountId,
        start: Option<u64>,
        step: fn(&Links) -> Option<u64>,
    ) -> impl Iterator<Item = &'a UsageEntry> {
        let first = start.and_then(|position| self.row(position, account));
        std::iter::successors(first, move |row| {
            step(&row.previous).and_then(|position| self.row(position, account))
        })
        .map(|row| &row.entry)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use crate::{
        domain::{
            money::Money,
            page::Page,
            usage::{Adjustment, Call, Credit, Expiry, Hold, HoldRequest, Outcome, Settlement},
        },
        store::{AccountId, Ledger, MemoryStore, StoreErrorKind},
        sync::lock,
    };

    #[tokio::test]
    async fn what_was_given_back_is_forgotten_with_the_rows_of_its_calls() {
        let store = MemoryStore::builder().usage_rows_max(10).build();
        let (ann, one) = (AccountId::new("ann").unwrap(), Money::from_nanos(1));
        let credit = Credit {
            account: ann.clone(),
            amount: Money::from_nanos(1_000),
            reference: "payment".to_owned(),
        };
        store.credit(credit).await.unwrap();
        let mut refunds = Vec::new();
        for number in 0..100 {
            let call = Call {
                request_id: format!("request-{number}").into(),
                account: ann.clone(),
                principal: Arc::from("ann"),
                key: None,
                route: Arc::from("POST /chat"),
                started_at: store.0.clock.now(),
            };
            let wish = HoldRequest {
                call,
                budgets: [].into(),
                amount: Money::from_nanos(2),
                lifetime: Duration::MAX,
                expiry: Expiry::Release,
                idempotency: None,
            };
            let held: Hold = store.hold(wish).await.unwrap().unwrap();
            let costs = Settlement::new(Money::from_nanos(2), Outcome::Completed);
            store.settle(held, costs).await.unwrap();
            let newest = store.usage(&ann, Page::first(1)).await.unwrap().items;
            let refund = Adjustment::new(ann.clone(), one, format!("refund-{number}"));
            let refund = refund.of_call(&newest[0]);
            store.adjust(refund.clone()).await.unwrap();
            refunds.push(refund);
        }
        {
            let log = lock(&store.0.log);
            let kept: Vec<u64> = log.refunded.keys().copied().collect();
            let rows: Vec<u64> = log.after(0).map(|row| row.position).collect();
            assert_eq!(rows.len(), 10);
            assert_eq!(kept, rows);
        }
        let before = store.balance(&ann).await.unwrap();
        let mut again = refunds.swap_remove(0);
        assert_eq!(store.adjust(again.clone()).await.unwrap(), before);
        again.reference = "another".to_owned();
        let refused = store.adjust(again).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::NotFound);
        assert_eq!(store.balance(&ann).await.unwrap(), before);
    }
}

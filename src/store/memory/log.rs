//! The usage log: a ring in which each row points to the account's previous one.

use std::collections::VecDeque;

use crate::domain::{
    AccountId,
    clock::Timestamp,
    money::Money,
    usage::{Call, Settlement, UsageEntry},
};

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
}

impl UsageLog {
    pub(super) fn new(rows_max: usize) -> Self {
        Self {
            rows: VecDeque::new(),
            rows_max,
            next: 1,
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

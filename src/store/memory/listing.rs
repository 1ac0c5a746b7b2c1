//! Pages of an account's log.

use std::iter;

use super::{accounts::Account, log::UsageLog};
use crate::domain::{
    AccountId,
    books::Snapshot,
    money::Money,
    page::{Page, Paged},
    usage::{Transaction, UsageEntry},
};

/// Rows skipped for a cursor that was never handed out; beyond them nothing is found.
const PASSED_MAX: usize = 4_096;

impl Account {
    pub(super) fn snapshot(&self) -> Snapshot {
        let paid = self.payments.last();
        let paid = paid.map(|payment| payment.transaction.position);
        Snapshot {
            balance: self.balance,
            position: self.latest.charge.max(paid),
        }
    }

    pub(super) fn usage(&self, log: &UsageLog, id: &AccountId, page: &Page) -> Paged<UsageEntry> {
        let start = match page.cursor() {
            None => self.latest.usage,
            Some(cursor) => match log.row(cursor, id) {
                Some(row) => row.previous.usage,
                None => self.latest.usage,
            },
        };
        let before = page.cursor().unwrap_or(u64::MAX);
        let rows = log
            .follow(id, start, |links| links.usage)
            .enumerate()
            .take_while(|(passed, entry)| *passed < PASSED_MAX || entry.position < before)
            .map(|(_, entry)| entry)
            .skip_while(|entry| entry.position >= before)
            .take(usize::from(page.limit()).saturating_add(1))
            .map(|entry| (entry.position, entry.clone()))
            .collect();
        Paged::from_rows(page, rows)
    }

    pub(super) fn transactions(
        &self,
        log: &UsageLog,
        id: &AccountId,
        page: &Page,
    ) -> Paged<Transaction> {
        let before = page.cursor().unwrap_or(u64::MAX);
        let older = self
            .payments
            .partition_point(|payment| payment.transaction.position < before);
        let start = match (page.cursor(), self.payments.get(older)) {
            (None, _) => self.latest.charge,
            (Some(cursor), Some(payment)) if payment.transaction.position == cursor => {
                payment.charge
            }
            (Some(cursor), _) => match log.row(cursor, id) {
                Some(row) => row.previous.charge,
                None => self.latest.charge,
            },
        };
        let mut charges = log
            .follow(id, start, |links| links.charge)
            .enumerate()
            .take_while(|(passed, entry)| *passed < PASSED_MAX || entry.position < before)
            .map(|(_, entry)| entry)
            .skip_while(|entry| entry.position >= before)
            .map(charged)
            .peekable();
        let mut paid = self
            .payments
            .get(..older)
            .unwrap_or_default()
            .iter()
            .rev()
            .map(|payment| payment.transaction.clone())
            .peekable();
        let newest_first = iter::from_fn(|| match (charges.peek(), paid.peek()) {
            (Some(charge), Some(payment)) if charge.position < payment.position => paid.next(),
            (None, _) => paid.next(),
            _ => charges.next(),
        });
        let rows = newest_first
            .take(usize::from(page.limit()).saturating_add(1))
            .map(|transaction| (transaction.position, transaction))
            .collect();
        Paged::from_rows(page, rows)
    }
}

fn charged(entry: &UsageEntry) -> Transaction {
    Transaction {
        position: entry.position,
        at: entry.settled_at,
        amount: Money::ZERO.saturating_sub(entry.settlement.charged),
        reference: entry.call.request_id.to_string(),
        route: Some(entry.call.route.to_string()),
        refunded: None,
    }
}

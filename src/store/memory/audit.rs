//! The audit log: two rings, so that strangers push out nobody but each other.

use std::{cmp::Reverse, collections::VecDeque, iter::Peekable};

use super::{MemoryStore, lock};
use crate::{
    domain::{
        audit::{AuditEntry, AuditEvent, AuditFilter, strangers_max},
        page::{Page, Paged},
    },
    store::{AuditLog, StoreError, StoreFuture},
};

pub(super) struct Log {
    known: Ring,
    strangers: Ring,
    next: u64,
}

struct Ring {
    entries: VecDeque<AuditEntry>,
    rows_max: usize,
}

impl Log {
    pub(super) fn new(rows_max: usize) -> Self {
        Self {
            known: Ring::new(rows_max),
            strangers: Ring::new(strangers_max(rows_max)),
            next: 1,
        }
    }

    fn append(&mut self, event: AuditEvent) {
        let position = self.next;
        self.next = position.saturating_add(1);
        let ring = if event.is_of_a_stranger() {
            &mut self.strangers
        } else {
            &mut self.known
        };
        ring.append(AuditEntry { position, event });
    }

    /// All entries, the newest first.
    fn newest(&self) -> impl Iterator<Item = &AuditEntry> {
        let mut known = self.known.entries.iter().rev().peekable();
        let mut strangers = self.strangers.entries.iter().rev().peekable();
        std::iter::from_fn(move || {
            let place = |entry: Option<&&AuditEntry>| Reverse(entry.map(|entry| entry.position));
            let next: &mut Peekable<_> = if place(known.peek()) <= place(strangers.peek()) {
                &mut known
            } else {
                &mut strangers
            };
            next.next()
        })
    }
}

impl Ring {
    fn new(rows_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            rows_max,
        }
    }

    fn append(&mut self, entry: AuditEntry) {
        if self.entries.len() >= self.rows_max {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }
}

impl AuditLog for MemoryStore {
    fn append(&self, event: AuditEvent) -> Result<(), StoreError> {
        lock(&self.0.audit).append(event);
        Ok(())
    }

    fn entries(&self, filter: AuditFilter, page: Page) -> StoreFuture<Paged<AuditEntry>> {
        let log = lock(&self.0.audit);
        let before = page.cursor().unwrap_or(u64::MAX);
        let rows = log
            .newest()
            .filter(|entry| entry.position < before && filter.matches(&entry.event))
            .take(usize::from(page.limit()).saturating_add(1))
            .map(|entry| (entry.position, entry.clone()))
            .collect();
        StoreFuture::ready(Ok(Paged::from_rows(&page, rows)))
    }
}

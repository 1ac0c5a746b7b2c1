//! The audit log: a ring.

use std::collections::VecDeque;

use super::{MemoryStore, lock};
use crate::{
    domain::{
        audit::{AuditEntry, AuditEvent, AuditFilter},
        page::{Page, Paged},
    },
    store::{AuditLog, StoreError, StoreFuture},
};

pub(super) struct Ring {
    entries: VecDeque<AuditEntry>,
    rows_max: usize,
    next: u64,
}

impl Ring {
    pub(super) fn new(rows_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            rows_max,
            next: 1,
        }
    }
}

impl AuditLog for MemoryStore {
    fn append(&self, event: AuditEvent) -> Result<(), StoreError> {
        let mut ring = lock(&self.0.audit);
        if ring.entries.len() >= ring.rows_max {
            ring.entries.pop_front();
        }
        let position = ring.next;
        ring.next = position.saturating_add(1);
        ring.entries.push_back(AuditEntry { position, event });
        Ok(())
    }

    fn entries(&self, filter: AuditFilter, page: Page) -> StoreFuture<Paged<AuditEntry>> {
        let ring = lock(&self.0.audit);
        let before = page.cursor().unwrap_or(u64::MAX);
        let rows = ring
            .entries
            .iter()
            .rev()
            .filter(|entry| entry.position < before && filter.matches(&entry.event))
            .take(usize::from(page.limit()).saturating_add(1))
            .map(|entry| (entry.position, entry.clone()))
            .collect();
        StoreFuture::ready(Ok(Paged::from_rows(&page, rows)))
    }
}

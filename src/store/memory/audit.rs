//! The audit log: a ring for each share, so that nobody pushes out what isn't of their own kind.

use std::collections::{BTreeMap, VecDeque};

use super::{MemoryStore, lock};
use crate::{
    domain::{
        audit::{AuditEntry, AuditEvent, AuditFilter, Share},
        page::{Page, Paged},
    },
    store::{AuditLog, StoreError, StoreFuture},
};

pub(super) struct Log {
    /// By the number of the share.
    rings: BTreeMap<u8, Ring>,
    next: u64,
}

struct Ring {
    entries: VecDeque<AuditEntry>,
    rows_max: usize,
}

impl Log {
    pub(super) fn new(rows_max: usize) -> Self {
        let rows_max = u64::try_from(rows_max).unwrap_or(u64::MAX);
        let ring = |share: Share| {
            let rows_max = usize::try_from(share.rows_max(rows_max)).unwrap_or(usize::MAX);
            (share.number(), Ring::new(rows_max))
        };
        Self {
            rings: Share::all().map(ring).collect(),
            next: 1,
        }
    }

    fn append(&mut self, event: AuditEvent) {
        let position = self.next;
        self.next = position.saturating_add(1);
        if let Some(ring) = self.rings.get_mut(&event.share().number()) {
            ring.append(AuditEntry { position, event });
        }
    }

    /// All entries, the newest first.
    fn newest(&self) -> impl Iterator<Item = &AuditEntry> {
        let rings = self.rings.values();
        let mut rings: Vec<_> = rings.map(|ring| ring.entries.iter().rev()).collect();
        let mut heads: Vec<_> = rings.iter_mut().map(Iterator::next).collect();
        std::iter::from_fn(move || {
            let mut both = heads.iter_mut().zip(&mut rings);
            let mut newest = both.next()?;
            for (head, ring) in both {
                if place(*head) > place(*newest.0) {
                    newest = (head, ring);
                }
            }
            let (head, ring) = newest;
            std::mem::replace(head, ring.next())
        })
    }
}

fn place(entry: Option<&AuditEntry>) -> Option<u64> {
    entry.map(|entry| entry.position)
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

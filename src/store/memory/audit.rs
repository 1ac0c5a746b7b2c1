//! The audit log: one ring per share, so that entries push out only entries of their own kind.

use std::collections::{BTreeMap, VecDeque};

use super::MemoryStore;
use crate::{
    domain::{
        audit::{AuditEntry, AuditEvent, AuditFilter, Share},
        clock::Timestamp,
        page::{Page, Paged},
    },
    store::{AuditLog, StoreError, StoreFuture},
    sync::lock,
};

pub(super) struct Log {
    /// By share number.
    rings: BTreeMap<u8, Ring>,
    next: u64,
}

/// Time and position.
type Moment = (Timestamp, u64);

/// Events are dropped in order of arrival but read in order of time: whoever reads the clock first
/// may arrive second, and the clock may step back.
struct Ring {
    events: BTreeMap<Moment, AuditEvent>,
    arrivals: VecDeque<Moment>,
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
            ring.append(position, event);
        }
    }

    /// The entries before that one, or all, newest first.
    fn newest(&self, before: Option<Moment>) -> impl Iterator<Item = (&Moment, &AuditEvent)> {
        let before = before.unwrap_or((Timestamp::MAX, u64::MAX));
        let rings = self.rings.values();
        let mut rings: Vec<_> = rings
            .map(|ring| ring.events.range(..before).rev())
            .collect();
        let mut heads: Vec<_> = rings.iter_mut().map(Iterator::next).collect();
        std::iter::from_fn(move || {
            let mut both = heads.iter_mut().zip(&mut rings);
            let mut newest = both.next()?;
            for (head, ring) in both {
                if moment(head.as_ref()) > moment(newest.0.as_ref()) {
                    newest = (head, ring);
                }
            }
            let (head, ring) = newest;
            std::mem::replace(head, ring.next())
        })
    }

    /// The time of the entry at that position or, where it was dropped, of the next one that
    /// arrived.
    fn moment_of(&self, position: u64) -> Option<Moment> {
        let next = |ring: &Ring| {
            let index = ring.arrivals.partition_point(|(_, at)| *at < position);
            ring.arrivals.get(index).copied()
        };
        let nexts = self.rings.values().filter_map(next);
        let (at, _) = nexts.min_by_key(|(_, position)| *position)?;
        Some((at, position))
    }
}

fn moment<'a>(entry: Option<&(&'a Moment, &'a AuditEvent)>) -> Option<&'a Moment> {
    entry.map(|(moment, _)| *moment)
}

impl Ring {
    fn new(rows_max: usize) -> Self {
        Self {
            events: BTreeMap::new(),
            arrivals: VecDeque::new(),
            rows_max,
        }
    }

    fn append(&mut self, position: u64, event: AuditEvent) {
        if self.arrivals.len() >= self.rows_max
            && let Some(first) = self.arrivals.pop_front()
        {
            self.events.remove(&first);
        }
        let moment = (event.at, position);
        self.arrivals.push_back(moment);
        self.events.insert(moment, event);
    }
}

impl AuditLog for MemoryStore {
    fn append(&self, event: AuditEvent) -> Result<(), StoreError> {
        lock(&self.0.audit).append(event);
        Ok(())
    }

    fn entries(&self, filter: AuditFilter, page: Page) -> StoreFuture<Paged<AuditEntry>> {
        let log = lock(&self.0.audit);
        let before = page.cursor().and_then(|cursor| log.moment_of(cursor));
        let entry = |(moment, event): (&Moment, &AuditEvent)| {
            let (event, (_, position)) = (event.clone(), *moment);
            (position, AuditEntry { position, event })
        };
        let rows = log
            .newest(before)
            .filter(|(_, event)| filter.matches(event))
            .take(usize::from(page.limit()).saturating_add(1))
            .map(entry)
            .collect();
        StoreFuture::ready(Ok(Paged::from_rows(&page, rows)))
    }
}

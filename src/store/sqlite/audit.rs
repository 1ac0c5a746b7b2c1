//! The audit log: events share the transactions of whatever else is written.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, Row, params};

use super::{
    Command, SqliteStore,
    batch::Desk,
    busy, closed,
    convert::{Failure, micros, moment, name, uncount},
};
use crate::{
    domain::{
        audit::{AuditAction, AuditEntry, AuditEvent, AuditFilter, AuditOutcome, strangers_max},
        page::{Page, Paged},
    },
    store::{AuditLog, Ledger, StoreError, StoreFuture, gauge::Gauge},
};

/// Rows that one sweep deletes.
const STEP: i64 = 1_000;

impl AuditLog for SqliteStore {
    fn append(&self, event: AuditEvent) -> Result<(), StoreError> {
        let gauge = &self.0.gauge.events;
        let places = self.0.settings.queue_max;
        let places = if event.is_of_a_stranger() {
            strangers_max(places)
        } else {
            places
        };
        if !Gauge::enter(gauge, places) {
            return Err(busy());
        }
        let sent = self.0.writer.send(Command::Audit(Box::new(event)));
        sent.map_err(|_| {
            Gauge::leave(gauge, 1);
            closed()
        })
    }

    fn entries(&self, filter: AuditFilter, page: Page) -> StoreFuture<Paged<AuditEntry>> {
        let (store, written) = (self.clone(), self.flush());
        StoreFuture::new(async move {
            written.await?;
            let read = move |connection: &Connection| entries(connection, &filter, &page);
            store.0.readers.read(read).await
        })
    }

    fn lost(&self) -> u64 {
        self.0.gauge.events_lost.load(Ordering::Relaxed)
    }
}

fn entries(
    connection: &Connection,
    filter: &AuditFilter,
    page: &Page,
) -> Result<Paged<AuditEntry>, Failure> {
    let mut list = connection.prepare_cached(
        "SELECT position, at, actor, key, address, action, outcome, request_id, route, target, reason
         FROM audit WHERE position < ?1 AND (?2 IS NULL OR actor = ?2)
         AND (?3 IS NULL OR action = ?3) AND (?4 IS NULL OR outcome = ?4)
         ORDER BY position DESC LIMIT ?5",
    )?;
    let cursor = page.cursor().unwrap_or(u64::MAX);
    let mut found = list.query(params![
        i64::try_from(cursor).unwrap_or(i64::MAX),
        filter.actor,
        filter.action.as_ref().map(AuditAction::as_str),
        filter.outcome.map(AuditOutcome::as_str),
        i64::from(page.limit()).saturating_add(1),
    ])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let entry = read_entry(row)?;
        rows.push((entry.position, entry));
    }
    Ok(Paged::from_rows(page, rows))
}

fn read_entry(row: &Row<'_>) -> Result<AuditEntry, Failure> {
    let text = |column| row.get::<_, Option<String>>(column);
    let outcome: String = row.get(6)?;
    let mut event = AuditEvent::new(
        moment(row.get(1)?)?,
        crate::domain::audit::Act::new(AuditAction::named(row.get(5)?)),
    );
    event.outcome =
        AuditOutcome::from_name(&outcome).ok_or_else(|| Failure::corrupt("an unknown outcome"))?;
    event.actor = text(2)?;
    event.key = match text(3)? {
        None => None,
        Some(_) => Some(name(row, 3)?),
    };
    event.address = match text(4)? {
        None => None,
        Some(address) => {
            let parsed = address.parse();
            Some(parsed.map_err(|_| Failure::corrupt("an address that is none"))?)
        }
    };
    event.request_id = text(7)?.map(Into::into);
    event.route = text(8)?.map(Into::into);
    event.target = text(9)?;
    event.reason = text(10)?;
    Ok(AuditEntry {
        position: uncount(row.get(0)?)?,
        event,
    })
}

impl Desk<'_> {
    pub(super) fn audit(&self, event: &AuditEvent) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "INSERT INTO audit (at, actor, key, address, action, outcome, request_id, route,
                 target, reason, stranger, ordinal) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,
                 (SELECT coalesce(max(ordinal), 0) + 1 FROM audit WHERE stranger = ?11))",
            )?
            .execute(params![
                micros(event.at),
                event.actor,
                event.key.as_ref().map(|key| key.as_str()),
                event.address.map(|address| address.to_string()),
                event.action.as_str(),
                event.outcome.as_str(),
                event.request_id.as_deref(),
                event.route.as_deref(),
                event.target,
                event.reason,
                event.is_of_a_stranger(),
            ])?;
        Ok(())
    }

    /// Deletes the oldest entries where the log is too long or too old; `false`: there are more.
    pub(super) fn prune_audit(&mut self) -> Result<bool, Failure> {
        let kept = self.settings.audit_rows_max;
        let kept_of_strangers = kept.saturating_add(1).checked_div(2).unwrap_or(kept);
        let known = self.prune_audit_of(false, kept)?;
        Ok(self.prune_audit_of(true, kept_of_strangers)? && known)
    }

    fn prune_audit_of(&self, strangers: bool, kept: i64) -> Result<bool, Failure> {
        let oldest = self
            .now
            .saturating_sub(self.settings.audit_age_max)
            .map_or(i64::MIN, micros);
        let deleted = self
            .connection
            .prepare_cached(
                "DELETE FROM audit WHERE position IN (SELECT position FROM
                     (SELECT position, at, ordinal FROM audit WHERE stranger = ?1
                      ORDER BY ordinal LIMIT ?4)
                 WHERE at < ?2
                 OR ordinal <= (SELECT max(ordinal) FROM audit WHERE stranger = ?1) - ?3)",
            )?
            .execute(params![strangers, oldest, kept, STEP])?;
        Ok(i64::try_from(deleted).unwrap_or(STEP) < STEP)
    }
}

//! The audit log. Events share the transactions of everything else that is written.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Command, SqliteStore,
    batch::UnitOfWork,
    busy, closed,
    convert::{Failure, micros, moment, name, uncount},
};
use crate::{
    domain::{
        audit::{AuditAction, AuditEntry, AuditEvent, AuditFilter, AuditOutcome, Share},
        page::{Page, Paged},
    },
    store::{AuditLog, Ledger, StoreError, StoreFuture, gauge::Gauge},
};

/// Rows of one share that one sweep deletes.
const STEP: i64 = 1_000;
/// Rows scanned for one page: a query for something rare gets fewer entries, and a cursor.
const SCANNED_MAX: i64 = 10_000;

impl AuditLog for SqliteStore {
    fn append(&self, event: AuditEvent) -> Result<(), StoreError> {
        let gauge = &self.0.gauge.events;
        let places = event.share().places(self.0.settings.queue_max);
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
            store.0.readers.list(read).await
        })
    }

    fn lost(&self) -> u64 {
        self.0.gauge.events_lost.load(Ordering::Relaxed)
    }
}

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT position, at, actor, key, address, action, outcome, request_id, route, target, reason
             FROM audit WHERE (at, position) < (?1, ?4) AND ",
            $condition,
            " ORDER BY at DESC, position DESC LIMIT ?3"
        )
    };
}

/// Uses an index for actor or action; any other condition is checked on a limited number of
/// entries.
fn entries(
    connection: &Connection,
    filter: &AuditFilter,
    page: &Page,
) -> Result<Paged<AuditEntry>, Failure> {
    let action = filter.action.as_ref().map(AuditAction::as_str);
    let (list, value) = match (filter.actor.as_deref(), action) {
        (Some(actor), _) => (select!("actor = ?2"), Some(actor)),
        (None, Some(action)) => (select!("action = ?2"), Some(action)),
        (None, None) => (select!("?2 IS NULL"), None),
    };
    let outcome = filter.outcome.map(AuditOutcome::as_str);
    // Both statements must see the same state of the file.
    let _read = connection.unchecked_transaction()?;
    let (at, position) = before(connection, page)?;
    let mut list = connection.prepare_cached(list)?;
    let mut found = list.query(params![at, value, SCANNED_MAX, position])?;
    let (mut seen, mut last, mut rows) = (0_i64, None, Vec::new());
    while let Some(row) = found.next()? {
        let is = |column, wanted: Option<&str>| -> Result<bool, Failure> {
            let text = row.get_ref(column)?;
            Ok(wanted.is_none_or(|wanted| text.as_str().is_ok_and(|text| text == wanted)))
        };
        seen = seen.saturating_add(1);
        last = Some(uncount(row.get(0)?)?);
        if is(5, action)? && is(6, outcome)? {
            let entry = read_entry(row)?;
            rows.push((entry.position, entry));
            if rows.len() > usize::from(page.limit()) {
                return Ok(Paged::from_rows(page, rows));
            }
        }
    }
    let mut part = Paged::from_rows(page, rows);
    if seen >= SCANNED_MAX {
        part.next_cursor = last;
    }
    Ok(part)
}

/// The time and position of the entry that the page begins after. If it is gone, the next one after
/// it stands in.
fn before(connection: &Connection, page: &Page) -> Result<(i64, i64), Failure> {
    let cursor = page.cursor().unwrap_or(u64::MAX);
    let position = i64::try_from(cursor).unwrap_or(i64::MAX);
    let at = connection
        .prepare_cached("SELECT at FROM audit WHERE position >= ? ORDER BY position LIMIT 1")?
        .query_row([position], |row| row.get(0))
        .optional()?;
    Ok((at.unwrap_or(i64::MAX), position))
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

impl UnitOfWork<'_> {
    pub(super) fn audit(&self, event: &AuditEvent) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "INSERT INTO audit (at, actor, key, address, action, outcome, request_id, route,
                 target, reason, share, ordinal) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,
                 (SELECT coalesce(max(ordinal), 0) + 1 FROM audit WHERE share = ?11))",
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
                event.share().number(),
            ])?;
        Ok(())
    }

    /// Deletes the oldest entries if the log is too long or too old; `false`: there are more.
    pub(super) fn prune_audit(&mut self) -> Result<bool, Failure> {
        let mut all_done = true;
        for share in Share::all() {
            all_done &= self.prune_audit_of(share)?;
        }
        Ok(all_done)
    }

    fn prune_audit_of(&self, share: Share) -> Result<bool, Failure> {
        let (rows_max, number) = (self.settings.audit_rows_max, share.number());
        let kept = share.rows_max(u64::try_from(rows_max).unwrap_or(0));
        let kept = i64::try_from(kept).unwrap_or(i64::MAX);
        let oldest = self
            .now
            .saturating_sub(self.settings.audit_age_max)
            .map_or(i64::MIN, micros);
        // Mostly there is nothing to do, and the two ends show that.
        let is_over = self
            .connection
            .prepare_cached(
                "SELECT 1 FROM (SELECT at, ordinal FROM audit WHERE share = ?1 ORDER BY ordinal LIMIT 1)
                 WHERE at < ?2 OR ordinal <= (SELECT max(ordinal) FROM audit WHERE share = ?1) - ?3",
            )?
            .exists(params![number, oldest, kept])?;
        if !is_over {
            return Ok(true);
        }
        let deleted = self
            .connection
            .prepare_cached(
                "DELETE FROM audit WHERE position IN (SELECT position FROM
                     (SELECT position, at, ordinal FROM audit WHERE share = ?1
                      ORDER BY ordinal LIMIT ?4)
                 WHERE at < ?2
                 OR ordinal <= (SELECT max(ordinal) FROM audit WHERE share = ?1) - ?3)",
            )?
            .execute(params![number, oldest, kept, STEP])?;
        Ok(i64::try_from(deleted).unwrap_or(STEP) < STEP)
    }
}

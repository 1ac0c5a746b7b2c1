//! The audit log: events wait in memory and are written in batches.

use std::sync::atomic::Ordering;

use sqlx::{Row, postgres::PgRow};

use super::{
    PostgresStore, Shared, Work, busy, closed,
    convert::{Failure, Moment, moment, name_or_none, uncount},
    listing::bounds,
};
use crate::{
    domain::{
        audit::{Act, AuditAction, AuditEntry, AuditEvent, AuditFilter, AuditOutcome, Share},
        clock::Timestamp,
        page::{Page, Paged},
    },
    store::{AuditLog, StoreError, StoreFuture},
    sync::lock,
};

/// Events per statement, and rows of one share deleted per sweep.
const STEP: usize = 1_000;

/// The `stranger` column keeps the kind that processes of earlier versions go by.
const INSERT: &str = "INSERT INTO audit
     (at, actor, key, address, action, outcome, request_id, route, target, reason, stranger, share, ordinal)
     SELECT event.*, nextval(format('audit_of_share_%s', event.share)::regclass)
     FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
         $7::text[], $8::text[], $9::text[], $10::text[], $11::boolean[], $12::smallint[])
     AS event (at, actor, key, address, action, outcome, request_id, route, target, reason, stranger, share)";

/// The time of the entry that a page starts after; if that was deleted, the next one written stands
/// in for it.
const BEFORE: &str = "SELECT at FROM audit WHERE position >= $1 ORDER BY position LIMIT 1";

/// Uses an index where one fits the filter; other conditions are checked on at most 10,000 entries.
/// $3 is the value looked up in the index.
macro_rules! list {
    ($condition:literal) => {
        (
            concat!(
                "WITH seen AS (
                     SELECT position, at, actor, key, address, action, outcome, request_id, route, target, reason
                     FROM audit WHERE (at, position) < ($1, $2) AND ",
                $condition,
                " ORDER BY at DESC, position DESC LIMIT 10000
                 )
                 SELECT position, at, actor, key, address, action, outcome, request_id, route, target, reason
                 FROM seen WHERE ($4::text IS NULL OR action = $4) AND ($5::text IS NULL OR outcome = $5)
                 ORDER BY at DESC, position DESC LIMIT $6"
            ),
            concat!(
                "SELECT position FROM audit WHERE (at, position) < ($1, $2) AND ",
                $condition,
                " ORDER BY at DESC, position DESC OFFSET 9999 LIMIT 1"
            ),
        )
    };
}

/// The shares that are too long, or whose oldest entry is too old: usually none, which their ends
/// show.
const OVER: &str = "SELECT shares.number, shares.kept
     FROM unnest($1::smallint[], $2::bigint[]) AS shares (number, kept),
     LATERAL (SELECT at, ordinal FROM audit WHERE share = shares.number
         ORDER BY ordinal LIMIT 1) AS oldest,
     LATERAL (SELECT max(ordinal) AS ordinal FROM audit WHERE share = shares.number) AS newest
     WHERE oldest.at < $3 OR oldest.ordinal <= newest.ordinal - shares.kept";

const PRUNE: &str = "WITH oldest AS (
         SELECT position, at, ordinal FROM audit WHERE share = $4 ORDER BY ordinal LIMIT $3
     )
     DELETE FROM audit USING oldest WHERE audit.position = oldest.position AND (
         oldest.at < $1
         OR oldest.ordinal <= (SELECT max(ordinal) FROM audit WHERE share = $4) - $2
     )";

impl AuditLog for PostgresStore {
    fn append(&self, event: AuditEvent) -> Result<(), StoreError> {
        let shared = &self.0.shared;
        if shared.is_closed() {
            return Err(closed());
        }
        let mut waiting = shared.events();
        if waiting.len() >= event.share().places(shared.settings.queue_max) {
            return Err(busy());
        }
        waiting.push(storable(event));
        Ok(())
    }

    fn entries(&self, filter: AuditFilter, page: Page) -> StoreFuture<Paged<AuditEntry>> {
        self.ask(move |shared| async move {
            shared.write_events().await?;
            let (before, limit) = bounds(&page);
            let actor = filter.actor.as_deref().map(without_nul);
            let action = filter.action.as_ref();
            let action = action.map(|action| without_nul(action.as_str()));
            let ((list, end), value) = match (&actor, &action) {
                (Some(_), _) => (list!("actor = $3"), &actor),
                (None, Some(_)) => (list!("action = $3"), &action),
                (None, None) => (list!("$3::text IS NULL"), &None),
            };
            let mut transaction = shared.read().await?;
            let at: Option<Moment> = sqlx::query_scalar(BEFORE)
                .bind(before)
                .fetch_optional(&mut *transaction)
                .await?;
            let at = at.unwrap_or(Moment(Timestamp::MAX));
            let rows = sqlx::query(list)
                .bind(at)
                .bind(before)
                .bind(value)
                .bind(&action)
                .bind(filter.outcome.map(AuditOutcome::as_str))
                .bind(limit)
                .fetch_all(&mut *transaction)
                .await?;
            let rows: Vec<_> = rows.iter().map(read_entry).collect::<Result<_, _>>()?;
            let is_short = rows.len() <= usize::from(page.limit());
            let mut part = Paged::from_rows(&page, rows);
            if is_short {
                let last: Option<i64> = sqlx::query_scalar(end)
                    .bind(at)
                    .bind(before)
                    .bind(value)
                    .fetch_optional(&mut *transaction)
                    .await?;
                part.next_cursor = last.map(uncount).transpose()?;
            }
            Ok(part)
        })
    }

    fn lost(&self) -> u64 {
        self.0.shared.gauge.events_lost.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn events(&self) -> std::sync::MutexGuard<'_, Vec<AuditEvent>> {
        lock(&self.events)
    }
}

impl Work {
    /// Writes all waiting events; twice, if the database wrote them but could not confirm it in
    /// time. What can't be written now keeps waiting; what can't be written at all is counted as
    /// lost.
    pub(super) async fn write_events(&self) -> Result<(), Failure> {
        // One at a time, so that a later reader sees what an earlier one took over.
        let _one = self.writing_events.lock().await;
        loop {
            let batch: Vec<AuditEvent> = {
                let waiting = self.events();
                waiting.iter().take(STEP).cloned().collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            let written = self.insert_events(&batch).await;
            match &written {
                Err(failure) if !failure.is_final() => return written,
                Err(_) => {
                    let lost = u64::try_from(batch.len()).unwrap_or(u64::MAX);
                    self.gauge.events_lost.fetch_add(lost, Ordering::Relaxed);
                    tracing::error!(target: "tollgate::postgres", lost, "audit events are lost");
                }
                Ok(()) => {}
            }
            // Nobody else removes from the front.
            let mut waiting = self.events();
            let done = batch.len().min(waiting.len());
            waiting.drain(..done);
            drop(waiting);
            written?;
        }
    }

    async fn insert_events(&self, batch: &[AuditEvent]) -> Result<(), Failure> {
        fn column<'a, T>(batch: &'a [AuditEvent], of: impl Fn(&'a AuditEvent) -> T + 'a) -> Vec<T> {
            batch.iter().map(of).collect()
        }
        let mut transaction = self.begin().await?;
        sqlx::query(INSERT)
            .bind(column(batch, |event| Moment(event.at)))
            .bind(column(batch, |event| event.actor.as_deref()))
            .bind(column(batch, |event| {
                event.key.as_ref().map(|key| key.as_str())
            }))
            .bind(column(batch, |event| {
                event.address.map(|address| address.to_string())
            }))
            .bind(column(batch, |event| event.action.as_str()))
            .bind(column(batch, |event| event.outcome.as_str()))
            .bind(column(batch, |event| event.request_id.as_deref()))
            .bind(column(batch, |event| event.route.as_deref()))
            .bind(column(batch, |event| event.target.as_deref()))
            .bind(column(batch, |event| event.reason.as_deref()))
            .bind(column(batch, AuditEvent::is_of_a_stranger))
            .bind(column(batch, |event| i16::from(event.share().number())))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }

    /// Deletes the oldest entries where the log is too long or too old; `false` if there are more.
    pub(super) async fn prune_audit(&self) -> Result<bool, Failure> {
        let settings = &self.settings;
        let rows_max = u64::try_from(settings.audit_rows_max).unwrap_or(0);
        let numbers: Vec<_> = Share::all()
            .map(|share| i16::from(share.number()))
            .collect();
        let kept = Share::all().map(|share| i64::try_from(share.rows_max(rows_max)));
        let kept: Vec<_> = kept.map(|kept| kept.unwrap_or(i64::MAX)).collect();
        let oldest = settings.clock.now().saturating_sub(settings.audit_age_max);
        let oldest = oldest.unwrap_or_default().max(Timestamp::UNIX_EPOCH);
        let over: Vec<(i16, i64)> = sqlx::query_as(OVER)
            .bind(numbers)
            .bind(kept)
            .bind(Moment(oldest))
            .fetch_all(&mut *self.read().await?)
            .await?;
        let step = i64::try_from(STEP).unwrap_or(i64::MAX);
        let mut all_done = true;
        for (share, kept) in over {
            let mut transaction = self.begin().await?;
            let pruned = sqlx::query(PRUNE)
                .bind(Moment(oldest))
                .bind(kept)
                .bind(step)
                .bind(share)
                .execute(&mut *transaction)
                .await?
                .rows_affected();
            transaction.commit().await?;
            all_done &= i64::try_from(pruned).unwrap_or(step) < step;
        }
        Ok(all_done)
    }
}

/// The text without NULs, which PostgreSQL doesn't accept.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The log accepts anything: no name that a caller sends may keep an event out of it.
fn storable(mut event: AuditEvent) -> AuditEvent {
    let cleaned = |text: Option<String>| text.map(|text| without_nul(&text));
    event.actor = cleaned(event.actor);
    event.target = cleaned(event.target);
    event.reason = cleaned(event.reason);
    event.request_id = event.request_id.map(|id| without_nul(&id).into());
    event.route = event.route.map(|route| without_nul(&route).into());
    event.action = AuditAction::named(without_nul(event.action.as_str()));
    event
}

fn read_entry(row: &PgRow) -> Result<(u64, AuditEntry), Failure> {
    let outcome = AuditOutcome::from_name(row.try_get(6)?);
    let text = |column| row.try_get::<Option<&str>, _>(column);
    let mut event = AuditEvent::new(
        moment(row, 1)?,
        Act::new(AuditAction::named(row.try_get(5)?)),
    );
    event.outcome = outcome.ok_or_else(|| Failure::corrupt("an unknown outcome"))?;
    event.actor = row.try_get(2)?;
    event.key = name_or_none(row, 3)?;
    event.address = row
        .try_get::<Option<&str>, _>(4)?
        .map(str::parse)
        .transpose()
        .map_err(|_| Failure::corrupt("an address that is none"))?;
    event.request_id = text(7)?.map(Into::into);
    event.route = text(8)?.map(Into::into);
    event.target = row.try_get(9)?;
    event.reason = row.try_get(10)?;
    let position = uncount(row.try_get(0)?)?;
    Ok((position, AuditEntry { position, event }))
}

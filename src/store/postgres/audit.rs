//! The audit log: events wait in memory, and are written many at a time.

use std::sync::{PoisonError, atomic::Ordering};

use sqlx::{Row, postgres::PgRow};

use super::{
    PostgresStore, Shared, Work, busy, closed,
    convert::{Failure, Moment, moment, name_or_none, uncount},
    listing::bounds,
};
use crate::{
    domain::{
        audit::{
            Act, AuditAction, AuditEntry, AuditEvent, AuditFilter, AuditOutcome, strangers_max,
        },
        clock::Timestamp,
        page::{Page, Paged},
    },
    store::{AuditLog, StoreError, StoreFuture},
};

/// Events in one statement, and rows that one sweep deletes.
const STEP: usize = 1_000;

const INSERT: &str = "INSERT INTO tollgate.audit
     (at, actor, key, address, action, outcome, request_id, route, target, reason, stranger, ordinal)
     SELECT event.*, nextval(CASE WHEN event.stranger THEN 'tollgate.audit_of_strangers'
         ELSE 'tollgate.audit_of_known' END::regclass)
     FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
         $7::text[], $8::text[], $9::text[], $10::text[], $11::boolean[])
     AS event (at, actor, key, address, action, outcome, request_id, route, target, reason, stranger)";

const LIST: &str =
    "SELECT position, at, actor, key, address, action, outcome, request_id, route, target, reason
     FROM tollgate.audit WHERE position < $1 AND ($2::text IS NULL OR actor = $2)
     AND ($3::text IS NULL OR action = $3) AND ($4::text IS NULL OR outcome = $4)
     ORDER BY position DESC LIMIT $5";

const PRUNE: &str = "WITH oldest AS (
         SELECT position, at, ordinal FROM tollgate.audit WHERE stranger = $4 ORDER BY ordinal LIMIT $3
     )
     DELETE FROM tollgate.audit USING oldest WHERE audit.position = oldest.position AND (
         oldest.at < $1
         OR oldest.ordinal <= (SELECT max(ordinal) FROM tollgate.audit WHERE stranger = $4) - $2
     )";

impl AuditLog for PostgresStore {
    fn append(&self, event: AuditEvent) -> Result<(), StoreError> {
        let shared = &self.0.shared;
        if shared.is_closed() {
            return Err(closed());
        }
        let mut waiting = shared.events();
        let places = shared.settings.queue_max;
        let places = if event.is_of_a_stranger() {
            strangers_max(places)
        } else {
            places
        };
        if waiting.len() >= places {
            return Err(busy());
        }
        waiting.push(storable(event));
        Ok(())
    }

    fn entries(&self, filter: AuditFilter, page: Page) -> StoreFuture<Paged<AuditEntry>> {
        self.ask(move |shared| async move {
            shared.write_events().await?;
            let (before, limit) = bounds(&page);
            let rows = sqlx::query(LIST)
                .bind(before)
                .bind(filter.actor.as_deref().map(without_nul))
                .bind(
                    filter
                        .action
                        .as_ref()
                        .map(|action| without_nul(action.as_str())),
                )
                .bind(filter.outcome.map(AuditOutcome::as_str))
                .bind(limit)
                .fetch_all(&mut *shared.read().await?)
                .await?;
            let rows = rows.iter().map(read_entry).collect::<Result<_, _>>()?;
            Ok(Paged::from_rows(&page, rows))
        })
    }

    fn lost(&self) -> u64 {
        self.0.shared.gauge.events_lost.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn events(&self) -> std::sync::MutexGuard<'_, Vec<AuditEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    /// Writes all events that wait; twice, if the database wrote them and could not say so in time. What can't be written now waits on; of what can't be written at all, the loss
    /// is counted.
    pub(super) async fn write_events(&self) -> Result<(), Failure> {
        // One at a time, so that whoever reads next sees what another has taken.
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
            // Nobody else takes any from the front.
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
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }

    /// Deletes the oldest entries where the log is too long or too old; `false`: there are more.
    pub(super) async fn prune_audit(&self) -> Result<bool, Failure> {
        let kept = self.settings.audit_rows_max;
        let kept_of_strangers = kept.saturating_add(1).checked_div(2).unwrap_or(kept);
        let known = self.prune_audit_of(false, kept).await?;
        Ok(self.prune_audit_of(true, kept_of_strangers).await? && known)
    }

    async fn prune_audit_of(&self, strangers: bool, kept: i64) -> Result<bool, Failure> {
        let settings = &self.settings;
        let oldest = settings.clock.now().saturating_sub(settings.audit_age_max);
        let step = i64::try_from(STEP).unwrap_or(i64::MAX);
        let mut transaction = self.begin().await?;
        let pruned = sqlx::query(PRUNE)
            .bind(Moment(
                oldest.unwrap_or_default().max(Timestamp::UNIX_EPOCH),
            ))
            .bind(kept)
            .bind(step)
            .bind(strangers)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        transaction.commit().await?;
        Ok(i64::try_from(pruned).unwrap_or(step) < step)
    }
}

/// A text as PostgreSQL takes it.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A log takes whatever it is told: no name that somebody sends may keep an event out of it.
fn storable(mut event: AuditEvent) -> AuditEvent {
    let mend = |text: Option<String>| text.map(|text| without_nul(&text));
    event.actor = mend(event.actor);
    event.target = mend(event.target);
    event.reason = mend(event.reason);
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

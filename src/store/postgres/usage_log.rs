//! Everybody's usage in one order, oldest first, in which what was read is final.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use sqlx::{PgConnection, postgres::PgRow};

use super::{
    convert::{Failure, name},
    listing::read_usage,
};
use crate::{
    domain::{
        page::{Page, Paged},
        usage::UsageEntry,
    },
    store::{StoreError, StoreErrorKind},
};

const USAGE_OF_ALL: &str =
    "SELECT position, request_id, key, route, started_at, settled_at, usage.held, charged,
     outcome, status, latency_micros, input_tokens, output_tokens, principal, model, bytes,
     cached_tokens, cache_write_tokens, usage_is_missing, details, account.id
     FROM usage JOIN account ON account.number = usage.account
     WHERE position > $1 AND position <= $2
     ORDER BY position LIMIT $3";

/// For this the right to use the sequence suffices.
const LAST_POSITION: &str = "SELECT coalesce(pg_sequence_last_value('log_position'::regclass), 0)";

/// The transactions that are writing to the log. Each has this lock from before it takes a position
/// until everybody sees what it wrote.
const WRITERS: &str = "SELECT virtualtransaction FROM pg_locks
     WHERE locktype = 'relation' AND relation = 'usage'::regclass AND mode = 'RowExclusiveLock'
     AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// How long a read of everybody's usage waits for them.
const WRITING_MAX: Duration = Duration::from_secs(1);

/// A page. `final_up_to` is a position up to which the log is known to be final: older pages
/// wait for nobody.
pub(super) async fn usage_of_all(
    connection: &mut PgConnection,
    page: &Page,
    final_up_to: &AtomicI64,
) -> Result<Paged<UsageEntry>, Failure> {
    let known = final_up_to.load(Ordering::Relaxed);
    let mut rows = final_rows(connection, page, known).await?;
    if rows.len() <= usize::from(page.limit()) {
        let last = last_final(connection).await?;
        final_up_to.fetch_max(last, Ordering::Relaxed);
        rows = final_rows(connection, page, last).await?;
    }
    let rows = rows.iter().map(|row| {
        let entry = read_usage(&name(row, 20)?, row)?;
        Ok((entry.position, entry))
    });
    Ok(Paged::from_rows(
        page,
        rows.collect::<Result<_, Failure>>()?,
    ))
}

async fn final_rows(
    connection: &mut PgConnection,
    page: &Page,
    last: i64,
) -> Result<Vec<PgRow>, Failure> {
    let after = page.cursor().unwrap_or(0);
    Ok(sqlx::query(USAGE_OF_ALL)
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(last)
        .bind(i64::from(page.limit()).saturating_add(1))
        .fetch_all(connection)
        .await?)
}

/// A position up to which the log is final. Transactions of different accounts may commit in
/// another order than that of their positions, so those that may have taken one up to it are waited
/// for.
async fn last_final(connection: &mut PgConnection) -> Result<i64, Failure> {
    let last: i64 = sqlx::query_scalar(LAST_POSITION)
        .fetch_one(&mut *connection)
        .await?;
    let mut writers = async || -> Result<Vec<String>, Failure> {
        Ok(sqlx::query_scalar(WRITERS)
            .fetch_all(&mut *connection)
            .await?)
    };
    let mut awaited = writers().await?;
    let mut pause = Duration::from_millis(1);
    let mut waited = Duration::ZERO;
    while !awaited.is_empty() {
        if waited >= WRITING_MAX {
            let text = "a transaction that writes to the usage log takes too long";
            return Err(StoreError::new(StoreErrorKind::Busy, text).into());
        }
        tokio::time::sleep(pause).await;
        waited = waited.saturating_add(pause);
        pause = pause.saturating_mul(2);
        let writing = writers().await?;
        awaited.retain(|writer| writing.contains(writer));
    }
    Ok(last)
}

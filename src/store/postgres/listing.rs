//! Pages of the log, newest first.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::convert::{Failure, is_storable, moment, money, name, name_or_none, principal, uncount};
use crate::{
    domain::{
        AccountId,
        books::{Balance, Snapshot},
        page::{Page, Paged},
        usage::{Call, Outcome, Settlement, Transaction, UsageEntry},
    },
    store::{StoreError, StoreErrorKind},
};

const USAGE: &str =
    "SELECT position, request_id, key, route, started_at, settled_at, held, charged,
     outcome, status, latency_micros, input_tokens, output_tokens, principal, model, bytes,
     cached_tokens, cache_write_tokens, usage_is_missing
     FROM usage
     WHERE account = (SELECT number FROM account WHERE id = $1) AND position < $2
     ORDER BY position DESC LIMIT $3";

const USAGE_OF_ALL: &str =
    "SELECT position, request_id, key, route, started_at, settled_at, usage.held, charged,
     outcome, status, latency_micros, input_tokens, output_tokens, principal, model, bytes,
     cached_tokens, cache_write_tokens, usage_is_missing, account.id
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

const TRANSACTIONS: &str = "WITH mine AS (SELECT number FROM account WHERE id = $1)
     (SELECT position, settled_at, -charged, request_id, route FROM usage
         WHERE account = (SELECT number FROM mine) AND charged <> 0 AND position < $2
         ORDER BY position DESC LIMIT $3)
     UNION ALL
     (SELECT position, paid_at, amount, reference, NULL FROM credit
         WHERE account = (SELECT number FROM mine) AND position < $2
         ORDER BY position DESC LIMIT $3)
     ORDER BY position DESC LIMIT $3";

const BALANCE: &str = "SELECT deposited, settled, held, credit_line FROM account WHERE id = $1";

/// One statement, for one state of the tables.
const SNAPSHOT: &str = "SELECT deposited, settled, held, credit_line, GREATEST(
         (SELECT max(position) FROM usage WHERE account = number AND charged <> 0),
         (SELECT max(position) FROM credit WHERE account = number))
     FROM account WHERE id = $1";

/// The position to start before, and the number of rows: one more than the page holds.
pub(super) fn bounds(page: &Page) -> (i64, i64) {
    let before = page.cursor().and_then(|cursor| i64::try_from(cursor).ok());
    let limit = i64::from(page.limit()).saturating_add(1);
    (before.unwrap_or(i64::MAX), limit)
}

pub(super) async fn balance(
    connection: &mut PgConnection,
    account: &AccountId,
) -> Result<Balance, Failure> {
    let found = find(connection, BALANCE, account).await?;
    let balance = found.map(|row| read_balance(&row, 0)).transpose()?;
    Ok(balance.unwrap_or_default())
}

pub(super) async fn snapshot(
    connection: &mut PgConnection,
    account: &AccountId,
) -> Result<Snapshot, Failure> {
    let Some(row) = find(connection, SNAPSHOT, account).await? else {
        return Ok(Snapshot::default());
    };
    let newest: Option<i64> = row.try_get(4)?;
    Ok(Snapshot {
        balance: read_balance(&row, 0)?,
        position: newest.map(uncount).transpose()?,
    })
}

async fn find(
    connection: &mut PgConnection,
    query: &'static str,
    account: &AccountId,
) -> Result<Option<PgRow>, Failure> {
    if !is_storable(account.as_str()) {
        return Ok(None);
    }
    let found = sqlx::query(query).bind(account.as_str());
    Ok(found.fetch_optional(connection).await?)
}

/// Deposited, settled, held and credit line, in four columns from `first` on.
pub(super) fn read_balance(row: &PgRow, first: usize) -> Result<Balance, Failure> {
    let amount = |column: usize| money(row, first.saturating_add(column));
    Ok(Balance {
        deposited: amount(0)?,
        settled: amount(1)?,
        held: amount(2)?,
        credit_line: amount(3)?,
    })
}

/// A page of a table with positions, newest first. `query` takes the two bounds.
pub(super) async fn by_position<T>(
    connection: &mut PgConnection,
    query: &'static str,
    page: &Page,
    read: impl Fn(&PgRow) -> Result<(u64, T), Failure>,
) -> Result<Paged<T>, Failure> {
    let (before, limit) = bounds(page);
    let rows = sqlx::query(query)
        .bind(before)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    let rows = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Paged::from_rows(page, rows))
}

pub(super) async fn usage(
    connection: &mut PgConnection,
    account: &AccountId,
    page: &Page,
) -> Result<Paged<UsageEntry>, Failure> {
    let rows = list(connection, USAGE, account, page).await?;
    let rows = rows.iter().map(|row| {
        let entry = read_usage(account, row)?;
        Ok((entry.position, entry))
    });
    Ok(Paged::from_rows(
        page,
        rows.collect::<Result<_, Failure>>()?,
    ))
}

/// Oldest first. `final_up_to` is a position up to which the log is known to be final: older pages
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
        let entry = read_usage(&name(row, 19)?, row)?;
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

/// A position up to which the log is final. Transactions of different accounts may commit in another
/// order than that of their positions, so those that may have taken one up to it are waited for.
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

pub(super) async fn transactions(
    connection: &mut PgConnection,
    account: &AccountId,
    page: &Page,
) -> Result<Paged<Transaction>, Failure> {
    let rows = list(connection, TRANSACTIONS, account, page).await?;
    let rows = rows.iter().map(|row| {
        let transaction = read_transaction(row)?;
        Ok((transaction.position, transaction))
    });
    Ok(Paged::from_rows(
        page,
        rows.collect::<Result<_, Failure>>()?,
    ))
}

async fn list(
    connection: &mut PgConnection,
    query: &'static str,
    account: &AccountId,
    page: &Page,
) -> Result<Vec<PgRow>, Failure> {
    if !is_storable(account.as_str()) {
        return Ok(Vec::new());
    }
    let (before, limit) = bounds(page);
    Ok(sqlx::query(query)
        .bind(account.as_str())
        .bind(before)
        .bind(limit)
        .fetch_all(connection)
        .await?)
}

fn read_usage(account: &AccountId, row: &PgRow) -> Result<UsageEntry, Failure> {
    let tokens = |column: usize| -> Result<Option<u64>, Failure> {
        row.try_get::<Option<i64>, _>(column)?
            .map(uncount)
            .transpose()
    };
    let status: Option<i32> = row.try_get(9)?;
    let status = status.map(u16::try_from).transpose();
    let outcome: &str = row.try_get(8)?;
    Ok(UsageEntry {
        position: uncount(row.try_get(0)?)?,
        call: Call {
            request_id: row.try_get::<String, _>(1)?.into(),
            account: account.clone(),
            principal: principal(row, 13, account)?,
            key: name_or_none(row, 2)?,
            route: row.try_get::<String, _>(3)?.into(),
            started_at: moment(row, 4)?,
        },
        held: money(row, 6)?,
        settlement: Settlement {
            charged: money(row, 7)?,
            outcome: Outcome::from_name(outcome)
                .ok_or_else(|| Failure::corrupt("an unknown outcome"))?,
            status: status.map_err(|_| Failure::corrupt("a status that is none"))?,
            latency: std::time::Duration::from_micros(uncount(row.try_get(10)?)?),
            input_tokens: tokens(11)?,
            cached_tokens: tokens(16)?,
            cache_write_tokens: tokens(17)?,
            output_tokens: tokens(12)?,
            bytes: tokens(15)?,
            model: row.try_get::<Option<String>, _>(14)?.map(Into::into),
            usage_is_missing: row.try_get::<Option<bool>, _>(18)?.unwrap_or_default(),
        },
        settled_at: moment(row, 5)?,
    })
}

fn read_transaction(row: &PgRow) -> Result<Transaction, Failure> {
    Ok(Transaction {
        position: uncount(row.try_get(0)?)?,
        at: moment(row, 1)?,
        amount: money(row, 2)?,
        reference: row.try_get(3)?,
        route: row.try_get(4)?,
    })
}

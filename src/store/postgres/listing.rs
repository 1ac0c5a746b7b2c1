//! The money of an account, and pages of its log, newest first.

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::convert::{Failure, is_storable, moment, money, name_or_none, principal, uncount};
use crate::domain::{
    AccountId,
    books::{Balance, Snapshot},
    page::{Page, Paged},
    usage::{Call, Outcome, Settlement, Transaction, UsageDetails, UsageEntry},
};

const USAGE: &str =
    "SELECT position, request_id, key, route, started_at, settled_at, held, charged,
     outcome, status, latency_micros, input_tokens, output_tokens, principal, model, bytes,
     cached_tokens, cache_write_tokens, usage_is_missing, details
     FROM usage
     WHERE account = (SELECT number FROM account WHERE id = $1) AND position < $2
     ORDER BY position DESC LIMIT $3";

const TRANSACTIONS: &str = "WITH mine AS (SELECT number FROM account WHERE id = $1)
     (SELECT position, settled_at, -charged, request_id, route, NULL FROM usage
         WHERE account = (SELECT number FROM mine) AND charged <> 0 AND position < $2
         ORDER BY position DESC LIMIT $3)
     UNION ALL
     (SELECT position, paid_at, amount, reference, NULL, request_id FROM credit
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

pub(super) async fn usage_at(
    connection: &mut PgConnection,
    account: &AccountId,
    position: u64,
) -> Result<Option<UsageEntry>, Failure> {
    let page = Page::first(1).after(position.saturating_add(1));
    let newest = usage(connection, account, &page).await?.items.pop();
    Ok(newest.filter(|row| row.position == position))
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

pub(super) fn read_usage(account: &AccountId, row: &PgRow) -> Result<UsageEntry, Failure> {
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
            details: row
                .try_get::<Option<&str>, _>(19)?
                .and_then(UsageDetails::from_text),
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
        refunded: row.try_get(5)?,
    })
}

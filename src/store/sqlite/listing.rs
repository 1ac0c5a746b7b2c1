//! Pages of the log, read by following the link from each row to the account's previous one.

use rusqlite::{Connection, OptionalExtension, Row, Statement, params, types::ValueRef};

use super::{
    accounts::{ACCOUNT, read_account},
    convert::{Failure, moment, money, name, principal, uncount},
};
use crate::domain::{
    AccountId,
    books::Snapshot,
    money::Money,
    page::{Page, Paged},
    usage::{Call, Outcome, Settlement, Transaction, UsageDetails, UsageEntry},
};

const USAGE: &str = "SELECT previous, previous_charge, request_id, key, route, started_at,
     settled_at, held, charged, outcome, status, latency, input_tokens, output_tokens,
     principal, model, bytes, cached_tokens, cache_write_tokens,
     usage_is_missing, details FROM usage WHERE position = ? AND account = ?";

const USAGE_OF_ALL: &str = "SELECT previous, previous_charge, request_id, key, route, started_at,
     settled_at, usage.held, charged, outcome, status, latency, input_tokens, output_tokens,
     principal, model, bytes, cached_tokens, cache_write_tokens, usage_is_missing,
     details, position, account.id
     FROM usage JOIN account ON account.number = usage.account
     WHERE position > ? ORDER BY position LIMIT ?";

const PAYMENTS: &str = "SELECT position, paid_at, amount, reference, request_id FROM credit
     WHERE account = ? AND position < ? ORDER BY position DESC LIMIT ?";

/// Larger than any position.
const END: i64 = i64::MAX;
/// How many rows are skipped for a cursor that was never handed out: some milliseconds. Beyond them
/// nothing is found.
const PASSED_MAX: u32 = 4_096;

pub(super) fn snapshot(connection: &Connection, account: &AccountId) -> Result<Snapshot, Failure> {
    let _read = connection.unchecked_transaction()?;
    let found = read_account(&mut *connection.prepare_cached(ACCOUNT)?, account)?;
    let mut newest =
        connection.prepare_cached("SELECT max(position) FROM credit WHERE account = ?")?;
    let paid: Option<i64> = newest.query_row([found.number], |row| row.get(0))?;
    let newest = found.row.latest_charge.max(paid);
    Ok(Snapshot {
        balance: found.row.balance,
        position: newest.map(uncount).transpose()?,
    })
}

pub(super) fn usage(
    connection: &Connection,
    account: &AccountId,
    page: &Page,
) -> Result<Paged<UsageEntry>, Failure> {
    // All reads must see the same state of the file.
    let _read = connection.unchecked_transaction()?;
    let found = read_account(&mut *connection.prepare_cached(ACCOUNT)?, account)?;
    let Some(number) = found.number else {
        return Ok(Paged::from_rows(page, Vec::new()));
    };
    let mut look = connection.prepare_cached(USAGE)?;
    let mut next = match page.cursor() {
        None => found.row.latest_usage,
        Some(cursor) => {
            let newest = found.row.latest_usage;
            before(connection, &mut look, cursor, number, (newest, 0))?
        }
    };
    let mut rows = Vec::new();
    while let Some(position) = next
        && rows.len() <= usize::from(page.limit())
    {
        let mut found = look.query([position, number])?;
        let Some(row) = found.next()? else { break };
        next = backwards(position, row.get(0)?)?;
        rows.push((uncount(position)?, read_usage(position, account, row)?));
    }
    Ok(Paged::from_rows(page, rows))
}

pub(super) fn usage_at(
    connection: &Connection,
    account: &AccountId,
    position: u64,
) -> Result<Option<UsageEntry>, Failure> {
    let Ok(position) = i64::try_from(position) else {
        return Ok(None);
    };
    // The number of an account never changes.
    let owner = read_account(&mut *connection.prepare_cached(ACCOUNT)?, account)?;
    let mut look = connection.prepare_cached(USAGE)?;
    let mut found = look.query(params![position, owner.number])?;
    match found.next()? {
        None => Ok(None),
        Some(row) => read_usage(position, account, row).map(Some),
    }
}

/// Oldest first. One writer writes them, so that their order is that of their commits.
pub(super) fn usage_of_all(
    connection: &Connection,
    page: &Page,
) -> Result<Paged<UsageEntry>, Failure> {
    let after = page
        .cursor()
        .map_or(0, |cursor| i64::try_from(cursor).unwrap_or(END));
    let wanted = u32::from(page.limit()).saturating_add(1);
    let mut look = connection.prepare_cached(USAGE_OF_ALL)?;
    let mut found = look.query(params![after, wanted])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let position = row.get(21)?;
        let account: AccountId = name(row, 22)?;
        rows.push((uncount(position)?, read_usage(position, &account, row)?));
    }
    Ok(Paged::from_rows(page, rows))
}

pub(super) fn transactions(
    connection: &Connection,
    account: &AccountId,
    page: &Page,
) -> Result<Paged<Transaction>, Failure> {
    let _read = connection.unchecked_transaction()?;
    let found = read_account(&mut *connection.prepare_cached(ACCOUNT)?, account)?;
    let Some(number) = found.number else {
        return Ok(Paged::from_rows(page, Vec::new()));
    };
    let mut look = connection.prepare_cached(USAGE)?;
    let (end, mut next) = match page.cursor() {
        None => (END, found.row.latest_charge),
        Some(cursor) => {
            let mut payment = connection.prepare_cached(
                "SELECT previous_charge FROM credit WHERE position = ? AND account = ?",
            )?;
            let newest = found.row.latest_charge;
            let next = match link(&mut payment, cursor, number, 0)? {
                None => before(connection, &mut look, cursor, number, (newest, 1))?,
                Some(next) => next,
            };
            (i64::try_from(cursor).unwrap_or(END), next)
        }
    };
    let wanted = usize::from(page.limit()).saturating_add(1);
    let mut rows = Vec::new();
    while let Some(position) = next
        && rows.len() < wanted
    {
        let mut found = look.query([position, number])?;
        let Some(row) = found.next()? else { break };
        next = backwards(position, row.get(1)?)?;
        rows.push((uncount(position)?, read_charge(position, row)?));
    }
    let mut paid = connection.prepare_cached(PAYMENTS)?;
    let limit = i64::from(page.limit()).saturating_add(1);
    let mut paid = paid.query([number, end, limit])?;
    while let Some(row) = paid.next()? {
        let payment = read_payment(row)?;
        rows.push((payment.position, payment));
    }
    rows.sort_unstable_by_key(|(position, _)| std::cmp::Reverse(*position));
    rows.truncate(wanted);
    Ok(Paged::from_rows(page, rows))
}

/// The account's newest row before `cursor`, in the chain that starts at `newest` and continues in
/// that column.
fn before(
    connection: &Connection,
    look: &mut Statement<'_>,
    cursor: u64,
    account: i64,
    (newest, column): (Option<i64>, usize),
) -> Result<Option<i64>, Failure> {
    if let Some(next) = link(look, cursor, account, column)? {
        return Ok(next);
    }
    let cursor = i64::try_from(cursor).unwrap_or(END);
    // A pruned row: all before it are gone as well.
    let mut oldest = connection.prepare_cached("SELECT min(position) FROM usage")?;
    let oldest: Option<i64> = oldest.query_row([], |row| row.get(0))?;
    if oldest.is_none_or(|oldest| cursor <= oldest) {
        return Ok(None);
    }
    // Not a row of this account: skip the account's own rows one by one, within a bound.
    let mut next = newest;
    let mut passed = 0_u32;
    while let Some(position) = next
        && position >= cursor
    {
        passed = passed.saturating_add(1);
        if passed > PASSED_MAX {
            return Ok(None);
        }
        let found = look.query_row([position, account], |row| row.get(column));
        next = backwards(position, found.optional()?.flatten())?;
    }
    Ok(next)
}

/// The row that the one at `cursor` links to, if that is the account's and still there.
fn link(
    look: &mut Statement<'_>,
    cursor: u64,
    account: i64,
    column: usize,
) -> Result<Option<Option<i64>>, Failure> {
    let cursor = i64::try_from(cursor).unwrap_or(END);
    let found = look.query_row(params![cursor, account], |row| row.get(column));
    Ok(found.optional()?)
}

/// A link that doesn't lead backwards could make the chain endless.
fn backwards(position: i64, previous: Option<i64>) -> Result<Option<i64>, Failure> {
    match previous {
        Some(previous) if previous >= position => Err(Failure::corrupt("a log that turns back")),
        previous => Ok(previous),
    }
}

fn read_usage(position: i64, account: &AccountId, row: &Row<'_>) -> Result<UsageEntry, Failure> {
    let tokens = |column| row.get::<_, Option<i64>>(column);
    let outcome = row.get_ref(9)?.as_str().ok().and_then(Outcome::from_name);
    let latency: i64 = row.get(11)?;
    Ok(UsageEntry {
        position: uncount(position)?,
        call: Call {
            request_id: row.get::<_, String>(2)?.into(),
            account: account.clone(),
            principal: principal(row, 14, account)?,
            key: match row.get::<_, Option<String>>(3)? {
                None => None,
                Some(_) => Some(name(row, 3)?),
            },
            route: row.get::<_, String>(4)?.into(),
            started_at: moment(row.get(5)?)?,
        },
        held: money(row, 7)?,
        settlement: Settlement {
            charged: money(row, 8)?,
            outcome: outcome.ok_or_else(|| Failure::corrupt("an unknown outcome"))?,
            status: row.get(10)?,
            latency: std::time::Duration::from_micros(uncount(latency)?),
            input_tokens: tokens(12)?.map(uncount).transpose()?,
            cached_tokens: tokens(17)?.map(uncount).transpose()?,
            cache_write_tokens: tokens(18)?.map(uncount).transpose()?,
            output_tokens: tokens(13)?.map(uncount).transpose()?,
            bytes: tokens(16)?.map(uncount).transpose()?,
            model: row.get::<_, Option<String>>(15)?.map(Into::into),
            usage_is_missing: row.get::<_, Option<bool>>(19)?.unwrap_or_default(),
            details: details(row, 20)?,
        },
        settled_at: moment(row.get(6)?)?,
    })
}

pub(super) fn details(row: &Row<'_>, column: usize) -> Result<Option<Box<UsageDetails>>, Failure> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(text) | ValueRef::Blob(text) => {
            UsageDetails::from_text(&String::from_utf8_lossy(text))
        }
        _ => None,
    })
}

fn read_charge(position: i64, row: &Row<'_>) -> Result<Transaction, Failure> {
    Ok(Transaction {
        position: uncount(position)?,
        at: moment(row.get(6)?)?,
        amount: Money::ZERO.saturating_sub(money(row, 8)?),
        reference: row.get(2)?,
        route: Some(row.get(4)?),
        refunded: None,
    })
}

fn read_payment(row: &Row<'_>) -> Result<Transaction, Failure> {
    Ok(Transaction {
        position: uncount(row.get(0)?)?,
        at: moment(row.get(1)?)?,
        amount: money(row, 2)?,
        reference: row.get(3)?,
        route: None,
        refunded: row.get(4)?,
    })
}

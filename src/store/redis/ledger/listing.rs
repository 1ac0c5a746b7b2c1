//! Pages of the log, newest first. A row's id in its stream is its position in the account's log.

use std::{collections::HashMap, sync::Arc};

use super::{
    codec::{self, corrupt},
    redis_call::{RedisCall, TRANSACTIONS},
    shared::{Failure, Shared},
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::Snapshot,
        budget::Windows,
        money::Money,
        page::{Page, Paged},
        usage::{Expiry, Settlement, Transaction, UsageDetails, UsageEntry},
    },
    store::StoreError,
};

/// A row of a stream.
type Row = (String, HashMap<String, String>);

/// The position to start before, and the number of rows: one more than the page holds. `None` if
/// nothing comes before.
fn bounds(page: &Page) -> Option<(String, usize)> {
    let before = match page.cursor() {
        None => "+".to_owned(),
        Some(0) => return None,
        Some(cursor) => format!("({cursor}-0"),
    };
    Some((before, usize::from(page.limit()).saturating_add(1)))
}

fn position(place: &str) -> Result<u64, StoreError> {
    let number = place.strip_suffix("-0").ok_or_else(|| corrupt("place"))?;
    number.parse().map_err(|_| corrupt("place"))
}

fn field<'a>(row: &'a Row, name: &str) -> Result<&'a str, StoreError> {
    row.1
        .get(name)
        .map(String::as_str)
        .ok_or_else(|| corrupt("row"))
}

/// One command, for one state of the account.
pub(super) async fn snapshot(
    shared: &Arc<Shared>,
    account: &AccountId,
) -> Result<Snapshot, Failure> {
    let command = RedisCall::command("HMGET")
        .arg(shared.names.account(account).books())
        .arg(["deposited", "settled", "held", "credit_line", "position"].as_slice());
    let shard = shared.shard(account.as_str());
    let words: Vec<Option<String>> = shared.ask(shard, &command).await?;
    let Some((newest, amounts)) = words.split_last() else {
        return Err(corrupt("balance").into());
    };
    let newest = newest.as_deref().map(str::parse::<u64>).transpose();
    Ok(Snapshot {
        balance: codec::balance(amounts)?,
        position: newest.map_err(|_| corrupt("position"))?,
    })
}

pub(super) async fn usage(
    shared: &Arc<Shared>,
    account: &AccountId,
    page: &Page,
) -> Result<Paged<UsageEntry>, Failure> {
    let Some((before, most)) = bounds(page) else {
        return Ok(Paged::from_rows(page, Vec::new()));
    };
    let command = RedisCall::command("XREVRANGE")
        .arg(shared.names.account(account).usage())
        .arg(before)
        .arg("-")
        .arg("COUNT")
        .arg(most);
    let shard = shared.shard(account.as_str());
    let rows: Vec<Row> = shared.ask(shard, &command).await?;
    let rows = rows.iter().map(|row| {
        let entry = read_usage(shared, account, row)?;
        Ok((entry.position, entry))
    });
    let rows = rows.collect::<Result<_, StoreError>>()?;
    Ok(Paged::from_rows(page, rows))
}

/// The row at a position, if it is still there.
pub(super) async fn usage_at(
    shared: &Arc<Shared>,
    account: &AccountId,
    position: u64,
) -> Result<Option<UsageEntry>, Failure> {
    let place = format!("{position}-0");
    let command = RedisCall::command("XRANGE")
        .arg(shared.names.account(account).usage())
        .arg(place.as_str())
        .arg(place.as_str());
    let rows: Vec<Row> = shared.ask(shared.shard(account.as_str()), &command).await?;
    let row = rows.first().map(|row| read_usage(shared, account, row));
    Ok(row.transpose()?)
}

fn read_usage(shared: &Shared, account: &AccountId, row: &Row) -> Result<UsageEntry, StoreError> {
    let call = codec::read_call(account, field(row, "c")?)?;
    let charged = codec::money(field(row, "x")?)?;
    let settled_at = codec::moment(field(row, "t")?)?;
    let settlement = match field(row, "s")? {
        // Never settled: the ledger resolved it.
        "" => {
            let age = settled_at.duration_since(call.started_at);
            let calendar = &shared.settings.calendar;
            let noted =
                windows(row).and_then(|stamp| calendar.other_windows(call.started_at, stamp));
            let budgets = row.1.get("b").map(|text| serde_json::from_str(text));
            let budgets: Vec<BudgetId> = budgets.and_then(Result::ok).unwrap_or_default();
            let mut abandoned = Settlement::abandoned(Money::ZERO, Expiry::Release, age, &budgets);
            Settlement {
                charged,
                details: UsageDetails::with_windows(abandoned.details.take(), noted),
                ..abandoned
            }
        }
        written => codec::read_settlement(written, charged)?,
    };
    Ok(UsageEntry {
        position: position(&row.0)?,
        call,
        held: codec::money(field(row, "h")?)?,
        settlement,
        settled_at,
    })
}

/// The windows in which a call was charged that the ledger resolved. Older rows don't have them;
/// what can't be read counts as missing, like other details of a row.
fn windows(row: &Row) -> Option<Windows> {
    let second = |name: &str| row.1.get(name)?.parse::<i64>().ok();
    let (day, month) = (second("d")?, second("m")?);
    Some(Windows { day, month })
}

pub(super) async fn transactions(
    shared: &Arc<Shared>,
    account: &AccountId,
    page: &Page,
) -> Result<Paged<Transaction>, Failure> {
    let Some((before, most)) = bounds(page) else {
        return Ok(Paged::from_rows(page, Vec::new()));
    };
    let names = shared.names.account(account);
    let keys = [names.payments(), names.charges()];
    let command = RedisCall::script(&TRANSACTIONS, &keys)
        .arg(before)
        .arg(most);
    let shard = shared.shard(account.as_str());
    let (payments, charges): (Vec<Row>, Vec<Row>) = shared.ask(shard, &command).await?;
    let payments = payments.iter().map(read_payment);
    let charges = charges.iter().map(|row| read_charge(account, row));
    let mut all = payments
        .chain(charges)
        .collect::<Result<Vec<_>, StoreError>>()?;
    all.sort_unstable_by_key(|moved| std::cmp::Reverse(moved.position));
    let rows = all.into_iter().map(|moved| (moved.position, moved));
    Ok(Paged::from_rows(page, rows.collect()))
}

fn read_payment(row: &Row) -> Result<Transaction, StoreError> {
    Ok(Transaction {
        position: position(&row.0)?,
        at: codec::moment(field(row, "t")?)?,
        amount: codec::money(field(row, "a")?)?,
        reference: field(row, "r")?.to_owned(),
        route: None,
        refunded: row.1.get("q").cloned(),
    })
}

fn read_charge(account: &AccountId, row: &Row) -> Result<Transaction, StoreError> {
    let call = codec::read_call(account, field(row, "c")?)?;
    let charged = codec::money(field(row, "x")?)?;
    Ok(Transaction {
        position: position(&row.0)?,
        at: codec::moment(field(row, "t")?)?,
        amount: Money::ZERO.saturating_sub(charged),
        reference: call.request_id.to_string(),
        route: Some(call.route.to_string()),
        refunded: None,
    })
}

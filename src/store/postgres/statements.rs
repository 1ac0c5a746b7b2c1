//! The statements of a transaction in the books, each one round trip for the whole batch.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use sqlx::{Row, postgres::PgConnection};

use super::{
    batch::{Account, LoadedBudget, end_micros},
    command::Command,
    convert::{Failure, money, name},
    instance::Instance,
    listing::read_balance,
};
use crate::{
    domain::{
        AccountId,
        books::{Budget, Spent},
        budget::{SoftLimits, SpendingLimits, Windows},
        money::Money,
        usage::HoldId,
    },
    store::{rolling, thresholds},
};

/// In the same order everywhere, so that transactions never deadlock.
const LOCK: &str = "SELECT id, number, deposited, settled, held, credit_line FROM account
     WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// Without waiting for any lock.
const LOCKED: &str = "WITH free AS (
         SELECT id FROM account WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED
     )
     SELECT id FROM account WHERE id = ANY($1) AND id NOT IN (SELECT id FROM free)";

const BUDGETS: &str =
    "SELECT account, id, daily, monthly, total, day, month, day_settled, day_held,
     month_settled, month_held, total_settled, total_held, soft_daily, soft_monthly, soft_total,
     rolling, thresholds FROM unnest($1::bigint[], $2::text[]) AS wanted (account, id)
     JOIN budget USING (account, id)";

const END_HOLDS: &str =
    "DELETE FROM hold USING unnest($1::bigint[], $2::bigint[]) AS ending (instance, number)
     WHERE hold.instance = ending.instance AND hold.number = ending.number
     RETURNING hold.instance, hold.number";

const EXTEND_HOLDS: &str = "UPDATE hold SET ends = longer.ends
     FROM unnest($2::bigint[], $3::bigint[]) AS longer (number, ends)
     WHERE hold.instance = $1 AND hold.number = longer.number RETURNING hold.number";

/// Locks the accounts until the end of the transaction, and loads them. An account without a row is
/// not locked: nothing is written for it.
pub(super) async fn lock(
    connection: &mut PgConnection,
    ids: &[&AccountId],
) -> Result<HashMap<AccountId, Account>, Failure> {
    let names: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    let rows = sqlx::query(LOCK).bind(names).fetch_all(connection).await?;
    let mut accounts: HashMap<AccountId, Account> = ids
        .iter()
        .map(|id| ((*id).clone(), Account::default()))
        .collect();
    for row in &rows {
        let balance = read_balance(row, 2)?;
        let account = Account {
            number: Some(row.try_get(1)?),
            balance,
            stored: balance,
            open: 0,
            budgets: HashMap::new(),
        };
        accounts.insert(name(row, 0)?, account);
    }
    Ok(accounts)
}

/// Which of the accounts others have locked. The rest get locked by this.
pub(super) async fn locked(
    connection: &mut PgConnection,
    ids: &[&AccountId],
) -> Result<HashSet<AccountId>, Failure> {
    let names: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    let rows = sqlx::query(LOCKED)
        .bind(names)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| name(row, 0)).collect()
}

/// Creates rows for accounts.
pub(super) async fn make_accounts(
    connection: &mut PgConnection,
    ids: &[&AccountId],
) -> Result<(), Failure> {
    let names: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    sqlx::query(
        "INSERT INTO account (id) SELECT id FROM unnest($1::text[]) AS new (id) ORDER BY id
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(names)
    .execute(connection)
    .await?;
    Ok(())
}

/// Loads the budgets that the batch needs. The lock of their account covers them.
pub(super) async fn load_budgets(
    connection: &mut PgConnection,
    accounts: &mut HashMap<AccountId, Account>,
    batch: &[Command],
) -> Result<(), Failure> {
    let mut owners: HashMap<i64, AccountId> = HashMap::new();
    let mut wanted: HashSet<(i64, &str)> = HashSet::new();
    for command in batch.iter().filter(|command| command.is_wanted()) {
        let Some(id) = command.account() else {
            continue;
        };
        let Some(number) = accounts.get(id).and_then(|account| account.number) else {
            continue;
        };
        if !command.budgets().is_empty() {
            owners.entry(number).or_insert_with(|| id.clone());
            wanted.extend(command.budgets().iter().map(|id| (number, id.as_str())));
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let (numbers, names): (Vec<i64>, Vec<&str>) = wanted.into_iter().unzip();
    let rows = sqlx::query(BUDGETS)
        .bind(numbers)
        .bind(names)
        .fetch_all(connection)
        .await?;
    for row in &rows {
        let owner = owners.get(&row.try_get::<i64, _>(0)?);
        if let Some(account) = owner.and_then(|owner| accounts.get_mut(owner)) {
            let budget = read_budget(row)?;
            let loaded = LoadedBudget {
                budget: budget.clone(),
                stored: Some(budget),
            };
            account.budgets.insert(name(row, 1)?, loaded);
        }
    }
    Ok(())
}

/// Reads the columns of [`BUDGETS`]; the first is left to the caller.
pub(super) fn read_budget(row: &sqlx::postgres::PgRow) -> Result<Budget, Failure> {
    let limit = |column: usize| -> Result<Option<Money>, Failure> {
        Ok(row
            .try_get::<Option<i64>, _>(column)?
            .map(Money::from_nanos))
    };
    let spent = |settled: usize, held: usize| -> Result<Spent, Failure> {
        Ok(Spent {
            settled: money(row, settled)?,
            held: money(row, held)?,
        })
    };
    let mut budget = Budget {
        limits: SpendingLimits {
            daily: limit(2)?,
            monthly: limit(3)?,
            total: limit(4)?,
            soft: SoftLimits {
                daily: limit(13)?.into(),
                monthly: limit(14)?.into(),
                total: limit(15)?.into(),
            },
            rolling: None,
        },
        windows: Windows {
            day: row.try_get(5)?,
            month: row.try_get(6)?,
        },
        day: spent(7, 8)?,
        month: spent(9, 10)?,
        total: spent(11, 12)?,
        rolling: None,
    };
    if let Some(text) = row.try_get::<Option<&str>, _>(16)? {
        let corrupt = || Failure::corrupt("a rolling window");
        rolling::read(text, &mut budget).ok_or_else(corrupt)?;
    }
    if let Some(text) = row.try_get::<Option<&str>, _>(17)? {
        thresholds::read(text, &mut budget);
    }
    Ok(budget)
}

/// Deletes the holds that the batch settles; returns those that existed.
pub(super) async fn end_holds(
    connection: &mut PgConnection,
    batch: &[Command],
) -> Result<HashSet<HoldId>, Failure> {
    let ids = batch.iter().filter_map(|command| match command {
        Command::Settle { hold, .. } => {
            Some((hold.id.instance.cast_signed(), hold.id.number.cast_signed()))
        }
        _ => None,
    });
    let (instances, numbers): (Vec<i64>, Vec<i64>) = ids.unzip();
    if instances.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = sqlx::query(END_HOLDS)
        .bind(instances)
        .bind(numbers)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(HoldId {
                instance: row.try_get::<i64, _>(0)?.cast_unsigned(),
                number: row.try_get::<i64, _>(1)?.cast_unsigned(),
            })
        })
        .collect()
}

/// Extends holds of this instance, whose clock their end is measured on; returns those that
/// existed.
pub(super) async fn extend_holds(
    connection: &mut PgConnection,
    instance: &Instance,
    elapsed: Duration,
    batch: &[Command],
) -> Result<HashSet<HoldId>, Failure> {
    let extended = batch.iter().filter_map(|command| match command {
        Command::Extend { hold, lifetime, .. } if instance.granted(*hold) => {
            let ends = end_micros(elapsed, *lifetime);
            Some((hold.number.cast_signed(), ends))
        }
        _ => None,
    });
    let (numbers, ends): (Vec<i64>, Vec<i64>) = extended.unzip();
    if numbers.is_empty() {
        return Ok(HashSet::new());
    }
    let rows: Vec<i64> = sqlx::query_scalar(EXTEND_HOLDS)
        .bind(instance.id())
        .bind(numbers)
        .bind(ends)
        .fetch_all(connection)
        .await?;
    let hold = |number: i64| HoldId {
        instance: instance.id().cast_unsigned(),
        number: number.cast_unsigned(),
    };
    Ok(rows.into_iter().map(hold).collect())
}

//! Accounts and budgets, as stored and within a transaction: each is loaded once and written back
//! once.

use hashbrown::{HashMap, hash_map::EntryRef};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::{batch::Statements, convert::Failure};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{Balance, Books, Budget, Spent},
        budget::{SoftLimits, SpendingLimits, Windows},
        money::Money,
    },
    store::{rolling, thresholds},
};

pub(super) const ACCOUNT: &str =
    "SELECT number, deposited, settled, held, latest_usage, latest_charge, credit_line
     FROM account WHERE id = ?";

pub(super) const BUDGET: &str = "SELECT daily, monthly, total, day, month, day_settled, day_held,
     month_settled, month_held, total_settled, total_held, soft_daily, soft_monthly, soft_total, rolling,
     thresholds FROM budget WHERE account = ? AND id = ?";

/// An account within the transaction.
#[derive(Default)]
pub(super) struct Account {
    /// The number of its row; `None` while it has none.
    pub(super) number: Option<i64>,
    pub(super) row: AccountRow,
    stored: AccountRow,
    /// Holds of this instance that this transaction opened for it, minus those that it ended.
    pub(super) opened: isize,
    budgets: LoadedBudgets,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AccountRow {
    pub(super) balance: Balance,
    pub(super) latest_usage: Option<i64>,
    pub(super) latest_charge: Option<i64>,
}

/// Apart from the other columns, because it rarely changes: each bound column costs the writer
/// time.
const SET_THRESHOLDS: &str = "UPDATE budget SET thresholds = ? WHERE account = ? AND id = ?";

#[derive(Default)]
struct LoadedBudget {
    budget: Budget,
    stored: Option<Budget>,
    /// As stored: another version may have changed the smallest of these soft limits.
    thresholds: Option<String>,
}

/// The budgets of one account. Each call looks for its own several times, and most accounts have
/// one: comparing is cheaper than hashing.
#[derive(Default)]
struct LoadedBudgets {
    first: Option<(BudgetId, LoadedBudget)>,
    others: HashMap<BudgetId, LoadedBudget>,
}

impl LoadedBudgets {
    fn contains(&self, id: &BudgetId) -> bool {
        match &self.first {
            Some((first, _)) if first == id => true,
            _ => self.others.contains_key(id),
        }
    }

    /// Adds one that has no row.
    fn add(&mut self, id: &BudgetId, loaded: LoadedBudget) {
        if self.first.is_none() {
            self.first = Some((id.clone(), loaded));
        } else {
            self.others.insert(id.clone(), loaded);
        }
    }

    fn of(&mut self, id: &BudgetId) -> &mut LoadedBudget {
        match &mut self.first {
            Some((first, loaded)) if first == id => loaded,
            _ => self.others.entry_ref(id).or_default(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&BudgetId, &LoadedBudget)> {
        let first = self.first.iter().map(|(id, loaded)| (id, loaded));
        first.chain(&self.others)
    }
}

impl Books for Account {
    fn balance(&mut self) -> &mut Balance {
        &mut self.row.balance
    }

    /// Every budget with a row is loaded before the books reach the domain, so this only creates
    /// new ones.
    fn budget(&mut self, id: &BudgetId) -> &mut Budget {
        &mut self.budgets.of(id).budget
    }
}

pub(super) fn read_account(
    statement: &mut Statement<'_>,
    id: &AccountId,
) -> Result<Account, Failure> {
    let found = statement
        .query_row([id.as_str()], |row| {
            let loaded = AccountRow {
                balance: Balance {
                    deposited: Money::from_nanos(row.get(1)?),
                    settled: Money::from_nanos(row.get(2)?),
                    held: Money::from_nanos(row.get(3)?),
                    credit_line: Money::from_nanos(row.get(6)?),
                },
                latest_usage: row.get(4)?,
                latest_charge: row.get(5)?,
            };
            Ok((row.get(0)?, loaded))
        })
        .optional()?;
    Ok(
        found.map_or_else(Account::default, |(number, row)| Account {
            number: Some(number),
            row,
            stored: row,
            opened: 0,
            budgets: LoadedBudgets::default(),
        }),
    )
}

fn read_budget(
    statement: &mut Statement<'_>,
    account: i64,
    id: &BudgetId,
) -> Result<Option<(Budget, Option<String>)>, Failure> {
    let found = statement.query_row(params![account, id.as_str()], |row| {
        let limit = |column| {
            Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(Money::from_nanos))
        };
        let spent = |settled, held| {
            Ok::<_, rusqlite::Error>(Spent {
                settled: Money::from_nanos(row.get(settled)?),
                held: Money::from_nanos(row.get(held)?),
            })
        };
        let budget = Budget {
            limits: SpendingLimits {
                daily: limit(0)?,
                monthly: limit(1)?,
                total: limit(2)?,
                soft: SoftLimits {
                    daily: limit(11)?.into(),
                    monthly: limit(12)?.into(),
                    total: limit(13)?.into(),
                },
                rolling: None,
            },
            windows: Windows {
                day: row.get(3)?,
                month: row.get(4)?,
            },
            day: spent(5, 6)?,
            month: spent(7, 8)?,
            total: spent(9, 10)?,
            rolling: None,
        };
        Ok((budget, row.get(14)?, row.get(15)?))
    });
    let found: Option<(_, Option<String>, Option<String>)> = found.optional()?;
    let Some((mut budget, rolling, thresholds)) = found else {
        return Ok(None);
    };
    if let Some(text) = rolling {
        let corrupt = || Failure::corrupt("a rolling window");
        rolling::read(&text, &mut budget).ok_or_else(corrupt)?;
    }
    if let Some(text) = &thresholds {
        thresholds::read(text, &mut budget);
    }
    Ok(Some((budget, thresholds)))
}

/// A budget, for a reader.
pub(super) fn find_budget(
    connection: &Connection,
    account: &AccountId,
    id: &BudgetId,
) -> Result<Option<Budget>, Failure> {
    let number = connection
        .prepare_cached("SELECT number FROM account WHERE id = ?")?
        .query_row([account.as_str()], |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(number) = number else {
        return Ok(None);
    };
    let found = read_budget(&mut *connection.prepare_cached(BUDGET)?, number, id)?;
    Ok(found.map(|(budget, _)| budget))
}

/// The account and the named budgets of its own, loaded if they aren't yet.
pub(super) fn load<'a>(
    accounts: &'a mut HashMap<AccountId, Account>,
    statements: &mut Statements<'_>,
    id: &AccountId,
    budgets: &[BudgetId],
) -> Result<&'a mut Account, Failure> {
    // Account names are reference counts shared with the callers: cloning one here would contend
    // with them.
    let account = match accounts.entry_ref(id) {
        EntryRef::Occupied(entry) => entry.into_mut(),
        EntryRef::Vacant(entry) => entry.insert(read_account(&mut statements.account, id)?),
    };
    let Some(number) = account.number else {
        return Ok(account);
    };
    for budget in budgets {
        if !account.budgets.contains(budget) {
            let found = read_budget(&mut statements.budget, number, budget)?;
            let (stored, thresholds) = found.unzip();
            let loaded = LoadedBudget {
                budget: stored.clone().unwrap_or_default(),
                stored,
                thresholds: thresholds.flatten(),
            };
            account.budgets.add(budget, loaded);
        }
    }
    Ok(account)
}

impl Account {
    /// The number of the account's row, which is inserted if missing.
    pub(super) fn stored_number(
        &mut self,
        statements: &mut Statements<'_>,
        id: &AccountId,
    ) -> Result<i64, Failure> {
        if let Some(number) = self.number {
            return Ok(number);
        }
        let number = statements.insert_account.insert([id.as_str()])?;
        self.number = Some(number);
        Ok(number)
    }

    pub(super) fn write_back(
        &self,
        connection: &Connection,
        statements: &mut Statements<'_>,
    ) -> Result<(), Failure> {
        // Without a row nothing was granted, paid or logged; at most, windows have restarted.
        let Some(number) = self.number else {
            return Ok(());
        };
        if self.row != self.stored {
            let balance = self.row.balance;
            statements.update_account.execute(params![
                balance.deposited.nanos(),
                balance.settled.nanos(),
                balance.held.nanos(),
                self.row.latest_usage,
                self.row.latest_charge,
                balance.credit_line.nanos(),
                number
            ])?;
        }
        for (id, loaded) in self.budgets.iter() {
            loaded.write_back(id, number, connection, statements)?;
        }
        Ok(())
    }
}

impl LoadedBudget {
    fn write_back(
        &self,
        id: &BudgetId,
        account: i64,
        connection: &Connection,
        statements: &mut Statements<'_>,
    ) -> Result<(), Failure> {
        let budget = &self.budget;
        if self.stored.as_ref() == Some(budget) {
            return Ok(());
        }
        let (limits, soft) = (&budget.limits, &budget.limits.soft);
        let [daily, monthly, total, soft_daily, soft_monthly, soft_total] = [
            limits.daily,
            limits.monthly,
            limits.total,
            soft.daily.first(),
            soft.monthly.first(),
            soft.total.first(),
        ]
        .map(|limit| limit.map(Money::nanos));
        let write = match self.stored {
            None => &mut statements.insert_budget,
            Some(_) => &mut statements.update_budget,
        };
        write.execute(params![
            daily,
            monthly,
            total,
            budget.windows.day,
            budget.windows.month,
            budget.day.settled.nanos(),
            budget.day.held.nanos(),
            budget.month.settled.nanos(),
            budget.month.held.nanos(),
            budget.total.settled.nanos(),
            budget.total.held.nanos(),
            soft_daily,
            soft_monthly,
            soft_total,
            rolling::write(budget),
            account,
            id.as_str(),
        ])?;
        let thresholds = thresholds::write(budget);
        if thresholds != self.thresholds {
            let mut write = connection.prepare_cached(SET_THRESHOLDS)?;
            write.execute(params![thresholds, account, id.as_str()])?;
        }
        Ok(())
    }
}

//! What one transaction has on the desk: each account and budget that it touches, loaded once and
//! written back once.
//!
//! Nothing of the books is kept from one transaction to the next, so several processes may share a file.

use std::{sync::Arc, time::Duration};

use hashbrown::{HashMap, hash_map::EntryRef};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::{Settings, bundles::Bundles, convert::Failure, recovery::House};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{Balance, Books, Budget, Spent},
        budget::{Moment, SoftLimits, SpendingAlert, SpendingLimits, Windows},
        clock::Timestamp,
        money::Money,
        usage::HoldId,
    },
    store::rolling,
};

pub(super) struct Desk<'c> {
    pub(super) connection: &'c Connection,
    pub(super) statements: Statements<'c>,
    pub(super) settings: Arc<Settings>,
    pub(super) accounts: HashMap<AccountId, Account>,
    pub(super) bundles: Bundles<'c>,
    pub(super) log: Log,
    /// The moment of what is run now, in the transaction.
    pub(super) now: Timestamp,
    pub(super) elapsed: Duration,
    /// The same, as budgets see it.
    pub(super) moment: Moment,
    pub(super) house: House,
    pub(super) tally: Tally,
    /// To be told when this is committed.
    pub(super) alerts: Vec<SpendingAlert>,
}

/// Which of this instance's holds this transaction opens and ends.
#[derive(Default)]
pub(super) struct Tally {
    /// With what its clock says when it ends by itself.
    pub(super) opened: Vec<(HoldId, Duration)>,
    pub(super) ended: Vec<HoldId>,
    /// It goes on as another instance, which has none open.
    pub(super) is_anew: bool,
    /// Open ones of an instance that others took for dead: they are not ours any more.
    pub(super) lost: usize,
}

/// What is numbered next, once it is loaded.
#[derive(Clone, Copy, Default)]
pub(super) struct Log {
    next: Option<Next>,
    stored: Option<Next>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Next {
    /// In the log of usage and payments.
    position: i64,
    hold: i64,
}

/// The statements of every call, prepared once. Those of rarer changes are in the connection's cache.
pub(super) struct Statements<'c> {
    account: Statement<'c>,
    budget: Statement<'c>,
    pub(super) insert_usage: Statement<'c>,
    /// The same of most calls, which have nothing in its last columns: each that is bound costs the writer.
    pub(super) insert_plain_usage: Statement<'c>,
    insert_account: Statement<'c>,
    update_account: Statement<'c>,
    insert_budget: Statement<'c>,
    update_budget: Statement<'c>,
    next: Statement<'c>,
    update_next: Statement<'c>,
}

/// With how many columns of usage most calls do.
pub(super) const PLAIN_USAGE: usize = 17;

impl<'c> Statements<'c> {
    fn prepare(connection: &'c Connection) -> Result<Self, Failure> {
        Ok(Self {
            account: connection.prepare(ACCOUNT)?,
            budget: connection.prepare(BUDGET)?,
            insert_usage: connection.prepare(
                "INSERT INTO usage (position, account, previous, previous_charge, request_id, key,
                 route, started_at, settled_at, held, charged, outcome, status, latency,
                 input_tokens, output_tokens, principal, model, bytes, cached_tokens,
                 cache_write_tokens, usage_is_missing)
                 VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            )?,
            insert_plain_usage: connection.prepare(
                "INSERT INTO usage (position, account, previous, previous_charge, request_id, key,
                 route, started_at, settled_at, held, charged, outcome, status, latency,
                 input_tokens, output_tokens, principal)
                 VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            )?,
            insert_account: connection.prepare(
                "INSERT INTO account (id, deposited, settled, held) VALUES (?, 0, 0, 0)",
            )?,
            update_account: connection.prepare(
                "UPDATE account SET deposited = ?, settled = ?, held = ?, latest_usage = ?,
                 latest_charge = ?, credit_line = ? WHERE number = ?",
            )?,
            insert_budget: connection.prepare(
                "INSERT INTO budget (daily, monthly, total, day, month, day_settled, day_held,
                 month_settled, month_held, total_settled, total_held, soft_daily, soft_monthly,
                 soft_total, rolling, account, id)
                 VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            )?,
            update_budget: connection.prepare(
                "UPDATE budget SET daily = ?, monthly = ?, total = ?, day = ?, month = ?,
                 day_settled = ?, day_held = ?, month_settled = ?, month_held = ?,
                 total_settled = ?, total_held = ?, soft_daily = ?, soft_monthly = ?,
                 soft_total = ?, rolling = ? WHERE account = ? AND id = ?",
            )?,
            next: connection.prepare("SELECT next, next_hold FROM log")?,
            update_next: connection.prepare("UPDATE log SET next = ?, next_hold = ?")?,
        })
    }
}

pub(super) const ACCOUNT: &str =
    "SELECT number, deposited, settled, held, latest_usage, latest_charge, credit_line
     FROM account WHERE id = ?";

const BUDGET: &str = "SELECT daily, monthly, total, day, month, day_settled, day_held,
     month_settled, month_held, total_settled, total_held, soft_daily, soft_monthly, soft_total, rolling
     FROM budget WHERE account = ? AND id = ?";

/// An account as it stands in the transaction.
#[derive(Default)]
pub(super) struct Account {
    /// Its row; `None` while there is none.
    pub(super) number: Option<i64>,
    pub(super) row: AccountRow,
    stored: AccountRow,
    /// Holds that this transaction opened for it less those that it ended, of this instance's.
    pub(super) opened: isize,
    budgets: HashMap<BudgetId, LoadedBudget>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AccountRow {
    pub(super) balance: Balance,
    pub(super) latest_usage: Option<i64>,
    pub(super) latest_charge: Option<i64>,
}

#[derive(Default)]
struct LoadedBudget {
    budget: Budget,
    stored: Option<Budget>,
}

impl Books for Account {
    fn balance(&mut self) -> &mut Balance {
        &mut self.row.balance
    }

    /// Every budget is loaded before the books are handed to the domain, so none is made here that
    /// has a row.
    fn budget(&mut self, id: &BudgetId) -> &mut Budget {
        &mut self.budgets.entry_ref(id).or_default().budget
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
            budgets: HashMap::new(),
        }),
    )
}

fn read_budget(
    statement: &mut Statement<'_>,
    account: i64,
    id: &BudgetId,
) -> Result<Option<Budget>, Failure> {
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
                    daily: limit(11)?,
                    monthly: limit(12)?,
                    total: limit(13)?,
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
        Ok((budget, row.get::<_, Option<String>>(14)?))
    });
    let Some((mut budget, rolling)) = found.optional()? else {
        return Ok(None);
    };
    if let Some(text) = rolling {
        let corrupt = || Failure::corrupt("a rolling window");
        rolling::read(&text, &mut budget).ok_or_else(corrupt)?;
    }
    Ok(Some(budget))
}

/// A budget as a reader finds it.
pub(super) fn find_budget(
    connection: &Connection,
    account: &AccountId,
    id: &BudgetId,
) -> Result<Option<Budget>, Failure> {
    let number = connection
        .prepare_cached("SELECT number FROM account WHERE id = ?")?
        .query_row([account.as_str()], |row| row.get::<_, i64>(0))
        .optional()?;
    match number {
        None => Ok(None),
        Some(number) => read_budget(&mut *connection.prepare_cached(BUDGET)?, number, id),
    }
}

/// The account and those of its budgets, loaded unless they are on the desk.
pub(super) fn load<'a>(
    accounts: &'a mut HashMap<AccountId, Account>,
    statements: &mut Statements<'_>,
    id: &AccountId,
    budgets: &[BudgetId],
) -> Result<&'a mut Account, Failure> {
    // Names are counted by all who call: a clone of one here would be waited for there.
    let account = match accounts.entry_ref(id) {
        EntryRef::Occupied(entry) => entry.into_mut(),
        EntryRef::Vacant(entry) => entry.insert(read_account(&mut statements.account, id)?),
    };
    let Some(number) = account.number else {
        return Ok(account);
    };
    for budget in budgets {
        if !account.budgets.contains_key(budget) {
            let stored = read_budget(&mut statements.budget, number, budget)?;
            let loaded = LoadedBudget {
                budget: stored.clone().unwrap_or_default(),
                stored,
            };
            account.budgets.insert(budget.clone(), loaded);
        }
    }
    Ok(account)
}

impl Account {
    /// The number of the account's row, which is made if there is none.
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

    fn write_back(&self, statements: &mut Statements<'_>) -> Result<(), Failure> {
        // Without a row nothing was granted, paid or logged: at most windows have begun anew.
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
        for (id, loaded) in &self.budgets {
            let budget = &loaded.budget;
            if loaded.stored.as_ref() == Some(budget) {
                continue;
            }
            let limits = budget.limits;
            let [daily, monthly, total, soft_daily, soft_monthly, soft_total] = [
                limits.daily,
                limits.monthly,
                limits.total,
                limits.soft.daily,
                limits.soft.monthly,
                limits.soft.total,
            ]
            .map(|limit| limit.map(Money::nanos));
            let write = match loaded.stored {
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
                number,
                id.as_str(),
            ])?;
        }
        Ok(())
    }
}

impl Log {
    /// A place in the order of usage rows and payments.
    pub(super) fn position(&mut self, statements: &mut Statements<'_>) -> Result<i64, Failure> {
        let next = self.load(statements)?;
        let position = next.position;
        next.position = position.saturating_add(1);
        Ok(position)
    }

    /// A number that no hold in this file ever had.
    pub(super) fn hold_number(&mut self, statements: &mut Statements<'_>) -> Result<i64, Failure> {
        let next = self.load(statements)?;
        let number = next.hold;
        next.hold = number.saturating_add(1);
        Ok(number)
    }

    fn load(&mut self, statements: &mut Statements<'_>) -> Result<&mut Next, Failure> {
        let next = match self.next {
            Some(next) => next,
            None => {
                let next = statements.next.query_row([], |row| {
                    Ok(Next {
                        position: row.get(0)?,
                        hold: row.get(1)?,
                    })
                })?;
                self.stored = Some(next);
                next
            }
        };
        Ok(self.next.insert(next))
    }
}

impl<'c> Desk<'c> {
    pub(super) fn new(
        connection: &'c Connection,
        settings: Arc<Settings>,
        house: House,
    ) -> Result<Self, Failure> {
        Ok(Self {
            connection,
            statements: Statements::prepare(connection)?,
            accounts: HashMap::new(),
            bundles: Bundles::prepare(connection)?,
            log: Log::default(),
            now: Timestamp::UNIX_EPOCH,
            elapsed: Duration::ZERO,
            moment: Moment::default(),
            settings,
            house,
            tally: Tally::default(),
            alerts: Vec::new(),
        })
    }

    /// Begins a transaction with an empty desk.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        self.clear();
        self.connection
            .prepare_cached("BEGIN IMMEDIATE")?
            .execute([])?;
        self.look_at_the_clock();
        Ok(())
    }

    pub(super) fn look_at_the_clock(&mut self) {
        self.now = self.settings.clock.now();
        self.elapsed = self.settings.clock.elapsed();
        self.moment = self.settings.calendar.moment(self.now);
    }

    /// Writes back what is on the desk, and commits.
    pub(super) fn commit(&mut self) -> Result<(), Failure> {
        for account in self.accounts.values() {
            account.write_back(&mut self.statements)?;
        }
        self.bundles.write()?;
        if let Some(next) = self.log.next
            && self.log.stored != Some(next)
        {
            let write = &mut self.statements.update_next;
            write.execute([next.position, next.hold])?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Leaves the transaction, if there still is one, as though it had not been.
    pub(super) fn roll_back(&mut self) {
        self.clear();
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            let error = Failure::from(error).0;
            tracing::error!(target: "tollgate::sqlite", %error, "can't roll back");
        }
    }

    fn clear(&mut self) {
        self.accounts.clear();
        self.bundles.clear();
        self.log = Log::default();
        self.tally = Tally::default();
        self.alerts.clear();
    }
}

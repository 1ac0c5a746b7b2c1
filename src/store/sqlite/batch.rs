//! The state of one transaction.
//!
//! No books are kept from one transaction to the next, so several processes may share a file.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use rusqlite::{Connection, Statement};

use super::{
    Settings,
    accounts::{ACCOUNT, Account, BUDGET},
    bundles::Bundles,
    convert::Failure,
    maintenance::{Maintenance, OpenHold},
};
use crate::domain::{
    AccountId,
    budget::{Moment, SpendingAlert},
    clock::Timestamp,
    usage::HoldId,
};

pub(super) struct UnitOfWork<'c> {
    pub(super) connection: &'c Connection,
    pub(super) statements: Statements<'c>,
    pub(super) settings: Arc<Settings>,
    pub(super) accounts: HashMap<AccountId, Account>,
    pub(super) bundles: Bundles<'c>,
    pub(super) log: Log,
    /// The time of the commands being run.
    pub(super) now: Timestamp,
    pub(super) elapsed: Duration,
    /// The same, as budgets see it.
    pub(super) moment: Moment,
    pub(super) maintenance: Maintenance,
    pub(super) tally: Tally,
    /// Sent once this is committed.
    pub(super) alerts: Vec<SpendingAlert>,
}

/// Which of this instance's holds this transaction opens and ends.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) opened: Vec<(HoldId, OpenHold)>,
    pub(super) ended: Vec<HoldId>,
    /// The numbers of those that are gone, whoever removed them.
    pub(super) vanished: Vec<u64>,
    /// It continues as a new instance, which has no open holds.
    pub(super) is_anew: bool,
    /// Open holds of an instance that others declared dead: they are no longer ours.
    pub(super) lost: usize,
}

/// The next numbers, once loaded.
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

/// The statements that every call needs, prepared once. Those of rarer changes are in the
/// connection's cache.
pub(super) struct Statements<'c> {
    pub(super) account: Statement<'c>,
    pub(super) budget: Statement<'c>,
    pub(super) insert_usage: Statement<'c>,
    /// The same for most calls, which completed and leave the last columns empty: each bound column
    /// costs the writer time.
    pub(super) insert_plain_usage: Statement<'c>,
    pub(super) insert_account: Statement<'c>,
    pub(super) update_account: Statement<'c>,
    pub(super) insert_budget: Statement<'c>,
    pub(super) update_budget: Statement<'c>,
    next: Statement<'c>,
    update_next: Statement<'c>,
}

/// How many usage columns most calls fill.
pub(super) const PLAIN_USAGE: usize = 16;

impl<'c> Statements<'c> {
    fn prepare(connection: &'c Connection) -> Result<Self, Failure> {
        Ok(Self {
            account: connection.prepare(ACCOUNT)?,
            budget: connection.prepare(BUDGET)?,
            insert_usage: connection.prepare(
                "INSERT INTO usage (position, account, previous, previous_charge, request_id, key,
                 route, started_at, settled_at, held, charged, status, latency, input_tokens,
                 output_tokens, principal, outcome, model, bytes, cached_tokens,
                 cache_write_tokens, usage_is_missing, details)
                 VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            )?,
            insert_plain_usage: connection.prepare(
                "INSERT INTO usage (position, account, previous, previous_charge, request_id, key,
                 route, started_at, settled_at, held, charged, status, latency, input_tokens,
                 output_tokens, principal, outcome)
                 VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,'completed')",
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

impl Log {
    /// The next position in the order of usage rows and payments.
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

impl<'c> UnitOfWork<'c> {
    pub(super) fn new(
        connection: &'c Connection,
        settings: Arc<Settings>,
        maintenance: Maintenance,
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
            maintenance,
            tally: Tally::default(),
            alerts: Vec::new(),
        })
    }

    /// Begins a transaction with nothing loaded.
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

    /// Writes back what was changed, and commits.
    pub(super) fn commit(&mut self) -> Result<(), Failure> {
        for account in self.accounts.values() {
            account.write_back(self.connection, &mut self.statements)?;
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

    /// Leaves the transaction, if there still is one, and discards its effects.
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

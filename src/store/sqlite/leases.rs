//! Leases: money that a node spends by itself, and accounts for in steps.

use std::sync::Arc;

use hashbrown::HashMap;
use jiff::SignedDuration;
use rusqlite::{OptionalExtension, Row, params};

use super::{
    SqliteStore,
    accounts::{Account, load},
    batch::{Statements, UnitOfWork},
    calls::UsageRow,
    command::{Booking, Command},
    convert::{Failure, micros, name},
    holds::{pack, unpack},
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{
            Due, LateReport, Lease, LeaseId, LeaseStanding, LeaseStep, StepKind, Stepped,
            abandoned_call,
        },
        budget::Windows,
        clock::{Clock, Timestamp},
        money::Money,
        usage::{Expiry, Settlement},
    },
    store::{LeaseStore, StoreFuture, Tenure, leasing::tell_lost},
};

/// How long a lease that was resolved without its node is remembered, so that late reports are
/// counted once.
const REMEMBERED_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// Leases resolved, or forgotten, in one transaction.
const STEP: i64 = 1_000;

const LEASE: &str = "SELECT step, amount, day, month, prepaid FROM lease
     WHERE instance = ? AND number = ?";

const ORPHANED: &str =
    "SELECT lease.number, step, amount, day, month, prepaid, instance, account.id, budgets, charges
     FROM lease JOIN account ON account.number = lease.account
     WHERE prepaid IS NULL AND NOT EXISTS (SELECT 1 FROM instance WHERE instance.id = lease.instance)
     LIMIT ?";

impl LeaseStore for SqliteStore {
    fn lease(&self, step: Arc<LeaseStep>) -> StoreFuture<LeaseStanding> {
        // What was spent is accepted for as long as possible: by an open lease, and late.
        if step.kind == StepKind::Lease
            && step.number == 1
            && let Err(damaged) = self.0.settings.damage.refuses()
        {
            return StoreFuture::ready(Err(damaged));
        }
        self.submit(|reply| {
            let work = move |unit: &mut UnitOfWork<'_>| unit.lease(&step).map(Ok);
            Command::Lease(Box::new(Booking::new(work, reply)))
        })
    }

    fn tenure(&self) -> &Tenure {
        &self.0.settings.tenure
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.0.settings.clock)
    }

    fn windows(&self, now: Timestamp) -> Windows {
        self.0.settings.calendar.windows(now)
    }
}

/// The account of a step, with its budgets.
fn account_of<'a>(
    accounts: &'a mut HashMap<AccountId, Account>,
    statements: &mut Statements<'_>,
    step: &LeaseStep,
) -> Result<&'a mut Account, Failure> {
    load(accounts, statements, &step.account, &step.budgets)
}

/// A lease whose instance is gone.
struct Orphaned {
    id: LeaseId,
    lease: Lease,
    account: AccountId,
    budgets: Vec<BudgetId>,
    expiry: Expiry,
}

impl UnitOfWork<'_> {
    pub(super) fn lease(&mut self, step: &LeaseStep) -> Result<LeaseStanding, Failure> {
        if let StepKind::Late(report) = &step.kind {
            return self.report_late(step, report);
        }
        let id = step.id;
        let stored = self.stored_lease(id)?;
        let now = self.moment;
        let may_open = id.instance == self.maintenance.instance();
        let account = account_of(&mut self.accounts, &mut self.statements, step)?;
        let mut lease = match Lease::due(stored, step, may_open) {
            Due::Take(lease) => lease,
            Due::Done(lease) => return Ok(lease.standing(account, &step.budgets, now)),
            Due::Gone => {
                tell_lost(step);
                return Ok(LeaseStanding::default());
            }
        };
        let stepped = lease.take(account, step, now);
        let standing = lease.standing(account, &step.budgets, now);
        self.log_served(step, lease.windows, stepped)?;
        if lease.is_done_with(step) {
            self.connection
                .prepare_cached("DELETE FROM lease WHERE instance = ? AND number = ?")?
                .execute(params![key(id.instance), key(id.number)])?;
        } else {
            self.keep_lease(id, &lease, step)?;
        }
        Ok(standing)
    }

    /// Charges calls that were settled when their lease was over.
    fn report_late(
        &mut self,
        step: &LeaseStep,
        report: &LateReport,
    ) -> Result<LeaseStanding, Failure> {
        if self.stored_lease(step.id)?.is_none() {
            let mut lease = self.stored_lease(report.lease)?;
            let account = account_of(&mut self.accounts, &mut self.statements, step)?;
            let (own, stepped) = report.take(account, step, lease.as_mut(), self.moment.second);
            let windows = lease.unwrap_or(own).windows;
            self.log_served(step, windows, stepped)?;
            self.keep_lease(step.id, &own, step)?;
            if let Some(lease) = lease {
                self.keep_lease(report.lease, &lease, step)?;
            }
        }
        Ok(LeaseStanding::default())
    }

    fn stored_lease(&self, id: LeaseId) -> Result<Option<Lease>, Failure> {
        let found = self
            .connection
            .prepare_cached(LEASE)?
            .query_row(params![key(id.instance), key(id.number)], |row| {
                read_lease(row, 0)
            })
            .optional()?;
        Ok(found)
    }

    /// Writes the rows of the calls of a step, which count in these windows, and tells alerts.
    fn log_served(
        &mut self,
        step: &LeaseStep,
        windows: Windows,
        stepped: Stepped,
    ) -> Result<(), Failure> {
        let calendar = &self.settings.calendar;
        let account = account_of(&mut self.accounts, &mut self.statements, step)?;
        for (served, charged) in step.served.iter().zip(stepped.charged) {
            let row = UsageRow {
                call: &served.call,
                held: served.held,
                charged,
                settlement: &served.settlement,
                settled_at: self.now,
                windows: calendar.other_windows(served.call.started_at, windows),
            };
            row.append(account, &mut self.log, &mut self.statements)?;
        }
        self.alerts.extend(stepped.alerts);
        Ok(())
    }

    /// Stores a lease that `step` has changed.
    fn keep_lease(&mut self, id: LeaseId, lease: &Lease, step: &LeaseStep) -> Result<(), Failure> {
        let account = account_of(&mut self.accounts, &mut self.statements, step)?;
        let number = account.stored_number(&mut self.statements, &step.account)?;
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO lease (instance, number, step, account, amount, day,
                 month, budgets, charges, prepaid, ended_at) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            )?
            .execute(params![
                key(id.instance),
                key(id.number),
                key(lease.step),
                number,
                lease.amount.nanos(),
                lease.windows.day,
                lease.windows.month,
                pack(&step.budgets)?,
                step.expiry == Expiry::Charge,
                lease.prepaid.map(Money::nanos),
                lease.prepaid.map(|_| micros(self.now)),
            ])?;
        Ok(())
    }

    /// Resolves leases whose instance is gone, each by its own policy; `false`: there may be more.
    pub(super) fn resolve_leases(&mut self) -> Result<bool, Failure> {
        let mut orphaned = Vec::new();
        let mut found = 0_i64;
        {
            let mut look = self.connection.prepare_cached(ORPHANED)?;
            let mut rows = look.query([STEP])?;
            while let Some(row) = rows.next()? {
                found = found.saturating_add(1);
                match read_orphaned(row) {
                    Ok(lease) => orphaned.push(lease),
                    // One unreadable row must not stop everyone's writes.
                    Err(failure) => {
                        let error = failure.0;
                        tracing::error!(target: "tollgate::sqlite", %error, "can't resolve a lease");
                    }
                }
            }
        }
        for lease in orphaned {
            if self.is_readable(&lease.account, &lease.budgets)? {
                self.resolve_lease(lease)?;
            }
        }
        Ok(found < STEP)
    }

    fn resolve_lease(&mut self, orphaned: Orphaned) -> Result<(), Failure> {
        let Orphaned {
            id,
            mut lease,
            account: owner,
            budgets,
            expiry,
        } = orphaned;
        tracing::warn!(
            target: "tollgate::ledger",
            lease = %id,
            account = %owner,
            amount = %lease.amount,
            charged = %expiry.charged(lease.amount),
            "resolved the lease of a node that fell silent"
        );
        let account = load(&mut self.accounts, &mut self.statements, &owner, &budgets)?;
        let held = lease.amount;
        let second = self.moment.second;
        let settled = lease.resolve(account, &owner, &budgets, expiry, second);
        self.alerts.extend(settled.alerts);
        if !settled.charged.is_zero() {
            let settlement = Settlement::abandoned(held, expiry, SignedDuration::ZERO, &budgets);
            let calendar = &self.settings.calendar;
            let row = UsageRow {
                call: &abandoned_call(id, &owner, self.now),
                held,
                charged: settled.charged,
                settlement: &settlement,
                settled_at: self.now,
                windows: calendar.other_windows(self.now, lease.windows),
            };
            row.append(account, &mut self.log, &mut self.statements)?;
        }
        self.connection
            .prepare_cached(
                "UPDATE lease SET amount = 0, prepaid = ?, ended_at = ?
                 WHERE instance = ? AND number = ?",
            )?
            .execute(params![
                settled.charged.nanos(),
                micros(self.now),
                key(id.instance),
                key(id.number),
            ])?;
        Ok(())
    }

    /// Forgets leases that were resolved long ago; `false`: there may be more.
    pub(super) fn forget_leases(&mut self) -> Result<bool, Failure> {
        let before = micros(self.now).saturating_sub(REMEMBERED_MICROS);
        let deleted = self
            .connection
            .prepare_cached(
                "DELETE FROM lease WHERE (instance, number) IN
                 (SELECT instance, number FROM lease WHERE ended_at <= ? LIMIT ?)",
            )?
            .execute(params![before, STEP])?;
        Ok(i64::try_from(deleted).unwrap_or(STEP) < STEP)
    }
}

fn key(number: u64) -> i64 {
    number.cast_signed()
}

/// A lease whose columns begin at `first`.
fn read_lease(row: &Row<'_>, first: usize) -> rusqlite::Result<Lease> {
    let column = |offset: usize| first.saturating_add(offset);
    Ok(Lease {
        step: row.get::<_, i64>(column(0))?.cast_unsigned(),
        amount: Money::from_nanos(row.get(column(1))?),
        windows: Windows {
            day: row.get(column(2))?,
            month: row.get(column(3))?,
        },
        prepaid: row.get::<_, Option<i64>>(column(4))?.map(Money::from_nanos),
    })
}

fn read_orphaned(row: &Row<'_>) -> Result<Orphaned, Failure> {
    let budgets = row.get_ref(8)?.as_blob();
    Ok(Orphaned {
        id: LeaseId {
            instance: row.get::<_, i64>(6)?.cast_unsigned(),
            number: row.get::<_, i64>(0)?.cast_unsigned(),
        },
        lease: read_lease(row, 1)?,
        account: name(row, 7)?,
        budgets: unpack(budgets.map_err(|_| Failure::corrupt("a lease's budgets"))?)?,
        expiry: match row.get(9)? {
            true => Expiry::Charge,
            false => Expiry::Release,
        },
    })
}

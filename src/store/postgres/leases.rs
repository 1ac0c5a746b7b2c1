//! Leases: money that a node spends by itself and reports on in steps.

use std::{sync::Arc, time::Duration};

use hashbrown::{HashMap, HashSet};
use jiff::SignedDuration;
use sqlx::{
    Row,
    postgres::{PgConnection, PgRow},
    types::Json,
};
use tokio::sync::oneshot;

use super::{
    PostgresStore,
    batch::{Logged, UnitOfWork},
    command::Command,
    convert::{Failure, Moment, money, name},
    instance::Instance,
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
        usage::{Call, Expiry, Settlement},
    },
    store::{LeaseStore, StoreFuture, Tenure, leasing::tell_lost},
};

/// How long a lease resolved without its node is remembered, so that late reports count once.
const REMEMBERED: Duration = Duration::from_secs(24 * 3_600);

const LOAD: &str = "SELECT instance, number, step, amount, day, month, prepaid
     FROM unnest($1::bigint[], $2::bigint[]) AS wanted (instance, number)
     JOIN lease USING (instance, number)";

const KEEP: &str = "INSERT INTO lease (instance, number, step, account, amount, day, month,
         budgets, charges, prepaid, ended_at)
     SELECT instance, number, step, account, amount, day, month, budgets::json, charges, prepaid,
         CASE WHEN prepaid IS NOT NULL THEN $11 END
     FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
         $7::bigint[], $8::text[], $9::boolean[], $10::bigint[])
         AS new (instance, number, step, account, amount, day, month, budgets, charges, prepaid)
     ON CONFLICT (instance, number) DO UPDATE SET step = excluded.step, amount = excluded.amount,
         prepaid = excluded.prepaid, ended_at = excluded.ended_at";

const END: &str =
    "DELETE FROM lease USING unnest($1::bigint[], $2::bigint[]) AS gone (instance, number)
     WHERE lease.instance = gone.instance AND lease.number = gone.number";

const ORPHANED: &str = "SELECT lease.instance, lease.number, account.id, budgets, charges
     FROM lease JOIN account ON account.number = lease.account
     WHERE prepaid IS NULL AND account.id <> ALL($2)
     AND NOT EXISTS (SELECT FROM instance WHERE instance.id = lease.instance) LIMIT $1";

const FORGET_OLD: &str = "DELETE FROM lease WHERE (instance, number) IN (
         SELECT instance, number FROM lease WHERE ended_at <= $1 LIMIT $2
         FOR UPDATE SKIP LOCKED
     )";

impl LeaseStore for PostgresStore {
    fn lease(&self, step: Arc<LeaseStep>) -> StoreFuture<LeaseStanding> {
        let (reply, receiver) = oneshot::channel();
        let command = Command::Lease {
            step,
            answer: None,
            reply,
        };
        self.queue(command, receiver)
    }

    fn tenure(&self) -> &Tenure {
        &self.0.shared.tenure
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.0.shared.settings.clock)
    }

    fn windows(&self, now: Timestamp) -> Windows {
        self.0.shared.settings.calendar.windows(now)
    }
}

/// A lease whose instance is gone, and the log row for it if it is charged.
pub(super) struct Orphaned {
    pub(super) id: LeaseId,
    pub(super) account: AccountId,
    pub(super) budgets: Vec<BudgetId>,
    pub(super) expiry: Expiry,
    pub(super) call: Call,
    pub(super) settlement: Settlement,
}

/// The leases that a batch concerns.
#[derive(Default)]
pub(super) struct Leases {
    known: HashMap<LeaseId, Lease>,
    /// The command that changed a lease, by index in the batch, and the account's number.
    changed: HashMap<LeaseId, (usize, i64)>,
    gone: HashSet<LeaseId>,
}

impl Leases {
    pub(super) async fn load(
        connection: &mut PgConnection,
        batch: &[Command],
    ) -> Result<Self, Failure> {
        let ids: HashSet<LeaseId> = batch.iter().flat_map(Command::leases).collect();
        let mut leases = Self::default();
        if ids.is_empty() {
            return Ok(leases);
        }
        let (instances, numbers) = columns(ids);
        let rows = sqlx::query(LOAD)
            .bind(instances)
            .bind(numbers)
            .fetch_all(connection)
            .await?;
        for row in &rows {
            let id = LeaseId {
                instance: row.try_get::<i64, _>(0)?.cast_unsigned(),
                number: row.try_get::<i64, _>(1)?.cast_unsigned(),
            };
            let lease = Lease {
                step: row.try_get::<i64, _>(2)?.cast_unsigned(),
                amount: money(row, 3)?,
                windows: Windows {
                    day: row.try_get(4)?,
                    month: row.try_get(5)?,
                },
                prepaid: row.try_get::<Option<i64>, _>(6)?.map(Money::from_nanos),
            };
            leases.known.insert(id, lease);
        }
        Ok(leases)
    }

    fn keep(&mut self, id: LeaseId, lease: Lease, index: usize, account: i64) {
        self.gone.remove(&id);
        self.known.insert(id, lease);
        self.changed.insert(id, (index, account));
    }

    fn end(&mut self, id: LeaseId) {
        self.known.remove(&id);
        self.changed.remove(&id);
        self.gone.insert(id);
    }

    pub(super) async fn write_back(
        &self,
        connection: &mut PgConnection,
        batch: &[Command],
        now: Timestamp,
    ) -> Result<(), Failure> {
        if !self.gone.is_empty() {
            let (instances, numbers) = columns(self.gone.iter().copied());
            sqlx::query(END)
                .bind(instances)
                .bind(numbers)
                .execute(&mut *connection)
                .await?;
        }
        let mut rows = Columns::default();
        for (id, (index, account)) in &self.changed {
            if let (Some(lease), Some(command)) = (self.known.get(id), batch.get(*index)) {
                rows.push(*id, lease, *account, command)?;
            }
        }
        if rows.instance.is_empty() {
            return Ok(());
        }
        sqlx::query(KEEP)
            .bind(rows.instance)
            .bind(rows.number)
            .bind(rows.step)
            .bind(rows.account)
            .bind(rows.amount)
            .bind(rows.day)
            .bind(rows.month)
            .bind(rows.budgets)
            .bind(rows.charges)
            .bind(rows.prepaid)
            .bind(Moment(now))
            .execute(connection)
            .await?;
        Ok(())
    }
}

fn columns(ids: impl IntoIterator<Item = LeaseId>) -> (Vec<i64>, Vec<i64>) {
    let column = |id: LeaseId| (id.instance.cast_signed(), id.number.cast_signed());
    ids.into_iter().map(column).unzip()
}

#[derive(Default)]
struct Columns {
    instance: Vec<i64>,
    number: Vec<i64>,
    step: Vec<i64>,
    account: Vec<i64>,
    amount: Vec<i64>,
    day: Vec<i64>,
    month: Vec<i64>,
    budgets: Vec<String>,
    charges: Vec<bool>,
    prepaid: Vec<Option<i64>>,
}

impl Columns {
    fn push(
        &mut self,
        id: LeaseId,
        lease: &Lease,
        account: i64,
        command: &Command,
    ) -> Result<(), Failure> {
        let budgets = serde_json::to_string(command.budgets())
            .map_err(|_| Failure::corrupt("names without JSON"))?;
        let expiry = match command {
            Command::Lease { step, .. } => step.expiry,
            Command::EndLease { lease, .. } => lease.expiry,
            _ => Expiry::default(),
        };
        self.instance.push(id.instance.cast_signed());
        self.number.push(id.number.cast_signed());
        self.step.push(lease.step.cast_signed());
        self.account.push(account);
        self.amount.push(lease.amount.nanos());
        self.day.push(lease.windows.day);
        self.month.push(lease.windows.month);
        self.budgets.push(budgets);
        self.charges.push(expiry == Expiry::Charge);
        self.prepaid.push(lease.prepaid.map(Money::nanos));
        Ok(())
    }
}

impl UnitOfWork {
    pub(super) fn lease(
        &mut self,
        instance: &Instance,
        index: usize,
        step: &LeaseStep,
    ) -> Result<LeaseStanding, Failure> {
        if let StepKind::Late(report) = &step.kind {
            return self.report_late(index, step, report);
        }
        let (id, now) = (step.id, self.moment);
        let may_open = id.instance == instance.id().cast_unsigned();
        let stored = self.leases.known.get(&id).copied();
        let account = self.account(&step.account)?;
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
        if lease.is_done_with(step) && stepped.charged.is_empty() {
            self.leases.end(id);
            return Ok(standing);
        }
        let number = self.number(&step.account)?;
        self.log_served((index, number), step, lease.windows, stepped);
        if lease.is_done_with(step) {
            self.leases.end(id);
        } else {
            self.leases.keep(id, lease, index, number);
        }
        Ok(standing)
    }

    /// Charges calls that were settled when their lease was over.
    fn report_late(
        &mut self,
        index: usize,
        step: &LeaseStep,
        report: &LateReport,
    ) -> Result<LeaseStanding, Failure> {
        if !self.leases.known.contains_key(&step.id) {
            let mut lease = self.leases.known.get(&report.lease).copied();
            let (number, second) = (self.number(&step.account)?, self.moment.second);
            let account = self.account(&step.account)?;
            let (own, stepped) = report.take(account, step, lease.as_mut(), second);
            let windows = lease.unwrap_or(own).windows;
            self.log_served((index, number), step, windows, stepped);
            self.leases.keep(step.id, own, index, number);
            if let Some(lease) = lease {
                self.leases.keep(report.lease, lease, index, number);
            }
        }
        Ok(LeaseStanding::default())
    }

    /// Notes the rows of a command, in its account, for calls that count in these windows.
    fn log_served(
        &mut self,
        (command, account): (usize, i64),
        step: &LeaseStep,
        windows: Windows,
        stepped: Stepped,
    ) {
        for (row, (served, charged)) in step.served.iter().zip(stepped.charged).enumerate() {
            self.logged.push(Logged {
                command,
                row,
                account,
                held: served.held,
                charged,
                windows: Some(windows),
            });
        }
        self.alerts.extend(stepped.alerts);
    }

    /// Resolves a lease whose instance is gone, unless another process already did.
    pub(super) fn end_lease(&mut self, index: usize, ended: &Orphaned) -> Result<(), Failure> {
        let known = self.leases.known.get(&ended.id).copied();
        let Some(mut lease) = known.filter(|lease| lease.prepaid.is_none()) else {
            return Ok(());
        };
        let (held, second) = (lease.amount, self.moment.second);
        let number = self.number(&ended.account)?;
        let account = self.account(&ended.account)?;
        let (owner, budgets) = (&ended.account, &ended.budgets);
        let settled = lease.resolve(account, owner, budgets, ended.expiry, second);
        tracing::warn!(
            target: "tollgate::ledger",
            lease = %ended.id,
            account = %ended.account,
            amount = %held,
            charged = %settled.charged,
            "resolving the lease of a dead node"
        );
        self.alerts.extend(settled.alerts);
        if !settled.charged.is_zero() {
            self.logged.push(Logged {
                command: index,
                row: 0,
                account: number,
                held,
                charged: settled.charged,
                windows: Some(lease.windows),
            });
        }
        self.leases.keep(ended.id, lease, index, number);
        Ok(())
    }
}

/// Leases whose instance is gone, except those of the accounts in `pending`.
pub(super) async fn orphaned(
    connection: &mut PgConnection,
    step: i64,
    pending: Vec<String>,
    now: Timestamp,
) -> Result<Vec<Orphaned>, Failure> {
    let rows = sqlx::query(ORPHANED)
        .bind(step)
        .bind(pending)
        .fetch_all(connection)
        .await?;
    let read = |row: &PgRow| -> Result<Orphaned, Failure> {
        let id = LeaseId {
            instance: row.try_get::<i64, _>(0)?.cast_unsigned(),
            number: row.try_get::<i64, _>(1)?.cast_unsigned(),
        };
        let account: AccountId = name(row, 2)?;
        let Json(budgets): Json<Vec<BudgetId>> = row.try_get(3)?;
        let expiry = match row.try_get(4)? {
            true => Expiry::Charge,
            false => Expiry::Release,
        };
        let age = SignedDuration::ZERO;
        Ok(Orphaned {
            id,
            call: abandoned_call(id, &account, now),
            account,
            expiry,
            settlement: Settlement::abandoned(Money::ZERO, expiry, age, &budgets),
            budgets,
        })
    };
    // One unreadable lease must not keep the money of the others set aside.
    let readable = rows.iter().filter_map(|row| match read(row) {
        Ok(orphaned) => Some(orphaned),
        Err(Failure { error, .. }) => {
            tracing::error!(target: "tollgate::ledger", %error, "a lease of a dead process can't be read");
            None
        }
    });
    Ok(readable.collect())
}

/// Forgets leases resolved long ago; `false` if there may be more.
pub(super) async fn forget_old(
    connection: &mut PgConnection,
    step: i64,
    now: Timestamp,
) -> Result<bool, Failure> {
    let before = now.saturating_sub(REMEMBERED).unwrap_or_default();
    let forgotten = sqlx::query(FORGET_OLD)
        // The database can't store arbitrarily early times.
        .bind(Moment(before.max(Timestamp::UNIX_EPOCH)))
        .bind(step)
        .execute(connection)
        .await?
        .rows_affected();
    Ok(i64::try_from(forgotten).unwrap_or(step) < step)
}

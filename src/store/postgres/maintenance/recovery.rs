//! Resolves the holds and leases of dead instances, and expired holds of this one. They are settled
//! through the lanes, each account separately, so that a locked account delays no other.

use std::{collections::BTreeSet, time::Duration};

use sqlx::{Row, postgres::PgRow, types::Json};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    super::{
        Work,
        command::Command,
        convert::{Failure, moment, money, name, name_or_none, principal},
        leases,
    },
    Maintenance, STEP,
};
use crate::domain::{
    AccountId, BudgetId,
    books::Left,
    budget::Windows,
    clock::Timestamp,
    usage::{Call, Expiry, Hold, HoldId, Settlement},
};

const HOLDS: &str = "SELECT account.id, hold.number, amount, day, month, budgets, request_id, key,
     route, started_at, principal, charges, idempotency_key FROM hold JOIN account ON account.number = hold.account
     WHERE instance = $1 AND ends <= $2 AND account.id <> ALL($4) AND hold.number <> ALL($5) LIMIT $3";

/// The instances that have holds but no row; skips through the index from one instance to the next.
pub(super) const ORPHANED: &str = "WITH RECURSIVE holder AS (
         SELECT min(instance) AS id FROM hold
         UNION ALL
         SELECT (SELECT min(instance) FROM hold WHERE instance > holder.id) FROM holder
         WHERE holder.id IS NOT NULL
     )
     SELECT id FROM holder WHERE id IS NOT NULL
     AND NOT EXISTS (SELECT FROM instance WHERE instance.id = holder.id)";

impl Maintenance {
    /// Resolves the instance's holds that end by `ends`, each by its own policy, except those with
    /// a settlement or extension on its way here: that may just have waited for the database.
    /// `false` if there are more.
    pub(super) async fn resolve(
        &mut self,
        instance: i64,
        ends: i64,
        patience: Duration,
    ) -> Result<bool, Failure> {
        self.wait_resolved(Duration::ZERO).await;
        let pending = self.pending_accounts();
        let settling = self.shared.settling.numbers_of(instance.cast_unsigned());
        let settling: Vec<i64> = settling.into_iter().map(u64::cast_signed).collect();
        let find = async |work: Work| {
            let found = sqlx::query(HOLDS)
                .bind(instance)
                .bind(ends)
                .bind(STEP)
                .bind(pending)
                .bind(settling)
                .fetch_all(&mut *work.read().await?)
                .await?;
            Ok(found)
        };
        let found = self.shared.in_time(find).await?;
        let now = self.shared.settings.clock.now();
        for row in &found {
            match read_hold(instance, row) {
                Ok(hold) => self.resolve_one(hold, now),
                // One unreadable row must not stop all maintenance.
                Err(Failure { error, .. }) => {
                    tracing::error!(target: "tollgate::postgres", %error, "a hold can't be resolved");
                }
            }
        }
        if !found.is_empty() {
            tracing::warn!(
                target: "tollgate::postgres",
                holds = found.len(),
                "resolving holds that were never settled"
            );
            self.wait_resolved(patience).await;
        }
        let all_found = i64::try_from(found.len()).unwrap_or(STEP) < STEP;
        self.check_none_pending().map(|()| all_found)
    }

    fn resolve_one(&mut self, hold: Hold, now: Timestamp) {
        let age = now.duration_since(hold.call.started_at);
        let settlement = Settlement::abandoned(hold.amount, hold.expiry, age, &hold.budgets);
        let (reply, answer) = oneshot::channel();
        let (account, reply) = (hold.call.account.clone(), Some(reply));
        let command = Command::Settle {
            hold,
            settlement,
            _on_its_way: None,
            reply,
        };
        if self.shared.send(command) {
            self.resolving.push((account, answer));
        }
    }

    /// Resolves leases whose instance is gone, and forgets those resolved long ago; `false` if
    /// there may be more.
    pub(super) async fn resolve_leases(&mut self, patience: Duration) -> Result<bool, Failure> {
        self.wait_resolved(Duration::ZERO).await;
        let (pending, now) = (self.pending_accounts(), self.shared.settings.clock.now());
        let find = async |work: Work| {
            let mut transaction = work.read().await?;
            leases::orphaned(&mut transaction, STEP, pending, now).await
        };
        let found = self.shared.in_time(find).await?;
        let all_found = i64::try_from(found.len()).unwrap_or(STEP) < STEP;
        let patience = match found.is_empty() {
            true => Duration::ZERO,
            false => patience,
        };
        for lease in found {
            let (reply, answer) = oneshot::channel();
            let (account, lease) = (lease.account.clone(), Box::new(lease));
            if self.shared.send(Command::EndLease { lease, reply }) {
                self.resolving.push((account, answer));
            }
        }
        self.wait_resolved(patience).await;
        let forget = async |work: Work| {
            let mut transaction = work.begin().await?;
            let all_forgotten = leases::forget_old(&mut transaction, STEP, now).await?;
            transaction.commit().await?;
            Ok(all_forgotten)
        };
        let all_forgotten = self.shared.in_time(forget).await?;
        self.check_none_pending()
            .map(|()| all_found && all_forgotten)
    }

    /// Waits up to `patience` in all until the resolutions are written. Those that aren't keep
    /// waiting, without delaying others.
    async fn wait_resolved(&mut self, patience: Duration) {
        let now = Instant::now();
        let end = now.checked_add(patience).unwrap_or(now);
        for (account, mut answer) in std::mem::take(&mut self.resolving) {
            // One that can't be written will be found again.
            if timeout_at(end, &mut answer).await.is_err() {
                self.resolving.push((account, answer));
            }
        }
    }

    /// Accounts with a resolution in progress; they are skipped until it finishes.
    fn pending_accounts(&self) -> Vec<String> {
        let accounts = self.resolving.iter();
        let accounts: BTreeSet<&str> = accounts.map(|(account, _)| account.as_str()).collect();
        accounts.into_iter().map(str::to_owned).collect()
    }

    fn check_none_pending(&self) -> Result<(), Failure> {
        match self.resolving.is_empty() {
            true => Ok(()),
            false => Err(Failure::slow()),
        }
    }
}

fn read_hold(instance: i64, row: &PgRow) -> Result<Hold, Failure> {
    let Json(budgets): Json<Vec<BudgetId>> = row.try_get(5)?;
    let account: AccountId = name(row, 0)?;
    let charges: bool = row.try_get(11)?;
    Ok(Hold {
        id: HoldId {
            instance: instance.cast_unsigned(),
            number: row.try_get::<i64, _>(1)?.cast_unsigned(),
        },
        call: Call {
            principal: principal(row, 10, &account)?,
            account,
            request_id: row.try_get::<String, _>(6)?.into(),
            key: name_or_none(row, 7)?,
            route: row.try_get::<String, _>(8)?.into(),
            started_at: moment(row, 9)?,
        },
        budgets: budgets.into(),
        amount: money(row, 2)?,
        windows: Windows {
            day: row.try_get(3)?,
            month: row.try_get(4)?,
        },
        left: Left::default(),
        expiry: match charges {
            true => Expiry::Charge,
            false => Expiry::Release,
        },
        idempotency_key: row.try_get::<Option<String>, _>(12)?.map(Into::into),
    })
}

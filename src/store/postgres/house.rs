//! What is done at intervals besides saying that this process lives: clearing up after those who don't.
//!
//! An instance is an open store. Its row in `instance` counts on every two seconds. Whoever sees the
//! same count for longer than the recovery time, measured on a monotonic clock of its own, takes the
//! instance for dead and deletes the row; holds of an instance without a row are resolved, as settlements
//! through the lanes, so whoever comes first ends a hold. So neither a clock that is set nor a machine that
//! slept gives holds back that are under way; and a process that was only stopped finds its row gone, begins as a
//! new instance, and its late settlements of holds that were given back change nothing.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sqlx::{Row, postgres::PgRow, types::Json};
use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Shared, Work, answered,
    command::{Command, Reply},
    convert::{Failure, Moment, Reason, moment, money, name, name_or_none, principal},
    leases, once, pulse,
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::Left,
        budget::Windows,
        clock::Timestamp,
        usage::{Call, Expiry, Hold, HoldId, Settlement},
    },
    store::StoreError,
};

const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How often it looks whether something is due.
pub(super) const IDLE: Duration = Duration::from_millis(250);

/// How long it waits for the lanes: or one that is held up would keep it from all else.
const PATIENCE: Duration = Duration::from_secs(1);

/// Holds resolved, and rows pruned, in one go: others wait meanwhile.
const STEP: i64 = 1_000;

/// Steps in which a closing store resolves what is still open: more than there can be.
const LEAVING_STEPS: u32 = 10_000;

pub(super) enum Errand {
    Flush(Reply<()>),
    Close(Option<Reply<()>>),
}

pub(super) struct House {
    shared: Arc<Shared>,
    errands: UnboundedReceiver<Errand>,
    lanes: Vec<JoinHandle<()>>,
    sweep_due: Duration,
    /// What is on its way to be resolved, and whose it is.
    resolving: Vec<(AccountId, oneshot::Receiver<Result<(), StoreError>>)>,
}

const HOLDS: &str = "SELECT account.id, hold.number, amount, day, month, budgets, request_id, key,
     route, started_at, principal, charges, idempotency_key FROM tollgate.hold JOIN tollgate.account ON account.number = hold.account
     WHERE instance = $1 AND ends <= $2 AND account.id <> ALL($4) LIMIT $3";

/// The instances that have holds and no row, by leaps over all that have any.
const ORPHANED: &str = "WITH RECURSIVE holder AS (
         SELECT min(instance) AS id FROM tollgate.hold
         UNION ALL
         SELECT (SELECT min(instance) FROM tollgate.hold WHERE instance > holder.id) FROM holder
         WHERE holder.id IS NOT NULL
     )
     SELECT id FROM holder WHERE id IS NOT NULL
     AND NOT EXISTS (SELECT FROM tollgate.instance WHERE instance.id = holder.id)";

const PRUNE: &str = "WITH oldest AS (
         SELECT position, settled_at FROM tollgate.usage ORDER BY position LIMIT $3
     )
     DELETE FROM tollgate.usage USING oldest WHERE usage.position = oldest.position AND (
         oldest.settled_at < $1
         OR oldest.position <= (SELECT max(position) FROM tollgate.usage) - $2
     )";

/// In one order everywhere, so that two processes never wait for each other.
const TOUCH: &str = "WITH used AS (
         SELECT api_key.id, used.at FROM tollgate.api_key
         JOIN unnest($1::text[], $2::timestamptz[]) AS used (id, at) ON api_key.id = used.id
         WHERE last_used_at IS NULL OR last_used_at < used.at
         ORDER BY api_key.id FOR NO KEY UPDATE OF api_key
     )
     UPDATE tollgate.api_key SET last_used_at = used.at FROM used
     WHERE api_key.id = used.id AND (last_used_at IS NULL OR last_used_at < used.at)";

impl House {
    pub(super) fn new(
        shared: Arc<Shared>,
        errands: UnboundedReceiver<Errand>,
        lanes: Vec<JoinHandle<()>>,
    ) -> Self {
        Self {
            shared,
            errands,
            lanes,
            sweep_due: Duration::ZERO,
            resolving: Vec::new(),
        }
    }

    pub(super) async fn move_in(&mut self) -> Result<(), Failure> {
        let work = async |work: Work| {
            let mut line = work.begin().await?;
            pulse::register(&mut line, &work.instance(), &work).await?;
            line.commit().await
        };
        self.shared.in_time(work).await?;
        self.turn(self.shared.settings.deadline).await
    }

    pub(super) async fn run(mut self) {
        loop {
            match timeout(IDLE, self.errands.recv()).await {
                Err(_) => {
                    if let Err(failure) = self.turn(PATIENCE).await {
                        let error = failure.error;
                        tracing::error!(target: "tollgate::postgres", %error, "can't keep house");
                    }
                }
                Ok(Some(Errand::Flush(reply))) => {
                    let _ = reply.send(self.flush().await);
                }
                Ok(Some(Errand::Close(reply))) => {
                    let left = self.leave().await;
                    let _ = reply.map(|reply| reply.send(left));
                    return;
                }
                Ok(None) => {
                    let _ = self.leave().await;
                    return;
                }
            }
        }
    }

    /// Does what is due, each thing whatever becomes of the others. What the lanes are asked for is waited for no longer
    /// than `patience`.
    async fn turn(&mut self, patience: Duration) -> Result<(), Failure> {
        let mut chores = Chores::default();
        let elapsed = self.shared.settings.clock.elapsed();
        chores.note(self.shared.pulse.lock().await.turn(&self.shared).await)?;
        if elapsed >= self.sweep_due {
            self.sweep_due = elapsed.saturating_add(SWEEP_EVERY);
            chores.note(self.shared.in_time(touch).await)?;
            chores.note(self.write_events().await)?;
            self.sweep(&mut chores, elapsed, patience).await?;
            if chores.is_more {
                self.sweep_due = elapsed;
            }
        }
        chores.outcome()
    }

    async fn write_events(&self) -> Result<(), Failure> {
        let write = async |work: Work| work.write_events().await;
        self.shared.in_time(write).await
    }

    async fn sweep(
        &mut self,
        chores: &mut Chores,
        elapsed: Duration,
        patience: Duration,
    ) -> Result<(), Failure> {
        let own = self.shared.instance().id();
        let ended = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
        chores.note_part(self.resolve(own, ended, patience).await)?;
        let orphaned = async |work: Work| {
            let mut line = work.read().await?;
            let orphaned = sqlx::query_scalar(ORPHANED).fetch_all(&mut *line).await?;
            Ok(orphaned)
        };
        let orphaned: Vec<i64> = chores
            .note(self.shared.in_time(orphaned).await)?
            .unwrap_or_default();
        for instance in orphaned {
            chores.note_part(self.resolve(instance, i64::MAX, patience).await)?;
        }
        chores.note_part(self.resolve_leases(patience).await)?;
        chores.note_part(self.shared.in_time(forget_old_keys).await)?;
        let prune_audit = async |work: Work| work.prune_audit().await;
        chores.note_part(self.shared.in_time(prune_audit).await)?;
        chores.note_part(self.shared.in_time(prune).await)
    }

    /// Resolves the instance's holds that end by `ends`, each by its own policy; `false`: there are more.
    async fn resolve(
        &mut self,
        instance: i64,
        ends: i64,
        patience: Duration,
    ) -> Result<bool, Failure> {
        self.resolved(patience).await;
        let aside = self.aside();
        let find = async |work: Work| {
            let found = sqlx::query(HOLDS)
                .bind(instance)
                .bind(ends)
                .bind(STEP)
                .bind(aside)
                .fetch_all(&mut *work.read().await?)
                .await?;
            Ok(found)
        };
        let found = self.shared.in_time(find).await?;
        let now = self.shared.settings.clock.now();
        for row in &found {
            match read_hold(instance, row) {
                Ok(hold) => self.resolve_one(hold, now),
                // One unreadable row must not stop everybody's housekeeping.
                Err(Failure { error, .. }) => {
                    tracing::error!(target: "tollgate::postgres", %error, "can't resolve a hold");
                }
            }
        }
        if !found.is_empty() {
            tracing::warn!(
                target: "tollgate::postgres",
                holds = found.len(),
                "resolves holds that nobody settled"
            );
        }
        self.resolved(patience).await;
        let all_found = i64::try_from(found.len()).unwrap_or(STEP) < STEP;
        self.none_waits().map(|()| all_found)
    }

    fn resolve_one(&mut self, hold: Hold, now: Timestamp) {
        let age = now.duration_since(hold.call.started_at);
        let settlement = Settlement::abandoned(hold.amount, hold.expiry, age);
        let (reply, answer) = oneshot::channel();
        let (account, reply) = (hold.call.account.clone(), Some(reply));
        let command = Command::Settle {
            hold,
            settlement,
            reply,
        };
        if self.shared.send(command) {
            self.resolving.push((account, answer));
        }
    }

    /// Resolves leases whose instance is gone, and forgets those that were resolved long ago; `false`: there may be
    /// more.
    async fn resolve_leases(&mut self, patience: Duration) -> Result<bool, Failure> {
        self.resolved(patience).await;
        let (aside, now) = (self.aside(), self.shared.settings.clock.now());
        let find = async |work: Work| {
            let mut line = work.read().await?;
            leases::orphaned(&mut line, STEP, aside, now).await
        };
        let found = self.shared.in_time(find).await?;
        let all_found = i64::try_from(found.len()).unwrap_or(STEP) < STEP;
        for lease in found {
            let (reply, answer) = oneshot::channel();
            let (account, lease) = (lease.account.clone(), Box::new(lease));
            if self.shared.send(Command::EndLease { lease, reply }) {
                self.resolving.push((account, answer));
            }
        }
        self.resolved(patience).await;
        let forget = async |work: Work| {
            let mut line = work.begin().await?;
            let all_forgotten = leases::forget_old(&mut line, STEP, now).await?;
            line.commit().await?;
            Ok(all_forgotten)
        };
        let all_forgotten = self.shared.in_time(forget).await?;
        self.none_waits().map(|()| all_found && all_forgotten)
    }

    /// Waits until what is resolved is written down, for that long in all. What is not yet waits on, and keeps nobody
    /// else waiting.
    async fn resolved(&mut self, patience: Duration) {
        let now = Instant::now();
        let end = now.checked_add(patience).unwrap_or(now);
        for (account, mut answer) in std::mem::take(&mut self.resolving) {
            // One that can't be written will be found again.
            if timeout_at(end, &mut answer).await.is_err() {
                self.resolving.push((account, answer));
            }
        }
    }

    /// Accounts of which something is on its way to be resolved: no more of theirs is, until that is done.
    fn aside(&self) -> Vec<String> {
        let accounts = self.resolving.iter();
        let accounts: BTreeSet<&str> = accounts.map(|(account, _)| account.as_str()).collect();
        accounts.into_iter().map(str::to_owned).collect()
    }

    fn none_waits(&self) -> Result<(), Failure> {
        match self.resolving.is_empty() {
            true => Ok(()),
            false => Err(Failure::slow()),
        }
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        self.flush_lanes().await?;
        let touched = self.shared.in_time(touch).await;
        touched.map_err(|failure| failure.error)?;
        let written = self.write_events().await;
        written.map_err(|failure| failure.error)?;
        let patience = self.shared.settings.deadline;
        let turned = self.turn(patience).await;
        turned.map_err(|failure| failure.error)
    }

    /// Waits until every lane has done what it was sent before.
    async fn flush_lanes(&self) -> Result<(), StoreError> {
        let answers = self.shared.lanes.iter().map(|lane| {
            let (reply, answer) = oneshot::channel();
            // A lane that has ended drops it, and the answer says so.
            let _ = lane.send(Command::Flush(reply));
            answer
        });
        let answers: Vec<_> = answers.collect();
        for answer in answers {
            answered(answer, self.shared.settings.deadline).await?;
        }
        Ok(())
    }

    /// Ends in order: no open holds, no row of this instance, no tasks.
    async fn leave(&mut self) -> Result<(), StoreError> {
        self.shared.close();
        let mut left = self.flush_lanes().await;
        left = left.and(self.take_leave().await.map_err(|failure| failure.error));
        // Where something stays behind, others find it once this process is silent.
        self.shared.pulse.lock().await.end();
        self.end_lanes().await;
        if let Err(error) = &left {
            tracing::error!(target: "tollgate::postgres", %error, "closed badly");
        }
        left
    }

    async fn take_leave(&mut self) -> Result<(), Failure> {
        for _ in 0..LEAVING_STEPS {
            let patience = self.shared.settings.deadline;
            let own = self.shared.instance().id();
            if self.resolve(own, i64::MAX, patience).await? {
                break;
            }
        }
        self.shared.in_time(touch).await?;
        self.write_events().await?;
        // Or a beat after that would make this process known again.
        self.shared.pulse.lock().await.end();
        let forget = async |work: Work| {
            let mut line = work.begin().await?;
            sqlx::query("DELETE FROM tollgate.instance WHERE id = $1")
                .bind(work.instance().id())
                .execute(&mut *line)
                .await?;
            line.commit().await
        };
        self.shared.in_time(forget).await?;
        self.resolve_leases(self.shared.settings.deadline).await?;
        Ok(())
    }

    pub(super) async fn end_lanes(&mut self) {
        for lane in &self.shared.lanes {
            let _ = lane.send(Command::Close);
        }
        for lane in self.lanes.drain(..) {
            // One that panicked has said so.
            let _ = lane.await;
        }
    }
}

/// What became of the things that are done in one turn.
#[derive(Default)]
struct Chores {
    failed: Option<Failure>,
    /// Of something there is more to do.
    is_more: bool,
}

impl Chores {
    /// What was found; nothing, where that failed.
    ///
    /// # Errors
    /// There is no connection to be had: then nothing else can be done either.
    fn note<T>(&mut self, done: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match done {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.reason == Reason::Away => Err(failure),
            Err(failure) => {
                if let Some(Failure { error, .. }) = self.failed.replace(failure) {
                    tracing::error!(target: "tollgate::postgres", %error, "can't keep house");
                }
                Ok(None)
            }
        }
    }

    /// The same, of something of which there may be more to do.
    fn note_part(&mut self, is_all: Result<bool, Failure>) -> Result<(), Failure> {
        self.is_more |= self.note(is_all)? == Some(false);
        Ok(())
    }

    fn outcome(self) -> Result<(), Failure> {
        self.failed.map_or(Ok(()), Err)
    }
}

async fn touch(work: Work) -> Result<(), Failure> {
    let used = work.take_touched();
    if used.is_empty() {
        return Ok(());
    }
    let (keys, moments): (Vec<String>, Vec<Moment>) = used
        .into_iter()
        .map(|(key, at)| (String::from(key), Moment(at)))
        .unzip();
    let mut line = work.begin().await?;
    sqlx::query(TOUCH)
        .bind(keys)
        .bind(moments)
        .execute(&mut *line)
        .await?;
    line.commit().await
}

/// Deletes the oldest rows of the usage log where it is too long or too old; `false`: there are more.
async fn prune(work: Work) -> Result<bool, Failure> {
    let settings = &work.settings;
    let oldest = settings.clock.now().saturating_sub(settings.usage_age_max);
    let mut line = work.begin().await?;
    let pruned = sqlx::query(PRUNE)
        // What the database can store has a beginning.
        .bind(Moment(
            oldest.unwrap_or_default().max(Timestamp::UNIX_EPOCH),
        ))
        .bind(settings.usage_rows_max)
        .bind(STEP)
        .execute(&mut *line)
        .await?
        .rows_affected();
    line.commit().await?;
    Ok(i64::try_from(pruned).unwrap_or(STEP) < STEP)
}

/// Deletes idempotency keys whose time is over; `false`: there may be more.
async fn forget_old_keys(work: Work) -> Result<bool, Failure> {
    let mut line = work.begin().await?;
    let forgotten = sqlx::query(once::FORGET_OLD)
        .bind(Moment(work.settings.clock.now()))
        .bind(STEP)
        .execute(&mut *line)
        .await?
        .rows_affected();
    line.commit().await?;
    Ok(i64::try_from(forgotten).unwrap_or(STEP) < STEP)
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

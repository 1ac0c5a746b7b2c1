//! Reports that this process is alive, and checks whether others are. A task and a connection of
//! its own keep other periodic work, or a wait for the pool, from delaying it. Lanes send
//! heartbeats too, with their transactions.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hashbrown::HashMap;
use sqlx::{AssertSqlSafe, postgres::PgConnection};
use tokio::time::{sleep, timeout};

use super::{Shared, connection, convert::Failure, instance::Instance, maintenance::IDLE};
use crate::{
    domain::clock::Timestamp,
    repeats::{LogLine, Repeats},
    store::failure_detector::FailureDetector,
};

const BEAT_EVERY: Duration = Duration::from_secs(2);
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// A heartbeat, or a check of others, may take this fraction (one third) of the recovery time.
const RECOVERY_FRACTION: u32 = 3;

/// Skips an instance with a transaction in progress or a newer heartbeat: it is alive.
const REMOVE_DEAD: &str = "DELETE FROM instance WHERE id IN (
         SELECT id FROM instance WHERE id = $1 AND beats = $2 FOR UPDATE SKIP LOCKED
     )";

#[derive(Debug, Default)]
pub(super) struct Heartbeat {
    connection: Option<PgConnection>,
    beat_due: Duration,
    check_due: Duration,
    failure_detector: FailureDetector<i64>,
    has_ended: bool,
}

/// A heartbeat being sent, and when it was created.
pub(super) struct Beat {
    instance: Arc<Instance>,
    elapsed: Duration,
    now: Timestamp,
}

/// Sends heartbeats and checks others until the store is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let failures = Repeats::new();
    loop {
        sleep(IDLE).await;
        let mut heartbeat = shared.heartbeat.lock().await;
        if heartbeat.has_ended {
            return;
        }
        if let Err(Failure { error, .. }) = heartbeat.run_due(&shared).await {
            let now = shared.settings.clock.elapsed();
            if let Some(LogLine { left_out }) = failures.failed(&error, now) {
                tracing::error!(target: "tollgate::postgres", %error, left_out, "can't send this process's heartbeat");
            }
        } else if !is_beat_overdue(&shared)
            && let Some(LogLine { left_out }) = failures.succeeded()
        {
            tracing::info!(target: "tollgate::postgres", left_out, "this process's heartbeat is sent again");
        }
    }
}

/// Registers an instance, in the transaction in progress.
pub(super) async fn register(
    connection: &mut PgConnection,
    instance: &Arc<Instance>,
    shared: &Shared,
) -> Result<(), Failure> {
    let first = Beat::new(shared, instance);
    insert(connection, instance).await?;
    first.written(shared);
    Ok(())
}

/// The same, where none is.
pub(super) async fn register_anew(
    connection: &mut PgConnection,
    instance: &Arc<Instance>,
    shared: &Shared,
) -> Result<(), Failure> {
    let first = Beat::new(shared, instance);
    begin(connection, shared).await?;
    insert(connection, instance).await?;
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    first.written(shared);
    Ok(())
}

async fn insert(connection: &mut PgConnection, instance: &Instance) -> Result<(), Failure> {
    sqlx::query("INSERT INTO instance (id, beats, seen_at) VALUES ($1, 0, now())")
        .bind(instance.id())
        .execute(connection)
        .await?;
    Ok(())
}

/// A heartbeat to send with a transaction, if one is due. It is the last statement of the
/// transaction, because anyone else who wants to send one waits for the transaction's end.
pub(super) fn due(shared: &Shared, instance: &Arc<Instance>) -> Option<Beat> {
    is_beat_overdue(shared).then(|| Beat::new(shared, instance))
}

/// Whether this process's last committed heartbeat is too long ago.
fn is_beat_overdue(shared: &Shared) -> bool {
    let beaten_at = Duration::from_micros(shared.beaten_at.load(Ordering::Acquire));
    let elapsed = shared.settings.clock.elapsed();
    elapsed.saturating_sub(beaten_at) >= BEAT_EVERY
}

impl Beat {
    fn new(shared: &Shared, instance: &Arc<Instance>) -> Self {
        let clock = &shared.settings.clock;
        Self {
            instance: Arc::clone(instance),
            elapsed: clock.elapsed(),
            now: clock.now(),
        }
    }

    pub(super) fn statement(&self) -> String {
        let id = self.instance.id();
        format!("UPDATE instance SET beats = beats + 1, seen_at = now() WHERE id = {id}")
    }

    pub(super) fn written(&self, shared: &Shared) {
        shared.confirm(&self.instance, self.elapsed, self.now);
    }
}

impl Heartbeat {
    /// Does what is due.
    pub(super) async fn run_due(&mut self, shared: &Shared) -> Result<(), Failure> {
        let settings = &shared.settings;
        let fraction = settings.recover_after.checked_div(RECOVERY_FRACTION);
        let patience = fraction.map_or(settings.deadline, |fraction| {
            fraction.min(settings.deadline)
        });
        let elapsed = settings.clock.elapsed();
        if elapsed >= self.beat_due && is_beat_overdue(shared) {
            // Even after a failure, not again immediately.
            self.beat_due = elapsed.saturating_add(CHECK_EVERY);
            let beaten = self.with_connection(shared, patience, async |connection| {
                beat(connection, shared).await
            });
            beaten.await?;
            self.beat_due = elapsed;
        }
        if is_beat_overdue(shared) {
            // Forget what was seen of others: whatever blocks our own heartbeats may block theirs
            // as well.
            self.failure_detector = FailureDetector::default();
        } else if elapsed >= self.check_due {
            self.check_due = elapsed.saturating_add(CHECK_EVERY);
            let mut failure_detector = std::mem::take(&mut self.failure_detector);
            let looked = self.with_connection(shared, patience, async |connection| {
                remove_the_dead(connection, shared, &mut failure_detector).await
            });
            let looked = looked.await;
            self.failure_detector = failure_detector;
            looked?;
        }
        Ok(())
    }

    /// Stops all further heartbeats.
    pub(super) fn stop(&mut self) {
        self.has_ended = true;
        self.connection = None;
    }

    /// Runs `work` over the dedicated connection. After a failure the next call opens a new one.
    async fn with_connection(
        &mut self,
        shared: &Shared,
        patience: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let kept = self.connection.take();
        let work = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => connection::dedicated(&shared.pool, patience).await?,
            };
            work(&mut connection).await?;
            Ok(connection)
        };
        let done = timeout(patience, work).await;
        self.connection = Some(done.unwrap_or_else(|_| Err(Failure::slow()))?);
        Ok(())
    }
}

/// Deletes the rows of instances that have been silent for too long.
async fn remove_the_dead(
    connection: &mut PgConnection,
    shared: &Shared,
    failure_detector: &mut FailureDetector<i64>,
) -> Result<(), Failure> {
    let settings = &shared.settings;
    let asked = settings.clock.elapsed();
    begin(connection, shared).await?;
    let others: Vec<(i64, i64)> = sqlx::query_as("SELECT id, beats FROM instance WHERE id <> $1")
        .bind(shared.instance().id())
        .fetch_all(&mut *connection)
        .await?;
    let looked = (asked, settings.clock.elapsed());
    let others: HashMap<i64, i64> = others.into_iter().collect();
    for (id, beats) in failure_detector.look(&others, looked, settings.recover_after) {
        sqlx::query(REMOVE_DEAD)
            .bind(id)
            .bind(beats)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    Ok(())
}

/// With timeouts, so that the server itself ends what takes too long or was cut off.
async fn begin(connection: &mut PgConnection, shared: &Shared) -> Result<(), Failure> {
    let begin = AssertSqlSafe(Arc::clone(&shared.begin.books));
    sqlx::raw_sql(begin).execute(connection).await?;
    Ok(())
}

async fn beat(connection: &mut PgConnection, shared: &Shared) -> Result<(), Failure> {
    let instance = shared.instance();
    let beat = Beat::new(shared, &instance);
    begin(connection, shared).await?;
    let words = format!("{}; COMMIT", beat.statement());
    let known = sqlx::raw_sql(AssertSqlSafe(words))
        .execute(&mut *connection)
        .await?
        .rows_affected();
    if known == 0 {
        return shared.reregister(connection, &instance).await;
    }
    beat.written(shared);
    Ok(())
}

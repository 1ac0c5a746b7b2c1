//! Saying that this process lives, and listening whether others do: in a task of its own, and over a connection of its
//! own, so that nothing else that is done at intervals or waits for the pool can keep it from that. A lane says so too.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hashbrown::HashMap;
use sqlx::{AssertSqlSafe, postgres::PgConnection};
use tokio::time::{sleep, timeout};

use super::{Shared, connection, convert::Failure, instance::Instance, maintenance::IDLE};
use crate::{domain::clock::Timestamp, store::failure_detector::FailureDetector};

const BEAT_EVERY: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a beat, or a look, may take of the recovery time.
const SHARE: u32 = 3;

/// Not one whose transaction is under way, or who has said more meanwhile: it lives.
const REMOVE_DEAD: &str = "DELETE FROM instance WHERE id IN (
         SELECT id FROM instance WHERE id = $1 AND beats = $2 FOR UPDATE SKIP LOCKED
     )";

#[derive(Debug, Default)]
pub(super) struct Heartbeat {
    connection: Option<PgConnection>,
    beat_due: Duration,
    look_due: Duration,
    failure_detector: FailureDetector<i64>,
    has_ended: bool,
}

/// A sign of life on its way, and when it was given.
pub(super) struct Beat {
    instance: Arc<Instance>,
    elapsed: Duration,
    now: Timestamp,
}

/// Beats and looks until the store is closed.
pub(super) async fn keep(shared: Arc<Shared>) {
    loop {
        sleep(IDLE).await;
        let mut heartbeat = shared.heartbeat.lock().await;
        if heartbeat.has_ended {
            return;
        }
        if let Err(Failure { error, .. }) = heartbeat.turn(&shared).await {
            tracing::error!(target: "tollgate::postgres", %error, "can't say that this process lives");
        }
    }
}

/// Makes an instance known, in the transaction that is under way.
pub(super) async fn register(
    connection: &mut PgConnection,
    instance: &Instance,
    shared: &Shared,
) -> Result<(), Failure> {
    let clock = &shared.settings.clock;
    let (elapsed, now) = (clock.elapsed(), clock.now());
    insert(connection, instance).await?;
    shared.confirm(instance, elapsed, now);
    Ok(())
}

/// The same, where none is.
pub(super) async fn register_anew(
    connection: &mut PgConnection,
    instance: &Instance,
    shared: &Shared,
) -> Result<(), Failure> {
    let clock = &shared.settings.clock;
    let (elapsed, now) = (clock.elapsed(), clock.now());
    begin(connection, shared).await?;
    insert(connection, instance).await?;
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    shared.confirm(instance, elapsed, now);
    Ok(())
}

async fn insert(connection: &mut PgConnection, instance: &Instance) -> Result<(), Failure> {
    sqlx::query("INSERT INTO instance (id, beats, seen_at) VALUES ($1, 0, now())")
        .bind(instance.id())
        .execute(connection)
        .await?;
    Ok(())
}

/// A sign of life for a transaction to take along, when it is time for one. It is the last thing that the transaction
/// does: who comes to beat meanwhile waits for its end.
pub(super) fn due(shared: &Shared, instance: &Arc<Instance>) -> Option<Beat> {
    is_silent(shared).then(|| Beat::new(shared, instance))
}

/// Whether this process has said nothing for long that is written down.
fn is_silent(shared: &Shared) -> bool {
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

    pub(super) fn is_written(&self, shared: &Shared) {
        shared.confirm(&self.instance, self.elapsed, self.now);
    }
}

impl Heartbeat {
    /// Does what is due.
    pub(super) async fn turn(&mut self, shared: &Shared) -> Result<(), Failure> {
        let settings = &shared.settings;
        let share = settings.recover_after.checked_div(SHARE);
        let patience = share.map_or(settings.deadline, |share| share.min(settings.deadline));
        let elapsed = settings.clock.elapsed();
        if elapsed >= self.beat_due && is_silent(shared) {
            // Whatever comes of it, not again at once.
            self.beat_due = elapsed.saturating_add(LOOK_EVERY);
            let beaten = self.in_time(shared, patience, async |connection| {
                beat(connection, shared).await
            });
            beaten.await?;
            self.beat_due = elapsed;
        }
        if is_silent(shared) {
            // Who can't say that it lives itself hears nothing of others either: they may be kept from it alike.
            self.failure_detector = FailureDetector::default();
        } else if elapsed >= self.look_due {
            self.look_due = elapsed.saturating_add(LOOK_EVERY);
            let mut failure_detector = std::mem::take(&mut self.failure_detector);
            let looked = self.in_time(shared, patience, async |connection| {
                remove_the_dead(connection, shared, &mut failure_detector).await
            });
            let looked = looked.await;
            self.failure_detector = failure_detector;
            looked?;
        }
        Ok(())
    }

    /// No sign of life comes after this.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.connection = None;
    }

    /// Does it over the connection that is kept for this. After a failure it is another one.
    async fn in_time(
        &mut self,
        shared: &Shared,
        patience: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let kept = self.connection.take();
        let work = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => connection::apart(&shared.pool, patience).await?,
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

/// The server ends by itself what takes too long, and what is cut off.
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
        return shared.register_anew(connection, &instance).await;
    }
    beat.is_written(shared);
    Ok(())
}

//! Saying that this process lives, and listening whether others do: in a task of its own, so that nothing else that is
//! done at intervals can keep it from that.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use sqlx::postgres::PgConnection;
use tokio::time::{sleep, timeout};

use super::{Shared, convert::Failure, house::IDLE, instance::Instance};
use crate::store::vigil::Vigil;

const BEAT_EVERY: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a beat, or a look, may take of the recovery time.
const SHARE: u32 = 3;

/// Not one whose transaction is under way, or who has said more meanwhile: it lives.
const BURY: &str = "DELETE FROM tollgate.instance WHERE id IN (
         SELECT id FROM tollgate.instance WHERE id = $1 AND beats = $2 FOR UPDATE SKIP LOCKED
     )";

#[derive(Debug, Default)]
pub(super) struct Pulse {
    beat_due: Duration,
    look_due: Duration,
    vigil: Vigil<i64>,
    has_ended: bool,
}

/// Beats and looks until the house is left.
pub(super) async fn keep(shared: Arc<Shared>) {
    loop {
        sleep(IDLE).await;
        let mut pulse = shared.pulse.lock().await;
        if pulse.has_ended {
            return;
        }
        if let Err(Failure { error, .. }) = pulse.turn(&shared).await {
            tracing::error!(target: "tollgate::postgres", %error, "can't say that this process lives");
        }
    }
}

/// Makes an instance known.
pub(super) async fn register(
    connection: &mut PgConnection,
    instance: &Instance,
    shared: &Shared,
) -> Result<(), Failure> {
    let clock = &shared.settings.clock;
    let (elapsed, now) = (clock.elapsed(), clock.now());
    sqlx::query("INSERT INTO tollgate.instance (id, beats, seen_at) VALUES ($1, 0, now())")
        .bind(instance.id())
        .execute(connection)
        .await?;
    shared.confirm(instance, elapsed, now);
    Ok(())
}

impl Pulse {
    /// Does what is due.
    pub(super) async fn turn(&mut self, shared: &Shared) -> Result<(), Failure> {
        let settings = &shared.settings;
        let share = settings.recover_after.checked_div(SHARE);
        let patience = share.map_or(settings.deadline, |share| share.min(settings.deadline));
        let elapsed = settings.clock.elapsed();
        if elapsed >= self.beat_due {
            // Whatever comes of it, not again at once.
            self.beat_due = elapsed.saturating_add(LOOK_EVERY);
            in_time(patience, beat(shared)).await?;
            self.beat_due = elapsed.saturating_add(BEAT_EVERY);
        }
        if elapsed >= self.look_due {
            self.look_due = elapsed.saturating_add(LOOK_EVERY);
            in_time(patience, self.bury_the_silent(shared)).await?;
        }
        Ok(())
    }

    /// No sign of life comes after this.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }

    /// Deletes the rows of instances that have been silent for too long.
    async fn bury_the_silent(&mut self, shared: &Shared) -> Result<(), Failure> {
        let settings = &shared.settings;
        let mut connection = shared.pool.acquire().await?;
        let asked = settings.clock.elapsed();
        let others: Vec<(i64, i64)> =
            sqlx::query_as("SELECT id, beats FROM tollgate.instance WHERE id <> $1")
                .bind(shared.instance().id())
                .fetch_all(&mut *connection)
                .await?;
        let looked = (asked, settings.clock.elapsed());
        let others: HashMap<i64, i64> = others.into_iter().collect();
        for (id, beats) in self.vigil.look(&others, looked, settings.recover_after) {
            sqlx::query(BURY)
                .bind(id)
                .bind(beats)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }
}

async fn beat(shared: &Shared) -> Result<(), Failure> {
    let instance = shared.instance();
    let mut connection = shared.pool.acquire().await?;
    let clock = &shared.settings.clock;
    let (elapsed, now) = (clock.elapsed(), clock.now());
    let beat = "UPDATE tollgate.instance SET beats = beats + 1, seen_at = now() WHERE id = $1";
    let known = sqlx::query(beat)
        .bind(instance.id())
        .execute(&mut *connection)
        .await?
        .rows_affected();
    if known == 0 {
        return shared.register_anew(&mut connection, &instance).await;
    }
    shared.confirm(&instance, elapsed, now);
    Ok(())
}

async fn in_time(
    patience: Duration,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let done = timeout(patience, work).await;
    done.unwrap_or_else(|_| Err(Failure::slow()))
}

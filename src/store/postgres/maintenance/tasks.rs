//! The tasks of one maintenance run, and their results.

use std::sync::Arc;

use super::{
    super::{
        Shared, Work,
        convert::{Failure, Moment, Reason},
        idempotency,
    },
    STEP,
};
use crate::{domain::clock::Timestamp, repeats::LogLine, store::StoreError};

const PRUNE: &str = "WITH oldest AS (
         SELECT position, settled_at FROM usage ORDER BY position LIMIT $3
     )
     DELETE FROM usage USING oldest WHERE usage.position = oldest.position AND (
         oldest.settled_at < $1
         OR oldest.position <= (SELECT max(position) FROM usage) - $2
     )";

/// In the same order everywhere, so that processes never deadlock.
const TOUCH: &str = "WITH used AS (
         SELECT api_key.id, used.at FROM api_key
         JOIN unnest($1::text[], $2::timestamptz[]) AS used (id, at) ON api_key.id = used.id
         WHERE last_used_at IS NULL OR last_used_at < used.at
         ORDER BY api_key.id FOR NO KEY UPDATE OF api_key
     )
     UPDATE api_key SET last_used_at = used.at FROM used
     WHERE api_key.id = used.id AND (last_used_at IS NULL OR last_used_at < used.at)";

/// The results of one maintenance run.
pub(super) struct Outcomes {
    shared: Arc<Shared>,
    failed: Option<Failure>,
    /// Some task has more to do.
    pub(super) has_more: bool,
}

impl Outcomes {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            failed: None,
            has_more: false,
        }
    }

    /// The task's result; `None` if it failed.
    ///
    /// # Errors
    /// No connection is available: then nothing else can be done either.
    pub(super) fn note<T>(&mut self, done: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match done {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.reason == Reason::NoConnection => Err(failure),
            Err(failure) => {
                if let Some(Failure { error, .. }) = self.failed.replace(failure) {
                    log(&self.shared, &error);
                }
                Ok(None)
            }
        }
    }

    /// Like [`note`](Self::note), for a task that may have more to do.
    pub(super) fn note_part(&mut self, is_all: Result<bool, Failure>) -> Result<(), Failure> {
        self.has_more |= self.note(is_all)? == Some(false);
        Ok(())
    }

    /// Everything that was due is done, with or without failures.
    pub(super) fn is_over(&self) {
        if self.failed.is_none()
            && let Some(LogLine { left_out }) = self.shared.failed_maintenance.succeeded()
        {
            tracing::info!(target: "tollgate::postgres", left_out, "maintenance works again");
        }
    }

    pub(super) fn outcome(self) -> Result<(), Failure> {
        self.failed.map_or(Ok(()), Err)
    }
}

/// Logs why maintenance failed.
pub(super) fn log(shared: &Shared, error: &StoreError) {
    let now = shared.settings.clock.elapsed();
    if let Some(LogLine { left_out }) = shared.failed_maintenance.failed(error, now) {
        tracing::error!(target: "tollgate::postgres", %error, left_out, "maintenance failed");
    }
}

/// Stores when keys were last used.
pub(super) async fn touch(work: Work) -> Result<(), Failure> {
    let used = work.take_touched();
    if used.is_empty() {
        return Ok(());
    }
    let (keys, moments): (Vec<String>, Vec<Moment>) = used
        .into_iter()
        .map(|(key, at)| (String::from(key), Moment(at)))
        .unzip();
    let mut transaction = work.begin().await?;
    sqlx::query(TOUCH)
        .bind(keys)
        .bind(moments)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// Deletes the oldest rows of the usage log where it is too long or too old; `false` if there are
/// more.
pub(super) async fn prune(work: Work) -> Result<bool, Failure> {
    let settings = &work.settings;
    let oldest = settings.clock.now().saturating_sub(settings.usage_age_max);
    let mut transaction = work.begin().await?;
    let pruned = sqlx::query(PRUNE)
        // The database can't store arbitrarily early times.
        .bind(Moment(
            oldest.unwrap_or_default().max(Timestamp::UNIX_EPOCH),
        ))
        .bind(settings.usage_rows_max)
        .bind(STEP)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
    transaction.commit().await?;
    Ok(i64::try_from(pruned).unwrap_or(STEP) < STEP)
}

/// Deletes expired idempotency keys; `false` if there may be more.
pub(super) async fn forget_expired_keys(work: Work) -> Result<bool, Failure> {
    let mut transaction = work.begin().await?;
    let forgotten = sqlx::query(idempotency::FORGET_OLD)
        .bind(Moment(work.settings.clock.now()))
        .bind(STEP)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
    transaction.commit().await?;
    Ok(i64::try_from(forgotten).unwrap_or(STEP) < STEP)
}

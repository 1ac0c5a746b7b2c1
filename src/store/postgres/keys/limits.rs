//! Limits on the keys of an owner, checked in the transaction that stores another one.

use sqlx::postgres::PgConnection;

use super::super::convert::{Failure, Moment};
use crate::{
    domain::{
        clock::Timestamp,
        key::{KeyRecord, KeysPerOwner, NoRoom},
    },
    store::StoreError,
};

/// Separates these locks from other advisory locks of the database: the first bytes of "keys of
/// tollgate".
const TURN: i64 = 0x6b65_7973_206f_6620;

/// Reads only indexes, and no more of them than the limits.
pub(super) async fn check_live(
    connection: &mut PgConnection,
    record: &KeyRecord,
    bounds: Option<KeysPerOwner>,
) -> Result<(), Failure> {
    let Some(bounds) = bounds else {
        return Ok(());
    };
    let live = live(connection, &record.owner, record.created_at, bounds).await?;
    if bounds.take(record, live) {
        return Ok(());
    }
    Err(StoreError::from(NoRoom).into())
}

/// Counts up to the limit.
pub(super) async fn live(
    connection: &mut PgConnection,
    owner: &str,
    now: Timestamp,
    bounds: KeysPerOwner,
) -> Result<u32, Failure> {
    let live: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT FROM api_key WHERE owner = $1 AND revoked_at IS NULL
         AND (expires_at IS NULL OR expires_at > $2) LIMIT $3) AS live",
    )
    .bind(owner)
    .bind(Moment(now))
    .bind(i64::from(bounds.live_max))
    .fetch_one(connection)
    .await?;
    Ok(u32::try_from(live).unwrap_or(u32::MAX))
}

/// Makes room for another key: if the owner is at the limit of stored keys, deletes the oldest that
/// has ended.
pub(super) async fn make_room(
    connection: &mut PgConnection,
    another: &KeyRecord,
    bounds: Option<KeysPerOwner>,
) -> Result<(), Failure> {
    let Some(bounds) = bounds else {
        return Ok(());
    };
    if kept(&mut *connection, &another.owner, bounds).await? < bounds.kept_max {
        return Ok(());
    }
    let gone = sqlx::query(
        "DELETE FROM api_key WHERE id = (SELECT id FROM api_key WHERE owner = $1
         AND (revoked_at IS NOT NULL OR expires_at <= $2) ORDER BY position LIMIT 1)",
    )
    .bind(&another.owner)
    .bind(Moment(another.created_at))
    .execute(connection)
    .await?
    .rows_affected();
    if gone == 0 {
        return Err(StoreError::from(NoRoom).into());
    }
    Ok(())
}

/// Counts up to the limit.
async fn kept(
    connection: &mut PgConnection,
    owner: &str,
    bounds: KeysPerOwner,
) -> Result<u32, Failure> {
    let kept: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT FROM api_key WHERE owner = $1 LIMIT $2) AS kept",
    )
    .bind(owner)
    .bind(i64::from(bounds.kept_max))
    .fetch_one(connection)
    .await?;
    Ok(u32::try_from(kept).unwrap_or(u32::MAX))
}

/// Makes concurrent transactions in other processes that create, reactivate or end all keys of this
/// owner wait for this one, so that each sees the others' keys.
pub(super) async fn take_turn(connection: &mut PgConnection, owner: &str) -> Result<(), Failure> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, $2))")
        .bind(owner)
        .bind(TURN)
        .execute(connection)
        .await?;
    Ok(())
}

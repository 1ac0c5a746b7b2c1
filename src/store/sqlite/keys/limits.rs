//! Limits on the keys of an owner, checked in the transaction that stores another one.

use rusqlite::{Connection, params};

use super::super::convert::{Failure, micros};
use crate::{
    domain::{
        clock::Timestamp,
        key::{KeyRecord, KeysPerOwner, NoRoom},
    },
    store::StoreError,
};

/// Reads only indexes, and no more of them than the bounds.
pub(super) fn check_live(
    connection: &Connection,
    record: &KeyRecord,
    bounds: Option<KeysPerOwner>,
) -> Result<(), Failure> {
    let Some(bounds) = bounds else {
        return Ok(());
    };
    let live = live(connection, &record.owner, record.created_at, bounds)?;
    if bounds.take(record, live) {
        return Ok(());
    }
    Err(StoreError::from(NoRoom).into())
}

/// Counts up to the bound.
pub(super) fn live(
    connection: &Connection,
    owner: &str,
    now: Timestamp,
    bounds: KeysPerOwner,
) -> Result<u32, Failure> {
    let live = connection
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM api_key WHERE owner = ? AND revoked_at IS NULL
             AND (expires_at IS NULL OR expires_at > ?) LIMIT ?)",
        )?
        .query_row(params![owner, micros(now), bounds.live_max], |row| {
            row.get(0)
        })?;
    Ok(live)
}

/// Makes room for another key: if as many are kept as allowed, the oldest ended one is deleted.
pub(super) fn make_room(
    connection: &Connection,
    another: &KeyRecord,
    bounds: Option<KeysPerOwner>,
) -> Result<(), Failure> {
    let Some(bounds) = bounds else {
        return Ok(());
    };
    let owner = &another.owner;
    if kept(connection, owner, bounds)? < bounds.kept_max {
        return Ok(());
    }
    let gone = connection
        .prepare_cached(
            "DELETE FROM api_key WHERE position = (SELECT position FROM api_key WHERE owner = ?
             AND (revoked_at IS NOT NULL OR expires_at <= ?) ORDER BY position LIMIT 1)",
        )?
        .execute(params![owner, micros(another.created_at)])?;
    if gone == 0 {
        return Err(StoreError::from(NoRoom).into());
    }
    Ok(())
}

/// Counts up to the bound.
fn kept(connection: &Connection, owner: &str, bounds: KeysPerOwner) -> Result<u32, Failure> {
    let kept = connection
        .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM api_key WHERE owner = ? LIMIT ?)")?
        .query_row(params![owner, bounds.kept_max], |row| row.get(0))?;
    Ok(kept)
}

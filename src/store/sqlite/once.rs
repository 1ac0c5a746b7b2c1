//! Idempotency keys, inside a transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::convert::{Failure, micros};
use crate::domain::{
    books::{HoldRefusal, KnownCall},
    clock::Timestamp,
    usage::Idempotency,
};

/// Why a call with that key is refused, if it is.
pub(super) fn refuses(
    connection: &Connection,
    account: i64,
    wish: &Idempotency,
    now: Timestamp,
) -> Result<Option<HoldRefusal>, Failure> {
    let known = known(connection, account, &wish.key, now)?;
    Ok(known.map(|(known, _)| known.refusal(&wish.fingerprint)))
}

/// What is known of a key, and until when, in microseconds.
pub(super) fn known(
    connection: &Connection,
    account: i64,
    key: &str,
    now: Timestamp,
) -> Result<Option<(KnownCall, i64)>, Failure> {
    // A key in use is remembered until its call ends, however long that takes.
    let known = connection
        .prepare_cached(
            "SELECT fingerprint, settled, ends FROM once
             WHERE account = ? AND key = ? AND NOT (settled AND ends <= ?)",
        )?
        .query_row(params![account, key, micros(now)], |row| {
            let known = KnownCall {
                fingerprint: row.get(0)?,
                settled: row.get(1)?,
            };
            Ok((known, row.get(2)?))
        })
        .optional()?;
    Ok(known)
}

/// A key that was freed names a call that was charged after all.
pub(super) fn take_back(
    connection: &Connection,
    account: i64,
    key: &str,
    fingerprint: [u8; 32],
    ends: i64,
) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO once (account, key, fingerprint, settled, ends)
             VALUES (?,?,?,1,?)",
        )?
        .execute(params![account, key, fingerprint, ends])?;
    Ok(())
}

pub(super) fn begin(
    connection: &Connection,
    account: i64,
    wish: &Idempotency,
    now: Timestamp,
) -> Result<(), Failure> {
    let ends = now.saturating_add(wish.keep_for).unwrap_or(Timestamp::MAX);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO once (account, key, fingerprint, settled, ends)
             VALUES (?,?,?,0,?)",
        )?
        .execute(params![account, &*wish.key, wish.fingerprint, micros(ends)])?;
    Ok(())
}

/// A charged key stays known; one that cost nothing may be used again.
pub(super) fn end(
    connection: &Connection,
    account: i64,
    key: &str,
    charged: bool,
) -> Result<(), Failure> {
    let change = if charged {
        "UPDATE once SET settled = 1 WHERE account = ? AND key = ?"
    } else {
        "DELETE FROM once WHERE account = ? AND key = ?"
    };
    connection
        .prepare_cached(change)?
        .execute(params![account, key])?;
    Ok(())
}

/// Deletes up to `step` expired keys; `false`: there may be more.
pub(super) fn forget_old(
    connection: &Connection,
    now: Timestamp,
    step: i64,
) -> Result<bool, Failure> {
    let deleted = connection
        .prepare_cached(
            "DELETE FROM once WHERE (account, key) IN
             (SELECT account, key FROM once WHERE settled AND ends <= ? LIMIT ?)",
        )?
        .execute(params![micros(now), step])?;
    Ok(i64::try_from(deleted).unwrap_or(i64::MAX) < step)
}

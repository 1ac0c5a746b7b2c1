//! The stored form of a login, and how long it is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    domain::{SessionId, UserId, clock::Timestamp, user::SessionRecord},
    store::StoreError,
};

/// How long a login is kept after its end: clocks of processes differ, and a late request is told
/// why it is refused.
pub(super) const KEPT_AFTER_END: Duration = Duration::from_secs(3_600);

/// A login as stored under its name.
#[derive(Serialize, Deserialize)]
struct StoredLogin {
    user: UserId,
    created_at: Timestamp,
    expires_at: Timestamp,
    ended_at: Option<Timestamp>,
    generation: u64,
    refreshed_at: Option<Timestamp>,
    password_version: Option<u64>,
}

pub(super) fn write(session: &SessionRecord) -> Result<String, StoreError> {
    let stored = StoredLogin {
        user: session.user.clone(),
        created_at: session.created_at,
        expires_at: session.expires_at,
        ended_at: session.ended_at,
        generation: session.generation,
        refreshed_at: session.refreshed_at,
        password_version: session.password_version,
    };
    serde_json::to_string(&stored)
        .map_err(|_| StoreError::internal("a login could not be serialized"))
}

pub(super) fn read(id: &SessionId, text: &str) -> Result<SessionRecord, StoreError> {
    let stored: StoredLogin = serde_json::from_str(text)
        .map_err(|_| StoreError::internal("a login in Redis can't be read"))?;
    Ok(SessionRecord {
        id: id.clone(),
        user: stored.user,
        created_at: stored.created_at,
        expires_at: stored.expires_at,
        ended_at: stored.ended_at,
        generation: stored.generation,
        refreshed_at: stored.refreshed_at,
        password_version: stored.password_version,
    })
}

/// How long to keep a login that continues from `from`.
pub(super) fn kept_for_millis(session: &SessionRecord, from: Timestamp) -> i64 {
    let left = session.expires_at.duration_since(from);
    let left = if left.is_negative() {
        Duration::ZERO
    } else {
        left.unsigned_abs()
    };
    millis(left.saturating_add(KEPT_AFTER_END))
}

/// A duration as Redis expects it.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

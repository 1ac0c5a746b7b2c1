//! A login as a text, and for how long it is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    domain::{SessionId, UserId, clock::Timestamp, user::SessionRecord},
    store::StoreError,
};

/// How long a login stays beyond its end: the clocks of processes differ, and who comes late is told why.
pub(super) const STAYS: Duration = Duration::from_secs(3_600);

/// A login as it is written down, under its name.
#[derive(Serialize, Deserialize)]
struct Written {
    user: UserId,
    created_at: Timestamp,
    expires_at: Timestamp,
    ended_at: Option<Timestamp>,
    generation: u64,
    refreshed_at: Option<Timestamp>,
    password_version: Option<u64>,
}

pub(super) fn write(session: &SessionRecord) -> Result<String, StoreError> {
    let written = Written {
        user: session.user.clone(),
        created_at: session.created_at,
        expires_at: session.expires_at,
        ended_at: session.ended_at,
        generation: session.generation,
        refreshed_at: session.refreshed_at,
        password_version: session.password_version,
    };
    serde_json::to_string(&written)
        .map_err(|_| StoreError::internal("a login could not be written down"))
}

pub(super) fn read(id: &SessionId, text: &str) -> Result<SessionRecord, StoreError> {
    let written: Written = serde_json::from_str(text)
        .map_err(|_| StoreError::internal("a login in Redis can't be read"))?;
    Ok(SessionRecord {
        id: id.clone(),
        user: written.user,
        created_at: written.created_at,
        expires_at: written.expires_at,
        ended_at: written.ended_at,
        generation: written.generation,
        refreshed_at: written.refreshed_at,
        password_version: written.password_version,
    })
}

/// For how long a login that goes on from `from` is kept.
pub(super) fn kept(session: &SessionRecord, from: Timestamp) -> i64 {
    let left = session.expires_at.duration_since(from);
    let left = if left.is_negative() {
        Duration::ZERO
    } else {
        left.unsigned_abs()
    };
    millis(left.saturating_add(STAYS))
}

/// As Redis takes a time.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

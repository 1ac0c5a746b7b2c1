//! Conversions between the domain's values and SQLite's.

use std::sync::Arc;

use rusqlite::{ErrorCode, Row, ffi};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    domain::{
        AccountId,
        clock::{Timestamp, moment_of_micros},
        money::Money,
    },
    store::{StoreError, StoreErrorKind},
};

/// A failure between here and the file. It exists so that `?` converts rusqlite's errors without
/// the public [`StoreError`] naming them.
#[derive(Clone, Debug)]
pub(super) struct Failure(pub(super) StoreError, Cause);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// SQLite read what it can't have written.
    Damage,
    Other,
}

impl Failure {
    pub(super) fn corrupt(what: &str) -> Self {
        let text = format!("the database holds what it never should: {what}");
        StoreError::internal(&text).into()
    }

    /// Whether the file is damaged, rather than holding something unexpected.
    pub(super) fn is_damage(&self) -> bool {
        self.1 == Cause::Damage
    }

    /// Whether a retry may succeed.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self.0.kind(),
            StoreErrorKind::Unavailable | StoreErrorKind::Busy
        )
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(error, Cause::Other)
    }
}

impl From<rusqlite::Error> for Failure {
    /// SQLite's own messages name tables and columns, never values. Other rusqlite errors may quote
    /// values, so only their kind is kept.
    fn from(error: rusqlite::Error) -> Self {
        let rusqlite::Error::SqliteFailure(code, text) = &error else {
            return Self::corrupt("a value of an unexpected type");
        };
        let kind = match code.code {
            ErrorCode::CannotOpen
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OperationInterrupted
            | ErrorCode::OutOfMemory
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::SystemIoFailure => StoreErrorKind::Unavailable,
            ErrorCode::ConstraintViolation if is_taken(code.extended_code) => {
                StoreErrorKind::Conflict
            }
            _ => StoreErrorKind::Internal,
        };
        let cause = match code.code {
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Cause::Damage,
            _ => Cause::Other,
        };
        let text = text.as_deref().unwrap_or("no message");
        let code = code.extended_code;
        let text = format!("SQLite ({code}): {text}");
        Self(StoreError::new(kind, &text), cause)
    }
}

fn is_taken(extended_code: i32) -> bool {
    matches!(
        extended_code,
        ffi::SQLITE_CONSTRAINT_UNIQUE
            | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
            | ffi::SQLITE_CONSTRAINT_ROWID
    )
}

/// Microseconds since 1970, which cover every timestamp; nanoseconds would not.
pub(super) fn micros(moment: Timestamp) -> i64 {
    moment.as_microsecond()
}

pub(super) fn moment(micros: i64) -> Result<Timestamp, Failure> {
    moment_of_micros(micros).ok_or_else(|| Failure::corrupt("a time out of range"))
}

pub(super) fn moment_or_none(micros: Option<i64>) -> Result<Option<Timestamp>, Failure> {
    micros.map(moment).transpose()
}

/// A column of nano-dollars.
pub(super) fn money(row: &Row<'_>, column: usize) -> Result<Money, Failure> {
    Ok(Money::from_nanos(row.get(column)?))
}

/// A count, stored as it is or as the largest possible value.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn uncount(number: i64) -> Result<u64, Failure> {
    u64::try_from(number).map_err(|_| Failure::corrupt("a negative count"))
}

/// A name of the domain, as stored.
pub(super) fn name<T>(row: &Row<'_>, column: usize) -> Result<T, Failure>
where
    T: TryFrom<String>,
{
    let text: String = row.get(column)?;
    T::try_from(text).map_err(|_| Failure::corrupt("a name of no length, or too long"))
}

/// A name that may be NULL.
pub(super) fn name_or_none<T>(row: &Row<'_>, column: usize) -> Result<Option<T>, Failure>
where
    T: TryFrom<String>,
{
    let text: Option<String> = row.get(column)?;
    text.map(T::try_from)
        .transpose()
        .map_err(|_| Failure::corrupt("a name of no length, or too long"))
}

/// The principal; stored only if it isn't named like its account.
pub(super) fn principal(
    row: &Row<'_>,
    column: usize,
    account: &AccountId,
) -> Result<Arc<str>, Failure> {
    let stored: Option<String> = row.get(column)?;
    Ok(stored.map_or_else(|| Arc::from(account.as_str()), Arc::from))
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|_| StoreError::internal("a list has no JSON").into())
}

pub(super) fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T, Failure> {
    let text = row.get_ref(column)?.as_str();
    let text = text.map_err(|_| Failure::corrupt("a list that is no text"))?;
    serde_json::from_str(text).map_err(|_| Failure::corrupt("a list that is no JSON"))
}

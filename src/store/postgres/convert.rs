//! Conversions between the domain's values and PostgreSQL's.

use std::sync::Arc;

use sqlx::{
    Decode, Encode, Postgres, Row, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueRef, types::Oid},
};

use crate::{
    domain::{
        AccountId,
        clock::{Timestamp, moment_of_micros},
        money::Money,
        network::IpNet,
    },
    store::{StoreError, StoreErrorKind},
};

/// An error between here and the database. With this type `?` converts sqlx's errors without the
/// public [`StoreError`] naming them.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// There was a conflict: the whole transaction may succeed if it is repeated immediately.
    pub(super) is_retryable: bool,
    /// The database itself answered, and the connection is still good.
    pub(super) is_sound: bool,
    pub(super) reason: Reason,
}

/// What caused a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The data to be written, or the data it conflicts with: retrying never helps.
    Values,
    /// A row that others have locked for too long.
    Locked,
    /// No connection could be obtained.
    NoConnection,
    /// The state of the database, its settings or its tables: it may be repaired.
    Other,
}

impl Failure {
    pub(super) fn corrupt(what: &str) -> Self {
        StoreError::internal(&format!("the database contains invalid data: {what}")).into()
    }

    pub(super) fn slow() -> Self {
        let text = "the database did not answer in time";
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, text),
            is_retryable: false,
            is_sound: false,
            reason: Reason::Other,
        }
    }

    /// There was a conflict with others.
    pub(super) fn conflict() -> Self {
        let text = "the transaction kept conflicting with others";
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, text),
            is_retryable: true,
            is_sound: true,
            reason: Reason::Other,
        }
    }

    /// Others have locked it for too long.
    pub(super) fn locked() -> Self {
        let text = "the account is locked by another transaction";
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, text),
            is_retryable: false,
            is_sound: true,
            reason: Reason::Locked,
        }
    }

    /// No connection could be obtained. Whatever the reason, be it a password or a database that
    /// accepts no connections, it says nothing about the request itself.
    pub(super) fn no_connection(error: sqlx::Error) -> Self {
        let Self { error, .. } = error.into();
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, &error.to_string()),
            is_retryable: false,
            is_sound: false,
            reason: Reason::NoConnection,
        }
    }

    /// Whether a retry may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        matches!(
            self.error.kind(),
            StoreErrorKind::Unavailable | StoreErrorKind::Busy
        )
    }

    /// Whether the data to be written is the cause, so that it fails at any time.
    pub(super) fn is_final(&self) -> bool {
        self.reason == Reason::Values
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let is_transient = matches!(
            error.kind(),
            StoreErrorKind::Unavailable | StoreErrorKind::Busy
        );
        Self {
            error,
            is_retryable: false,
            is_sound: true,
            reason: match is_transient {
                true => Reason::Other,
                false => Reason::Values,
            },
        }
    }
}

impl From<sqlx::Error> for Failure {
    /// PostgreSQL's primary messages name tables, columns and constraints; those about data (class
    /// 22) may quote values, as may sqlx's own about decoding, so for both only the kind is kept.
    fn from(error: sqlx::Error) -> Self {
        let unreachable = |text: String| Self {
            error: StoreError::new(StoreErrorKind::Unavailable, &text),
            is_retryable: false,
            is_sound: false,
            reason: Reason::Other,
        };
        match &error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                let message = match code.get(..2) {
                    Some("22") => "a value can't be stored",
                    _ => database.message(),
                };
                let text = format!("PostgreSQL ({code}): {message}{}", hint(&code));
                Self {
                    error: StoreError::new(kind_of(&code), &text),
                    is_retryable: matches!(&*code, SERIALIZATION_FAILURE | DEADLOCK),
                    is_sound: !spoils_connection(&code),
                    reason: reason_of(&code),
                }
            }
            sqlx::Error::Io(error) => {
                unreachable(format!("PostgreSQL can't be reached: {}", error.kind()))
            }
            sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                unreachable("the connection to PostgreSQL failed".to_owned())
            }
            sqlx::Error::PoolTimedOut => {
                unreachable("no connection to PostgreSQL became free in time".to_owned())
            }
            sqlx::Error::PoolClosed => {
                unreachable("the connections to PostgreSQL are closed".to_owned())
            }
            sqlx::Error::BeginFailed => unreachable("a transaction could not begin".to_owned()),
            _ => Self {
                is_sound: false,
                ..Self::corrupt("a value of an unexpected type")
            },
        }
    }
}

const SERIALIZATION_FAILURE: &str = "40001";
const DEADLOCK: &str = "40P01";
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// By SQLSTATE, see appendix A of the PostgreSQL manual.
fn kind_of(code: &str) -> StoreErrorKind {
    match code {
        // Already there.
        "23505" => StoreErrorKind::Conflict,
        // Session state that has become stale, or a server that is read-only.
        "0A000" | "26000" | "42P05" => StoreErrorKind::Unavailable,
        _ => match code.get(..2) {
            // Connections, sessions and transactions in an unsuitable state, passwords, databases
            // under maintenance, conflicting transactions, resources, operator intervention.
            Some("08" | "25" | "28" | "3D" | "40" | "53" | "55" | "57" | "58") => {
                StoreErrorKind::Unavailable
            }
            // Values that can't be stored: a NUL in a text, a date out of range, a text too long
            // for an index.
            Some("22" | "54") => StoreErrorKind::Refused,
            _ => StoreErrorKind::Internal,
        },
    }
}

fn reason_of(code: &str) -> Reason {
    match code.get(..2) {
        _ if code == LOCK_NOT_AVAILABLE => Reason::Locked,
        Some("22" | "23" | "54") => Reason::Values,
        _ => Reason::Other,
    }
}

/// What an operator is to look at.
fn hint(code: &str) -> &'static str {
    if matches!(code, "26000" | "42P05") {
        "; a pooler that shares sessions between clients must know prepared statements: PgBouncer 1.21 \
         or later with max_prepared_statements above zero, or pool_mode = session"
    } else {
        ""
    }
}

/// Whether another connection may succeed where this one can't: this one is read-only, dates from
/// before a failover, relies on prepared statements that are gone, or was terminated.
fn spoils_connection(code: &str) -> bool {
    matches!(
        code,
        "0A000" | "25006" | "25P03" | "25P04" | "26000" | "42P05" | "57P01" | "57P02" | "57P03"
    )
}

/// Whether PostgreSQL can hold the text at all: it must have no NUL. What can't be stored need not
/// be looked up.
pub(super) fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

/// A time as TIMESTAMPTZ, to the microsecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(pub(super) Timestamp);

/// From 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The type ids of PostgreSQL's built-in types never change.
const TIMESTAMPTZ: Oid = Oid(1184);
const TIMESTAMPTZ_ARRAY: Oid = Oid(1185);

impl Type<Postgres> for Moment {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl PgHasArrayType for Moment {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ_ARRAY)
    }
}

impl Encode<'_, Postgres> for Moment {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let micros = self.0.as_microsecond().saturating_sub(EPOCH_MICROS);
        Encode::<Postgres>::encode(micros, buffer)
    }

    fn size_hint(&self) -> usize {
        size_of::<i64>()
    }
}

impl<'r> Decode<'r, Postgres> for Moment {
    /// Statements that return one are all prepared, so values arrive in binary form.
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let micros = <i64 as Decode<Postgres>>::decode(value)?;
        let moment = moment_of_micros(micros.saturating_add(EPOCH_MICROS));
        Ok(Self(moment.ok_or("a time out of range")?))
    }
}

pub(super) fn moments(moment: Option<Timestamp>) -> Option<Moment> {
    moment.map(Moment)
}

/// A column that may be NULL.
pub(super) fn moment_or_none(row: &PgRow, column: usize) -> Result<Option<Timestamp>, Failure> {
    Ok(row
        .try_get::<Option<Moment>, _>(column)?
        .map(|moment| moment.0))
}

pub(super) fn moment(row: &PgRow, column: usize) -> Result<Timestamp, Failure> {
    Ok(row.try_get::<Moment, _>(column)?.0)
}

/// A column of nano-dollars.
pub(super) fn money(row: &PgRow, column: usize) -> Result<Money, Failure> {
    Ok(Money::from_nanos(row.try_get(column)?))
}

/// A count, capped at the largest storable value.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn uncount(number: i64) -> Result<u64, Failure> {
    u64::try_from(number).map_err(|_| Failure::corrupt("a negative count"))
}

/// A domain name as stored.
pub(super) fn name<T>(row: &PgRow, column: usize) -> Result<T, Failure>
where
    T: TryFrom<String>,
{
    let text: String = row.try_get(column)?;
    T::try_from(text).map_err(|_| Failure::corrupt("a name of no length, or too long"))
}

/// A domain name that may be NULL.
pub(super) fn name_or_none<T>(row: &PgRow, column: usize) -> Result<Option<T>, Failure>
where
    T: TryFrom<String>,
{
    let text: Option<String> = row.try_get(column)?;
    text.map(T::try_from)
        .transpose()
        .map_err(|_| Failure::corrupt("a name of no length, or too long"))
}

/// The principal, which is stored only if it differs from the account's name.
pub(super) fn principal(
    row: &PgRow,
    column: usize,
    account: &AccountId,
) -> Result<Arc<str>, Failure> {
    let stored: Option<String> = row.try_get(column)?;
    Ok(stored.map_or_else(|| Arc::from(account.as_str()), Arc::from))
}

pub(super) fn networks(row: &PgRow, column: usize) -> Result<Vec<IpNet>, Failure> {
    let texts: Vec<String> = row.try_get(column)?;
    texts
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()
        .map_err(|_| Failure::corrupt("a network that is none"))
}

pub(super) fn network_texts(networks: &[IpNet]) -> Vec<String> {
    networks.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_stays() {
        for (code, kind) in [
            ("23505", StoreErrorKind::Conflict),
            ("57P01", StoreErrorKind::Unavailable),
            ("40P01", StoreErrorKind::Unavailable),
            ("53300", StoreErrorKind::Unavailable),
            ("25006", StoreErrorKind::Unavailable),
            ("26000", StoreErrorKind::Unavailable),
            ("55000", StoreErrorKind::Unavailable),
            ("28P01", StoreErrorKind::Unavailable),
            ("22021", StoreErrorKind::Refused),
            ("42P01", StoreErrorKind::Internal),
            ("", StoreErrorKind::Internal),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
        for code in ["26000", "42P05"] {
            assert!(hint(code).contains("max_prepared_statements"), "{code}");
        }
        assert_eq!(hint("42P01"), "");
        assert!(Failure::slow().is_transient());
        assert!(Failure::conflict().is_transient() && Failure::conflict().is_retryable);
        assert!(!Failure::corrupt("a test").is_transient());
        let unconnected = Failure::no_connection(sqlx::Error::Configuration("no such file".into()));
        assert!(
            unconnected.is_transient() && !unconnected.is_final(),
            "whatever the reason"
        );
    }

    #[test]
    fn only_what_is_about_the_values_is_final() {
        for code in ["22003", "22P05", "23503", "54000"] {
            assert_eq!(reason_of(code), Reason::Values, "{code}");
        }
        for code in ["55000", "42501", "42P01", "XX000", "P0001", "25006", ""] {
            assert_eq!(reason_of(code), Reason::Other, "{code}");
        }
        assert!(Failure::corrupt("a test").is_final());
        assert!(!Failure::locked().is_final() && !Failure::from(super::super::busy()).is_final());
    }
}

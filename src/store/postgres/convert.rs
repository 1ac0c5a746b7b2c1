//! Between the domain's values and PostgreSQL's.

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

/// What goes wrong between here and the database. It exists so that `?` turns sqlx's errors into ours
/// without the public [`StoreError`] naming them.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// Somebody was in the way: the whole transaction may succeed if it is done again at once.
    pub(super) repeat: bool,
    /// The database itself answered, and the connection is as good as before.
    pub(super) is_sound: bool,
    pub(super) reason: Reason,
}

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// What was to be written, or what it was to be written into: no other time helps.
    Values,
    /// A row that somebody else has locked for too long.
    Locked,
    /// There is no connection to be had.
    Away,
    /// The state of the database, its settings or its tables: it may be mended.
    Other,
}

impl Failure {
    pub(super) fn corrupt(what: &str) -> Self {
        StoreError::internal(&format!("the database holds what it never should: {what}")).into()
    }

    pub(super) fn slow() -> Self {
        let text = "the database did not answer in time";
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, text),
            repeat: false,
            is_sound: false,
            reason: Reason::Other,
        }
    }

    /// Others were in the way.
    pub(super) fn repeat() -> Self {
        let text = "others were in the way, time and again";
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, text),
            repeat: true,
            is_sound: true,
            reason: Reason::Other,
        }
    }

    /// Others have locked it for too long.
    pub(super) fn locked() -> Self {
        let text = "others have locked the account";
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, text),
            repeat: false,
            is_sound: true,
            reason: Reason::Locked,
        }
    }

    /// No connection could be had: whatever the reason, be it a password or a database that takes nobody in, it says
    /// nothing about what was to be done.
    pub(super) fn away(error: sqlx::Error) -> Self {
        let Self { error, .. } = error.into();
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, &error.to_string()),
            repeat: false,
            is_sound: false,
            reason: Reason::Away,
        }
    }

    /// Whether the same may succeed later.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self.error.kind(),
            StoreErrorKind::Unavailable | StoreErrorKind::Busy
        )
    }

    /// Whether it is about what was to be written, so that it fails at any time.
    pub(super) fn is_final(&self) -> bool {
        self.reason == Reason::Values
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let is_passing = matches!(
            error.kind(),
            StoreErrorKind::Unavailable | StoreErrorKind::Busy
        );
        Self {
            error,
            repeat: false,
            is_sound: true,
            reason: match is_passing {
                true => Reason::Other,
                false => Reason::Values,
            },
        }
    }
}

impl From<sqlx::Error> for Failure {
    /// PostgreSQL's main messages name tables, columns and constraints; those about data (class 22) may quote values,
    /// and so may sqlx's own about decoding, so of both only the kind is kept.
    fn from(error: sqlx::Error) -> Self {
        let unreachable = |text: String| Self {
            error: StoreError::new(StoreErrorKind::Unavailable, &text),
            repeat: false,
            is_sound: false,
            reason: Reason::Other,
        };
        match &error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                let message = match code.get(..2) {
                    Some("22") => "a value that it can't store",
                    _ => database.message(),
                };
                let text = format!("PostgreSQL ({code}): {message}");
                Self {
                    error: StoreError::new(kind_of(&code), &text),
                    repeat: matches!(&*code, SERIALIZATION_FAILURE | DEADLOCK),
                    is_sound: !spoils(&code),
                    reason: reason_of(&code),
                }
            }
            sqlx::Error::Io(error) => {
                unreachable(format!("PostgreSQL can't be reached: {}", error.kind()))
            }
            sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                unreachable("PostgreSQL can't be spoken with".to_owned())
            }
            sqlx::Error::PoolTimedOut => {
                unreachable("no connection to PostgreSQL came free in time".to_owned())
            }
            sqlx::Error::PoolClosed => {
                unreachable("the connections to PostgreSQL are closed".to_owned())
            }
            sqlx::Error::BeginFailed => unreachable("no transaction began".to_owned()),
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

/// By the SQLSTATE, see appendix A of PostgreSQL's manual.
fn kind_of(code: &str) -> StoreErrorKind {
    match code {
        // Already there.
        "23505" => StoreErrorKind::Conflict,
        // What a session remembers that isn't so any more, or a server that only reads.
        "0A000" | "26000" | "42P05" => StoreErrorKind::Unavailable,
        _ => match code.get(..2) {
            // Connections, sessions and transactions in a state that won't do, passwords, databases that are worked
            // on, transactions in each other's way, resources, an operator.
            Some("08" | "25" | "28" | "3D" | "40" | "53" | "55" | "57" | "58") => {
                StoreErrorKind::Unavailable
            }
            // Values that can't be stored: a NUL in a text, a date before all dates, a text too long for an index.
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

/// Whether another connection may do what this one can't: it only reads, it began before a server took another's
/// place, it remembers statements that are prepared no more, or it is ended.
fn spoils(code: &str) -> bool {
    matches!(
        code,
        "0A000" | "25006" | "25P03" | "25P04" | "26000" | "42P05" | "57P01" | "57P02" | "57P03"
    )
}

/// Whether PostgreSQL can hold the text at all: it has no NUL. What can't be there need not be looked for.
pub(super) fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

/// A moment as TIMESTAMPTZ: to the microsecond.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(pub(super) Timestamp);

/// From 1970-01-01 to 2000-01-01, from which PostgreSQL counts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// PostgreSQL's numbers of its own types never change.
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
    /// Every statement that returns one is a prepared one, whose values come in binary form.
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

/// A count that is stored as it is, or as the largest there is.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn uncount(number: i64) -> Result<u64, Failure> {
    u64::try_from(number).map_err(|_| Failure::corrupt("a negative count"))
}

/// A name of the domain, as stored.
pub(super) fn name<T>(row: &PgRow, column: usize) -> Result<T, Failure>
where
    T: TryFrom<String>,
{
    let text: String = row.try_get(column)?;
    T::try_from(text).map_err(|_| Failure::corrupt("a name of no length, or too long"))
}

/// A name that may be NULL.
pub(super) fn name_or_none<T>(row: &PgRow, column: usize) -> Result<Option<T>, Failure>
where
    T: TryFrom<String>,
{
    let text: Option<String> = row.try_get(column)?;
    text.map(T::try_from)
        .transpose()
        .map_err(|_| Failure::corrupt("a name of no length, or too long"))
}

/// Who called, where it is not called like its account.
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
        assert!(Failure::slow().is_passing());
        assert!(Failure::repeat().is_passing() && Failure::repeat().repeat);
        assert!(!Failure::corrupt("a test").is_passing());
        let away = Failure::away(sqlx::Error::Configuration("no such file".into()));
        assert!(away.is_passing() && !away.is_final(), "whatever the reason");
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

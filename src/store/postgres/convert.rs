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
    /// The database itself answered, so the connection is sound.
    pub(super) answered: bool,
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
            answered: false,
        }
    }

    /// Others were in the way.
    pub(super) fn repeat() -> Self {
        let text = "others were in the way, time and again";
        Self {
            error: StoreError::new(StoreErrorKind::Unavailable, text),
            repeat: true,
            answered: true,
        }
    }

    /// Whether the same may succeed later.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self.error.kind(),
            StoreErrorKind::Unavailable | StoreErrorKind::Busy
        )
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self {
            error,
            repeat: false,
            answered: true,
        }
    }
}

impl From<sqlx::Error> for Failure {
    /// PostgreSQL's main messages name tables, columns and constraints; those about data (class 22) may quote values,
    /// and so may sqlx's own about decoding, so of both only the kind is kept.
    fn from(error: sqlx::Error) -> Self {
        let (kind, text, answered) = match &error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                let message = match code.get(..2) {
                    Some("22") => "a value that it can't store",
                    _ => database.message(),
                };
                let text = format!("PostgreSQL ({code}): {message}");
                return Self {
                    error: StoreError::new(kind_of(&code), &text),
                    repeat: matches!(&*code, SERIALIZATION_FAILURE | DEADLOCK),
                    answered: true,
                };
            }
            sqlx::Error::Io(error) => {
                let text = format!("PostgreSQL can't be reached: {}", error.kind());
                (StoreErrorKind::Unavailable, text, false)
            }
            sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => (
                StoreErrorKind::Unavailable,
                "PostgreSQL can't be spoken with".to_owned(),
                false,
            ),
            sqlx::Error::PoolTimedOut => (
                StoreErrorKind::Unavailable,
                "no connection to PostgreSQL came free in time".to_owned(),
                false,
            ),
            sqlx::Error::PoolClosed => (
                StoreErrorKind::Unavailable,
                "the connections to PostgreSQL are closed".to_owned(),
                false,
            ),
            sqlx::Error::BeginFailed => (
                StoreErrorKind::Unavailable,
                "no transaction began".to_owned(),
                false,
            ),
            _ => (
                StoreErrorKind::Internal,
                "the database holds what it never should: a value of an unexpected type".to_owned(),
                false,
            ),
        };
        Self {
            error: StoreError::new(kind, &text),
            repeat: false,
            answered,
        }
    }
}

const SERIALIZATION_FAILURE: &str = "40001";
const DEADLOCK: &str = "40P01";

/// By the SQLSTATE, see appendix A of PostgreSQL's manual.
fn kind_of(code: &str) -> StoreErrorKind {
    match code {
        // Already there.
        "23505" => StoreErrorKind::Conflict,
        // A lock or a statement that took too long, a server that ends, begins, or only reads for now.
        "55P03" | "57014" | "25006" | "25P03" => StoreErrorKind::Unavailable,
        _ => match code.get(..2) {
            // Connections, transactions in each other's way, resources, an operator.
            Some("08" | "40" | "53" | "57" | "58") => StoreErrorKind::Unavailable,
            // Values that can't be stored: a NUL in a text, a date before all dates, a text too long for an index.
            Some("22" | "54") => StoreErrorKind::Refused,
            _ => StoreErrorKind::Internal,
        },
    }
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
            ("22021", StoreErrorKind::Refused),
            ("42P01", StoreErrorKind::Internal),
            ("", StoreErrorKind::Internal),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
        assert!(Failure::slow().is_passing());
        assert!(Failure::repeat().is_passing() && Failure::repeat().repeat);
        assert!(!Failure::corrupt("a test").is_passing());
    }
}

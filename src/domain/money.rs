//! Money: an `i64` of nano-dollars. No float ever touches it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;

/// Nano-dollars in a dollar.
const NANOS_PER_DOLLAR: i64 = 1_000_000_000;
/// The decimal places of an amount in dollars.
const DECIMALS: u32 = 9;
/// The longest text that is parsed as an amount, in bytes.
const TEXT_LENGTH_MAX: usize = 64;

/// An exact amount of money, in nano-dollars (10⁻⁹ USD): from −9.2 to +9.2 billion dollars.
///
/// Arithmetic is checked: an overflow is `None`. Only [`Money::per_million`] rounds, and it rounds
/// up.
///
/// ```
/// use tollgate::money::Money;
///
/// let price: Money = "0.0020".parse()?;
/// assert_eq!(price, Money::from_nanos(2_000_000));
/// assert_eq!(price.to_string(), "$0.0020");
/// assert!("0.00000000001".parse::<Money>().is_err(), "finer than a nano-dollar");
/// assert!("NaN".parse::<Money>().is_err());
/// # Ok::<(), tollgate::money::ParseMoneyError>(())
/// ```
///
/// In JSON it is a number of dollars, exact and without an exponent (`0.002`). Only JSON can carry
/// such a number, so [`Serialize`] and [`Deserialize`] are for `serde_json` and refuse other
/// formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

/// Why a text is not an amount of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseMoneyError {
    /// Not a decimal number.
    #[error("not a decimal number")]
    NotANumber,
    /// Finer than a nano-dollar.
    #[error("more than {DECIMALS} decimals")]
    TooFine,
    /// Beyond ±9.2 billion dollars.
    #[error("amount out of range")]
    OutOfRange,
}

impl Money {
    /// Zero.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MAX: Self = Self(i64::MAX);

    /// From nano-dollars.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From whole dollars; `None` beyond ±9.2 billion.
    #[must_use]
    pub const fn from_dollars(dollars: i64) -> Option<Self> {
        match dollars.checked_mul(NANOS_PER_DOLLAR) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// The amount in nano-dollars.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Whether this is exactly zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether this is less than zero.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// The sum, unless it overflows.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// The difference, unless it overflows.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(nanos) => Some(Self(nanos)),
            None => None,
        }
    }

    /// The sum, or the end of the range.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or the end of the range.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// What `units` cost when a million of them cost `self`, rounded up to a nano-dollar; `None` on
    /// overflow or a negative price.
    ///
    /// This is where a price is multiplied by a quantity, and the only place where money is
    /// rounded.
    #[must_use]
    pub fn per_million(self, units: u64) -> Option<Self> {
        Self::sum_per_million([(self, units)])
    }

    /// What several quantities cost together, each with its price of a million, rounded up once;
    /// `None` on overflow or a negative price. So it is never more than their costs one by one.
    pub(crate) fn sum_per_million(parts: impl IntoIterator<Item = (Self, u64)>) -> Option<Self> {
        let mut sum: i128 = 0;
        for (price, units) in parts {
            if price.is_negative() {
                return None;
            }
            let product = i128::from(price.0).checked_mul(i128::from(units))?;
            sum = sum.checked_add(product)?;
        }
        let rounded_up = sum.checked_add(999_999)?.checked_div(1_000_000)?;
        i64::try_from(rounded_up).ok().map(Self)
    }

    /// The digits without a sign: at least `decimals` after the point, and as many more as
    /// exactness needs.
    fn write_magnitude(self, f: &mut impl fmt::Write, decimals: usize) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let unit = NANOS_PER_DOLLAR.unsigned_abs();
        let (dollars, nanos) = (magnitude.div_euclid(unit), magnitude.rem_euclid(unit));
        f.write_str(itoa::Buffer::new().format(dollars))?;
        // The leading one, cut off below, preserves leading zeros.
        let mut padded = itoa::Buffer::new();
        let padded = padded.format(unit.saturating_add(nanos));
        let digits = padded.get(1..).unwrap_or_default();
        let needed = digits.trim_end_matches('0').len().max(decimals);
        let shown = digits.get(..needed).unwrap_or(digits);
        if !shown.is_empty() {
            f.write_char('.')?;
            f.write_str(shown)?;
        }
        Ok(())
    }

    /// Dollars as an exact plain decimal with as few digits as possible: `-0.002`.
    pub(crate) fn write_decimal(self, f: &mut impl fmt::Write) -> fmt::Result {
        if self.is_negative() {
            f.write_char('-')?;
        }
        self.write_magnitude(f, 0)
    }

    /// The same as a string.
    pub(crate) fn to_decimal(self) -> String {
        let mut text = String::new();
        // Writing to a `String` can't fail.
        let _ = self.write_decimal(&mut text);
        text
    }

    /// Parses a JSON number, exactly: like [`FromStr`], but with an optional exponent.
    fn from_json_number(text: &str) -> Result<Self, ParseMoneyError> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            None => (text, 0),
            Some((mantissa, exponent)) => {
                // A JSON exponent is `[+-]?[0-9]+`; one that overflows an i32 is far out of range
                // anyway.
                (
                    mantissa,
                    exponent
                        .parse::<i32>()
                        .map_err(|_| ParseMoneyError::OutOfRange)?,
                )
            }
        };
        parse_decimal(mantissa, exponent)
    }
}

/// `mantissa` × 10^`exponent` dollars, exactly.
fn parse_decimal(mantissa: &str, exponent: i32) -> Result<Money, ParseMoneyError> {
    if mantissa.len() > TEXT_LENGTH_MAX {
        return Err(ParseMoneyError::OutOfRange);
    }
    let (negative, unsigned) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = match unsigned.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(ParseMoneyError::NotANumber),
        None => (unsigned, ""),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err(ParseMoneyError::NotANumber);
    }
    let mut magnitude: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        magnitude = magnitude
            .checked_mul(10)
            .and_then(|shifted| shifted.checked_add(i128::from(digit.wrapping_sub(b'0'))))
            .ok_or(ParseMoneyError::OutOfRange)?;
    }
    if magnitude == 0 {
        return Ok(Money::ZERO);
    }
    let decimals = i32::try_from(fraction.len()).map_err(|_| ParseMoneyError::TooFine)?;
    let shift = 9_i32
        .checked_sub(decimals)
        .and_then(|shift| shift.checked_add(exponent))
        .ok_or(ParseMoneyError::OutOfRange)?;
    let nanos = scale(magnitude, shift)?;
    let signed = if negative {
        nanos.checked_neg()
    } else {
        Some(nanos)
    };
    let nanos = signed.and_then(|nanos| i64::try_from(nanos).ok());
    nanos.map(Money).ok_or(ParseMoneyError::OutOfRange)
}

/// `magnitude` × 10^`shift`, or an error if the result is not whole.
fn scale(magnitude: i128, shift: i32) -> Result<i128, ParseMoneyError> {
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    if shift >= 0 {
        return power
            .and_then(|power| magnitude.checked_mul(power))
            .ok_or(ParseMoneyError::OutOfRange);
    }
    let power = power.ok_or(ParseMoneyError::TooFine)?;
    match magnitude.checked_rem(power) {
        Some(0) => magnitude
            .checked_div(power)
            .ok_or(ParseMoneyError::OutOfRange),
        _ => Err(ParseMoneyError::TooFine),
    }
}

impl FromStr for Money {
    type Err = ParseMoneyError;

    /// Parses dollars as a plain decimal: `12`, `-0.5`, `0.0020`. No `+`, no exponent, no blanks.
    fn from_str(text: &str) -> Result<Self, ParseMoneyError> {
        parse_decimal(text, 0)
    }
}

/// `$0.0020`: dollars with at least four decimals, or as many as the precision asks for (`{:.2}`),
/// and always as many as exactness needs.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(4);
        f.write_str(if self.is_negative() { "-$" } else { "$" })?;
        self.write_magnitude(f, decimals)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_decimal())
            .map_err(ser::Error::custom)?
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <Box<RawValue>>::deserialize(deserializer)?;
        Self::from_json_number(raw.get()).map_err(|error| {
            de::Error::custom(format_args!("expected a number of dollars: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> Result<Money, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn prints_at_least_four_decimals_and_always_all_that_matter() {
        assert_eq!(Money::from_nanos(2_000_000).to_string(), "$0.0020");
        assert_eq!(Money::from_nanos(1).to_string(), "$0.000000001");
        assert_eq!(Money::from_nanos(-1_500_000_000).to_string(), "-$1.5000");
        assert_eq!(format!("{:.2}", Money::from_nanos(1_000_000_000)), "$1.00");
        assert_eq!(
            Money::from_nanos(i64::MIN).to_string(),
            "-$9223372036.854775808"
        );
    }

    #[test]
    fn json_is_an_exact_number() {
        assert_eq!(
            serde_json::to_string(&Money::from_nanos(2_000_000)).unwrap(),
            "0.002"
        );
        assert_eq!(serde_json::to_string(&Money::ZERO).unwrap(), "0");
        assert_eq!(json("1.00").unwrap(), Money::from_nanos(1_000_000_000));
        assert_eq!(json("1e2").unwrap(), Money::from_nanos(100_000_000_000));
        assert_eq!(json("25E-1").unwrap(), Money::from_nanos(2_500_000_000));
        assert_eq!(json("0e999999999").unwrap(), Money::ZERO);
    }

    #[test]
    fn refuses_what_is_no_exact_amount() {
        for text in [
            "\"1\"",
            "null",
            "true",
            "[]",
            "{}",
            "1e400",
            "1e99999999999",
            "1e-10",
            "NaN",
        ] {
            assert!(json(text).is_err(), "{text}");
        }
        assert_eq!(
            "0.0000000001".parse::<Money>(),
            Err(ParseMoneyError::TooFine)
        );
        assert_eq!(
            "9223372036.854775808".parse::<Money>(),
            Err(ParseMoneyError::OutOfRange)
        );
        for text in [
            "", "-", ".", "1.", ".5", "+1", " 1", "1 ", "1_0", "1e3", "inf", "0x1", "٣",
        ] {
            assert_eq!(
                text.parse::<Money>(),
                Err(ParseMoneyError::NotANumber),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_quantity_rounds_up() {
        let half_dollar = Money::from_nanos(500_000_000);
        assert_eq!(half_dollar.per_million(1), Some(Money::from_nanos(500)));
        assert_eq!(
            Money::from_nanos(1).per_million(1),
            Some(Money::from_nanos(1))
        );
        assert_eq!(Money::from_nanos(1).per_million(0), Some(Money::ZERO));
        assert_eq!(Money::MAX.per_million(u64::MAX), None);
        assert_eq!(Money::from_nanos(-1).per_million(1), None);
        let (third, two_thirds) = (Money::from_nanos(333_333), Money::from_nanos(666_666));
        let together = Money::sum_per_million([(third, 1), (two_thirds, 1)]);
        assert_eq!(together, Some(Money::from_nanos(1)), "rounded up once");
        let beyond = Money::sum_per_million([(Money::MAX, u64::MAX), (Money::MAX, u64::MAX)]);
        assert_eq!(beyond, None);
        assert_eq!(Money::sum_per_million([(Money::from_nanos(-1), 0)]), None);
    }

    proptest! {
        #[test]
        fn text_and_json_round_trip(nanos: i64) {
            let money = Money::from_nanos(nanos);
            prop_assert_eq!(money.to_string().replace('$', "").parse(), Ok(money));
            prop_assert_eq!(json(&serde_json::to_string(&money).unwrap()).unwrap(), money);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            let _ = text.parse::<Money>();
            let _ = json(&text);
        }
    }
}

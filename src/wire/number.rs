//! Numbers as header values.

use std::{fmt, ops::Range};

use bytes::Bytes;
use http::HeaderValue;

use crate::domain::money::Money;

/// Numbers below this need no allocation.
const SMALL: usize = 1_000;

/// All small numbers in a row, with three digits each.
static DIGITS: &str = match std::str::from_utf8(&digits()) {
    Ok(digits) => digits,
    Err(_) => "",
};

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "run by the compiler"
)]
const fn digits() -> [u8; 3 * SMALL] {
    let mut all = [b'0'; 3 * SMALL];
    let mut number = 0;
    while number < SMALL {
        all[3 * number] += (number / 100) as u8;
        all[3 * number + 1] += (number / 10 % 10) as u8;
        all[3 * number + 2] += (number % 10) as u8;
        number += 1;
    }
    all
}

/// A whole number in decimal.
pub(super) fn number(number: u64) -> HeaderValue {
    small(number).unwrap_or_else(|| {
        let text = itoa::Buffer::new().format(number).parse();
        text.unwrap_or(HeaderValue::from_static(""))
    })
}

/// A number that needs no allocation.
pub(super) fn small(number: u64) -> Option<HeaderValue> {
    let leading_zeros = match number {
        0..=9 => 2,
        10..=99 => 1,
        _ => 0,
    };
    let number = usize::try_from(number).ok()?;
    let start = number.checked_mul(3)?;
    let digits = DIGITS.get(start.checked_add(leading_zeros)?..start.checked_add(3)?)?;
    Some(HeaderValue::from_static(digits))
}

/// Builds a text in a fixed buffer that is large enough for all of it.
pub(super) struct Text<R> {
    buffer: R,
    used: usize,
}

impl<R: AsRef<[u8]> + AsMut<[u8]>> Text<R> {
    pub(super) fn new(buffer: R) -> Self {
        Self { buffer, used: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, text: &[u8]) {
        let end = self.used.saturating_add(text.len());
        if let Some(free) = self.buffer.as_mut().get_mut(self.used..end) {
            free.copy_from_slice(text);
            self.used = end;
        }
    }

    /// Short numbers, the common case, are written inline. Returns the range of the digits.
    #[inline]
    pub(super) fn push_number(&mut self, number: u64) -> Range<usize> {
        let start = self.used;
        match u8::try_from(number) {
            Ok(digit @ 0..=9) => self.push(&[b'0' | digit]),
            Ok(two @ 10..=99) => self.push(&[b'0' | (two / 10), b'0' | (two % 10)]),
            _ => self.push(itoa::Buffer::new().format(number).as_bytes()),
        }
        start..self.used
    }

    /// Dollars, exact, with as few digits as possible. Returns the range.
    pub(super) fn push_decimal(&mut self, amount: Money) -> Range<usize> {
        let start = self.used;
        // Writing to the buffer can't fail.
        let _ = amount.write_decimal(self);
        start..self.used
    }

    /// The text as shared bytes: one allocation, however many slices are taken of it.
    pub(super) fn into_bytes(self) -> Bytes
    where
        R: Send + 'static,
    {
        Bytes::from_owner(self)
    }
}

impl<R: AsRef<[u8]> + AsMut<[u8]>> fmt::Write for Text<R> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

impl<R: AsRef<[u8]>> AsRef<[u8]> for Text<R> {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().get(..self.used).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_told_in_decimal() {
        for small in 0..=2_000_u64 {
            assert_eq!(number(small), small.to_string());
        }
        assert_eq!(number(u64::MAX), u64::MAX.to_string());
        for small in (0..=2_000).chain([u64::MAX]) {
            let mut text = Text::new([0; 24]);
            text.push(b"a=");
            let digits = text.push_number(small);
            assert_eq!(
                text.into_bytes().slice(digits),
                small.to_string().as_bytes()
            );
        }
    }
}

//! Numbers as values of header fields.

use http::HeaderValue;

/// Numbers below this cost no allocation.
const SMALL: usize = 1_000;

/// All small numbers, one after the other, with three digits each.
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
    let leading_zeros = match number {
        0..=9 => 2,
        10..=99 => 1,
        _ => 0,
    };
    let small = usize::try_from(number).ok().and_then(|number| {
        let start = number.checked_mul(3)?;
        DIGITS.get(start.checked_add(leading_zeros)?..start.checked_add(3)?)
    });
    match small {
        Some(digits) => HeaderValue::from_static(digits),
        None => itoa::Buffer::new()
            .format(number)
            .parse()
            .unwrap_or(HeaderValue::from_static("")),
    }
}

/// A text that is put together in a room of its own, which is long enough for all of it.
pub(super) struct Text<'a> {
    room: &'a mut [u8],
    used: usize,
}

impl<'a> Text<'a> {
    pub(super) fn new(room: &'a mut [u8]) -> Self {
        Self { room, used: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, text: &[u8]) {
        let end = self.used.saturating_add(text.len());
        if let Some(room) = self.room.get_mut(self.used..end) {
            room.copy_from_slice(text);
            self.used = end;
        }
    }

    /// The short ones, which most are, without a call.
    #[inline]
    pub(super) fn push_number(&mut self, number: u64) {
        match u8::try_from(number) {
            Ok(digit @ 0..=9) => self.push(&[b'0' | digit]),
            Ok(two @ 10..=99) => self.push(&[b'0' | (two / 10), b'0' | (two % 10)]),
            _ => self.push(itoa::Buffer::new().format(number).as_bytes()),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.room.get(..self.used).unwrap_or_default()
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
            let mut room = [0; 20];
            let mut text = Text::new(&mut room);
            text.push_number(small);
            assert_eq!(text.as_bytes(), small.to_string().as_bytes());
        }
    }
}

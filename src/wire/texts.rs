//! Texts of header fields, many of which are made for every answer.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

/// The texts of several values, one after the other: together they take one allocation.
#[derive(Default)]
pub(super) struct Texts {
    bytes: SmallVec<[u8; 160]>,
    ended: usize,
}

impl Texts {
    pub(super) fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub(super) fn push_number(&mut self, number: u64) {
        self.push(itoa::Buffer::new().format(number));
    }

    /// Where the value lies that ends here.
    pub(super) fn end_value(&mut self) -> Range<usize> {
        let start = std::mem::replace(&mut self.ended, self.bytes.len());
        start..self.ended
    }

    /// All texts, to be cut into values that share them.
    pub(super) fn share(self) -> Bytes {
        Bytes::from_owner(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_where_it_was_put_however_long_all_are() {
        let mut texts = Texts::default();
        texts.push("a=");
        texts.push_number(0);
        let first = texts.end_value();
        let empty = texts.end_value();
        texts.push(&"x".repeat(500));
        texts.push_number(u64::MAX);
        let long = texts.end_value();
        let shared = texts.share();
        assert_eq!(shared.slice(first), "a=0");
        assert_eq!(shared.slice(empty), "");
        let expected = format!("{}{}", "x".repeat(500), u64::MAX);
        assert_eq!(shared.slice(long), expected.as_bytes());
    }
}

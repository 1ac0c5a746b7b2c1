//! Texts of header fields, many of which are made for every answer.

use std::ops::Range;

use bytes::Bytes;

/// So many bytes need no allocation while they are put together.
const ROOM: usize = 192;

/// The texts of several values, one after the other: together they take one allocation.
pub(super) struct Texts {
    room: [u8; ROOM],
    used: usize,
    /// All of it, once there is no room.
    spilled: Vec<u8>,
    ended: usize,
}

impl Default for Texts {
    fn default() -> Self {
        Self {
            room: [0; ROOM],
            used: 0,
            spilled: Vec::new(),
            ended: 0,
        }
    }
}

impl Texts {
    pub(super) fn push(&mut self, text: &str) {
        let end = self.used.saturating_add(text.len());
        match self.room.get_mut(self.used..end) {
            Some(room) => room.copy_from_slice(text.as_bytes()),
            None => {
                if self.spilled.is_empty() {
                    self.spilled.extend(self.room.iter().take(self.used));
                }
                self.spilled.extend_from_slice(text.as_bytes());
            }
        }
        self.used = end;
    }

    pub(super) fn push_number(&mut self, number: u64) {
        self.push(itoa::Buffer::new().format(number));
    }

    /// Where the value lies that ends here.
    pub(super) fn end_value(&mut self) -> Range<usize> {
        let start = std::mem::replace(&mut self.ended, self.used);
        start..self.used
    }

    /// All texts, to be cut into values that share them.
    pub(super) fn share(self) -> Bytes {
        if self.spilled.is_empty() {
            Bytes::from_owner(Kept(self.room, self.used))
        } else {
            self.spilled.into()
        }
    }
}

struct Kept([u8; ROOM], usize);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.0.get(..self.1).unwrap_or_default()
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
        texts.push(&"x".repeat(ROOM));
        texts.push_number(u64::MAX);
        texts.push("");
        let long = texts.end_value();
        let shared = texts.share();
        assert_eq!(shared.slice(first), "a=0");
        assert_eq!(shared.slice(empty), "");
        let expected = format!("{}{}", "x".repeat(ROOM), u64::MAX);
        assert_eq!(shared.slice(long), expected.as_bytes());
    }

    #[test]
    fn what_just_fits_is_not_cut() {
        let mut texts = Texts::default();
        texts.push(&"x".repeat(ROOM));
        let all = texts.end_value();
        assert_eq!(texts.share().slice(all).len(), ROOM);
    }
}

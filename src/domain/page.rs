//! Lists, a page at a time.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};

/// The most items on one page.
const LIMIT_MAX: u16 = 1_000;

/// Which part of a list to return.
///
/// ```
/// use tollgate::store::Page;
///
/// let first = Page::first(50);
/// assert_eq!((first.limit(), first.cursor()), (50, None));
/// assert_eq!(Page::first(0).limit(), 1);
/// assert_eq!(Page::first(u16::MAX).limit(), 1_000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    limit: u16,
    cursor: Option<u64>,
}

impl Page {
    /// The first `limit` items; `limit` is clamped to 1 to 1,000.
    #[must_use]
    pub fn first(limit: u16) -> Self {
        Self {
            limit: limit.clamp(1, LIMIT_MAX),
            cursor: None,
        }
    }

    /// The page after the one whose [`Paged::next_cursor`] this is.
    #[must_use]
    pub fn after(mut self, cursor: u64) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// The maximum number of items.
    #[must_use]
    pub fn limit(&self) -> u16 {
        self.limit
    }

    /// The item after which the page begins.
    #[must_use]
    pub fn cursor(&self) -> Option<u64> {
        self.cursor
    }
}

/// How many items a client asks for: a positive number, however large. One above what a [`Page`]
/// has is taken for that, so that a client gets the largest page there is rather than an error at
/// some number of ours. For the `limit` of a query string.
///
/// ```
/// use tollgate::store::{Page, PageLimit};
///
/// #[derive(serde::Deserialize)]
/// struct Query {
///     limit: Option<PageLimit>,
/// }
///
/// let query: Query = serde_json::from_str(r#"{ "limit": "1000000000000000000000000000000" }"#)?;
/// assert_eq!(Page::first(query.limit.map_or(50, PageLimit::get)).limit(), 1_000);
/// for limit in ["0", "-1", "", "ten", "1.5"] {
///     assert!(limit.parse::<PageLimit>().is_err());
/// }
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit(u16);

impl PageLimit {
    /// The number, at most 1,000.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// Not a positive number in decimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a limit is a positive number")]
pub struct InvalidPageLimit;

impl FromStr for PageLimit {
    type Err = InvalidPageLimit;

    fn from_str(text: &str) -> Result<Self, InvalidPageLimit> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidPageLimit);
        }
        match text.trim_start_matches('0') {
            "" => Err(InvalidPageLimit),
            // Only a number that is too large doesn't fit.
            digits => Ok(Self(
                digits
                    .parse()
                    .map_or(LIMIT_MAX, |number: u16| number.min(LIMIT_MAX)),
            )),
        }
    }
}

/// From a number or its digits, as a query string has them.
impl<'de> Deserialize<'de> for PageLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Digits)
    }
}

struct Digits;

impl de::Visitor<'_> for Digits {
    type Value = PageLimit;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a positive number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<PageLimit, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<PageLimit, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<PageLimit, E> {
        self.visit_str(&number.to_string())
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Paged<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// What to pass to [`Page::after`]; `None` on the last page.
    pub next_cursor: Option<u64>,
}

impl<T> Paged<T> {
    /// Makes a page from rows in the list's order, each with its position in the list. If there is
    /// a next page, the store reads one row more than the [limit](Page::limit); that row is dropped
    /// here.
    #[must_use]
    pub fn from_rows(page: &Page, rows: Vec<(u64, T)>) -> Self {
        let limit = usize::from(page.limit);
        let more = rows.len() > limit;
        let mut last = None;
        let items = rows
            .into_iter()
            .take(limit)
            .map(|(position, item)| {
                last = Some(position);
                item
            })
            .collect();
        Self {
            items,
            next_cursor: if more { last } else { None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_any_positive_number_and_no_more_than_a_page_has() {
        let huge = "9".repeat(10_000);
        for (text, limit) in [
            ("1", 1),
            ("007", 7),
            ("999", 999),
            ("1000", 1_000),
            ("1001", 1_000),
            ("65535", 1_000),
            ("65536", 1_000),
            ("18446744073709551616", 1_000),
            (&huge, 1_000),
        ] {
            assert_eq!(text.parse(), Ok(PageLimit(limit)), "{text}");
        }
        for text in [
            "", "0", "000", "-1", "+1", " 1", "1 ", "1.5", "1e3", "0x10", "\u{663}", "ten", "1\0",
        ] {
            assert_eq!(text.parse::<PageLimit>(), Err(InvalidPageLimit), "{text}");
        }
    }

    #[test]
    fn a_limit_is_read_from_numbers_too() {
        let read = |json: &str| serde_json::from_str::<PageLimit>(json).ok();
        assert_eq!(read("50"), Some(PageLimit(50)));
        assert_eq!(read("18446744073709551615"), Some(PageLimit(1_000)));
        for json in ["0", "-1", "1.5", "true", "null", "[1]"] {
            assert_eq!(read(json), None, "{json}");
        }
    }
}

//! Lists, a page at a time.

use serde::Serialize;

/// The most items that one page holds.
const LIMIT_MAX: u16 = 1_000;

/// Which part of a list is wanted.
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
    /// The first `limit` items; `limit` is brought into 1 to 1,000.
    #[must_use]
    pub fn first(limit: u16) -> Self {
        Self {
            limit: limit.clamp(1, LIMIT_MAX),
            cursor: None,
        }
    }

    /// The page behind the one whose [`Paged::next_cursor`] this is.
    #[must_use]
    pub fn after(mut self, cursor: u64) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// How many items at most.
    #[must_use]
    pub fn limit(&self) -> u16 {
        self.limit
    }

    /// Behind which item the page begins.
    #[must_use]
    pub fn cursor(&self) -> Option<u64> {
        self.cursor
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Paged<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// What to hand to [`Page::after`]; `None` on the last page.
    pub next_cursor: Option<u64>,
}

impl<T> Paged<T> {
    /// Makes a page of rows in the list's order, each with its place in it, by which the list goes on behind the page. There is one
    /// more than the [limit](Page::limit) where there is a next page.
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

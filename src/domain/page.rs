//! Lists, a page at a time.

use serde::Serialize;

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

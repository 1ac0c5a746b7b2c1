//! The usage log as CSV or JSON lines, a page at a time.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Body, Frame};
use serde::Serialize;

use crate::{
    domain::{
        AccountId,
        clock::Timestamp,
        usage::{UsageDetails, UsageEntry},
    },
    store::{Ledger, Page, Paged, StoreError, StoreFuture, UsageLog},
};

/// Rows read and sent at a time; no more are kept in memory.
const PAGE_ROWS: u16 = 500;

const COLUMNS: &str = "position,started_at,settled_at,request_id,account,principal,key,route,model,\
     status,outcome,held,charged,input_tokens,cached_tokens,cache_write_tokens,\
     output_tokens,bytes,latency_ms,usage_is_missing,hour_cache_write_tokens,\
     audio_input_tokens,image_input_tokens,audio_output_tokens,image_output_tokens,web_searches,\
     service_tier,tags,budgets\r\n";

/// The usage log of an account, newest first, or of [all accounts](Self::csv_of_all), oldest first,
/// as a response body: read page by page, as fast as the client takes it. Rows of an account that
/// are added meanwhile are not included.
///
/// CSV follows RFC 4180 and has a header line. A text that a spreadsheet would take for a formula
/// is prefixed with `'`; tags are a JSON object, and budgets a JSON list, in one cell. JSON lines
/// have one object per line, with the same names. Money is an exact number of dollars.
///
/// ```
/// use http_body_util::BodyExt;
/// use tollgate::{UsageExport, store::{AccountId, MemoryStore}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = MemoryStore::new();
/// let export = UsageExport::csv(ledger, AccountId::new("user-7")?);
/// let answer = http::Response::builder()
///     .header("content-type", export.content_type())
///     .body(export)?;
/// let text = answer.into_body().collect().await?.to_bytes();
/// assert!(text.starts_with(b"position,started_at,"));
/// # Ok(()) }
/// ```
pub struct UsageExport {
    source: Source,
    format: Format,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    state: State,
}

#[derive(Debug)]
enum Source {
    Account(Arc<dyn Ledger>, AccountId),
    All(Arc<dyn UsageLog>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Csv,
    JsonLines,
}

enum State {
    Start(Page),
    Reading(StoreFuture<Paged<UsageEntry>>),
    Next(u64),
    Over,
}

impl UsageExport {
    /// Comma-separated values.
    pub fn csv(ledger: impl Ledger, account: AccountId) -> Self {
        Self::new(Source::Account(Arc::new(ledger), account), Format::Csv)
    }

    /// Comma-separated values of everybody's usage, after that [position](UsageEntry::position); 0
    /// for all that the log still has. The last row's position is where to go on the next time.
    pub fn csv_of_all(log: impl UsageLog, after: u64) -> Self {
        Self::new(Source::All(Arc::new(log)), Format::Csv).after(after)
    }

    /// One JSON object per line.
    pub fn json_lines(ledger: impl Ledger, account: AccountId) -> Self {
        Self::new(
            Source::Account(Arc::new(ledger), account),
            Format::JsonLines,
        )
    }

    /// One JSON object per line, of everybody's usage, as [`csv_of_all`](Self::csv_of_all).
    pub fn json_lines_of_all(log: impl UsageLog, after: u64) -> Self {
        Self::new(Source::All(Arc::new(log)), Format::JsonLines).after(after)
    }

    fn new(source: Source, format: Format) -> Self {
        Self {
            source,
            format,
            since: None,
            until: None,
            state: State::Start(Page::first(PAGE_ROWS)),
        }
    }

    fn after(mut self, position: u64) -> Self {
        self.state = State::Start(Page::first(PAGE_ROWS).after(position));
        self
    }

    /// Leaves out what was settled before `moment`. An account's log ends with the first such row.
    #[must_use]
    pub fn since(mut self, moment: Timestamp) -> Self {
        self.since = Some(moment);
        self
    }

    /// Leaves out what was settled at `moment` or later: with [`since`](Self::since) and `until`, a
    /// month is its first moment and that of the next. The log is read to its end all the same,
    /// since its rows need not be in the order of their times; and whoever goes on from the last
    /// row's position misses what was left out before it, so take either moments or positions.
    ///
    /// ```
    /// use tollgate::{UsageExport, store::{AccountId, MemoryStore}};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let january = UsageExport::csv(MemoryStore::new(), AccountId::new("user-7")?)
    ///     .since("2026-01-01T00:00:00Z".parse()?)
    ///     .until("2026-02-01T00:00:00Z".parse()?);
    /// # let _ = january;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn until(mut self, moment: Timestamp) -> Self {
        self.until = Some(moment);
        self
    }

    /// The value for the answer's `content-type`.
    #[must_use]
    pub fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(match self.format {
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::JsonLines => "application/x-ndjson",
        })
    }

    fn read(&self, page: Page) -> State {
        State::Reading(match &self.source {
            Source::Account(ledger, account) => ledger.usage(account, page),
            Source::All(log) => log.usage_of_all(page),
        })
    }

    /// Formats a page; `true` if it is the last one.
    fn write(&self, rows: Vec<UsageEntry>) -> Result<(Vec<u8>, bool), StoreError> {
        let mut text = Vec::new();
        for row in rows {
            if self.since.is_some_and(|since| row.settled_at < since) {
                match self.source {
                    Source::Account(..) => return Ok((text, true)),
                    Source::All(_) => continue,
                }
            }
            if self.until.is_some_and(|until| row.settled_at >= until) {
                continue;
            }
            match self.format {
                Format::Csv => write_csv(&row, &mut text),
                Format::JsonLines => {
                    serde_json::to_writer(&mut text, &row)
                        .map_err(|_| StoreError::internal("a row has no JSON"))?;
                    text.push(b'\n');
                }
            }
        }
        Ok((text, false))
    }
}

impl Body for UsageExport {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        loop {
            match &mut self.state {
                State::Start(first) => {
                    let first = first.clone();
                    self.state = self.read(first);
                    if self.format == Format::Csv {
                        let names = Bytes::from_static(COLUMNS.as_bytes());
                        return Poll::Ready(Some(Ok(Frame::data(names))));
                    }
                }
                State::Next(cursor) => {
                    let page = Page::first(PAGE_ROWS).after(*cursor);
                    self.state = self.read(page);
                }
                State::Reading(page) => {
                    let page = ready!(Pin::new(page).poll(context));
                    self.state = State::Over;
                    let written = page.and_then(|page| {
                        let (text, last) = self.write(page.items)?;
                        Ok((text, page.next_cursor.filter(|_| !last)))
                    });
                    let (text, next) = match written {
                        Ok(written) => written,
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    };
                    if let Some(cursor) = next {
                        self.state = State::Next(cursor);
                    }
                    if !text.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(text.into()))));
                    }
                }
                State::Over => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

impl fmt::Debug for UsageExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsageExport")
            .field("source", &self.source)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// In the order of [`COLUMNS`].
fn write_csv(entry: &UsageEntry, line: &mut Vec<u8>) {
    let (call, settlement) = (&entry.call, &entry.settlement);
    fn number(number: Option<impl ToString>) -> String {
        number.map_or_else(String::new, |number| number.to_string())
    }
    let details = settlement.details.as_deref();
    let detail = |of: fn(&UsageDetails) -> u64| number(details.map(of));
    let cells = [
        entry.position.to_string(),
        call.started_at.to_string(),
        entry.settled_at.to_string(),
        text(&call.request_id),
        text(call.account.as_str()),
        text(&call.principal),
        text(call.key.as_ref().map_or("", |key| key.as_str())),
        text(&call.route),
        text(settlement.model.as_deref().unwrap_or_default()),
        number(settlement.status),
        settlement.outcome.as_str().to_owned(),
        entry.held.to_decimal(),
        settlement.charged.to_decimal(),
        number(settlement.input_tokens),
        number(settlement.cached_tokens),
        number(settlement.cache_write_tokens),
        number(settlement.output_tokens),
        number(settlement.bytes),
        settlement.latency_ms().to_string(),
        settlement.usage_is_missing.to_string(),
        detail(|details| details.hour_cache_write_tokens),
        detail(|details| details.audio_input_tokens),
        detail(|details| details.image_input_tokens),
        detail(|details| details.audio_output_tokens),
        detail(|details| details.image_output_tokens),
        detail(|details| details.web_searches),
        text(
            details
                .and_then(|details| details.service_tier.as_deref())
                .unwrap_or_default(),
        ),
        json(
            details
                .map(|details| &details.tags)
                .filter(|tags| !tags.is_empty()),
        ),
        json(
            details
                .map(|details| &details.budgets)
                .filter(|budgets| !budgets.is_empty()),
        ),
    ];
    line.extend_from_slice(cells.join(",").as_bytes());
    line.extend_from_slice(b"\r\n");
}

/// A cell of JSON; empty without any.
fn json(value: Option<impl Serialize>) -> String {
    let written = value.and_then(|value| serde_json::to_string(&value).ok());
    written.as_deref().map_or_else(String::new, text)
}

/// A cell, quoted if necessary, and never a formula.
fn text(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let cell = if formula {
        format!("'{cell}")
    } else {
        cell.to_owned()
    };
    if cell.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell
    }
}

//! What every test here stands on: a server process, its clients, and people who have accounts.

mod account;
#[path = "../support/mod.rs"]
mod common;
mod load;
mod money;
mod shapes;

pub(crate) use account::{Account, Key, after};
pub(crate) use common::{Answer, Call, Client, Home, Http2, RawCall, SECRET, Server, silent};
pub(crate) use load::{Load, Paid};
pub(crate) use money::{Row, nanos};

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

/// An empty folder for the server.
pub(crate) fn home() -> Home {
    Home::of("polysystems")
}

/// The prices of the demo routes, in nano-dollars.
pub(crate) const CHAT_PRICE: i64 = 2_000_000;
pub(crate) const PROCESS_PRICE: i64 = 4_000_000;
pub(crate) const QUERY_PRICE: i64 = 10_000_000;
/// The price of one word of a completion, in nano-dollars.
pub(crate) const WORD_IN: i64 = 500;
pub(crate) const WORD_OUT: i64 = 1_500;

/// The paid demo routes whose price is fixed.
pub(crate) const PRICED: [(&str, i64, &str); 3] = [
    ("/api/hub/agents/chat", CHAT_PRICE, "$0.0020"),
    ("/api/omm/process", PROCESS_PRICE, "$0.0040"),
    ("/api/yggdrasil/query", QUERY_PRICE, "$0.0100"),
];

/// A body that every paid demo route can take: the contract fixes only the one of the chat.
pub(crate) fn demo_body(text: &str) -> Value {
    serde_json::json!({
        "messages": [{"role": "user", "content": text}],
        "input": text,
        "text": text,
        "query": text,
        "prompt": text,
    })
}

/// Asks again until the answer is `Some`, for at most `limit`.
pub(crate) async fn within<T, F>(limit: Duration, what: &str, mut attempt: F) -> T
where
    F: AsyncFnMut() -> Option<T>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The wall clock: what a process beside the server goes by.
#[expect(
    clippy::disallowed_methods,
    reason = "a test outside the process has only the world's clock"
)]
pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// A time as the reference writes it: RFC 3339, in UTC.
pub(crate) fn time(value: &Value) -> jiff::Timestamp {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("a time expected, not {value}"));
    assert!(text.ends_with('Z'), "not in UTC: {text}");
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Spending windows are calendar windows of UTC: a test that spans midnight would see two of them.
pub(crate) async fn away_from_midnight() {
    let second_of_day = now().as_second().rem_euclid(86_400);
    let left = 86_400 - second_of_day;
    if left <= 60 {
        sleep(Duration::from_secs(left.unsigned_abs() + 1)).await;
    }
}

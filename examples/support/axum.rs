//! Serving an axum router.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::DefaultBodyLimit,
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Serialize;
use tollgate::{
    Principal,
    denial::Denial,
    denials::AllowLayer,
    key::KeyRecord,
    keyring::Keyring,
    rate_limit::ConcurrencyLimitLayer,
    store::{Page, Paged},
};
use tower::Layer;
use tower_http::set_header::SetResponseHeaderLayer;

use super::{StartError, listen, run, serve_connections};

/// The most that anyone may send to a login, in bytes.
const LOGIN_BYTES_MAX: usize = 16 * 1_024;

/// For routes that need no credential: their bodies are short.
pub(crate) fn short_bodies() -> DefaultBodyLimit {
    DefaultBodyLimit::max(LOGIN_BYTES_MAX)
}

/// Serves until SIGTERM or ctrl-c, then finishes requests in flight.
pub(crate) async fn serve(app: Router, port: u16) -> Result<(), StartError> {
    let (connections, shutdown) = listen(port).await?;
    // Outside of the router, so that it sees the methods of every route.
    let app = AllowLayer::new().layer(app);
    // Answers are for one caller, and some have a key or a token in them. Shared caches leave those
    // to requests with `authorization` alone, but not those to `x-api-key` (RFC 9111, 3.5).
    let no_store = HeaderValue::from_static("no-store");
    let app = SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, no_store).layer(app);
    run(&shutdown, serve_connections(app, connections)).await
}

/// How many lists one caller may read at once. Each keeps a part of itself in memory for as long as
/// the client takes to read it.
const LISTS_MAX: u32 = 128;

/// For routes with long answers.
pub(crate) fn few_at_once() -> ConcurrencyLimitLayer {
    ConcurrencyLimitLayer::per_principal(LISTS_MAX)
}

/// How many keys of a list are read and sent at a time.
const AT_ONCE: u16 = 32;

/// The next part of a list to be sent.
enum Next {
    Read(Paged<KeyRecord>),
    After(u64),
    Nothing,
}

/// The caller's keys for which `show` returns something, as one JSON array, newest first. The
/// keyring bounds their number. The list is read while it is sent, so only a part of it is in
/// memory at a time.
pub(crate) async fn all_keys<T: Serialize>(
    keys: &Keyring,
    caller: &Principal,
    show: impl Fn(KeyRecord) -> Option<T> + Clone + Send + 'static,
) -> Result<Response, Denial> {
    let (keys, owner) = (keys.clone(), caller.subject().to_owned());
    // A failure before anything is sent is a refusal; later, the answer breaks off.
    let first = keys.list(&owner, Page::first(AT_ONCE)).await?;
    let parts = stream::try_unfold((Next::Read(first), '['), move |(next, before)| {
        let (keys, owner, show) = (keys.clone(), owner.clone(), show.clone());
        async move {
            let page = match next {
                Next::Read(page) => page,
                Next::After(cursor) => {
                    let page = Page::first(AT_ONCE).after(cursor);
                    keys.list(&owner, page).await?
                }
                Next::Nothing => return Ok(None),
            };
            part(page, before, show).map(Some)
        }
    });
    let head = [(CONTENT_TYPE, "application/json")];
    Ok((head, Body::from_stream(parts)).into_response())
}

/// A part of an array, and what follows it; `before` precedes the next item.
fn part<T: Serialize>(
    page: Paged<KeyRecord>,
    mut before: char,
    show: impl Fn(KeyRecord) -> Option<T>,
) -> Result<(Bytes, (Next, char)), StartError> {
    let mut text = String::new();
    for item in page.items.into_iter().filter_map(show) {
        text.push(before);
        text += &serde_json::to_string(&item)?;
        before = ',';
    }
    let Some(cursor) = page.next_cursor else {
        text += if before == '[' { "[]" } else { "]" };
        return Ok((text.into(), (Next::Nothing, before)));
    };
    Ok((text.into(), (Next::After(cursor), before)))
}

//! Serving a router of axum's.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::DefaultBodyLimit,
    http::header::CONTENT_TYPE,
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

use super::{StartError, listen, run_until, serve_connections};

/// What anybody may send to a login, in bytes.
const LOGIN_BYTES_MAX: usize = 16 * 1_024;

/// For routes that are asked by nobody in particular: their bodies are short.
pub(crate) fn short_bodies() -> DefaultBodyLimit {
    DefaultBodyLimit::max(LOGIN_BYTES_MAX)
}

/// Serves until SIGTERM or ctrl-c, and then what is under way to its end.
pub(crate) async fn serve(app: Router, port: u16) -> Result<(), StartError> {
    let (connections, stop) = listen(port).await?;
    // Outside of the router, which tells of every route's methods.
    let app = AllowLayer::new().layer(app);
    run_until(stop.clone(), serve_connections(app, connections, stop)).await
}

/// How many lists one caller may have under way at once. Each holds a part of itself in memory, for as long as the client takes to
/// read it.
const LISTS_MAX: u32 = 128;

/// For routes whose answers are long.
pub(crate) fn few_at_once() -> ConcurrencyLimitLayer {
    ConcurrencyLimitLayer::per_principal(LISTS_MAX)
}

/// Keys of a list that are read and sent at once.
const AT_ONCE: u16 = 32;

/// What of a list is to be sent next.
enum Next {
    Read(Paged<KeyRecord>),
    After(u64),
    Nothing,
}

/// The keys of the caller's that are shown as something, as one JSON array, newest first: how many one may have, the keyring bounds. It is
/// read as it is sent, so that no more than a part of it is ever in memory.
pub(crate) async fn all_keys<T: Serialize>(
    keys: &Keyring,
    caller: &Principal,
    show: impl Fn(KeyRecord) -> Option<T> + Clone + Send + 'static,
) -> Result<Response, Denial> {
    let (keys, owner) = (keys.clone(), caller.subject().to_owned());
    // What fails before anything was sent is refused; after that the answer breaks off.
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

/// A part of an array, and what comes after it; `before` stands before the next item.
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

//! The layers beside each other, and beside what else stands in the stacks of their users.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that fails ends"
)]

mod bodies;
mod doors;
mod names;
mod spending;

use http::{Method, Request};
use tollgate::{CredentialKind, Principal};

fn request(method: Method, path: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    let caller = Principal::builder("ann", CredentialKind::ApiKey);
    request.extensions_mut().insert(caller.build());
    request
}

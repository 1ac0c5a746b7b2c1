//! A borrowed request without its body.

use std::{borrow::Cow, fmt, net::SocketAddr};

use http::{Extensions, HeaderMap, Method, Request, Uri, Version, header::TE, uri::PathAndQuery};

use percent_encoding::percent_decode_str;

use super::{Dialect, PeerAddress, is_normal_path, parameter_of};
use crate::domain::{RequestId, masked::masked};

/// What a policy sees of a request: everything except the body, borrowed.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target as this service sees it; a nested router may have removed its prefix.
    pub uri: &'a Uri,
    /// The HTTP version of the request.
    pub version: Version,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// What outer layers added for inner ones.
    pub extensions: &'a Extensions,
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let te = headers.get(TE).map(|te| te.as_bytes());
    te.is_some_and(|te| te.eq_ignore_ascii_case(b"trailers"))
}

impl<'a> RequestHead<'a> {
    /// The head of a request.
    #[must_use]
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }

    /// The full path as received; with the feature `axum` also inside a nested axum router. Without
    /// that feature, a layer inside a nested router sees only what the router has left of the path,
    /// and tables of routes, prices and `skip_paths` are compared with that; in that case put the
    /// layers around the outermost router.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.original_uri().path()
    }

    /// The full path for logs: segments that look like secrets are cut to their start.
    pub(crate) fn shown_path(&self) -> Cow<'a, str> {
        masked(self.path())
    }

    /// The method for logs and for counting; `None` for methods outside HTTP's own standards (RFC
    /// 9110, 9.1; RFC 5789). Such a name is as long as the client likes, and may be a misplaced
    /// secret.
    pub(crate) fn known_method(&self) -> Option<&'a str> {
        match *self.method {
            Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::CONNECT
            | Method::OPTIONS
            | Method::TRACE
            | Method::PATCH => Some(self.method.as_str()),
            _ => None,
        }
    }

    /// The same, with a placeholder for other methods.
    pub(crate) fn shown_method(&self) -> &'a str {
        self.known_method().unwrap_or("other")
    }

    /// The full path with its query. Cloning is cheap.
    pub(crate) fn target(&self) -> Option<&'a PathAndQuery> {
        self.original_uri().path_and_query()
    }

    fn original_uri(&self) -> &'a Uri {
        #[cfg(feature = "axum")]
        if let Some(original) = self.extensions.get::<axum::extract::OriginalUri>() {
            return &original.0;
        }
        self.uri
    }

    /// The protocol in which to answer a refusal.
    ///
    /// gRPC if the request came over HTTP/2 or later, or has `te: trailers`, which every gRPC
    /// client sends, and which translated gRPC-Web calls get whatever they came over. A client that
    /// sends only the media type over HTTP/1.1 is of another kind, and would not recognise a
    /// refusal with status 200.
    pub(crate) fn dialect(&self) -> Dialect {
        match Dialect::of(self.headers) {
            Dialect::Grpc if self.version < Version::HTTP_2 && !takes_trailers(self.headers) => {
                Dialect::Http
            }
            dialect => dialect,
        }
    }

    /// The pattern of the axum route that the layer is on, including the prefixes that outer
    /// routers removed: `/api/agents/{bot_id}`; `None` outside of axum's routes.
    #[must_use]
    pub fn route_pattern(&self) -> Option<&'a str> {
        #[cfg(feature = "axum")]
        if let Some(matched) = self.extensions.get::<axum::extract::MatchedPath>() {
            return Some(matched.as_str());
        }
        None
    }

    /// The part of the full path at `{name}` in `pattern`, percent-decoded; `None` if the path
    /// doesn't match, is ambiguous, or isn't UTF-8. For handlers without a router. Patterns are
    /// those of a [`RouteTable`](crate::rbac::RouteTable).
    ///
    /// ```
    /// use tollgate::RequestHead;
    ///
    /// let request = http::Request::get("/accounts/ann%40example.org").body(())?;
    /// let account = RequestHead::of(&request).path_parameter("/accounts/{account}", "account");
    /// assert_eq!(account.as_deref(), Some("ann@example.org"));
    /// # Ok::<(), http::Error>(())
    /// ```
    #[must_use]
    pub fn path_parameter(&self, pattern: &str, name: &str) -> Option<Cow<'a, str>> {
        let written = Some(self.path()).filter(|path| is_normal_path(path));
        let written = parameter_of(pattern, written?, name)?;
        percent_decode_str(written).decode_utf8().ok()
    }

    /// The request's id, if a [`RequestIdLayer`](crate::RequestIdLayer) assigned one.
    #[must_use]
    pub fn request_id(&self) -> Option<&'a RequestId> {
        self.extensions.get()
    }

    /// The address at the other end of the connection, as the server provided it: [`PeerAddress`],
    /// axum's `ConnectInfo<SocketAddr>` (in tests `MockConnectInfo<SocketAddr>`), or tonic's
    /// `TcpConnectInfo`. An axum router provides it if it is served by
    /// `app.into_make_service_with_connect_info::<SocketAddr>()`.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        if let Some(PeerAddress(peer)) = self.extensions.get() {
            return Some(*peer);
        }
        #[cfg(feature = "axum")]
        if let Some(info) = self
            .extensions
            .get::<axum::extract::ConnectInfo<SocketAddr>>()
        {
            return Some(info.0);
        }
        #[cfg(feature = "axum")]
        if let Some(info) = self
            .extensions
            .get::<axum::extract::connect_info::MockConnectInfo<SocketAddr>>()
        {
            return Some(info.0);
        }
        #[cfg(feature = "tonic")]
        if let Some(info) = self
            .extensions
            .get::<tonic::transport::server::TcpConnectInfo>()
        {
            return info.remote_addr();
        }
        None
    }
}

/// Only method and path: headers contain secrets, and so may a query, a segment of the path, or an
/// unknown method.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RequestHead({} {})",
            self.shown_method(),
            self.shown_path()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_http_does_not_know_is_shown_nowhere() {
        let secret = "hai_aBcDeFgHiJkLmNoPqRsTuVwXyZ-_aBcDeFgHiJkLmNoPqRs";
        for method in [secret, "PROPFIND", "get", &"A".repeat(300_000)] {
            let request = Request::builder().method(method).body(()).unwrap();
            assert_eq!(
                format!("{:?}", RequestHead::of(&request)),
                "RequestHead(other /)"
            );
        }
        for method in ["GET", "PATCH", "TRACE"] {
            let request = Request::builder().method(method).body(()).unwrap();
            assert_eq!(RequestHead::of(&request).shown_method(), method);
        }
    }

    #[test]
    fn a_parameter_is_read_as_what_it_means_or_not_at_all() {
        let found = |path: &str| {
            let request = Request::get(path).body(()).unwrap();
            let head = RequestHead::of(&request);
            let found = head.path_parameter("/accounts/{account}", "account");
            found.map(Cow::into_owned)
        };
        for (path, account) in [
            ("/accounts/ann", "ann"),
            ("/accounts/ann?x=y", "ann"),
            ("/accounts/ann%40example.org", "ann@example.org"),
            ("/accounts/%C3%A9", "é"),
            ("/accounts/%25", "%"),
        ] {
            assert_eq!(found(path).as_deref(), Some(account), "{path}");
        }
        for path in [
            "/accounts/%FF",
            "/accounts/a%2Fb",
            "/accounts/%61nn",
            "/accounts/a/b",
            "/accounts",
            "/other/ann",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}

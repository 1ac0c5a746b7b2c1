//! A request without its body, borrowed.

use std::{borrow::Cow, fmt, net::SocketAddr};

use http::{Extensions, HeaderMap, Method, Request, Uri, Version, header::TE, uri::PathAndQuery};

use super::{Dialect, PeerAddress};
use crate::domain::{RequestId, masked::masked};

/// What a policy sees of a request: everything but the body, borrowed, so that nothing is taken apart.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target as this service sees it; a nested router may have cut its start off.
    pub uri: &'a Uri,
    /// The version of HTTP that the client speaks.
    pub version: Version,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// What outer layers left for inner ones.
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

    /// The full path as it came over the wire, also inside a nested axum router.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.original_uri().path()
    }

    /// The full path as logs may have it: of a segment that looks like a secret, the start.
    pub(crate) fn shown_path(&self) -> Cow<'a, str> {
        masked(self.path())
    }

    /// The full path with its query, to be kept: a clone is a reference count.
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

    /// What the client reads a refusal in.
    ///
    /// It speaks gRPC over HTTP/2 and later; or with the `te: trailers` that every client of gRPC sends and that gRPC-Web's
    /// calls are given when they are translated, whatever they came over. Whoever sends no more than its media type over
    /// HTTP/1.1 is a client of another kind, for whom a refusal with the status 200 would be none.
    pub(crate) fn dialect(&self) -> Dialect {
        match Dialect::of(self.headers) {
            Dialect::Grpc if self.version < Version::HTTP_2 && !takes_trailers(self.headers) => {
                Dialect::Http
            }
            dialect => dialect,
        }
    }

    /// The pattern of the axum route that the layer is on, with what outer routers cut off:
    /// `/api/agents/{bot_id}`; `None` outside of axum's routes.
    #[must_use]
    pub fn route_pattern(&self) -> Option<&'a str> {
        #[cfg(feature = "axum")]
        if let Some(matched) = self.extensions.get::<axum::extract::MatchedPath>() {
            return Some(matched.as_str());
        }
        None
    }

    /// The request's id, where [`RequestIdLayer`](crate::RequestIdLayer) gave it one.
    #[must_use]
    pub fn request_id(&self) -> Option<&'a RequestId> {
        self.extensions.get()
    }

    /// The address at the other end of the connection, as the server told it: [`PeerAddress`], axum's
    /// `ConnectInfo<SocketAddr>` (in tests `MockConnectInfo<SocketAddr>`), or tonic's `TcpConnectInfo`. An
    /// axum router tells it when it is served by `app.into_make_service_with_connect_info::<SocketAddr>()`.
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

/// Method and path only: headers hold secrets, and so may a query, or a segment of the path.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestHead({} {})", self.method, self.shown_path())
    }
}

//! Floor 5: for tonic: the caller, the cost of a call, and an interceptor that requires a
//! permission.
//!
//! - Layers go on the whole server by `Server::builder().layer(…)`, the first one outermost; or on
//!   one service by `tonic::service::LayerExt::named_layer`. They may wait for a store, and they
//!   know the path of the method. An interceptor goes on one service, inside of them; it can do
//!   neither, so it uses what a layer has found.
//! - Refuses with `UNAUTHENTICATED` if no layer authenticated a caller (the log says so), and with
//!   `PERMISSION_DENIED` if the caller lacks the permission. A refused call costs nothing.
//! - An interceptor inside of a spending gate runs after money was held, so a caller without
//!   permission and without money is told about the money. So put the permission into the gate
//!   ([`RbacLayer::routes`](crate::RbacLayer::routes), method by method), and use the interceptor
//!   as a second check.
//! - Health checks and reflection, which have no credential, should be
//!   [`open_to_strangers`](crate::TollgateBuilder::open_to_strangers): they are counted by address,
//!   and otherwise unrestricted.
//! - tonic's own time limit (`Server::timeout`, and the client's `grpc-timeout`, which tonic
//!   enforces itself) is outside of all layers. A [`DeadlineLayer`](crate::DeadlineLayer) inside of
//!   the gate acts earlier, and gives a reason.
//! - Translate gRPC-Web outside of the gate
//!   (`ServiceBuilder::new().layer(GrpcWebLayer::new()).layer(gate)`). A gate that sees it
//!   untranslated also refuses in its format, and reads the outcome of the call at the end of each
//!   body.
//! - Uses no store.
//! - Refusals made here are logged, counted, and recorded by an [`AuditLayer`](crate::AuditLayer)
//!   on the server, like a layer's refusals; a handler's own refusals are recorded.
//! - Every refusal of this crate is a status with details in `grpc-status-details-bin`: `ErrorInfo`
//!   with a reason (domain `tollgate`), `RetryInfo` if waiting helps, `QuotaFailure` if money is
//!   the reason. A handler gets the same by `Err(denial.into())`.
//!
//! A server that requires a key, and what its clients see:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tollgate::{ApiKeyLayer, key::KeyFormat, keyring::{KeyResolver, Keyring, NewKey}, store::MemoryStore};
//! use tonic::{Code, Request, transport::{Endpoint, Server, server::TcpIncoming}};
//! use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
//! use tonic_types::StatusExt;
//!
//! let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
//! let keys = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
//! let (key, _) = Keyring::new(store, format, keys.clone()).create("user-1", NewKey::default()).await?;
//!
//! let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
//! let address = incoming.local_addr()?;
//! let (_reporter, health) = tonic_health::server::health_reporter();
//! let server = Server::builder().layer(ApiKeyLayer::new(keys)).add_service(health);
//! tokio::spawn(server.serve_with_incoming(incoming));
//!
//! let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
//! let mut client = HealthClient::new(channel);
//! let mut call = Request::new(HealthCheckRequest::default());
//! call.metadata_mut().insert("x-api-key", key.expose().parse()?);
//! assert!(client.check(call).await.is_ok());
//!
//! let refused = client.check(HealthCheckRequest::default()).await.unwrap_err();
//! assert_eq!(refused.code(), Code::Unauthenticated);
//! let details = refused.get_error_details();
//! assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("CREDENTIAL_MISSING"));
//! # Ok(()) }
//! ```
//!
//! A method that knows the caller, refuses in the same format, and counts usage. A stream in either
//! direction is counted as it goes, by message or by byte: a token of
//! [`Price::per_million_tokens`](crate::Price::per_million_tokens) is whatever its handler counts.
//! A client's stream has no length to hold for, so such a price needs a limit on its input
//! ([`input_bound`](crate::TokenPrice::input_bound)). The bytes of an answer are counted
//! automatically ([`Price::per_million_bytes`](crate::Price::per_million_bytes)).
//!
//! ```
//! use tollgate::{denial::{Denial, DenialKind}, tonic::{charge, principal}};
//! use tonic::{Request, Response, Status, Streaming};
//!
//! # struct Reading; struct Summary { readings: u64 }
//! async fn record(request: Request<Streaming<Reading>>) -> Result<Response<Summary>, Status> {
//!     if principal(&request)?.subject() == "somebody-else" {
//!         return Err(Denial::new(DenialKind::NotPermitted).with_message("Not your meter").into());
//!     }
//!     let charge = charge(&request)?.clone();
//!     let (mut stream, mut readings) = (request.into_inner(), 0);
//!     while let Some(_reading) = stream.message().await? {
//!         charge.add_input_tokens(1);
//!         readings += 1;
//!     }
//!     Ok(Response::new(Summary { readings }))
//! }
//! # let _ = record;
//! ```

use tonic::{Request, Status, service::Interceptor, transport::server::Connected};

use crate::{
    domain::{
        RequestId,
        denial::{Denial, DenialKind},
        principal::Principal,
        role::{Permission, RoleSet},
    },
    guard,
    spending_limit::Charge,
    stall::{StallWatch, WatchedIo},
    trail,
    wire::grpc_status,
};

/// The caller.
///
/// # Errors
/// `UNAUTHENTICATED` if no layer authenticated a caller.
pub fn principal<T>(request: &Request<T>) -> Result<&Principal, Status> {
    request.extensions().get().ok_or_else(|| {
        let denial = Denial::new(DenialKind::CredentialMissing)
            .because("no principal: an authenticating layer must stand on the server");
        refuse(request, &denial)
    })
}

/// The handle for reporting what a call really cost.
///
/// # Errors
/// `INTERNAL` if there is no [`SpendingLimitLayer`](crate::SpendingLimitLayer) on the server, so
/// that a paid method is not given away.
pub fn charge<T>(request: &Request<T>) -> Result<&Charge, Status> {
    request.extensions().get().ok_or_else(|| {
        let denial = Denial::new(DenialKind::Internal)
            .because("no charge: a spending layer must stand on the server");
        refuse(request, &denial)
    })
}

/// The status of a refusal, with its details. A handler's refusal is recorded in the audit log.
impl From<Denial> for Status {
    fn from(denial: Denial) -> Self {
        trail::refused_by_the_application(&denial);
        grpc_status(&denial)
    }
}

/// The status; logged and counted like a layer's refusal.
fn refuse<T>(request: &Request<T>, denial: &Denial) -> Status {
    let request_id = request.extensions().get::<RequestId>();
    guard::refused_outside("tonic", request_id, denial);
    grpc_status(denial)
}

/// Makes watched connections usable with tonic's server: a [`StallLayer`](crate::StallLayer) on it
/// finds the watch of each, and adds to each request what tonic would have added for the underlying
/// connection. So `Request::remote_addr` is known, and for a watched TLS stream
/// (`WatchedIo<TlsStream<TcpStream>>`, with `h2` as its protocol) `Request::peer_certs` too. If
/// tonic's own server does TLS on top of the watched connection, the client's certificates are in
/// the extension `TlsConnectInfo<StallWatch>`.
impl<T: Connected> Connected for WatchedIo<T> {
    type ConnectInfo = StallWatch;

    fn connect_info(&self) -> StallWatch {
        let info = self.inner().connect_info();
        let watch = self.watch().clone();
        watch.providing(move |extensions| {
            extensions.insert(info.clone());
        })
    }
}

/// Requires a permission for one tonic service: `MyServer::with_interceptor(service, require)`.
///
/// ```
/// use tollgate::{CredentialKind, Principal, role::{Permission, RoleSet}, tonic::RequirePermission};
/// use tonic::service::Interceptor;
///
/// let roles = RoleSet::viewer_operator_admin();
/// let mut require = RequirePermission::new(&roles, Permission::new("write"));
/// let request = |role: &str| {
///     let mut request = tonic::Request::new(());
///     request.extensions_mut().insert(Principal::builder("u", CredentialKind::Token).role(role).build());
///     request
/// };
/// assert!(require.call(request("operator")).is_ok());
/// assert_eq!(require.call(request("viewer")).unwrap_err().code(), tonic::Code::PermissionDenied);
/// assert_eq!(require.call(tonic::Request::new(())).unwrap_err().code(), tonic::Code::Unauthenticated);
/// ```
#[derive(Clone, Debug)]
pub struct RequirePermission {
    roles: RoleSet,
    permission: Permission,
}

impl RequirePermission {
    /// Requires that one of the caller's roles grants `permission`.
    #[must_use]
    pub fn new(roles: &RoleSet, permission: Permission) -> Self {
        Self {
            roles: roles.clone(),
            permission,
        }
    }
}

impl Interceptor for RequirePermission {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let caller = principal(&request)?;
        if caller
            .roles()
            .any(|role| self.roles.grants(role, &self.permission))
        {
            Ok(request)
        } else {
            let lacking = format!("{} lacks {}", caller.metered_as(), self.permission.as_str());
            let denial = Denial::new(DenialKind::NotPermitted).because(lacking);
            Err(refuse(&request, &denial))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::{
        audit::{AuditFilter, AuditLayer, AuditTrail},
        domain::credential::CredentialKind,
        request_id::RequestIdLayer,
        store::{AuditLog, MemoryStore, Page},
    };

    #[tokio::test]
    async fn whom_an_interceptor_or_a_handler_refuses_is_in_the_audit_log() {
        let store = MemoryStore::new();
        let require =
            RequirePermission::new(&RoleSet::viewer_operator_admin(), Permission::new("write"));
        let call = service_fn(async |request: http::Request<()>| {
            let asked = require.clone().call(Request::from_http(request));
            let status = asked.map_or_else(
                |refused| refused,
                |_| {
                    Denial::new(DenialKind::NotPermitted)
                        .because("not yours")
                        .into()
                },
            );
            Ok::<_, Infallible>(status.into_http::<String>())
        });
        let service = RequestIdLayer::new()
            .layer(AuditLayer::new(AuditTrail::new(store.clone())).layer(call));
        for role in [None, Some("viewer"), Some("operator")] {
            let mut request = http::Request::post("/demo.Echo/Say");
            request = request.header("x-request-id", role.unwrap_or("nobody"));
            let mut request = request.body(()).unwrap();
            if let Some(role) = role {
                let caller = Principal::builder(role, CredentialKind::Token).role(role);
                request.extensions_mut().insert(caller.build());
            }
            service.clone().oneshot(request).await.unwrap();
        }
        let entries = store.entries(AuditFilter::default(), Page::first(10)).await;
        let mut told: Vec<_> = entries
            .unwrap()
            .items
            .into_iter()
            .map(|entry| {
                let event = entry.event;
                let of = event.request_id.unwrap().to_string();
                (of, event.action.as_str().to_owned(), event.reason.unwrap())
            })
            .collect();
        told.sort();
        let expected = [
            ("nobody", "authenticate", "no principal"),
            ("operator", "application", "not yours"),
            ("viewer", "tonic", "viewer lacks write"),
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for ((of, action, reason), expected) in told.iter().zip(expected) {
            assert_eq!((of.as_str(), action.as_str()), (expected.0, expected.1));
            assert!(reason.contains(expected.2), "{reason}");
        }
    }
}

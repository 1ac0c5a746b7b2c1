//! Floor 5: for tonic: who is calling, what it costs, and an interceptor that asks for a permission.
//!
//! - Layers go on the whole server by `Server::builder().layer(…)`; an interceptor goes on one service,
//!   inside of them.
//! - Refuses with `UNAUTHENTICATED` where no layer authenticated anybody (the log says so), and with
//!   `PERMISSION_DENIED` who lacks the permission. A refused call costs nothing.
//! - An interceptor inside of a spending gate is asked after money was held: who may not and has none is told of the money. So the
//!   permission belongs into the gate ([`RbacLayer::routes`](crate::RbacLayer::routes)), and stands here once more.
//! - gRPC-Web is translated outside of the gate (`ServiceBuilder::new().layer(GrpcWebLayer::new()).layer(gate)`). A gate that sees it
//!   untranslated refuses in its words, but of a stream that fails later it knows nothing, for the status is in its body: it is
//!   charged.
//! - Asks no store.
//! - What is refused here is logged, counted, and recorded by an [`AuditLayer`](crate::AuditLayer) on the server, as what a
//!   layer refuses is; a handler's own refusals are recorded.
//! - Every refusal of this crate is a status with details in `grpc-status-details-bin`: `ErrorInfo` with a
//!   reason (domain `tollgate`), `RetryInfo` where waiting helps, `QuotaFailure` where money is the reason.
//!   A handler gets the same by `Err(denial.into())`.

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

/// Who is calling.
///
/// # Errors
/// `UNAUTHENTICATED` where no layer authenticated anybody.
pub fn principal<T>(request: &Request<T>) -> Result<&Principal, Status> {
    request.extensions().get().ok_or_else(|| {
        let denial = Denial::new(DenialKind::CredentialMissing)
            .because("no principal: an authenticating layer must stand on the server");
        refuse(request, &denial)
    })
}

/// The handle by which a method tells what its call really cost.
///
/// # Errors
/// `INTERNAL` where no [`SpendingLimitLayer`](crate::SpendingLimitLayer) stands on the server: a method
/// that sells doesn't give away.
pub fn charge<T>(request: &Request<T>) -> Result<&Charge, Status> {
    request.extensions().get().ok_or_else(|| {
        let denial = Denial::new(DenialKind::Internal)
            .because("no charge: a spending layer must stand on the server");
        refuse(request, &denial)
    })
}

/// The status of a refusal, with its details. Of whom a handler refuses so, the audit log tells.
impl From<Denial> for Status {
    fn from(denial: Denial) -> Self {
        trail::refused_by_the_application(&denial);
        grpc_status(&denial)
    }
}

/// The status, told of as the refusals of layers are.
fn refuse<T>(request: &Request<T>, denial: &Denial) -> Status {
    let request_id = request.extensions().get::<RequestId>();
    guard::refused_outside("tonic", request_id, denial);
    grpc_status(denial)
}

/// Watched connections are connections of tonic's server: a [`StallLayer`](crate::StallLayer) on it finds the watch of each.
impl<T> Connected for WatchedIo<T> {
    type ConnectInfo = StallWatch;

    fn connect_info(&self) -> StallWatch {
        self.watch().clone()
    }
}

/// Admits who has a permission, for one tonic service: `MyServer::with_interceptor(service, require)`.
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
    /// Requires `permission` of one of the caller's roles.
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

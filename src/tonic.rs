//! Floor 5: for tonic: who is calling, what it costs, and an interceptor that asks for a permission.
//!
//! - Layers go on the whole server by `Server::builder().layer(…)`; an interceptor goes on one service,
//!   inside of them.
//! - Refuses with `UNAUTHENTICATED` where no layer authenticated anybody (the log says so), and with
//!   `PERMISSION_DENIED` who lacks the permission. A refused call costs nothing.
//! - Asks no store.
//! - Every refusal of this crate is a status with details in `grpc-status-details-bin`: `ErrorInfo` with a
//!   reason (domain `tollgate`), `RetryInfo` where waiting helps, `QuotaFailure` where money is the reason.
//!   A handler gets the same by `Err(denial.into())`.

use tonic::{Request, Status, service::Interceptor};

use crate::{
    domain::{
        denial::{Denial, DenialKind},
        principal::Principal,
        role::{Permission, RoleSet},
    },
    spending_limit::Charge,
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
        refuse(&denial)
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
        refuse(&denial)
    })
}

/// The status of a refusal, with its details.
impl From<Denial> for Status {
    fn from(denial: Denial) -> Self {
        grpc_status(&denial)
    }
}

/// The status, and a line in the log.
fn refuse(denial: &Denial) -> Status {
    tracing::info!(
        target: "tollgate",
        layer = "tonic",
        decision = "refuse",
        kind = denial.kind().as_str(),
        reason = denial.reason(),
    );
    grpc_status(denial)
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
            Err(refuse(
                &Denial::new(DenialKind::NotPermitted).because(lacking),
            ))
        }
    }
}

//! For tonic: who is calling, and an interceptor that asks for a permission.
//!
//! Layers go on the whole server by `Server::builder().layer(…)`; an interceptor goes on one service.

use tonic::{Request, Status, service::Interceptor};

use crate::domain::{
    principal::Principal,
    role::{Permission, RoleSet},
};

/// Who is calling.
///
/// # Errors
/// `UNAUTHENTICATED` where no layer authenticated anybody.
pub fn principal<T>(request: &Request<T>) -> Result<&Principal, Status> {
    request
        .extensions()
        .get::<Principal>()
        .ok_or_else(|| Status::unauthenticated("no credential was accepted"))
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
            Err(Status::permission_denied("the caller lacks a permission"))
        }
    }
}

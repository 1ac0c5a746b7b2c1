//! Role-based access control: [`RbacLayer`].
//!
//! - Refuses with 403 a caller who lacks what is required or is bound to another resource or tenant, and a route that is
//!   not in the [`RouteTable`] (with 404 where the table [names all routes](RouteTable::unknown_not_found); with 405 and `Allow`
//!   where only the method is missing); with 401 where nobody was authenticated (the log says which layer is missing).
//! - Stands inside an authenticating layer. It judges the method and the full path of the request's first
//!   line, also inside nested axum routers; method-override headers and `Host` play no part.
//! - A requirement may ask for an OAuth scope as well ([`Requirement::add_scope`]); a token that lacks it is refused with
//!   `insufficient_scope` (RFC 6750 section 3.1).
//! - Asks no store: roles come with the [`Principal`](crate::Principal), permissions from the [`RoleSet`].
//!   No decision is cached.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::{CredentialKind, Principal, RbacLayer, RequestHead, rbac::RouteTable, role::RoleSet};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let hello = service_fn(async |_| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
//! let table = RouteTable::new()
//!     .route("GET", "/documents/{id}", "read")?
//!     .route("DELETE", "/documents/{id}", "delete")?;
//! let layer = RbacLayer::routes(&RoleSet::viewer_operator_admin(), table);
//! let service = layer.layer(hello);
//! let request = |role: &str, method: &str, path: &str| {
//!     let mut request = http::Request::builder().method(method).uri(path).body(()).unwrap();
//!     request.extensions_mut().insert(Principal::builder("user-1", CredentialKind::Token).role(role).build());
//!     request
//! };
//! assert_eq!(service.clone().oneshot(request("operator", "DELETE", "/documents/7")).await?.status(), 200);
//! assert_eq!(service.clone().oneshot(request("viewer", "DELETE", "/documents/7")).await?.status(), 403);
//! assert_eq!(service.clone().oneshot(request("admin", "GET", "/documents//7")).await?.status(), 403);
//! assert_eq!(service.oneshot(http::Request::get("/documents/7").body(())?).await?.status(), 401);
//!
//! let why = layer.explain(&RequestHead::of(&request("viewer", "DELETE", "/documents/7")));
//! assert_eq!(why.to_string(), "DELETE /documents/7: refused to user-1 (viewer): user-1 lacks delete; \
//!     it requires delete, which admin or operator fulfil");
//! # Ok(()) }
//! ```

mod policy;
mod table;

use std::sync::Arc;

pub use crate::wire::InvalidRoute;
pub use policy::{Explanation, RbacPolicy};
pub use table::RouteTable;

use self::policy::Asked;
use crate::{
    domain::role::{Permission, Requirement, RoleSet},
    guard::{self, Gate},
    wire::RequestHead,
};

/// Admits who may. See the [module](self).
#[derive(Clone, Debug)]
pub struct RbacLayer {
    gate: Gate<RbacPolicy>,
}

guard::layer!(RbacLayer, RbacPolicy);

impl RbacLayer {
    /// Requires one permission, or any other [`Requirement`].
    #[must_use]
    pub fn require(roles: &RoleSet, requirement: impl Into<Requirement>) -> Self {
        Self::new(roles, Asked::Everywhere(requirement.into()))
    }

    /// Requires every one of several permissions.
    #[must_use]
    pub fn all_of(roles: &RoleSet, permissions: impl IntoIterator<Item = Permission>) -> Self {
        Self::require(roles, Requirement::all_of(permissions))
    }

    /// Requires at least one of several permissions; of none at all it refuses everybody.
    #[must_use]
    pub fn any_of(roles: &RoleSet, permissions: impl IntoIterator<Item = Permission>) -> Self {
        Self::require(roles, Requirement::any_of(permissions))
    }

    /// Requires a role, by its name alone.
    #[must_use]
    pub fn role(role: &str) -> Self {
        Self::require(&RoleSet::new(), Requirement::role(role))
    }

    /// Requires a credential, whosoever: for what is decided by [`RbacLayer::scope_from_path`] or
    /// [`RbacLayer::tenant_from_path`].
    #[must_use]
    pub fn authenticated() -> Self {
        Self::require(&RoleSet::new(), Requirement::authenticated())
    }

    /// Requires of each route what the table says, and refuses what it doesn't name.
    #[must_use]
    pub fn routes(roles: &RoleSet, table: RouteTable) -> Self {
        Self::new(roles, Asked::ByRoute(table))
    }

    /// Also holds the resource to which a credential is bound ([`Principal::resource`](crate::Principal::resource))
    /// against the path: `scope_from_path("bot_id")` admits a key of bot 7 to `/agents/{bot_id}/query` where
    /// `bot_id` is 7, and nowhere else; not to routes that have no `bot_id` either. A credential that is
    /// bound to nothing is not held up here.
    ///
    /// The pattern is the route table's, or else that of the axum route that the layer is on
    /// (`route_layer`; feature `axum`). Where none is known, bound credentials are refused.
    #[must_use]
    pub fn scope_from_path(self, parameter: &str) -> Self {
        let parameter = Some(Arc::from(parameter));
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.resource_parameter = parameter),
        }
    }

    /// Also holds the caller's tenant ([`Principal::tenant`](crate::Principal::tenant)) against the path:
    /// whoever is of another tenant, or of none, is refused, and so is every route without that parameter.
    /// The pattern is found as in [`RbacLayer::scope_from_path`].
    #[must_use]
    pub fn tenant_from_path(self, parameter: &str) -> Self {
        let parameter = Some(Arc::from(parameter));
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.tenant_parameter = parameter),
        }
    }

    /// Why the layer admits or refuses a request: for operators and tests.
    #[must_use]
    pub fn explain(&self, head: &RequestHead<'_>) -> Explanation {
        self.gate.policy().explain(head)
    }

    pub(crate) fn into_gate(self) -> Gate<RbacPolicy> {
        self.gate
    }

    fn new(roles: &RoleSet, asked: Asked) -> Self {
        Self {
            gate: Gate::new(RbacPolicy {
                roles: roles.clone(),
                asked,
                resource_parameter: None,
                tenant_parameter: None,
            }),
        }
    }
}

#[cfg(test)]
mod tests;

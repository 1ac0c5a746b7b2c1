//! Role-based access control: [`RbacLayer`].
//!
//! - Refuses with 403 a caller who lacks what is required or is bound to another resource or
//!   tenant, and a route that is not in the [`RouteTable`] (with 404 if the table [names all
//!   routes](RouteTable::unknown_not_found); with 405 and `Allow` if only the method is missing).
//!   Refuses with 401 if nobody was authenticated (the log says which layer is missing).
//! - Belongs inside an authenticating layer. It decides on the method and the full path of the
//!   request line, also inside nested axum routers; method-override headers and `Host` are ignored.
//! - A requirement may ask for an OAuth scope as well ([`Requirement::add_scope`]); a token that
//!   lacks it is refused with `insufficient_scope` (RFC 6750 section 3.1).
//! - Uses no store: roles come with the [`Principal`](crate::Principal), permissions from the
//!   [`RoleSet`]. No decision is cached.
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

mod check;
mod policy;
mod table;

use std::sync::Arc;

pub use crate::wire::InvalidRoute;
use check::Names;
pub use check::UnheldName;
pub use policy::{Explanation, RbacPolicy};
pub use table::RouteTable;

use self::policy::Rules;
use crate::{
    domain::role::{Permission, Requirement, RoleSet},
    guard::{self, Gate},
    wire::RequestHead,
};

/// Admits callers by roles and permissions. See the [module](self).
#[derive(Clone, Debug)]
pub struct RbacLayer {
    gate: Gate<RbacPolicy>,
}

guard::layer!(RbacLayer, RbacPolicy);

impl RbacLayer {
    /// Requires one permission, or any other [`Requirement`].
    #[must_use]
    pub fn require(roles: &RoleSet, requirement: impl Into<Requirement>) -> Self {
        Self::new(roles, Rules::Everywhere(requirement.into()))
    }

    /// Requires all of several permissions.
    #[must_use]
    pub fn all_of(roles: &RoleSet, permissions: impl IntoIterator<Item = Permission>) -> Self {
        Self::require(roles, Requirement::all_of(permissions))
    }

    /// Requires at least one of several permissions; an empty list refuses everybody.
    #[must_use]
    pub fn any_of(roles: &RoleSet, permissions: impl IntoIterator<Item = Permission>) -> Self {
        Self::require(roles, Requirement::any_of(permissions))
    }

    /// Requires a role, by exact name.
    #[must_use]
    pub fn role(role: &str) -> Self {
        Self::require(&RoleSet::new(), Requirement::role(role))
    }

    /// Requires any valid credential: for use with [`RbacLayer::scope_from_path`] or
    /// [`RbacLayer::tenant_from_path`].
    #[must_use]
    pub fn authenticated() -> Self {
        Self::require(&RoleSet::new(), Requirement::authenticated())
    }

    /// Requires what the table says for each route, and refuses routes that it doesn't list.
    #[must_use]
    pub fn routes(roles: &RoleSet, table: RouteTable) -> Self {
        Self::new(roles, Rules::ByRoute(table))
    }

    /// Also compares the resource that a credential is bound to
    /// ([`Principal::resource`](crate::Principal::resource)) with the path:
    /// `scope_from_path("bot_id")` admits a key of bot 7 to `/agents/{bot_id}/query` if `bot_id` is
    /// 7, and nowhere else, in particular not to routes without a `bot_id`. Credentials that are
    /// not bound to a resource are not affected.
    ///
    /// The pattern is the route table's, or else that of the axum route that the layer is on
    /// (`route_layer`; feature `axum`). If none is known, bound credentials are refused.
    #[must_use]
    pub fn scope_from_path(self, parameter: &str) -> Self {
        let parameter = Some(Arc::from(parameter));
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.resource_parameter = parameter),
        }
    }

    /// Also compares the caller's tenant ([`Principal::tenant`](crate::Principal::tenant)) with the
    /// path: callers with another tenant or none are refused, and so is every route without that
    /// parameter. The pattern is found as in [`RbacLayer::scope_from_path`].
    #[must_use]
    pub fn tenant_from_path(self, parameter: &str) -> Self {
        let parameter = Some(Arc::from(parameter));
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.tenant_parameter = parameter),
        }
    }

    /// The layer, if every role that it requires is in its role set (unless that is empty), and
    /// every permission is held by one of the roles. Otherwise a name is probably misspelt, and
    /// what it guards is refused to everybody. What is meant for nobody requires
    /// [`any_of`](Requirement::any_of) nothing. [`Tollgate`](crate::Tollgate) refuses by itself
    /// what nobody could ever fulfil.
    ///
    /// ```
    /// use tollgate::{RbacLayer, rbac::RouteTable, role::RoleSet};
    ///
    /// let table = RouteTable::new().route("PUT", "/documents/{id}", "wirte")?;
    /// let layer = RbacLayer::routes(&RoleSet::viewer_operator_admin(), table);
    /// let error = layer.checked().unwrap_err();
    /// assert_eq!(error.to_string(), "route PUT /documents/{id}: no role holds wirte");
    /// # Ok::<(), tollgate::rbac::InvalidRoute>(())
    /// ```
    ///
    /// # Errors
    /// [`UnheldName`], the first of them.
    pub fn checked(self) -> Result<Self, UnheldName> {
        self.gate.policy().check_names(Names::Any)?;
        Ok(self)
    }

    /// Refuses what nobody could ever fulfil.
    pub(crate) fn check_needed_names(&self) -> Result<(), UnheldName> {
        self.gate.policy().check_names(Names::Needed)
    }

    /// Explains why the layer admits or refuses a request: for operators and tests.
    #[must_use]
    pub fn explain(&self, head: &RequestHead<'_>) -> Explanation {
        self.gate.policy().explain(head)
    }

    pub(crate) fn into_gate(self) -> Gate<RbacPolicy> {
        self.gate
    }

    fn new(roles: &RoleSet, rules: Rules) -> Self {
        Self {
            gate: Gate::new(RbacPolicy {
                roles: roles.clone(),
                rules,
                resource_parameter: None,
                tenant_parameter: None,
            }),
        }
    }
}

#[cfg(test)]
mod tests;

//! May they: [`RbacLayer`].
//!
//! - Refuses with 403 who lacks the permission, and with 401 where nobody was authenticated (the log
//!   says which layer is missing).
//! - Stands inside an authenticating layer.
//! - Asks no store: roles come with the [`Principal`], permissions from the
//!   [`RoleSet`].
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::{CredentialKind, Principal, RbacLayer, role::{Permission, RoleSet}};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! let hello = service_fn(async |_| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
//! let roles = RoleSet::viewer_operator_admin();
//! let service = RbacLayer::require(&roles, Permission::new("write")).layer(hello);
//! let request = |role: &str| {
//!     let mut request = http::Request::new(());
//!     request.extensions_mut().insert(Principal::builder("user-1", CredentialKind::Token).role(role).build());
//!     request
//! };
//! assert_eq!(service.clone().oneshot(request("operator")).await?.status(), 200);
//! assert_eq!(service.clone().oneshot(request("viewer")).await?.status(), 403);
//! assert_eq!(service.oneshot(http::Request::new(())).await?.status(), 401);
//! # Ok(()) }
//! ```

use std::sync::Arc;

use crate::{
    domain::{
        denial::{Denial, DenialKind},
        principal::Principal,
        role::{Permission, RoleSet},
    },
    guard::{self, Decision, Gate, Policy, Verdict},
    wire::RequestHead,
};

/// Admits who has the permission. See the [module](self).
#[derive(Clone, Debug)]
pub struct RbacLayer {
    gate: Gate<RbacPolicy>,
}

guard::layer!(RbacLayer, RbacPolicy);

impl RbacLayer {
    /// Requires one permission.
    #[must_use]
    pub fn require(roles: &RoleSet, permission: Permission) -> Self {
        Self::all_of(roles, [permission])
    }

    /// Requires every one of several permissions.
    #[must_use]
    pub fn all_of(roles: &RoleSet, permissions: impl IntoIterator<Item = Permission>) -> Self {
        Self::new(roles, Requirement::AllOf(permissions.into_iter().collect()))
    }

    /// Requires at least one of several permissions; of none at all it refuses everybody.
    #[must_use]
    pub fn any_of(roles: &RoleSet, permissions: impl IntoIterator<Item = Permission>) -> Self {
        Self::new(roles, Requirement::AnyOf(permissions.into_iter().collect()))
    }

    pub(crate) fn into_policy(self) -> RbacPolicy {
        self.gate.policy().clone()
    }

    fn new(roles: &RoleSet, requirement: Requirement) -> Self {
        Self {
            gate: Gate::new(RbacPolicy {
                roles: roles.clone(),
                requirement,
            }),
        }
    }
}

#[derive(Clone, Debug)]
enum Requirement {
    AllOf(Arc<[Permission]>),
    AnyOf(Arc<[Permission]>),
}

/// The decision of an [`RbacLayer`].
#[derive(Clone, Debug)]
pub struct RbacPolicy {
    roles: RoleSet,
    requirement: Requirement,
}

impl RbacPolicy {
    fn holds(&self, principal: &Principal, permission: &Permission) -> bool {
        principal
            .roles()
            .any(|role| self.roles.grants(role, permission))
    }

    fn judge(&self, principal: &Principal) -> Result<(), Denial> {
        let lacking = match &self.requirement {
            Requirement::AllOf(all) => all.iter().find(|one| !self.holds(principal, one)),
            Requirement::AnyOf(any) if any.iter().any(|one| self.holds(principal, one)) => None,
            Requirement::AnyOf(any) => {
                return Err(refusal(principal, any.first()));
            }
        };
        lacking.map_or(Ok(()), |lacking| Err(refusal(principal, Some(lacking))))
    }
}

fn refusal(principal: &Principal, lacking: Option<&Permission>) -> Denial {
    let lacking = lacking.map_or("any permission asked for", Permission::as_str);
    let reason = format!("{} lacks {lacking}", principal.metered_as());
    Denial::new(DenialKind::NotPermitted).because(reason)
}

impl Policy for RbacPolicy {
    type Permit = ();

    fn name(&self) -> &'static str {
        "rbac"
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<()> {
        let Some(principal) = head.extensions.get::<Principal>() else {
            let denial = Denial::new(DenialKind::CredentialMissing)
                .because("no principal: the layer must stand inside an authenticating one");
            return Decision::Ready(Verdict::Refuse(denial));
        };
        Decision::Ready(match self.judge(principal) {
            Ok(()) => Verdict::Admit(()),
            Err(denial) => Verdict::Refuse(denial),
        })
    }
}

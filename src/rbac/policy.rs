//! The decision, and its explanation.

use std::{borrow::Cow, fmt, sync::Arc};

use super::table::RouteTable;
use crate::{
    domain::{
        denial::{Denial, DenialKind},
        principal::Principal,
        role::{Permission, Requirement, RoleSet, Rule},
    },
    guard::{Decision, Policy, Verdict},
    wire::{Methods, RequestHead, RouteMatch, is_normal_path, parameter_of},
};

/// The decision of an [`RbacLayer`](super::RbacLayer).
#[derive(Clone, Debug)]
pub struct RbacPolicy {
    pub(super) roles: RoleSet,
    pub(super) rules: Rules,
    pub(super) resource_parameter: Option<Arc<str>>,
    pub(super) tenant_parameter: Option<Arc<str>>,
}

/// What is required of requests.
#[derive(Clone, Debug)]
pub(super) enum Rules {
    /// The same for all.
    Everywhere(Requirement),
    /// By route.
    ByRoute(RouteTable),
}

/// Why a request is refused.
#[derive(Clone, Copy)]
enum Refusal<'a> {
    AmbiguousPath(DenialKind),
    UnknownRoute(DenialKind),
    OtherMethods(Methods<'a, Requirement>),
    Unauthenticated,
    Lacking(&'a Requirement),
    LackingScope(&'a Requirement),
    OtherResource,
    NoResourceInRoute,
    OtherTenant,
    NoTenant,
}

/// A decision, and what it was based on.
struct Ruling<'a> {
    pattern: Option<&'a str>,
    requirement: Option<&'a Requirement>,
    outcome: Result<(), Refusal<'a>>,
}

impl RbacPolicy {
    fn evaluate<'a>(&'a self, head: &RequestHead<'a>) -> Ruling<'a> {
        let principal = head.extensions.get::<Principal>();
        let refused = |refusal| Ruling {
            pattern: None,
            requirement: None,
            outcome: Err(refusal),
        };
        match &self.rules {
            Rules::Everywhere(requirement) => {
                let pattern = head.route_pattern();
                let parameter = |name: &str| {
                    let path = head.path();
                    pattern
                        .filter(|_| is_normal_path(path))
                        .and_then(|pattern| parameter_of(pattern, path, name))
                };
                Ruling {
                    pattern,
                    requirement: Some(requirement),
                    outcome: self.check(requirement, principal, parameter),
                }
            }
            Rules::ByRoute(table) => match table.find(head.method, head.path()) {
                RouteMatch::AmbiguousPath => refused(Refusal::AmbiguousPath(table.unknown())),
                RouteMatch::Unknown => refused(Refusal::UnknownRoute(table.unknown())),
                RouteMatch::OtherMethods(methods) => refused(Refusal::OtherMethods(methods)),
                RouteMatch::Route {
                    pattern,
                    value: requirement,
                    parameters,
                } => Ruling {
                    pattern: Some(pattern),
                    requirement: Some(requirement),
                    outcome: self.check(requirement, principal, |name| parameters.get(name)),
                },
            },
        }
    }

    fn check<'a, 'p>(
        &self,
        requirement: &'a Requirement,
        principal: Option<&Principal>,
        parameter: impl Fn(&str) -> Option<&'p str>,
    ) -> Result<(), Refusal<'a>> {
        let principal = match (principal, requirement.rule()) {
            (_, Rule::Nothing) => return Ok(()),
            (None, _) => return Err(Refusal::Unauthenticated),
            (Some(principal), _) => principal,
        };
        if !self.fulfils(&principal.roles(), requirement) {
            return Err(Refusal::Lacking(requirement));
        }
        if !requirement
            .scopes()
            .iter()
            .all(|scope| principal.has_scope(scope))
        {
            return Err(Refusal::LackingScope(requirement));
        }
        if let Some(name) = &self.tenant_parameter {
            let tenant = principal.tenant().ok_or(Refusal::NoTenant)?;
            if !parameter(name).is_some_and(|written| segment_is(written, tenant)) {
                return Err(Refusal::OtherTenant);
            }
        }
        match (&self.resource_parameter, principal.resource()) {
            (Some(name), Some(resource)) => match parameter(name) {
                Some(written) if segment_is(written, resource) => Ok(()),
                Some(_) => Err(Refusal::OtherResource),
                None => Err(Refusal::NoResourceInRoute),
            },
            _ => Ok(()),
        }
    }

    /// Whether a caller with these roles fulfils a requirement.
    fn fulfils<'r>(
        &self,
        roles: &(impl Iterator<Item = &'r str> + Clone),
        requirement: &Requirement,
    ) -> bool {
        let holds = |permission: &Permission| {
            let mut roles = roles.clone();
            roles.any(|role| self.roles.grants(role, permission))
        };
        match requirement.rule() {
            Rule::Nothing | Rule::Authenticated => true,
            Rule::AllOf(all) => all.iter().all(holds),
            Rule::AnyOf(any) => any.iter().any(holds),
            Rule::Role(role) => roles.clone().any(|held| held == role.as_ref()),
        }
    }

    pub(super) fn explain(&self, head: &RequestHead<'_>) -> Explanation {
        let ruling = self.evaluate(head);
        let principal = head.extensions.get::<Principal>();
        let fulfilled_by = |requirement: &Requirement| {
            let alone = |role: &&str| self.fulfils(&std::iter::once(*role), requirement);
            self.roles.names().filter(alone).map(Into::into).collect()
        };
        Explanation {
            request: format!("{} {}", head.method, head.shown_path()),
            caller: principal.map(describe),
            pattern: ruling.pattern.map(Into::into),
            requirement: ruling.requirement.cloned(),
            fulfilled_by: ruling.requirement.map(fulfilled_by).unwrap_or_default(),
            denial: ruling.outcome.err().map(|why| why.denial(principal)),
        }
    }
}

/// Whether a percent-encoded path segment equals that name.
fn segment_is(written: &str, name: &str) -> bool {
    percent_encoding::percent_decode_str(written)
        .decode_utf8()
        .is_ok_and(|written| written == name)
}

fn describe(principal: &Principal) -> String {
    let roles: Vec<_> = principal.roles().collect();
    format!("{} ({})", principal.metered_as(), roles.join(", "))
}

impl Refusal<'_> {
    fn denial(self, principal: Option<&Principal>) -> Denial {
        let who = principal.map_or("nobody", Principal::metered_as);
        let (kind, reason): (_, Cow<'static, str>) = match self {
            Self::AmbiguousPath(kind) => (kind, "the path could mean two things".into()),
            Self::UnknownRoute(kind) => (kind, "no such route in the table".into()),
            Self::OtherMethods(methods) => {
                return Denial::new(DenialKind::MethodNotAllowed)
                    .because("the route is in the table for other methods only")
                    .allowing(methods.names());
            }
            Self::Unauthenticated => (
                DenialKind::CredentialMissing,
                "no principal: the layer must stand inside an authenticating one".into(),
            ),
            Self::Lacking(requirement) => (
                DenialKind::NotPermitted,
                format!("{who} lacks {requirement}").into(),
            ),
            Self::LackingScope(requirement) => {
                let reason = format!("{who} lacks {requirement}");
                let denial = Denial::new(DenialKind::NotPermitted).because(reason);
                return denial.lacking_scope(requirement.scopes());
            }
            Self::OtherResource => (
                DenialKind::NotPermitted,
                format!("{who} is bound to another resource").into(),
            ),
            Self::NoResourceInRoute => (
                DenialKind::NotPermitted,
                format!("{who} is bound to a resource, and the route names none").into(),
            ),
            Self::OtherTenant => (
                DenialKind::NotPermitted,
                format!("{who} is of another tenant").into(),
            ),
            Self::NoTenant => (
                DenialKind::NotPermitted,
                format!("{who} is of no tenant").into(),
            ),
        };
        Denial::new(kind).because(reason)
    }
}

impl Policy for RbacPolicy {
    type Permit = ();

    fn name(&self) -> &'static str {
        "rbac"
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<()> {
        Decision::Ready(match self.evaluate(head).outcome {
            Ok(()) => Verdict::Admit(()),
            Err(refusal) => Verdict::Refuse(refusal.denial(head.extensions.get())),
        })
    }
}

/// The reasons for a decision, as fields and (by `Display`) as a sentence. For operators and tests;
/// don't show it to clients.
#[derive(Clone, Debug)]
pub struct Explanation {
    request: String,
    caller: Option<String>,
    pattern: Option<Box<str>>,
    requirement: Option<Requirement>,
    fulfilled_by: Vec<Box<str>>,
    denial: Option<Denial>,
}

impl Explanation {
    /// Whether the request is admitted.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.denial.is_none()
    }

    /// The refusal, if it is refused.
    #[must_use]
    pub fn denial(&self) -> Option<&Denial> {
        self.denial.as_ref()
    }

    /// The pattern of the matched route.
    #[must_use]
    pub fn pattern(&self) -> Option<&str> {
        self.pattern.as_deref()
    }

    /// What the route requires.
    #[must_use]
    pub fn requirement(&self) -> Option<&Requirement> {
        self.requirement.as_ref()
    }

    /// The roles each of which fulfils the requirement on its own.
    pub fn fulfilled_by(&self) -> impl Iterator<Item = &str> {
        self.fulfilled_by.iter().map(AsRef::as_ref)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.is_admitted() {
            "admitted"
        } else {
            "refused"
        };
        let caller = self.caller.as_deref().unwrap_or("nobody");
        write!(f, "{}: {outcome} to {caller}", self.request)?;
        if let Some(denial) = &self.denial {
            write!(f, ": {}", denial.reason())?;
        }
        if let Some(requirement) = &self.requirement {
            write!(f, "; it requires {requirement}")?;
        }
        if !self.fulfilled_by.is_empty() {
            write!(f, ", which {} fulfil", self.fulfilled_by.join(" or "))?;
        }
        Ok(())
    }
}

//! The requirement of every route.

use std::fmt;

use http::Method;

use crate::{
    domain::{denial::DenialKind, role::Requirement},
    wire::{InvalidRoute, RouteMatch, Routes},
};

/// Routes, by method and path pattern, with the requirement of each. Routes that aren't in the
/// table are refused to everybody: with 403, or with 404 if the table names [all
/// routes](Self::unknown_not_found).
///
/// - Patterns use axum's syntax: `/users/{id}`, `/files/{*rest}`, and also `/{name}.json`. They are
///   matched literally against the full path as received, and the more specific one wins.
/// - An ambiguous path (`//`, `.` and `..`, `\`, hidden or needless escapes) is refused.
/// - HEAD has the requirement of GET.
///
/// ```
/// use tollgate::{rbac::RouteTable, role::Requirement};
///
/// let table = RouteTable::new()
///     .route("GET", "/documents/{id}", "documents:read")?
///     .route("DELETE", "/documents/{id}", Requirement::all_of(["documents:read", "documents:delete"]))?
///     .route("GET", "/health", Requirement::nothing())?;
/// let error = table.route("GET", "/documents/{name}", "documents:read").unwrap_err();
/// assert!(error.to_string().starts_with("route GET /documents/{name}: "));
/// # Ok::<(), tollgate::rbac::InvalidRoute>(())
/// ```
#[derive(Clone, Default)]
pub struct RouteTable {
    routes: Routes<Requirement>,
    /// How unlisted routes are refused; with 403 by default.
    unknown: Option<DenialKind>,
}

impl RouteTable {
    /// An empty table, which refuses everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what a route requires.
    ///
    /// # Errors
    /// [`InvalidRoute`]: an invalid method, HEAD (which follows GET), a pattern that no acceptable
    /// path can match or that conflicts with another, or a duplicate route.
    pub fn route(
        self,
        method: &str,
        pattern: &str,
        requirement: impl Into<Requirement>,
    ) -> Result<Self, InvalidRoute> {
        if method == Method::HEAD {
            let why = "HEAD is asked for like GET";
            return Err(InvalidRoute::new(method, pattern, why));
        }
        let routes = self.routes.add(method, pattern, requirement.into())?;
        Ok(Self { routes, ..self })
    }

    /// Declares that the table names all routes: anything else is refused as not found (404) rather
    /// than as forbidden (403). For a service without a router of its own; it reveals to clients
    /// which routes don't exist.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{RbacLayer, rbac::RouteTable, role::{Requirement, RoleSet}};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let table = RouteTable::new().route("GET", "/health", Requirement::nothing())?;
    /// let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned())));
    /// let status = async |table, path| {
    ///     let service = RbacLayer::routes(&RoleSet::new(), table).layer(hello);
    ///     service.oneshot(http::Request::get(path).body(()).unwrap()).await.unwrap().status()
    /// };
    /// assert_eq!(status(table.clone(), "/nowhere").await, 403);
    /// assert_eq!(status(table.clone().unknown_not_found(), "/nowhere").await, 404);
    /// assert_eq!(status(table.unknown_not_found(), "/health").await, 200);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn unknown_not_found(self) -> Self {
        Self {
            unknown: Some(DenialKind::NotFound),
            ..self
        }
    }

    /// All routes with their requirements, in the order of declaration.
    pub fn routes(&self) -> impl Iterator<Item = (&Method, &str, &Requirement)> {
        self.routes.iter()
    }

    pub(super) fn find<'p>(
        &self,
        method: &Method,
        path: &'p str,
    ) -> RouteMatch<'_, 'p, Requirement> {
        self.routes.find(method, path)
    }

    /// How unlisted routes are refused.
    pub(super) fn unknown(&self) -> DenialKind {
        self.unknown.unwrap_or(DenialKind::NotPermitted)
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = self.routes();
        f.debug_map()
            .entries(routes.map(|(method, pattern, rule)| (format!("{method} {pattern}"), rule)))
            .finish()
    }
}

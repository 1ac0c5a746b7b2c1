//! Which route requires what.

use std::fmt;

use http::Method;

use crate::{
    domain::{denial::DenialKind, role::Requirement},
    wire::{Found, InvalidRoute, Routes},
};

/// Routes, by method and path pattern, with what each requires. What isn't in the table is refused to
/// everybody: with 403, or with 404 where the table names [all there is](Self::unknown_not_found).
///
/// - Patterns are those of axum: `/users/{id}`, `/files/{*rest}`; also `/{name}.json`. They are matched on the full path as it
///   came over the wire, letter by letter, and the more specific one wins.
/// - A path that could mean two things (`//`, `.` and `..`, `\`, hidden or needless escapes) is refused.
/// - HEAD is asked for like GET.
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
    /// How it is refused what isn't in the table; forbidden unless set.
    unknown: Option<DenialKind>,
}

impl RouteTable {
    /// An empty table, which refuses everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what a route requires.
    ///
    /// # Errors
    /// [`InvalidRoute`]: no such method, HEAD (which is GET), a pattern that no acceptable path can match or
    /// that conflicts with another, or a route that is there already.
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

    /// The table names all there is: for anything else the answer is that there is no such thing (404), and not that the caller
    /// may not (403). It stands in for a router that there is none of, and tells whoever is asked by it what there isn't.
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

    /// All routes with what they require, in the order in which they were declared.
    pub fn routes(&self) -> impl Iterator<Item = (&Method, &str, &Requirement)> {
        self.routes.iter()
    }

    pub(super) fn find<'p>(&self, method: &Method, path: &'p str) -> Found<'_, 'p, Requirement> {
        self.routes.find(method, path)
    }

    /// How what isn't in the table is refused.
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

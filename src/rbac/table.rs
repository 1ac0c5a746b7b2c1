//! Which route requires what.

use std::fmt;

use http::Method;

use crate::{
    domain::role::Requirement,
    wire::{Found, InvalidRoute, Routes},
};

/// Routes, by method and path pattern, with what each requires. What isn't in the table is refused to
/// everybody.
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
pub struct RouteTable(Routes<Requirement>);

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
        self.0.add(method, pattern, requirement.into()).map(Self)
    }

    /// All routes with what they require, in the order in which they were declared.
    pub fn routes(&self) -> impl Iterator<Item = (&Method, &str, &Requirement)> {
        self.0.iter()
    }

    pub(super) fn find<'p>(&self, method: &Method, path: &'p str) -> Found<'_, 'p, Requirement> {
        self.0.find(method, path)
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

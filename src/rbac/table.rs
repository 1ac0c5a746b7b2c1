//! Which route requires what.

use std::{fmt, sync::Arc};

use http::Method;
use matchit::{Params, Router};

use crate::{domain::role::Requirement, wire::is_normal_path};

/// Routes, by method and path pattern, with what each requires. What isn't in the table is refused to
/// everybody.
///
/// - Patterns are those of axum: `/users/{id}`, `/files/{*rest}`. They are matched on the full path as it
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
pub struct RouteTable(Arc<Inner>);

#[derive(Clone, Default)]
struct Inner {
    patterns: Vec<Pattern>,
    /// Places in `patterns`.
    matcher: Router<usize>,
}

#[derive(Clone)]
struct Pattern {
    text: Box<str>,
    methods: Vec<(Method, Requirement)>,
}

/// A route can't be in the table: which, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route {route}: {why}")]
pub struct InvalidRoute {
    route: String,
    why: String,
}

/// What the table says of a method and a path.
pub(super) enum Found<'t, 'p> {
    Route {
        pattern: &'t str,
        requirement: &'t Requirement,
        parameters: Params<'t, 'p>,
    },
    /// Other methods are in the table, but not this one.
    OtherMethods(Methods<'t>),
    Unknown,
    /// The path could mean two things.
    Unnormal,
}

/// The methods of a route.
#[derive(Clone, Copy)]
pub(super) struct Methods<'t>(&'t [(Method, Requirement)]);

impl<'t> Methods<'t> {
    /// Their names; with GET comes HEAD.
    pub(super) fn names(self) -> impl Iterator<Item = &'t str> {
        self.0.iter().flat_map(|(method, _)| {
            let head = (method == Method::GET).then_some("HEAD");
            std::iter::once(method.as_str()).chain(head)
        })
    }
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
        mut self,
        method: &str,
        pattern: &str,
        requirement: impl Into<Requirement>,
    ) -> Result<Self, InvalidRoute> {
        let invalid = |why: &str| InvalidRoute {
            route: format!("{method} {pattern}"),
            why: why.to_owned(),
        };
        if !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(invalid("no method"));
        }
        let parsed = Method::from_bytes(method.as_bytes()).map_err(|_| invalid("no method"))?;
        if parsed == Method::HEAD {
            return Err(invalid("HEAD is asked for like GET"));
        }
        if !is_normal_path(pattern) {
            return Err(invalid("no acceptable path can match it"));
        }
        let inner = Arc::make_mut(&mut self.0);
        let methods = inner.methods_of(pattern).map_err(|why| invalid(&why))?;
        if methods.iter().any(|(known, _)| *known == parsed) {
            return Err(invalid("twice"));
        }
        methods.push((parsed, requirement.into()));
        Ok(self)
    }

    /// All routes with what they require, in the order in which they were declared.
    pub fn routes(&self) -> impl Iterator<Item = (&Method, &str, &Requirement)> {
        self.0.patterns.iter().flat_map(|pattern| {
            let text = pattern.text.as_ref();
            let one = move |(method, requirement)| (method, text, requirement);
            pattern
                .methods
                .iter()
                .map(|(method, rule)| (method, rule))
                .map(one)
        })
    }

    pub(super) fn find<'p>(&self, method: &Method, path: &'p str) -> Found<'_, 'p> {
        if !is_normal_path(path) {
            return Found::Unnormal;
        }
        let Ok(found) = self.0.matcher.at(path) else {
            return Found::Unknown;
        };
        let Some(pattern) = self.0.patterns.get(*found.value) else {
            return Found::Unknown;
        };
        let method = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        match pattern.methods.iter().find(|(known, _)| known == method) {
            Some((_, requirement)) => Found::Route {
                pattern: &pattern.text,
                requirement,
                parameters: found.params,
            },
            None => Found::OtherMethods(Methods(&pattern.methods)),
        }
    }
}

impl Inner {
    fn methods_of(&mut self, pattern: &str) -> Result<&mut Vec<(Method, Requirement)>, String> {
        let known = |one: &Pattern| one.text.as_ref() == pattern;
        let place = match self.patterns.iter().position(known) {
            Some(place) => place,
            None => {
                let place = self.patterns.len();
                let inserted = self.matcher.insert(pattern, place);
                inserted.map_err(|error| error.to_string())?;
                self.patterns.push(Pattern {
                    text: pattern.into(),
                    methods: Vec::new(),
                });
                place
            }
        };
        let pattern = self.patterns.get_mut(place);
        pattern
            .map(|pattern| &mut pattern.methods)
            .ok_or_else(|| "no place".to_owned())
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

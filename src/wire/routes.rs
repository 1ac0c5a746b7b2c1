//! What is told of routes, by method and path pattern.

use std::sync::Arc;

use http::Method;
use matchit::{Params, Router};

use super::is_normal_path;

/// A route can't be in the table: which, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route {route}: {why}")]
pub struct InvalidRoute {
    route: String,
    why: String,
}

impl InvalidRoute {
    pub(crate) fn new(method: &str, pattern: &str, why: &str) -> Self {
        Self {
            route: format!("{method} {pattern}"),
            why: why.to_owned(),
        }
    }
}

/// Something for each route: what it requires, or costs. A clone is a reference count.
///
/// Patterns are those of axum, and a parameter may stand with a prefix or a suffix (`/{name}.json`). They are matched on the full path, letter by letter, and the more specific one
/// wins; a path that could mean two things has no route. HEAD is asked for like GET, unless it has a row of its own.
#[derive(Debug)]
pub(crate) struct Routes<T>(Arc<Inner<T>>);

#[derive(Clone, Debug)]
struct Inner<T> {
    patterns: Vec<Pattern<T>>,
    /// Places in `patterns`.
    matcher: Router<usize>,
}

#[derive(Clone, Debug)]
struct Pattern<T> {
    text: Box<str>,
    methods: Vec<(Method, T)>,
}

/// What is told of a method and a path.
pub(crate) enum Found<'t, 'p, T> {
    Route {
        pattern: &'t str,
        value: &'t T,
        parameters: Params<'t, 'p>,
    },
    /// There are other methods for the path, but not this one.
    OtherMethods(Methods<'t, T>),
    Unknown,
    /// The path could mean two things.
    Unnormal,
}

/// The methods of a path.
pub(crate) struct Methods<'t, T>(&'t [(Method, T)]);

impl<T> Clone for Methods<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Methods<'_, T> {}

impl<'t, T> Methods<'t, T> {
    fn of(self, method: &Method) -> Option<&'t T> {
        let row = self.0.iter().find(|(known, _)| known == method);
        row.map(|(_, value)| value)
    }

    /// Their names; with GET comes HEAD.
    pub(crate) fn names(self) -> impl Iterator<Item = &'t str> {
        let implied = self.of(&Method::HEAD).is_none();
        self.0.iter().flat_map(move |(method, _)| {
            let head = (implied && method == Method::GET).then_some("HEAD");
            std::iter::once(method.as_str()).chain(head)
        })
    }
}

impl<T: Clone> Routes<T> {
    /// Adds a route.
    ///
    /// # Errors
    /// [`InvalidRoute`]: no such method, a pattern that no acceptable path can match or that conflicts with another, or
    /// a route that is there already.
    pub(crate) fn add(
        mut self,
        method: &str,
        pattern: &str,
        value: T,
    ) -> Result<Self, InvalidRoute> {
        let invalid = |why: &str| InvalidRoute::new(method, pattern, why);
        let parsed = Method::from_bytes(method.as_bytes()).ok();
        let parsed = parsed.filter(|_| method.bytes().all(|byte| byte.is_ascii_uppercase()));
        let parsed = parsed.ok_or_else(|| invalid("no method"))?;
        if !is_normal_path(pattern) {
            return Err(invalid("no acceptable path can match it"));
        }
        if pattern.contains("/:") || pattern.contains("/*") {
            return Err(invalid("parameters are written `{name}` and `{*rest}`"));
        }
        let inner = Arc::make_mut(&mut self.0);
        let methods = inner.methods_of(pattern).map_err(|why| invalid(&why))?;
        if methods.iter().any(|(known, _)| *known == parsed) {
            return Err(invalid("twice"));
        }
        methods.push((parsed, value));
        Ok(self)
    }
}

impl<T> Routes<T> {
    /// All routes, in the order in which they were added.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Method, &str, &T)> {
        self.0.patterns.iter().flat_map(|pattern| {
            let text = pattern.text.as_ref();
            let rows = pattern.methods.iter();
            rows.map(move |(method, value)| (method, text, value))
        })
    }

    pub(crate) fn find<'p>(&self, method: &Method, path: &'p str) -> Found<'_, 'p, T> {
        if !is_normal_path(path) {
            return Found::Unnormal;
        }
        let Ok(found) = self.0.matcher.at(path) else {
            return Found::Unknown;
        };
        let Some(pattern) = self.0.patterns.get(*found.value) else {
            return Found::Unknown;
        };
        let methods = Methods(&pattern.methods);
        let as_get = || match *method {
            Method::HEAD => methods.of(&Method::GET),
            _ => None,
        };
        match methods.of(method).or_else(as_get) {
            Some(value) => Found::Route {
                pattern: &pattern.text,
                value,
                parameters: found.params,
            },
            None => Found::OtherMethods(methods),
        }
    }
}

impl<T> Inner<T> {
    fn methods_of(&mut self, pattern: &str) -> Result<&mut Vec<(Method, T)>, String> {
        let known = |one: &Pattern<T>| one.text.as_ref() == pattern;
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

impl<T> Clone for Routes<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self(Arc::new(Inner {
            patterns: Vec::new(),
            matcher: Router::new(),
        }))
    }
}

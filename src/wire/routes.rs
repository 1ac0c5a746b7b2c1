//! Tables by method and path pattern.

use std::sync::Arc;

use http::Method;
use matchit::{Params, Router};

use super::is_normal_path;

/// A route that can't be added to a table, and why.
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

/// A value for each route: what it requires, or what it costs. Cloning is cheap.
///
/// Patterns use axum's syntax, and a parameter may have a prefix or a suffix (`/{name}.json`). They
/// are matched literally against the full path, and the more specific one wins; an ambiguous path
/// matches no route. HEAD uses the row of GET, unless it has its own.
#[derive(Debug)]
pub(crate) struct Routes<T>(Arc<Inner<T>>);

#[derive(Clone, Debug)]
struct Inner<T> {
    patterns: Vec<Pattern<T>>,
    /// Indices into `patterns`.
    matcher: Router<usize>,
}

#[derive(Clone, Debug)]
struct Pattern<T> {
    text: Box<str>,
    methods: Vec<(Method, T)>,
}

/// The result of looking up a method and a path.
pub(crate) enum RouteMatch<'t, 'p, T> {
    Route {
        pattern: &'t str,
        value: &'t T,
        parameters: Params<'t, 'p>,
    },
    /// The path has other methods, but not this one.
    OtherMethods(Methods<'t, T>),
    Unknown,
    /// The path is ambiguous.
    AmbiguousPath,
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
    fn value_for(self, method: &Method) -> Option<&'t T> {
        let row = self.0.iter().find(|(known, _)| known == method);
        row.map(|(_, value)| value)
    }

    /// Their names; GET implies HEAD.
    pub(crate) fn names(self) -> impl Iterator<Item = &'t str> {
        let implied = self.value_for(&Method::HEAD).is_none();
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
    /// [`InvalidRoute`]: an invalid method, a pattern that no acceptable path can match or that
    /// conflicts with another, or a duplicate route.
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
    /// All routes, in the order of addition.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Method, &str, &T)> {
        self.0.patterns.iter().flat_map(|pattern| {
            let text = pattern.text.as_ref();
            let rows = pattern.methods.iter();
            rows.map(move |(method, value)| (method, text, value))
        })
    }

    pub(crate) fn find<'p>(&self, method: &Method, path: &'p str) -> RouteMatch<'_, 'p, T> {
        if !is_normal_path(path) {
            return RouteMatch::AmbiguousPath;
        }
        let Ok(found) = self.0.matcher.at(path) else {
            return RouteMatch::Unknown;
        };
        let Some(pattern) = self.0.patterns.get(*found.value) else {
            return RouteMatch::Unknown;
        };
        let methods = Methods(&pattern.methods);
        let as_get = || match *method {
            Method::HEAD => methods.value_for(&Method::GET),
            _ => None,
        };
        match methods.value_for(method).or_else(as_get) {
            Some(value) => RouteMatch::Route {
                pattern: &pattern.text,
                value,
                parameters: found.params,
            },
            None => RouteMatch::OtherMethods(methods),
        }
    }
}

impl<T> Inner<T> {
    fn methods_of(&mut self, pattern: &str) -> Result<&mut Vec<(Method, T)>, String> {
        let known = |one: &Pattern<T>| one.text.as_ref() == pattern;
        let index = match self.patterns.iter().position(known) {
            Some(index) => index,
            None => {
                let index = self.patterns.len();
                let inserted = self.matcher.insert(pattern, index);
                inserted.map_err(|error| error.to_string())?;
                self.patterns.push(Pattern {
                    text: pattern.into(),
                    methods: Vec::new(),
                });
                index
            }
        };
        let pattern = self.patterns.get_mut(index);
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

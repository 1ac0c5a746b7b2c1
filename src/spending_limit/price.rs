//! What a request costs, by method and path.

use std::{collections::BTreeMap, fmt, sync::Arc};

use http::{HeaderMap, Method, header::CONTENT_LENGTH};
use matchit::Router;

use super::Charge;
use crate::{
    domain::money::Money,
    wire::{RequestHead, is_normal_path},
};

/// The price of a request.
///
/// ```
/// use tollgate::{Price, TokenBound};
///
/// let flat = Price::flat("0.0020".parse()?);
/// let chat = Price::per_million_tokens("0.50".parse()?, "1.50".parse()?)
///     .output_bound(TokenBound::Fixed(4_096));
/// # let _ = (flat, chat);
/// # Ok::<(), tollgate::money::ParseMoneyError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Flat(Money),
    Tokens {
        input: Money,
        output: Money,
        input_bound: TokenBound,
        output_bound: TokenBound,
    },
}

/// How many tokens are held for before they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenBound {
    /// So many.
    Fixed(u64),
    /// One for every byte of the request's body, whose `content-length` says how many; without one, as
    /// many as in this many bytes.
    BodyBytes {
        /// Bytes of a body whose length isn't told.
        unknown: u64,
    },
}

impl TokenBound {
    fn tokens(self, headers: &HeaderMap) -> u64 {
        match self {
            Self::Fixed(tokens) => tokens,
            Self::BodyBytes { unknown } => {
                let length = headers
                    .get(CONTENT_LENGTH)
                    .and_then(|length| length.to_str().ok());
                length
                    .and_then(|length| length.parse().ok())
                    .unwrap_or(unknown)
            }
        }
    }
}

impl Price {
    /// Free: nothing is held, and the call is logged.
    #[must_use]
    pub const fn free() -> Self {
        Self(Kind::Flat(Money::ZERO))
    }

    /// The same for every call, unless the handler sets another cost.
    #[must_use]
    pub const fn flat(price: Money) -> Self {
        Self(Kind::Flat(price))
    }

    /// By tokens, which the handler counts into its [`Charge`]. Held before: one token read for every
    /// byte of the body, and 4,096 tokens written, unless the bounds are set. When the handler counts
    /// nothing at all, the hold is charged.
    #[must_use]
    pub const fn per_million_tokens(input: Money, output: Money) -> Self {
        Self(Kind::Tokens {
            input,
            output,
            input_bound: TokenBound::BodyBytes { unknown: 1_048_576 },
            output_bound: TokenBound::Fixed(4_096),
        })
    }

    /// How many tokens read are held for.
    #[must_use]
    pub const fn input_bound(mut self, bound: TokenBound) -> Self {
        if let Kind::Tokens { input_bound, .. } = &mut self.0 {
            *input_bound = bound;
        }
        self
    }

    /// How many tokens written are held for.
    #[must_use]
    pub const fn output_bound(mut self, bound: TokenBound) -> Self {
        if let Kind::Tokens { output_bound, .. } = &mut self.0 {
            *output_bound = bound;
        }
        self
    }

    pub(super) fn is_free(&self) -> bool {
        matches!(self.0, Kind::Flat(price) if price.is_zero())
    }

    fn is_negative(&self) -> bool {
        match self.0 {
            Kind::Flat(price) => price.is_negative(),
            Kind::Tokens { input, output, .. } => input.is_negative() || output.is_negative(),
        }
    }

    /// What is held before the request; `None` where that would be more than any amount.
    pub(super) fn hold(&self, headers: &HeaderMap) -> Option<Money> {
        match self.0 {
            Kind::Flat(price) => Some(price),
            Kind::Tokens {
                input,
                output,
                input_bound,
                output_bound,
            } => {
                let read = input.per_million(input_bound.tokens(headers))?;
                read.checked_add(output.per_million(output_bound.tokens(headers))?)
            }
        }
    }

    /// What the request cost in the end, going by what the handler counted; `held` where it counted nothing.
    pub(super) fn cost(&self, charge: &Charge, held: Money) -> Money {
        if let Some(cost) = charge.cost() {
            return cost;
        }
        match (self.0, charge.tokens()) {
            (Kind::Tokens { input, output, .. }, Some((read, written))) => {
                let read = input.per_million(read).unwrap_or(Money::MAX);
                read.saturating_add(output.per_million(written).unwrap_or(Money::MAX))
            }
            _ => held,
        }
    }
}

/// A route can't be in the table: why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route {route}: {why}")]
pub struct InvalidRoute {
    route: String,
    why: String,
}

/// The price of every route. What isn't in the table is refused: what has no price isn't sold.
///
/// Path patterns are those of axum: `/documents/{id}`, `/files/{*rest}`; no pattern matches an
/// un-normal path. HEAD costs what GET costs.
#[derive(Clone, Default)]
pub struct PriceTable {
    routes: Arc<BTreeMap<String, BTreeMap<String, PricedRoute>>>,
    matcher: Arc<Router<String>>,
}

/// A route with its price, and the name by which logs know it.
#[derive(Clone, Debug)]
pub(super) struct PricedRoute {
    pub(super) price: Price,
    /// `POST /chat`.
    pub(super) name: Arc<str>,
}

/// What the table says of a request.
pub(super) enum Priced<'a> {
    Route(&'a PricedRoute),
    /// Other methods are in the table, but not this one.
    OtherMethods,
    Unknown,
}

impl PriceTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the price of a route.
    ///
    /// # Errors
    /// [`InvalidRoute`]: no such method or pattern, a pattern that conflicts with another, a route that
    /// is there already, or a negative price.
    pub fn route(
        mut self,
        method: &str,
        pattern: &str,
        price: Price,
    ) -> Result<Self, InvalidRoute> {
        let name = format!("{method} {pattern}");
        let invalid = |why: &str| InvalidRoute {
            route: name.clone(),
            why: why.to_owned(),
        };
        let known = Method::from_bytes(method.as_bytes()).is_ok();
        if !known || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(invalid("no method"));
        }
        if price.is_negative() {
            return Err(invalid("negative price"));
        }
        let routes = Arc::make_mut(&mut self.routes);
        if !routes.contains_key(pattern) {
            let matcher = Arc::make_mut(&mut self.matcher);
            matcher
                .insert(pattern, pattern.to_owned())
                .map_err(|error| invalid(&error.to_string()))?;
        }
        let route = PricedRoute {
            price,
            name: Arc::from(name.as_str()),
        };
        let methods = routes.entry(pattern.to_owned()).or_default();
        if methods.insert(method.to_owned(), route).is_some() {
            return Err(invalid("twice"));
        }
        Ok(self)
    }

    pub(super) fn find(&self, head: &RequestHead<'_>) -> Priced<'_> {
        let path = head.path();
        if !is_normal_path(path) {
            return Priced::Unknown;
        }
        let Some(methods) = self
            .matcher
            .at(path)
            .ok()
            .and_then(|found| self.routes.get(found.value))
        else {
            return Priced::Unknown;
        };
        let as_get = (head.method == Method::HEAD)
            .then(|| methods.get("GET"))
            .flatten();
        match methods.get(head.method.as_str()).or(as_get) {
            Some(route) => Priced::Route(route),
            None => Priced::OtherMethods,
        }
    }
}

impl fmt::Debug for PriceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.routes
                    .values()
                    .flat_map(BTreeMap::values)
                    .map(|route| (&route.name, &route.price)),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(nanos: i64) -> Money {
        Money::from_nanos(nanos)
    }

    fn table() -> PriceTable {
        PriceTable::new()
            .route("GET", "/docs/{id}", Price::flat(nanos(1)))
            .and_then(|table| table.route("POST", "/docs/{id}", Price::flat(nanos(2))))
            .unwrap()
    }

    fn found(method: &str, path: &str) -> String {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .body(())
            .unwrap();
        match table().find(&RequestHead::of(&request)) {
            Priced::Route(route) => route.name.to_string(),
            Priced::OtherMethods => "405".into(),
            Priced::Unknown => "404".into(),
        }
    }

    #[test]
    fn only_what_is_in_the_table_is_sold() {
        assert_eq!(found("GET", "/docs/1"), "GET /docs/{id}");
        assert_eq!(found("HEAD", "/docs/1"), "GET /docs/{id}");
        assert_eq!(found("DELETE", "/docs/1"), "405");
        for path in [
            "/docs",
            "/docs/",
            "/docs/1/",
            "/docs//1",
            "/docs/%31",
            "/docs/../docs/1",
            "/Docs/1",
        ] {
            assert_eq!(found("GET", path), "404", "{path}");
        }
    }

    #[test]
    fn a_table_that_contradicts_itself_cannot_be() {
        let twice = table().route("GET", "/docs/{id}", Price::free());
        assert!(
            twice
                .unwrap_err()
                .to_string()
                .contains("GET /docs/{id}: twice")
        );
        assert!(table().route("GET", "/docs/{name}", Price::free()).is_err());
        assert!(table().route("get", "/a", Price::free()).is_err());
        assert!(table().route("GET", "/a", Price::flat(nanos(-1))).is_err());
    }

    #[test]
    fn tokens_are_held_for_by_their_bounds_and_charged_by_count() {
        let price = Price::per_million_tokens(nanos(500_000_000), nanos(1_500_000_000))
            .output_bound(TokenBound::Fixed(10));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, 100.into());
        assert_eq!(price.hold(&headers), Some(nanos(100 * 500 + 10 * 1_500)));
        let charge = Charge::new();
        assert_eq!(
            price.cost(&charge, nanos(7)),
            nanos(7),
            "nothing counted: the hold"
        );
        charge.add_input_tokens(0);
        assert_eq!(
            price.cost(&charge, nanos(7)),
            Money::ZERO,
            "zero was counted"
        );
        charge.add_input_tokens(3);
        charge.add_output_tokens(2);
        assert_eq!(price.cost(&charge, nanos(7)), nanos(3 * 500 + 2 * 1_500));
        charge.set(nanos(1));
        assert_eq!(price.cost(&charge, nanos(7)), nanos(1));
    }
}

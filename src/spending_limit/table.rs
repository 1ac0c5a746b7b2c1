//! The price of every route.

use std::{fmt, sync::Arc};

use super::{InvalidPrice, LivePrice, Price};
use crate::wire::{InvalidRoute, Methods, RequestHead, RouteMatch, Routes};

/// The price of every route. Routes that aren't in the table are refused: what has no price isn't
/// sold.
///
/// Path patterns use axum's syntax: `/documents/{id}`, `/files/{*rest}`; no pattern matches a path
/// that is not normalized. HEAD costs what GET costs.
#[derive(Clone, Default)]
pub struct PriceTable(Routes<PricedRoute>);

/// A route with its price, and its name in logs.
#[derive(Clone, Debug)]
pub(super) struct PricedRoute {
    pricing: Pricing,
    /// `POST /chat`.
    pub(super) name: Arc<str>,
}

type PriceOf = dyn Fn(&RequestHead<'_>) -> Price + Send + Sync;

#[derive(Clone)]
enum Pricing {
    Same(Price),
    Live(LivePrice),
    Each(Arc<PriceOf>),
}

impl PricedRoute {
    /// `None` if the closure returned an invalid price.
    pub(super) fn price(&self, head: &RequestHead<'_>) -> Option<Price> {
        match &self.pricing {
            Pricing::Same(price) => Some(price.clone()),
            Pricing::Live(price) => Some(price.get()),
            Pricing::Each(price) => Some(price(head)).filter(|price| !price.is_invalid()),
        }
    }
}

impl fmt::Debug for Pricing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(price) => price.fmt(f),
            Self::Live(price) => price.get().fmt(f),
            Self::Each(_) => f.write_str("Fn"),
        }
    }
}

/// The result of looking up a request.
pub(super) enum Priced<'a> {
    Route(&'a PricedRoute),
    /// The path is in the table with these methods, but not with this one.
    OtherMethods(Methods<'a, PricedRoute>),
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
    /// [`InvalidRoute`]: an invalid method or pattern, a pattern that conflicts with another, a
    /// duplicate route, or an [invalid price](InvalidPrice).
    pub fn route(
        self,
        method: &str,
        pattern: &str,
        price: impl Into<Price>,
    ) -> Result<Self, InvalidRoute> {
        let price = price.into();
        if price.is_invalid() {
            return Err(InvalidRoute::new(
                method,
                pattern,
                &InvalidPrice.to_string(),
            ));
        }
        self.add(method, pattern, Pricing::Same(price))
    }

    /// Sets a function that prices each request of a route: by the plan of its
    /// [`Principal`](crate::Principal) (in the head's extensions), or by a header. It does not see
    /// the body. A request for which it returns a negative price is refused (500).
    ///
    /// For prices by tokens return a clone of a [`Price`] that was made once: it is shared. A
    /// [`TokenPrice`](crate::TokenPrice) takes an allocation for each request.
    ///
    /// # Errors
    /// As for [`route`](Self::route).
    pub fn route_by<P: Into<Price>>(
        self,
        method: &str,
        pattern: &str,
        price: impl Fn(&RequestHead<'_>) -> P + Send + Sync + 'static,
    ) -> Result<Self, InvalidRoute> {
        let price = move |head: &RequestHead<'_>| price(head).into();
        self.add(method, pattern, Pricing::Each(Arc::new(price)))
    }

    /// Sets the price of a route to one that may change while the server runs. [`LivePrice`] says
    /// which price a call has.
    ///
    /// # Errors
    /// As for [`route`](Self::route); the price is valid.
    pub fn route_live(
        self,
        method: &str,
        pattern: &str,
        price: &LivePrice,
    ) -> Result<Self, InvalidRoute> {
        self.add(method, pattern, Pricing::Live(price.clone()))
    }

    fn add(self, method: &str, pattern: &str, pricing: Pricing) -> Result<Self, InvalidRoute> {
        let name = format!("{method} {pattern}").into();
        let route = PricedRoute { pricing, name };
        self.0.add(method, pattern, route).map(Self)
    }

    pub(super) fn find(&self, head: &RequestHead<'_>) -> Priced<'_> {
        match self.0.find(head.method, head.path()) {
            RouteMatch::Route { value, .. } => Priced::Route(value),
            RouteMatch::OtherMethods(methods) => Priced::OtherMethods(methods),
            RouteMatch::Unknown | RouteMatch::AmbiguousPath => Priced::Unknown,
        }
    }
}

impl fmt::Debug for PriceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.0.iter();
        f.debug_map()
            .entries(rows.map(|(_, _, route)| (&route.name, &route.pricing)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::domain::money::Money;

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
            Priced::OtherMethods(methods) => {
                format!("405: {}", methods.names().collect::<Vec<_>>().join(", "))
            }
            Priced::Unknown => "404".into(),
        }
    }

    #[test]
    fn only_what_is_in_the_table_is_sold() {
        assert_eq!(found("GET", "/docs/1"), "GET /docs/{id}");
        assert_eq!(found("HEAD", "/docs/1"), "GET /docs/{id}");
        assert_eq!(found("DELETE", "/docs/1"), "405: GET, HEAD, POST");
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
}

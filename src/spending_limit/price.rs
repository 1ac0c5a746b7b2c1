//! What a request costs, before and after.

mod cost;
mod length;
mod models;
#[cfg(test)]
mod tests;
mod tokens;

use std::sync::Arc;

use http::HeaderName;

use self::models::Models;
pub use self::tokens::{TokenBound, TokenPrice};
pub(super) use self::{cost::Counts, length::RequestLength};
use crate::domain::money::Money;

/// The price of a request.
///
/// ```
/// use tollgate::{CostSource, Price, TokenBound};
///
/// let flat = Price::flat("0.0020".parse()?);
/// let chat = Price::per_million_tokens("0.50".parse()?, "1.50".parse()?)
///     .output_bound(TokenBound::Fixed(4_096))
///     .cost_from(CostSource::Body);
/// # let _ = (flat, chat);
/// # Ok::<(), tollgate::money::ParseMoneyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    kind: Kind,
    source: CostSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Flat(Money),
    Tokens(TokenPrice),
    Bytes { per_million: Money, bound: u64 },
    Models(Arc<Models>),
}

/// Where the real cost is read, besides the [`Charge`](crate::Charge) of the handler, which always has the last word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CostSource {
    /// The handler tells it, or nobody. For prices by tokens where an answer's `usage` is not to be believed, because it
    /// comes from where the client may have a say.
    #[default]
    Handler,
    /// The answer's body: the `usage` of OpenAI's and Anthropic's shapes, in JSON or in the events of a
    /// `text/event-stream`. It is read while it passes; nothing is kept back. This is where prices by tokens and by models
    /// look unless told otherwise.
    ///
    /// Nothing is found in a body that is compressed before it comes here (ask the provider for `accept-encoding: identity`),
    /// nor in a stream of OpenAI's chat completions whose request doesn't say `"stream_options": {"include_usage": true}`: a
    /// gateway adds that to what it sends on. Then the hold is charged, and said to be
    /// ([`MissingUsage`](crate::MissingUsage)).
    Body,
    /// A header of the answer: a decimal number of dollars (`0.0042`). One that is no amount, negative, or there
    /// twice, is none.
    Header(HeaderName),
}

impl From<TokenPrice> for Price {
    fn from(price: TokenPrice) -> Self {
        Self::of(Kind::Tokens(price))
    }
}

impl Price {
    /// Free: nothing is held, and the call is logged.
    #[must_use]
    pub const fn free() -> Self {
        Self::flat(Money::ZERO)
    }

    /// The same for every call, unless another cost is told.
    #[must_use]
    pub const fn flat(price: Money) -> Self {
        Self::of(Kind::Flat(price))
    }

    /// By tokens: of a million that are read, and of a million that are written. See [`TokenPrice`], and there what of a
    /// request its length does not bound.
    pub const fn per_million_tokens(input: Money, output: Money) -> TokenPrice {
        TokenPrice::new(input, output)
    }

    /// By bytes of the answer's body, of which `bound` are held for before. More are charged all the same.
    #[must_use]
    pub const fn per_million_bytes(price: Money, bound: u64) -> Self {
        Self::of(Kind::Bytes {
            per_million: price,
            bound,
        })
    }

    /// By the model that the handler ([`Charge::set_model`](crate::Charge::set_model)) or the answer's body names. Since the
    /// request's body isn't read, the dearest is held for; it is also what a model that isn't named here costs.
    ///
    /// A name with `*` at its end is that of all models that begin so: OpenAI answers a request for `gpt-4o` with the name
    /// of its snapshot, `gpt-4o-2024-08-06`. A whole name comes before all of these, and the longest of these before
    /// the others, so `gpt-4o*` is the price of `gpt-4o-mini` too, unless `gpt-4o-mini*` has its own.
    ///
    /// The prices' own bounds count, and of this price the [`cost_from`](Self::cost_from).
    ///
    /// ```
    /// use tollgate::{CostSource, Price, PriceTable};
    ///
    /// let large = Price::per_million_tokens("2.50".parse()?, "10".parse()?).cached_input("1.25".parse()?);
    /// let small = Price::per_million_tokens("0.15".parse()?, "0.60".parse()?);
    /// let chat = Price::by_model([("gpt-4o*", large), ("gpt-4o-mini*", small)]).cost_from(CostSource::Body);
    /// let prices = PriceTable::new().route("POST", "/v1/chat/completions", chat)?;
    ///
    /// // A `*` stands at the end, or nowhere.
    /// let unclear = Price::by_model([("gpt-*-mini", small)]);
    /// assert!(prices.route("POST", "/v1/responses", unclear).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn by_model<'a, P: Into<Self>>(prices: impl IntoIterator<Item = (&'a str, P)>) -> Self {
        let prices = prices
            .into_iter()
            .map(|(model, price)| (model, price.into()));
        Self::of(Kind::Models(Arc::new(Models::new(prices))))
    }

    const fn of(kind: Kind) -> Self {
        let source = match &kind {
            Kind::Tokens(_) | Kind::Models(_) => CostSource::Body,
            Kind::Flat(_) | Kind::Bytes { .. } => CostSource::Handler,
        };
        Self { kind, source }
    }

    /// Where the real cost is read: unless set, of a price by tokens or by models in the body, of others nowhere.
    #[must_use]
    pub fn cost_from(mut self, source: CostSource) -> Self {
        self.source = source;
        self
    }

    pub(super) fn source(&self) -> &CostSource {
        &self.source
    }

    pub(super) fn is_free(&self) -> bool {
        matches!(self.kind, Kind::Flat(price) if price.is_zero())
            && matches!(self.source, CostSource::Handler | CostSource::Body)
    }

    /// What the request costs in any case, unless the handler says otherwise.
    pub(super) fn is_flat(&self) -> bool {
        matches!(self.kind, Kind::Flat(_))
    }

    /// By what goes out, and not by the call.
    pub(super) fn is_by_use(&self) -> bool {
        match &self.kind {
            Kind::Flat(_) => false,
            Kind::Tokens(_) | Kind::Bytes { .. } => true,
            Kind::Models(prices) => prices.all().any(Self::is_by_use),
        }
    }

    pub(super) fn is_by_bytes(&self) -> bool {
        matches!(self.kind, Kind::Bytes { .. })
    }

    /// Whether it is negative, or by models that aren't named clearly.
    pub(super) fn is_unsound(&self) -> bool {
        match &self.kind {
            Kind::Flat(price) => price.is_negative(),
            Kind::Tokens(price) => price.output.is_negative() || price.is_read_below_zero(),
            Kind::Bytes { per_million, .. } => per_million.is_negative(),
            Kind::Models(prices) => {
                let nested = |price: &Self| matches!(price.kind, Kind::Models(_));
                let unsound = |price: &Self| nested(price) || price.is_unsound();
                !prices.are_clear() || prices.all().any(unsound)
            }
        }
    }
}

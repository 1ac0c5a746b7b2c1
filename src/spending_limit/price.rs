//! What a request costs, before and after.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, header::CONTENT_LENGTH};

use super::meter::Tokens;
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
    Models(Arc<BTreeMap<Box<str>, Price>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TokenPrice {
    input: Money,
    cached_input: Money,
    output: Money,
    input_bound: TokenBound,
    output_bound: TokenBound,
}

/// Where the real cost is read, besides the [`Charge`](crate::Charge) of the handler, which always has the last word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CostSource {
    /// The handler tells it, or nobody.
    #[default]
    Handler,
    /// The answer's body: the `usage` of OpenAI's and Anthropic's shapes, in JSON or in the events of a
    /// `text/event-stream`. It is read while it passes; nothing is kept back. A body that is compressed before it
    /// comes here can't be read.
    Body,
    /// A header of the answer: a decimal number of dollars (`0.0042`). One that is no amount, negative, or there
    /// twice, is none.
    Header(HeaderName),
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
    fn tokens(self, request_bytes: Option<u64>) -> u64 {
        match self {
            Self::Fixed(tokens) => tokens,
            Self::BodyBytes { unknown } => request_bytes.unwrap_or(unknown),
        }
    }
}

/// How long the request says that its body is.
pub(super) fn request_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
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

    /// By tokens, which the handler counts into its [`Charge`](crate::Charge) or the answer tells
    /// ([`cost_from`](Self::cost_from)). Held before: one token read for every byte of the body, and 4,096 tokens
    /// written, unless the bounds are set. When nothing at all is counted, the hold is charged; see
    /// [`missing_usage`](crate::SpendingLimitLayer::missing_usage).
    #[must_use]
    pub const fn per_million_tokens(input: Money, output: Money) -> Self {
        Self::of(Kind::Tokens(TokenPrice {
            input,
            cached_input: input,
            output,
            input_bound: TokenBound::BodyBytes { unknown: 1_048_576 },
            output_bound: TokenBound::Fixed(4_096),
        }))
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
    /// The prices' own bounds count, and of this price the [`cost_from`](Self::cost_from).
    #[must_use]
    pub fn by_model<'a>(prices: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let named = prices
            .into_iter()
            .map(|(model, price)| (model.into(), price));
        Self::of(Kind::Models(Arc::new(named.collect())))
    }

    const fn of(kind: Kind) -> Self {
        Self {
            kind,
            source: CostSource::Handler,
        }
    }

    /// How many tokens read are held for.
    #[must_use]
    pub const fn input_bound(mut self, bound: TokenBound) -> Self {
        if let Kind::Tokens(price) = &mut self.kind {
            price.input_bound = bound;
        }
        self
    }

    /// How many tokens written are held for.
    #[must_use]
    pub const fn output_bound(mut self, bound: TokenBound) -> Self {
        if let Kind::Tokens(price) = &mut self.kind {
            price.output_bound = bound;
        }
        self
    }

    /// What a million tokens cost that were read from a cache; the same as others unless set.
    #[must_use]
    pub const fn cached_input(mut self, price: Money) -> Self {
        if let Kind::Tokens(tokens) = &mut self.kind {
            tokens.cached_input = price;
        }
        self
    }

    /// Where the real cost is read.
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

    pub(super) fn is_by_bytes(&self) -> bool {
        matches!(self.kind, Kind::Bytes { .. })
    }

    /// Whether it asks for less than nothing, or of nobody knows whom.
    pub(super) fn is_unsound(&self) -> bool {
        match &self.kind {
            Kind::Flat(price) => price.is_negative(),
            Kind::Tokens(price) => [price.input, price.cached_input, price.output]
                .into_iter()
                .any(Money::is_negative),
            Kind::Bytes { per_million, .. } => per_million.is_negative(),
            Kind::Models(prices) => {
                let nested = |price: &Self| matches!(price.kind, Kind::Models(_));
                let unsound = |price: &Self| nested(price) || price.is_unsound();
                prices.is_empty() || prices.values().any(unsound)
            }
        }
    }

    /// What is held before a request whose body is so long; `None` where that would be more than any amount.
    pub(super) fn hold(&self, request_bytes: Option<u64>) -> Option<Money> {
        match &self.kind {
            Kind::Flat(price) => Some(*price),
            Kind::Tokens(price) => {
                let dearest = price.input.max(price.cached_input);
                let read = dearest.per_million(price.input_bound.tokens(request_bytes))?;
                let written = price
                    .output
                    .per_million(price.output_bound.tokens(request_bytes))?;
                read.checked_add(written)
            }
            Kind::Bytes { per_million, bound } => per_million.per_million(*bound),
            Kind::Models(prices) => {
                let holds = prices.values().map(|price| price.hold(request_bytes));
                holds.collect::<Option<Vec<_>>>()?.into_iter().max()
            }
        }
    }

    /// What was counted, at this price; `None` where nothing was that it counts by.
    pub(super) fn counted(&self, counts: &Counts<'_>) -> Option<Money> {
        match &self.kind {
            Kind::Flat(price) => Some(*price),
            Kind::Tokens(price) => counts.tokens.map(|tokens| price.cost(tokens)),
            Kind::Bytes { per_million, .. } => {
                Some(per_million.per_million(counts.bytes).unwrap_or(Money::MAX))
            }
            Kind::Models(prices) => {
                if let Some(price) = named(prices, counts) {
                    return price.counted(counts);
                }
                let costs = prices.values().map(|price| price.counted(counts));
                costs.collect::<Option<Vec<_>>>()?.into_iter().max()
            }
        }
    }

    /// What a call cost at most that ended when `bytes` had gone out, of which nobody knows how many tokens
    /// they were: a token is at least a byte. No less than was counted, and no more than the hold where that is less.
    pub(super) fn produced(&self, held: Money, counts: &Counts<'_>) -> Money {
        match &self.kind {
            Kind::Tokens(price) => price.produced(held, counts),
            Kind::Models(prices) => {
                // The dearest was held for: of another, no more than its own hold was for the call.
                let produced = |price: &Self| {
                    let own = price.hold(counts.request_bytes).unwrap_or(held);
                    price.produced(own.min(held), counts)
                };
                match named(prices, counts) {
                    Some(price) => produced(price),
                    None => prices.values().map(produced).max().unwrap_or(held),
                }
            }
            Kind::Flat(_) | Kind::Bytes { .. } => self.counted(counts).unwrap_or(held),
        }
    }
}

fn named<'a>(prices: &'a BTreeMap<Box<str>, Price>, counts: &Counts<'_>) -> Option<&'a Price> {
    counts.model.and_then(|model| prices.get(model))
}

impl TokenPrice {
    fn produced(&self, held: Money, counts: &Counts<'_>) -> Money {
        let bound = match self.output_bound {
            TokenBound::Fixed(bound) => bound,
            TokenBound::BodyBytes { .. } => u64::MAX,
        };
        let written = counts.bytes.min(bound);
        let Some(tokens) = counts.tokens else {
            // What was read is in the hold, with all that could have been written.
            let not_written = match self.output_bound {
                TokenBound::Fixed(bound) => bound.saturating_sub(written),
                TokenBound::BodyBytes { .. } => 0,
            };
            let not_written = self.output.per_million(not_written).unwrap_or(Money::ZERO);
            return held.saturating_sub(not_written).max(Money::ZERO);
        };
        let most = Tokens {
            output: tokens.output.max(written),
            ..tokens
        };
        self.cost(most).min(held).max(self.cost(tokens))
    }

    fn cost(&self, tokens: Tokens) -> Money {
        let part = |price: Money, tokens| price.per_million(tokens).unwrap_or(Money::MAX);
        let fresh = tokens.input.saturating_sub(tokens.cached);
        part(self.input, fresh)
            .saturating_add(part(self.cached_input, tokens.cached))
            .saturating_add(part(self.output, tokens.output))
    }
}

/// What was counted of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts<'a> {
    pub(super) tokens: Option<Tokens>,
    /// Of the answer.
    pub(super) bytes: u64,
    pub(super) model: Option<&'a str>,
    pub(super) request_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(nanos: i64) -> Money {
        Money::from_nanos(nanos)
    }

    fn counts(input: u64, output: u64) -> Counts<'static> {
        Counts {
            tokens: Some(Tokens {
                input,
                cached: 0,
                output,
            }),
            ..Counts::default()
        }
    }

    fn by_token() -> Price {
        Price::per_million_tokens(nanos(500_000_000), nanos(1_500_000_000))
            .output_bound(TokenBound::Fixed(10))
    }

    #[test]
    fn tokens_are_held_for_by_their_bounds_and_charged_by_count() {
        let price = by_token();
        let mut headers = HeaderMap::new();
        assert_eq!(request_bytes(&headers), None);
        headers.insert(CONTENT_LENGTH, 100.into());
        assert_eq!(
            price.hold(request_bytes(&headers)),
            Some(nanos(100 * 500 + 10 * 1_500))
        );
        assert_eq!(
            price.counted(&Counts::default()),
            None,
            "missing isn't zero"
        );
        assert_eq!(price.counted(&counts(0, 0)), Some(Money::ZERO));
        assert_eq!(
            price.counted(&counts(3, 2)),
            Some(nanos(3 * 500 + 2 * 1_500))
        );
        assert_eq!(price.counted(&counts(u64::MAX, 0)), Some(Money::MAX));
    }

    #[test]
    fn what_came_from_a_cache_has_its_own_price() {
        let price = by_token().cached_input(nanos(50_000_000));
        let mut counted = counts(10, 0);
        counted.tokens.as_mut().unwrap().cached = 4;
        assert_eq!(price.counted(&counted), Some(nanos(6 * 500 + 4 * 50)));
    }

    #[test]
    fn bytes_are_counted_whatever_they_are() {
        let price = Price::per_million_bytes(nanos(2_000_000), 100);
        assert_eq!(price.hold(None), Some(nanos(200)));
        let sent = Counts {
            bytes: 150,
            ..Counts::default()
        };
        assert_eq!(price.counted(&sent), Some(nanos(300)));
    }

    #[test]
    fn a_model_that_nobody_knows_costs_as_the_dearest() {
        let cheap = Price::per_million_tokens(nanos(1_000_000), nanos(1_000_000));
        let models = Price::by_model([("small", cheap.clone()), ("large", by_token())]);
        assert_eq!(models.hold(Some(100)), by_token().hold(Some(100)));
        for (model, cost) in [("small", 20), ("large", 20_000), ("other", 20_000)] {
            let counted = Counts {
                model: Some(model),
                ..counts(10, 10)
            };
            assert_eq!(models.counted(&counted), Some(nanos(cost)), "{model}");
        }
        assert!(Price::by_model([]).is_unsound());
        assert!(Price::by_model([("a", Price::by_model([("b", cheap)]))]).is_unsound());
    }

    #[test]
    fn a_stream_that_was_left_costs_no_more_than_its_bytes() {
        let price = by_token();
        let held = nanos(100 * 500 + 10 * 1_500);
        let left = |tokens, bytes| {
            let counts = Counts {
                tokens,
                bytes,
                ..Counts::default()
            };
            price.produced(held, &counts)
        };
        assert_eq!(left(None, 0), nanos(100 * 500));
        assert_eq!(left(None, 4), nanos(100 * 500 + 4 * 1_500));
        assert_eq!(left(None, 400), held);
        let begun = counts(7, 1).tokens;
        assert_eq!(left(begun, 0), nanos(7 * 500 + 1_500));
        assert_eq!(left(begun, 4), nanos(7 * 500 + 4 * 1_500));
        assert_eq!(left(begun, 400), nanos(7 * 500 + 10 * 1_500));
        let beyond = counts(7, 99).tokens;
        assert_eq!(left(beyond, 400), nanos(7 * 500 + 99 * 1_500));
        let read_all = counts(1_000, 0).tokens;
        assert_eq!(
            left(read_all, 400),
            nanos(1_000 * 500),
            "no less than was counted"
        );
    }

    #[test]
    fn a_stream_that_was_left_costs_what_its_own_model_does() {
        let cheap = Price::per_million_tokens(nanos(1_000_000), nanos(2_000_000));
        let models = Price::by_model([("small", cheap.clone()), ("large", by_token())]);
        let held = models.hold(Some(100)).unwrap();
        let left = |model, bytes| {
            let counts = Counts {
                bytes,
                model: Some(model),
                request_bytes: Some(100),
                ..Counts::default()
            };
            models.produced(held, &counts)
        };
        assert_eq!(left("small", 4), nanos(100 + 4 * 2));
        assert_eq!(Some(left("small", 5_000)), cheap.hold(Some(100)));
        for dearest in ["large", "other"] {
            assert_eq!(left(dearest, 4), nanos(100 * 500 + 4 * 1_500), "{dearest}");
            assert_eq!(left(dearest, 5_000), held, "{dearest}");
        }
    }

    #[test]
    fn of_an_unknown_model_of_which_nothing_was_counted_nobody_knows_the_cost() {
        let mixed = Price::by_model([("flat", Price::flat(nanos(1))), ("large", by_token())]);
        assert_eq!(mixed.counted(&Counts::default()), None);
        let held = mixed.hold(None).unwrap();
        assert_eq!(
            mixed.produced(held, &Counts::default()),
            held.saturating_sub(nanos(10 * 1_500))
        );
        let flat = Counts {
            model: Some("flat"),
            ..Counts::default()
        };
        assert_eq!(mixed.counted(&flat), Some(nanos(1)));
    }
}

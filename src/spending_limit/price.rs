//! Prices: what is held for a request, and what is charged.

mod bound;
mod cost;
mod demand;
mod length;
mod live;
mod models;
mod rates;
#[cfg(test)]
mod tests;
mod tokens;

use std::sync::Arc;

use http::HeaderName;

use self::models::Models;
pub use self::{
    bound::TokenBound,
    live::{InvalidPrice, LivePrice},
    tokens::TokenPrice,
};
pub(super) use self::{cost::Counts, demand::Demand, length::RequestLength};
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
    /// Shared, because it is large and each call moves its price.
    Tokens(Arc<TokenPrice>),
    Bytes {
        per_million: Money,
        bound: u64,
    },
    Models(Arc<Models>),
}

/// Where the real cost is read from, besides the handler's [`Charge`](crate::Charge), which always
/// takes precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CostSource {
    /// Only the handler. For token prices if the `usage` in an answer can't be trusted, because the
    /// client may be able to influence it.
    #[default]
    Handler,
    /// The answer's body: its usage in the formats of the providers below, in JSON or in the events
    /// of a `text/event-stream`. It is parsed while it passes; nothing is delayed. This is the
    /// default for prices by tokens and by model.
    ///
    /// | format | read | input |
    /// |---|---|---|
    /// | OpenAI's chat, responses, images, transcripts, and what is compatible | `usage`: `prompt_tokens` or `input_tokens`, `completion_tokens` or `output_tokens`, `total_tokens`, and of their details `cached_tokens`, `cache_write_tokens`, `audio_tokens`, `image_tokens`; `prompt_cache_hit_tokens` (DeepSeek); `service_tier` | includes what was read from a cache or written to one |
    /// | Anthropic | `usage`: `input_tokens`, `output_tokens`, `cache_read_input_tokens`, `cache_creation_input_tokens`, `cache_creation`, `server_tool_use.web_search_requests`, `service_tier`, `speed` | those are added |
    /// | Gemini, also as a list of parts | `usageMetadata`: `promptTokenCount`, `candidatesTokenCount`, `thoughtsTokenCount`, `totalTokenCount`, `cachedContentTokenCount`, `toolUsePromptTokenCount`, the lists of modalities, `serviceTier`, `trafficType`; `modelVersion` | includes what was cached; tools' input is added |
    /// | Bedrock's Converse, not its streams | `usage`: `inputTokens`, `outputTokens`, `totalTokens`, `cacheReadInputTokens`, `cacheWriteInputTokens`, `cacheDetails`; `serviceTier` | those are added |
    /// | Cohere | `usage.billed_units`: `input_tokens`, `output_tokens` | as billed |
    ///
    /// Thoughts are output: those that Gemini counts apart, and those that some providers count in
    /// the total alone, of which what is neither input nor output is output. Videos and documents
    /// that Gemini lists count as images. Counts that contradict each other are read as what costs
    /// more: a cached part that is more than its whole stands beside it, and audio or images raise
    /// theirs.
    ///
    /// No usage is found in a body that is already compressed (ask the provider for
    /// `accept-encoding: identity`), nor in a stream of OpenAI's chat completions whose request
    /// doesn't set `"stream_options": {"include_usage": true}`; a gateway should add that to what
    /// it forwards. Then the hold is charged, and the usage is recorded as missing
    /// ([`MissingUsage`](crate::MissingUsage)).
    Body,
    /// A header of the answer: a decimal number of dollars (`0.0042`). It is ignored if it is not
    /// an amount, is negative, or appears twice.
    Header(HeaderName),
}

impl From<TokenPrice> for Price {
    fn from(price: TokenPrice) -> Self {
        Self::of(Kind::Tokens(Arc::new(price)))
    }
}

impl Price {
    /// Free: nothing is held; the call is logged.
    #[must_use]
    pub const fn free() -> Self {
        Self::flat(Money::ZERO)
    }

    /// The same for every call, unless another cost is reported.
    #[must_use]
    pub const fn flat(price: Money) -> Self {
        Self::of(Kind::Flat(price))
    }

    /// By tokens: the price of a million input tokens and of a million output tokens. See
    /// [`TokenPrice`], also for what the length of a request does not bound.
    pub const fn per_million_tokens(input: Money, output: Money) -> TokenPrice {
        TokenPrice::new(input, output)
    }

    /// By bytes of the answer's body. Money is held for `bound` of them; any beyond that are still
    /// charged.
    #[must_use]
    pub const fn per_million_bytes(price: Money, bound: u64) -> Self {
        Self::of(Kind::Bytes {
            per_million: price,
            bound,
        })
    }

    /// By the model that the handler ([`Charge::set_model`](crate::Charge::set_model)) or the
    /// answer's body names. The hold covers the most expensive model, which is also what an
    /// unlisted model costs; or the one that the request names, where that is
    /// [read](crate::BodyDigestLayer::read_use).
    ///
    /// A name that ends in `*` matches all models that begin with it: OpenAI answers a request for
    /// `gpt-4o` with the name of its snapshot, `gpt-4o-2024-08-06`. A full name takes precedence
    /// over prefixes, and a longer prefix over a shorter one; so `gpt-4o*` also prices
    /// `gpt-4o-mini`, unless there is `gpt-4o-mini*`.
    ///
    /// The bounds of the individual prices apply, but only this price's own
    /// [`cost_from`](Self::cost_from).
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
    /// let unclear = Price::by_model([("gpt-*-mini", Price::free())]);
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

    /// Sells only listed models, for a price by model: a request that names another, or none, is
    /// refused with 400. Has no effect on other prices. Like
    /// [`requested_output_max`](TokenPrice::requested_output_max) it needs a layer that
    /// [reads](crate::BodyDigestLayer::read_use) the route's requests; without it they are refused
    /// with 500, and the log says why.
    #[must_use]
    pub fn only_listed_models(mut self) -> Self {
        if let Kind::Models(prices) = &mut self.kind {
            Arc::make_mut(prices).only_listed = true;
        }
        self
    }

    const fn of(kind: Kind) -> Self {
        let source = match &kind {
            Kind::Tokens(_) | Kind::Models(_) => CostSource::Body,
            Kind::Flat(_) | Kind::Bytes { .. } => CostSource::Handler,
        };
        Self { kind, source }
    }

    /// Where the real cost is read from. Default: the body for a price by tokens or by model,
    /// nowhere for others.
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

    /// Whether the request costs a fixed amount, unless the handler reports another.
    pub(super) fn is_flat(&self) -> bool {
        matches!(self.kind, Kind::Flat(_))
    }

    /// Whether the price depends on usage rather than being per call.
    pub(super) fn is_by_use(&self) -> bool {
        match &self.kind {
            Kind::Flat(_) => false,
            Kind::Tokens(_) | Kind::Bytes { .. } => true,
            Kind::Models(prices) => prices.all().any(Self::is_by_use),
        }
    }

    /// Whether it depends on the request's body.
    pub(super) fn is_by_request(&self) -> bool {
        matches!(self.kind, Kind::Models(_)) || self.is_by_use()
    }

    pub(super) fn is_by_bytes(&self) -> bool {
        matches!(self.kind, Kind::Bytes { .. })
    }

    /// Whether it is negative, has invalid model names or nested model prices, or a tier or a range
    /// of lengths has what only the whole price can have.
    pub(super) fn is_invalid(&self) -> bool {
        match &self.kind {
            Kind::Flat(price) => price.is_negative(),
            Kind::Tokens(price) => price.is_invalid(),
            Kind::Bytes { per_million, .. } => per_million.is_negative(),
            Kind::Models(prices) => {
                let nested = |price: &Self| matches!(price.kind, Kind::Models(_));
                let invalid = |price: &Self| nested(price) || price.is_invalid();
                !prices.are_valid() || prices.all().any(invalid)
            }
        }
    }
}

//! Prices by tokens.

use super::{CostSource, Price, RequestLength};
use crate::domain::{charge::Tokens, money::Money};

/// A price by tokens, which the handler counts in its [`Charge`](crate::Charge) or the answer's
/// `usage` reports ([`CostSource::Body`], unless [`cost_from`](Self::cost_from) is set). Made by
/// [`Price::per_million_tokens`]; converts into a [`Price`].
///
/// Held before a call, by default: one input token per byte of the request's body, and 4,096 output
/// tokens.
///
/// # What a request asks for
/// By default nobody reads that. A client that asks for more output than the price's [own
/// bound](Self::output_bound), or for several choices, is admitted with too little held: what it
/// used is charged all the same, but as many such calls as are under way at once may overdraw the
/// account. Where [`BodyDigestLayer::read_use`](crate::BodyDigestLayer::read_use) reads it, money is
/// held for as much as the request allows, times its choices: more than by default if it allows
/// more, less if it allows less. What its input bound doesn't cover remains, see below.
///
/// Elsewhere set the bound to what the models can write at most, or limit `max_tokens` and `n` in
/// the handler. Calls that cost more than was held for them are logged and counted
/// (`tollgate_hold_overruns_total`).
///
/// # What the length of a request does not bound
/// A text has at most as many tokens as bytes. But a request of 200 bytes may refer to further
/// input: an earlier answer with its whole history (`previous_response_id`, `conversation`), a file
/// (`file_id`, `vector_store_ids`), an image or a document at a URL (`image_url`, `file_url`), a
/// stored prompt. That can be as much as the model's context holds, and is charged when it is
/// counted, beyond the hold, so an account may be overdrawn by as many calls as it has under way.
/// If clients may do that, hold for all of it: `input_bound(TokenBound::Fixed(128_000))` for a
/// context of 128,000 tokens. It is not the default because most routes take only text, and callers
/// with little credit would be refused over input that they don't send.
///
/// Nor do the bytes that were sent bound the output of a model that reasons without showing it. If
/// a stream is left before its count arrived, such tokens are not charged unless
/// [`disconnected_calls`](crate::SpendingLimitLayer::disconnected_calls) is set to
/// [`Charging::Hold`](crate::Charging::Hold).
///
/// # Where nothing is counted
/// If nothing at all is counted, the hold is charged, and that is logged once per route; see
/// [`missing_usage`](crate::SpendingLimitLayer::missing_usage). A stream of OpenAI's chat
/// completions reports its usage only if its request sets `"stream_options": {"include_usage":
/// true}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a price has no effect until it is put into a table"]
pub struct TokenPrice {
    input: Money,
    /// `input` if not set.
    cached_input: Option<Money>,
    /// `input` if not set.
    cache_write: Option<Money>,
    /// `cache_write` if not set.
    cache_write_for_an_hour: Option<Money>,
    pub(super) output: Money,
    pub(super) input_bound: TokenBound,
    pub(super) output_bound: TokenBound,
    pub(super) requested_output_max: Option<u64>,
}

/// How many tokens money is held for before they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenBound {
    /// A fixed number.
    Fixed(u64),
    /// One per byte of the request's body, by its `content-length` or as
    /// [measured](crate::BodyDigestLayer::measure) further out; `unknown` without either. It bounds
    /// the text in the request, but not what the request only [refers
    /// to](TokenPrice#what-the-length-of-a-request-does-not-bound).
    BodyBytes {
        /// The number of bytes to assume if the length isn't declared, and at least to assume if
        /// the body is compressed (`content-encoding`, `grpc-encoding`), because it grows when it
        /// is decompressed.
        unknown: u64,
    },
    /// The same for a service that reads bodies as they are sent and decodes none, as axum's
    /// extractors do: the compressed length then also bounds what is read.
    BodyBytesAsSent {
        /// The number of bytes to assume if the length isn't declared.
        unknown: u64,
    },
}

impl TokenPrice {
    pub(super) const fn new(input: Money, output: Money) -> Self {
        Self {
            input,
            cached_input: None,
            cache_write: None,
            cache_write_for_an_hour: None,
            output,
            input_bound: TokenBound::BodyBytes { unknown: 1_048_576 },
            output_bound: TokenBound::Fixed(4_096),
            requested_output_max: None,
        }
    }

    /// How many input tokens money is held for. Use [`TokenBound::Fixed`] if a request can refer to
    /// more than it contains.
    pub const fn input_bound(self, bound: TokenBound) -> Self {
        Self {
            input_bound: bound,
            ..self
        }
    }

    /// How many output tokens money is held for, if the request doesn't state a bound or nobody
    /// [reads it](crate::BodyDigestLayer::read_use): 4,096 by default.
    pub const fn output_bound(self, bound: TokenBound) -> Self {
        Self {
            output_bound: bound,
            ..self
        }
    }

    /// The most output tokens that a request may ask for, those of all its choices together, where
    /// that is [read](crate::BodyDigestLayer::read_use); one that asks for more is refused with 400.
    /// Unlimited by default.
    pub const fn requested_output_max(self, tokens: u64) -> Self {
        Self {
            requested_output_max: Some(tokens),
            ..self
        }
    }

    /// The price of a million input tokens that were read from a cache; by default like other
    /// input.
    pub const fn cached_input(self, price: Money) -> Self {
        Self {
            cached_input: Some(price),
            ..self
        }
    }

    /// The price of a million input tokens that were written to a cache, however long they are
    /// kept; by default like other input. Anthropic charges 1.25 times the input price for caching
    /// for five minutes.
    pub const fn cache_write(self, price: Money) -> Self {
        Self {
            cache_write: Some(price),
            ..self
        }
    }

    /// The price of a million input tokens that are cached for an hour; by default like
    /// [`cache_write`](Self::cache_write). Anthropic charges twice the input price.
    pub const fn cache_write_for_an_hour(self, price: Money) -> Self {
        Self {
            cache_write_for_an_hour: Some(price),
            ..self
        }
    }

    /// Where the real cost is read from; the body by default.
    #[must_use]
    pub fn cost_from(self, source: CostSource) -> Price {
        Price::from(self).cost_from(source)
    }
}

impl TokenPrice {
    const fn cached_input_price(&self) -> Money {
        match self.cached_input {
            Some(price) => price,
            None => self.input,
        }
    }

    const fn cache_write_price(&self) -> Money {
        match self.cache_write {
            Some(price) => price,
            None => self.input,
        }
    }

    const fn hour_cache_write_price(&self) -> Money {
        match self.cache_write_for_an_hour {
            Some(price) => price,
            None => self.cache_write_price(),
        }
    }

    const fn input_prices(&self) -> [Money; 4] {
        let (written, for_an_hour) = (self.cache_write_price(), self.hour_cache_write_price());
        [self.input, self.cached_input_price(), written, for_an_hour]
    }

    pub(super) fn has_negative_input_price(&self) -> bool {
        self.input_prices().into_iter().any(Money::is_negative)
    }

    pub(super) fn highest_input_price(&self) -> Money {
        self.input_prices().into_iter().fold(self.input, Money::max)
    }

    pub(super) fn cost_at_most(&self, held: Money, counts: &super::Counts<'_>) -> Money {
        let bound = self.output_by_number(&counts.request);
        let written = counts.bytes.min(bound.unwrap_or(u64::MAX));
        let Some(tokens) = counts.tokens else {
            // The hold covers the input, and all the output that there could have been.
            let not_written = bound.map_or(0, |bound| bound.saturating_sub(written));
            let not_written = self.output.per_million(not_written).unwrap_or(Money::ZERO);
            return held.saturating_sub(not_written).max(Money::ZERO);
        };
        let most = Tokens {
            output: tokens.output.max(written),
            ..tokens
        };
        self.cost(most).min(held).max(self.cost(tokens))
    }

    pub(super) fn cost(&self, tokens: Tokens) -> Money {
        let part = |price: Money, tokens| price.per_million(tokens).unwrap_or(Money::MAX);
        let for_minutes = tokens
            .cache_written
            .saturating_sub(tokens.written_for_an_hour);
        let fresh = tokens
            .input
            .saturating_sub(tokens.cached)
            .saturating_sub(tokens.cache_written);
        part(self.input, fresh)
            .saturating_add(part(self.cached_input_price(), tokens.cached))
            .saturating_add(part(self.cache_write_price(), for_minutes))
            .saturating_add(part(
                self.hour_cache_write_price(),
                tokens.written_for_an_hour,
            ))
            .saturating_add(part(self.output, tokens.output))
    }
}

impl TokenBound {
    pub(super) fn tokens(self, length: RequestLength) -> u64 {
        match self {
            Self::Fixed(tokens) => tokens,
            Self::BodyBytes { unknown } => length.bytes(unknown),
            Self::BodyBytesAsSent { unknown } => length.bytes_as_sent(unknown),
        }
    }
}

//! A price by tokens.

use super::{CostSource, Price, RequestLength};
use crate::domain::{charge::Tokens, money::Money};

/// A price by tokens, which the handler counts into its [`Charge`](crate::Charge), or the answer's `usage` tells
/// ([`CostSource::Body`], unless [`cost_from`](Self::cost_from) is set). Made by [`Price::per_million_tokens`]; wherever a [`Price`] is asked for, it is one.
///
/// Held before a call: one token read for every byte of the request's body, and 4,096 tokens written, unless the bounds
/// are set.
///
/// # What the length of a request does not bound
/// Text of so many bytes is no more tokens. But a request of 200 bytes may name what is read besides: an earlier
/// answer with all that led to it (`previous_response_id`, `conversation`), a file (`file_id`, `vector_store_ids`), an image
/// or a document at an address (`image_url`, `file_url`), a stored prompt. That can be as much as the model's context
/// holds, and is charged when it is counted, beyond the hold: an account may then be overdrawn by as many calls as it has under way.
/// Where clients may ask for that, hold for all of it: `input_bound(TokenBound::Fixed(128_000))` for a context of 128,000 tokens. It is
/// not the default, because most routes take text alone, and who has little credit left would be refused there for what they don't ask for.
///
/// Nor do the bytes that went out bound what was written where a model thinks without showing it. Of a stream that is left
/// before its count came, such tokens are not charged unless
/// [`disconnected_calls`](crate::SpendingLimitLayer::disconnected_calls) is set to [`Charging::Hold`](crate::Charging::Hold).
///
/// # Where nothing is counted
/// When nothing at all is counted, the hold is charged, and the log says so once a route; see
/// [`missing_usage`](crate::SpendingLimitLayer::missing_usage). A stream of OpenAI's chat completions tells its usage only if
/// its request says `"stream_options": {"include_usage": true}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it is a price of nothing until it is put into a table"]
pub struct TokenPrice {
    input: Money,
    /// As `input` unless set.
    cached_input: Option<Money>,
    /// As `input` unless set.
    cache_write: Option<Money>,
    /// As `cache_write` unless set.
    cache_write_for_an_hour: Option<Money>,
    pub(super) output: Money,
    pub(super) input_bound: TokenBound,
    pub(super) output_bound: TokenBound,
}

/// How many tokens are held for before they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenBound {
    /// So many.
    Fixed(u64),
    /// One for every byte of the request's body, whose `content-length` says how many, or a layer further out that
    /// [measures](crate::BodyDigestLayer::measure) it; without either, as many as in this many bytes. It bounds the text that stands in the request, and nothing that the request only
    /// [names](TokenPrice#what-the-length-of-a-request-does-not-bound).
    BodyBytes {
        /// Bytes of a body whose length isn't told, or at least so many where it is compressed (`content-encoding`,
        /// `grpc-encoding`): of what is sent more is made before it is read.
        unknown: u64,
    },
    /// The same of a service that reads bodies as they are sent, and decodes none, as axum's extractors do: the
    /// length of what is compressed bounds what is read of it too.
    BodyBytesAsSent {
        /// Bytes of a body whose length isn't told.
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
        }
    }

    /// How many tokens read are held for: [`TokenBound::Fixed`] where a request can name more than it contains.
    pub const fn input_bound(self, bound: TokenBound) -> Self {
        Self {
            input_bound: bound,
            ..self
        }
    }

    /// How many tokens written are held for.
    pub const fn output_bound(self, bound: TokenBound) -> Self {
        Self {
            output_bound: bound,
            ..self
        }
    }

    /// What a million tokens cost that were read from a cache; the same as others unless set.
    pub const fn cached_input(self, price: Money) -> Self {
        Self {
            cached_input: Some(price),
            ..self
        }
    }

    /// What a million tokens cost that were read and written to a cache, for whichever time; the same as others
    /// unless set. Anthropic asks 1.25 times the price of input for what is kept for five minutes.
    pub const fn cache_write(self, price: Money) -> Self {
        Self {
            cache_write: Some(price),
            ..self
        }
    }

    /// What a million of them cost that are kept there for an hour; the same as [`cache_write`](Self::cache_write)
    /// unless set. Anthropic asks twice the price of input.
    pub const fn cache_write_for_an_hour(self, price: Money) -> Self {
        Self {
            cache_write_for_an_hour: Some(price),
            ..self
        }
    }

    /// Where the real cost is read: in the body unless set.
    #[must_use]
    pub fn cost_from(self, source: CostSource) -> Price {
        Price::from(self).cost_from(source)
    }
}

impl TokenPrice {
    const fn cached_price(&self) -> Money {
        match self.cached_input {
            Some(price) => price,
            None => self.input,
        }
    }

    const fn written_price(&self) -> Money {
        match self.cache_write {
            Some(price) => price,
            None => self.input,
        }
    }

    const fn written_for_an_hour_price(&self) -> Money {
        match self.cache_write_for_an_hour {
            Some(price) => price,
            None => self.written_price(),
        }
    }

    const fn reads(&self) -> [Money; 4] {
        let (written, for_an_hour) = (self.written_price(), self.written_for_an_hour_price());
        [self.input, self.cached_price(), written, for_an_hour]
    }

    pub(super) fn is_read_below_zero(&self) -> bool {
        self.reads().into_iter().any(Money::is_negative)
    }

    pub(super) fn dearest_read(&self) -> Money {
        self.reads().into_iter().fold(self.input, Money::max)
    }

    pub(super) fn produced(&self, held: Money, counts: &super::Counts<'_>) -> Money {
        let bound = match self.output_bound {
            TokenBound::Fixed(bound) => bound,
            TokenBound::BodyBytes { .. } | TokenBound::BodyBytesAsSent { .. } => u64::MAX,
        };
        let written = counts.bytes.min(bound);
        let Some(tokens) = counts.tokens else {
            // What was read is in the hold, with all that could have been written.
            let not_written = match self.output_bound {
                TokenBound::Fixed(bound) => bound.saturating_sub(written),
                TokenBound::BodyBytes { .. } | TokenBound::BodyBytesAsSent { .. } => 0,
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
            .saturating_add(part(self.cached_price(), tokens.cached))
            .saturating_add(part(self.written_price(), for_minutes))
            .saturating_add(part(
                self.written_for_an_hour_price(),
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

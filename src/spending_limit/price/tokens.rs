//! Prices by tokens.

mod cost;
mod markup;

use std::sync::Arc;

use super::{CostSource, Price, TokenBound, rates::Rates};
use crate::domain::money::Money;

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
/// account. Where [`BodyDigestLayer::read_use`](crate::BodyDigestLayer::read_use) reads it, money
/// is held for as much as the request allows, times its choices: more than by default if it allows
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
/// stored prompt. So may the provider's own tools, if the request turns them on: what a web search,
/// a file search or a run of code returns is input, and so are the instructions that the provider
/// adds for each tool. That can be as much as the model's context holds, and is charged when it is
/// counted, beyond the hold, so an account may be overdrawn by as many calls as it has under way.
/// If clients may do that, hold for all of it: `input_bound(TokenBound::Fixed(128_000))` for a
/// context of 128,000 tokens. It is not the default because most routes take only text, and callers
/// with little credit would be refused over input that they don't send.
///
/// Nor does what was sent bound the output of a model that reasons without showing it. If
/// a stream is left before its count arrived, such tokens are not charged unless
/// [`disconnected_calls`](crate::SpendingLimitLayer::disconnected_calls) is set to
/// [`Charging::Hold`](crate::Charging::Hold).
///
/// # Where nothing is counted
/// If nothing at all is counted, the hold is charged, and that is logged once per route; see
/// [`missing_usage`](crate::SpendingLimitLayer::missing_usage). A stream of OpenAI's chat
/// completions reports its usage only if its request sets `"stream_options": {"include_usage":
/// true}`.
///
/// # Kinds of tokens
/// Cached input, audio and images may have prices of their own; without one they cost what text
/// does. If audio or images are counted for a price that has none for them, that is logged once per
/// route, as are web searches without a [price](Self::web_searches), since the provider may charge
/// more for them. What came from a cache may have been audio too, which no count tells: then what
/// wasn't cached is taken for the dearest kinds.
///
/// # Longer requests, and tiers
/// [`above_input`](Self::above_input) is the price of requests beyond a number of input tokens, and
/// [`tier`](Self::tier) that of a tier which the answer names. Since the tier isn't known before,
/// the hold covers the dearest, and the longest request that the [bound](Self::input_bound) allows.
///
/// ```
/// use tollgate::{Price, TokenBound};
///
/// let long = Price::per_million_tokens("2.50".parse()?, "15".parse()?).cached_input("0.25".parse()?);
/// let priority = Price::per_million_tokens("2.25".parse()?, "18".parse()?);
/// let chat = Price::per_million_tokens("1.25".parse()?, "10".parse()?)
///     .cached_input("0.125".parse()?)
///     .above_input(200_000, long)
///     .tier("priority", priority)
///     .output_bound(TokenBound::Fixed(64_000));
/// # let _ = chat;
/// # Ok::<(), tollgate::money::ParseMoneyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a price has no effect until it is put into a table"]
pub struct TokenPrice {
    rates: Rates,
    /// What few prices have, apart so that others are small.
    more: Option<Arc<More>>,
    input_bound: TokenBound,
    pub(super) output_bound: TokenBound,
    pub(super) requested_output_max: Option<u64>,
}

/// The rates of one tier.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tier {
    name: Box<str>,
    rates: Rates,
    above: Vec<(u64, Rates)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    /// By the input tokens beyond which they apply, fewest first.
    above: Vec<(u64, Rates)>,
    tiers: Vec<Tier>,
    /// The price of a thousand, and how many money is held for.
    searches: Option<(Money, u64)>,
    /// A price within it has what only the whole can have, or a tier has no name.
    is_invalid: bool,
}

const INPUT_BOUND: TokenBound = TokenBound::BodyBytes { unknown: 1_048_576 };
const OUTPUT_BOUND: TokenBound = TokenBound::Fixed(4_096);

impl TokenPrice {
    pub(super) const fn new(input: Money, output: Money) -> Self {
        Self {
            rates: Rates::new(input, output),
            more: None,
            input_bound: INPUT_BOUND,
            output_bound: OUTPUT_BOUND,
            requested_output_max: None,
        }
    }

    /// How many input tokens money is held for: by default one for each byte of the body, and
    /// 1,048,576 for a body that doesn't declare its length, unless it is
    /// [measured](crate::BodyDigestLayer::measure). Use [`TokenBound::Fixed`] if a request can
    /// refer to more than it contains.
    pub const fn input_bound(mut self, bound: TokenBound) -> Self {
        self.input_bound = bound;
        self
    }

    /// How many output tokens money is held for, if the request doesn't state a bound or nobody
    /// [reads it](crate::BodyDigestLayer::read_use): 4,096 by default.
    pub const fn output_bound(mut self, bound: TokenBound) -> Self {
        self.output_bound = bound;
        self
    }

    /// The most output tokens that a request may ask for, those of all its choices together, where
    /// that is [read](crate::BodyDigestLayer::read_use); one that asks for more is refused with
    /// 400. Unlimited by default. Where nothing reads the route's requests, all of them are refused
    /// with 500, and the log says why.
    pub const fn requested_output_max(mut self, tokens: u64) -> Self {
        self.requested_output_max = Some(tokens);
        self
    }

    /// The price of a million input tokens that were read from a cache; by default like other
    /// input.
    pub const fn cached_input(mut self, price: Money) -> Self {
        self.rates.set_cached_input(price);
        self
    }

    /// The price of a million input tokens that were written to a cache, however long they are
    /// kept; by default like other input. Anthropic charges 1.25 times the input price for caching
    /// for five minutes.
    pub const fn cache_write(mut self, price: Money) -> Self {
        self.rates.set_cache_write(price);
        self
    }

    /// The price of a million input tokens that are cached for an hour; by default like
    /// [`cache_write`](Self::cache_write). Anthropic charges twice the input price.
    pub const fn cache_write_for_an_hour(mut self, price: Money) -> Self {
        self.rates.set_cache_write_for_an_hour(price);
        self
    }

    /// The price of a million input tokens of audio; by default like other input.
    pub const fn audio_input(mut self, price: Money) -> Self {
        self.rates.set_audio_input(price);
        self
    }

    /// The price of a million output tokens of audio; by default like other output.
    pub const fn audio_output(mut self, price: Money) -> Self {
        self.rates.set_audio_output(price);
        self
    }

    /// The price of a million input tokens of images; by default like other input.
    pub const fn image_input(mut self, price: Money) -> Self {
        self.rates.set_image_input(price);
        self
    }

    /// The price of a million output tokens of images; by default like other output. If an answer
    /// doesn't tell them apart, all its output is taken for text: where a route answers with images
    /// alone, set their price as that of all output.
    pub const fn image_output(mut self, price: Money) -> Self {
        self.rates.set_image_output(price);
        self
    }

    /// What a request costs whose input is more than `tokens`, with all that was read from a cache
    /// or written to one: the whole request, its output included, at the prices of `price`. Prices
    /// that `price` doesn't set have their defaults from `price` itself. With several such numbers,
    /// the largest that the input exceeds counts; given twice, the last price.
    ///
    /// Gemini 2.5 Pro and Claude Sonnet 4 with its long context have other prices above 200,000.
    ///
    /// `price` can't have bounds, tiers, searches or such numbers of its own; a
    /// [table](crate::PriceTable::route) refuses one that does.
    pub fn above_input(mut self, tokens: u64, price: Self) -> Self {
        let has_bounds = price.has_bounds();
        let Self {
            rates, more: inner, ..
        } = price;
        let more = Arc::make_mut(self.more.get_or_insert_default());
        more.is_invalid |= has_bounds || inner.is_some();
        more.above.retain(|(above, _)| *above != tokens);
        more.above.push((tokens, rates));
        more.above.sort_unstable_by_key(|(above, _)| *above);
        self
    }

    /// What a request costs if its answer says that it was served by the tier of this name, in
    /// `service_tier` (OpenAI: `flex`, `priority`; Anthropic: `priority`, `batch`), Anthropic's
    /// `speed` (`fast`), or Gemini's `serviceTier` and `trafficType`. Upper and lower case are the
    /// same. Of a name given twice, the last price counts. If an answer names several tiers that
    /// differ, in `speed` and `service_tier` or in `serviceTier` and `trafficType`, the dearest of
    /// them counts; a `speed` that is `standard` names none.
    ///
    /// If no tier is named, or one that isn't listed here is called `default`, `standard` or
    /// `on_demand`, it costs what it does without tiers. Any other that isn't listed costs as much
    /// as the dearest, and so does a stream that is left before it named its tier (OpenAI's
    /// responses begin with `auto`): it is never a way to pay less. Without any tiers listed, names
    /// of tiers change nothing; but that one was named is then logged once per route.
    ///
    /// `price` can have [`above_input`](Self::above_input), but no bounds, tiers or searches of its
    /// own; a [table](crate::PriceTable::route) refuses one that does.
    pub fn tier(mut self, name: &str, price: Self) -> Self {
        let name = name.trim();
        let has_bounds = price.has_bounds();
        let inner = price.more.map(Arc::unwrap_or_clone).unwrap_or_default();
        let more = Arc::make_mut(self.more.get_or_insert_default());
        let only_above = inner.tiers.is_empty() && inner.searches.is_none();
        more.is_invalid |= has_bounds || !only_above || inner.is_invalid || name.is_empty();
        more.tiers
            .retain(|tier| !tier.name.eq_ignore_ascii_case(name));
        more.tiers.push(Tier {
            name: name.into(),
            rates: price.rates,
            above: inner.above,
        });
        self
    }

    /// The price of a thousand web searches that the provider makes for a request, and how many of
    /// them money is held for; any beyond that are still charged. Read are Anthropic's
    /// `server_tool_use.web_search_requests`.
    ///
    /// Charged are those that were counted. Whoever leaves a stream pays for those counted by then,
    /// in the stream or by the handler: none where the provider counts them in its last event, as
    /// Anthropic does, unless [`disconnected_calls`](crate::SpendingLimitLayer::disconnected_calls)
    /// is set to [`Charging::Hold`](crate::Charging::Hold).
    pub fn web_searches(mut self, per_thousand: Money, bound: u64) -> Self {
        let more = Arc::make_mut(self.more.get_or_insert_default());
        more.searches = Some((per_thousand, bound));
        self
    }

    /// Where the real cost is read from; the body by default.
    #[must_use]
    pub fn cost_from(self, source: CostSource) -> Price {
        Price::from(self).cost_from(source)
    }
}

impl TokenPrice {
    fn has_bounds(&self) -> bool {
        self.input_bound != INPUT_BOUND
            || self.output_bound != OUTPUT_BOUND
            || self.requested_output_max.is_some()
    }

    pub(super) fn is_invalid(&self) -> bool {
        let negative = |above: &[(u64, Rates)]| above.iter().any(|(_, rates)| rates.has_negative());
        self.rates.has_negative()
            || self.more.as_ref().is_some_and(|more| {
                let mut tiers = more.tiers.iter();
                more.is_invalid
                    || negative(&more.above)
                    || tiers.any(|tier| tier.rates.has_negative() || negative(&tier.above))
                    || more.searches.is_some_and(|(price, _)| price.is_negative())
            })
    }
}

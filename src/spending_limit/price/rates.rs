//! What each kind of token costs, and what a count of them costs together.

use std::cmp::Reverse;

use crate::domain::{charge::Tokens, money::Money};

/// Prices of a million tokens by their kind. Those that nobody set are those of a wider kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rates {
    input: Money,
    cached_input: Money,
    cache_write: Money,
    cache_write_for_an_hour: Money,
    audio_input: Money,
    image_input: Money,
    output: Money,
    audio_output: Money,
    image_output: Money,
    has_hour: bool,
    has_audio_input: bool,
    has_image_input: bool,
    has_audio_output: bool,
    has_image_output: bool,
}

impl Rates {
    pub(super) const fn new(input: Money, output: Money) -> Self {
        Self {
            input,
            cached_input: input,
            cache_write: input,
            cache_write_for_an_hour: input,
            audio_input: input,
            image_input: input,
            output,
            audio_output: output,
            image_output: output,
            has_hour: false,
            has_audio_input: false,
            has_image_input: false,
            has_audio_output: false,
            has_image_output: false,
        }
    }

    pub(super) const fn set_cached_input(&mut self, price: Money) {
        self.cached_input = price;
    }

    pub(super) const fn set_cache_write(&mut self, price: Money) {
        self.cache_write = price;
        if !self.has_hour {
            self.cache_write_for_an_hour = price;
        }
    }

    pub(super) const fn set_cache_write_for_an_hour(&mut self, price: Money) {
        self.cache_write_for_an_hour = price;
        self.has_hour = true;
    }

    pub(super) const fn set_audio_input(&mut self, price: Money) {
        self.audio_input = price;
        self.has_audio_input = true;
    }

    pub(super) const fn set_image_input(&mut self, price: Money) {
        self.image_input = price;
        self.has_image_input = true;
    }

    pub(super) const fn set_audio_output(&mut self, price: Money) {
        self.audio_output = price;
        self.has_audio_output = true;
    }

    pub(super) const fn set_image_output(&mut self, price: Money) {
        self.image_output = price;
        self.has_image_output = true;
    }

    /// Changes every price; `None`, and some of them are changed, if one can't be.
    pub(super) fn change(&mut self, change: impl Fn(Money) -> Option<Money>) -> Option<()> {
        let prices = [
            &mut self.input,
            &mut self.cached_input,
            &mut self.cache_write,
            &mut self.cache_write_for_an_hour,
            &mut self.audio_input,
            &mut self.image_input,
            &mut self.output,
            &mut self.audio_output,
            &mut self.image_output,
        ];
        for price in prices {
            *price = change(*price)?;
        }
        Some(())
    }

    pub(super) fn has_negative(&self) -> bool {
        let [a, b, c, d, e, f] = self.of_input();
        let [g, h, i] = self.of_output();
        [a, b, c, d, e, f, g, h, i]
            .into_iter()
            .any(Money::is_negative)
    }

    /// Whether tokens of a kind that has no price of its own were counted.
    pub(super) fn lack_price_of(&self, tokens: &Tokens) -> bool {
        (tokens.input_audio > 0 && !self.has_audio_input)
            || (tokens.input_image > 0 && !self.has_image_input)
            || (tokens.output_audio > 0 && !self.has_audio_output)
            || (tokens.output_image > 0 && !self.has_image_output)
    }

    const fn of_input(&self) -> [Money; 6] {
        [
            self.input,
            self.cached_input,
            self.cache_write,
            self.cache_write_for_an_hour,
            self.audio_input,
            self.image_input,
        ]
    }

    const fn of_output(&self) -> [Money; 3] {
        [self.output, self.audio_output, self.image_output]
    }

    fn highest_of_output(&self) -> Money {
        self.of_output().into_iter().fold(self.output, Money::max)
    }

    /// The most that so many tokens can cost, whatever they are; `None` on overflow.
    pub(super) fn most(&self, input: u64, output: u64) -> Option<Money> {
        let highest = self.of_input().into_iter().fold(self.input, Money::max);
        let read = highest.per_million(input)?;
        let written = self.highest_of_output().per_million(output)?;
        read.checked_add(written)
    }

    /// The cost of what was counted, and of `uncounted` output tokens of any kind. Rounded up once,
    /// so it is at most [`most`](Self::most) of as many tokens.
    pub(super) fn cost(&self, tokens: &Tokens, uncounted: u64) -> Money {
        let for_minutes = tokens
            .cache_written
            .saturating_sub(tokens.written_for_an_hour);
        let fresh = tokens
            .input
            .saturating_sub(tokens.cached)
            .saturating_sub(tokens.cache_written);
        let read = by_kind(
            tokens.input,
            fresh,
            self.input,
            [
                (self.audio_input, tokens.input_audio),
                (self.image_input, tokens.input_image),
            ],
        );
        let written = by_kind(
            tokens.output,
            tokens.output,
            self.output,
            [
                (self.audio_output, tokens.output_audio),
                (self.image_output, tokens.output_image),
            ],
        );
        let cached = [
            (self.cached_input, tokens.cached),
            (self.cache_write, for_minutes),
            (self.cache_write_for_an_hour, tokens.written_for_an_hour),
            (self.highest_of_output(), uncounted),
        ];
        let parts = read.into_iter().chain(written).chain(cached);
        Money::sum_per_million(parts).unwrap_or(Money::MAX)
    }
}

/// How many of the `charged` ones among `all` tokens are of each kind: text and others. Which of
/// them came from a cache isn't known, so the dearest kinds are charged first.
fn by_kind(all: u64, charged: u64, of_text: Money, others: [(Money, u64); 2]) -> [(Money, u64); 3] {
    let [audio, image] = others;
    let text = all.saturating_sub(audio.1).saturating_sub(image.1);
    let mut kinds = [(of_text, text), audio, image];
    kinds.sort_unstable_by_key(|(price, _)| Reverse(*price));
    let mut rest = charged;
    kinds.map(|(price, tokens)| {
        let part = tokens.min(rest);
        rest = rest.saturating_sub(part);
        (price, part)
    })
}

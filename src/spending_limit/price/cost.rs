//! What a price comes to: before a call, by what was counted of it, and by what went out where nothing was counted.

use std::collections::BTreeMap;

use super::{Kind, Price, TokenBound, TokenPrice};
use crate::{domain::money::Money, spending_limit::meter::Tokens};

impl TokenBound {
    fn tokens(self, request_bytes: Option<u64>) -> u64 {
        match self {
            Self::Fixed(tokens) => tokens,
            Self::BodyBytes { unknown } => request_bytes.unwrap_or(unknown),
        }
    }
}

impl Price {
    /// What is held before a request whose body is so long; `None` where that would be more than any amount.
    pub(in crate::spending_limit) fn hold(&self, request_bytes: Option<u64>) -> Option<Money> {
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
    pub(in crate::spending_limit) fn counted(&self, counts: &Counts<'_>) -> Option<Money> {
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
    pub(in crate::spending_limit) fn produced(&self, held: Money, counts: &Counts<'_>) -> Money {
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
pub(in crate::spending_limit) struct Counts<'a> {
    pub(in crate::spending_limit) tokens: Option<Tokens>,
    /// Of the answer.
    pub(in crate::spending_limit) bytes: u64,
    pub(in crate::spending_limit) model: Option<&'a str>,
    pub(in crate::spending_limit) request_bytes: Option<u64>,
}

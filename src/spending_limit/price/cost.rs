//! What a price comes to: before a call, by what was counted of it, and by what went out where nothing was counted.

use super::{Kind, Price, RequestLength};
use crate::domain::{charge::Tokens, money::Money};

impl Price {
    /// What is held before a request whose body is so long; `None` where that would be more than any amount.
    pub(in crate::spending_limit) fn hold(&self, length: RequestLength) -> Option<Money> {
        match &self.kind {
            Kind::Flat(price) => Some(*price),
            Kind::Tokens(price) => {
                let dearest = price.dearest_read();
                let read = dearest.per_million(price.input_bound.tokens(length))?;
                let written = price
                    .output
                    .per_million(price.output_bound.tokens(length))?;
                read.checked_add(written)
            }
            Kind::Bytes { per_million, bound } => per_million.per_million(*bound),
            Kind::Models(prices) => {
                let holds = prices.all().map(|price| price.hold(length));
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
                if let Some(price) = prices.of(counts.model) {
                    return price.counted(counts);
                }
                let costs = prices.all().map(|price| price.counted(counts));
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
                    let own = price.hold(counts.request).unwrap_or(held);
                    price.produced(own.min(held), counts)
                };
                match prices.of(counts.model) {
                    Some(price) => produced(price),
                    None => prices.all().map(produced).max().unwrap_or(held),
                }
            }
            Kind::Flat(_) | Kind::Bytes { .. } => self.counted(counts).unwrap_or(held),
        }
    }

    /// What had to be held for a call as far as it is known by now: where the model is, no more than for that.
    pub(in crate::spending_limit) fn needed(&self, held: Money, counts: &Counts<'_>) -> Money {
        let named = match &self.kind {
            Kind::Models(prices) => prices.of(counts.model),
            Kind::Flat(_) | Kind::Tokens(_) | Kind::Bytes { .. } => None,
        };
        let own = named.and_then(|price| price.hold(counts.request));
        own.map_or(held, |own| own.min(held))
    }
}

/// What was counted of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::spending_limit) struct Counts<'a> {
    pub(in crate::spending_limit) tokens: Option<Tokens>,
    /// Of the answer.
    pub(in crate::spending_limit) bytes: u64,
    pub(in crate::spending_limit) model: Option<&'a str>,
    /// Of the request.
    pub(in crate::spending_limit) request: RequestLength,
}

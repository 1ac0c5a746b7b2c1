//! Evaluates prices: before a call, from counts, and from the bytes sent if nothing was counted.

use super::{Demand, Kind, Price};
use crate::{
    domain::{
        charge::{Tiers, Tokens},
        money::Money,
    },
    spending_limit::missing::Unpriced,
};

impl Price {
    /// What is held before a request; `None` on overflow.
    pub(in crate::spending_limit) fn hold<'a>(
        &self,
        demand: impl Into<Demand<'a>>,
    ) -> Option<Money> {
        let demand = demand.into();
        match &self.kind {
            Kind::Flat(price) => Some(*price),
            Kind::Tokens(price) => price.hold(&demand),
            Kind::Bytes { per_million, bound } => per_million.per_million(*bound),
            Kind::Models(prices) => {
                if let Some(price) = prices.price_of(demand.model()) {
                    return price.hold(demand);
                }
                let holds = prices.all().map(|price| price.hold(demand));
                holds.collect::<Option<Vec<_>>>()?.into_iter().max()
            }
        }
    }

    /// The cost of what was counted; `None` if nothing was counted that this price depends on.
    pub(in crate::spending_limit) fn counted(&self, counts: &Counts<'_>) -> Option<Money> {
        match &self.kind {
            Kind::Flat(price) => Some(*price),
            Kind::Tokens(price) => price.counted(counts),
            Kind::Bytes { per_million, .. } => {
                Some(per_million.per_million(counts.bytes).unwrap_or(Money::MAX))
            }
            Kind::Models(prices) => {
                if let Some(price) = prices.price_of(counts.model) {
                    return price.counted(counts);
                }
                let costs = prices.all().map(|price| price.counted(counts));
                costs.collect::<Option<Vec<_>>>()?.into_iter().max()
            }
        }
    }

    /// The most that a call can have cost if it ended early and its tokens were not counted: for
    /// the output that was `produced`, and for input that wasn't counted as much as was held for.
    /// At least the counted cost, and otherwise at most the hold.
    pub(in crate::spending_limit) fn cost_at_most(
        &self,
        held: Money,
        counts: &Counts<'_>,
    ) -> Money {
        match &self.kind {
            Kind::Tokens(price) => price.cost_at_most(held, counts),
            Kind::Models(prices) => {
                // The hold covers the model that was asked for, or else the most expensive one; for
                // another model, at most its own hold applies.
                let cost_at_most = |price: &Self| {
                    let own = price.hold(counts.request).unwrap_or(held);
                    price.cost_at_most(own.min(held), counts)
                };
                match prices.price_of(counts.model) {
                    Some(price) => cost_at_most(price),
                    None => prices.all().map(cost_at_most).max().unwrap_or(held),
                }
            }
            Kind::Flat(_) | Kind::Bytes { .. } => self.counted(counts).unwrap_or(held),
        }
    }

    /// What was counted and has no price of its own, for the log.
    pub(in crate::spending_limit) fn unpriced(&self, counts: &Counts<'_>) -> [Option<Unpriced>; 3] {
        match &self.kind {
            Kind::Tokens(price) => price.unpriced(counts),
            Kind::Models(prices) => prices
                .price_of(counts.model)
                .map_or([None; 3], |price| price.unpriced(counts)),
            Kind::Flat(_) | Kind::Bytes { .. } => [None; 3],
        }
    }

    /// What would have sufficed as the hold, given what is known now: if the model is known, at
    /// most its own hold.
    pub(in crate::spending_limit) fn sufficient_hold(
        &self,
        held: Money,
        counts: &Counts<'_>,
    ) -> Money {
        let named = match &self.kind {
            Kind::Models(prices) => prices.price_of(counts.model),
            Kind::Flat(_) | Kind::Tokens(_) | Kind::Bytes { .. } => None,
        };
        let own = named.and_then(|price| price.hold(counts.request));
        own.map_or(held, |own| own.min(held))
    }
}

/// The counts of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::spending_limit) struct Counts<'a> {
    pub(in crate::spending_limit) tokens: Option<Tokens>,
    /// Bytes of the answer's body.
    pub(in crate::spending_limit) bytes: u64,
    /// The most output tokens that these bytes can be.
    pub(in crate::spending_limit) produced: u64,
    pub(in crate::spending_limit) model: Option<&'a str>,
    /// The provider's tiers that the answer names.
    pub(in crate::spending_limit) tier: Tiers<'a>,
    /// What was known of the request.
    pub(in crate::spending_limit) request: Demand<'a>,
}

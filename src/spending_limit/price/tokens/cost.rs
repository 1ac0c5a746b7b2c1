//! What a price by tokens holds for a call, and what a call costs.

use super::{Tier, TokenPrice};
use crate::{
    domain::{
        charge::{Tiers, Tokens, is_ordinary_tier},
        money::Money,
    },
    spending_limit::{
        missing::Unpriced,
        price::{Counts, Demand, RequestLength, rates::Rates},
    },
};

/// The rates that may apply to a request: those below all numbers, and those above some.
#[derive(Clone, Copy)]
struct Scale<'a> {
    rates: &'a Rates,
    above: &'a [(u64, Rates)],
}

/// Which tier a call had that named none.
#[derive(Clone, Copy)]
enum Unnamed {
    /// Any: it may not have come to that.
    Any,
    Ordinary,
}

impl<'a> Scale<'a> {
    fn at(self, input: u64) -> &'a Rates {
        let mut longest_first = self.above.iter().rev();
        let exceeded = longest_first.find(|(above, _)| input > *above);
        exceeded.map_or(self.rates, |(_, rates)| rates)
    }

    /// The most that a request can cost with at most so many tokens; `None` on overflow.
    fn most(self, input: u64, output: u64) -> Option<Money> {
        let mut most = self.rates.most(input, output)?;
        for (_, rates) in self.above.iter().filter(|(above, _)| input > *above) {
            most = most.max(rates.most(input, output)?);
        }
        Some(most)
    }
}

impl TokenPrice {
    fn tiers(&self) -> &[Tier] {
        self.more.as_ref().map_or(&[], |more| &more.tiers)
    }

    fn ordinary(&self) -> Scale<'_> {
        Scale {
            rates: &self.rates,
            above: self.more.as_ref().map_or(&[], |more| &more.above),
        }
    }

    /// The scales of all tiers.
    fn scales(&self) -> impl Iterator<Item = Scale<'_>> {
        let tiers = self.tiers().iter().map(|tier| Scale {
            rates: &tier.rates,
            above: &tier.above,
        });
        std::iter::once(self.ordinary()).chain(tiers)
    }

    /// The scale of the tier that an answer named; `None` if it may be any.
    fn scale(&self, named: &str) -> Option<Scale<'_>> {
        let mut tiers = self.tiers().iter();
        let listed = tiers.find(|tier| tier.name.eq_ignore_ascii_case(named));
        match listed {
            Some(tier) => Some(Scale {
                rates: &tier.rates,
                above: &tier.above,
            }),
            None if self.tiers().is_empty() || is_ordinary_tier(named) => Some(self.ordinary()),
            None => None,
        }
    }

    /// What searches cost; zero without a price for them.
    fn searched(&self, searches: u64) -> Option<Money> {
        let price = self.more.as_ref().and_then(|more| more.searches);
        price.map_or(Some(Money::ZERO), |(per_thousand, _)| {
            per_thousand.per_million(searches.checked_mul(1_000)?)
        })
    }

    fn searches_bound(&self) -> u64 {
        let price = self.more.as_ref().and_then(|more| more.searches);
        price.map_or(0, |(_, bound)| bound)
    }

    /// What is held before a request; `None` on overflow.
    pub(in crate::spending_limit::price) fn hold(&self, demand: &Demand<'_>) -> Option<Money> {
        self.most(demand.length, self.output_of_all(demand)?)
    }

    fn most(&self, length: RequestLength, output: u64) -> Option<Money> {
        let input = self.input_bound.tokens(length);
        if self.more.is_none() {
            return self.rates.most(input, output);
        }
        let searches = self.searched(self.searches_bound())?;
        let most = self.most_in(Tiers::default(), input, output)?;
        most.checked_add(searches)
    }

    /// The most in the tiers that were named, or in any; `None` on overflow.
    fn most_in(&self, tiers: Tiers<'_>, input: u64, output: u64) -> Option<Money> {
        self.dearest(tiers, Unnamed::Any, |scale| scale.most(input, output))
    }

    /// What a call that was left early can have cost: what was counted, and all the output that
    /// there can have been. Input that wasn't counted, or with a count of zero, is all that was
    /// held for: some providers count it in the last event alone.
    pub(in crate::spending_limit::price) fn cost_at_most(
        &self,
        held: Money,
        counts: &Counts<'_>,
    ) -> Money {
        let bound = self.output_by_number(&counts.request);
        let written = counts.produced.min(bound.unwrap_or(u64::MAX));
        let tokens = counts.tokens.unwrap_or_default();
        if tokens.tells_input() {
            let uncounted = written.saturating_sub(tokens.output);
            let cost = self.cost_in(counts.tier, Unnamed::Any, &tokens, uncounted);
            return cost.min(held).max(self.cost(&tokens, counts.tier));
        }
        let input = self.input_bound.tokens(counts.request.length);
        let most = bound.and_then(|_| {
            let most = self.most_in(counts.tier, input, written.max(tokens.output))?;
            most.checked_add(self.searched(tokens.searches)?)
        });
        let most = most.unwrap_or(held).min(held);
        most.max(self.cost(&tokens, counts.tier))
    }

    /// The cost of a whole call; `None` if nothing was counted. Input that no count names is as
    /// much as was held for.
    pub(in crate::spending_limit::price) fn counted(&self, counts: &Counts<'_>) -> Option<Money> {
        let tokens = counts.tokens?;
        let cost = self.cost(&tokens, counts.tier);
        if !tokens.input_is_unknown {
            return Some(cost);
        }
        let input = self.input_bound.tokens(counts.request.length);
        let most = Tokens {
            input: input.max(tokens.input),
            ..tokens
        };
        Some(cost.max(self.cost(&most, counts.tier)))
    }

    /// The cost of what was counted, in the tiers that were named.
    pub(in crate::spending_limit::price) fn cost<'a>(
        &self,
        tokens: &Tokens,
        tiers: impl Into<Tiers<'a>>,
    ) -> Money {
        self.cost_in(tiers.into(), Unnamed::Ordinary, tokens, 0)
    }

    fn cost_in(&self, tiers: Tiers<'_>, unnamed: Unnamed, tokens: &Tokens, more: u64) -> Money {
        let cost_in = |scale: Scale<'_>| Some(scale.at(tokens.input).cost(tokens, more));
        let cost = self.dearest(tiers, unnamed, cost_in);
        let searched = self.searched(tokens.searches);
        let cost = cost.and_then(|cost| Some(cost.saturating_add(searched?)));
        cost.unwrap_or(Money::MAX)
    }

    /// The highest cost in the tiers that were named; `None` on overflow.
    fn dearest(
        &self,
        tiers: Tiers<'_>,
        unnamed: Unnamed,
        cost: impl Fn(Scale<'_>) -> Option<Money>,
    ) -> Option<Money> {
        let in_any = || {
            let mut costs = self.scales().map(&cost);
            costs.try_fold(Money::ZERO, |most, cost| Some(most.max(cost?)))
        };
        let mut names = tiers.names().peekable();
        if names.peek().is_none() {
            return match unnamed {
                Unnamed::Any => in_any(),
                Unnamed::Ordinary => cost(self.ordinary()),
            };
        }
        names.try_fold(Money::ZERO, |most, name| {
            let cost = match self.scale(name) {
                Some(scale) => cost(scale),
                None => in_any(),
            };
            Some(most.max(cost?))
        })
    }

    /// What was counted and has no price of its own.
    pub(in crate::spending_limit::price) fn unpriced(
        &self,
        counts: &Counts<'_>,
    ) -> [Option<Unpriced>; 3] {
        let tokens = counts.tokens.unwrap_or_default();
        let lacks_price = |scale: Scale<'_>| scale.at(tokens.input).lack_price_of(&tokens);
        let mut names = counts.tier.names().peekable();
        let media = match names.peek() {
            None => lacks_price(self.ordinary()),
            Some(_) => {
                names.any(|name| lacks_price(self.scale(name).unwrap_or_else(|| self.ordinary())))
            }
        };
        let more = self.more.as_ref();
        let searches = tokens.searches > 0 && more.is_none_or(|more| more.searches.is_none());
        let tier = self.tiers().is_empty() && counts.tier.special().is_some();
        [
            media.then_some(Unpriced::Media),
            searches.then_some(Unpriced::Searches),
            tier.then_some(Unpriced::Tier),
        ]
    }
}

//! What is known of a request before its price is held.

#[cfg(test)]
mod tests;

use super::{Kind, Price, RequestLength, TokenBound, TokenPrice};
use crate::{
    domain::denial::{Denial, DenialKind},
    spending_limit::RequestedUse,
};

/// The length of a request's body, and what the request asks for, if that was read.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::spending_limit) struct Demand<'a> {
    pub(in crate::spending_limit) length: RequestLength,
    pub(in crate::spending_limit) asked: Option<&'a RequestedUse>,
}

impl From<RequestLength> for Demand<'_> {
    fn from(length: RequestLength) -> Self {
        Self {
            length,
            asked: None,
        }
    }
}

impl<'a> Demand<'a> {
    /// The model that is asked for.
    pub(super) fn model(&self) -> Option<&'a str> {
        self.asked.and_then(|asked| asked.model.as_deref())
    }

    fn choices(&self) -> u64 {
        self.asked.map_or(1, |asked| asked.choices.max(1))
    }
}

impl TokenPrice {
    /// How many output tokens of each choice are held for.
    fn output_of_each(&self, demand: &Demand<'_>) -> u64 {
        let stated = demand.asked.and_then(|asked| asked.output_max);
        stated.unwrap_or_else(|| self.output_bound.tokens(demand.length))
    }

    /// How many output tokens are held for; `None` on overflow.
    pub(super) fn output_of_all(&self, demand: &Demand<'_>) -> Option<u64> {
        self.output_of_each(demand).checked_mul(demand.choices())
    }

    /// The same where it is a number that doesn't depend on the length of the request.
    pub(super) fn output_by_number(&self, demand: &Demand<'_>) -> Option<u64> {
        let stated = demand.asked.and_then(|asked| asked.output_max);
        match (stated, self.output_bound) {
            (None, TokenBound::BodyBytes { .. } | TokenBound::BodyBytesAsSent { .. }) => None,
            _ => self.output_of_all(demand),
        }
    }

    fn admits(&self, demand: &Demand<'_>) -> Result<(), Denial> {
        let Some(most) = self.requested_output_max else {
            return Ok(());
        };
        if demand.asked.is_none() {
            return Err(unread("the output that is asked for is bounded"));
        }
        if self
            .output_of_all(demand)
            .is_some_and(|asked| asked <= most)
        {
            return Ok(());
        }
        Err(refused(format!(
            "A request may ask for at most {most} output tokens, all choices together"
        )))
    }
}

impl Price {
    /// Whether what is asked for is sold. What a price doesn't go by doesn't matter.
    ///
    /// # Errors
    /// If it is more than the price allows, or a model that isn't listed where only listed ones are
    /// sold; or if no layer read it where either matters.
    pub(in crate::spending_limit) fn admits(&self, demand: &Demand<'_>) -> Result<(), Denial> {
        match &self.kind {
            Kind::Tokens(price) => price.admits(demand),
            Kind::Flat(_) | Kind::Bytes { .. } => Ok(()),
            Kind::Models(prices) => match prices.price_of(demand.model()) {
                Some(price) => price.admits(demand),
                None if !prices.only_listed => {
                    prices.all().try_for_each(|price| price.admits(demand))
                }
                None if demand.asked.is_some() => {
                    let denial = refused("model: must be one of those that are sold here");
                    Err(denial.at_parameter("model").with_code("model_not_found"))
                }
                None => Err(unread("only listed models are sold")),
            },
        }
    }

    /// No more output than this is charged for if it isn't counted, whatever model answers.
    pub(in crate::spending_limit) fn uncounted_max(&self, demand: &Demand<'_>) -> u64 {
        match &self.kind {
            Kind::Tokens(price) => price.output_by_number(demand).unwrap_or(u64::MAX),
            Kind::Flat(_) | Kind::Bytes { .. } => 0,
            Kind::Models(prices) => {
                let each = prices.all().map(|price| price.uncounted_max(demand));
                each.max().unwrap_or(0)
            }
        }
    }

    /// How many output tokens of each choice are held for, of whatever model answers; `None` if the
    /// price doesn't go by tokens.
    pub(in crate::spending_limit) fn output_held(&self, demand: &Demand<'_>) -> Option<u64> {
        match &self.kind {
            Kind::Tokens(price) => Some(price.output_of_each(demand)),
            Kind::Flat(_) | Kind::Bytes { .. } => None,
            Kind::Models(prices) => match prices.price_of(demand.model()) {
                Some(price) => price.output_held(demand),
                None => prices
                    .all()
                    .filter_map(|price| price.output_held(demand))
                    .min(),
            },
        }
    }
}

/// A refusal with 500: the service sells by what nobody reads.
fn unread(what: &str) -> Denial {
    let why = format!("{what}, but no layer read the request's body (`read_use`)");
    Denial::new(DenialKind::Internal).because(why)
}

/// A refusal with 400; its text is for the client.
fn refused(why: impl Into<std::borrow::Cow<'static, str>>) -> Denial {
    let why = why.into();
    Denial::new(DenialKind::Malformed)
        .with_message(why.clone())
        .because(why)
}

//! What a request asks for, read from its body before money is held.

mod estimate;
mod json;
mod media;
mod shape;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use http::Extensions;

pub use self::shape::RequestShape;
use crate::{
    domain::{denial::Denial, money::Money},
    wire::{InvalidRoute, RequestHead, RouteMatch, Routes},
};

/// What a request asks for. A [`BodyDigestLayer`](crate::BodyDigestLayer::read_use) puts it into
/// the request's extensions; a layer of your own may do so as well. A [`Price`](crate::Price) by
/// tokens or by model then holds for it: for the model that is named, and for as much output as the
/// request allows.
///
/// It is in the extensions for everything further in: for the closures of
/// [`add_budget_by`](crate::SpendingLimitLayer::add_budget_by),
/// [`PriceTable::route_by`](crate::PriceTable::route_by) and
/// [`RateLimitLayer::tokens`](crate::RateLimitLayer::tokens), and for handlers. In a whole gate
/// that [reads bodies](crate::TollgateBuilder::build_reading_bodies), limits of tokens on
/// authenticated callers stand inside of the reading. A spending limit refuses a request that
/// should have been read and could not be, whatever its price and before any of its closures runs;
/// a limit of tokens in front of it sees no `RequestedUse` on that request, whose estimate is given
/// back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestedUse {
    /// The model that is to answer; `None` if the request names none. What is charged goes by the
    /// model that the answer names.
    pub model: Option<Arc<str>>,
    /// The most output tokens of each choice; `None` if the request doesn't bound them, and the
    /// price's own [bound](crate::TokenPrice::output_bound) applies.
    pub output_max: Option<u64>,
    /// How many answers are made of it, each with output of its own (`n`, `candidateCount`, several
    /// prompts); 0 counts as 1.
    pub choices: u64,
}

/// One answer, of any model, with no bound of its own.
impl Default for RequestedUse {
    fn default() -> Self {
        Self {
            model: None,
            output_max: None,
            choices: 1,
        }
    }
}

/// What money is held for: in the extensions of each admitted request of which
/// [what it asks for](RequestedUse) is known, and for which money is held by tokens, by bytes or by
/// model. So it isn't there for a flat or free price, even if the request was read. A handler that
/// relays the request should bound its provider's output by it where the client stated no bound.
///
/// ```
/// use tollgate::{HeldUse, RequestedUse};
///
/// /// The `max_tokens` to send to the provider.
/// fn max_tokens(extensions: &http::Extensions) -> Option<u64> {
///     let stated = extensions.get::<RequestedUse>().and_then(|asked| asked.output_max);
///     stated.or(extensions.get::<HeldUse>()?.output_max)
/// }
/// # let _ = max_tokens;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldUse {
    /// The money that is held. With several spending layers, that of the innermost whose price
    /// isn't flat.
    pub amount: Money,
    /// How many output tokens of each choice it covers; `None` if the price doesn't go by tokens.
    /// If the model isn't known, or there are several spending layers, the fewest.
    pub output_max: Option<u64>,
}

impl HeldUse {
    /// Puts it into the extensions of an admitted request.
    pub(super) fn tell(mut self, extensions: &mut Extensions) {
        let outer: Option<&Self> = extensions.get();
        let outer = outer.and_then(|outer| outer.output_max);
        self.output_max = [self.output_max, outer].into_iter().flatten().min();
        extensions.insert(self);
    }
}

/// Stands in the extensions for a [`RequestedUse`] that could not be read.
#[derive(Clone, Debug)]
struct UnreadableUse(Denial);

/// Refuses a request of which it should have been read what it asks for, and could not be. Whoever
/// chooses a price or a budget by that would otherwise take it for one that asks for nothing.
pub(super) fn require_readable(extensions: &Extensions) -> Result<(), Denial> {
    match extensions.get() {
        Some(UnreadableUse(denial)) => Err(denial.clone()),
        None => Ok(()),
    }
}

/// Notes that it can't be read what a request asks for, and why.
pub(super) fn mark_unreadable(extensions: &mut Extensions, why: Denial) {
    // What an outer layer may have put there was of another reading.
    extensions.remove::<RequestedUse>();
    extensions.insert(UnreadableUse(why));
}

type ReadUse = dyn Fn(&RequestHead<'_>, &[u8]) -> Result<RequestedUse, Denial> + Send + Sync;

/// How a request says what it asks for.
#[derive(Clone)]
pub(super) enum Reader {
    Shape(RequestShape),
    Own(Arc<ReadUse>),
}

impl Reader {
    /// Reads a whole body, and puts what it asks for into the extensions.
    pub(super) fn note(&self, head: &mut http::request::Parts, body: &[u8]) {
        head.extensions.remove::<RequestedUse>();
        let seen = RequestHead {
            method: &head.method,
            uri: &head.uri,
            version: head.version,
            headers: &head.headers,
            extensions: &head.extensions,
        };
        match self.read(&seen, body) {
            Ok(asked) => drop(head.extensions.insert(asked)),
            Err(denial) => mark_unreadable(&mut head.extensions, denial),
        }
    }

    fn read(&self, head: &RequestHead<'_>, body: &[u8]) -> Result<RequestedUse, Denial> {
        match self {
            Self::Shape(shape) => shape.read(head, body),
            Self::Own(read) => {
                json::refuse_encoded(head.headers)?;
                read(head, body)
            }
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(shape) => shape.fmt(f),
            Self::Own(_) => f.write_str("Fn"),
        }
    }
}

/// The routes whose requests are read.
#[derive(Clone, Debug, Default)]
pub(super) struct Readers(Routes<Reader>);

impl Readers {
    pub(super) fn add(
        self,
        method: &str,
        pattern: &str,
        reader: Reader,
    ) -> Result<Self, InvalidRoute> {
        self.0.add(method, pattern, reader).map(Self)
    }

    pub(super) fn find(&self, head: &RequestHead<'_>) -> Option<&Reader> {
        match self.0.find(head.method, head.path()) {
            RouteMatch::Route { value, .. } => Some(value),
            RouteMatch::OtherMethods(_) | RouteMatch::Unknown | RouteMatch::AmbiguousPath => None,
        }
    }
}

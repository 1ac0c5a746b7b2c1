//! The decision of a rate limit: determines key and quotas, and takes from the store.

use std::{fmt, sync::Arc, time::Duration};

use http::Extensions;

use super::{
    CountedTokens, Plans, RateLimitKey, RateLimitPermit,
    attempts::Attempt,
    key::Counted,
    permit::{FollowUp, ReportedLimits, Settlement},
};
use crate::{
    domain::{
        charge::Charge,
        clock::Clock,
        denial::{Denial, DenialKind},
        principal::Principal,
        quota::Quotas,
    },
    guard::{Decision, Policy, Verdict},
    store::{MemoryRateLimiter, RateDecision, RateKey, RateOutcome, RateStore, StoreError},
    wire::{ClientAddress, RateHeaders, RequestHead},
};

type Cost = dyn Fn(&RequestHead<'_>) -> u32 + Send + Sync;
type Own = dyn Fn(&RequestHead<'_>) -> Option<Quotas> + Send + Sync;

/// The decision of a [`RateLimitLayer`](super::RateLimitLayer).
#[derive(Clone, Debug)]
pub struct RateLimitPolicy {
    pub(super) settings: Settings,
    pub(super) engine: Engine,
    pub(super) capacity: usize,
}

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) key: RateLimitKey,
    pub(super) quotas: Quotas,
    pub(super) plans: Option<Plans>,
    pub(super) own_quotas: OwnQuotas,
    pub(super) cost: Option<Arc<Cost>>,
    pub(super) headers: RateHeaders,
    pub(super) retry_jitter: Duration,
    pub(super) unit: Unit,
    pub(super) counted: CountedTokens,
    pub(super) clock: Arc<dyn Clock>,
}

/// How this layer treats the quotas in a key's record.
#[derive(Clone)]
pub(super) enum OwnQuotas {
    /// They replace the layer's.
    Preferred,
    /// Ignored; they are for another layer.
    Ignored,
    /// Ignored; the application provides each caller's quotas.
    Provided(Arc<Own>),
}

/// The unit of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Requests, by their cost.
    Requests,
    /// Tokens: the cost is an estimate, which is corrected when the answer is over.
    Tokens,
    /// Requests whose authentication failed: checked in advance, counted after the failure.
    FailedAttempts,
}

impl Unit {
    const fn plural(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::FailedAttempts => "failed attempts",
        }
    }
}

/// Where requests are counted.
#[derive(Clone, Debug)]
pub(super) enum Engine {
    /// In this process, without a boxed future.
    Memory(Arc<MemoryRateLimiter>),
    /// In a store, under a name.
    Shared(Arc<str>, Arc<dyn RateStore>),
}

impl Settings {
    pub(super) fn new(key: RateLimitKey, quotas: Quotas, clock: Arc<dyn Clock>) -> Self {
        Self {
            key,
            quotas,
            plans: None,
            own_quotas: OwnQuotas::Preferred,
            cost: None,
            headers: RateHeaders::default(),
            retry_jitter: Duration::ZERO,
            unit: Unit::Requests,
            counted: CountedTokens::default(),
            clock,
        }
    }

    /// What a request takes. At least 1 for an estimate: an estimate of 0 would be admitted however
    /// far a window is overdrawn.
    fn cost(&self, head: &RequestHead<'_>) -> u32 {
        let cost = self.cost.as_ref().map_or(1, |cost| cost(head));
        match self.unit {
            Unit::Requests => cost,
            Unit::Tokens => cost.max(1),
            Unit::FailedAttempts => 1,
        }
    }

    /// The caller's own quotas, or those of its tier, or the layer's.
    pub(super) fn quotas(&self, head: &RequestHead<'_>) -> Quotas {
        let own = || match &self.own_quotas {
            OwnQuotas::Provided(own) => own(head),
            OwnQuotas::Preferred if self.key.is_principal() && self.unit == Unit::Requests => {
                head.extensions.get::<Principal>()?.quotas().cloned()
            }
            OwnQuotas::Preferred | OwnQuotas::Ignored => None,
        };
        let of_tier = || self.plans.as_ref()?.find(head);
        own()
            .or_else(of_tier)
            .unwrap_or_else(|| self.quotas.clone())
    }
}

impl RateLimitPolicy {
    /// Starts with empty counts.
    pub(super) fn renew(&mut self) {
        if let Engine::Memory(limiter) = &mut self.engine {
            let clock = Arc::clone(&self.settings.clock);
            *limiter = Arc::new(MemoryRateLimiter::new(self.capacity, clock));
        }
    }

    fn count(&self, counted: &Counted<'_>, head: &RequestHead<'_>) -> Decision<RateLimitPermit> {
        let settings = &self.settings;
        let quotas = settings.quotas(head);
        let cost = settings.cost(head);
        let decider = Decider {
            headers: settings.headers,
            retry_jitter: settings.retry_jitter,
            cost,
            unit: settings.unit,
            unix_secs: settings.headers.unix_secs(settings.clock.as_ref()),
        };
        match self.counter(counted) {
            Counter::InProcess(limiter) => {
                let decision = limiter.take(counted, &quotas, cost);
                Decision::Ready(decider.verdict(Ok(decision), quotas, None))
            }
            Counter::InStore(key, store) => {
                if settings.unit == Unit::FailedAttempts {
                    return Attempt::new(store, key, quotas).decide(decider);
                }
                let answer = store.take(&key, &quotas, cost);
                let after = match settings.unit {
                    Unit::Requests | Unit::FailedAttempts => None,
                    Unit::Tokens => {
                        let settlement = Settlement::new(store, key, quotas.clone(), cost);
                        let settlement = settlement.counting(settings.counted);
                        Some(FollowUp::Correct(settlement))
                    }
                };
                match answer.into_ready() {
                    Ok(answer) => Decision::Ready(decider.verdict(answer, quotas, after)),
                    Err(pending) => {
                        Decision::pending(
                            async move { decider.verdict(pending.await, quotas, after) },
                        )
                    }
                }
            }
        }
    }

    pub(super) fn counter(&self, counted: &Counted<'_>) -> Counter<'_> {
        match &self.engine {
            Engine::Memory(limiter) if self.settings.unit == Unit::Requests => {
                Counter::InProcess(limiter)
            }
            // A later correction needs a key that outlives the request's head.
            Engine::Memory(limiter) => {
                let store: Arc<dyn RateStore> = limiter.clone();
                Counter::InStore(counted.name(&"".into()), store)
            }
            Engine::Shared(scope, store) => {
                Counter::InStore(counted.name(scope), Arc::clone(store))
            }
        }
    }
}

/// Where a request is counted.
pub(super) enum Counter<'a> {
    /// In this process, by values borrowed from the head.
    InProcess(&'a MemoryRateLimiter),
    /// In a store, by an owned key.
    InStore(RateKey, Arc<dyn RateStore>),
}

impl Policy for RateLimitPolicy {
    type Permit = RateLimitPermit;

    fn name(&self) -> &'static str {
        "rate_limit"
    }

    fn inherit_address(&mut self, address: &ClientAddress) {
        self.settings.key.inherit_address(address);
    }

    fn mark_unadmitted(&self, extensions: &mut Extensions) {
        if self.settings.unit == Unit::Tokens {
            extensions.get_or_insert_with(Charge::new);
        }
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<RateLimitPermit> {
        match self.settings.key.of(head) {
            Ok(counted) => self.count(&counted, head),
            Err(denial) => Decision::Ready(Verdict::Refuse(denial)),
        }
    }
}

/// Turns an engine's decision into a verdict.
#[derive(Clone, Copy)]
pub(super) struct Decider {
    headers: RateHeaders,
    retry_jitter: Duration,
    cost: u32,
    unit: Unit,
    unix_secs: u64,
}

impl Decider {
    /// Doesn't tell what is left.
    pub(super) fn silent(self) -> Self {
        Self {
            headers: RateHeaders::none(),
            ..self
        }
    }

    pub(super) fn verdict(
        self,
        answer: Result<RateDecision, StoreError>,
        quotas: Quotas,
        after: Option<FollowUp>,
    ) -> Verdict<RateLimitPermit> {
        let decision = match answer {
            Ok(decision) => decision,
            Err(error) => {
                return Verdict::Refuse(
                    Denial::new(DenialKind::Unavailable)
                        .retry_after(Duration::from_secs(1))
                        .because(format!("the rate limits can't be counted: {error}")),
                );
            }
        };
        let shown = ReportedLimits {
            headers: self.headers,
            quotas,
            readings: decision.readings,
            unix_secs: self.unix_secs,
        };
        match decision.outcome {
            RateOutcome::Admitted => {
                let taken = |after: FollowUp| after.taken(decision.taken_at, &shown.readings);
                let after = after.map(taken);
                Verdict::Admit(RateLimitPermit::new(shown, after))
            }
            RateOutcome::Refused(wait) => {
                let wait = wait.saturating_add(self.jitter());
                let denial = Denial::new(DenialKind::RateLimited)
                    .retry_after(wait)
                    .violating(self.exceeded(&shown));
                Verdict::RefuseMarked(Box::new(denial), RateLimitPermit::new(shown, None))
            }
            RateOutcome::TooCostly => {
                let denial = self.too_costly(&shown.quotas);
                Verdict::RefuseMarked(Box::new(denial), RateLimitPermit::new(shown, None))
            }
        }
    }

    /// Waiting doesn't help, only asking for less. The first limit that is too small is named.
    fn too_costly(self, quotas: &Quotas) -> Denial {
        let denial = Denial::new(DenialKind::TooLarge);
        let quotas = quotas.as_slice().iter();
        let mut too_small = quotas.filter(|quota| quota.burst_size() < self.cost);
        let Some(quota) = too_small.next() else {
            return denial.because("the request costs more than its quota ever holds");
        };
        let (unit, cost) = (self.unit.plural(), self.cost);
        let (name, most) = (quota.name(), quota.burst_size());
        denial
            .because(format!(
                "the request costs {cost} {unit}, and the quota {name:?} never holds more than {most}"
            ))
            .with_message(format!(
                "The request counts as {cost} {unit}, and the limit \"{name}\" never admits more than {most} at once: ask for less"
            ))
    }

    /// The names of the quotas that have less left than the request costs.
    fn exceeded(self, shown: &ReportedLimits) -> impl Iterator<Item = &str> {
        let quotas = shown.quotas.as_slice().iter();
        let windows = quotas.zip(shown.readings.as_slice());
        let exceeded = windows.filter(move |(_, reading)| reading.remaining < self.cost);
        exceeded.map(|(quota, _)| quota.name())
    }

    fn jitter(self) -> Duration {
        if self.retry_jitter.is_zero() {
            return Duration::ZERO;
        }
        let random = getrandom::u32().map_or(0, |random| random & 0xffff);
        let spread = self.retry_jitter.checked_div(0xffff).unwrap_or_default();
        spread.saturating_mul(random)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("key", &self.key)
            .field("quotas", &self.quotas)
            .field("plans", &self.plans)
            .finish_non_exhaustive()
    }
}

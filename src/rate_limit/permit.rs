//! After the decision: what the client is told, and what an estimate is corrected to.

use std::{fmt, sync::Arc};

use http::{Extensions, HeaderMap};

use crate::{
    domain::{charge::Charge, quota::Quotas},
    guard::{self, BodyEnd, Meter, Permit, ResponseMarks, Tail},
    store::{Correction, RateKey, RateStore, Readings, StoreFuture, TakenAt},
    wire::{RateHeaders, ToldLimits, grpc_has_failed},
};

/// What is left to the client, to be written on the answer.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) headers: RateHeaders,
    pub(super) quotas: Quotas,
    pub(super) readings: Readings,
    pub(super) unix_secs: u64,
}

/// What is left to the client, and what has to be corrected when the answer is over.
#[derive(Debug)]
pub struct RateLimitPermit {
    shown: Shown,
    settlement: Option<Box<Settlement>>,
}

impl RateLimitPermit {
    pub(super) fn new(shown: Shown, settlement: Option<Settlement>) -> Self {
        let settlement = settlement.map(Box::new);
        Self { shown, settlement }
    }
}

impl Permit for RateLimitPermit {
    type Meter = RateLimitMeter;

    const TELLS_LIMITS: bool = true;
    const FIELDS: usize = 5;

    fn mark_request(&mut self, extensions: &mut Extensions) {
        if let Some(settlement) = &mut self.settlement {
            let charge = extensions.get_or_insert_with(Charge::new);
            settlement.charge = Some(charge.clone());
        }
    }

    fn mark_response(self, response: ResponseMarks<'_>) -> Tail<RateLimitMeter> {
        let shown = self.shown;
        if let Some(further_in) = response.extensions.get::<ToldLimits>() {
            response.told.add(*further_in);
        }
        shown.headers.write(
            response.headers,
            &shown.quotas,
            &shown.readings,
            shown.unix_secs,
            response.told,
        );
        if guard::is_inside() {
            response.extensions.insert(*response.told);
        }
        match self.settlement {
            None => Tail::Body,
            Some(mut settlement) => {
                settlement.has_failed =
                    response.status.as_u16() >= 400 || grpc_has_failed(response.headers);
                Tail::Metered(RateLimitMeter(settlement))
            }
        }
    }

    fn inner_failed(mut self) {
        if let Some(settlement) = &mut self.settlement {
            settlement.has_failed = true;
        }
    }
}

/// Corrects an estimate when the body has ended, or when the client has left.
#[derive(Debug)]
pub struct RateLimitMeter(Box<Settlement>);

impl Meter for RateLimitMeter {
    fn trailers(&mut self, trailers: &HeaderMap) {
        self.0.has_failed |= grpc_has_failed(trailers);
    }

    fn end(self, _: BodyEnd) -> Option<StoreFuture<()>> {
        // The settlement's drop corrects; the answer doesn't wait for a limit.
        drop(self.0);
        None
    }
}

/// An estimate that was taken. Dropped, it is corrected, once: to what was counted with the request's
/// [`Charge`], or to nothing where nothing was counted and the answer was seen to be a failure. Any other answer for which
/// nothing was counted leaves the estimate: missing usage is not zero usage, and whoever hangs up before there is an
/// answer had it worked on.
pub(super) struct Settlement {
    store: Arc<dyn RateStore>,
    key: RateKey,
    quotas: Quotas,
    estimate: u32,
    taken: Option<(TakenAt, Readings)>,
    charge: Option<Charge>,
    has_failed: bool,
}

impl Settlement {
    pub(super) fn new(
        store: Arc<dyn RateStore>,
        key: RateKey,
        quotas: Quotas,
        estimate: u32,
    ) -> Self {
        Self {
            store,
            key,
            quotas,
            estimate,
            taken: None,
            charge: None,
            has_failed: false,
        }
    }

    /// It was taken at that time, and left so much; before, there is nothing to correct.
    pub(super) fn taken(mut self, at: TakenAt, left: &Readings) -> Self {
        self.taken = Some((at, left.clone()));
        self
    }

    /// Units on top of the estimate.
    fn units(&self) -> i64 {
        let counted = self.charge.as_ref().and_then(Charge::tokens);
        let units = match counted {
            Some(tokens) => tokens.input.saturating_add(tokens.output),
            None if self.has_failed => 0,
            None => return 0,
        };
        let units = i64::try_from(units).unwrap_or(i64::MAX);
        units.saturating_sub(i64::from(self.estimate))
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        let Some((taken_at, readings)) = self.taken.take() else {
            return;
        };
        let units = self.units();
        if units == 0 {
            return;
        }
        let correction = Correction {
            units,
            taken_at,
            readings,
        };
        let corrected = self.store.correct(&self.key, &self.quotas, correction);
        if let Err(pending) = corrected.into_ready()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                if let Err(error) = pending.await {
                    tracing::warn!(target: "tollgate", %error, "an estimate was not corrected");
                }
            });
        }
    }
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settlement")
            .field("key", &self.key)
            .field("estimate", &self.estimate)
            .finish_non_exhaustive()
    }
}

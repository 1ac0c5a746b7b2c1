//! After the decision: what the client is told, and what an estimate is corrected to.

use std::{fmt, sync::Arc};

use http::{Extensions, HeaderMap, StatusCode};

use super::attempts::{Attempt, has_failed};
use crate::{
    domain::{
        charge::{Charge, Tokens},
        quota::Quotas,
    },
    guard::{self, BodyEnd, Meter, Permit, ResponseMarks, Tail},
    store::{Correction, RateKey, RateStore, Readings, StoreFuture, TakenAt},
    wire::{GrpcWebStatus, RateHeaders, ToldLimits, UsageReader, grpc_has_failed},
};

/// What is left to the client, to be written on the answer.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) headers: RateHeaders,
    pub(super) quotas: Quotas,
    pub(super) readings: Readings,
    pub(super) unix_secs: u64,
}

/// What has to be done when there is an answer.
#[derive(Debug)]
pub(super) enum After {
    /// An estimate is corrected.
    Correct(Settlement),
    /// An attempt is counted if it has failed.
    Count(Attempt),
}

impl After {
    /// It was taken at that time, and left so much.
    pub(super) fn taken(self, at: TakenAt, left: &Readings) -> Self {
        match self {
            Self::Correct(settlement) => Self::Correct(settlement.taken(at, left)),
            Self::Count(attempt) => Self::Count(attempt),
        }
    }
}

/// What is left to the client, and what has to be done when there is an answer.
#[derive(Debug)]
pub struct RateLimitPermit {
    shown: Shown,
    after: Option<Box<After>>,
}

impl RateLimitPermit {
    pub(super) fn new(shown: Shown, after: Option<After>) -> Self {
        let after = after.map(Box::new);
        Self { shown, after }
    }
}

impl Permit for RateLimitPermit {
    type Meter = RateLimitMeter;

    const TELLS_LIMITS: bool = true;
    const FIELDS: usize = 5;

    fn mark_request(&mut self, extensions: &mut Extensions) {
        if let Some(After::Correct(settlement)) = self.after.as_deref_mut() {
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
        match self.after.map(|after| *after) {
            None => Tail::Body,
            Some(After::Correct(mut settlement)) => {
                settlement.note_head(response.status, response.headers);
                Tail::Metered(RateLimitMeter(Box::new(settlement)))
            }
            // The next attempt of whoever waits for an answer to this one finds it counted.
            Some(After::Count(attempt)) if has_failed(&response) => Tail::Settled(attempt.count()),
            Some(After::Count(_)) => Tail::Body,
        }
    }

    fn inner_failed(mut self) {
        if let Some(After::Correct(settlement)) = self.after.as_deref_mut() {
            settlement.has_failed = true;
        }
    }
}

/// Corrects an estimate when the body has ended, or when the client has left.
#[derive(Debug)]
pub struct RateLimitMeter(Box<Settlement>);

impl Meter for RateLimitMeter {
    fn data(&mut self, piece: &[u8]) {
        self.0.has_begun = true;
        if let Some(reader) = &mut self.0.reader {
            reader.feed(piece);
        }
        // Over gRPC-Web the trailers come as data.
        if let Some(web) = &mut self.0.web {
            web.feed(piece);
            self.0.has_failed |= web.has_failed() && !web.has_delivered();
        }
    }

    fn unseen(&mut self, _: usize) {
        self.0.has_begun = true;
    }

    /// A call that fails after its messages was worked on, like a body that breaks off.
    fn trailers(&mut self, trailers: &mut HeaderMap) {
        self.0.has_failed |= !self.0.has_begun && grpc_has_failed(trailers);
    }

    fn end(mut self, how: BodyEnd) -> Option<StoreFuture<()>> {
        self.0.is_over = how == BodyEnd::Complete;
        // The settlement's drop corrects; the answer doesn't wait for a limit.
        drop(self.0);
        None
    }
}

/// An estimate that was taken. Dropped, it is corrected, once: to what was counted with the request's
/// [`Charge`], or else to what the answer said that it used; or to nothing where neither is known and the answer was seen
/// to be a failure. Any other answer leaves the estimate then: missing usage is not zero usage, and whoever hangs up before
/// there is an answer had it worked on. Where no more is known than how it began, that may be more than the estimate, and
/// otherwise says nothing.
pub(super) struct Settlement {
    store: Arc<dyn RateStore>,
    key: RateKey,
    quotas: Quotas,
    estimate: u32,
    taken: Option<(TakenAt, Readings)>,
    charge: Option<Charge>,
    reader: Option<Box<UsageReader>>,
    web: Option<Box<GrpcWebStatus>>,
    has_failed: bool,
    /// Something of its body went out.
    has_begun: bool,
    is_over: bool,
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
            reader: None,
            web: None,
            has_failed: false,
            has_begun: false,
            is_over: false,
        }
    }

    /// It was taken at that time, and left so much; before, there is nothing to correct.
    pub(super) fn taken(mut self, at: TakenAt, left: &Readings) -> Self {
        self.taken = Some((at, left.clone()));
        self
    }

    /// Looks at the answer's head.
    fn note_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.has_failed = status.as_u16() >= 400 || grpc_has_failed(headers);
        if !self.has_failed {
            self.reader = UsageReader::for_body(headers).map(Box::new);
            self.web = GrpcWebStatus::for_body(headers).map(Box::new);
        }
    }

    /// What was counted or told, and whether that is all of it.
    fn used(&self) -> Option<(Tokens, bool)> {
        if let Some(charge) = &self.charge
            && let Some(counted) = charge.tokens()
        {
            return Some((counted, self.is_over || charge.tells_output()));
        }
        if let Some(read) = self.charge.as_ref().and_then(Charge::read) {
            return Some((read, true));
        }
        let reader = self.reader.as_ref()?;
        let told = reader.tokens()?;
        Some((told, reader.are_final(self.is_over)))
    }

    /// Units on top of the estimate.
    fn units(&mut self) -> i64 {
        if let Some(reader) = &mut self.reader {
            reader.catch_up();
        }
        let (units, is_all) = match self.used() {
            Some((tokens, is_all)) => (tokens.input.saturating_add(tokens.output), is_all),
            None => (0, false),
        };
        let units = i64::try_from(units).unwrap_or(i64::MAX);
        let more = units.saturating_sub(i64::from(self.estimate));
        if is_all || self.has_failed {
            more
        } else {
            more.max(0)
        }
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

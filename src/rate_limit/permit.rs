//! After the decision: the headers for the client, and the correction of estimates.

use std::{fmt, sync::Arc};

use http::{Extensions, HeaderMap, StatusCode};

use super::{
    CountedTokens,
    attempts::{Attempt, has_failed},
};
use crate::{
    domain::{
        charge::{Charge, Tokens},
        clock::{Clock, SystemClock},
        quota::Quotas,
    },
    guard::{self, BodyEnd, Meter, Permit, ResponseMarks, Tail},
    repeats::{LogLine, Repeats},
    store::{Correction, RateKey, RateStore, Readings, StoreFuture, TakenAt},
    wire::{GrpcCallStatus, RateHeaders, ToldLimits, UsageReader},
};

/// What is left for the client, to be written to the answer's headers.
#[derive(Debug)]
pub(super) struct ReportedLimits {
    pub(super) headers: RateHeaders,
    pub(super) quotas: Quotas,
    pub(super) readings: Readings,
    pub(super) unix_secs: u64,
}

/// What remains to be done when there is an answer.
#[derive(Debug)]
pub(super) enum FollowUp {
    /// Correct an estimate.
    Correct(Settlement),
    /// Count an attempt if it has failed.
    Count(Attempt),
}

impl FollowUp {
    /// Records when the units were taken, and what was left then.
    pub(super) fn taken(self, at: TakenAt, left: &Readings) -> Self {
        match self {
            Self::Correct(settlement) => Self::Correct(settlement.taken(at, left)),
            Self::Count(attempt) => Self::Count(attempt),
        }
    }
}

/// What is left for the client, and what remains to be done when there is an answer.
#[derive(Debug)]
pub struct RateLimitPermit {
    shown: ReportedLimits,
    after: Option<Box<FollowUp>>,
}

impl RateLimitPermit {
    pub(super) fn new(shown: ReportedLimits, after: Option<FollowUp>) -> Self {
        let after = after.map(Box::new);
        Self { shown, after }
    }
}

impl Permit for RateLimitPermit {
    type Meter = RateLimitMeter;

    const TELLS_LIMITS: bool = true;
    const FIELDS: usize = 5;

    fn mark_request(&mut self, extensions: &mut Extensions) {
        if let Some(FollowUp::Correct(settlement)) = self.after.as_deref_mut() {
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
            Some(FollowUp::Correct(mut settlement)) => {
                settlement.note_head(response.status, response.headers);
                Tail::Metered(RateLimitMeter(Box::new(settlement)))
            }
            // Counted before the answer is sent, so that a client that waits for the answer finds
            // it counted on its next attempt.
            Some(FollowUp::Count(attempt)) if has_failed(&response) => {
                Tail::Settled(attempt.count())
            }
            Some(FollowUp::Count(_)) => Tail::Body,
        }
    }

    fn inner_failed(mut self) {
        if let Some(FollowUp::Correct(settlement)) = self.after.as_deref_mut() {
            settlement.has_failed = true;
        }
    }
}

/// Corrects an estimate when the body has ended, or when the client has disconnected.
#[derive(Debug)]
pub struct RateLimitMeter(Box<Settlement>);

impl Meter for RateLimitMeter {
    fn data(&mut self, piece: &[u8]) {
        if let Some(reader) = &mut self.0.reader {
            reader.feed(piece);
        }
        self.0.call.feed(piece);
    }

    fn unseen(&mut self, bytes: usize) {
        if let Some(reader) = &mut self.0.reader {
            reader.skip(bytes);
        }
        self.0.call.skip(bytes);
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        self.0.call.trailers(trailers);
    }

    fn end(mut self, how: BodyEnd) -> Option<StoreFuture<()>> {
        self.0.is_over = how == BodyEnd::Complete;
        // Dropping the settlement corrects the estimate; the answer doesn't wait for that.
        drop(self.0);
        None
    }
}

/// An estimate that was taken. It is corrected once, when dropped: to what was counted with the
/// request's [`Charge`], and for input or output that wasn't, to the usage reported in the answer,
/// of the kind that the limit counts, or to nothing if neither is known and the answer is a
/// failure. Otherwise the estimate stays: missing usage is not zero usage, and a client that
/// disconnects before there is an answer has caused work. An incomplete count can only raise the
/// estimate, not lower it.
pub(super) struct Settlement {
    store: Arc<dyn RateStore>,
    key: RateKey,
    quotas: Quotas,
    estimate: u32,
    counted: CountedTokens,
    taken: Option<(TakenAt, Readings)>,
    charge: Option<Charge>,
    reader: Option<Box<UsageReader>>,
    call: GrpcCallStatus,
    /// By its HTTP status, or by an error of the inner service.
    has_failed: bool,
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
            counted: CountedTokens::default(),
            taken: None,
            charge: None,
            reader: None,
            call: GrpcCallStatus::default(),
            has_failed: false,
            is_over: false,
        }
    }

    /// Which tokens the estimate is about; all of them by default.
    pub(super) const fn counting(mut self, counted: CountedTokens) -> Self {
        self.counted = counted;
        self
    }

    /// Records when the units were taken, and what was left then. Until then there is nothing to
    /// correct.
    pub(super) fn taken(mut self, at: TakenAt, left: &Readings) -> Self {
        self.taken = Some((at, left.clone()));
        self
    }

    /// Inspects the answer's head.
    fn note_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.has_failed = status.as_u16() >= 400;
        self.call = GrpcCallStatus::of_head(headers);
        if !self.is_failure() {
            let reader = UsageReader::for_body(headers);
            self.reader = reader.map(|reader| Box::new(reader.telling_what_follows()));
        }
    }

    /// Whether the answer was observed to be a failure. A call that fails after sending messages
    /// did use something, like a body that breaks off.
    fn is_failure(&self) -> bool {
        self.has_failed || self.call.has_failed()
    }

    /// The tokens that were counted or reported, and whether those that count are all told.
    fn used(&self) -> Option<(Tokens, bool)> {
        let charge = self.charge.as_ref();
        let counted = charge.and_then(Charge::tokens);
        let has = |what: fn(&Charge) -> bool| charge.is_some_and(what);
        let (tokens, is_final) = match (counted, self.read()) {
            (Some(counted), read) if has(Charge::counts_tokens) => {
                let complete = |(read, is_final)| counted.completed_by(read, is_final);
                let is_final = self.is_over || has(Charge::reports_output);
                (read.map_or(counted, complete), is_final)
            }
            (Some(parts), Some((read, is_final))) => (read.with_parts_of(parts), is_final),
            (Some(parts), None) => (parts, self.is_over),
            (None, read) => read?,
        };
        Some((tokens, is_final && self.counted.is_told_by(&tokens)))
    }

    /// The tokens that the answer tells, as a layer further in has read them or else as they are
    /// read here, and whether they cover all of it.
    fn read(&self) -> Option<(Tokens, bool)> {
        if let Some(read) = self.charge.as_ref().and_then(Charge::read) {
            return Some((read, true));
        }
        let reader = self.reader.as_ref()?;
        Some((reader.tokens()?, reader.are_final(self.is_over)))
    }

    /// The difference to the estimate, in units.
    fn units(&mut self) -> i64 {
        if let Some(reader) = &mut self.reader {
            reader.catch_up();
        }
        let (units, is_all) = match self.used() {
            Some((tokens, is_all)) => (self.counted.of(&tokens), is_all),
            None => (0, false),
        };
        let units = i64::try_from(units).unwrap_or(i64::MAX);
        let more = units.saturating_sub(i64::from(self.estimate));
        if is_all || self.is_failure() {
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
                static FAILURES: Repeats = Repeats::new();
                if let Err(error) = pending.await
                    && let Some(LogLine { left_out }) = FAILURES.failed(&error, SystemClock.elapsed())
                {
                    tracing::warn!(target: "tollgate", %error, left_out, "an estimate was not corrected");
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

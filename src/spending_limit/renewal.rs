//! Extends a hold of limited lifetime while its answer is being sent.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{domain::usage::Hold, store::StoreFuture};

/// Fractions of the lifetime: when it is first extended, and how long after a failed attempt the
/// next one follows. That leaves eight more attempts before the end.
const DUE_AFTER: u32 = 3;
const AGAIN_AFTER: u32 = 12;

/// The lifetime of one hold, on the monotonic clock.
pub(super) struct HoldRenewal {
    lifetime: Duration,
    /// Until when it is open, unless it is settled.
    ends: Duration,
    due: Duration,
    /// The pending request and when it was made. Only one at a time: so no more requests are
    /// pending than holds are open, and the ledger need not refuse any.
    extending: Option<(Duration, StoreFuture<bool>)>,
}

impl HoldRenewal {
    /// For a hold that was requested at `now`; `None` if it lives as long as its call.
    pub(super) fn new(lifetime: Duration, now: Duration) -> Option<Box<Self>> {
        let is_limited = lifetime < Hold::AS_LONG_AS_ITS_CALL;
        is_limited.then(|| {
            Box::new(Self {
                lifetime,
                ends: now.saturating_add(lifetime),
                due: now.saturating_add(part(lifetime, DUE_AFTER)),
                extending: None,
            })
        })
    }

    pub(super) fn is_open(&self, now: Duration) -> bool {
        now < self.ends
    }

    /// Called when part of the answer is sent, which shows that the call is alive.
    pub(super) fn keep(
        &mut self,
        now: Duration,
        extend: impl FnOnce(Duration) -> StoreFuture<bool>,
    ) {
        self.collect();
        if self.extending.is_none() && now >= self.due {
            self.extending = Some((now, extend(self.lifetime)));
            self.collect();
        }
    }

    /// Collects the result of a pending request. It proceeds whether or not it is polled; the next
    /// frame checks again.
    fn collect(&mut self) {
        let Some((asked, extending)) = &mut self.extending else {
            return;
        };
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(answer) = Pin::new(extending).poll(&mut context) else {
            return;
        };
        let asked = *asked;
        self.extending = None;
        // Counted from the time of the request: if frames are rare, the result may be old by the
        // time it is seen, and the next attempt due at once.
        self.due = match answer {
            Ok(true) => {
                self.ends = asked.saturating_add(self.lifetime);
                asked.saturating_add(part(self.lifetime, DUE_AFTER))
            }
            // It was resolved, and can't be restored.
            Ok(false) => Duration::MAX,
            Err(_) => asked.saturating_add(part(self.lifetime, AGAIN_AFTER)),
        };
    }
}

fn part(of: Duration, divisor: u32) -> Duration {
    of.checked_div(divisor).unwrap_or(of)
}

impl fmt::Debug for HoldRenewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldRenewal")
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::{pending, poll_fn},
    };

    use super::*;
    use crate::store::{StoreError, StoreErrorKind};

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn asked(line: &mut HoldRenewal, now: u64, answer: StoreFuture<bool>) -> bool {
        let was_asked = Cell::new(false);
        line.keep(secs(now), |lifetime| {
            assert_eq!(lifetime, secs(60));
            was_asked.set(true);
            answer
        });
        was_asked.get()
    }

    fn yes() -> StoreFuture<bool> {
        StoreFuture::ready(Ok(true))
    }

    fn busy() -> StoreFuture<bool> {
        StoreFuture::ready(Err(StoreError::new(StoreErrorKind::Busy, "full")))
    }

    /// An answer that has to come from elsewhere: it isn't there at the first look.
    fn later(answer: StoreFuture<bool>) -> StoreFuture<bool> {
        let (mut answer, mut was_seen) = (answer, false);
        StoreFuture::new(poll_fn(move |context| {
            if std::mem::replace(&mut was_seen, true) {
                return Pin::new(&mut answer).poll(context);
            }
            Poll::Pending
        }))
    }

    #[test]
    fn a_ledger_that_is_busy_is_asked_again_in_time() {
        let mut line = HoldRenewal::new(secs(60), secs(0)).unwrap();
        assert!(!asked(&mut line, 19, yes()));
        assert!(asked(&mut line, 20, busy()));
        assert!(!asked(&mut line, 24, yes()), "not with every frame");
        assert!(asked(&mut line, 25, busy()));
        assert!(asked(&mut line, 30, yes()));
        assert!(line.is_open(secs(89)) && !line.is_open(secs(90)));
        assert!(!asked(&mut line, 49, yes()));
        assert!(asked(&mut line, 50, yes()));
    }

    #[test]
    fn a_frame_within_each_lifetime_is_enough_whenever_the_answer_comes() {
        let mut line = HoldRenewal::new(secs(60), secs(0)).unwrap();
        for frame in 1..100 {
            let now = frame * 48;
            assert!(asked(&mut line, now, later(yes())), "{now}");
            // It lives for another lifetime, of which the next frame hears.
            assert!(line.is_open(secs(now + 11)), "{now}");
        }
    }

    #[test]
    fn a_failure_that_is_seen_late_is_tried_again_at_once() {
        let mut line = HoldRenewal::new(secs(60), secs(0)).unwrap();
        assert!(asked(&mut line, 20, later(busy())));
        assert!(asked(&mut line, 48, yes()));
        assert!(line.is_open(secs(107)));
    }

    #[test]
    fn one_extension_is_under_way_at_once() {
        let mut line = HoldRenewal::new(secs(60), secs(0)).unwrap();
        assert!(asked(&mut line, 20, StoreFuture::new(pending())));
        for now in 21..60 {
            assert!(!asked(&mut line, now, yes()), "{now}");
        }
        assert!(!line.is_open(secs(60)), "nobody said that it lives longer");
    }

    #[test]
    fn what_was_resolved_is_let_be_and_what_ends_with_its_call_needs_nothing() {
        let mut line = HoldRenewal::new(secs(60), secs(0)).unwrap();
        assert!(asked(&mut line, 20, StoreFuture::ready(Ok(false))));
        assert!(!asked(&mut line, 1_000_000, yes()));
        assert!(HoldRenewal::new(Hold::AS_LONG_AS_ITS_CALL, secs(0)).is_none());
    }
}

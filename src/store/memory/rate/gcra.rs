//! governor's GCRA, on a state that is staged instead of written.

use std::{cell::Cell, num::NonZeroU32, time::Duration};

use governor::{
    NotUntil, RateLimiter as Gcra,
    clock::{Clock as GovernorClock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::StateStore,
};

use crate::domain::quota::Quota;

/// The next state of one window if it admits `cost` units, or how long to wait until it would;
/// `None` if it never would.
#[inline]
pub(super) fn stage(
    state: u64,
    quota: &Quota,
    cost: NonZeroU32,
    now: u64,
) -> Result<u64, Option<Duration>> {
    let interval = Duration::from_nanos(quota.interval_nanos().get());
    let rule = governor::Quota::with_period(interval).ok_or(None)?;
    let stage = Stage {
        state: Some(state).filter(|state| *state > now),
        next: Cell::new(state),
    };
    let limiter = Gcra::<Unkeyed, Stage, StillClock, NoOpMiddleware<Tick>>::new(
        rule.allow_burst(quota.burst_nonzero()),
        stage,
        StillClock {
            next: Cell::new(Tick(0)),
            now: Tick(now),
        },
    );
    match limiter.check_key_n(&Unkeyed, cost) {
        Ok(Ok(())) => Ok(limiter.into_state_store().next.get()),
        Ok(Err(refusal)) => Err(Some(wait(&refusal, now))),
        Err(_) => Err(None),
    }
}

fn wait(refusal: &NotUntil<Tick>, now: u64) -> Duration {
    refusal
        .wait_time_from(Tick(now))
        .max(Duration::from_nanos(1))
}

/// A point in time, in nanoseconds of the clock's own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tick(u64);

impl std::ops::Add<Nanos> for Tick {
    type Output = Self;

    fn add(self, later: Nanos) -> Self {
        Self(self.0.saturating_add(later.as_u64()))
    }
}

impl Reference for Tick {
    fn duration_since(&self, earlier: Self) -> Nanos {
        Nanos::new(self.0.saturating_sub(earlier.0))
    }

    fn saturating_sub(&self, by: Nanos) -> Self {
        Self(self.0.saturating_sub(by.as_u64()))
    }
}

/// A clock that stands still during a decision. Its first reading is 0, which governor takes as the
/// origin that states count from.
#[derive(Clone, Debug)]
struct StillClock {
    next: Cell<Tick>,
    now: Tick,
}

impl GovernorClock for StillClock {
    type Instant = Tick;

    fn now(&self) -> Tick {
        self.next.replace(self.now)
    }
}

/// The state of one window: read once, with the next state noted instead of written.
struct Stage {
    state: Option<u64>,
    next: Cell<u64>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Unkeyed;

impl StateStore for Stage {
    type Key = Unkeyed;

    fn measure_and_replace<T, F, E>(&self, _: &Unkeyed, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, next) = measure(self.state.map(Nanos::new))?;
        self.next.set(next.as_u64());
        Ok(outcome)
    }
}

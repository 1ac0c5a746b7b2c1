//! The laws of a store that counts requests.
//!
//! Each takes a store that has counted nothing, and the clock that it reads.
//! [`rates`](super::rates()) runs them all.
//!
//! What they ask of the three rules: a bucket (GCRA) admits exactly what its rate says; a
//! [strict](crate::quota::Quota::strict) window never holds more than its number, and a unit leaves
//! it at most an eighth of the period late; a calendar window begins anew at midnight. A store of
//! one's own learns the rule of a quota from [`is_strict`](crate::quota::Quota::is_strict) and
//! [`calendar_window`](crate::quota::Quota::calendar_window).

mod corrections;
mod counting;
mod time;

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{
        clock::ManualClock,
        quota::{CalendarPeriod, Quota, Quotas},
    },
    store::{Correction, RateDecision, RateKey, RateOutcome, RateStore, Readings},
};

pub use corrections::{
    a_correction_reaches_only_the_windows_that_it_names,
    a_window_is_never_more_than_full_however_much_is_given_back,
    what_an_estimate_had_too_much_is_given_back_once, what_has_left_its_window_is_not_given_back,
    what_was_used_beyond_an_estimate_counts_and_is_never_refused,
};
pub use counting::{
    a_cost_is_taken_whole, a_look_takes_nothing, a_refusal_takes_nothing,
    a_reset_forgets_one_key_and_all_of_it, callers_and_limits_have_counts_of_their_own,
    each_window_holds_its_number_and_no_unit_more,
    of_a_hundred_at_once_as_many_are_admitted_as_fit, quotas_come_with_each_call,
    several_windows_are_taken_all_or_none, what_a_window_never_holds_is_too_costly,
    what_costs_nothing_is_admitted_and_takes_nothing,
};
pub use time::{
    a_bucket_admits_exactly_what_its_rate_says, a_day_a_week_and_a_month_begin_anew,
    a_strict_window_holds_its_number_in_every_period, a_window_is_full_again_when_it_said,
    who_waits_as_told_is_admitted,
};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// One quota of ten for each rule.
fn each_rule() -> [Quota; 3] {
    [
        Quota::per_hour(10),
        Quota::per_hour(10).strict(),
        Quota::calendar(CalendarPeriod::Day, 10),
    ]
}

/// A window of each rule, counted together: of 3, 5 and 9.
fn together() -> Quotas {
    Quotas::from([
        Quota::per_hour(3).named("bucket"),
        Quota::per_hour(5).strict().named("strict"),
        Quota::calendar(CalendarPeriod::Day, 9),
    ])
}

fn key(name: &str) -> RateKey {
    RateKey::new(&Arc::from("callers"), name.as_bytes())
}

async fn take<S: RateStore>(store: &S, name: &str, quotas: &Quotas, cost: u32) -> RateDecision {
    let taken = store.take(&key(name), quotas, cost).await.unwrap();
    assert_eq!(
        taken.readings.as_slice().len(),
        quotas.as_slice().len(),
        "one reading for each quota"
    );
    taken
}

async fn admits<S: RateStore>(store: &S, name: &str, quotas: &Quotas, cost: u32) -> bool {
    take(store, name, quotas, cost).await.is_admitted()
}

/// How long a refused request is to wait.
async fn refused<S: RateStore>(store: &S, name: &str, quotas: &Quotas, cost: u32) -> Duration {
    match take(store, name, quotas, cost).await.outcome {
        RateOutcome::Refused(wait) => {
            assert!(wait > Duration::ZERO, "a refusal that is over");
            wait
        }
        other => panic!("{other:?} of {cost}"),
    }
}

/// What is left, window by window.
async fn left<S: RateStore>(store: &S, name: &str, quotas: &Quotas) -> Vec<u32> {
    remaining(&store.peek(&key(name), quotas).await.unwrap())
}

fn remaining(readings: &Readings) -> Vec<u32> {
    let readings = readings.as_slice().iter();
    readings.map(|reading| reading.remaining).collect()
}

async fn correct<S: RateStore>(
    store: &S,
    name: &str,
    quotas: &Quotas,
    taken: &RateDecision,
    units: i64,
) {
    let correction = Correction {
        units,
        taken_at: taken.taken_at,
        readings: taken.readings.clone(),
    };
    store.correct(&key(name), quotas, correction).await.unwrap();
}

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    /// One below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

type Time = Arc<ManualClock>;

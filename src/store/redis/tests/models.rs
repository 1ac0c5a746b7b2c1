//! The script on a clock that is moved by hand, compared with models that are too simple to be
//! wrong: what was admitted, and when. The clock steps backward as well as forward.

#![expect(clippy::arithmetic_side_effects, reason = "numbers in tests are small")]

use std::collections::VecDeque;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use redis::aio::MultiplexedConnection;

use super::{
    super::script::{Answer, CODE, Invocation, Operation},
    RedisServer,
};
use crate::{
    domain::{
        clock::Timestamp,
        quota::{CalendarPeriod, Quota, Quotas},
    },
    store::{
        Correction, RateDecision, RateOutcome,
        rate::model::{Model, PLANS, Room},
    },
};

const CASES: u32 = 60;
/// 2026-01-01T00:00:00Z, in microseconds.
const START: i64 = 1_767_225_600_000_000;
const DAY: i64 = 86_400_000_000;

/// A server, and the script with a different source of time and without key expiry, which follows
/// the server's own clock.
pub(super) struct ByHand {
    connection: MultiplexedConnection,
    code: String,
    /// The current case: each has its own keys.
    case: u32,
    pub(super) now: i64,
}

impl ByHand {
    pub(super) async fn on(server: &RedisServer) -> Self {
        let client = redis::Client::open(server.url()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        let timed = CODE.replace("redis.call('TIME')", "redis.call('LRANGE', 'clock', 0, 1)");
        let code = timed.replace("redis.call('PEXPIRE',", "tostring(");
        assert!(timed != CODE && code != timed, "the script reads otherwise");
        Self {
            connection,
            code,
            case: 0,
            now: START,
        }
    }

    pub(super) fn begin(&mut self) {
        self.case += 1;
        self.now = START;
    }

    /// Makes the server do something else with the hash of the current case.
    pub(super) async fn order(&mut self, verb: &str, words: &[&str]) {
        let mut command = redis::cmd(verb);
        command.arg(format!("case:{}", self.case)).arg(words);
        let done: Result<(), _> = command.exec_async(&mut self.connection).await;
        done.unwrap();
    }

    /// What the hash of the current case holds in that field.
    pub(super) async fn field(&mut self, name: &str) -> Option<String> {
        let mut command = redis::cmd("HGET");
        command.arg(format!("case:{}", self.case)).arg(name);
        command.query_async(&mut self.connection).await.unwrap()
    }

    pub(super) async fn ask(&mut self, quotas: &Quotas, operation: Operation) -> Answer {
        let (seconds, micros) = (self.now / 1_000_000, self.now % 1_000_000);
        let invocation = Invocation {
            name: format!("case:{}", self.case),
            quotas: quotas.clone(),
            operation,
            now: Timestamp::from_microsecond(self.now).unwrap(),
        };
        let mut pipeline = redis::pipe();
        pipeline.cmd("DEL").arg("clock").ignore();
        let clock = pipeline.cmd("RPUSH").arg("clock");
        clock.arg(seconds).arg(micros).ignore();
        pipeline.add_command(invocation.command("EVAL", &self.code));
        let (answer,): (Vec<i64>,) = pipeline.query_async(&mut self.connection).await.unwrap();
        Invocation::read(&answer).unwrap()
    }
}

/// A correction of that take.
pub(super) fn correction(units: i64, taken: &RateDecision) -> Correction {
    Correction {
        units,
        taken_at: taken.taken_at,
        readings: taken.readings.clone(),
    }
}

/// Runs a property against a server; `law` is one case.
pub(super) fn cases<S: Strategy>(
    strategy: &S,
    law: impl Fn(&tokio::runtime::Runtime, &mut ByHand, S::Value) -> Result<(), TestCaseError>,
) {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    let by_hand = std::cell::RefCell::new(runtime.block_on(ByHand::on(&server)));
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(CASES)
    });
    let outcome = runner.run(strategy, |value| {
        let mut by_hand = by_hand.borrow_mut();
        by_hand.begin();
        law(&runtime, &mut by_hand, value)
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Compared with a list of admitted units: N at once, then one more per interval, never more, never
/// fewer. A clock that steps back gives nothing back: time is taken to be that of the last
/// admission.
#[test]
fn a_bucket_admits_what_the_rule_says_whatever_the_clock_does() {
    const INTERVAL: i64 = 10_000;
    let steps = vec((-30_000_i64..60_000, 1_u32..4, any::<bool>()), 1..60);
    cases(&(1_u32..6, steps), |runtime, script, (limit, steps)| {
        let period = u64::from(limit) * u64::try_from(INTERVAL).unwrap();
        let quotas = Quotas::from(Quota::per(std::time::Duration::from_micros(period), limit));
        let (mut bucket, mut latest) = (VecDeque::<i64>::new(), i64::MIN);
        for (step, cost, leases) in steps {
            script.now += step;
            let now = script.now.max(latest);
            let held = bucket.iter().filter(|drained| **drained > now).count();
            let room = usize::try_from(limit).unwrap() - held.min(usize::try_from(limit).unwrap());
            let operation = if leases {
                Operation::Lease { cost, units: 2 }
            } else {
                Operation::Take(cost)
            };
            let answer = runtime.block_on(script.ask(&quotas, operation));
            let plenty = leases && cost < 2 && room >= 4;
            let taken = if plenty { 2 } else { cost };
            let fits = usize::try_from(cost).unwrap() <= room;
            prop_assert_eq!(answer.decision.is_admitted(), fits);
            prop_assert_eq!(answer.taken, if fits { taken } else { 0 });
            if let RateOutcome::Refused(wait) = answer.decision.outcome {
                // A request that waits as told is admitted, and not a microsecond earlier.
                let wait = i64::try_from(wait.as_micros()).unwrap();
                let at = script.now + wait;
                let needed =
                    held + usize::try_from(cost).unwrap() - usize::try_from(limit).unwrap();
                let mut ends: Vec<_> = bucket.iter().filter(|end| **end > now).collect();
                ends.sort_unstable();
                prop_assert_eq!(*ends[needed - 1], at);
            }
            if fits {
                latest = now;
                for _ in 0..taken {
                    let begin = bucket.back().copied().unwrap_or(now).max(now);
                    bucket.push_back(begin + INTERVAL);
                }
            }
        }
        Ok(())
    });
}

/// Compared with a fraction: usage drains by the limits of the last take, and each call is judged
/// by its own. Refusals change nothing.
#[test]
fn buckets_in_turn_admit_exactly_what_the_fraction_says() {
    const WHOLE: i64 = 40;
    let calls = vec((0_i64..100, 0_usize..3, 1_u32..4), 1..100);
    cases(&calls, |runtime, script, calls| {
        let numbers = [(40, 4, 4, 10), (40, 2, 6, 20), (80, 2, 3, 40)];
        // In fortieths of a unit, and how many drain in a millisecond.
        let (mut owed, mut rate) = (0, 1);
        for (wait, which, cost) in calls {
            script.now += wait * 1_000;
            owed = (owed - wait * rate).max(0);
            let (period, limit, burst, interval) = numbers[which];
            let quotas = Quota::per(std::time::Duration::from_millis(period), limit)
                .burst(burst)
                .into();
            let asked = script.ask(&quotas, Operation::Take(cost));
            let excess = owed + (i64::from(cost) - i64::from(burst)) * WHOLE;
            match runtime.block_on(asked).decision.outcome {
                RateOutcome::Admitted => {
                    prop_assert!(excess <= 0);
                    owed += i64::from(cost) * WHOLE;
                    rate = WHOLE / interval;
                }
                RateOutcome::Refused(wait) => {
                    prop_assert!(excess > 0);
                    prop_assert_eq!(
                        u128::try_from(excess * 1_000 / rate).unwrap(),
                        wait.as_micros()
                    );
                }
                RateOutcome::TooCostly => prop_assert!(cost > burst),
            }
        }
        Ok(())
    });
}

/// Compared with a list of admitted times: no rolling period holds more than the limit, and a
/// refused request would not fit a period a sixteenth longer.
#[test]
fn a_strict_quota_is_kept_in_every_rolling_period_whatever_the_clock_does() {
    const PERIOD: i64 = 1_600_000;
    let steps = vec((-300_000_i64..500_000, 1_u32..4), 1..80);
    cases(&(1_u32..8, steps), |runtime, script, (limit, steps)| {
        let period = std::time::Duration::from_micros(PERIOD.unsigned_abs());
        let quotas = Quotas::from(Quota::per(period, limit).strict());
        let (mut admitted, mut latest) = (Vec::<i64>::new(), i64::MIN);
        for (step, cost) in steps {
            script.now += step;
            let now = script.now.max(latest);
            let within = |micros: i64| admitted.iter().filter(|at| **at + micros > now).count();
            let answer = runtime.block_on(script.ask(&quotas, Operation::Take(cost)));
            match answer.decision.outcome {
                RateOutcome::Admitted => {
                    let room = usize::try_from(limit - cost).unwrap();
                    prop_assert!(within(PERIOD) <= room);
                    admitted.extend((0..cost).map(|_| now));
                    latest = now;
                }
                RateOutcome::Refused(_) => {
                    let room = usize::try_from(limit - cost).unwrap();
                    prop_assert!(within(PERIOD + PERIOD / 8) > room);
                }
                RateOutcome::TooCostly => prop_assert!(cost > limit),
            }
        }
        Ok(())
    });
}

/// However the clock is moved, no day admits more than its limit, counted by when it began; days
/// that have begun don't begin again.
#[test]
fn a_day_admits_its_number_once_whatever_the_clock_does() {
    let steps = vec((-DAY..DAY + DAY / 2, 1_u32..3), 1..60);
    cases(&steps, |runtime, script, steps| {
        let quotas = Quotas::from(Quota::calendar(CalendarPeriod::Day, 3));
        let (mut latest, mut used) = (i64::MIN, 0);
        for (step, cost) in steps {
            script.now = (script.now + step).max(START);
            let day = script.now.div_euclid(DAY);
            // A day in which nothing was admitted hasn't begun as far as the script knows.
            let begun = if day > latest { 0 } else { used };
            let answer = runtime.block_on(script.ask(&quotas, Operation::Take(cost)));
            prop_assert_eq!(answer.decision.is_admitted(), begun + cost <= 3);
            if answer.decision.is_admitted() {
                (latest, used) = (day.max(latest), begun + cost);
            }
        }
        Ok(())
    });
}

/// Whichever windows the calls name, each holds what was taken from it: time stands still, so
/// nothing drains.
#[test]
fn windows_keep_their_own_counts_whichever_are_named() {
    let windows = [
        Quota::per_second(9),
        Quota::per(std::time::Duration::from_secs(86_400), 9).named("bucket"),
        Quota::per_hour(9).strict(),
        Quota::calendar(CalendarPeriod::Month, 9),
    ];
    let calls = vec((1_usize..16, 1_u32..4, -3_i64..4), 1..40);
    cases(&calls, |runtime, script, calls| {
        let mut used = [0_i64; 4];
        for (mask, cost, units) in calls {
            let named: Vec<_> = (0..4).filter(|i| mask & (1 << i) != 0).collect();
            let quotas = Quotas::new(named.iter().map(|i| windows[*i].clone())).unwrap();
            let fits = named.iter().all(|i| used[*i] + i64::from(cost) <= 9);
            let taken = runtime.block_on(script.ask(&quotas, Operation::Take(cost)));
            prop_assert_eq!(taken.decision.is_admitted(), fits);
            let correction = Operation::Correct(correction(units, &taken.decision));
            runtime.block_on(script.ask(&quotas, correction));
            for i in &named {
                used[*i] = (used[*i] + if fits { i64::from(cost) } else { 0 } + units).max(0);
            }
            let all = runtime.block_on(script.ask(&windows.clone().into(), Operation::Peek));
            let left = all.decision.readings.as_slice().iter();
            let left: Vec<_> = left.map(|reading| i64::from(reading.remaining)).collect();
            prop_assert_eq!(left, used.map(|used| (9 - used).max(0)));
        }
        Ok(())
    });
}

/// Milliseconds to the call, its plan, and its cost.
type Calls = Vec<(i64, usize, u32)>;

fn agree(
    runtime: &tokio::runtime::Runtime,
    script: &mut ByHand,
    calls: Calls,
) -> Result<(), TestCaseError> {
    let mut model = Model::new();
    for (step, plan, cost) in calls {
        script.now = (script.now + step * 1_000).max(START);
        let plan = &PLANS[plan];
        let moment = (script.now / 1_000, script.now.div_euclid(DAY));
        let quotas = plan.quotas();
        let asked = script.ask(&quotas, Operation::Take(cost));
        let outcome = runtime.block_on(asked).decision.outcome;
        match (outcome, model.room(plan, cost, moment)) {
            (RateOutcome::Admitted, Room::Enough | Room::Either) => {
                model.admit(plan, cost, moment);
            }
            (RateOutcome::Refused(_), Room::TooLittle | Room::Either)
            | (RateOutcome::TooCostly, Room::Never) => {}
            (outcome, room) => prop_assert!(false, "{:?} and {:?}", outcome, room),
        }
    }
    Ok(())
}

/// Three windows at once, with costs and plans that change from call to call, while the server's
/// clock jumps.
#[test]
fn windows_of_changing_plans_admit_together_what_the_model_says() {
    let step = prop_oneof![9 => -300_i64..500, 1 => -DAY / 1_000..DAY / 1_000];
    let calls = vec((step, 0_usize..3, 1_u32..8), 1..100);
    cases(&calls, agree);
}

/// The clock steps back after units were admitted that only the longer plan still holds, and then
/// the shorter one is asked.
#[test]
fn a_shorter_plan_after_a_step_back_finds_what_the_longer_one_held() {
    let before = [
        (776, 0, 1),
        (174, 0, 1),
        (700, 1, 2),
        (428, 1, 1),
        (424, 0, 1),
        (110, 0, 1),
    ];
    let longer = [(938, 2, 1), (-12_733_793, 2, 1)];
    let calls: Calls = before
        .into_iter()
        .chain(longer)
        .chain([(295, 0, 1)])
        .collect();
    cases(&Just(calls), agree);
}

/// Moving usage from one quota's slices to another's and back must settle; otherwise it would stay
/// in use for as long as anybody is admitted.
#[tokio::test]
async fn strict_periods_that_are_no_multiples_in_turn_lock_nobody_out() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut script = ByHand::on(&server).await;
    script.begin();
    let numbers = [(60, 32), (70, 36)].map(|(secs, limit)| {
        let quota = Quota::per(std::time::Duration::from_secs(secs), limit);
        Quotas::from(quota.named("window").strict())
    });
    // Twenty-four per minute, and twenty-eight in seventy seconds.
    for round in 0..200 {
        for quotas in &numbers {
            let taken = script.ask(quotas, Operation::Take(1)).await;
            assert!(taken.decision.is_admitted(), "{round}");
        }
        script.now += 5_000_000;
    }
}

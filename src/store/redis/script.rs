//! The rate limit script as a redis-rs call: quotas in, a decision out.

use std::{sync::LazyLock, time::Duration};

use redis::{Cmd, ErrorKind, RedisResult, Script, ServerErrorKind, aio::ConnectionLike};
use smallvec::SmallVec;

use super::connections::Resend;
use crate::{
    domain::{
        clock::Timestamp,
        quota::{Bounds, Quota, Quotas, Rule},
    },
    store::{Correction, RateDecision, RateOutcome, Readings, StoreError, TakenAt, WindowReading},
};

pub(super) static CODE: &str = include_str!("rate.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(CODE));

/// The largest burst in ticks: half of what a window may owe, exactly representable in a double.
const TICKS_MAX: u128 = 1 << 51;

/// Beyond this Lua's doubles would round; no window owes this much.
const MOST: i64 = 1 << 52;

/// What the script is to do.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    /// Take these units.
    Take(u32),
    /// Take the units of a request, or `units` instead if there is plenty.
    Lease { cost: u32, units: u32 },
    /// Correct an earlier take.
    Correct(Correction),
    /// Read what is left.
    Peek,
}

impl Operation {
    /// A take that happens twice is too strict for a moment; giving back twice would grant too
    /// much. If a correction is lost, the units stay taken.
    pub(super) const fn resend(&self) -> Resend {
        match self {
            Self::Correct(Correction { units, .. }) if *units < 0 => Resend::Never,
            _ => Resend::Safe,
        }
    }
}

/// A call of the script; owns what it needs.
#[derive(Clone, Debug)]
pub(super) struct Invocation {
    pub(super) name: String,
    pub(super) quotas: Quotas,
    pub(super) operation: Operation,
    /// By this process's clock, for calendars; the script reads the server's.
    pub(super) now: Timestamp,
}

/// The script's answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) decision: RateDecision,
    /// Units taken.
    pub(super) taken: u32,
}

impl Invocation {
    /// Runs the script, in one round trip. If the server doesn't have it yet, sends the text.
    pub(super) async fn call(&self, connection: &mut impl ConnectionLike) -> RedisResult<Vec<i64>> {
        let by_hash = self.command("EVALSHA", SCRIPT.get_hash());
        match by_hash.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let whole = self.command("EVAL", CODE);
                whole.query_async(connection).await
            }
            answer => answer,
        }
    }

    pub(super) fn command(&self, verb: &str, script: &str) -> Cmd {
        let quotas = self.quotas.as_slice();
        let arguments = quotas.len().saturating_mul(8).saturating_add(8);
        let length = quotas.len().saturating_mul(64);
        let length = length.saturating_add(script.len()).saturating_add(160);
        let mut command = Cmd::with_capacity(arguments, length);
        command.arg(verb).arg(script).arg(1).arg(&self.name);
        let mut readings = None;
        match &self.operation {
            Operation::Take(cost) => command.arg("take").arg(cost).arg(0),
            Operation::Lease { cost, units } => command.arg("lease").arg(cost).arg(units),
            Operation::Correct(correction) => {
                readings = Some(correction.readings.as_slice());
                let TakenAt {
                    period_nanos,
                    given_back,
                    ..
                } = correction.taken_at;
                command
                    .arg("correct")
                    .arg(correction.units.clamp(MOST.saturating_neg(), MOST))
                    .arg(period_nanos.checked_div(1_000).unwrap_or(0))
                    .arg(given_back)
            }
            Operation::Peek => command.arg("peek").arg(0).arg(0),
        };
        for (at, quota) in quotas.iter().enumerate() {
            let (rule, numbers) = numbers(quota, self.now);
            command.arg(quota.name()).arg(rule);
            for number in numbers {
                command.arg(number);
            }
            if let Some(readings) = readings {
                let owed = readings
                    .get(at)
                    .map_or(0, |reading| reading.reset.as_micros());
                command.arg(i64::try_from(owed).unwrap_or(MOST).min(MOST));
            }
        }
        command
    }

    /// Parses the script's answer.
    pub(super) fn read(answer: &[i64]) -> Result<Answer, StoreError> {
        let [status, taken, wait, now, given_back, windows @ ..] = answer else {
            return Err(StoreError::internal(
                "the rate limit script's answer is too short",
            ));
        };
        let micros = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
        let outcome = match status {
            1 => RateOutcome::Admitted,
            0 => RateOutcome::Refused(micros((*wait).max(1))),
            _ => RateOutcome::TooCostly,
        };
        let readings: Readings = windows
            .chunks_exact(2)
            .filter_map(|window| match window {
                [remaining, reset] => Some(WindowReading {
                    remaining: u32::try_from(*remaining).unwrap_or(u32::MAX),
                    reset: micros(*reset),
                }),
                _ => None,
            })
            .collect();
        let now = u64::try_from(*now).unwrap_or(0);
        let secs = now.checked_div(1_000_000).unwrap_or(0);
        Ok(Answer {
            decision: RateDecision {
                outcome,
                readings,
                taken_at: TakenAt {
                    period_nanos: now.saturating_mul(1_000),
                    unix_secs: i64::try_from(secs).unwrap_or(i64::MAX),
                    given_back: u64::try_from(*given_back).unwrap_or(0),
                    is_local: false,
                },
            },
            taken: u32::try_from(*taken).unwrap_or(0),
        })
    }
}

/// A quota as arguments of the script: its rule, and the rule's numbers.
fn numbers(quota: &Quota, now: Timestamp) -> (&'static str, SmallVec<[i64; 5]>) {
    let whole = |number: u128| i64::try_from(number).unwrap_or(i64::MAX);
    let limit = i64::from(quota.limit());
    match quota.rule() {
        Rule::Rolling => {
            let (interval, ticks) = ticks(quota);
            let burst = i64::from(quota.burst_size());
            let numbers = [whole(interval), whole(ticks), burst];
            ("gcra", SmallVec::from_slice(&numbers))
        }
        Rule::Strict => {
            let [slice, period] = [quota.slice(), quota.period()];
            let numbers = [limit, whole(slice.as_micros()), whole(period.as_micros())];
            ("strict", SmallVec::from_slice(&numbers))
        }
        Rule::Calendar(period, zone) => {
            let Bounds([before, this, next, after]) = zone.bounds(*period, now);
            let numbers = [limit, before, this, next, after];
            ("calendar", numbers.map(|number| number.max(0)).into())
        }
    }
}

/// A request's share of the period in ticks, and the number of ticks per microsecond. That number
/// is the quota's limit, so that the share is exact, unless the burst would then be too large for a
/// double.
fn ticks(quota: &Quota) -> (u128, u128) {
    let period = quota.period().as_micros();
    let limit = u128::from(quota.limit());
    let burst = u128::from(quota.burst_size());
    let most = TICKS_MAX.saturating_mul(limit);
    let fitting = most.checked_div(burst.saturating_mul(period)).unwrap_or(1);
    let ticks = fitting.clamp(1, limit);
    let interval = period.saturating_mul(ticks).div_ceil(limit).max(1);
    (interval, ticks)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers in tests are small")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_burst_fits_a_double_and_the_rate_is_right(
            limit in 1_u32..,
            burst in 1_u32..,
            millis in 1_u64..=86_400_000_000,
        ) {
            let quota = Quota::per(Duration::from_millis(millis), limit).burst(burst);
            let (interval, ticks) = ticks(&quota);
            prop_assert!(interval * u128::from(quota.burst_size()) <= 1 << 52);
            // Never faster than the quota says; slower by less than a tick per request.
            let exact = u128::from(millis) * 1_000 * ticks;
            prop_assert!(interval * u128::from(limit) >= exact);
            prop_assert!((interval - 1) * u128::from(limit) < exact);
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(Invocation::read(&[]).is_err());
        assert!(Invocation::read(&[1, 1, 0, 5_000_000]).is_err());
        let answer = Invocation::read(&[0, 0, 0, 5_000_000, 2, 3, 7]).unwrap();
        assert_eq!(answer.decision.taken_at.given_back, 2);
        assert_eq!(
            answer.decision.outcome,
            RateOutcome::Refused(Duration::from_micros(1))
        );
        assert_eq!(answer.decision.readings.remaining(), 3);
    }
}

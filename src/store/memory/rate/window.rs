//! One window of one key: a few words of state, and what each rule does with them.
//!
//! | rule | words |
//! |---|---|
//! | GCRA | the theoretical arrival time, in nanoseconds |
//! | calendar | see [`calendar`](super::calendar) |
//! | strict | see [`strict`](super::strict) |

use std::{num::NonZeroU32, time::Duration};

use super::{calendar::CalendarWindow, gcra, strict};
use crate::{
    domain::{
        clock::{Clock, Timestamp},
        quota::{Quota, Quotas, Rule},
    },
    store::{TakenAt, WindowReading},
};

/// The furthest that a bucket can be overdrawn; leaves headroom for governor's own sums.
const STATE_MAX: u64 = u64::MAX >> 1;

/// The current time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) nanos: u64,
    /// Only for calendar windows.
    unix: Option<Timestamp>,
}

impl Moment {
    /// The current time, on the clocks that `quotas` need.
    pub(super) fn of(clock: &dyn Clock, quotas: &Quotas) -> Self {
        Self {
            nanos: since_start(clock),
            unix: quotas.is_calendar().then(|| clock.now()),
        }
    }

    /// The current time, on both clocks.
    pub(super) fn on_both_clocks(clock: &dyn Clock) -> Self {
        Self {
            nanos: since_start(clock),
            unix: Some(clock.now()),
        }
    }

    pub(super) fn taken_at(self) -> TakenAt {
        TakenAt {
            period_nanos: self.nanos,
            unix_secs: self.unix.map_or(0, Timestamp::as_second),
            given_back: 0,
            is_local: false,
        }
    }
}

/// Capped at 146 years, so that no sum in the rules overflows.
fn since_start(clock: &dyn Clock) -> u64 {
    nanos(clock.elapsed()).min(u64::MAX >> 2)
}

pub(super) fn nanos(duration: Duration) -> u64 {
    let whole = duration.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(u64::from(duration.subsec_nanos()))
}

/// One window's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It admits; this is what is left then.
    Admit(WindowReading),
    /// It would admit after this time.
    Wait(Duration),
    /// The cost exceeds what it can ever hold.
    Never,
}

/// Number of words in a quota's state.
pub(super) fn words_of(quota: &Quota) -> usize {
    match quota.rule() {
        Rule::Rolling | Rule::Calendar(..) => 1,
        Rule::Strict => strict::WORDS,
    }
}

/// The window's answer to `cost` units.
pub(super) fn judge(quota: &Quota, words: &[u64], cost: NonZeroU32, now: &Moment) -> Judgement {
    if cost.get() > quota.burst_size() {
        return Judgement::Never;
    }
    match quota.rule() {
        Rule::Rolling => match gcra::stage(first(words), quota, cost, now.nanos) {
            Ok(next) => Judgement::Admit(read_bucket(quota, next, now)),
            Err(wait) => wait.map_or(Judgement::Never, Judgement::Wait),
        },
        Rule::Strict => strict::judge(quota, words, cost, now.nanos),
        Rule::Calendar(period, zone) => {
            let day = CalendarWindow::of(first(words), *period, zone, now.unix);
            let used = day.used.saturating_add(cost.get());
            if used > quota.limit() {
                Judgement::Wait(day.left)
            } else {
                Judgement::Admit(day.with(used).read(quota))
            }
        }
    }
}

/// Takes what was judged; the next state follows from what is left.
pub(super) fn commit(
    quota: &Quota,
    words: &mut [u64],
    left: WindowReading,
    cost: NonZeroU32,
    now: &Moment,
) {
    match quota.rule() {
        Rule::Rolling => set_first(words, now.nanos.saturating_add(nanos(left.reset))),
        Rule::Strict => strict::add(quota, words, i64::from(cost.get()), now.nanos, now.nanos),
        Rule::Calendar(period, zone) => {
            let day = CalendarWindow::of(first(words), *period, zone, now.unix);
            let used = quota.limit().saturating_sub(left.remaining);
            set_first(words, day.with(used).word());
        }
    }
}

/// What is left.
pub(super) fn read(quota: &Quota, words: &[u64], now: &Moment) -> WindowReading {
    match quota.rule() {
        Rule::Rolling => read_bucket(quota, first(words), now),
        Rule::Strict => strict::read(quota, words, now.nanos),
        Rule::Calendar(period, zone) => {
            CalendarWindow::of(first(words), *period, zone, now.unix).read(quota)
        }
    }
}

fn read_bucket(quota: &Quota, state: u64, now: &Moment) -> WindowReading {
    let interval = quota.interval_nanos();
    let owed = state.saturating_sub(now.nanos);
    let burst = interval.get().saturating_mul(u64::from(quota.burst_size()));
    let remaining = burst.saturating_sub(owed) / interval;
    WindowReading {
        remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
        reset: Duration::from_nanos(owed),
    }
}

/// Adds to the usage, even past the window's capacity.
pub(super) fn add(quota: &Quota, words: &mut [u64], units: u64, now: &Moment) {
    match quota.rule() {
        Rule::Rolling => {
            let by = quota.interval_nanos().get().saturating_mul(units);
            let state = first(words).max(now.nanos).saturating_add(by);
            set_first(words, state.min(STATE_MAX));
        }
        Rule::Strict => {
            let units = i64::try_from(units).unwrap_or(i64::MAX);
            strict::add(quota, words, units, now.nanos, now.nanos);
        }
        Rule::Calendar(period, zone) => {
            let day = CalendarWindow::of(first(words), *period, zone, now.unix);
            let units = u32::try_from(units).unwrap_or(u32::MAX);
            let used = day.used.saturating_add(units);
            set_first(words, day.with(used).word());
        }
    }
}

/// Sets the window to what is left, whatever it was before: the inverse of [`read`].
#[cfg(any(test, feature = "redis"))]
pub(super) fn write(quota: &Quota, words: &mut [u64], left: WindowReading, now: &Moment) {
    let used = quota.burst_size().saturating_sub(left.remaining);
    match quota.rule() {
        Rule::Rolling => {
            // The units give the debt except for a fraction of one, which `reset` adds. It adds no
            // more than that: after a clock stepped back, `reset` may be arbitrarily long.
            let interval = quota.interval_nanos().get();
            let most = interval.saturating_mul(u64::from(used));
            let least = most.saturating_sub(interval.saturating_sub(1));
            let owed = nanos(left.reset).clamp(least, most);
            set_first(words, now.nanos.saturating_add(owed));
        }
        Rule::Strict => strict::write(quota, words, used, left.reset, now.nanos),
        Rule::Calendar(period, zone) => {
            let day = CalendarWindow::of(first(words), *period, zone, now.unix);
            set_first(words, day.with(used).word());
        }
    }
}

/// Like [`write`], except where no more than that is left already. Returns whether it changed
/// anything.
#[cfg(any(test, feature = "redis"))]
pub(super) fn lower(quota: &Quota, words: &mut [u64], left: WindowReading, now: &Moment) -> bool {
    match quota.rule() {
        Rule::Rolling => {
            let before = first(words);
            write(quota, words, left, now);
            let is_less = first(words) > before.max(now.nanos);
            set_first(words, first(words).max(before));
            is_less
        }
        Rule::Strict | Rule::Calendar(..) => {
            let is_less = left.remaining < read(quota, words, now).remaining;
            if is_less {
                write(quota, words, left, now);
            }
            is_less
        }
    }
}

/// An earlier take, as one window of a key sees it later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) at: TakenAt,
    /// How long, from that moment, until all of it would have drained.
    pub(super) owed: Duration,
    /// Units given back since.
    pub(super) ahead: u64,
}

/// Adds to an earlier take or gives part of it back, even past the window's capacity. Returns how
/// many units a bucket gave back.
pub(super) fn correct(
    quota: &Quota,
    words: &mut [u64],
    units: i64,
    taken: Taken,
    now: &Moment,
) -> u64 {
    match (quota.rule(), u64::try_from(units)) {
        (Rule::Rolling, Ok(units)) => add(quota, words, units, now),
        (Rule::Rolling, Err(_)) => {
            return give_back_undrained(quota, words, units.unsigned_abs(), taken, now);
        }
        (Rule::Strict, Ok(_)) => strict::add(quota, words, units, now.nanos, now.nanos),
        // What has left the period can't be given back.
        (Rule::Strict, Err(_)) => {
            strict::add(quota, words, units, taken.at.period_nanos, now.nanos);
        }
        (Rule::Calendar(period, zone), _) => {
            let day = CalendarWindow::of(first(words), *period, zone, now.unix);
            if i64::from(day.start) <= taken.at.unix_secs {
                let most = if units < 0 { i32::MIN } else { i32::MAX };
                let units = i32::try_from(units).unwrap_or(most);
                let used = day.used.saturating_add_signed(units);
                set_first(words, day.with(used).word());
            }
        }
    }
    0
}

/// A take stands in a queue that drains, and no more can be given back than what has not drained of
/// it. Units given back since may have stood ahead of it, in which case it drained sooner.
fn give_back_undrained(
    quota: &Quota,
    words: &mut [u64],
    units: u64,
    taken: Taken,
    now: &Moment,
) -> u64 {
    let interval = quota.interval_nanos();
    let waited = now.nanos.saturating_sub(taken.at.period_nanos);
    let sooner = interval.get().saturating_mul(taken.ahead);
    let undrained = nanos(taken.owed).saturating_sub(waited.saturating_add(sooner));
    let state = first(words);
    let by = interval.get().saturating_mul(units).min(undrained);
    let by = by.min(state.saturating_sub(now.nanos));
    set_first(words, state.saturating_sub(by));
    by.div_ceil(interval.get())
}

/// How many units are in use: what other limits for the same window start with.
pub(super) fn used(quota: &Quota, words: &[u64], now: &Moment) -> u64 {
    match quota.rule() {
        Rule::Rolling => first(words)
            .saturating_sub(now.nanos)
            .div_ceil(quota.interval_nanos().get()),
        Rule::Strict => strict::used(quota, words, now.nanos),
        Rule::Calendar(period, zone) => {
            u64::from(CalendarWindow::of(first(words), *period, zone, now.unix).used)
        }
    }
}

/// Whether usage under the old quota follows the new one exactly: they are equal, or both keep the
/// time of each take.
pub(super) fn carries_exactly(old: &Quota, quota: &Quota) -> bool {
    old == quota || matches!((old.rule(), quota.rule()), (Rule::Strict, Rule::Strict))
}

/// Starts a window with the usage it had under the previous limit or rule. A bucket keeps its exact
/// fill, including fractions of a unit; otherwise usage is rounded up to whole units.
pub(super) fn carry(
    (old, old_words): (&Quota, &[u64]),
    (quota, words): (&Quota, &mut [u64]),
    now: &Moment,
) {
    match (old.rule(), quota.rule()) {
        (Rule::Rolling, Rule::Rolling) => {
            let owed = first(old_words).saturating_sub(now.nanos);
            let [new, old] = [quota, old].map(|quota| u128::from(quota.interval_nanos().get()));
            let owed = u128::from(owed).saturating_mul(new).div_ceil(old.max(1));
            let owed = u64::try_from(owed).unwrap_or(u64::MAX);
            let state = now.nanos.saturating_add(owed).min(STATE_MAX);
            set_first(words, if owed == 0 { 0 } else { state });
        }
        (Rule::Strict, Rule::Strict) => strict::carry(old_words, old, words, quota, now.nanos),
        (one, other) if one == other => words.copy_from_slice(old_words),
        _ => add(quota, words, used(old, old_words, now), now),
    }
}

/// How long until at most `used` units are in use, if nothing is taken meanwhile.
pub(super) fn until(quota: &Quota, words: &[u64], used: u32, now: &Moment) -> Duration {
    match quota.rule() {
        Rule::Rolling => {
            let free = quota.interval_nanos().get().saturating_mul(used.into());
            let owed = first(words).saturating_sub(now.nanos);
            Duration::from_nanos(owed.saturating_sub(free))
        }
        Rule::Strict => strict::until(quota, words, used, now.nanos),
        Rule::Calendar(period, zone) => {
            CalendarWindow::of(first(words), *period, zone, now.unix).until(used)
        }
    }
}

/// Whether the window is as if never used.
pub(super) fn is_idle(quota: &Quota, words: &[u64], now: &Moment) -> bool {
    match quota.rule() {
        Rule::Rolling => first(words) <= now.nanos,
        Rule::Strict => strict::used(quota, words, now.nanos) == 0,
        Rule::Calendar(period, zone) => {
            CalendarWindow::of(first(words), *period, zone, now.unix).used == 0
        }
    }
}

fn first(words: &[u64]) -> u64 {
    words.first().copied().unwrap_or(0)
}

fn set_first(words: &mut [u64], word: u64) {
    if let Some(first) = words.first_mut() {
        *first = word;
    }
}

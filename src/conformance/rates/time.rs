//! Laws of time: the clock is turned, and decisions are compared with lists of what was admitted,
//! and when.

use std::{collections::VecDeque, time::Duration};

use super::{DAY, HOUR, Numbers, Time, admits, each_rule, key, left, refused, take, together};
use crate::{
    domain::{
        clock::Clock,
        quota::{CalendarPeriod, Quota, Quotas, Zone},
    },
    store::{RateOutcome, RateStore},
};

/// A bucket is a list of units, each of which leaves it one interval after the one before. What
/// fits is admitted, what doesn't is refused, and the wait is what is missing.
pub async fn a_bucket_admits_exactly_what_its_rate_says<S: RateStore>(store: S, clock: Time) {
    const INTERVAL: Duration = Duration::from_millis(10);
    let mut numbers = Numbers(1);
    for (limit, burst) in [(1, 1), (4, 4), (5, 2), (3, 7)] {
        let quota = Quota::per(INTERVAL * limit, limit).burst(burst);
        let (name, quotas) = (format!("{limit}, {burst}"), Quotas::from(quota));
        let mut leaving: VecDeque<Duration> = VecDeque::new();
        for _ in 0..150 {
            clock.advance(Duration::from_millis(numbers.below(25)));
            let cost = u32::try_from(numbers.below(burst.min(3).into())).unwrap() + 1;
            let now = clock.elapsed();
            leaving.retain(|leaves| *leaves > now);
            let room = usize::try_from(burst)
                .unwrap()
                .saturating_sub(leaving.len());
            let units = usize::try_from(cost).unwrap();
            let taken = take(&store, &name, &quotas, cost).await;
            if units <= room {
                assert!(
                    taken.is_admitted(),
                    "{cost} of {quotas:?}, with room for {room}"
                );
                for _ in 0..cost {
                    let begins = leaving.back().copied().unwrap_or(now);
                    leaving.push_back(begins + INTERVAL);
                }
            } else {
                let wait = leaving[units - room - 1] - now;
                assert_eq!(
                    taken.outcome,
                    RateOutcome::Refused(wait),
                    "{cost} of {quotas:?}"
                );
            }
        }
    }
}

/// No rolling period holds more than the number, wherever it begins; and nothing is refused that
/// would fit a period longer by an eighth.
pub async fn a_strict_window_holds_its_number_in_every_period<S: RateStore>(store: S, clock: Time) {
    const PERIOD: Duration = Duration::from_millis(1_600);
    let mut numbers = Numbers(2);
    for limit in [1, 3, 8] {
        let (name, quotas) = (
            limit.to_string(),
            Quotas::from(Quota::per(PERIOD, limit).strict()),
        );
        let mut admitted: Vec<(Duration, u32)> = Vec::new();
        for _ in 0..150 {
            clock.advance(Duration::from_millis(numbers.below(500)));
            let cost = u32::try_from(numbers.below(limit.min(3).into())).unwrap() + 1;
            let now = clock.elapsed();
            let within = |period: Duration| -> u32 {
                let recent = admitted.iter().filter(|(at, _)| *at + period > now);
                recent.map(|(_, units)| units).sum()
            };
            if admits(&store, &name, &quotas, cost).await {
                assert!(
                    within(PERIOD) + cost <= limit,
                    "{cost} of {limit}: too many"
                );
                admitted.push((now, cost));
            } else {
                let late = within(PERIOD * 9 / 8) + cost;
                assert!(late > limit, "{cost} of {limit}: refused for too long");
            }
        }
    }
}

/// A calendar window holds its number from one midnight of its zone to the next, from Monday to
/// Monday or from the first of a month to the next, and who is refused is told to wait for that.
pub async fn a_day_a_week_and_a_month_begin_anew<S: RateStore>(store: S, clock: Time) {
    let periods = [
        CalendarPeriod::Day,
        CalendarPeriod::Week,
        CalendarPeriod::Month,
    ];
    let mut quotas = periods.map(|period| Quota::calendar(period, 3)).to_vec();
    // Where the machine knows no zones there is one law less.
    if let Ok(zone) = Zone::named("Asia/Kolkata") {
        let of_zone = |quota: &Quota| quota.clone().in_zone(zone.clone());
        quotas.extend(quotas.clone().iter().map(of_zone));
    }
    clock.advance(HOUR * 7);
    for (number, quota) in quotas.into_iter().enumerate() {
        let (name, quotas) = (number.to_string(), Quotas::from(quota));
        for _ in 0..3 {
            let now = clock.now();
            let (_, end) = quotas.as_slice()[0].calendar_window(now).unwrap();
            assert!(admits(&store, &name, &quotas, 2).await);
            assert!(!admits(&store, &name, &quotas, 2).await);
            assert!(admits(&store, &name, &quotas, 1).await);
            let wait = refused(&store, &name, &quotas, 1).await;
            let due = u64::try_from(end - now.as_second()).unwrap();
            assert_eq!(wait, Duration::from_secs(due), "{quotas:?}");
            clock.advance(wait - Duration::from_secs(1));
            assert!(!admits(&store, &name, &quotas, 1).await, "{quotas:?}");
            clock.advance(Duration::from_secs(1));
            assert_eq!(left(&store, &name, &quotas).await, [3], "{quotas:?}");
            clock.advance(HOUR);
        }
    }
}

/// A refused request that comes again after the time it was told is admitted, in all of its
/// windows.
pub async fn who_waits_as_told_is_admitted<S: RateStore>(store: S, clock: Time) {
    let each = each_rule().map(Quotas::from);
    for (number, quotas) in each.into_iter().chain([together()]).enumerate() {
        let name = number.to_string();
        for cost in [1, 3, 2] {
            while admits(&store, &name, &quotas, 1).await {
                clock.advance(Duration::from_secs(61));
            }
            let wait = refused(&store, &name, &quotas, cost).await;
            assert!(wait <= DAY, "nothing takes longer to be free: {wait:?}");
            clock.advance(wait);
            assert!(admits(&store, &name, &quotas, cost).await, "{quotas:?}");
        }
    }
}

/// The reset of a reading is when the window is full again, and that of a bucket is exact.
pub async fn a_window_is_full_again_when_it_said<S: RateStore>(store: S, clock: Time) {
    for (number, quota) in each_rule().into_iter().enumerate() {
        let (name, quotas) = (number.to_string(), Quotas::from(quota));
        assert!(admits(&store, &name, &quotas, 2).await);
        clock.advance(HOUR / 60);
        let taken = take(&store, &name, &quotas, 5).await;
        assert!(taken.is_admitted());
        let said = taken.readings.as_slice()[0];
        let looked = store.peek(&key(&name), &quotas).await.unwrap();
        assert_eq!(looked.as_slice(), [said], "{quotas:?}");
        clock.advance(said.reset - Duration::from_millis(1));
        let before = left(&store, &name, &quotas).await;
        assert!(before < vec![10], "{quotas:?}: full before its time");
        clock.advance(Duration::from_millis(1));
        let full = store.peek(&key(&name), &quotas).await.unwrap();
        let full = full.as_slice()[0];
        assert_eq!(
            (full.remaining, full.reset),
            (10, Duration::ZERO),
            "{quotas:?}"
        );
    }
}

//! What a key's windows admit, computed from a list of everything ever admitted: a model too simple
//! to be wrong, which engines are compared with.
//!
//! Each call names a bucket, a strict window and a day, under one of three plans.

#![expect(clippy::arithmetic_side_effects, reason = "numbers in tests are small")]

use std::time::Duration;

use crate::domain::quota::{CalendarPeriod, Quota, Quotas};

/// Fractions of a unit that a bucket counts in: divisible so that each plan drains a whole number
/// per millisecond.
const WHOLE: i64 = 800;
/// How much longer than its period a unit may stay in use: its own slice, plus the longest one of
/// another plan.
const LATE_MAX: i64 = 300;

/// How much sooner a unit may leave if the plan changes: a slice is taken over where it ends, which
/// may be later than now by as much as the longest slice is longer than the shortest.
const EARLY_MAX: i64 = 66;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The milliseconds in which a unit drains, and the burst.
    bucket: (i64, u32),
    /// A period in milliseconds, and the limit.
    strict: (i64, u32),
    day: u32,
}

pub(crate) const PLANS: [Plan; 3] = [
    Plan {
        bucket: (200, 4),
        strict: (1_600, 7),
        day: 40,
    },
    Plan {
        bucket: (400, 6),
        strict: (1_600, 9),
        day: 60,
    },
    Plan {
        bucket: (800, 3),
        strict: (2_300, 8),
        day: 25,
    },
];

impl Plan {
    pub(crate) fn quotas(&self) -> Quotas {
        let millis = |millis: i64| Duration::from_millis(millis.unsigned_abs());
        let bucket = Quota::per(millis(2 * self.bucket.0), 2).burst(self.bucket.1);
        let strict = Quota::per(millis(self.strict.0), self.strict.1).strict();
        Quotas::from([
            bucket.named("bucket"),
            strict.named("strict"),
            Quota::calendar(CalendarPeriod::Day, self.day),
        ])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    TooLittle,
    /// A strict window may hold a unit slightly longer than its period.
    Either,
    /// It costs more than a window ever holds.
    Never,
}

#[derive(Debug)]
pub(crate) struct Model {
    /// The bucket's debt when something was last admitted, and how much of it drains per
    /// millisecond.
    owed: i64,
    drains: i64,
    /// When something was last admitted, in milliseconds, and the period of the plan that did it.
    latest: i64,
    period: i64,
    admitted: Vec<Admitted>,
    /// The latest day on which something was admitted, and how much.
    day: (i64, u32),
}

#[derive(Debug)]
struct Admitted {
    at: i64,
    cost: u32,
    /// For how long it is surely in use: the shortest period of the plans that have admitted
    /// something since, itself included.
    period: i64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            owed: 0,
            drains: 1,
            latest: i64::MIN / 2,
            period: 0,
            admitted: Vec::new(),
            day: (i64::MIN, 0),
        }
    }

    /// Whether a call fits. A clock that steps back gives nothing back: time is taken to be that of
    /// the last admission, and a day that has begun doesn't end.
    pub(crate) fn room(&self, plan: &Plan, cost: u32, (now, day): (i64, i64)) -> Room {
        if cost > plan.bucket.1.min(plan.strict.1).min(plan.day) {
            return Room::Never;
        }
        let owed = self.owed_at(now) + i64::from(cost) * WHOLE;
        let bucket_fits = owed <= i64::from(plan.bucket.1) * WHOLE;
        let day_fits = self.used_of(day) + cost <= plan.day;
        let period = plan.strict.0;
        let shortest = |admitted: &Admitted| period.min(admitted.period) - EARLY_MAX;
        let least = self.in_use(now, shortest) + cost;
        let most = self.listed(now, period + LATE_MAX) + cost;
        if !bucket_fits || !day_fits || least > plan.strict.1 {
            Room::TooLittle
        } else if most > plan.strict.1 {
            Room::Either
        } else {
            Room::Enough
        }
    }

    pub(crate) fn admit(&mut self, plan: &Plan, cost: u32, (now, day): (i64, i64)) {
        self.owed = self.owed_at(now) + i64::from(cost) * WHOLE;
        self.drains = WHOLE / plan.bucket.0;
        self.day = (self.day.0.max(day), self.used_of(day) + cost);
        self.latest = self.latest.max(now);
        self.period = plan.strict.0;
        for before in &mut self.admitted {
            before.period = before.period.min(plan.strict.0);
        }
        self.admitted.push(Admitted {
            at: self.latest,
            cost,
            period: plan.strict.0,
        });
    }

    fn owed_at(&self, now: i64) -> i64 {
        let since = (now - self.latest).max(0);
        (self.owed - since.min(1_000_000_000) * self.drains).max(0)
    }

    fn used_of(&self, day: i64) -> u32 {
        if day > self.day.0 { 0 } else { self.day.1 }
    }

    /// How much may be in use for that many milliseconds. After a step back, a shorter plan may
    /// find units that only the longer one before it still held: they count until the clock has
    /// caught up.
    fn listed(&self, now: i64, millis: i64) -> u32 {
        let longest = millis.max(self.period + LATE_MAX);
        let listed = self
            .admitted
            .iter()
            .filter(|admitted| admitted.at + millis > now && admitted.at + longest > self.latest);
        listed.map(|admitted| admitted.cost).sum()
    }

    /// How much is in use, if each is for that many milliseconds.
    fn in_use(&self, now: i64, millis: impl Fn(&Admitted) -> i64) -> u32 {
        let now = now.max(self.latest);
        let admitted = self.admitted.iter();
        let in_use = admitted.filter(|admitted| admitted.at + millis(admitted) > now);
        in_use.map(|admitted| admitted.cost).sum()
    }
}

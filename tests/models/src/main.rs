//! The crate's lock-free protocols in every interleaving that the memory model allows. The files
//! are the crate's own; what they take from `crate::sync` is loom's here.

#![allow(
    dead_code,
    unexpected_cfgs,
    reason = "a file has more than its protocol"
)]

mod sync {
    pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }
}

mod domain {
    pub(crate) mod clock {
        pub(crate) use jiff::Timestamp;
    }
}

/// As much of it as is told.
mod money {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Money(i64);

    impl Money {
        pub(crate) const ZERO: Self = Self(0);

        pub(crate) fn from_nanos(nanos: i64) -> Self {
            Self(nanos)
        }

        pub(crate) fn nanos(self) -> i64 {
            self.0
        }
    }
}

/// As much of them as is noted.
mod usage {
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Tags;

    impl Tags {
        pub(crate) fn note(&mut self, _: &str, _: &str) {}
    }
}

#[path = "../../../src/store/remote/breaker.rs"]
mod breaker;
#[path = "../../../src/domain/charge.rs"]
mod charge;
#[path = "../../../src/shutdown/count.rs"]
mod count;
#[path = "../../../src/store/gauge.rs"]
mod gauge;
#[path = "../../../src/store/tenure.rs"]
mod tenure;

use std::{sync::Arc, time::Duration};

use breaker::{Breaker, Failure};
use charge::Charge;
use count::Count;
use domain::clock::Timestamp;
use gauge::Gauge;
use loom::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};
use money::Money;
use tenure::Tenure;

fn main() {
    let models: [(&str, fn()); 8] = [
        ("what is told of a cost is whole", cost_is_whole),
        ("what is counted is never half seen", counts_are_seen),
        ("no count is lost", no_count_is_lost),
        (
            "no more places are taken than there are",
            places_have_a_bound,
        ),
        ("one looks after an open breaker", one_looks_after_a_breaker),
        (
            "a replaced instance gets no new time",
            replaced_gets_no_time,
        ),
        ("who took leave has left", leave_is_for_good),
        ("a use that has begun is waited for", || uses_are_told(2)),
    ];
    for (law, model) in models {
        loom::model(model);
        println!("{law}: ok");
    }
    // With a third thread there are too many interleavings to look at all.
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(2);
    bounded.check(|| uses_are_told(3));
    println!("the same, of three: ok");
}

fn cost_is_whole() {
    let charge = Charge::new();
    let handler = charge.clone();
    let handling = thread::spawn(move || {
        handler.set(Money::from_nanos(3));
        handler.set(Money::from_nanos(5));
    });
    let seen = charge.cost().map(Money::nanos);
    assert!(matches!(seen, None | Some(3 | 5)), "{seen:?}");
    handling.join().unwrap();
    assert_eq!(charge.cost(), Some(Money::from_nanos(5)));
}

fn counts_are_seen() {
    let charge = Charge::new();
    let handler = charge.clone();
    let handling = thread::spawn(move || {
        handler.add_input_tokens(7);
        handler.add_output_tokens(2);
    });
    if let Some(tokens) = charge.tokens() {
        assert_eq!(tokens.input, 7);
    }
    handling.join().unwrap();
    assert!(charge.reports_output());
    assert_eq!(charge.tokens().map(|tokens| tokens.output), Some(2));
}

fn no_count_is_lost() {
    let charge = Charge::new();
    let counting: Vec<_> = (0..2)
        .map(|_| {
            let handler = charge.clone();
            thread::spawn(move || {
                handler.add_output_tokens(3);
            })
        })
        .collect();
    for handler in counting {
        handler.join().unwrap();
    }
    assert_eq!(charge.tokens().map(|tokens| tokens.output), Some(6));
}

fn places_have_a_bound() {
    let (gauge, inside) = (Arc::new(Gauge::default()), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (gauge, inside) = (gauge.clone(), inside.clone());
            thread::spawn(move || {
                if Gauge::enter(&gauge.queued, 1) {
                    assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                    inside.fetch_sub(1, Ordering::Relaxed);
                    Gauge::leave(&gauge.queued, 1);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    assert_eq!(
        gauge.queued.load(Ordering::Relaxed),
        0,
        "all places are free again"
    );
}

/// That it is closed in the end loom can't show: it lets a store come between what an exchange read
/// and what it wrote.
fn one_looks_after_a_breaker() {
    let (breaker, looking) = (Arc::new(Breaker::default()), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (breaker, looking) = (breaker.clone(), looking.clone());
            thread::spawn(move || {
                if breaker.failed(Failure::Final, Duration::ZERO, Duration::ZERO) {
                    assert_eq!(looking.fetch_add(1, Ordering::Relaxed), 0);
                    assert!(breaker.is_open());
                    looking.fetch_sub(1, Ordering::Relaxed);
                    breaker.close(Duration::from_secs(1));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
}

fn at(secs: u64) -> (Duration, Timestamp) {
    let elapsed = Duration::from_secs(secs);
    let now = Timestamp::UNIX_EPOCH.checked_add(elapsed).unwrap();
    (elapsed, now)
}

fn confirm(tenure: &Tenure, instance: u64, secs: u64) {
    let (elapsed, now) = at(secs);
    tenure.confirm(instance, elapsed, now);
}

fn holds(tenure: &Tenure, instance: u64, secs: u64) -> bool {
    let (elapsed, now) = at(secs);
    tenure.holds(instance, elapsed, now)
}

/// Instance 1 was last heard of at 0 and may spend for four seconds; others may bury it after five.
fn replaced_gets_no_time() {
    let tenure = Arc::new(Tenure::default());
    confirm(&tenure, 1, 0);
    let writer = tenure.clone();
    let writing = thread::spawn(move || confirm(&writer, 2, 5));
    assert!(
        !holds(&tenure, 1, 5),
        "with the name of old and the time of new"
    );
    writing.join().unwrap();
    assert!(holds(&tenure, 2, 8) && !holds(&tenure, 1, 3));
}

fn leave_is_for_good() {
    let tenure = Arc::new(Tenure::default());
    let writer = tenure.clone();
    let writing = thread::spawn(move || confirm(&writer, 1, 0));
    tenure.end();
    assert!(!holds(&tenure, 1, 1));
    writing.join().unwrap();
    assert!(!holds(&tenure, 1, 1), "a sign of life that comes late");
}

/// Who waits until nothing is in use misses no use that has begun.
fn uses_are_told(users: usize) {
    let (count, told) = (Arc::new(Count::default()), Arc::new(AtomicUsize::new(0)));
    let once = {
        let (count, told) = (Arc::clone(&count), Arc::clone(&told));
        move || {
            let tell = || {
                told.fetch_add(1, Ordering::AcqRel);
            };
            let take_back = || assert!(told.fetch_sub(1, Ordering::AcqRel) > 0);
            count.begin(tell, take_back);
            assert!(told.load(Ordering::Acquire) > 0, "it is under way");
            count.end(take_back);
        }
    };
    let others: Vec<_> = (1..users).map(|_| thread::spawn(once.clone())).collect();
    once();
    others.into_iter().for_each(|other| other.join().unwrap());
    assert_eq!((count.get(), told.load(Ordering::Acquire)), (0, 0));
}

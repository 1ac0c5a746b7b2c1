//! Laws of counts while time stands still.

use std::sync::Arc;

use super::{Time, admits, each_rule, key, left, refused, remaining, take, together};
use crate::{
    domain::quota::{Quota, Quotas},
    store::{RateKey, RateOutcome, RateStore},
};

/// [`take`](RateStore::take) admits a full burst, whatever the rule, and not one unit more. Each
/// answer says what is left.
pub async fn each_window_holds_its_number_and_no_unit_more<S: RateStore>(store: S, _clock: Time) {
    for (number, quota) in each_rule().into_iter().enumerate() {
        let (name, quotas) = (number.to_string(), Quotas::from(quota));
        for before in (0..10).rev() {
            let taken = take(&store, &name, &quotas, 1).await;
            assert!(taken.is_admitted(), "{quotas:?}: {before} were left");
            assert_eq!(remaining(&taken.readings), [before]);
        }
        for _ in 0..20 {
            let more = take(&store, &name, &quotas, 1).await;
            assert!(!more.is_admitted(), "{quotas:?}: one too many");
            assert_eq!(remaining(&more.readings), [0]);
        }
        assert!(refused(&store, &name, &quotas, 1).await <= super::DAY);
    }
}

/// Another caller's use, or that under another limit's name, counts for nobody else.
pub async fn callers_and_limits_have_counts_of_their_own<S: RateStore>(store: S, _clock: Time) {
    let quotas = Quotas::from(Quota::per_hour(10));
    assert!(admits(&store, "ann", &quotas, 10).await);
    assert!(!admits(&store, "ann", &quotas, 1).await);
    let keys = [
        key("bob"),
        key("an"),
        key(""),
        RateKey::new(&Arc::from("addresses"), b"ann"),
        RateKey::new(&Arc::from(""), b"ann"),
    ];
    for other in keys {
        let taken = store.take(&other, &quotas, 10).await.unwrap();
        assert!(taken.is_admitted(), "{other:?}");
    }
}

/// A refused [`take`](RateStore::take) leaves everything as it was.
pub async fn a_refusal_takes_nothing<S: RateStore>(store: S, _clock: Time) {
    for (number, quota) in each_rule().into_iter().enumerate() {
        let (name, quotas) = (number.to_string(), Quotas::from(quota));
        assert!(admits(&store, &name, &quotas, 7).await);
        for _ in 0..20 {
            let refused = take(&store, &name, &quotas, 4).await;
            assert!(!refused.is_admitted());
            assert_eq!(remaining(&refused.readings), [3], "{quotas:?}");
        }
        assert_eq!(left(&store, &name, &quotas).await, [3]);
        assert!(admits(&store, &name, &quotas, 3).await);
    }
}

/// Several windows are one decision: what any of them refuses is taken from none.
pub async fn several_windows_are_taken_all_or_none<S: RateStore>(store: S, _clock: Time) {
    let quotas = together();
    for after in [[2, 4, 8], [1, 3, 7], [0, 2, 6]] {
        let taken = take(&store, "ann", &quotas, 1).await;
        assert!(taken.is_admitted());
        assert_eq!(remaining(&taken.readings), after);
    }
    for _ in 0..20 {
        let refused = take(&store, "ann", &quotas, 1).await;
        assert!(!refused.is_admitted());
        assert_eq!(remaining(&refused.readings), [0, 2, 6]);
    }
    assert_eq!(left(&store, "ann", &quotas).await, [0, 2, 6]);
    // And where the tightest comes last.
    let reversed = Quotas::new(quotas.as_slice().iter().rev().cloned()).unwrap();
    assert!(!admits(&store, "ann", &reversed, 1).await);
    assert_eq!(left(&store, "ann", &reversed).await, [6, 2, 0]);
}

/// A cost counts in full, or the request is refused.
pub async fn a_cost_is_taken_whole<S: RateStore>(store: S, _clock: Time) {
    let quotas = Quotas::from([
        Quota::per_hour(60),
        Quota::per_hour(600).strict().named("strict"),
    ]);
    let taken = take(&store, "ann", &quotas, 40).await;
    assert!(taken.is_admitted());
    assert_eq!(remaining(&taken.readings), [20, 560]);
    assert!(!admits(&store, "ann", &quotas, 21).await, "not in part");
    assert!(admits(&store, "ann", &quotas, 20).await);
    assert_eq!(left(&store, "ann", &quotas).await, [0, 540]);
}

/// What costs more than a window ever holds is [`TooCostly`](RateOutcome::TooCostly), and takes
/// nothing: nobody is told to wait for what never comes.
pub async fn what_a_window_never_holds_is_too_costly<S: RateStore>(store: S, _clock: Time) {
    for (number, quota) in each_rule().into_iter().enumerate() {
        let (name, quotas) = (number.to_string(), Quotas::from(quota));
        for cost in [11, u32::MAX] {
            let outcome = take(&store, &name, &quotas, cost).await.outcome;
            assert_eq!(outcome, RateOutcome::TooCostly, "{cost} of {quotas:?}");
        }
        assert!(admits(&store, &name, &quotas, 10).await);
        let outcome = take(&store, &name, &quotas, 11).await.outcome;
        assert_eq!(outcome, RateOutcome::TooCostly, "also when it is used up");
    }
    // A burst is what a bucket holds, whatever its limit; and one window is enough.
    let quotas = Quotas::from([Quota::per_hour(10).burst(4), Quota::per_hour(9).named("b")]);
    let outcome = take(&store, "burst", &quotas, 5).await.outcome;
    assert_eq!(outcome, RateOutcome::TooCostly);
    assert_eq!(left(&store, "burst", &quotas).await, [4, 9]);
}

/// A cost of 0 is admitted even where nothing is left.
pub async fn what_costs_nothing_is_admitted_and_takes_nothing<S: RateStore>(
    store: S,
    _clock: Time,
) {
    let quotas = together();
    for _ in 0..20 {
        assert!(admits(&store, "ann", &quotas, 0).await);
    }
    assert!(admits(&store, "ann", &quotas, 3).await);
    let free = take(&store, "ann", &quotas, 0).await;
    assert!(free.is_admitted());
    assert_eq!(remaining(&free.readings), [0, 2, 6]);
}

/// [`peek`](RateStore::peek) says what is left, in the order of the quotas, and changes nothing.
pub async fn a_look_takes_nothing<S: RateStore>(store: S, _clock: Time) {
    let quotas = together();
    for _ in 0..20 {
        assert_eq!(left(&store, "ann", &quotas).await, [3, 5, 9]);
    }
    let full = store.peek(&key("ann"), &quotas).await.unwrap();
    assert!(
        full.as_slice()
            .iter()
            .all(|reading| reading.reset.is_zero()),
        "a window that is full has no reset"
    );
    assert!(admits(&store, "ann", &quotas, 2).await);
    for _ in 0..20 {
        assert_eq!(left(&store, "ann", &quotas).await, [1, 3, 7]);
    }
    assert!(admits(&store, "ann", &quotas, 1).await);
}

/// [`reset`](RateStore::reset) forgets all windows of one key, whoever asks about them next, and no
/// other key's.
pub async fn a_reset_forgets_one_key_and_all_of_it<S: RateStore>(store: S, _clock: Time) {
    let (quotas, other) = (together(), Quotas::from(Quota::per_hour(7).named("other")));
    for name in ["ann", "bob"] {
        assert!(admits(&store, name, &quotas, 3).await);
        assert!(admits(&store, name, &other, 7).await);
        assert!(!admits(&store, name, &other, 1).await);
    }
    store.reset(&key("ann")).await.unwrap();
    store.reset(&key("nobody")).await.unwrap();
    assert_eq!(left(&store, "ann", &quotas).await, [3, 5, 9]);
    assert_eq!(left(&store, "ann", &other).await, [7]);
    assert!(admits(&store, "ann", &quotas, 3).await);
    assert_eq!(left(&store, "bob", &quotas).await, [0, 2, 6]);
    assert!(!admits(&store, "bob", &other, 1).await);
}

/// Use stays under a window's name when its number changes, and while other calls for the same key
/// name other windows. A call takes from, and is refused by, only those that it names.
pub async fn quotas_come_with_each_call<S: RateStore>(store: S, _clock: Time) {
    let of = |limit| {
        let strict = Quota::per_hour(limit).strict().named("strict");
        Quotas::from([Quota::per_hour(limit).named("bucket"), strict])
    };
    assert!(admits(&store, "ann", &of(10), 8).await);
    assert_eq!(left(&store, "ann", &of(100)).await, [92, 92]);
    assert_eq!(left(&store, "ann", &of(10)).await, [2, 2]);
    assert!(!admits(&store, "ann", &of(5), 1).await);
    let other = Quotas::from(Quota::per_hour(4).named("other"));
    assert!(
        admits(&store, "ann", &other, 4).await,
        "a window of its own"
    );
    assert!(!admits(&store, "ann", &other, 1).await);
    assert!(
        admits(&store, "ann", &of(10), 2).await,
        "which it is not refused by"
    );
    assert_eq!(left(&store, "ann", &of(10)).await, [0, 0]);
    assert_eq!(left(&store, "ann", &other).await, [0]);
}

/// However many come at once, and whatever else is asked meanwhile.
pub async fn of_a_hundred_at_once_as_many_are_admitted_as_fit<S: RateStore>(
    store: S,
    _clock: Time,
) {
    let quotas = together();
    let ann = key("ann");
    let attempts: Vec<_> = (0..100)
        .map(|_| {
            tokio::spawn(store.peek(&ann, &quotas));
            tokio::spawn(store.take(&ann, &quotas, 1))
        })
        .collect();
    let mut admitted = 0;
    for attempt in attempts {
        admitted += usize::from(attempt.await.unwrap().unwrap().is_admitted());
    }
    assert_eq!(admitted, 3);
    assert_eq!(left(&store, "ann", &quotas).await, [0, 2, 6]);
}

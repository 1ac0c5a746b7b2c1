//! Laws of estimates that are corrected.

use super::{DAY, HOUR, Time, admits, correct, each_rule, key, left, refused, take, together};
use crate::{
    domain::quota::{Quota, Quotas},
    store::{Correction, RateStore},
};

/// Units on top of an estimate are never refused by [`correct`](RateStore::correct): a window may
/// be overdrawn, and admits nothing until that has drained.
pub async fn what_was_used_beyond_an_estimate_counts_and_is_never_refused<S: RateStore>(
    store: S,
    clock: Time,
) {
    let quotas = Quotas::from(Quota::per_hour(10));
    let taken = take(&store, "ann", &quotas, 4).await;
    correct(&store, "ann", &quotas, &taken, 9).await;
    assert_eq!(left(&store, "ann", &quotas).await, [0]);
    // Three units too many: at ten an hour, and one unit on top, those are gone after 24 minutes.
    clock.advance(HOUR * 23 / 60);
    assert!(!admits(&store, "ann", &quotas, 1).await, "13 were used");
    clock.advance(HOUR / 60);
    assert!(admits(&store, "ann", &quotas, 1).await);
    for (number, quota) in each_rule().into_iter().enumerate() {
        let (name, quotas) = (number.to_string(), Quotas::from(quota));
        let used = Correction::used(3);
        store.correct(&key(&name), &quotas, used).await.unwrap();
        assert_eq!(left(&store, &name, &quotas).await, [7], "{quotas:?}");
        let most = Correction::used(u32::MAX);
        store.correct(&key(&name), &quotas, most).await.unwrap();
        refused(&store, &name, &quotas, 1).await;
    }
}

/// What a take had too much is there again, in each window and once.
pub async fn what_an_estimate_had_too_much_is_given_back_once<S: RateStore>(
    store: S,
    _clock: Time,
) {
    for (number, quota) in each_rule().into_iter().enumerate() {
        let (name, quotas) = (number.to_string(), Quotas::from(quota));
        let taken = take(&store, &name, &quotas, 8).await;
        correct(&store, &name, &quotas, &taken, 0).await;
        assert_eq!(left(&store, &name, &quotas).await, [2], "as estimated");
        correct(&store, &name, &quotas, &taken, -3).await;
        assert_eq!(left(&store, &name, &quotas).await, [5], "{quotas:?}");
        assert!(admits(&store, &name, &quotas, 5).await);
        refused(&store, &name, &quotas, 1).await;
    }
    let taken = take(&store, "ann", &together(), 3).await;
    correct(&store, "ann", &together(), &taken, -2).await;
    assert_eq!(left(&store, "ann", &together()).await, [2, 4, 8]);
}

/// However much is given back, and however often, a window never holds more than its number.
pub async fn a_window_is_never_more_than_full_however_much_is_given_back<S: RateStore>(
    store: S,
    _clock: Time,
) {
    for (number, quota) in each_rule().into_iter().enumerate() {
        let (name, quotas) = (number.to_string(), Quotas::from(quota));
        let taken = take(&store, &name, &quotas, 4).await;
        for units in [-4, -4, -100, i64::MIN] {
            correct(&store, &name, &quotas, &taken, units).await;
            assert_eq!(left(&store, &name, &quotas).await, [10], "{quotas:?}");
        }
        assert!(admits(&store, &name, &quotas, 10).await);
        refused(&store, &name, &quotas, 1).await;
    }
}

/// Units that have drained, or that belong to a day that is over, are nobody's: to give them back
/// would be to give away what others took since.
pub async fn what_has_left_its_window_is_not_given_back<S: RateStore>(store: S, clock: Time) {
    for (number, quota) in each_rule().into_iter().enumerate() {
        let (name, quotas) = (number.to_string(), Quotas::from(quota));
        let early = take(&store, &name, &quotas, 10).await;
        clock.advance(if quotas.as_slice()[0].period() == DAY {
            DAY
        } else {
            HOUR * 9 / 8
        });
        assert!(admits(&store, &name, &quotas, 10).await, "{quotas:?}");
        correct(&store, &name, &quotas, &early, -10).await;
        assert_eq!(left(&store, &name, &quotas).await, [0], "{quotas:?}");
        refused(&store, &name, &quotas, 1).await;
    }
}

/// A correction changes the windows that its call names, and no other key's.
pub async fn a_correction_reaches_only_the_windows_that_it_names<S: RateStore>(
    store: S,
    _clock: Time,
) {
    let quotas = together();
    let strict = Quotas::from(quotas.as_slice()[1].clone());
    let taken = take(&store, "ann", &quotas, 2).await;
    assert!(admits(&store, "bob", &quotas, 2).await);
    let one = Correction {
        units: -1,
        taken_at: taken.taken_at,
        readings: [taken.readings.as_slice()[1]].into_iter().collect(),
    };
    store.correct(&key("ann"), &strict, one).await.unwrap();
    assert_eq!(left(&store, "ann", &quotas).await, [1, 4, 7]);
    let used = Correction::used(2);
    store.correct(&key("ann"), &strict, used).await.unwrap();
    assert_eq!(left(&store, "ann", &quotas).await, [1, 2, 7]);
    assert_eq!(left(&store, "bob", &quotas).await, [1, 3, 7]);
}

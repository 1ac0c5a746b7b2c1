//! Laws of steps: which of them count, and how often.

use std::{sync::Arc, time::Duration};

use super::{
    DAY, Time, account, ann, apply, budget, costs, late_in_the_day, lease, nanos, pay, request,
    rows, step, today,
};
use crate::{
    domain::{
        books::{LateReport, LeaseId, LeaseStanding, LeaseStep, StepKind},
        clock::Clock,
    },
    store::LeaseStore,
};

/// A step that is sent again is answered and changes nothing, also where it is sent a hundred times
/// at once.
pub async fn a_step_counts_once<S: LeaseStore>(store: S, _clock: Time) {
    pay(&store, 1_000).await;
    let id = lease(&store, 7);
    for _ in 0..3 {
        let opened = apply(&store, step(id, 1, &[], 100)).await;
        assert!(opened.is_open);
        assert_eq!(
            (opened.amount, opened.left.account),
            (nanos(100), nanos(900))
        );
        assert_eq!(account(&store).await, (0, 100));
    }
    for _ in 0..3 {
        let charged = apply(&store, step(id, 2, &[10, 25], 65)).await;
        assert_eq!(
            (charged.amount, charged.left.account),
            (nanos(65), nanos(900))
        );
        assert_eq!(account(&store).await, (35, 65));
        assert_eq!(rows(&store).await.len(), 2);
    }
    let third = Arc::new(step(id, 3, &[5], 60));
    let sent: Vec<_> = (0..100)
        .map(|_| tokio::spawn(store.lease(Arc::clone(&third))))
        .collect();
    for sent in sent {
        assert_eq!(sent.await.unwrap().unwrap().amount, nanos(60));
    }
    assert_eq!(account(&store).await, (40, 60));
    assert_eq!(rows(&store).await.len(), 3);
    // One that came late changes nothing either.
    let late = apply(&store, step(id, 2, &[10, 25], 65)).await;
    assert_eq!(late.amount, nanos(60));
    assert_eq!(account(&store).await, (40, 60));
}

/// A lease begins with step 1, taken by an instance that is alive. Anything else is answered as a
/// lease that isn't open, holds nothing and charges nothing.
pub async fn a_lease_is_opened_by_its_first_step_and_for_a_living_instance<S: LeaseStore>(
    store: S,
    _clock: Time,
) {
    pay(&store, 1_000).await;
    let never_opened = apply(&store, step(lease(&store, 7), 2, &[10], 100)).await;
    assert_eq!(never_opened, LeaseStanding::default());
    let nobody = LeaseId {
        instance: store.tenure().instance().wrapping_add(1),
        number: 7,
    };
    for number in 1..3 {
        let strange = apply(&store, step(nobody, number, &[10], 100)).await;
        assert_eq!(
            strange,
            LeaseStanding::default(),
            "nobody alive has that name"
        );
    }
    assert_eq!(account(&store).await, (0, 0));
    assert_eq!(rows(&store).await, []);
}

/// The last step gives everything back, and no step of that lease counts after it.
pub async fn a_lease_ends_with_its_last_step<S: LeaseStore>(store: S, _clock: Time) {
    pay(&store, 1_000).await;
    let id = lease(&store, 7);
    apply(&store, step(id, 1, &[], 100)).await;
    let last = LeaseStep {
        ends: true,
        ..step(id, 2, &[10], 0)
    };
    assert_eq!(apply(&store, last).await.amount, nanos(0));
    assert_eq!(account(&store).await, (10, 0));
    let gone = apply(&store, step(id, 3, &[10], 100)).await;
    assert_eq!(gone, LeaseStanding::default());
    assert_eq!(account(&store).await, (10, 0));
    assert_eq!(rows(&store).await.len(), 1);
}

/// A late report is charged in the windows of its hold, once, whoever is alive; what its lease has
/// set aside pays first.
pub async fn a_late_report_counts_once_and_where_its_hold_did<S: LeaseStore>(
    store: S,
    clock: Time,
) {
    pay(&store, 1_000).await;
    late_in_the_day(&store, &clock).await;
    let open = lease(&store, 1);
    let opened = apply(&store, step(open, 1, &[], 100)).await;
    clock.advance(Duration::from_secs(3));
    // The budget's day begins.
    let of_today = store.hold(request(&store, 1)).await.unwrap().unwrap();
    store.settle(of_today, costs(1)).await.unwrap();
    assert_eq!(today(&store).await, (1, 0));
    let nobody = LeaseId {
        instance: open.instance.wrapping_add(1),
        number: 9,
    };
    let report = |id, lease| LeaseStep {
        kind: StepKind::Late(LateReport {
            windows: opened.windows,
            lease,
            was_resolved: false,
        }),
        ends: true,
        ..step(id, 1, &[20], 0)
    };
    for (number, held) in [(3, 80), (4, 60)] {
        for _ in 0..3 {
            let told = apply(&store, report(lease(&store, number), open)).await;
            assert_eq!(told, LeaseStanding::default(), "it is no lease");
            assert_eq!(account(&store).await, (101 - held, held));
        }
    }
    // Of a lease that nobody knows any more.
    for _ in 0..3 {
        apply(&store, report(nobody, lease(&store, 2))).await;
        assert_eq!(account(&store).await, (61, 60));
    }
    assert_eq!(rows(&store).await.len(), 4);
    assert_eq!(today(&store).await, (1, 0), "they were yesterday's");
}

/// [`tenure`](LeaseStore::tenure) says which instance the store is, for as long as that is sure;
/// [`clock`](LeaseStore::clock) and [`windows`](LeaseStore::windows) are those that it decides by.
pub async fn a_store_tells_its_instance_and_its_time<S: LeaseStore>(store: S, clock: Time) {
    pay(&store, 1_000).await;
    late_in_the_day(&store, &clock).await;
    let instance = store.tenure().instance();
    let (elapsed, now) = (clock.elapsed(), clock.now());
    assert!(!store.tenure().holds(instance.wrapping_add(1), elapsed, now));
    assert!(!store.tenure().holds(instance, elapsed + DAY, now + DAY));
    let own = LeaseStore::clock(&store);
    assert_eq!((own.elapsed(), own.now()), (elapsed, now));
    let opened = apply(&store, step(lease(&store, 7), 1, &[], 100)).await;
    assert_eq!(opened.windows, store.windows(now), "where its lease counts");
    let (here, tomorrow) = (store.windows(now), store.windows(now + DAY));
    assert!(here.month <= here.day && here.day <= now.as_second());
    assert!(here.day < tomorrow.day && tomorrow.day <= (now + DAY).as_second());
    let spent = store.budget(&ann(), &budget()).await.unwrap();
    assert_eq!(spent.day.held, nanos(100));
}

//! Late reports: calls that were settled when their hold, and the lease that it was granted from,
//! were over.

use std::{sync::Arc, time::Duration};

use tollgate::{
    books::{LateReport, LeaseId, LeaseStanding, LeaseStep, StepKind},
    clock::Clock,
    store::{LeaseStore, LeasedLedger, Ledger},
    usage::{Expiry, Outcome},
};

use crate::{
    engines::{account, balances, budget, costs, hold, nanos, pay, usage},
    leases::{Place, leased, silent, step, time_goes_on},
};

const DAY: Duration = Duration::from_secs(86_400);

fn late(id: LeaseId, report: LateReport, cost: i64, expiry: Expiry) -> Arc<LeaseStep> {
    Arc::new(LeaseStep {
        kind: StepKind::Late(report),
        ends: true,
        expiry,
        ..Arc::unwrap_or_clone(step(id, 1, &[cost], 0))
    })
}

pub(crate) async fn a_late_report_counts_once_and_where_its_hold_did(place: impl Place) {
    let (store, clock) = place.node().await;
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000).await;
    let of_store = |number| LeaseId {
        instance: store.tenure().instance(),
        number,
    };
    let opened = store.lease(step(of_store(1), 1, &[], 100)).await.unwrap();
    assert_eq!(opened.amount, nanos(100));
    clock.advance(DAY);
    let today = hold(&store, &ann, &[key.clone()], 1).await.unwrap();
    store.settle(today, costs(1)).await.unwrap();

    let nobody = LeaseId {
        instance: of_store(0).instance.wrapping_add(1),
        number: 9,
    };
    let of = |lease, was_resolved| LateReport {
        windows: opened.windows,
        lease,
        was_resolved,
    };
    // Under which name, of which lease, and what is charged of 20.
    let (open, forgotten) = (of_store(1), of_store(2));
    let reports = [
        (of_store(3), of(forgotten, false), Expiry::Charge, 20),
        (of_store(4), of(forgotten, true), Expiry::Release, 20),
        // It was charged, and nobody knows how much is left of that.
        (of_store(5), of(forgotten, true), Expiry::Charge, 0),
        (of_store(6), of(open, false), Expiry::Charge, 20),
        // Whoever has that name by now.
        (nobody, of(forgotten, false), Expiry::Release, 20),
    ];
    let (mut all, mut rows) = (1, 1);
    for (id, report, expiry, due) in reports {
        (all, rows) = (all + due, rows + 1);
        for _ in 0..2 {
            let told = store.lease(late(id, report, 20, expiry)).await.unwrap();
            assert_eq!(told, LeaseStanding::default(), "it is no lease");
            let listed = usage(&store, &ann).await;
            assert_eq!(listed.len(), rows, "{report:?}");
            assert_eq!(listed[0].settlement.charged, nanos(due), "{report:?}");
        }
        let spent = store.budget(&ann, &key).await.unwrap();
        assert_eq!(spent.day.settled, nanos(1), "{report:?}");
        assert_eq!(spent.total.settled, nanos(all), "{report:?}");
    }
    // What its lease had set aside pays first.
    balances(&store, &ann, 1_000, 80).await;
    let balance = store.balance(&ann).await.unwrap();
    assert_eq!(balance.settled, nanos(all));
}

pub(crate) async fn what_is_settled_late_counts_in_its_own_day(place: impl Place) {
    let (store, clock) = place.node().await;
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000_000).await;
    clock.advance(DAY - Duration::from_secs(2));
    let ledger = silent(store.clone());
    let (yesterday, before) = leased(&ledger, &ann, &[key.clone()]).await;
    time_goes_on(&store, &clock, 61).await;
    ledger.give_back().await.unwrap();
    assert_eq!(ledger.statistics().leases, 0, "its lease is over");
    let today = hold(&store, &ann, &[key.clone()], 3).await.unwrap();
    assert!(today.windows.day > yesterday.windows.day);
    store.settle(today, costs(3)).await.unwrap();
    ledger.settle(yesterday, costs(7)).await.unwrap();
    ledger.flush().await.unwrap();
    let spent = store.budget(&ann, &key).await.unwrap();
    assert_eq!(spent.day.settled, nanos(3));
    let all = nanos(before * 10 + 7 + 3);
    assert_eq!((spent.month.settled, spent.total.settled), (all, all));
    ledger.close().await.unwrap();
    balances(&store, &ann, 1_000_000, 0).await;
}

pub(crate) async fn a_lease_that_was_charged_whole_has_paid_for_its_late_calls(place: impl Place) {
    let ((stopped, own_clock), (other, clock)) = (place.node().await, place.node().await);
    let ann = account("ann");
    pay(&other, &ann, 1_000_000).await;
    let ledger = LeasedLedger::builder(stopped)
        .busy_from(1)
        .report_every(Duration::from_secs(3_600))
        .expiry(Expiry::Charge)
        .start()
        .unwrap();
    let (covered, before) = leased(&ledger, &ann, &[]).await;
    let (beyond, more) = leased(&ledger, &ann, &[]).await;
    let (unknown, again) = leased(&ledger, &ann, &[]).await;
    assert_eq!((more, again), (0, 0), "all are of one lease");
    let leased = other.balance(&ann).await.unwrap().held.nanos();
    time_goes_on(&other, &clock, 8).await;
    let mut charged = before * 10 + leased;
    let settled = async || other.balance(&ann).await.unwrap().settled.nanos();
    assert_eq!(settled().await, charged);
    // Their node comes back, and gives them up.
    own_clock.advance(Duration::from_secs(61));
    ledger.flush().await.unwrap();
    ledger.flush().await.unwrap();
    let rows = usage(&ledger, &ann).await;
    let abandoned = |place: usize| rows[place].settlement.outcome == Outcome::Abandoned;
    assert!((0..4).all(abandoned), "three holds and their lease");
    ledger.give_back().await.unwrap();
    assert_eq!(ledger.statistics().leases, 0);

    ledger.settle(covered, costs(10)).await.unwrap();
    ledger.flush().await.unwrap();
    assert_eq!(settled().await, charged, "it was paid for");
    ledger.settle(beyond, costs(leased + 5)).await.unwrap();
    ledger.flush().await.unwrap();
    charged += 15;
    assert_eq!(settled().await, charged);
    let rows = usage(&other, &ann).await;
    let charges = |place: usize| rows[place].settlement.charged;
    assert_eq!((charges(0), charges(1)), (nanos(15), nanos(0)));
    // The lease is forgotten: nobody knows how much it has paid for.
    clock.set(clock.now() + 2 * DAY);
    time_goes_on(&other, &clock, 3).await;
    ledger.settle(unknown, costs(10)).await.unwrap();
    ledger.flush().await.unwrap();
    assert_eq!(settled().await, charged);
    ledger.close().await.unwrap();
    balances(&other, &ann, 1_000_000, 0).await;
}

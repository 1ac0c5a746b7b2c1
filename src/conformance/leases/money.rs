//! Laws of the money that is leased.

use std::{sync::Arc, time::Duration};

use super::{
    Time, account, ann, apply, budget, late_in_the_day, lease, nanos, pay, request, rows, step,
    today,
};
use crate::{
    domain::{books::HoldRefusal, budget::SpendingLimits},
    store::LeaseStore,
};

/// A lease is set aside as a hold is: in the account and in each budget. Others are refused what is
/// left beyond it.
pub async fn what_is_leased_is_there_for_nobody_else<S: LeaseStore>(store: S, _clock: Time) {
    pay(&store, 1_000).await;
    let opened = apply(&store, step(lease(&store, 7), 1, &[], 100)).await;
    assert_eq!(
        (opened.amount, opened.left.account),
        (nanos(100), nanos(900))
    );
    assert_eq!(
        (account(&store).await, today(&store).await),
        ((0, 100), (0, 100))
    );
    let hold = |amount| store.hold(request(&store, amount));
    let refused = hold(901).await.unwrap().unwrap_err();
    assert_eq!(refused, HoldRefusal::OnlyHeld { limit: None });
    let held = hold(900).await.unwrap();
    assert!(held.is_ok());
    let second = apply(&store, step(lease(&store, 9), 1, &[], 100)).await;
    assert_eq!(second.amount, nanos(0), "there is nothing left");
}

/// A step grows a lease by an eighth at most of what is left, in the account or under the tightest
/// limit; so no number of steps passes a limit, and the answer says what is set aside, not what was
/// asked for.
pub async fn a_lease_grows_by_an_eighth_and_past_no_limit<S: LeaseStore>(store: S, _clock: Time) {
    pay(&store, 800).await;
    let id = lease(&store, 7);
    let opened = apply(&store, step(id, 1, &[], 1_000)).await;
    assert_eq!(
        (opened.amount, account(&store).await),
        (nanos(100), (0, 100))
    );
    let limits = SpendingLimits {
        daily: Some(nanos(150)),
        ..SpendingLimits::default()
    };
    store.set_limits(&ann(), &budget(), limits).await.unwrap();
    let grown = apply(&store, step(id, 2, &[], 1_000)).await;
    assert_eq!(grown.amount, nanos(100 + 50 / 8));
    assert_eq!(grown.left.budgets, Some(nanos(50 - 50 / 8)));
    for number in 3..100 {
        let grown = apply(&store, step(id, number, &[], 1_000)).await;
        assert!(grown.amount <= nanos(150), "{:?}", grown.amount);
        assert_eq!(account(&store).await, (0, grown.amount.nanos()));
    }
}

/// A lower target gives back what is above it.
pub async fn what_is_needed_no_more_is_given_back<S: LeaseStore>(store: S, _clock: Time) {
    pay(&store, 1_000).await;
    let id = lease(&store, 7);
    apply(&store, step(id, 1, &[], 100)).await;
    for (number, target) in [(2, 60), (3, 1), (4, 0)] {
        let shrunk = apply(&store, step(id, number, &[], target)).await;
        assert!(shrunk.is_open);
        assert_eq!(
            (shrunk.amount, account(&store).await),
            (nanos(target), (0, target))
        );
        assert_eq!(today(&store).await, (0, target));
    }
}

/// Each call of a step is charged what it cost, whatever was held for it, and has its row of usage.
pub async fn what_was_served_is_charged_and_written_down<S: LeaseStore>(store: S, _clock: Time) {
    pay(&store, 1_000).await;
    let id = lease(&store, 7);
    apply(&store, step(id, 1, &[], 100)).await;
    let charged = apply(&store, step(id, 2, &[10, 0, 25], 65)).await;
    assert_eq!(charged.amount, nanos(65));
    assert_eq!(
        (account(&store).await, today(&store).await),
        ((35, 65), (35, 65))
    );
    let rows = rows(&store).await;
    let mut listed: Vec<_> = rows
        .iter()
        .map(|row| (row.call.request_id.as_str(), row.settlement.charged.nanos()))
        .collect();
    listed.sort_unstable();
    assert_eq!(
        listed,
        [("call-2-0", 10), ("call-2-1", 0), ("call-2-2", 25)]
    );
}

/// The charge of a call isn't bounded by what its lease has left, nor by any limit: it was served.
pub async fn what_cost_more_than_was_leased_is_charged_all_the_same<S: LeaseStore>(
    store: S,
    _clock: Time,
) {
    pay(&store, 200).await;
    let id = lease(&store, 7);
    let opened = apply(&store, step(id, 1, &[], 25)).await;
    assert_eq!(opened.amount, nanos(25));
    let over = apply(&store, step(id, 2, &[300], 0)).await;
    assert_eq!((over.amount, over.left.account), (nanos(0), nanos(-100)));
    assert_eq!(account(&store).await, (300, 0));
    assert_eq!(rows(&store).await[0].settlement.charged, nanos(300));
}

/// A lease stays in the day and the month that it was opened in: what it charges counts there, and
/// it grows no more once they are over.
pub async fn a_charge_counts_in_the_day_of_its_lease<S: LeaseStore>(store: S, clock: Time) {
    pay(&store, 1_000).await;
    late_in_the_day(&store, &clock).await;
    let id = lease(&store, 7);
    let opened = apply(&store, step(id, 1, &[], 50)).await;
    clock.advance(Duration::from_secs(3));
    let charged = apply(&store, step(id, 2, &[10], 90)).await;
    assert!(charged.is_open);
    assert_eq!(charged.windows, opened.windows);
    assert_eq!(charged.amount, nanos(40), "another lease is opened today");
    assert_eq!(today(&store).await, (0, 0));
    let spent = store.budget(&ann(), &budget()).await.unwrap();
    assert_eq!(
        (spent.month.settled, spent.month.held),
        (nanos(10), nanos(40))
    );
    assert_eq!(account(&store).await, (10, 40));
}

/// Leases that are opened at once are told what is set aside for each, and together have no more
/// than there is.
pub async fn of_many_leases_at_once_no_more_is_set_aside_than_there_is<S: LeaseStore>(
    store: S,
    _clock: Time,
) {
    pay(&store, 100_000).await;
    let limits = SpendingLimits {
        total: Some(nanos(500)),
        ..SpendingLimits::default()
    };
    store.set_limits(&ann(), &budget(), limits).await.unwrap();
    let opened: Vec<_> = (0..50)
        .map(|number| {
            let step = step(lease(&store, number), 1, &[], 1_000);
            tokio::spawn(store.lease(Arc::new(step)))
        })
        .collect();
    let mut told = 0;
    for opened in opened {
        told += opened.await.unwrap().unwrap().amount.nanos();
    }
    assert!(told > 0 && told <= 500, "{told}");
    assert_eq!(
        (account(&store).await, today(&store).await),
        ((0, told), (0, told))
    );
}

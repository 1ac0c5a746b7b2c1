//! What is given back.

use std::time::Duration;

use tollgate::{
    books::{Budget, HoldRefusal},
    budget::{BudgetWindow, Calendar, SpendingLimits},
    clock::Clock,
    store::{AccountId, BudgetId, Ledger, Page, StoreErrorKind},
    usage::{Adjustment, Expiry, HoldRequest, UsageEntry},
};

use crate::{
    engines::{
        LedgerEngine, Time, account, balances, budget, costs, hold, kind, nanos, pay, request,
        usage,
    },
    rolling::rolling,
};

const DAY: Duration = Duration::from_secs(86_400);

fn back(account: &AccountId, amount: i64, reference: &str) -> Adjustment {
    Adjustment::new(account.clone(), nanos(amount), reference)
}

/// Serves a call that begins now; returns its row.
async fn spend<S: Ledger>(
    store: &S,
    clock: &Time,
    account: &AccountId,
    budgets: &[BudgetId],
    cost: i64,
) -> UsageEntry {
    let mut wish: HoldRequest = request(account, budgets, cost);
    wish.call.started_at = clock.now();
    wish.call.request_id = format!("request-of-{cost}").into();
    let held = store.hold(wish).await.unwrap().unwrap();
    store.settle(held, costs(cost)).await.unwrap();
    usage(store, account).await.swap_remove(0)
}

/// Settled in the day, in the month, and in all.
fn settled(budget: &Budget) -> [i64; 3] {
    [budget.day, budget.month, budget.total].map(|spent| spent.settled.nanos())
}

async fn spent<S: Ledger>(store: &S, account: &AccountId, id: &BudgetId) -> [i64; 3] {
    settled(&store.budget(account, id).await.unwrap())
}

pub(crate) async fn a_refund_lowers_what_its_budgets_have_spent<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key, team, other) = (account("ann"), budget("key-1"), budget("team"), budget("x"));
    pay(&store, &ann, 100).await;
    let daily = SpendingLimits {
        daily: Some(nanos(10)),
        ..SpendingLimits::default()
    };
    store.set_limits(&ann, &key, daily).await.unwrap();
    let both = [key.clone(), team.clone()];
    spend(&store, &clock, &ann, &both, 10).await;
    spend(&store, &clock, &ann, &[other.clone()], 3).await;
    let refused = hold(&store, &ann, &both, 6).await.unwrap_err();
    assert_eq!(refused, HoldRefusal::LimitReached(BudgetWindow::Day));

    let refund = back(&ann, 6, "refund-1").in_budget(key.clone());
    let refund = refund.in_budget(team.clone()).in_budget(key.clone());
    for _ in 0..2 {
        let balance = store.adjust(refund.clone()).await.unwrap();
        assert_eq!(balance.available(), nanos(93));
        assert_eq!(balance.settled, nanos(13), "the log says what was charged");
    }
    assert_eq!(spent(&store, &ann, &key).await, [4; 3]);
    assert_eq!(spent(&store, &ann, &team).await, [4; 3]);
    assert_eq!(spent(&store, &ann, &other).await, [3; 3]);
    let held = hold(&store, &ann, &both, 6).await.unwrap();
    store.settle(held, costs(1)).await.unwrap();
    balances(&store, &ann, 106, 0).await;

    // Never less than nothing, nor what is held.
    let held = hold(&store, &ann, &both, 2).await.unwrap();
    let all = back(&ann, 50, "refund-2").in_budget(key.clone());
    store.adjust(all).await.unwrap();
    let found = store.budget(&ann, &key).await.unwrap();
    assert_eq!((settled(&found), found.day.held), ([0; 3], nanos(2)));
    store.settle(held, costs(2)).await.unwrap();
    assert_eq!(spent(&store, &ann, &key).await, [2; 3]);
    // A budget that nobody has spent of.
    let unknown = budget("unknown");
    let vain = back(&ann, 1, "refund-3").in_budget(unknown.clone());
    store.adjust(vain).await.unwrap();
    assert_eq!(spent(&store, &ann, &unknown).await, [0; 3]);
    balances(&store, &ann, 157, 0).await;

    for amount in [0, -1, i64::MAX, i64::MIN] {
        let refund = back(&ann, amount, "refund-4").in_budget(key.clone());
        let refused = kind(store.adjust(refund).await);
        assert_eq!(refused, StoreErrorKind::Refused, "{amount}");
    }
    assert_eq!(spent(&store, &ann, &key).await, [2; 3]);
    balances(&store, &ann, 157, 0).await;
}

pub(crate) async fn a_refund_of_a_call_counts_where_the_call_did<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000).await;
    // To the second day of a month, whichever this is.
    clock.set("2026-03-02T12:00:00Z".parse().unwrap());
    let keys = [key.clone()];
    let monday = spend(&store, &clock, &ann, &keys, 10).await;
    clock.advance(DAY);
    let tuesday = spend(&store, &clock, &ann, &keys, 20).await;
    assert_eq!(spent(&store, &ann, &key).await, [20, 30, 30]);
    let refund = |row, amount, name| back(&ann, amount, name).in_budget(key.clone()).of_call(row);
    store.adjust(refund(&monday, 4, "a")).await.unwrap();
    assert_eq!(spent(&store, &ann, &key).await, [20, 26, 26]);
    store.adjust(refund(&tuesday, 5, "b")).await.unwrap();
    assert_eq!(spent(&store, &ann, &key).await, [15, 21, 21]);
    // The month after has its limit to itself.
    clock.advance(DAY * 31);
    spend(&store, &clock, &ann, &keys, 7).await;
    store.adjust(refund(&tuesday, 5, "c")).await.unwrap();
    assert_eq!(spent(&store, &ann, &key).await, [7, 7, 23]);
    let moved = store.transactions(&ann, Page::first(2)).await.unwrap();
    let told: Vec<_> = moved
        .items
        .iter()
        .map(|moved| (moved.amount.nanos(), moved.refunded.as_deref()))
        .collect();
    assert_eq!(told, [(5, Some("request-of-20")), (-7, None)]);
    assert_eq!(moved.items[0].reference, "c");
    balances(&store, &ann, 1_014, 0).await;
}

pub(crate) async fn a_call_is_given_back_once<S: LedgerEngine>(store: S, clock: Time) {
    let (ann, bob, key) = (account("ann"), account("bob"), budget("key-1"));
    pay(&store, &ann, 100).await;
    pay(&store, &bob, 100).await;
    let row = spend(&store, &clock, &ann, &[key.clone()], 10).await;
    let refund = |amount, name| {
        back(&ann, amount, name)
            .in_budget(key.clone())
            .of_call(&row)
    };
    assert_eq!(
        kind(store.adjust(refund(11, "all and more")).await),
        StoreErrorKind::Refused
    );
    store.adjust(refund(6, "a")).await.unwrap();
    assert_eq!(
        kind(store.adjust(refund(5, "b")).await),
        StoreErrorKind::Refused
    );
    // The same again is the same.
    store.adjust(refund(6, "a")).await.unwrap();
    store.adjust(refund(4, "c")).await.unwrap();
    assert_eq!(
        kind(store.adjust(refund(1, "d")).await),
        StoreErrorKind::Refused
    );
    assert_eq!(spent(&store, &ann, &key).await, [0; 3]);
    balances(&store, &ann, 110, 0).await;

    // One reference stands for one refund.
    for other in [
        refund(5, "a"),
        back(&ann, 6, "a"),
        back(&ann, 6, "a").in_budget(key.clone()),
        back(&ann, 6, "a").of_call(&row),
        refund(6, "a").in_budget(budget("team-1")),
    ] {
        assert_eq!(kind(store.adjust(other).await), StoreErrorKind::Conflict);
    }
    // Another's row, no row, a row of another call.
    let mut others = [back(&bob, 1, "e"), back(&ann, 1, "f"), back(&ann, 1, "g")];
    for other in &mut others {
        *other = other.clone().of_call(&row);
    }
    others[1].call.as_mut().unwrap().position += 1_000;
    others[2].call.as_mut().unwrap().request_id = "request-of-others".into();
    for other in others {
        let name = other.reference.clone();
        let found = kind(store.adjust(other).await);
        assert_eq!(found, StoreErrorKind::NotFound, "{name}");
    }
    balances(&store, &ann, 110, 0).await;
    balances(&store, &bob, 100, 0).await;
}

pub(crate) async fn refunds_of_one_call_that_meet_give_it_back_once<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 100).await;
    let row = spend(&store, &clock, &ann, &[key.clone()], 10).await;
    let asked: Vec<_> = (0..20)
        .map(|number| {
            let refund = back(&ann, 3, &format!("refund-{number}")).in_budget(key.clone());
            store.adjust(refund.of_call(&row))
        })
        .collect();
    let mut given = 0;
    for answer in asked {
        match answer.await {
            Ok(_) => given += 1,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Refused),
        }
    }
    assert_eq!(given, 3);
    assert_eq!(spent(&store, &ann, &key).await, [1; 3]);
    balances(&store, &ann, 109, 0).await;
}

pub(crate) async fn in_a_window_that_rolls_a_refund_takes_the_call_s_own_charge<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000).await;
    store
        .set_limits(&ann, &key, rolling(600, 100))
        .await
        .unwrap();
    let counted = async || {
        let found = store.budget(&ann, &key).await.unwrap();
        found.rolling.unwrap().settled().nanos()
    };
    let keys = [key.clone()];
    clock.set("2026-03-02T12:00:00Z".parse().unwrap());
    spend(&store, &clock, &ann, &keys, 30).await;
    clock.advance(Duration::from_secs(300));
    let second = spend(&store, &clock, &ann, &keys, 70).await;
    assert!(hold(&store, &ann, &keys, 1).await.is_err());
    let refund = |amount, name| back(&ann, amount, name).in_budget(key.clone());
    store
        .adjust(refund(50, "a").of_call(&second))
        .await
        .unwrap();
    assert_eq!(counted().await, 50);
    let held = hold(&store, &ann, &keys, 50).await.unwrap();
    store.settle(held, costs(0)).await.unwrap();
    // Which call it was isn't said: the charge that leaves first.
    store.adjust(refund(10, "b")).await.unwrap();
    assert_eq!(counted().await, 40);
    clock.advance(Duration::from_secs(310));
    assert_eq!(counted().await, 20, "what was left of the second");
    clock.advance(Duration::from_secs(310));
    assert_eq!(counted().await, 0);
    // It has left the window before.
    spend(&store, &clock, &ann, &keys, 5).await;
    store.adjust(refund(9, "c")).await.unwrap();
    assert_eq!(counted().await, 0);
    spend(&store, &clock, &ann, &keys, 5).await;
    clock.advance(Duration::from_secs(1_200));
    store
        .adjust(refund(20, "d").of_call(&second))
        .await
        .unwrap();
    assert_eq!(counted().await, 0);
    balances(&store, &ann, 1_089, 0).await;
}

/// Its charge has left the window, or came before the limit did: what others spent still counts.
pub(crate) async fn a_refund_takes_nothing_from_other_calls_in_a_window_that_rolls<
    S: LedgerEngine,
>(
    store: S,
    clock: Time,
) {
    let (ann, left, early) = (account("ann"), budget("left"), budget("early"));
    pay(&store, &ann, 1_000).await;
    // To noon, so that neither the day nor the month lies within the window.
    clock.set("2026-03-15T12:00:00Z".parse().unwrap());
    let limit = rolling(600, 100);
    store.set_limits(&ann, &left, limit.clone()).await.unwrap();
    let both = [left.clone(), early.clone()];
    let old = spend(&store, &clock, &ann, &both, 99).await;
    clock.advance(Duration::from_secs(30));
    store.set_limits(&ann, &early, limit).await.unwrap();
    let only = std::slice::from_ref(&early);
    spend(&store, &clock, &ann, only, 100).await;
    let refund =
        |id: &BudgetId, amount, name| back(&ann, amount, name).in_budget(id.clone()).of_call(&old);
    store.adjust(refund(&early, 9, "a")).await.unwrap();
    assert!(hold(&store, &ann, only, 1).await.is_err());
    let found = store.budget(&ann, &early).await.unwrap();
    assert_eq!(found.rolling.unwrap().settled(), nanos(100));

    clock.advance(Duration::from_secs(1_200));
    let only = std::slice::from_ref(&left);
    spend(&store, &clock, &ann, only, 100).await;
    store.adjust(refund(&left, 90, "b")).await.unwrap();
    assert!(hold(&store, &ann, only, 1).await.is_err());
    let found = store.budget(&ann, &left).await.unwrap();
    assert_eq!(found.rolling.as_ref().unwrap().settled(), nanos(100));
    assert_eq!(settled(&found), [109; 3]);
    balances(&store, &ann, 1_099, 0).await;
}

/// That of its hold, which is not always the one in which it began.
pub(crate) async fn a_refund_finds_the_day_in_which_its_call_was_charged<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000).await;
    let keys = [key.clone()];
    let give_back = async |row: &UsageEntry, name: &str| {
        let refund = back(&ann, row.settlement.charged.nanos(), name);
        let refund = refund.in_budget(key.clone()).of_call(row);
        store.adjust(refund).await.unwrap();
    };
    // Begun before midnight, held after it; and the same of one that nobody settles.
    for expiry in [None, Some(Expiry::Charge)] {
        clock.set("2026-03-31T23:59:59Z".parse().unwrap());
        let mut wish = request(&ann, &keys, 10);
        wish.call.started_at = clock.now();
        wish.expiry = expiry.unwrap_or_default();
        clock.advance(Duration::from_secs(2));
        let held = store.hold(wish).await.unwrap().unwrap();
        if expiry.is_some() {
            drop(held);
            clock.advance(Duration::from_secs(70));
            store.flush().await.unwrap();
        } else {
            store.settle(held, costs(10)).await.unwrap();
        }
        let row = usage(&store, &ann).await.swap_remove(0);
        assert_eq!(spent(&store, &ann, &key).await, [10; 3]);
        let windows = row.settlement.details.as_ref().unwrap().windows;
        let april = Calendar::utc().windows("2026-04-01T00:00:00Z".parse().unwrap());
        assert_eq!(windows, Some(april));
        give_back(&row, &format!("{:?}", row.settlement.outcome)).await;
        assert_eq!(spent(&store, &ann, &key).await, [0; 3]);
    }
    // A clock that is set back reopens no day.
    clock.set("2026-04-03T00:00:10Z".parse().unwrap());
    let row = spend(&store, &clock, &ann, &keys, 5).await;
    assert_eq!(row.settlement.details, None, "it is as its beginning says");
    clock.set("2026-04-02T23:59:50Z".parse().unwrap());
    let row = spend(&store, &clock, &ann, &keys, 10).await;
    assert_eq!(spent(&store, &ann, &key).await, [15; 3]);
    give_back(&row, "back").await;
    assert_eq!(spent(&store, &ann, &key).await, [5; 3]);
}

pub(crate) async fn a_refund_that_is_refused_leaves_its_reference_free<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, bob, key) = (account("ann"), account("bob"), budget("key-1"));
    pay(&store, &ann, 1_000).await;
    pay(&store, &bob, 1_000).await;
    let row = spend(&store, &clock, &ann, &[key.clone()], 10).await;
    let refund = |amount, name| {
        let refund = back(&ann, amount, name).in_budget(key.clone());
        refund.of_call(&row)
    };
    let refused = kind(store.adjust(refund(11, "ticket-7")).await);
    assert_eq!(refused, StoreErrorKind::Refused);
    store.adjust(refund(10, "ticket-7")).await.unwrap();
    // Again is the same, though nothing is left to give back.
    store.adjust(refund(10, "ticket-7")).await.unwrap();
    let refused = kind(store.adjust(refund(1, "ticket-8")).await);
    assert_eq!(refused, StoreErrorKind::Refused);
    let unknown = back(&bob, 1, "ticket-8").of_call(&row);
    assert_eq!(kind(store.adjust(unknown).await), StoreErrorKind::NotFound);
    store.adjust(back(&bob, 3, "ticket-8")).await.unwrap();
    assert_eq!(spent(&store, &ann, &key).await, [0; 3]);
    balances(&store, &ann, 1_010, 0).await;
    balances(&store, &bob, 1_003, 0).await;
}

pub(crate) async fn a_refund_without_sense_is_refused_before_all_else<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000).await;
    let row = spend(&store, &clock, &ann, &[key.clone()], 10).await;
    let mut unknown = row.clone();
    unknown.position = u64::MAX;
    store.adjust(back(&ann, 1, "taken")).await.unwrap();
    let many = (0..65).map(|number| budget(&format!("team-{number}")));
    let everywhere = many.fold(back(&ann, 1, "many"), Adjustment::in_budget);
    for refund in [
        everywhere,
        back(&ann, -1, "a").of_call(&unknown),
        back(&ann, 0, "b").of_call(&unknown),
        back(&ann, i64::MIN, "c").of_call(&row),
        back(&ann, i64::MAX, "d").of_call(&row),
        back(&ann, -5, "taken").of_call(&row),
        back(&ann, 0, "taken").in_budget(key.clone()),
        back(&ann, 0, "taken"),
    ] {
        let name = format!("{refund:?}");
        let refused = kind(store.adjust(refund).await);
        assert_eq!(refused, StoreErrorKind::Refused, "{name}");
    }
    let none = kind(store.adjust(back(&ann, 1, "e").of_call(&unknown)).await);
    assert_eq!(none, StoreErrorKind::NotFound);
    assert_eq!(spent(&store, &ann, &key).await, [10; 3]);
    balances(&store, &ann, 1_001, 0).await;
}

/// A lease of yesterday, charged today because its node fell silent.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
async fn a_lease_is_given_back_to_its_own_day<S: tollgate::store::LeaseStore + Clone>(
    (dead, own): (S, Time),
    (other, clock): (S, Time),
) {
    use std::sync::Arc;
    use tollgate::books::{LeaseId, LeaseStep};
    for clock in [&own, &clock] {
        clock.set("2026-03-02T23:59:55Z".parse().unwrap());
    }
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&other, &ann, 1_000).await;
    let id = LeaseId {
        instance: dead.tenure().instance(),
        number: 7,
    };
    let step = LeaseStep {
        expiry: Expiry::Charge,
        ..Arc::unwrap_or_clone(crate::leases::step(id, 1, &[], 12))
    };
    dead.lease(Arc::new(step)).await.unwrap();
    crate::leases::time_goes_on(&other, &clock, 12).await;
    let rows = usage(&other, &ann).await;
    assert_eq!(rows[0].settlement.charged, nanos(12));
    assert_eq!(spent(&other, &ann, &key).await, [0, 12, 12], "of yesterday");
    spend(&other, &clock, &ann, &[key.clone()], 100).await;
    other.adjust(rows[0].refund(nanos(12), "a")).await.unwrap();
    assert_eq!(spent(&other, &ann, &key).await, [100; 3]);
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_refund_of_a_lease_counts_in_its_own_day_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let dead = crate::engines::sqlite(folder.path()).await;
    let other = crate::engines::sqlite(folder.path()).await;
    a_lease_is_given_back_to_its_own_day(dead, other).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_refund_of_a_lease_counts_in_its_own_day_postgres() {
    let Some(place) = crate::postgres_server::database().await else {
        return;
    };
    let dead = crate::engines::postgres_on(place.clone()).await;
    let other = crate::engines::postgres_on(place).await;
    a_lease_is_given_back_to_its_own_day(dead, other).await;
}

//! Leases: what a store must do with their steps, and what nodes that have them must never do.

use std::{sync::Arc, time::Duration};

use tollgate::{
    books::{HoldRefusal, LeaseId, LeaseStanding, LeaseStep, Served, StepKind},
    budget::{BudgetWindow, SpendingLimits},
    clock::Clock,
    store::{AccountId, BudgetId, LeaseStore, LeasedLedger, Ledger},
    usage::{Expiry, Hold, Outcome},
};

use crate::{
    engines::{Time, account, balances, budget, call, costs, hold, nanos, pay, request, usage},
    leased::eager,
};

/// What several nodes work on, each with a store and a clock of its own.
pub(crate) trait Place {
    type Store: LeaseStore + Clone;

    async fn node(&self) -> (Self::Store, Time);
}

/// A node that tells nothing unless it is asked to: as one that is killed or stopped.
pub(crate) fn silent(store: impl LeaseStore) -> LeasedLedger {
    LeasedLedger::builder(store)
        .busy_from(1)
        .report_every(Duration::from_secs(3_600))
        .start()
        .unwrap()
}

/// Calls until one was paid for from a lease; returns its hold and how many calls were charged 10
/// before.
pub(crate) async fn leased(
    ledger: &LeasedLedger,
    owner: &AccountId,
    budgets: &[BudgetId],
) -> (Hold, i64) {
    for before in 0..10_000 {
        let here = ledger.statistics().held_here;
        let held = hold(ledger, owner, budgets, 10).await.unwrap();
        if ledger.statistics().held_here > here {
            return (held, before);
        }
        ledger.settle(held, costs(10)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("no lease was taken");
}

/// Time goes on for a node alone, in small steps, and its store notices.
pub(crate) async fn time_goes_on(store: &impl Ledger, clock: &Time, secs: u64) {
    for _ in 0..secs {
        clock.advance(Duration::from_secs(1));
        store.flush().await.unwrap();
    }
}

pub(crate) fn step(id: LeaseId, number: u64, served: &[i64], target: i64) -> Arc<LeaseStep> {
    let ann = account("ann");
    let served = served.iter().map(|cost| Served {
        call: call(&ann, &format!("served-{number}")),
        held: nanos(10),
        settlement: costs(*cost),
    });
    Arc::new(LeaseStep {
        id,
        kind: StepKind::Lease,
        number,
        budgets: Arc::from([budget("key-1")]),
        served: served.collect(),
        account: ann,
        expiry: Expiry::Release,
        target: nanos(target),
        ends: false,
    })
}

pub(crate) async fn a_step_counts_once_and_a_lease_ends_at_nothing(place: impl Place) {
    let (store, _) = place.node().await;
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000).await;
    let id = LeaseId {
        instance: store.tenure().instance(),
        number: 7,
    };
    let none = store.lease(step(id, 2, &[10], 100)).await.unwrap();
    assert_eq!(none, LeaseStanding::default(), "it was never opened");
    let strange = LeaseId {
        instance: id.instance.wrapping_add(1),
        ..id
    };
    let none = store.lease(step(strange, 1, &[], 100)).await.unwrap();
    assert!(!none.is_open, "nobody alive has that name");
    balances(&store, &ann, 1_000, 0).await;

    for _ in 0..2 {
        let opened = store.lease(step(id, 1, &[], 100)).await.unwrap();
        assert!(opened.is_open);
        assert_eq!(
            (opened.amount, opened.left.account),
            (nanos(100), nanos(900))
        );
    }
    balances(&store, &ann, 1_000, 100).await;
    for _ in 0..2 {
        let charged = store.lease(step(id, 2, &[10, 0, 25], 65)).await.unwrap();
        assert_eq!(
            (charged.amount, charged.left.account),
            (nanos(65), nanos(900))
        );
    }
    assert_eq!(usage(&store, &ann).await.len(), 3);
    balances(&store, &ann, 1_000, 65).await;
    let spent = store.budget(&ann, &key).await.unwrap();
    assert_eq!((spent.day.settled, spent.day.held), (nanos(35), nanos(65)));

    // No more than an eighth of what is left, and nothing beyond a limit.
    let grown = store.lease(step(id, 3, &[], 1_000)).await.unwrap();
    assert_eq!(grown.amount, nanos(65 + 900 / 8));
    let limits = SpendingLimits {
        daily: Some(nanos(100)),
        ..SpendingLimits::default()
    };
    store.set_limits(&ann, &key, limits).await.unwrap();
    let told = store.lease(step(id, 4, &[], 2_000)).await.unwrap();
    assert_eq!(told.amount, grown.amount);
    assert_eq!(told.left.least(), nanos(100 - 35 - grown.amount.nanos()));

    // What cost more than there was is charged all the same.
    let over = store.lease(step(id, 5, &[300], 0)).await.unwrap();
    assert_eq!(over.amount, nanos(0));
    balances(&store, &ann, 1_000, 0).await;
    let mut last = Arc::unwrap_or_clone(step(id, 6, &[1], 0));
    last.ends = true;
    assert!(store.lease(Arc::new(last)).await.unwrap().is_open);
    let gone = store.lease(step(id, 7, &[1], 0)).await.unwrap();
    assert_eq!(gone, LeaseStanding::default());
    balances(&store, &ann, 1_000, 0).await;
    assert_eq!(usage(&store, &ann).await.len(), 5);
}

pub(crate) async fn a_busy_account_is_paid_for_from_a_lease(place: impl Place) {
    let (store, _) = place.node().await;
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000_000).await;
    let ledger = eager(store.clone());
    let mut charged = 0;
    for number in 0..2_000 {
        let held = hold(&ledger, &ann, &[key.clone()], 10).await.unwrap();
        let cost = [10, 0, 3, 12][number % 4];
        charged += cost;
        ledger.settle(held, costs(cost)).await.unwrap();
        if number % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let did = ledger.statistics();
    assert!(did.held_here > 1_000, "{did:?}");
    let balance = ledger.balance(&ann).await.unwrap();
    assert_eq!(
        balance.settled,
        nanos(charged),
        "asked here, it is up to date"
    );
    ledger.give_back().await.unwrap();
    balances(&store, &ann, 1_000_000, 0).await;
    assert_eq!(usage(&store, &ann).await.len(), 2_000);
    let spent = store.budget(&ann, &key).await.unwrap();
    assert_eq!(
        (spent.total.settled, spent.total.held),
        (nanos(charged), nanos(0))
    );
    ledger.close().await.unwrap();
}

/// `price` each, until all nodes are refused for good.
async fn serve_all(ledger: LeasedLedger, served: Arc<std::sync::atomic::AtomicI64>) {
    use std::sync::atomic::Ordering;
    let ann = account("ann");
    let mut refused = 0;
    // What another node has is given back within a second.
    while refused < 150 {
        match hold(&ledger, &ann, &[budget("key-1")], 10).await {
            Ok(held) => {
                served.fetch_add(1, Ordering::Relaxed);
                refused = 0;
                ledger.settle(held, costs(10)).await.unwrap();
            }
            Err(_) => {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

pub(crate) async fn four_nodes_spend_the_last_cent_and_no_more(place: impl Place) {
    let (mut stores, mut ledgers) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let (store, clock) = place.node().await;
        ledgers.push((eager(store.clone()), clock));
        stores.push(store);
    }
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&stores[0], &ann, 1_000_000).await;
    let limits = SpendingLimits {
        total: Some(nanos(20_007)),
        ..SpendingLimits::default()
    };
    stores[0].set_limits(&ann, &key, limits).await.unwrap();
    let served = Arc::default();
    let nodes: Vec<_> = ledgers
        .iter()
        .map(|(ledger, _)| tokio::spawn(serve_all(ledger.clone(), Arc::clone(&served))))
        .collect();
    for node in nodes {
        node.await.unwrap();
    }
    let here: u64 = ledgers
        .iter()
        .map(|(ledger, _)| ledger.statistics().held_here)
        .sum();
    assert!(here > 0, "it was about leases");
    assert_eq!(served.load(std::sync::atomic::Ordering::Relaxed), 2_000);
    for (ledger, _) in ledgers {
        ledger.close().await.unwrap();
    }
    balances(&stores[1], &ann, 1_000_000, 0).await;
    let spent = stores[1].budget(&ann, &key).await.unwrap();
    assert_eq!(spent.total.settled, nanos(20_000));
}

pub(crate) async fn a_limit_that_is_lowered_elsewhere_counts_soon(place: impl Place) {
    let ((here, clock), (there, _)) = (place.node().await, place.node().await);
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&here, &ann, 1_000_000).await;
    let ledger = eager(here.clone());
    let (held, _) = leased(&ledger, &ann, &[key.clone()]).await;
    ledger.settle(held, costs(10)).await.unwrap();
    let limits = SpendingLimits {
        daily: Some(nanos(0)),
        ..SpendingLimits::default()
    };
    there.set_limits(&ann, &key, limits.clone()).await.unwrap();
    let refused = async {
        loop {
            match hold(&ledger, &ann, &[key.clone()], 10).await {
                Ok(held) => ledger.settle(held, costs(10)).await.unwrap(),
                Err(refusal) => return refusal,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let refusal = tokio::time::timeout(Duration::from_secs(2), refused).await;
    assert_eq!(
        refusal.unwrap(),
        HoldRefusal::LimitReached(BudgetWindow::Day)
    );
    let spent = there.budget(&ann, &key).await.unwrap();
    assert_eq!(spent.day.held, nanos(0), "what was leased is given back");

    // And on the node that sets it, at once. An account that had too little left is leased again a
    // second later.
    clock.advance(Duration::from_secs(2));
    let open = SpendingLimits::default();
    ledger.set_limits(&ann, &key, open).await.unwrap();
    let (held, _) = leased(&ledger, &ann, &[key.clone()]).await;
    ledger.settle(held, costs(10)).await.unwrap();
    ledger.set_limits(&ann, &key, limits).await.unwrap();
    assert!(hold(&ledger, &ann, &[key.clone()], 10).await.is_err());
    ledger.close().await.unwrap();
}

pub(crate) async fn a_node_that_was_stopped_spends_nothing_and_is_heard_once(place: impl Place) {
    let ((stopped, own_clock), (other, clock)) = (place.node().await, place.node().await);
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&other, &ann, 1_000_000).await;
    let ledger = silent(stopped.clone());
    let (under_way, before) = leased(&ledger, &ann, &[key.clone()]).await;
    let unreported = hold(&ledger, &ann, &[key.clone()], 10).await.unwrap();
    ledger.settle(unreported, costs(10)).await.unwrap();
    time_goes_on(&other, &clock, 8).await;
    balances(&other, &ann, 1_000_000, 0).await;
    let rest = 1_000_000 - before * 10;
    let all = hold(&other, &ann, &[], rest).await.unwrap();
    other.settle(all, costs(rest)).await.unwrap();

    // It goes on: its clock has moved, and others have taken it for dead.
    own_clock.advance(Duration::from_secs(8));
    let here = ledger.statistics().held_here;
    let refused = hold(&ledger, &ann, &[key.clone()], 10).await.unwrap_err();
    assert_eq!(refused, HoldRefusal::InsufficientCredits);
    assert_eq!(ledger.statistics().held_here, here, "nothing is spent");
    ledger.settle(under_way, costs(7)).await.unwrap();
    ledger.flush().await.unwrap();
    ledger.flush().await.unwrap();
    // What it had served is an overrun.
    let balance = other.balance(&ann).await.unwrap();
    assert_eq!(balance.settled, nanos(1_000_000 + 10 + 7));
    ledger.close().await.unwrap();
    balances(&other, &ann, 1_000_000, 0).await;
    stopped.flush().await.unwrap();
}

pub(crate) async fn a_killed_node_costs_what_it_had_not_told(place: impl Place) {
    let ((killed, _), (other, clock)) = (place.node().await, place.node().await);
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&other, &ann, 1_000_000).await;
    let ledger = silent(killed);
    let (under_way, before) = leased(&ledger, &ann, &[key.clone()]).await;
    let told = hold(&ledger, &ann, &[key.clone()], 10).await.unwrap();
    ledger.settle(told, costs(10)).await.unwrap();
    ledger.flush().await.unwrap();
    let (untold, more) = leased(&ledger, &ann, &[key.clone()]).await;
    ledger.settle(untold, costs(10)).await.unwrap();
    let leased = other.balance(&ann).await.unwrap().held;
    assert!(leased >= nanos(20), "others see it as held: {leased}");
    // From here on it does nothing any more.
    std::mem::forget((ledger, under_way));
    time_goes_on(&other, &clock, 8).await;
    balances(&other, &ann, 1_000_000, 0).await;
    let settled = other.balance(&ann).await.unwrap().settled;
    assert_eq!(settled, nanos((before + 1 + more) * 10));
}

pub(crate) async fn where_it_is_charged_whole_nothing_is_charged_twice(place: impl Place) {
    let ((stopped, own_clock), (other, clock)) = (place.node().await, place.node().await);
    let ann = account("ann");
    pay(&other, &ann, 1_000_000).await;
    let ledger = LeasedLedger::builder(stopped)
        .busy_from(1)
        .report_every(Duration::from_secs(3_600))
        .expiry(Expiry::Charge)
        .start()
        .unwrap();
    let (held, before) = leased(&ledger, &ann, &[]).await;
    ledger.settle(held, costs(10)).await.unwrap();
    let leased = other.balance(&ann).await.unwrap().held.nanos();
    time_goes_on(&other, &clock, 8).await;
    let charged = before * 10 + leased;
    balances(&other, &ann, 1_000_000, 0).await;
    assert_eq!(other.balance(&ann).await.unwrap().settled, nanos(charged));
    let rows = usage(&other, &ann).await;
    assert_eq!(rows[0].settlement.outcome, Outcome::Abandoned);
    assert_eq!(rows[0].settlement.charged, nanos(leased));
    own_clock.advance(Duration::from_secs(8));
    ledger.close().await.unwrap();
    assert_eq!(other.balance(&ann).await.unwrap().settled, nanos(charged));
    balances(&other, &ann, 1_000_000, 0).await;
    assert_eq!(
        usage(&other, &ann).await[0].settlement.charged,
        nanos(0),
        "it was paid for"
    );
}

pub(crate) async fn a_lease_ends_with_its_day(place: impl Place) {
    let (store, clock) = place.node().await;
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000_000).await;
    clock.advance(Duration::from_secs(86_400 - 2));
    let ledger = silent(store.clone());
    let (yesterday, before) = leased(&ledger, &ann, &[key.clone()]).await;
    clock.advance(Duration::from_secs(3));
    store.flush().await.unwrap();
    let here = ledger.statistics().held_here;
    let today = hold(&ledger, &ann, &[key.clone()], 10).await.unwrap();
    assert_eq!(ledger.statistics().held_here, here);
    assert!(today.windows.day > yesterday.windows.day);
    ledger.settle(yesterday, costs(10)).await.unwrap();
    ledger.settle(today, costs(7)).await.unwrap();
    ledger.close().await.unwrap();
    let spent = store.budget(&ann, &key).await.unwrap();
    assert_eq!((spent.day.settled, spent.day.held), (nanos(7), nanos(0)));
    let all = (before + 1) * 10 + 7;
    assert_eq!(
        (spent.month.settled, spent.month.held),
        (nanos(all), nanos(0))
    );
    balances(&store, &ann, 1_000_000, 0).await;
}

pub(crate) async fn what_must_be_durable_is_the_store_s(place: impl Place) {
    let (store, clock) = place.node().await;
    let ann = account("ann");
    pay(&store, &ann, 1_000_000).await;
    let ledger = eager(store.clone());
    let (held, _) = leased(&ledger, &ann, &[]).await;
    ledger.settle(held, costs(10)).await.unwrap();
    let here = ledger.statistics().held_here;
    let mut once = request(&ann, &[], 10);
    once.idempotency = Some(tollgate::usage::Idempotency {
        key: Arc::from("a"),
        fingerprint: [7; 32],
        keep_for: Duration::from_secs(60),
    });
    let mut charged = request(&ann, &[], 10);
    charged.expiry = Expiry::Charge;
    let mut strange = request(&ann, &[], 10);
    strange.call.route = Arc::from("a\0b");
    for wish in [once, charged, strange, request(&ann, &[], 0)] {
        if let Ok(Ok(held)) = ledger.hold(wish).await {
            ledger.settle(held, costs(0)).await.unwrap();
        }
    }
    assert_eq!(ledger.statistics().held_here, here);
    // One that nobody settles is resolved here as anywhere.
    let (lost, _) = leased(&ledger, &ann, &[]).await;
    for _ in 0..61 {
        clock.advance(Duration::from_secs(1));
        store.flush().await.unwrap();
    }
    ledger.flush().await.unwrap();
    let rows = usage(&ledger, &ann).await;
    assert_eq!(rows[0].settlement.outcome, Outcome::Abandoned);
    ledger.settle(lost, costs(10)).await.unwrap();
    ledger.close().await.unwrap();
    balances(&store, &ann, 1_000_000, 0).await;
    assert!(clock.elapsed() > Duration::from_secs(60));
}

macro_rules! laws {
    ($($room:ident::$law:ident,)*) => {
        #[cfg(feature = "postgres")]
        mod postgres {
            use crate::engines::Time;

            struct Database(sqlx::postgres::PgConnectOptions);

            impl super::Place for Database {
                type Store = tollgate::store::PostgresStore;

                async fn node(&self) -> (Self::Store, Time) {
                    crate::engines::postgres_on(self.0.clone()).await
                }
            }

            #[tokio::test]
            async fn in_no_world_is_a_limit_passed() {
                let place = async || crate::postgres_server::database().await.map(Database);
                crate::leased_world::whatever_happens(3, place).await;
            }

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    if let Some(options) = crate::postgres_server::database().await {
                        crate::$room::$law(Database(options)).await;
                    }
                }
            )*
        }

        #[cfg(feature = "sqlite")]
        mod sqlite {
            use crate::engines::Time;

            struct Folder(tempfile::TempDir);

            impl super::Place for Folder {
                type Store = tollgate::store::SqliteStore;

                async fn node(&self) -> (Self::Store, Time) {
                    crate::engines::sqlite(self.0.path()).await
                }
            }

            #[tokio::test]
            async fn in_no_world_is_a_limit_passed() {
                let place = async || Some(Folder(tempfile::tempdir().unwrap()));
                crate::leased_world::whatever_happens(10, place).await;
            }

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $law() {
                    crate::$room::$law(Folder(tempfile::tempdir().unwrap())).await;
                }
            )*
        }
    };
}

laws! {
    leases::a_step_counts_once_and_a_lease_ends_at_nothing,
    leases::a_busy_account_is_paid_for_from_a_lease,
    leases::four_nodes_spend_the_last_cent_and_no_more,
    leases::a_limit_that_is_lowered_elsewhere_counts_soon,
    leases::a_node_that_was_stopped_spends_nothing_and_is_heard_once,
    leases::a_killed_node_costs_what_it_had_not_told,
    leases::where_it_is_charged_whole_nothing_is_charged_twice,
    leases::a_lease_ends_with_its_day,
    leases::what_must_be_durable_is_the_store_s,
    thresholds::a_step_of_a_lease_tells_each_soft_limit_once,
    leased_late::a_late_report_counts_once_and_where_its_hold_did,
    leased_late::what_is_settled_late_counts_in_its_own_day,
    leased_late::a_lease_that_was_charged_whole_has_paid_for_its_late_calls,
}

//! What is given back by the row of a call.

use std::time::Duration;

use tollgate::{
    clock::Clock,
    store::{AccountId, BudgetId, KeyId, Ledger, Page, StoreErrorKind},
    usage::{Adjustment, Expiry, HoldRequest, Settlement, UsageDetails, UsageEntry},
};

use crate::engines::{
    LedgerEngine, Time, account, balances, budget, call, costs, kind, nanos, pay, request, usage,
};

/// A call of a key that begins now, in its budget and those of its team.
fn wish(clock: &Time, account: &AccountId, budgets: &[BudgetId], cost: i64) -> HoldRequest {
    let mut wish = request(account, budgets, cost);
    wish.call.started_at = clock.now();
    wish.call.key = Some(KeyId::new("key-1").unwrap());
    wish
}

/// Its settlement, with the budgets that the gate notes.
fn noting(budgets: &[BudgetId], cost: i64) -> Settlement {
    let mut settlement = costs(cost);
    if budgets.len() > 1 {
        let mut details = UsageDetails::default();
        details.budgets = budgets.to_vec();
        settlement.details = Some(Box::new(details));
    }
    settlement
}

async fn spend<S: Ledger>(
    store: &S,
    clock: &Time,
    account: &AccountId,
    budgets: &[BudgetId],
    cost: i64,
) -> UsageEntry {
    let held = store.hold(wish(clock, account, budgets, cost)).await;
    let held = held.unwrap().unwrap();
    store.settle(held, noting(budgets, cost)).await.unwrap();
    usage(store, account).await.swap_remove(0)
}

/// Settled in the day, in the month, and in all.
async fn spent<S: Ledger>(store: &S, account: &AccountId, id: &BudgetId) -> [i64; 3] {
    let found = store.budget(account, id).await.unwrap();
    [found.day, found.month, found.total].map(|spent| spent.settled.nanos())
}

pub(crate) async fn a_row_of_usage_is_found_by_its_position<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, bob) = (account("ann"), account("bob"));
    pay(&store, &ann, 100).await;
    pay(&store, &bob, 100).await;
    let keys = [budget("key-1"), budget("team")];
    for cost in 1..=3 {
        spend(&store, &clock, &ann, &keys, cost).await;
        spend(&store, &clock, &bob, &keys, 10 * cost).await;
        store.record(call(&ann, "free"), costs(0)).await.unwrap();
        pay(&store, &ann, cost).await;
    }
    for (owner, other) in [(&ann, &bob), (&bob, &ann)] {
        let rows = usage(&store, owner).await;
        assert!(rows.len() >= 3);
        let theirs: Vec<u64> = rows.iter().map(|row| row.position).collect();
        let others = usage(&store, other).await;
        let paid = store.transactions(owner, Page::first(20)).await.unwrap();
        let paid = paid.items.iter().filter(|moved| moved.route.is_none());
        let none = others.iter().map(|row| row.position);
        let none = none.chain(paid.map(|moved| moved.position));
        let ends = [0, 1_000, u64::MAX, u64::MAX >> 1, (u64::MAX >> 1) + 1];
        for row in rows {
            let found = store.usage_at(owner, row.position).await.unwrap();
            assert_eq!(found, Some(row));
        }
        // In Redis each account counts for itself.
        for position in none.chain(ends).filter(|place| !theirs.contains(place)) {
            let found = store.usage_at(owner, position).await.unwrap();
            assert_eq!(found, None, "{position}");
        }
    }
    let nobody = account("nobody");
    for position in 0..10 {
        let found = store.usage_at(&nobody, position).await.unwrap();
        assert_eq!(found, None);
    }
}

pub(crate) async fn a_row_is_given_back_to_the_budgets_that_it_tells_of<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key, team) = (account("ann"), budget("key-1"), budget("team"));
    pay(&store, &ann, 1_000).await;
    let both = [key.clone(), team.clone()];
    let of_team = spend(&store, &clock, &ann, &both, 10).await;
    let of_key = spend(&store, &clock, &ann, &both[..1], 20).await;
    assert_eq!(spent(&store, &ann, &key).await, [30; 3]);
    store.adjust(of_team.refund(nanos(4), "a")).await.unwrap();
    assert_eq!(spent(&store, &ann, &key).await, [26; 3]);
    assert_eq!(spent(&store, &ann, &team).await, [6; 3]);
    let row = store.usage_at(&ann, of_key.position).await.unwrap();
    let refund = row.unwrap().refund(nanos(20), "b");
    for _ in 0..2 {
        store.adjust(refund.clone()).await.unwrap();
        assert_eq!(spent(&store, &ann, &key).await, [6; 3]);
    }
    assert_eq!(spent(&store, &ann, &team).await, [6; 3]);
    let beyond = kind(store.adjust(of_team.refund(nanos(7), "c")).await);
    assert_eq!(beyond, StoreErrorKind::Refused);
    // The budget of a key that was made by a rotation has its first one's name.
    let mut of_rotated = wish(&clock, &ann, &both[..1], 5);
    of_rotated.call.key = Some(KeyId::new("key-2").unwrap());
    let held = store.hold(of_rotated).await.unwrap().unwrap();
    store.settle(held, costs(5)).await.unwrap();
    assert_eq!(spent(&store, &ann, &key).await, [11; 3]);
    let refund = usage(&store, &ann).await[0].refund(nanos(5), "d");
    store.adjust(refund.in_budget(key.clone())).await.unwrap();
    assert_eq!(spent(&store, &ann, &key).await, [6; 3]);
    // What no key did, and no budget counted, is the account's alone.
    let mut plain = request(&ann, &[], 3);
    plain.call.started_at = clock.now();
    let held = store.hold(plain).await.unwrap().unwrap();
    store.settle(held, costs(3)).await.unwrap();
    let refund = usage(&store, &ann).await[0].refund(nanos(3), "e");
    assert!(refund.budgets.is_empty());
    store.adjust(refund).await.unwrap();
    balances(&store, &ann, 1_032, 0).await;
}

/// Beyond what a double holds exactly, and up to the end of what an account holds.
pub(crate) async fn a_large_amount_is_given_back_to_the_last_of_it<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, keys) = (account("ann"), [budget("key-1")]);
    let charged = (1 << 61) + 3;
    pay(&store, &ann, charged).await;
    let rolling = crate::rolling::rolling(600, i64::MAX);
    store.set_limits(&ann, &keys[0], rolling).await.unwrap();
    let row = spend(&store, &clock, &ann, &keys, charged).await;
    let first = (1 << 53) + 1;
    let mut rest = charged;
    for (number, (amount, is_given)) in [
        (first, true),
        (charged - first + 1, false),
        (charged - first - 1, true),
        (2, false),
        (1, true),
        (1, false),
    ]
    .into_iter()
    .enumerate()
    {
        let refund = row.refund(nanos(amount), format!("refund-{number}"));
        match store.adjust(refund).await {
            Ok(_) if is_given => rest -= amount,
            answer => assert!(
                !is_given && kind(answer) == StoreErrorKind::Refused,
                "{number}"
            ),
        }
        assert_eq!(spent(&store, &ann, &keys[0]).await, [rest; 3]);
        let found = store.budget(&ann, &keys[0]).await.unwrap();
        assert_eq!(found.rolling.unwrap().settled(), nanos(rest));
        balances(&store, &ann, 2 * charged - rest, 0).await;
    }
    // An account that is full takes nothing, and its budgets don't either.
    let full = Adjustment::new(ann.clone(), nanos(i64::MAX - 2 * charged), "full");
    store.adjust(full).await.unwrap();
    let row = spend(&store, &clock, &ann, &keys, 10).await;
    let refused = kind(store.adjust(row.refund(nanos(1), "beyond")).await);
    assert_eq!(refused, StoreErrorKind::Refused);
    assert_eq!(spent(&store, &ann, &keys[0]).await, [10; 3]);
    balances(&store, &ann, i64::MAX, 0).await;
}

/// Nobody else can say where a call counted whose process is gone.
pub(crate) async fn a_call_that_its_ledger_resolved_is_given_back_where_it_counted<
    S: LedgerEngine,
>(
    store: S,
    clock: Time,
) {
    let (ann, key, team) = (account("ann"), budget("key-1"), budget("team"));
    pay(&store, &ann, 1_000).await;
    // Begun before midnight, and held after it.
    clock.set("2026-03-31T23:59:59Z".parse().unwrap());
    let both = [key.clone(), team.clone()];
    let mut wish = wish(&clock, &ann, &both, 10);
    (wish.expiry, wish.lifetime) = (Expiry::Charge, Duration::from_secs(60));
    clock.advance(Duration::from_secs(2));
    drop(store.hold(wish).await.unwrap().unwrap());
    clock.advance(Duration::from_secs(70));
    store.flush().await.unwrap();
    let row = usage(&store, &ann).await.swap_remove(0);
    assert_eq!(row.settlement.charged, nanos(10));
    assert_eq!(spent(&store, &ann, &team).await, [10; 3]);
    store.adjust(row.refund(nanos(10), "a")).await.unwrap();
    assert_eq!(spent(&store, &ann, &key).await, [0; 3]);
    assert_eq!(spent(&store, &ann, &team).await, [0; 3]);
    balances(&store, &ann, 1_010, 0).await;
}

/// Of stores that keep three rows.
async fn a_refund_is_paid_once_though_its_row_is_gone<S: Ledger>(store: S, clock: Time) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000).await;
    let keys = [key.clone()];
    let old = spend(&store, &clock, &ann, &keys, 10).await;
    let refund = old.refund(nanos(6), "a");
    store.adjust(refund.clone()).await.unwrap();
    for _ in 0..5 {
        spend(&store, &clock, &ann, &keys, 1).await;
    }
    clock.advance(Duration::from_secs(2));
    store.flush().await.unwrap();
    assert_eq!(store.usage_at(&ann, old.position).await.unwrap(), None);
    let young = usage(&store, &ann).await.swap_remove(0);
    store.adjust(young.refund(nanos(1), "b")).await.unwrap();
    for _ in 0..2 {
        store.adjust(refund.clone()).await.unwrap();
    }
    // Neither under another reference, nor as another refund under this one.
    let again = kind(store.adjust(old.refund(nanos(4), "c")).await);
    assert_eq!(again, StoreErrorKind::NotFound);
    let other = Adjustment::new(ann.clone(), nanos(6), "a").of_call(&old);
    let taken = kind(store.adjust(other).await);
    assert_eq!(taken, StoreErrorKind::Conflict);
    assert_eq!(spent(&store, &ann, &key).await, [8; 3]);
    let balance = store.balance(&ann).await.unwrap();
    let amounts = [balance.deposited, balance.settled, balance.held];
    assert_eq!(amounts, [1_007, 15, 0].map(nanos));
}

#[tokio::test]
async fn a_refund_is_paid_once_though_its_row_is_gone_memory() {
    let clock = Time::default();
    let store = tollgate::store::MemoryStore::builder().with_clock(clock.clone());
    let store = store.usage_rows_max(3).build();
    a_refund_is_paid_once_though_its_row_is_gone(store, clock).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refund_is_paid_once_though_its_row_is_gone_sqlite() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Time::default());
    let path = folder.path().join("tollgate.db");
    let store = tollgate::store::SqliteStore::builder(path).with_clock(clock.clone());
    let store = store.usage_rows_max(3).open().await.unwrap();
    a_refund_is_paid_once_though_its_row_is_gone(store, clock).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refund_is_paid_once_though_its_row_is_gone_postgres() {
    let Some(place) = crate::postgres_server::database().await else {
        return;
    };
    let clock = Time::default();
    let pool = crate::postgres_server::pool(place, 6).await;
    let store = tollgate::store::PostgresStore::builder(pool).with_clock(clock.clone());
    let store = store.usage_rows_max(3).open().await.unwrap();
    a_refund_is_paid_once_though_its_row_is_gone(store, clock).await;
}

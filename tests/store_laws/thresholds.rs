//! Several soft limits in one window.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tollgate::{
    budget::{BudgetWindow, RollingLimit, RollingWindow, SoftLimits, SpendingLimits, Thresholds},
    clock::Clock,
    store::{AccountId, BudgetId, Ledger, StoreErrorKind},
    usage::Adjustment,
};

use crate::{
    engines::{
        LedgerEngine, Time, alerts, budget, costs, forged, hold, kind, nanos, own_account, pay,
    },
    rolling::begin_slice,
};

/// Window, limit and what was spent.
type Told = (BudgetWindow, i64, i64);

fn at(amounts: &[i64]) -> Thresholds {
    Thresholds::new(amounts.iter().copied().map(nanos)).unwrap()
}

fn daily(amounts: &[i64]) -> SpendingLimits {
    SpendingLimits {
        soft: SoftLimits {
            daily: at(amounts),
            ..SoftLimits::default()
        },
        ..SpendingLimits::default()
    }
}

fn in_ten_minutes(amounts: &[i64]) -> SpendingLimits {
    SpendingLimits {
        rolling: Some(RollingLimit {
            window: RollingWindow::new(Duration::from_secs(600)).unwrap(),
            limit: None,
            soft: at(amounts),
        }),
        ..SpendingLimits::default()
    }
}

async fn set<S: Ledger>(store: &S, account: &AccountId, id: &BudgetId, limits: SpendingLimits) {
    let budget = store.set_limits(account, id, limits.clone()).await.unwrap();
    assert_eq!(budget.limits, limits);
    assert_eq!(store.budget(account, id).await.unwrap(), budget);
}

/// What a charge tells.
async fn spend<S: Ledger>(
    store: &S,
    account: &AccountId,
    budgets: &[BudgetId],
    cost: i64,
) -> Vec<Told> {
    let before = alerts(account).len();
    let held = hold(store, account, budgets, 1).await.unwrap();
    store.settle(held, costs(cost)).await.unwrap();
    told_since(store, account, before).await
}

async fn told_since<S: Ledger>(store: &S, account: &AccountId, before: usize) -> Vec<Told> {
    store.flush().await.unwrap();
    let told = alerts(account).into_iter().skip(before);
    told.map(|alert| (alert.window, alert.limit.nanos(), alert.spent.nanos()))
        .collect()
}

async fn refund<S: Ledger>(store: &S, account: &AccountId, id: &BudgetId, amount: i64) {
    static REFUNDS: AtomicU64 = AtomicU64::new(0);

    let reference = format!("refund-{}", REFUNDS.fetch_add(1, Ordering::Relaxed));
    let refund = Adjustment::new(account.clone(), nanos(amount), reference);
    store.adjust(refund.in_budget(id.clone())).await.unwrap();
}

pub(crate) async fn each_of_several_soft_limits_is_told_once_in_a_window<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    use BudgetWindow::{Day, Month, Total};

    let (ann, key) = (own_account(), [budget("key-1"), budget("team")]);
    pay(&store, &ann, 1_000).await;
    let limits = SpendingLimits {
        daily: Some(nanos(500)),
        soft: SoftLimits {
            daily: Thresholds::percent_of(nanos(30), [100, 67, 33]).unwrap(),
            monthly: nanos(26).into(),
            total: at(&[25, 80]),
        },
        ..SpendingLimits::default()
    };
    assert_eq!(limits.soft.daily, at(&[10, 21, 30]));
    set(&store, &ann, &key[0], limits.clone()).await;
    let mut negative = limits.clone();
    negative.soft.total = at(&[-1, 80]);
    let refused = store.set_limits(&ann, &key[0], negative).await;
    assert_eq!(kind(refused), StoreErrorKind::Refused);

    assert_eq!(spend(&store, &ann, &key, 9).await, []);
    assert_eq!(spend(&store, &ann, &key, 1).await, [(Day, 10, 10)]);
    let several = [(Day, 21, 25), (Total, 25, 25)];
    assert_eq!(spend(&store, &ann, &key, 15).await, several);
    assert_eq!(spend(&store, &ann, &key, 0).await, []);
    let several = [(Day, 30, 50), (Month, 26, 50)];
    assert_eq!(spend(&store, &ann, &key, 25).await, several);
    assert_eq!(spend(&store, &ann, &key, 9).await, []);
    clock.advance(Duration::from_secs(86_400));
    let all = [(Day, 10, 35), (Day, 21, 35), (Day, 30, 35), (Total, 80, 94)];
    assert_eq!(spend(&store, &ann, &key, 35).await, all);
    assert_eq!(spend(&store, &ann, &key, 99).await, []);
    // The same limits once more change nothing, and as many as there may be are kept.
    set(&store, &ann, &key[0], limits).await;
    assert_eq!(spend(&store, &ann, &key, 9).await, []);
    set(&store, &ann, &key[0], daily(&[1, 2, 3, 4, 5, 6, 7, 8])).await;
    clock.advance(Duration::from_secs(86_400));
    assert_eq!(spend(&store, &ann, &key, 7).await.len(), 7);
}

pub(crate) async fn soft_limits_that_stay_are_not_told_again_and_new_ones_when_crossed<
    S: LedgerEngine,
>(
    store: S,
    _: Time,
) {
    use BudgetWindow::Day;

    let (ann, key) = (own_account(), [budget("key-1")]);
    pay(&store, &ann, 1_000).await;
    set(&store, &ann, &key[0], daily(&[10, 20])).await;
    assert_eq!(spend(&store, &ann, &key, 15).await, [(Day, 10, 15)]);
    // Of the new ones, spending is beyond one.
    set(&store, &ann, &key[0], daily(&[10, 12, 18, 40])).await;
    assert_eq!(spend(&store, &ann, &key, 1).await, []);
    assert_eq!(spend(&store, &ann, &key, 5).await, [(Day, 18, 21)]);
    // What a refund takes back may be crossed again.
    refund(&store, &ann, &key[0], 4).await;
    assert_eq!(spend(&store, &ann, &key, 2).await, [(Day, 18, 19)]);
    refund(&store, &ann, &key[0], 10).await;
    let again = [(Day, 10, 13), (Day, 12, 13)];
    assert_eq!(spend(&store, &ann, &key, 4).await, again);
    set(&store, &ann, &key[0], daily(&[])).await;
    assert_eq!(spend(&store, &ann, &key, 99).await, []);
}

pub(crate) async fn each_of_several_soft_limits_is_told_once_in_a_window_that_rolls<
    S: LedgerEngine,
>(
    store: S,
    clock: Time,
) {
    use BudgetWindow::Rolling;

    let (ann, key) = (own_account(), [budget("key-1")]);
    pay(&store, &ann, 1_000).await;
    set(&store, &ann, &key[0], in_ten_minutes(&[10, 20, 30])).await;
    begin_slice(&clock, 10);
    let start = clock.now();
    let at_second = |second: u64| clock.set(start + Duration::from_secs(second));
    assert_eq!(spend(&store, &ann, &key, 9).await, []);
    at_second(300);
    let both = [(Rolling, 10, 22), (Rolling, 20, 22)];
    assert_eq!(spend(&store, &ann, &key, 13).await, both);
    set(&store, &ann, &key[0], in_ten_minutes(&[10, 20, 25])).await;
    assert_eq!(spend(&store, &ann, &key, 2).await, []);
    // The first charge has left, and the second limit is crossed again, too soon.
    at_second(615);
    assert_eq!(spend(&store, &ann, &key, 6).await, []);
    assert_eq!(spend(&store, &ann, &key, 5).await, [(Rolling, 25, 26)]);
    // One that goes and comes back is a new one; those that stay aren't.
    set(&store, &ann, &key[0], in_ten_minutes(&[10, 25])).await;
    set(&store, &ann, &key[0], in_ten_minutes(&[5, 10, 20, 25])).await;
    refund(&store, &ann, &key[0], 22).await;
    let new = [(Rolling, 5, 26), (Rolling, 20, 26)];
    assert_eq!(spend(&store, &ann, &key, 22).await, new);
    // Everything has left.
    at_second(1_240);
    let all = [5, 10, 20, 25].map(|limit| (Rolling, limit, 30));
    assert_eq!(spend(&store, &ann, &key, 30).await, all);
    // A window of another length begins anew, and so does one that was off.
    refund(&store, &ann, &key[0], 30).await;
    let mut longer = in_ten_minutes(&[10, 20]);
    longer.rolling.as_mut().unwrap().window = RollingWindow::new(Duration::from_secs(601)).unwrap();
    set(&store, &ann, &key[0], longer.clone()).await;
    let known = store.budget(&ann, &key[0]).await.unwrap();
    let left = known.rolling.unwrap().settled().nanos();
    refund(&store, &ann, &key[0], left.max(1)).await;
    let again = [(Rolling, 10, 21), (Rolling, 20, 21)];
    assert_eq!(spend(&store, &ann, &key, 21).await, again);
    set(&store, &ann, &key[0], SpendingLimits::default()).await;
    refund(&store, &ann, &key[0], 21).await;
    set(&store, &ann, &key[0], longer).await;
    let again = [(Rolling, 10, 20), (Rolling, 20, 20)];
    assert_eq!(spend(&store, &ann, &key, 20).await, again);
}

/// Of a budget that all calls of an account count in, what is left is what the account has.
pub(crate) async fn what_an_account_is_down_to_is_told_once_until_more_is_paid_in<
    S: LedgerEngine,
>(
    store: S,
    _: Time,
) {
    use BudgetWindow::Total;

    let (ann, all) = (own_account(), [budget("key-1"), budget("account")]);
    // The thresholds first: none is passed while the money is on its way.
    let top_up = async |paid: i64, amount| {
        let limits = SpendingLimits {
            soft: SoftLimits {
                total: Thresholds::with_left(nanos(paid), [50, 10].map(nanos)).unwrap(),
                ..SoftLimits::default()
            },
            ..SpendingLimits::default()
        };
        set(&store, &ann, &all[1], limits).await;
        pay(&store, &ann, amount).await;
    };
    let left = async || store.balance(&ann).await.unwrap().available().nanos();
    top_up(100, 100).await;
    assert_eq!(spend(&store, &ann, &all, 49).await, []);
    assert_eq!(spend(&store, &ann, &all, 1).await, [(Total, 50, 50)]);
    assert_eq!(spend(&store, &ann, &all, 45).await, [(Total, 90, 95)]);
    assert_eq!(spend(&store, &ann, &all, 1).await, []);
    // There is more than 10 again, and still not 50.
    top_up(130, 30).await;
    assert_eq!(spend(&store, &ann, &all, 20).await, []);
    assert_eq!(spend(&store, &ann, &all, 4).await, [(Total, 120, 120)]);
    top_up(330, 200).await;
    // A settlement that is sent again tells nothing again.
    let before = alerts(&ann).len();
    let held = hold(&store, &ann, &all, 1).await.unwrap();
    for _ in 0..3 {
        store.settle(forged(&held), costs(160)).await.unwrap();
    }
    let told = told_since(&store, &ann, before).await;
    assert_eq!(told, [(Total, 280, 280)]);
    // What is given back lies above it again.
    refund(&store, &ann, &all[1], 20).await;
    assert_eq!(spend(&store, &ann, &all, 20).await, [(Total, 280, 280)]);
    store.flush().await.unwrap();
    assert_eq!(left().await, 50);
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) async fn a_step_of_a_lease_tells_each_soft_limit_once(place: impl crate::leases::Place) {
    use std::sync::Arc;

    use BudgetWindow::{Day, Rolling};
    use tollgate::{books::LeaseId, store::LeaseStore};

    use crate::{engines::call, leases::step};

    let (store, _) = place.node().await;
    let (ann, key) = (own_account(), budget("key-1"));
    pay(&store, &ann, 1_000).await;
    let limits = SpendingLimits {
        soft: daily(&[10, 20, 30]).soft,
        ..in_ten_minutes(&[15, 26])
    };
    set(&store, &ann, &key, limits.clone()).await;
    let id = LeaseId {
        instance: store.tenure().instance(),
        number: 7,
    };
    let own = |number, served: &[i64], target| {
        let mut step = Arc::unwrap_or_clone(step(id, number, served, target));
        step.account = ann.clone();
        for served in &mut step.served {
            served.call = call(&ann, "served");
        }
        Arc::new(step)
    };
    store.lease(own(1, &[], 100)).await.unwrap();
    for _ in 0..2 {
        store.lease(own(2, &[9, 16, 0, 3], 50)).await.unwrap();
    }
    let mut expected = vec![
        (Day, 10, 25),
        (Day, 20, 25),
        (Rolling, 15, 25),
        (Rolling, 26, 28),
    ];
    assert_eq!(told_since(&store, &ann, 0).await, expected);
    set(&store, &ann, &key, limits).await;
    // Beyond what is set aside too.
    store.lease(own(3, &[1, 99], 0)).await.unwrap();
    expected.push((Day, 30, 128));
    assert_eq!(told_since(&store, &ann, 0).await, expected);
}

/// What processes of an older version do to the budget of `key-1`.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
async fn an_older_version_beside<S: LedgerEngine>(
    store: S,
    account: AccountId,
    older: impl AsyncFn(&str),
) {
    use BudgetWindow::{Day, Rolling};

    let key = [budget("key-1")];
    pay(&store, &account, 1_000).await;
    let limits = SpendingLimits {
        soft: daily(&[10, 20, 30]).soft,
        ..in_ten_minutes(&[15, 25])
    };
    set(&store, &account, &key[0], limits.clone()).await;
    // Such a one counts a call, and writes all columns that it knows.
    older("total_settled = 3, day_settled = 3").await;
    let found = store.budget(&account, &key[0]).await.unwrap();
    assert_eq!(found.limits, limits);
    let both = [(Day, 10, 24), (Day, 20, 24), (Rolling, 15, 21)];
    assert_eq!(spend(&store, &account, &key, 21).await, both);

    // It sets the only soft limit that it knows.
    older("soft_daily = 27").await;
    let mut changed = limits;
    changed.soft.daily = nanos(27).into();
    let found = store.budget(&account, &key[0]).await.unwrap();
    assert_eq!(found.limits, changed);
    let both = [(Day, 27, 31), (Rolling, 25, 28)];
    assert_eq!(spend(&store, &account, &key, 7).await, both);
    // From then on the others are forgotten.
    older("soft_daily = 10").await;
    changed.soft.daily = nanos(10).into();
    let found = store.budget(&account, &key[0]).await.unwrap();
    assert_eq!(found.limits, changed);

    // What can't be read stops no call.
    changed.soft.daily = at(&[10, 90]);
    set(&store, &account, &key[0], changed.clone()).await;
    older("thresholds = '10,ninety - - 15,25@'").await;
    changed.soft.daily = nanos(10).into();
    changed.rolling.as_mut().unwrap().soft = nanos(15).into();
    let found = store.budget(&account, &key[0]).await.unwrap();
    assert_eq!(found.limits, changed);
    assert_eq!(spend(&store, &account, &key, 70).await, []);
    let found = store.budget(&account, &key[0]).await.unwrap();
    assert_eq!(found.day.settled, nanos(101));
    changed.soft.daily = at(&[10, 110]);
    set(&store, &account, &key[0], changed).await;
    assert_eq!(spend(&store, &account, &key, 9).await, [(Day, 110, 110)]);
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn an_older_version_beside_loses_no_soft_limits_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = crate::engines::sqlite(folder.path()).await;
    let file = rusqlite::Connection::open(folder.path().join("tollgate.db")).unwrap();
    let older = async |columns: &str| {
        let changed = file.execute(&format!("UPDATE budget SET {columns}"), []);
        assert_eq!(changed.unwrap(), 1);
    };
    an_older_version_beside(store, own_account(), older).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn an_older_version_beside_loses_no_soft_limits_in_postgres() {
    let Some(place) = crate::postgres_server::database().await else {
        return;
    };
    let (store, _) = crate::engines::postgres_on(place.clone()).await;
    let pool = crate::postgres_server::pool(place, 1).await;
    let older = async |columns: &str| {
        let update = format!("UPDATE tollgate.budget SET {columns}");
        let update = sqlx::query(sqlx::AssertSqlSafe(update));
        assert_eq!(update.execute(&pool).await.unwrap().rows_affected(), 1);
    };
    an_older_version_beside(store.clone(), own_account(), older).await;
    store.close().await.unwrap();
}

//! Limits of windows that roll.

use std::time::Duration;

use tollgate::{
    books::HoldRefusal,
    budget::{BudgetWindow, RollingLimit, RollingWindow, SpendingLimits},
    clock::Clock,
    money::Money,
    store::{AccountId, BudgetId, StoreErrorKind},
    usage::{Expiry, HoldRequest},
};

use crate::engines::{
    LedgerEngine, Time, account, alerts, balances, budget, costs, hold, kind, nanos, own_account,
    pay, request,
};

pub(crate) fn rolling(seconds: u64, limit: i64) -> SpendingLimits {
    let window = RollingWindow::new(Duration::from_secs(seconds)).unwrap();
    SpendingLimits {
        rolling: Some(RollingLimit::new(window, nanos(limit))),
        ..SpendingLimits::default()
    }
}

async fn spend<S: LedgerEngine>(store: &S, account: &AccountId, budgets: &[BudgetId], cost: i64) {
    let held = hold(store, account, budgets, cost).await.unwrap();
    store.settle(held, costs(cost)).await.unwrap();
}

/// For how many seconds a call is refused.
async fn wait<S: LedgerEngine>(
    store: &S,
    account: &AccountId,
    budgets: &[BudgetId],
    amount: i64,
) -> Option<u64> {
    match hold(store, account, budgets, amount).await.unwrap_err() {
        HoldRefusal::RollingLimitReached { wait } => wait.map(|wait| wait.as_secs()),
        refusal => panic!("{refusal}"),
    }
}

/// It would fit but for what is held in the window.
async fn is_only_held<S: LedgerEngine>(
    store: &S,
    account: &AccountId,
    budgets: &[BudgetId],
    amount: i64,
) {
    let limit = Some(BudgetWindow::Rolling);
    let refusal = hold(store, account, budgets, amount).await.unwrap_err();
    assert_eq!(refusal, HoldRefusal::OnlyHeld { limit });
}

/// What counts in the window.
async fn counted<S: LedgerEngine>(store: &S, account: &AccountId, id: &BudgetId) -> i64 {
    let budget = store.budget(account, id).await.unwrap();
    budget.rolling.unwrap().settled().nanos()
}

/// Goes on to the first second of a slice.
pub(crate) fn begin_slice(clock: &Time, width: u64) {
    let second = u64::try_from(clock.now().as_second()).unwrap();
    clock.advance(Duration::from_secs(width - second % width));
}

pub(crate) async fn a_charge_counts_until_its_slice_has_left_the_window<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key, team) = (account("ann"), budget("key-1"), budget("team"));
    pay(&store, &ann, 1_000).await;
    let limits = rolling(600, 100);
    let set = store.set_limits(&ann, &key, limits.clone()).await.unwrap();
    assert_eq!(set.limits, limits);
    assert_eq!(store.budget(&ann, &key).await.unwrap(), set);
    store
        .set_limits(&ann, &team, rolling(3_600, 150))
        .await
        .unwrap();
    let both = [key.clone(), team.clone()];
    begin_slice(&clock, 60);
    clock.advance(Duration::from_secs(7));
    let held = hold(&store, &ann, &both, 70).await.unwrap();
    assert_eq!(held.left.budgets, Some(nanos(30)));
    is_only_held(&store, &ann, &both, 31).await;
    store.settle(held, costs(70)).await.unwrap();
    assert_eq!(wait(&store, &ann, &both, 31).await, Some(603));
    assert_eq!(wait(&store, &ann, &both, 101).await, None, "it never fits");
    clock.advance(Duration::from_secs(602));
    assert_eq!(wait(&store, &ann, &both, 31).await, Some(1));
    assert_eq!(counted(&store, &ann, &key).await, 70);
    clock.advance(Duration::from_secs(1));
    assert_eq!(counted(&store, &ann, &key).await, 0);
    spend(&store, &ann, &both, 80).await;
    // The team's hour isn't over.
    assert_eq!(wait(&store, &ann, &both, 1).await, Some(3_660 - 610));
    spend(&store, &ann, &[key.clone()], 20).await;
    let spent = store.budget(&ann, &key).await.unwrap();
    assert_eq!(
        (spent.day.settled, spent.total.settled),
        (nanos(170), nanos(170))
    );
    assert_eq!(
        spent.rolling.unwrap().slice_start(),
        clock.now().as_second()
    );
    balances(&store, &ann, 1_000, 0).await;
}

pub(crate) async fn what_is_held_counts_until_its_end_and_its_charge_from_then_on<
    S: LedgerEngine,
>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (account("ann"), [budget("key-1")]);
    pay(&store, &ann, 1_000).await;
    store
        .set_limits(&ann, &key[0], rolling(60, 100))
        .await
        .unwrap();
    let wish = HoldRequest {
        lifetime: Duration::from_secs(600),
        expiry: Expiry::Charge,
        ..request(&ann, &key, 40)
    };
    let slow = store.hold(wish.clone()).await.unwrap().unwrap();
    let lost = store.hold(wish).await.unwrap().unwrap();
    clock.advance(Duration::from_secs(500));
    is_only_held(&store, &ann, &key, 21).await;
    store.settle(slow, costs(30)).await.unwrap();
    is_only_held(&store, &ann, &key, 31).await;
    assert_eq!(wait(&store, &ann, &key, 71).await, Some(61));
    clock.advance(Duration::from_secs(101));
    store.flush().await.unwrap();
    // What nobody settled is charged when it is resolved.
    assert_eq!(counted(&store, &ann, &key[0]).await, 40);
    assert_eq!(wait(&store, &ann, &key, 61).await, Some(61));
    store.settle(lost, costs(1)).await.unwrap();
    // An overrun is waited for, also by who wants nothing.
    let held = hold(&store, &ann, &key, 60).await.unwrap();
    store.settle(held, costs(90)).await.unwrap();
    assert_eq!(wait(&store, &ann, &key, 0).await, Some(61));
    // A clock that is set back frees nothing.
    let now = clock.now();
    clock.set(now - Duration::from_secs(10_000));
    assert_eq!(wait(&store, &ann, &key, 0).await, Some(10_061));
    clock.set(now + Duration::from_secs(61));
    spend(&store, &ann, &key, 100).await;
    balances(&store, &ann, 1_000, 0).await;
}

pub(crate) async fn a_rolling_limit_that_is_changed_forgets_nothing<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (account("ann"), [budget("key-1")]);
    pay(&store, &ann, 1_000).await;
    spend(&store, &ann, &key, 30).await;
    // All of the day lies within it.
    store
        .set_limits(&ann, &key[0], rolling(86_400, 100))
        .await
        .unwrap();
    assert_eq!(counted(&store, &ann, &key[0]).await, 30);
    assert!(hold(&store, &ann, &key, 71).await.is_err());
    clock.advance(Duration::from_secs(3_600));
    spend(&store, &ann, &key, 50).await;
    // The same length: nothing changes but the limit.
    store
        .set_limits(&ann, &key[0], rolling(86_400, 90))
        .await
        .unwrap();
    assert_eq!(counted(&store, &ann, &key[0]).await, 80);
    // A shorter one: what lies before it is out of it.
    store
        .set_limits(&ann, &key[0], rolling(600, 60))
        .await
        .unwrap();
    assert_eq!(counted(&store, &ann, &key[0]).await, 50);
    // None at all, and the same again: it went on.
    store
        .set_limits(&ann, &key[0], SpendingLimits::default())
        .await
        .unwrap();
    spend(&store, &ann, &key, 70).await;
    let off = store.budget(&ann, &key[0]).await.unwrap();
    assert_eq!(off.limits, SpendingLimits::default());
    store
        .set_limits(&ann, &key[0], rolling(600, 125))
        .await
        .unwrap();
    assert_eq!(counted(&store, &ann, &key[0]).await, 120);
    spend(&store, &ann, &key, 5).await;
    assert!(hold(&store, &ann, &key, 1).await.is_err());
    // A longer one.
    store
        .set_limits(&ann, &key[0], rolling(7_200, 160))
        .await
        .unwrap();
    clock.advance(Duration::from_secs(3_600));
    assert!(counted(&store, &ann, &key[0]).await >= 125);
    assert_eq!(
        kind(store.set_limits(&ann, &key[0], rolling(600, -1)).await),
        StoreErrorKind::Refused
    );
    balances(&store, &ann, 1_000, 0).await;
}

pub(crate) async fn a_soft_rolling_limit_is_told_once_in_the_length_of_its_window<
    S: LedgerEngine,
>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (own_account(), [budget("key-1")]);
    pay(&store, &ann, 1_000).await;
    let window = RollingWindow::new(Duration::from_secs(600)).unwrap();
    let soft = SpendingLimits {
        rolling: Some(RollingLimit {
            window,
            limit: None,
            soft: nanos(10).into(),
        }),
        ..SpendingLimits::default()
    };
    let set = store.set_limits(&ann, &key[0], soft.clone()).await.unwrap();
    assert_eq!(set.limits, soft);
    begin_slice(&clock, 10);
    for (pause, cost) in [(0, 9), (300, 1), (1, 7), (309, 3), (300, 9), (0, 1)] {
        clock.advance(Duration::from_secs(pause));
        spend(&store, &ann, &key, cost).await;
    }
    store.flush().await.unwrap();
    let told: Vec<(BudgetWindow, Money)> = alerts(&ann)
        .into_iter()
        .map(|alert| (alert.window, alert.spent))
        .collect();
    // The third time that it is passed comes 310 seconds after the first and is not told; the last
    // one is.
    let rolling = BudgetWindow::Rolling;
    assert_eq!(told, [(rolling, nanos(10)), (rolling, nanos(12))]);
}

pub(crate) async fn a_rolling_limit_for_ten_serves_ten_of_a_hundred<S: LedgerEngine>(
    store: S,
    _: Time,
) {
    let (ann, key) = (account("ann"), [budget("key-1")]);
    pay(&store, &ann, 10_000).await;
    store
        .set_limits(&ann, &key[0], rolling(3_600, 109))
        .await
        .unwrap();
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let (store, ann, key) = (store.clone(), ann.clone(), key.clone());
            tokio::spawn(async move {
                let Ok(held) = hold(&store, &ann, &key, 10).await else {
                    return 0;
                };
                store.settle(held, costs(10)).await.unwrap();
                1
            })
        })
        .collect();
    let mut served = 0;
    for call in calls {
        served += call.await.unwrap();
    }
    assert_eq!(served, 10);
    balances(&store, &ann, 10_000, 0).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_database_from_before_windows_rolled_is_opened_and_they_outlive_a_restart() {
    use tollgate::{store::Ledger, usage::Credit};

    use crate::engines::postgres_on;

    let Some(place) = crate::postgres_server::database().await else {
        return;
    };
    let (ann, key) = (account("ann"), [budget("key-1")]);
    let (store, _) = postgres_on(place.clone()).await;
    pay(&store, &ann, 100).await;
    let gift = Credit {
        account: ann.clone(),
        amount: nanos(7),
        reference: "gift".to_owned(),
    };
    let given = store.credit(gift.clone()).await.unwrap();
    spend(&store, &ann, &key, 30).await;
    store.close().await.unwrap();
    let pool = crate::postgres_server::pool(place.clone(), 1).await;
    let before = "ALTER TABLE tollgate.budget DROP COLUMN rolling, DROP COLUMN thresholds;
         DROP INDEX tollgate.audit_by_time, tollgate.audit_by_share, tollgate.audit_by_actor,
             tollgate.audit_by_action;
         ALTER TABLE tollgate.audit DROP COLUMN share;
         DROP SEQUENCE tollgate.audit_of_share_0, tollgate.audit_of_share_1, tollgate.audit_of_share_2,
             tollgate.audit_of_share_3, tollgate.audit_of_share_4, tollgate.audit_of_share_5,
             tollgate.audit_of_share_6, tollgate.audit_of_share_7, tollgate.audit_of_share_8,
             tollgate.audit_of_share_9;
         CREATE INDEX audit_by_ordinal ON tollgate.audit (stranger, ordinal);
         ALTER TABLE tollgate.usage DROP COLUMN cached_tokens, DROP COLUMN cache_write_tokens,
             DROP COLUMN usage_is_missing, DROP COLUMN details;
         DROP TABLE tollgate.abandoned;
         ALTER TABLE tollgate.api_key DROP COLUMN is_disabled;
         ALTER TABLE tollgate.credit DROP COLUMN refunded, DROP COLUMN request_id,
             DROP COLUMN budgets;
         DELETE FROM tollgate.migration WHERE version >= 7";
    sqlx::raw_sql(before).execute(&pool).await.unwrap();

    let (store, _) = postgres_on(place.clone()).await;
    // A payment from before references stood for budgets.
    assert_eq!(store.credit(gift).await.unwrap().deposited, given.deposited);
    let found = store.budget(&ann, &key[0]).await.unwrap();
    assert_eq!((found.day.settled, &found.rolling), (nanos(30), &None));
    let limits = rolling(86_400, 50);
    store
        .set_limits(&ann, &key[0], limits.clone())
        .await
        .unwrap();
    spend(&store, &ann, &key, 15).await;
    let kept = store.budget(&ann, &key[0]).await.unwrap();
    store.close().await.unwrap();

    let (store, _) = postgres_on(place).await;
    let found = store.budget(&ann, &key[0]).await.unwrap();
    assert_eq!((&found, &found.limits), (&kept, &limits));
    assert_eq!(counted(&store, &ann, &key[0]).await, 45);
    assert!(hold(&store, &ann, &key, 6).await.is_err());
    store.close().await.unwrap();
}

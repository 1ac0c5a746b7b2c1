//! Refunds of one call, from two processes at once.

use tollgate::{
    store::{Ledger, StoreErrorKind},
    usage::Adjustment,
};

use crate::engines::{account, balances, budget, costs, nanos, pay, request, usage};

/// Each sends the same fifty, which would give back more than the call was charged.
async fn they_give_back_no_more_than_was_charged<S: Ledger + Clone>(stores: [S; 2]) {
    let (ann, keys) = (account("ann"), [budget("key-1"), budget("team")]);
    pay(&stores[0], &ann, 1_000).await;
    for cost in [100, 500] {
        let held = stores[0].hold(request(&ann, &keys, cost)).await.unwrap();
        stores[0].settle(held.unwrap(), costs(cost)).await.unwrap();
    }
    let row = usage(&stores[1], &ann).await.swap_remove(1);
    assert_eq!(row.settlement.charged, nanos(100));
    let refund = |number: usize| {
        let refund = Adjustment::new(account("ann"), nanos(3), format!("refund-{number}"));
        let refund = refund.in_budget(budget("key-1"));
        refund.in_budget(budget("team")).of_call(&row)
    };
    let tasks: Vec<_> = (0..100)
        .map(|number| {
            let answer = stores[number % 2].adjust(refund(number / 2));
            tokio::spawn(async move {
                let answer = answer.await;
                answer.map(|_| number / 2)
            })
        })
        .collect();
    let mut paid = std::collections::BTreeMap::<usize, usize>::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(number) => *paid.entry(number).or_default() += 1,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Refused, "{error}"),
        }
    }
    assert_eq!(paid.len(), 33);
    assert!(paid.values().all(|answers| *answers == 2), "{paid:?}");
    for (place, store) in stores.iter().enumerate() {
        for key in &keys {
            let spent = store.budget(&ann, key).await.unwrap();
            let spent = [spent.day, spent.month, spent.total].map(|spent| spent.settled);
            assert_eq!(spent, [nanos(501); 3], "{place}");
        }
        balances(store, &ann, 1_099, 0).await;
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn they_give_back_no_more_than_was_charged_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let one = crate::engines::sqlite(folder.path()).await.0;
    let other = crate::engines::sqlite(folder.path()).await.0;
    they_give_back_no_more_than_was_charged([one, other]).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn they_give_back_no_more_than_was_charged_postgres() {
    let Some(place) = crate::postgres_server::database().await else {
        return;
    };
    let one = crate::engines::postgres_on(place.clone()).await.0;
    let other = crate::engines::postgres_on(place).await.0;
    they_give_back_no_more_than_was_charged([one, other]).await;
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn they_give_back_no_more_than_was_charged_redis() {
    let Some((one, _, server)) = crate::engines::redis().await else {
        return;
    };
    let other = crate::engines::redis_on(&server.url()).await.0;
    they_give_back_no_more_than_was_charged([one, other]).await;
}

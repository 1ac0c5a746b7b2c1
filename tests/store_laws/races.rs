//! Many at once.

use std::sync::Arc;

use tollgate::{budget::SpendingLimits, store::StoreErrorKind, usage::Credit};

use crate::{
    engines::{
        Engine, LedgerEngine, Time, account, balances, budget, call, costs, forged, hold, nanos,
        now, pay, request, usage,
    },
    people::{user, user_id},
    sessions::{session, session_id},
};

pub(crate) async fn hundred<S: Clone, T: Send + 'static, F>(
    store: &S,
    work: impl Fn(S, i64) -> F,
) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = (0..100)
        .map(|number| tokio::spawn(work(store.clone(), number)))
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

pub(crate) async fn money_for_ten_serves_ten_of_a_hundred<S: LedgerEngine>(store: S, _: Time) {
    let ann = account("ann");
    pay(&store, &ann, 109).await;
    let served = hundred(&store, |store, _| async move {
        hold(&store, &account("ann"), &[], 10).await.ok()
    })
    .await;
    let served: Vec<_> = served.into_iter().flatten().collect();
    assert_eq!(served.len(), 10);
    balances(&store, &ann, 109, 100).await;
    for hold in served {
        store.settle(hold, costs(10)).await.unwrap();
    }
    balances(&store, &ann, 109, 0).await;
    assert_eq!(usage(&store, &ann).await.len(), 10);
}

pub(crate) async fn a_limit_for_ten_serves_ten_of_a_hundred<S: LedgerEngine>(store: S, _: Time) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000_000).await;
    let limits = SpendingLimits {
        daily: Some(nanos(100)),
        ..SpendingLimits::default()
    };
    store.set_limits(&ann, &key, limits).await.unwrap();
    let served = hundred(&store, |store, _| async move {
        let held = hold(&store, &account("ann"), &[budget("key-1")], 10).await;
        match held {
            Ok(hold) => {
                store.settle(hold, costs(10)).await.unwrap();
                1
            }
            Err(_) => 0,
        }
    })
    .await;
    assert_eq!(served.iter().sum::<i64>(), 10);
    let spent = store.budget(&ann, &key).await.unwrap();
    assert_eq!((spent.day.settled, spent.day.held), (nanos(100), nanos(0)));
    balances(&store, &ann, 1_000_000, 0).await;
}

pub(crate) async fn a_hundred_payments_with_one_reference_are_one<S: LedgerEngine>(
    store: S,
    _: Time,
) {
    let answers = hundred(&store, |store, number| async move {
        let credit = Credit {
            account: account(if number % 2 == 0 { "ann" } else { "bob" }),
            amount: nanos(100),
            reference: "payment-1".to_owned(),
        };
        store.credit(credit).await.map_err(|error| error.kind())
    })
    .await;
    let conflicts = |answer: &&Result<_, _>| **answer == Err(StoreErrorKind::Conflict);
    assert_eq!(answers.iter().filter(conflicts).count(), 50);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 50);
    let ann = store.balance(&account("ann")).await.unwrap().deposited;
    let bob = store.balance(&account("bob")).await.unwrap().deposited;
    assert_eq!(ann.nanos() + bob.nanos(), 100);
}

pub(crate) async fn a_hundred_settlements_of_one_hold_are_one<S: LedgerEngine>(store: S, _: Time) {
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let held = Arc::new(hold(&store, &ann, &[], 10).await.unwrap());
    hundred(&store, |store, _| {
        let again = forged(&held);
        async move { store.settle(again, costs(10)).await.unwrap() }
    })
    .await;
    balances(&store, &ann, 100, 0).await;
    assert_eq!(usage(&store, &ann).await.len(), 1);
    let settled = store.balance(&ann).await.unwrap().settled;
    assert_eq!(settled, nanos(10));
}

pub(crate) async fn a_change_that_fails_harms_nothing_beside_it<S: Engine>(store: S, _: Time) {
    let ann = account("ann");
    pay(&store, &ann, 1_000).await;
    let answers = hundred(&store, |store, number| async move {
        let held = store.hold(request(&account("ann"), &[], 1));
        let mut taken = user("ann");
        taken.id = user_id(&format!("ann-{number}"));
        let inserted = store.insert_user(taken);
        let hold = held.await.unwrap().unwrap();
        let inserted = inserted.await.map_err(|error| error.kind());
        store.settle(hold, costs(1)).await.unwrap();
        inserted
    })
    .await;
    let conflicts = |answer: &&Result<_, _>| **answer == Err(StoreErrorKind::Conflict);
    assert_eq!(answers.iter().filter(conflicts).count(), 99);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    balances(&store, &ann, 1_000, 0).await;
    let settled = store.balance(&ann).await.unwrap().settled;
    assert_eq!(settled, nanos(100));
}

pub(crate) async fn no_login_outlives_the_password_it_was_made_with<S: Engine>(store: S, _: Time) {
    store.insert_user(user("ann")).await.unwrap();
    let opened = hundred(&store, |store, number| async move {
        if number == 50 {
            let hash = "$argon2id$new".to_owned();
            let changed = store.change_password(&user_id("ann"), 0, hash, now()).await;
            assert!(changed.unwrap());
            return false;
        }
        let session = session(&format!("s{number}"), "ann");
        store.open_session(session, Some(0), 1_000).await.unwrap()
    })
    .await;
    for (number, opened) in opened.into_iter().enumerate() {
        let session = store
            .session(&session_id(&format!("s{number}")))
            .await
            .unwrap();
        assert_eq!(session.is_some(), opened);
        assert!(session.is_none_or(|session| session.ended_at.is_some()));
    }
}

/// Costs below, at and above what was held, refusals, free calls, forgotten answers, payments.
async fn a_call_of_some_kind<S: LedgerEngine>(store: &S, number: i64) -> i64 {
    let ann = account("ann");
    let budgets = [budget(&format!("key-{}", number % 3)), budget("team")];
    if number % 10 == 9 {
        pay(store, &ann, 1_000 + number).await;
        return 1_000 + number;
    }
    if number % 10 == 8 {
        let free = call(&ann, "free");
        store.record(free, costs(0)).await.unwrap();
        return 0;
    }
    if let Ok(held) = hold(
        store,
        &ann,
        &budgets[..(number % 3).unsigned_abs() as usize],
        20,
    )
    .await
    {
        let settled = store.settle(held, costs(number % 30));
        if number % 4 == 0 {
            drop(settled);
        } else {
            settled.await.unwrap();
        }
    }
    0
}

pub(crate) async fn the_books_balance_after_a_thousand_calls_of_every_kind<S: LedgerEngine>(
    store: S,
    _: Time,
) {
    let ann = account("ann");
    pay(&store, &ann, 500).await;
    let paid = hundred(&store, |store, number| async move {
        let mut paid = 0;
        for round in 0..10 {
            paid += a_call_of_some_kind(&store, number * 10 + round).await;
        }
        paid
    })
    .await;
    store.flush().await.unwrap();
    balances(&store, &ann, 500 + paid.iter().sum::<i64>(), 0).await;
}

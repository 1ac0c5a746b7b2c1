//! Corrections, credit lines, longer lives, idempotency keys, soft limits.

use std::{sync::Arc, time::Duration};

use tollgate::{
    books::HoldRefusal,
    budget::{BudgetWindow, SoftLimits, SpendingLimits},
    money::Money,
    store::{AccountId, Ledger, Page, StoreErrorKind},
    usage::{Adjustment, Expiry, Hold, HoldRequest, Idempotency, Outcome},
};

use crate::engines::{
    LedgerEngine, OPEN_HOLDS_MAX, Time, account, alerts, balances, budget, costs, hold, kind,
    nanos, own_account, pay, request, usage,
};

fn adjustment(account: &AccountId, amount: i64, reference: &str) -> Adjustment {
    Adjustment::new(account.clone(), nanos(amount), reference)
}

pub(crate) async fn a_correction_counts_once_and_may_leave_less_than_nothing<S: LedgerEngine>(
    store: S,
    _: Time,
) {
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    for _ in 0..2 {
        let refund = adjustment(&ann, -130, "chargeback-1");
        let balance = store.adjust(refund).await.unwrap();
        assert_eq!(balance.available(), nanos(-30));
    }
    for other in [
        adjustment(&ann, -131, "chargeback-1"),
        adjustment(&account("bob"), -130, "chargeback-1"),
        adjustment(&ann, 7, "ann-100"),
    ] {
        assert_eq!(kind(store.adjust(other).await), StoreErrorKind::Conflict);
    }
    let nothing = adjustment(&ann, 0, "nothing");
    assert_eq!(kind(store.adjust(nothing).await), StoreErrorKind::Refused);
    let too_much = adjustment(&ann, i64::MIN, "too much");
    assert_eq!(kind(store.adjust(too_much).await), StoreErrorKind::Refused);
    let refused = hold(&store, &ann, &[], 0).await.unwrap_err();
    assert_eq!(refused, HoldRefusal::InsufficientCredits);
    store.adjust(adjustment(&ann, 40, "gift")).await.unwrap();
    balances(&store, &ann, 10, 0).await;
    let moved = store.transactions(&ann, Page::first(9)).await.unwrap();
    let amounts: Vec<i64> = moved
        .items
        .iter()
        .map(|moved| moved.amount.nanos())
        .collect();
    assert_eq!(amounts, [40, -130, 100]);
}

pub(crate) async fn a_credit_line_is_spent_and_no_more<S: LedgerEngine>(store: S, _: Time) {
    let ann = account("ann");
    assert_eq!(
        kind(store.set_credit_line(&ann, nanos(-1)).await),
        StoreErrorKind::Refused
    );
    let balance = store.set_credit_line(&ann, nanos(20)).await.unwrap();
    assert_eq!(
        (balance.credit_line, balance.available()),
        (nanos(20), nanos(20))
    );
    pay(&store, &ann, 10).await;
    assert!(hold(&store, &ann, &[], 31).await.is_err());
    let held = hold(&store, &ann, &[], 30).await.unwrap();
    store.settle(held, costs(25)).await.unwrap();
    let balance = store.set_credit_line(&ann, Money::ZERO).await.unwrap();
    assert_eq!(balance.available(), nanos(-15));
    assert_eq!(store.balance(&ann).await.unwrap(), balance);
    assert!(hold(&store, &ann, &[], 1).await.is_err());
    balances(&store, &ann, 10, 0).await;
}

pub(crate) async fn a_hold_lives_longer_where_it_is_extended<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[], 100).await.unwrap();
    let other = hold(&store, &ann, &[], 0).await.unwrap();
    clock.advance(Duration::from_secs(50));
    let longer = store.extend(&held, Duration::from_secs(60)).await.unwrap();
    assert!(longer);
    clock.advance(Duration::from_secs(50));
    store.flush().await.unwrap();
    assert_eq!(usage(&store, &ann).await.len(), 1, "the other one is over");
    assert!(!store.extend(&other, Duration::from_secs(60)).await.unwrap());
    store.settle(other, costs(5)).await.unwrap();
    store.settle(held, costs(60)).await.unwrap();
    balances(&store, &ann, 100, 0).await;
    // What was over is charged all the same.
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(65));
}

pub(crate) async fn an_expired_hold_is_charged_where_that_was_asked_for<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 100).await;
    let wish = HoldRequest {
        expiry: Expiry::Charge,
        ..request(&ann, &[key.clone()], 70)
    };
    let held = store.hold(wish).await.unwrap().unwrap();
    assert_eq!(held.expiry, Expiry::Charge);
    clock.advance(Duration::from_secs(61));
    store.flush().await.unwrap();
    balances(&store, &ann, 100, 0).await;
    let rows = usage(&store, &ann).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].settlement.outcome, rows[0].settlement.charged),
        (Outcome::Abandoned, nanos(70))
    );
    assert_eq!(
        store.budget(&ann, &key).await.unwrap().total.settled,
        nanos(70)
    );
}

fn once(account: &AccountId, key: &str, fingerprint: u8) -> HoldRequest {
    HoldRequest {
        idempotency: Some(Idempotency {
            key: Arc::from(key),
            fingerprint: [fingerprint; 32],
            keep_for: Duration::from_secs(3_600),
        }),
        ..request(account, &[], 10)
    }
}

async fn granted<S: Ledger>(store: &S, wish: HoldRequest) -> Hold {
    store.hold(wish).await.unwrap().unwrap()
}

async fn refused<S: Ledger>(store: &S, wish: HoldRequest) -> HoldRefusal {
    store.hold(wish).await.unwrap().unwrap_err()
}

pub(crate) async fn an_idempotency_key_is_charged_once<S: LedgerEngine>(store: S, clock: Time) {
    let (ann, bob) = (account("ann"), account("bob"));
    pay(&store, &ann, 100).await;
    pay(&store, &bob, 100).await;
    let held = granted(&store, once(&ann, "a", 1)).await;
    assert_eq!(
        refused(&store, once(&ann, "a", 1)).await,
        HoldRefusal::InProgress
    );
    assert_eq!(
        refused(&store, once(&ann, "a", 2)).await,
        HoldRefusal::OtherRequest
    );
    for wish in [once(&ann, "b", 1), once(&bob, "a", 1)] {
        let other = granted(&store, wish).await;
        store.settle(other, costs(1)).await.unwrap();
    }
    store.settle(held, costs(10)).await.unwrap();
    assert_eq!(
        refused(&store, once(&ann, "a", 1)).await,
        HoldRefusal::AlreadySettled
    );
    assert_eq!(
        refused(&store, once(&ann, "a", 2)).await,
        HoldRefusal::OtherRequest
    );
    balances(&store, &ann, 100, 0).await;
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(11));
    clock.advance(Duration::from_secs(3_601));
    store.flush().await.unwrap();
    let anew = granted(&store, once(&ann, "a", 2)).await;
    store.settle(anew, costs(10)).await.unwrap();
    assert_eq!(
        refused(&store, once(&ann, "a", 2)).await,
        HoldRefusal::AlreadySettled
    );
}

pub(crate) async fn a_call_that_cost_nothing_frees_its_key<S: LedgerEngine>(store: S, _: Time) {
    let ann = account("ann");
    pay(&store, &ann, 15).await;
    let failed = granted(&store, once(&ann, "a", 1)).await;
    let refusal = refused(&store, once(&ann, "b", 1)).await;
    assert_eq!(refusal, HoldRefusal::OnlyHeld { limit: None });
    store.settle(failed, costs(0)).await.unwrap();
    for key in ["a", "b"] {
        let held = granted(&store, once(&ann, key, 1)).await;
        store.settle(held, costs(2)).await.unwrap();
    }
    balances(&store, &ann, 15, 0).await;
}

pub(crate) async fn an_abandoned_call_frees_its_key<S: LedgerEngine>(store: S, clock: Time) {
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let _lost = granted(&store, once(&ann, "a", 1)).await;
    clock.advance(Duration::from_secs(61));
    store.flush().await.unwrap();
    let held = granted(&store, once(&ann, "a", 1)).await;
    store.settle(held, costs(10)).await.unwrap();
    balances(&store, &ann, 100, 0).await;
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(10));
}

/// With one key a client pays once, whichever of his calls it is for.
pub(crate) async fn a_late_settlement_and_a_repetition_are_charged_once<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let abandoned = async |key, fingerprint| {
        let held = granted(&store, once(&ann, key, fingerprint)).await;
        clock.advance(Duration::from_secs(61));
        store.flush().await.unwrap();
        held
    };
    let settled = async || store.balance(&ann).await.unwrap().settled.nanos();
    // It is not repeated before it is heard of.
    let held = abandoned("a", 1).await;
    store.settle(held, costs(10)).await.unwrap();
    assert_eq!(settled().await, 10);
    let refusal = refused(&store, once(&ann, "a", 1)).await;
    assert_eq!(refusal, HoldRefusal::AlreadySettled);
    let refusal = refused(&store, once(&ann, "a", 2)).await;
    assert_eq!(refusal, HoldRefusal::OtherRequest);
    // The repetition is under way, or was charged.
    let held = abandoned("b", 1).await;
    let repetition = granted(&store, once(&ann, "b", 1)).await;
    store.settle(held, costs(10)).await.unwrap();
    assert_eq!(settled().await, 10);
    store.settle(repetition, costs(9)).await.unwrap();
    let held = abandoned("c", 1).await;
    let repetition = granted(&store, once(&ann, "c", 1)).await;
    store.settle(repetition, costs(9)).await.unwrap();
    store.settle(held, costs(10)).await.unwrap();
    assert_eq!(settled().await, 28);
    // By now the key names another call.
    let held = abandoned("d", 1).await;
    let other = granted(&store, once(&ann, "d", 2)).await;
    store.settle(other, costs(1)).await.unwrap();
    store.settle(held, costs(10)).await.unwrap();
    assert_eq!(settled().await, 39);
    // What is free frees nothing, and takes nothing.
    let held = abandoned("e", 1).await;
    store.settle(held, costs(0)).await.unwrap();
    let again = granted(&store, once(&ann, "e", 1)).await;
    store.settle(again, costs(1)).await.unwrap();
    assert_eq!(settled().await, 40);
    // A key that was taken back is forgotten like any other.
    clock.advance(Duration::from_secs(3_600));
    store.flush().await.unwrap();
    let anew = granted(&store, once(&ann, "a", 2)).await;
    store.settle(anew, costs(1)).await.unwrap();
    balances(&store, &ann, 100, 0).await;
}

pub(crate) async fn a_soft_limit_is_told_once_in_a_window<S: LedgerEngine>(store: S, clock: Time) {
    let (ann, key, team) = (own_account(), budget("key-1"), budget("team"));
    pay(&store, &ann, 1_000).await;
    let soft = SpendingLimits {
        daily: Some(nanos(500)),
        soft: SoftLimits {
            daily: nanos(10).into(),
            total: nanos(25).into(),
            ..SoftLimits::default()
        },
        ..SpendingLimits::default()
    };
    assert_eq!(
        store
            .set_limits(&ann, &key, soft.clone())
            .await
            .unwrap()
            .limits,
        soft
    );
    assert_eq!(store.budget(&ann, &key).await.unwrap().limits, soft);
    let negative = SpendingLimits {
        soft: SoftLimits {
            monthly: nanos(-1).into(),
            ..SoftLimits::default()
        },
        ..SpendingLimits::default()
    };
    assert_eq!(
        kind(store.set_limits(&ann, &key, negative).await),
        StoreErrorKind::Refused
    );
    let both = [key.clone(), team];
    for (days, cost) in [(0, 9), (0, 1), (0, 3), (1, 9), (0, 9), (0, 9)] {
        clock.advance(Duration::from_secs(days * 86_400));
        let held = hold(&store, &ann, &both, 5).await.unwrap();
        store.settle(held, costs(cost)).await.unwrap();
    }
    store.flush().await.unwrap();
    let told: Vec<(BudgetWindow, i64)> = alerts(&ann)
        .into_iter()
        .inspect(|alert| assert_eq!(alert.budget, key))
        .map(|alert| (alert.window, alert.spent.nanos()))
        .collect();
    let expected = [
        (BudgetWindow::Day, 10),
        (BudgetWindow::Day, 18),
        (BudgetWindow::Total, 31),
    ];
    assert_eq!(told, expected);
}

pub(crate) async fn no_charge_is_larger_than_the_books_can_hold<S: LedgerEngine>(
    store: S,
    _: Time,
) {
    let (ann, key) = (account("ann"), budget("key-1"));
    store.set_credit_line(&ann, Money::MAX).await.unwrap();
    pay(&store, &ann, 100).await;
    let held = [
        hold(&store, &ann, &[key.clone()], 1).await.unwrap(),
        hold(&store, &ann, &[key], 1).await.unwrap(),
    ];
    for held in held {
        store.settle(held, costs(i64::MAX)).await.unwrap();
    }
    let charged: Vec<i64> = usage(&store, &ann)
        .await
        .iter()
        .map(|row| row.settlement.charged.nanos())
        .collect();
    assert_eq!(charged, [0, i64::MAX]);
    assert_eq!(store.balance(&ann).await.unwrap().settled, Money::MAX);
}

pub(crate) async fn what_can_not_be_counted_is_not_granted<S: LedgerEngine>(store: S, _: Time) {
    let (ann, key) = (account("ann"), budget("key-1"));
    store.set_credit_line(&ann, Money::MAX).await.unwrap();
    pay(&store, &ann, i64::MAX).await;
    let all = hold(&store, &ann, &[key.clone()], i64::MAX).await.unwrap();
    // As much again is there, and could be written down nowhere.
    for amount in [1, i64::MAX] {
        let refused = hold(&store, &ann, &[key.clone()], amount).await;
        let only_held = HoldRefusal::OnlyHeld { limit: None };
        assert_eq!(refused.unwrap_err(), only_held);
    }
    store.settle(all, costs(0)).await.unwrap();
    let part = hold(&store, &ann, &[key.clone()], 7).await.unwrap();
    store.settle(part, costs(7)).await.unwrap();
    let rest = hold(&store, &ann, &[key.clone()], i64::MAX - 7).await;
    store.settle(rest.unwrap(), costs(i64::MAX)).await.unwrap();
    // Nor could it be charged.
    let refused = hold(&store, &ann, &[key.clone()], 1).await;
    assert_eq!(refused.unwrap_err(), HoldRefusal::InsufficientCredits);
    let balance = store.balance(&ann).await.unwrap();
    assert_eq!(
        (balance.settled, balance.held),
        (Money::MAX, Money::ZERO),
        "all that can be counted was charged"
    );
    let budget = store.budget(&ann, &key).await.unwrap();
    assert_eq!(
        (budget.total.settled, budget.total.held),
        (Money::MAX, Money::ZERO)
    );
}

pub(crate) async fn no_lifetime_is_too_short_or_too_long<S: LedgerEngine>(store: S, clock: Time) {
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let lifetimes = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];
    for lifetime in lifetimes {
        // Whoever clears up does so each second.
        clock.advance(Duration::from_secs(1));
        store.flush().await.unwrap();
        clock.advance(Duration::from_millis(600));
        let key = format!("{lifetime:?}");
        let wish = HoldRequest {
            lifetime,
            idempotency: Some(Idempotency {
                key: key.into(),
                fingerprint: [1; 32],
                keep_for: lifetime,
            }),
            ..request(&ann, &[], 10)
        };
        let held = granted(&store, wish).await;
        clock.advance(Duration::from_millis(500));
        store.flush().await.unwrap();
        assert!(store.extend(&held, lifetime).await.unwrap(), "{lifetime:?}");
        store.flush().await.unwrap();
        store.settle(held, costs(10)).await.unwrap();
    }
    balances(&store, &ann, 100, 0).await;
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(30));
}

pub(crate) async fn a_budget_that_is_named_twice_counts_once<S: LedgerEngine>(store: S, _: Time) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 100).await;
    let limits = SpendingLimits {
        daily: Some(nanos(10)),
        ..SpendingLimits::default()
    };
    store.set_limits(&ann, &key, limits).await.unwrap();
    let twice = [key.clone(), key.clone()];
    let held = hold(&store, &ann, &twice, 10).await.unwrap();
    assert_eq!(store.budget(&ann, &key).await.unwrap().day.held, nanos(10));
    store.settle(held, costs(10)).await.unwrap();
    assert_eq!(
        store.budget(&ann, &key).await.unwrap().day.settled,
        nanos(10)
    );
    balances(&store, &ann, 100, 0).await;
}

pub(crate) async fn a_hundred_holds_with_one_idempotency_key_are_one<S: LedgerEngine>(
    store: S,
    _: Time,
) {
    let ann = account("ann");
    pay(&store, &ann, 1_000).await;
    let mut tasks = Vec::new();
    for _ in 0..100 {
        let (store, wish) = (store.clone(), once(&ann, "a", 1));
        tasks.push(tokio::spawn(async move { store.hold(wish).await.unwrap() }));
    }
    let mut granted = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(hold) => granted.push(hold),
            Err(refusal) => assert_eq!(refusal, HoldRefusal::InProgress),
        }
    }
    assert_eq!(granted.len(), 1);
    balances(&store, &ann, 1_000, 10).await;
    store
        .settle(granted.pop().unwrap(), costs(10))
        .await
        .unwrap();
    balances(&store, &ann, 1_000, 0).await;
}

pub(crate) async fn an_account_has_only_so_many_holds_open_and_others_theirs<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, bob) = (account("ann"), account("bob"));
    pay(&store, &ann, 10_000).await;
    pay(&store, &bob, 10).await;
    let wanted = || store.hold(request(&ann, &[], 1));
    let asked: Vec<_> = (0..OPEN_HOLDS_MAX + 10).map(|_| wanted()).collect();
    let mut open = Vec::new();
    for answer in asked {
        match answer.await.unwrap() {
            Ok(hold) => open.push(hold),
            Err(refusal) => assert_eq!(refusal, HoldRefusal::TooManyOpen),
        }
    }
    let all = OPEN_HOLDS_MAX as i64;
    assert_eq!(open.len(), OPEN_HOLDS_MAX);
    balances(&store, &ann, 10_000, all).await;
    let others = hold(&store, &bob, &[], 10).await.unwrap();
    store.settle(others, costs(1)).await.unwrap();
    // One that ends makes room for one.
    store.settle(open.pop().unwrap(), costs(1)).await.unwrap();
    open.push(hold(&store, &ann, &[], 1).await.unwrap());
    let refused = hold(&store, &ann, &[], 1).await.unwrap_err();
    assert_eq!(refused, HoldRefusal::TooManyOpen);
    // Those that nobody settles make room when they are resolved.
    clock.advance(Duration::from_secs(61));
    store.flush().await.unwrap();
    store.flush().await.unwrap();
    balances(&store, &ann, 10_000, 0).await;
    let again = hold(&store, &ann, &[], 1).await.unwrap();
    store.settle(again, costs(1)).await.unwrap();
}

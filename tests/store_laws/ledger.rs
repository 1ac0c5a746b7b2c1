//! Money.

use std::time::Duration;

use tollgate::{
    books::{Balance, Budget, HoldRefusal, Spent},
    budget::{BudgetWindow, Calendar, SpendingLimits},
    clock::Clock,
    money::Money,
    store::{BudgetId, Page, StoreErrorKind},
    usage::{Adjustment, Credit, Expiry, HoldRequest, Outcome, UsageEntry},
};

use crate::engines::{
    LedgerEngine, Time, account, balances, budget, call, costs, forged, hold, kind, nanos, pay,
    request, usage,
};

fn daily(limit: i64) -> SpendingLimits {
    SpendingLimits {
        daily: Some(nanos(limit)),
        ..SpendingLimits::default()
    }
}

pub(crate) async fn an_account_that_never_was_is_empty<S: LedgerEngine>(store: S, _: Time) {
    let ann = account("ann");
    assert_eq!(store.balance(&ann).await.unwrap(), Balance::default());
    let never = store.budget(&ann, &budget("key-1")).await.unwrap();
    assert_eq!(
        (never.limits, never.total),
        (SpendingLimits::default(), Spent::default())
    );
    assert_eq!(usage(&store, &ann).await, []);
    let moved = store.transactions(&ann, Page::first(5)).await.unwrap();
    assert_eq!((moved.items.len(), moved.next_cursor), (0, None));
    let refused = hold(&store, &ann, &[], 1).await.unwrap_err();
    assert_eq!(refused, HoldRefusal::InsufficientCredits);
    let free = hold(&store, &ann, &[budget("key-1")], 0).await.unwrap();
    store.settle(free, costs(0)).await.unwrap();
    balances(&store, &ann, 0, 0).await;
}

pub(crate) async fn a_reference_pays_once<S: LedgerEngine>(store: S, _: Time) {
    let payment = Credit {
        account: account("ann"),
        amount: nanos(100),
        reference: "payment-1".to_owned(),
    };
    for _ in 0..2 {
        let balance = store.credit(payment.clone()).await.unwrap();
        assert_eq!(balance.deposited, nanos(100));
    }
    let mut another_amount = payment.clone();
    another_amount.amount = nanos(101);
    let mut another_account = payment.clone();
    another_account.account = account("bob");
    for other in [another_amount, another_account] {
        assert_eq!(kind(store.credit(other).await), StoreErrorKind::Conflict);
    }
    balances(&store, &account("ann"), 100, 0).await;
    balances(&store, &account("bob"), 0, 0).await;
}

pub(crate) async fn a_payment_out_of_range_is_refused<S: LedgerEngine>(store: S, _: Time) {
    let ann = account("ann");
    let credit = |amount, reference: &str| {
        store.credit(Credit {
            account: ann.clone(),
            amount,
            reference: reference.to_owned(),
        })
    };
    for amount in [Money::ZERO, nanos(-1), nanos(i64::MIN)] {
        assert_eq!(kind(credit(amount, "a").await), StoreErrorKind::Refused);
    }
    credit(Money::MAX, "b").await.unwrap();
    assert_eq!(kind(credit(nanos(1), "c").await), StoreErrorKind::Refused);
    balances(&store, &ann, i64::MAX, 0).await;
}

pub(crate) async fn a_payment_without_a_name_is_refused<S: LedgerEngine>(store: S, _: Time) {
    let ann = account("ann");
    let credit = |reference: &str| Credit {
        account: ann.clone(),
        amount: nanos(5),
        reference: reference.to_owned(),
    };
    let adjustment = |reference: &str| Adjustment::new(ann.clone(), nanos(-1), reference);
    // In bytes, not in characters.
    for reference in ["", &"a".repeat(256), &"ä".repeat(128)] {
        for _ in 0..2 {
            let paid = kind(store.credit(credit(reference)).await);
            assert_eq!(paid, StoreErrorKind::Refused, "{reference}");
            let corrected = kind(store.adjust(adjustment(reference)).await);
            assert_eq!(corrected, StoreErrorKind::Refused, "{reference}");
        }
    }
    balances(&store, &ann, 0, 0).await;
    let (longest, shortest) = ("a".repeat(255), "b");
    store.credit(credit(&longest)).await.unwrap();
    store.adjust(adjustment(shortest)).await.unwrap();
    balances(&store, &ann, 4, 0).await;
}

pub(crate) async fn a_settlement_takes_what_the_call_cost<S: LedgerEngine>(store: S, _: Time) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 100).await;
    let mut charged = 0;
    for cost in [10, 4, 0, 15, -7] {
        let held = hold(&store, &ann, &[key.clone()], 10).await.unwrap();
        assert_eq!(
            (held.amount, &*held.budgets),
            (nanos(10), &[key.clone()][..])
        );
        balances(&store, &ann, 100, 10).await;
        store.settle(held, costs(cost)).await.unwrap();
        charged += cost.max(0);
        let spent = store.budget(&ann, &key).await.unwrap();
        for window in [spent.day, spent.month, spent.total] {
            assert_eq!((window.settled, window.held), (nanos(charged), Money::ZERO));
        }
        balances(&store, &ann, 100, 0).await;
    }
    let last = hold(&store, &ann, &[], 71).await.unwrap();
    store.settle(last, costs(75)).await.unwrap();
    let balance = store.balance(&ann).await.unwrap();
    assert_eq!(balance.available(), nanos(-4), "an overrun is recorded");
    let refused = hold(&store, &ann, &[], 1).await.unwrap_err();
    assert_eq!(refused, HoldRefusal::InsufficientCredits);
}

pub(crate) async fn a_refused_hold_changes_nothing<S: LedgerEngine>(store: S, _: Time) {
    let (ann, key, team) = (account("ann"), budget("key-1"), budget("team"));
    pay(&store, &ann, 100).await;
    let monthly = SpendingLimits {
        monthly: Some(nanos(10)),
        ..SpendingLimits::default()
    };
    store.set_limits(&ann, &key, daily(50)).await.unwrap();
    store.set_limits(&ann, &team, monthly).await.unwrap();
    let both = [key.clone(), team.clone()];
    let refusals = [
        (101, HoldRefusal::InsufficientCredits),
        (51, HoldRefusal::LimitReached(BudgetWindow::Day)),
        (11, HoldRefusal::LimitReached(BudgetWindow::Month)),
        (-1, HoldRefusal::NegativeAmount),
        (i64::MAX, HoldRefusal::InsufficientCredits),
    ];
    for (amount, refusal) in refusals {
        assert_eq!(
            hold(&store, &ann, &both, amount).await.unwrap_err(),
            refusal
        );
        for id in &both {
            let budget = store.budget(&ann, id).await.unwrap();
            assert_eq!(budget.total, Spent::default());
        }
        balances(&store, &ann, 100, 0).await;
    }
    let held = hold(&store, &ann, &both, 10).await.unwrap();
    balances(&store, &ann, 100, 10).await;
    store.settle(held, costs(10)).await.unwrap();
}

pub(crate) async fn money_that_is_only_held_is_not_gone<S: LedgerEngine>(store: S, _: Time) {
    let (ann, key, team) = (account("ann"), budget("key-1"), budget("team"));
    pay(&store, &ann, 100).await;
    let monthly = SpendingLimits {
        monthly: Some(nanos(80)),
        ..SpendingLimits::default()
    };
    store.set_limits(&ann, &key, daily(50)).await.unwrap();
    store.set_limits(&ann, &team, monthly).await.unwrap();
    let (key, both) = ([key.clone()], [key, team.clone()]);
    let team = [team];
    let refused =
        async |budgets: &[BudgetId], amount| hold(&store, &ann, budgets, amount).await.unwrap_err();
    let only_held = |limit| HoldRefusal::OnlyHeld { limit };
    let reached = HoldRefusal::LimitReached;
    let (day, month) = (BudgetWindow::Day, BudgetWindow::Month);

    let one = hold(&store, &ann, &both, 40).await.unwrap();
    let two = hold(&store, &ann, &team, 40).await.unwrap();
    assert_eq!(refused(&[], 21).await, only_held(None));
    assert_eq!(refused(&[], 101).await, HoldRefusal::InsufficientCredits);
    assert_eq!(refused(&key, 11).await, only_held(Some(day)));
    assert_eq!(refused(&team, 1).await, only_held(Some(month)));
    // The key's limit comes first, and the balance before it.
    assert_eq!(refused(&both, 11).await, only_held(Some(day)));
    assert_eq!(refused(&both, 21).await, only_held(None));
    // What is gone somewhere counts more than what is held elsewhere.
    assert_eq!(refused(&both, 51).await, reached(day));
    assert_eq!(refused(&team, 81).await, reached(month));
    balances(&store, &ann, 100, 80).await;

    store.settle(one, costs(40)).await.unwrap();
    assert_eq!(refused(&key, 11).await, reached(day));
    assert_eq!(refused(&team, 40).await, only_held(None));
    assert_eq!(refused(&team, 41).await, reached(month));
    assert_eq!(refused(&[], 60).await, only_held(None));
    assert_eq!(refused(&[], 61).await, HoldRefusal::InsufficientCredits);
    store.settle(two, costs(0)).await.unwrap();
    let all = hold(&store, &ann, &[], 60).await.unwrap();
    store.settle(all, costs(60)).await.unwrap();
    assert_eq!(refused(&[], 1).await, HoldRefusal::InsufficientCredits);
    balances(&store, &ann, 100, 0).await;
}

pub(crate) async fn a_free_call_is_logged_and_costs_nothing<S: LedgerEngine>(store: S, _: Time) {
    let ann = account("ann");
    store.record(call(&ann, "free-1"), costs(5)).await.unwrap();
    let rows = usage(&store, &ann).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(&*rows[0].call.request_id, "free-1");
    assert_eq!(rows[0].settlement, costs(0));
    balances(&store, &ann, 0, 0).await;
}

pub(crate) async fn limits_count_what_was_spent_before<S: LedgerEngine>(store: S, clock: Time) {
    for window in [BudgetWindow::Day, BudgetWindow::Month] {
        let end = Calendar::utc().end(window, clock.now());
        assert!(end.is_some() && store.window_end(window, clock.now()) == end);
    }
    assert_eq!(store.window_end(BudgetWindow::Total, clock.now()), None);
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[key.clone()], 20).await.unwrap();
    store.settle(held, costs(20)).await.unwrap();
    let set = store.set_limits(&ann, &key, daily(10)).await.unwrap();
    assert_eq!((&set.limits, set.day.settled), (&daily(10), nanos(20)));
    assert_eq!(store.budget(&ann, &key).await.unwrap(), set);
    let refused = hold(&store, &ann, &[key.clone()], 1).await.unwrap_err();
    assert_eq!(refused, HoldRefusal::LimitReached(BudgetWindow::Day));
    store.set_limits(&ann, &key, daily(21)).await.unwrap();
    let held = hold(&store, &ann, &[key.clone()], 1).await.unwrap();
    store.settle(held, costs(1)).await.unwrap();
    let total = SpendingLimits {
        total: Some(nanos(21)),
        ..SpendingLimits::default()
    };
    store.set_limits(&ann, &key, total).await.unwrap();
    let refused = hold(&store, &ann, &[key.clone()], 1).await.unwrap_err();
    assert_eq!(refused, HoldRefusal::LimitReached(BudgetWindow::Total));
    let elsewhere = store.budget(&account("bob"), &key).await.unwrap();
    assert_eq!(
        elsewhere.total,
        Spent::default(),
        "one name in two accounts"
    );
    balances(&store, &ann, 100, 0).await;
}

pub(crate) async fn a_day_ends_and_the_month_goes_on<S: LedgerEngine>(store: S, clock: Time) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 100).await;
    store.set_limits(&ann, &key, daily(10)).await.unwrap();
    clock.advance(Duration::from_secs(86_400 - 10));
    let yesterday = hold(&store, &ann, &[key.clone()], 10).await.unwrap();
    assert!(hold(&store, &ann, &[key.clone()], 1).await.is_err());
    clock.advance(Duration::from_secs(20));
    let fresh: Budget = store.budget(&ann, &key).await.unwrap();
    assert_eq!((fresh.day, fresh.month.held), (Spent::default(), nanos(10)));
    let today = hold(&store, &ann, &[key.clone()], 10).await.unwrap();
    store.settle(yesterday, costs(10)).await.unwrap();
    store.settle(today, costs(3)).await.unwrap();
    let spent = store.budget(&ann, &key).await.unwrap();
    assert_eq!(
        (spent.day.settled, spent.month.settled),
        (nanos(3), nanos(13))
    );
    assert!(hold(&store, &ann, &[key.clone()], 8).await.is_err());
    balances(&store, &ann, 100, 0).await;
}

pub(crate) async fn a_hold_is_settled_once<S: LedgerEngine>(store: S, _: Time) {
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let first = hold(&store, &ann, &[], 10).await.unwrap();
    let again = forged(&first);
    let mut elsewhere = forged(&first);
    elsewhere.id.instance = elsewhere.id.instance.wrapping_add(1);
    store.settle(elsewhere, costs(10)).await.unwrap();
    balances(&store, &ann, 100, 10).await;
    store.settle(first, costs(10)).await.unwrap();
    store.settle(again, costs(10)).await.unwrap();
    balances(&store, &ann, 100, 0).await;
    assert_eq!(usage(&store, &ann).await.len(), 1);
}

pub(crate) async fn a_hold_that_outlives_its_time_is_given_back<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[key.clone()], 100).await.unwrap();
    clock.advance(Duration::from_secs(59));
    store.flush().await.unwrap();
    assert!(hold(&store, &ann, &[], 1).await.is_err(), "still open");
    clock.advance(Duration::from_secs(2));
    store.flush().await.unwrap();
    balances(&store, &ann, 100, 0).await;
    let rows = usage(&store, &ann).await;
    assert_eq!(rows.len(), 1);
    let settlement = &rows[0].settlement;
    assert_eq!(settlement.outcome, Outcome::Abandoned);
    assert_eq!((settlement.charged, settlement.status), (Money::ZERO, None));
    assert_eq!(rows[0].held, nanos(100));
    let spent = store.budget(&ann, &key).await.unwrap();
    assert_eq!(spent.total, Spent::default());
    let whole = hold(&store, &ann, &[key], 100).await.unwrap();
    store.settle(whole, costs(100)).await.unwrap();
    balances(&store, &ann, 100, 0).await;
    drop(held);
}

pub(crate) async fn a_late_settlement_charges_once_and_only_what_was_abandoned<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[key.clone()], 60).await.unwrap();
    let settled = hold(&store, &ann, &[], 10).await.unwrap();
    let again = [forged(&held), forged(&held), forged(&settled)];
    let mut elsewhere = forged(&held);
    elsewhere.id.instance = elsewhere.id.instance.wrapping_add(1);
    store.settle(settled, costs(10)).await.unwrap();
    clock.advance(Duration::from_secs(61));
    store.flush().await.unwrap();
    balances(&store, &ann, 100, 0).await;
    // Given back, and sold again.
    let others = hold(&store, &ann, &[key.clone()], 90).await.unwrap();
    store.settle(others, costs(90)).await.unwrap();
    balances(&store, &ann, 100, 0).await;
    store.settle(elsewhere, costs(60)).await.unwrap();
    store.settle(held, costs(60)).await.unwrap();
    // The answer was lost, and so it comes again.
    for again in again {
        store.settle(again, costs(60)).await.unwrap();
    }
    let balance = store.balance(&ann).await.unwrap();
    assert_eq!((balance.settled, balance.held), (nanos(160), nanos(0)));
    let spent = store.budget(&ann, &key).await.unwrap();
    assert_eq!(
        (spent.total.settled, spent.total.held),
        (nanos(150), nanos(0))
    );
    assert_eq!(
        (spent.day.settled, spent.month.held),
        (nanos(150), nanos(0))
    );
    let refused = hold(&store, &ann, &[], 1).await.unwrap_err();
    assert_eq!(refused, HoldRefusal::InsufficientCredits, "overdrawn");
    let rows = usage(&store, &ann).await;
    let told = |row: &UsageEntry| {
        let settlement = &row.settlement;
        (settlement.outcome, row.held, settlement.charged)
    };
    let expected = [
        (Outcome::Completed, nanos(0), nanos(60)),
        (Outcome::Completed, nanos(90), nanos(90)),
        (Outcome::Abandoned, nanos(60), nanos(0)),
        (Outcome::Completed, nanos(10), nanos(10)),
    ];
    assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(rows[0].call, rows[2].call);
    let moves = store.transactions(&ann, Page::first(9)).await.unwrap();
    let moves: Vec<i64> = moves
        .items
        .iter()
        .map(|moved| moved.amount.nanos())
        .collect();
    assert_eq!(moves, [-60, -90, -10, 100]);
}

pub(crate) async fn a_late_settlement_adds_to_what_was_charged_and_never_takes<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&store, &ann, 1_000).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let wish = HoldRequest {
            expiry: Expiry::Charge,
            ..request(&ann, &[key.clone()], 70)
        };
        held.push(store.hold(wish).await.unwrap().unwrap());
    }
    clock.advance(Duration::from_secs(61));
    store.flush().await.unwrap();
    balances(&store, &ann, 1_000, 0).await;
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(140));
    for (held, cost) in held.into_iter().zip([30, 75]) {
        let again = forged(&held);
        store.settle(held, costs(cost)).await.unwrap();
        store.settle(again, costs(cost)).await.unwrap();
    }
    let rows = usage(&store, &ann).await;
    let charged: Vec<i64> = rows
        .iter()
        .map(|row| row.settlement.charged.nanos())
        .collect();
    assert_eq!(charged, [5, 0, 70, 70]);
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(145));
    let spent = store.budget(&ann, &key).await.unwrap();
    assert_eq!(spent.total.settled, nanos(145));
}

pub(crate) async fn after_a_day_a_late_settlement_changes_nothing<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[], 60).await.unwrap();
    clock.advance(Duration::from_secs(61));
    store.flush().await.unwrap();
    clock.advance(Duration::from_secs(24 * 3_600 + 1));
    store.flush().await.unwrap();
    store.settle(held, costs(60)).await.unwrap();
    balances(&store, &ann, 100, 0).await;
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(0));
    assert_eq!(usage(&store, &ann).await.len(), 1);
}

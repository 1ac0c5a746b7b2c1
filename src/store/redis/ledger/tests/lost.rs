//! Lost answers, callers that leave, a server that goes down and comes back.

use futures_util::FutureExt;

use super::*;
use crate::store::{
    StoreErrorKind,
    redis::{
        ledger::{
            codec::HoldAnswer, codec::hold_answer, maintenance::leave_idle_accounts, shared::Shared,
        },
        tests::{HANG_UP, order},
    },
};

const SHORT: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_whose_caller_left_is_given_back() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    ledger
        .settle(hold(&ledger, &clock, 1).await, costs(1))
        .await
        .unwrap();
    server.pause();
    let mut left: Vec<_> = (0..20)
        .map(|_| ledger.hold(request(&account("ann"), &clock, 10)))
        .collect();
    for call in &mut left {
        assert!(call.now_or_never().is_none());
    }
    // They are in progress, and nobody waits for them any more.
    tokio::task::yield_now().await;
    drop(left);
    server.resume();
    ledger.flush().await.unwrap();
    assert_eq!(books(&ledger).await, (1, 0));
    let rows = rows(&ledger).await;
    let given_back = rows
        .iter()
        .filter(|row| row.settlement.outcome == Outcome::Disconnected);
    assert!(given_back.count() <= 20);
    let whole = hold(&ledger, &clock, 999).await;
    ledger.settle(whole, costs(999)).await.unwrap();
    assert_eq!(books(&ledger).await, (1_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_whose_answer_is_lost_is_unavailable_and_given_back() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it.deadline(SHORT)).await;
    let open = hold(&ledger, &clock, 5).await;
    server.pause();
    for _ in 0..10 {
        let lost = ledger.hold(request(&account("ann"), &clock, 100)).await;
        assert_eq!(lost.unwrap_err().kind(), StoreErrorKind::Unavailable);
    }
    // It is in progress, whatever its caller is told.
    let told = ledger.settle(open, costs(3)).await;
    assert_eq!(told.unwrap_err().kind(), StoreErrorKind::Unavailable);
    server.resume();
    until(async || ledger.flush().await.is_ok()).await;
    assert_eq!(books(&ledger).await, (3, 0));
    let charged: Vec<_> = rows(&ledger)
        .await
        .iter()
        .map(|row| row.settlement.charged.nanos())
        .collect();
    assert_eq!(charged.iter().sum::<i64>(), 3, "{charged:?}");
    assert!(
        charged.len() <= 4,
        "three waited, the others were not even sent: {charged:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_not_opened_when_it_comes_late() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    ledger
        .settle(hold(&ledger, &clock, 1).await, costs(1))
        .await
        .unwrap();
    let shared = &ledger.0.shared;
    let (ann, id) = (account("ann"), shared.registry.next_id());
    shared.give_back(&ann, id);
    ledger.flush().await.unwrap();
    let call = super::super::codec::write_call(&call(&ann, &clock)).unwrap();
    let late = shared.hold_call(id, &request(&ann, &clock, 10), &call);
    let answer: Vec<String> = shared.ask(0, &late).await.unwrap();
    assert!(
        matches!(hold_answer(&answer), Ok(HoldAnswer::GivenUp)),
        "{answer:?}"
    );
    assert_eq!(books(&ledger).await, (1, 0));
    // Other holds of that instance are as good as ever.
    let next = shared.hold_call(shared.registry.next_id(), &request(&ann, &clock, 10), &call);
    let answer: Vec<String> = shared.ask(0, &next).await.unwrap();
    assert!(
        matches!(hold_answer(&answer), Ok(HoldAnswer::Granted(_))),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_waits_for_a_server_that_comes_back_with_its_books() {
    let kept = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = RedisServer::start_with(&kept) else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it.deadline(SHORT)).await;
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(hold(&ledger, &clock, 10).await);
    }
    server.kill();
    let answers: Vec<_> = held
        .into_iter()
        .map(|held| ledger.settle(held, costs(7)))
        .collect();
    let refused = ledger.hold(request(&account("ann"), &clock, 1)).await;
    assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Unavailable);
    for answer in answers {
        assert!(answer.await.is_err());
    }
    // Closing doesn't release what is about to be settled.
    let closed = ledger.close().await;
    assert_eq!(closed.unwrap_err().kind(), StoreErrorKind::Unavailable);
    server.restart();
    until(async || ledger.close().await.is_ok()).await;
    let (ledger, _) = super::ledger(&server, |it| it).await;
    assert_eq!(books(&ledger).await, (350, 0));
    assert_eq!(rows(&ledger).await.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_waits_for_its_server_outlasts_the_lifetime_of_its_hold() {
    let kept = ["--appendonly", "yes", "--appendfsync", "always"];
    let Some(mut server) = RedisServer::start_with(&kept) else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it.deadline(SHORT)).await;
    let minute = || HoldRequest {
        lifetime: Duration::from_secs(60),
        ..request(&account("ann"), &clock, 10)
    };
    let mut held = Vec::new();
    for _ in 0..51 {
        held.push(ledger.hold(minute()).await.unwrap().unwrap());
    }
    let left = held.pop().unwrap();
    server.kill();
    for held in held {
        drop(ledger.settle(held, costs(7)));
    }
    clock.advance(Duration::from_secs(61));
    // By then maintenance has tried, in vain.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    server.restart();
    until(async || {
        clock.advance(Duration::from_secs(1));
        let balance = ledger.balance(&account("ann")).await;
        balance.is_ok_and(|balance| balance.held.is_zero())
    })
    .await;
    assert_eq!(
        books(&ledger).await,
        (350, 0),
        "of the last nothing was heard"
    );
    ledger.settle(left, costs(7)).await.unwrap();
    assert_eq!(books(&ledger).await, (357, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_memory_is_met_as_a_new_instance() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it.deadline(SHORT)).await;
    let lost = hold(&ledger, &clock, 10).await;
    let before = ledger.0.shared.registry.instance();
    server.kill();
    server.restart();
    until(async || ledger.balance(&account("ann")).await.is_ok()).await;
    pay(&ledger, "ann").await;
    // Nothing is known of it any more, and that is no error.
    ledger.settle(lost, costs(10)).await.unwrap();
    let held = hold(&ledger, &clock, 10).await;
    assert_ne!(held.id.instance, before);
    let mine = format!("tollgate:{{instances}}:of:{:016x}", held.id.instance);
    let accounts: Vec<String> = say(&server, &["SMEMBERS", &mine]).await;
    assert_eq!(accounts, ["ann"]);
    ledger.settle(held, costs(10)).await.unwrap();
    assert_eq!(books(&ledger).await, (10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_forgot_of_open_holds_is_said_again() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    let held = hold(&ledger, &clock, 10).await;
    let mine = format!("tollgate:{{instances}}:of:{:016x}", held.id.instance);
    let _: i64 = say(&server, &["DEL", &mine]).await;
    ledger.0.shared.request_reregistration();
    clock.advance(Duration::from_secs(2));
    ledger.flush().await.unwrap();
    let accounts: Vec<String> = say(&server, &["SMEMBERS", &mine]).await;
    assert_eq!(accounts, ["ann"]);
    ledger.settle(held, costs(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_while_it_leaves_an_account_leaves_a_doubt() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    let held = hold(&ledger, &clock, 10).await;
    ledger.settle(held, costs(10)).await.unwrap();
    ledger.flush().await.unwrap();
    let shared: &Arc<Shared> = &ledger.0.shared;
    // From now on nothing else runs the maintenance.
    let _maintenance = shared.maintenance.lock().await;
    shared.take_reregistration_request();
    let later = Duration::from_secs(3_600);
    server.pause();
    let leaving = leave_idle_accounts(shared, later);
    let cut_off = tokio::time::timeout(Duration::from_millis(50), leaving).await;
    assert!(cut_off.is_err(), "the server said nothing");
    assert!(shared.take_reregistration_request());
    server.resume();
    // There is nothing left to leave, and nothing to register again.
    leave_idle_accounts(shared, later).await.unwrap();
    assert!(!shared.take_reregistration_request());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_memory_refuses_holds_and_settles_later() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it.deadline(SHORT)).await;
    let held = hold(&ledger, &clock, 10).await;
    let _: String = say(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    assert!(
        ledger
            .hold(request(&account("ann"), &clock, 1))
            .await
            .is_err()
    );
    let settled = ledger.settle(held, costs(9));
    assert!(settled.await.is_err(), "not yet");
    let _: String = say(&server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    ledger.flush().await.unwrap();
    assert_eq!(books(&ledger).await, (9, 0));
    assert_eq!(rows(&ledger).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgot_the_scripts_is_handed_them_again() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    for charged in 1..=3 {
        let _: String = say(&server, &["SCRIPT", "FLUSH"]).await;
        let held = hold(&ledger, &clock, 10).await;
        let _: String = say(&server, &["SCRIPT", "FLUSH"]).await;
        ledger.settle(held, costs(charged)).await.unwrap();
    }
    assert_eq!(books(&ledger).await, (6, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_written_is_not_written_again() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    let shared: &Arc<Shared> = &ledger.0.shared;
    let ann = account("ann");
    let (call, settlement) = (call(&ann, &clock), costs(0));
    for (name, again) in [("a", false), ("a", true), ("b", true), ("b", true)] {
        let command = shared.record_call(&call, &settlement, name).unwrap();
        let _: i64 = shared.ask(0, &command(again)).await.unwrap();
    }
    assert_eq!(rows(&ledger).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_sent_twice_is_one() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    let shared = &ledger.0.shared;
    let (ann, id) = (account("ann"), shared.registry.next_id());
    let mut wish = request(&ann, &clock, 10);
    wish.idempotency = Some(Idempotency {
        key: Arc::from("key"),
        fingerprint: [7; 32],
        keep_for: Duration::from_secs(60),
    });
    let call = super::super::codec::write_call(&wish.call).unwrap();
    let command = shared.hold_call(id, &wish, &call);
    let first: Vec<String> = shared.ask(0, &command).await.unwrap();
    let second: Vec<String> = shared.ask(0, &command).await.unwrap();
    assert!(
        matches!(hold_answer(&first), Ok(HoldAnswer::Granted(_))),
        "{first:?}"
    );
    assert_eq!(first, second);
    assert_eq!(books(&ledger).await, (0, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_server_ended_are_made_anew_and_money_is_moved_once() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    let open = hold(&ledger, &clock, 5).await;
    order(&server, HANG_UP).await;
    assert_eq!(books(&ledger).await, (0, 5));
    order(&server, HANG_UP).await;
    ledger.settle(open, costs(3)).await.unwrap();
    assert_eq!(books(&ledger).await, (3, 0));
    order(&server, HANG_UP).await;
    if let Err(error) = ledger.hold(request(&account("ann"), &clock, 10)).await {
        assert_ne!(error.kind(), StoreErrorKind::Unavailable, "others go on");
    }
    let next = hold(&ledger, &clock, 7).await;
    ledger.settle(next, costs(7)).await.unwrap();
    until(async || ledger.flush().await.is_ok()).await;
    let (settled, _) = books(&ledger).await;
    assert_eq!(settled, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_is_told_that_others_ended_its_hold() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    let (late, forgotten, settled) = (
        hold(&ledger, &clock, 5).await,
        hold(&ledger, &clock, 5).await,
        hold(&ledger, &clock, 5).await,
    );
    let ids = (late.id, forgotten.id, settled.id);
    ledger.settle(settled, costs(5)).await.unwrap();
    for held in [&late, &forgotten] {
        assert!(ledger.extend(held, Duration::ZERO).await.unwrap());
    }
    clock.advance(Duration::from_secs(2));
    ledger.flush().await.unwrap();
    assert_eq!(books(&ledger).await, (5, 0));
    let shared = &ledger.0.shared;
    let remembered = format!("tollgate:{{account:ann}}:late:{:016x}", ids.1.instance);
    let number = Shared::number(ids.1).to_string();
    let forgets: i64 = say(&server, &["HDEL", &remembered, &number]).await;
    assert_eq!(forgets, 1);
    let written = super::super::codec::write_settlement(&costs(5), None).unwrap();
    let asked = [
        (ids.0, "settled"),
        (ids.0, "gone"),
        (ids.1, "resolved"),
        (ids.2, "gone"),
    ];
    for (id, answer) in asked {
        let again = shared.settle_call(&account("ann"), id, Money::from_nanos(5), &written, false);
        let told: Vec<String> = shared.ask(0, &again).await.unwrap();
        assert_eq!(told, [answer]);
    }
    ledger.settle(late, costs(5)).await.unwrap();
    assert_eq!(books(&ledger).await, (10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_not_say_that_they_live_bury_nobody() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (one, one_clock) = ledger(&server, |it| it).await;
    let (other, other_clock) = ledger(&server, |it| it).await;
    let held = hold(&one, &one_clock, 10).await;
    let _: String = say(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let waits = one.settle(held, costs(10));
    // In such small steps that idle accounts are left without a heartbeat in between.
    for _ in 0..40 {
        for (ledger, clock) in [(&one, &one_clock), (&other, &other_clock)] {
            clock.advance(Duration::from_millis(500));
            let shared = &ledger.0.shared;
            let _ = shared.maintenance.lock().await.run_due(shared).await;
        }
    }
    let living: i64 = say(&server, &["HLEN", "tollgate:{instances}:beats"]).await;
    assert_eq!(living, 2, "neither has heard the other be silent");
    let _: String = say(&server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    let _ = waits.await;
    until(async || books(&other).await == (10, 0)).await;
    let rows = rows(&other).await;
    assert_eq!(rows[0].settlement.outcome, Outcome::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_for_which_there_is_no_memory_was_never_open() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it.open_holds_max(1)).await;
    ledger
        .settle(hold(&ledger, &clock, 1).await, costs(1))
        .await
        .unwrap();
    let _: String = say(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    for _ in 0..3 {
        let refused = ledger.hold(request(&account("ann"), &clock, 10)).await;
        // Not `Busy`: its permit is free immediately.
        assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Internal);
    }
    let _: String = say(&server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    let held = hold(&ledger, &clock, 1).await;
    ledger.settle(held, costs(1)).await.unwrap();
    assert_eq!(rows(&ledger).await.len(), 2, "nothing was to be given back");
}

//! What is bounded, what is cleaned up, what is refused on opening.

use futures_util::FutureExt;

use super::*;
use crate::store::StoreErrorKind;

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_bounded_and_payments_are_not() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it.usage_rows_max(100)).await;
    for _ in 0..450 {
        let held = hold(&ledger, &clock, 1).await;
        ledger.settle(held, costs(1)).await.unwrap();
    }
    let kept = rows(&ledger).await;
    assert!((100..=200).contains(&kept.len()), "{}", kept.len());
    assert!(kept.is_sorted_by_key(|row| std::cmp::Reverse(row.position)));
    let moved = ledger
        .transactions(&account("ann"), Page::first(1_000))
        .await
        .unwrap()
        .items;
    assert!((101..=201).contains(&moved.len()));
    assert_eq!(moved.last().unwrap().reference, "ann pays");
    assert_eq!(books(&ledger).await, (450, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn open_holds_are_bounded_and_a_settlement_makes_room() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it.open_holds_max(2)).await;
    let first = hold(&ledger, &clock, 1).await;
    let _second = hold(&ledger, &clock, 1).await;
    for _ in 0..3 {
        let refused = ledger.hold(request(&account("ann"), &clock, 1)).await;
        assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Busy);
    }
    ledger.settle(first, costs(1)).await.unwrap();
    let _third = hold(&ledger, &clock, 1).await;
    // A refusal takes no permit.
    ledger.settle(_third, costs(1)).await.unwrap();
    for _ in 0..3 {
        let refused = ledger.hold(request(&account("ann"), &clock, 5_000)).await;
        assert!(refused.unwrap().is_err());
    }
    let _fourth = hold(&ledger, &clock, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_while_it_clears_up_keeps_no_place_taken() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it.open_holds_max(1)).await;
    let shared = &ledger.0.shared;
    // Nothing else cleans up meanwhile.
    let mut maintenance = shared.maintenance.lock().await;
    maintenance.run_due(shared).await.unwrap();
    let mut wish = request(&account("ann"), &clock, 7);
    wish.lifetime = Duration::from_secs(1);
    let _overdue = ledger.hold(wish).await.unwrap().unwrap();
    clock.advance(Duration::from_secs(1));
    assert!(maintenance.run_due(shared).now_or_never().is_none());
    let refused = ledger.hold(request(&account("ann"), &clock, 1)).await;
    assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Busy);
    clock.advance(Duration::from_secs(1));
    maintenance.run_due(shared).await.unwrap();
    assert_eq!(books(&ledger).await, (0, 0));
    let _held = hold(&ledger, &clock, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_idle_is_left_and_entered_again() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    let held = hold(&ledger, &clock, 1).await;
    let mine = format!("tollgate:{{instances}}:of:{:016x}", held.id.instance);
    clock.advance(Duration::from_secs(100));
    ledger.flush().await.unwrap();
    let accounts: Vec<String> = say(&server, &["SMEMBERS", &mine]).await;
    assert_eq!(accounts, ["ann"], "a hold is open");
    ledger.settle(held, costs(1)).await.unwrap();
    clock.advance(Duration::from_secs(100));
    ledger.flush().await.unwrap();
    let accounts: Vec<String> = say(&server, &["SMEMBERS", &mine]).await;
    assert!(accounts.is_empty());
    let _held = hold(&ledger, &clock, 1).await;
    let accounts: Vec<String> = say(&server, &["SMEMBERS", &mine]).await;
    assert_eq!(accounts, ["ann"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_closed_leaves_nothing_open_and_nothing_behind() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (first, clock) = ledger(&server, |it| it).await;
    let (second, _) = ledger(&server, |it| it).await;
    let mut wish = request(&account("ann"), &clock, 70);
    wish.expiry = Expiry::Charge;
    let charged = first.hold(wish).await.unwrap().unwrap();
    let _given_back = hold(&first, &clock, 30).await;
    let others = hold(&second, &clock, 5).await;
    // In progress when the ledger is closed.
    let late = first.settle(hold(&first, &clock, 9).await, costs(9));
    first.close().await.unwrap();
    first.close().await.unwrap();
    late.await.unwrap();
    assert_eq!(books(&second).await, (79, 5));
    let refused = first.hold(request(&account("ann"), &clock, 1)).await;
    assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Unavailable);
    first.settle(charged, costs(1)).await.unwrap();
    second.settle(others, costs(5)).await.unwrap();
    assert_eq!(books(&second).await, (84, 0));
    drop(second);
    // Dropped without closing, it does the same in the background.
    until(async || say::<i64>(&server, &["EXISTS", "tollgate:{instances}:beats"]).await == 0).await;
    until(async || say::<i64>(&server, &["EXISTS", "tollgate:{instances}:dead"]).await == 0).await;
    let left: Vec<String> = say(&server, &["KEYS", "tollgate:{instances}*"]).await;
    assert!(left.is_empty(), "{left:?}");
    let open: Vec<String> = say(&server, &["KEYS", "tollgate:{account:ann}:open*"]).await;
    assert!(open.is_empty(), "{open:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_not_look_for_long_takes_nobody_for_dead() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (first, first_clock) = ledger(&server, |it| it).await;
    let (second, second_clock) = ledger(&server, |it| it).await;
    let held = hold(&first, &first_clock, 10).await;
    second.flush().await.unwrap();
    // The second process was paused, or the server was down: the first may have been alive all the
    // time.
    second_clock.advance(Duration::from_secs(60));
    second.flush().await.unwrap();
    assert_eq!(books(&second).await, (0, 10));
    for _ in 0..6 {
        second_clock.advance(Duration::from_secs(1));
        second.flush().await.unwrap();
    }
    assert_eq!(
        books(&second).await,
        (0, 0),
        "now it was silent under its eyes"
    );
    first.settle(held, costs(10)).await.unwrap();
    assert_eq!(books(&second).await, (10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_of_a_thousand_accounts_are_cleared_up_after() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (dead, dead_clock) = ledger(&server, |it| it).await;
    let (other, clock) = ledger(&server, |it| it).await;
    let mut open = Vec::new();
    for number in 0..250 {
        let who = account(&format!("account-{number}"));
        open.push(
            dead.hold(request(&who, &dead_clock, 0))
                .await
                .unwrap()
                .unwrap(),
        );
    }
    // One account has more holds than one step resolves.
    for _ in 0..450 {
        open.push(hold(&dead, &dead_clock, 1).await);
    }
    assert_eq!(books(&other).await, (0, 450));
    for _ in 0..12 {
        clock.advance(Duration::from_secs(1));
        other.flush().await.unwrap();
    }
    assert_eq!(books(&other).await, (0, 0));
    let left: Vec<String> = say(&server, &["KEYS", "tollgate:*:open:*"]).await;
    assert!(left.is_empty(), "{left:?}");
    let dead: i64 = say(&server, &["EXISTS", "tollgate:{instances}:dead"]).await;
    assert_eq!(dead, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_an_older_version_keeps_nobody_from_clearing_up() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (dead, dead_clock) = ledger(&server, |it| it).await;
    let (other, clock) = ledger(&server, |it| it).await;
    let held = hold(&dead, &dead_clock, 5).await;
    let its = format!("tollgate:{{instances}}:of:{:016x}", held.id.instance);
    let _: i64 = say(&server, &["SADD", &its, "old\0name", ""]).await;
    for _ in 0..12 {
        clock.advance(Duration::from_secs(1));
        other.flush().await.unwrap();
    }
    assert_eq!(books(&other).await, (0, 0));
    for key in [its.as_str(), "tollgate:{instances}:dead"] {
        assert_eq!(say::<i64>(&server, &["EXISTS", key]).await, 0, "{key}");
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_and_a_password_is_not_told() {
    let error = RedisLedger::open("http://user:secret@host/")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    let builder = RedisLedger::builder("redis://user:secret@127.0.0.1:1/");
    let told = format!("{builder:?}");
    let error = builder.open().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(!format!("{error} {error:?} {told}").contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_back_is_forgotten_with_the_rows_of_its_calls() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it.usage_rows_max(100)).await;
    let give_back = async |row: &UsageEntry, amount| {
        let reference = format!("refund of {}", row.position);
        let refund = Adjustment::new(account("ann"), Money::from_nanos(amount), reference);
        ledger.adjust(refund.of_call(row)).await
    };
    let mut first = None;
    for _ in 0..500 {
        let held = hold(&ledger, &clock, 2).await;
        ledger.settle(held, costs(2)).await.unwrap();
        let page = Page::first(1);
        let mut newest = ledger.usage(&account("ann"), page).await.unwrap().items;
        let row = newest.swap_remove(0);
        give_back(&row, 1).await.unwrap();
        first.get_or_insert(row);
    }
    let stored: u64 = say(&server, &["HLEN", "tollgate:{account:ann}:refunds"]).await;
    assert!((100..=250).contains(&stored), "{stored} of 500");
    // Of a row that is there nothing is forgotten.
    for row in rows(&ledger).await {
        let name = row.position.to_string();
        let words = ["HGET", "tollgate:{account:ann}:refunds", &name];
        assert_eq!(say::<String>(&server, &words).await, "1");
    }
    // What was paid before is the same again, and pays nothing.
    let first = first.unwrap();
    let gone = ledger.usage_at(&account("ann"), first.position).await;
    assert_eq!(gone.unwrap(), None);
    let before = ledger.balance(&account("ann")).await.unwrap();
    assert_eq!(give_back(&first, 1).await.unwrap(), before);
    let again = Adjustment::new(account("ann"), Money::from_nanos(1), "once more");
    let refused = ledger.adjust(again.of_call(&first)).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::NotFound);
    assert_eq!(ledger.balance(&account("ann")).await.unwrap(), before);
}

/// The row was there when it was read, and is gone when the refund arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_row_goes_meanwhile_is_not_given_back() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    ledger
        .settle(hold(&ledger, &clock, 5).await, costs(5))
        .await
        .unwrap();
    let row = rows(&ledger).await.swap_remove(0);
    let refund = Adjustment::new(account("ann"), Money::from_nanos(5), "refund-1").of_call(&row);
    let shared = &ledger.0.shared;
    let read = shared.charged(&refund).await.unwrap();
    let place = format!("{}-0", row.position);
    let gone: u64 = say(&server, &["XDEL", "tollgate:{account:ann}:usage", &place]).await;
    assert_eq!(gone, 1);
    let refused = shared.book(&refund, read.as_ref()).await.unwrap_err().error;
    assert_eq!(refused.kind(), StoreErrorKind::NotFound);
    let balance = ledger.balance(&account("ann")).await.unwrap();
    assert_eq!(balance.deposited.nanos(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_details_cannot_be_read_is_shown_without_them() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let (ledger, clock) = ledger(&server, |it| it).await;
    let mut settlement = costs(5);
    settlement.status = Some(200);
    settlement.details = Some(Box::default());
    let details = settlement.details.as_mut().unwrap();
    details.web_searches = 3;
    ledger
        .settle(hold(&ledger, &clock, 5).await, settlement)
        .await
        .unwrap();
    let sound = rows(&ledger).await.swap_remove(0);
    let log = "tollgate:{account:ann}:usage";
    let read: Vec<(String, Vec<String>)> = say(&server, &["XRANGE", log, "-", "+"]).await;
    let fields = &read[0].1;
    let damaged = fields.clone().into_iter().map(|word| {
        let word = word.replace("\"web_searches\":3", "\"web_searches\":\"three\"");
        word.replace("\"details\":{", "\"details\":{\"a new one\":1,")
    });
    let damaged: Vec<String> = damaged.collect();
    assert_ne!(damaged, *fields);
    let mut words = vec!["XADD", log, "100-0"];
    words.extend(damaged.iter().map(String::as_str));
    say::<String>(&server, &words).await;
    // One that the ledger resolved, with windows that are none.
    let mut resolved = fields.clone();
    let settled = resolved.iter().position(|word| word == "s").unwrap();
    resolved[settled + 1].clear();
    resolved.extend(["d", "yesterday", "m", "0"].map(str::to_owned));
    let mut words = vec!["XADD", log, "101-0"];
    words.extend(resolved.iter().map(String::as_str));
    say::<String>(&server, &words).await;

    let shown = rows(&ledger).await;
    assert_eq!(shown.len(), 3);
    assert_eq!(shown[2], sound);
    let mut bare = sound.clone();
    (bare.position, bare.settlement.details) = (100, None);
    assert_eq!(shown[1], bare);
    assert_eq!(shown[0].settlement.outcome, Outcome::Abandoned);
    assert_eq!(shown[0].settlement.details, None);
}

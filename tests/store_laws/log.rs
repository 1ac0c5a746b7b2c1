//! The usage log and the list of transactions.

use std::{sync::Arc, time::Duration};

use tollgate::{
    store::{AccountId, KeyId, Ledger, Page, StoreErrorKind, UsageLog},
    usage::{Call, HoldRequest, Outcome, Settlement, Tags, Transaction, UsageDetails, UsageEntry},
};

use crate::engines::{
    LedgerEngine, Time, account, balances, budget, call, costs, later, nanos, now, pay, request,
    usage,
};

async fn spend<S: Ledger>(store: &S, account: &AccountId, request_id: &str, charged: i64) {
    let mut wish = request(account, &[], charged);
    wish.call.request_id = request_id.into();
    let hold = store.hold(wish).await.unwrap().unwrap();
    store.settle(hold, costs(charged)).await.unwrap();
}

pub(crate) async fn the_log_says_what_happened<S: LedgerEngine>(store: S, clock: Time) {
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let called = Call {
        request_id: "request-7".into(),
        account: ann.clone(),
        principal: Arc::from("somebody at ann's"),
        key: Some(KeyId::new("key-1").unwrap()),
        route: Arc::from("GET /v1/'models'"),
        started_at: now(),
    };
    let wish = HoldRequest {
        call: called.clone(),
        ..request(&ann, &[], 30)
    };
    let hold = store.hold(wish).await.unwrap().unwrap();
    clock.advance(Duration::from_secs(3));
    let mut details = UsageDetails::default();
    details.tags = Tags::new().with("team", "'\"ü, b").with("customer", "acme");
    details.budgets = vec![budget("key-1"), budget("team:blue")];
    (details.audio_input_tokens, details.image_output_tokens) = (3, 1 << 40);
    (details.web_searches, details.service_tier) = (2, Some(Arc::from("fl\0ex'\"")));
    let settlement = Settlement {
        charged: nanos(12),
        outcome: Outcome::Disconnected,
        status: Some(599),
        latency: Duration::from_micros(1_234_567),
        input_tokens: Some(0),
        cached_tokens: Some(5),
        cache_write_tokens: Some(1 << 40),
        output_tokens: Some(9),
        bytes: Some(1 << 40),
        model: Some(Arc::from("model-\"1\"")),
        usage_is_missing: true,
        details: Some(Box::new(details)),
    };
    store.settle(hold, settlement.clone()).await.unwrap();
    let rows = usage(&store, &ann).await;
    let expected = UsageEntry {
        position: rows[0].position,
        call: called,
        held: nanos(30),
        settlement,
        settled_at: later(3),
    };
    assert_eq!(rows, [expected]);
    balances(&store, &ann, 100, 0).await;
}

pub(crate) async fn usage_is_listed_newest_first_a_page_at_a_time<S: LedgerEngine>(
    store: S,
    _: Time,
) {
    let (ann, bob) = (account("ann"), account("bob"));
    for number in 0..7 {
        for who in [&ann, &bob] {
            let call = call(who, &format!("{number}"));
            store.record(call, costs(0)).await.unwrap();
        }
    }
    let mut page = Page::first(3);
    let (mut seen, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let part = store.usage(&ann, page).await.unwrap();
        sizes.push(part.items.len());
        assert!(part.items.iter().all(|row| row.call.account == ann));
        seen.extend(part.items.iter().map(|row| row.call.request_id.to_string()));
        let Some(cursor) = part.next_cursor else {
            break;
        };
        page = Page::first(3).after(cursor);
    }
    assert_eq!(seen, ["6", "5", "4", "3", "2", "1", "0"]);
    assert_eq!(sizes, [3, 3, 1]);
    assert_eq!(
        store.usage(&ann, Page::first(7)).await.unwrap().next_cursor,
        None
    );
}

/// What a reader of everybody's usage that goes on after `seen` finds, in pages of three.
async fn follow<S: UsageLog>(store: &S, seen: &mut u64) -> Vec<UsageEntry> {
    let (mut found, mut busy) = (Vec::new(), 0);
    loop {
        let page = Page::first(3).after(*seen);
        let page = match store.usage_of_all(page).await {
            Err(error) if error.kind() == StoreErrorKind::Busy && busy < 100 => {
                busy += 1;
                continue;
            }
            page => page.unwrap(),
        };
        let more = page.next_cursor;
        for row in page.items {
            assert!(row.position > *seen, "oldest first");
            *seen = row.position;
            found.push(row);
        }
        if more.is_none() {
            return found;
        }
    }
}

pub(crate) async fn everybody_s_usage_is_listed_oldest_first<S: LedgerEngine + UsageLog>(
    store: S,
    _: Time,
) {
    let (ann, bob) = (account("ann"), account("bob"));
    let mut seen = 0;
    assert_eq!(follow(&store, &mut seen).await, []);
    pay(&store, &ann, 100).await;
    for number in 0..4 {
        let free = call(&bob, &format!("bob-{number}"));
        store.record(free, costs(0)).await.unwrap();
        spend(&store, &ann, &format!("ann-{number}"), 5).await;
    }
    let names = |rows: &[UsageEntry]| -> Vec<String> {
        let names = rows.iter().map(|row| row.call.request_id.to_string());
        names.collect()
    };
    let rows = follow(&store, &mut seen).await;
    let expected = [
        "bob-0", "ann-0", "bob-1", "ann-1", "bob-2", "ann-2", "bob-3", "ann-3",
    ];
    assert_eq!(names(&rows), expected);
    let mut anns = usage(&store, &ann).await;
    anns.reverse();
    let of_ann = rows.into_iter().filter(|row| row.call.account == ann);
    assert_eq!(of_ann.collect::<Vec<_>>(), anns);
    assert_eq!(follow(&store, &mut seen).await, []);
    spend(&store, &ann, "later", 5).await;
    assert_eq!(names(&follow(&store, &mut seen).await), ["later"]);
}

pub(crate) async fn who_follows_everybody_s_usage_misses_nothing<S: LedgerEngine + UsageLog>(
    store: S,
    _: Time,
) {
    const ACCOUNTS: usize = 16;
    const CALLS: usize = 25;
    let spenders = (0..ACCOUNTS).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let account = account(&format!("account-{number}"));
            pay(&store, &account, 1_000).await;
            for call in 0..CALLS {
                spend(&store, &account, &format!("{number}-{call}"), 1).await;
            }
        })
    });
    let spenders: Vec<_> = spenders.collect();
    let (mut seen, mut found) = (0, Vec::new());
    while !spenders.iter().all(tokio::task::JoinHandle::is_finished) {
        found.extend(follow(&store, &mut seen).await);
        tokio::task::yield_now().await;
    }
    for spender in spenders {
        spender.await.unwrap();
    }
    found.extend(follow(&store, &mut seen).await);
    let mut names: Vec<_> = found.iter().map(|row| &row.call.request_id).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(
        (found.len(), names.len()),
        (ACCOUNTS * CALLS, ACCOUNTS * CALLS)
    );
}

pub(crate) async fn transactions_are_payments_and_charges_in_their_order<S: LedgerEngine>(
    store: S,
    _: Time,
) {
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    spend(&store, &ann, "first", 5).await;
    spend(&store, &ann, "free", 0).await;
    pay(&store, &ann, 50).await;
    pay(&store, &ann, 60).await;
    spend(&store, &ann, "second", 6).await;
    spend(&store, &ann, "third", 7).await;
    let expected: [(&str, i64); 6] = [
        ("third", -7),
        ("second", -6),
        ("ann-60", 60),
        ("ann-50", 50),
        ("first", -5),
        ("ann-100", 100),
    ];
    for limit in 1..=7 {
        let mut page = Page::first(limit);
        let mut seen: Vec<Transaction> = Vec::new();
        loop {
            let part = store.transactions(&ann, page).await.unwrap();
            assert!(part.items.len() <= usize::from(limit));
            seen.extend(part.items);
            let Some(cursor) = part.next_cursor else {
                break;
            };
            page = Page::first(limit).after(cursor);
        }
        let moved: Vec<_> = seen
            .iter()
            .map(|moved| (moved.reference.as_str(), moved.amount.nanos()))
            .collect();
        assert_eq!(moved, expected, "{limit} a page");
        assert!(
            seen.iter()
                .all(|moved| moved.route.is_some() == moved.amount.is_negative())
        );
        assert!(seen.is_sorted_by_key(|moved| std::cmp::Reverse(moved.position)));
    }
    balances(&store, &ann, 210, 0).await;
}

pub(crate) async fn another_account_s_cursor_leads_to_what_is_older<S: LedgerEngine>(
    store: S,
    _: Time,
) {
    let (ann, bob) = (account("ann"), account("bob"));
    pay(&store, &ann, 100).await;
    pay(&store, &bob, 100).await;
    for number in 0..3 {
        spend(&store, &ann, &format!("a{number}"), 1).await;
        spend(&store, &bob, &format!("b{number}"), 1).await;
    }
    let all = Page::first(9);
    let foreign = store.usage(&ann, all.clone()).await.unwrap().items;
    let own = store.usage(&bob, all.clone()).await.unwrap().items;
    let moved = store.transactions(&bob, all.clone()).await.unwrap().items;
    let newest = moved[0].position;
    let cursors = foreign.iter().map(|row| row.position);
    for cursor in cursors.chain([0, newest + 1, newest + 2, u64::MAX]) {
        let page = all.clone().after(cursor);
        let rows = store.usage(&bob, page.clone()).await.unwrap();
        let older = own.iter().filter(|row| row.position < cursor);
        assert_eq!(rows.items, older.cloned().collect::<Vec<_>>(), "{cursor}");
        let part = store.transactions(&bob, page).await.unwrap();
        let older = moved.iter().filter(|moved| moved.position < cursor);
        assert_eq!(part.items, older.cloned().collect::<Vec<_>>(), "{cursor}");
    }
}

//! Statements of an account for a period.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tollgate::{
    books::Snapshot,
    clock::{Clock, Timestamp},
    store::{Ledger, MemoryStore, Page, Statement, StoreErrorKind},
    usage::Adjustment,
};

use crate::engines::{
    LedgerEngine, Time, account, costs, hold, kind, later, nanos, now, pay, request,
};

async fn spend(store: &impl Ledger, charged: i64) {
    let held = hold(store, &account("ann"), &[], charged).await.unwrap();
    store.settle(held, costs(charged)).await.unwrap();
}

async fn correct(store: &impl Ledger, amount: i64) {
    let adjustment = Adjustment::new(
        account("ann"),
        nanos(amount),
        format!("correction-{amount}"),
    );
    store.adjust(adjustment).await.unwrap();
}

fn sums(statement: &Statement) -> [i64; 5] {
    let Statement {
        opening,
        paid_in,
        taken_back,
        charged,
        closing,
        ..
    } = statement;
    [opening, paid_in, taken_back, charged, closing].map(|sum| sum.nanos())
}

pub(crate) async fn what_there_was_and_what_moved_is_what_there_is<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let ann = account("ann");
    let read = async |from, to| Statement::read(&store, &ann, from, to).await;
    let never = read(later(0), later(9)).await.unwrap();
    assert_eq!((sums(&never), never.is_whole), ([0; 5], true));
    // A hundred seconds for each of these.
    pay(&store, &ann, 1_000).await;
    clock.advance(Duration::from_secs(100));
    spend(&store, 10).await;
    spend(&store, 0).await;
    pay(&store, &account("bob"), 50).await;
    clock.advance(Duration::from_secs(100));
    spend(&store, 20).await;
    correct(&store, -300).await;
    correct(&store, 7).await;
    clock.advance(Duration::from_secs(100));
    // What is held, and how far the account may go, moves nothing.
    let _open = store.hold(request(&ann, &[], 100)).await.unwrap().unwrap();
    store.set_credit_line(&ann, nanos(500)).await.unwrap();
    let expected = [
        (0, 400, [0, 1_007, 300, 30, 677]),
        (0, 100, [0, 1_000, 0, 0, 1_000]),
        (100, 200, [1_000, 0, 0, 10, 990]),
        (100, 300, [1_000, 7, 300, 30, 677]),
        (200, 300, [990, 7, 300, 20, 677]),
        (200, 200, [990, 0, 0, 0, 990]),
        (300, 400, [677, 0, 0, 0, 677]),
        (-100, 0, [0; 5]),
    ];
    for (from, to, expected) in expected {
        let origin = now() - Duration::from_secs(100);
        let moment = |secs: i64| origin + Duration::from_secs((secs + 100).try_into().unwrap());
        let statement = read(moment(from), moment(to)).await.unwrap();
        assert_eq!(sums(&statement), expected, "from {from} to {to}");
        assert!(statement.is_whole);
        assert_eq!((statement.from, statement.to), (moment(from), moment(to)));
    }
    let backwards = read(later(1), later(0)).await;
    assert_eq!(kind(backwards), StoreErrorKind::Refused);
}

pub(crate) async fn a_statement_holds_while_the_account_moves<S: LedgerEngine>(
    store: S,
    clock: Time,
) {
    let ann = account("ann");
    pay(&store, &ann, 1_000_000).await;
    spend(&store, 5).await;
    clock.advance(Duration::from_secs(10));
    let began = clock.now();
    let was_read = Arc::new(AtomicBool::new(false));
    let (spender, enough) = (store.clone(), Arc::clone(&was_read));
    let spending = tokio::spawn(async move {
        let mut spent = 0;
        // Until somebody has read it, however fast the engine is; never more than a log keeps.
        while spent < 300 || (!enough.load(Ordering::Relaxed) && spent < 5_000) {
            spend(&spender, 1).await;
            spent += 1;
            tokio::task::yield_now().await;
        }
        spent
    });
    while !spending.is_finished() {
        let statement = Statement::read(&store, &ann, began, Timestamp::MAX).await;
        let statement = statement.unwrap();
        let [opening, _, _, charged, closing] = sums(&statement);
        assert_eq!((opening, closing), (999_995, 999_995 - charged));
        assert!(statement.is_whole);
        was_read.store(true, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
    let spent = spending.await.unwrap();
    let last = Statement::read(&store, &ann, began, Timestamp::MAX).await;
    assert_eq!(sums(&last.unwrap())[3], spent);
    assert!(was_read.load(Ordering::Relaxed), "it was never read");
}

pub(crate) async fn a_snapshot_is_the_sum_of_what_it_includes<S: LedgerEngine>(
    store: S,
    _clock: Time,
) {
    let ann = account("ann");
    let snapshot = async || store.snapshot(&ann).await.unwrap();
    assert_eq!(snapshot().await, Snapshot::default());
    pay(&store, &ann, 100).await;
    let newest = async || {
        let page = store.transactions(&ann, Page::first(1)).await.unwrap();
        page.items.first().map(|moved| moved.position)
    };
    assert_eq!(snapshot().await.position, newest().await);
    spend(&store, 7).await;
    assert_eq!(snapshot().await.position, newest().await);
    correct(&store, 5).await;
    let _open = store.hold(request(&ann, &[], 3)).await.unwrap().unwrap();
    pay(&store, &account("bob"), 1).await;
    let last = snapshot().await;
    assert_eq!(last.position, newest().await);
    assert_eq!(last.balance, store.balance(&ann).await.unwrap());
    let amounts = [
        last.balance.deposited,
        last.balance.settled,
        last.balance.held,
    ];
    assert_eq!(amounts.map(|amount| amount.nanos()), [105, 7, 3]);
}

#[tokio::test]
async fn a_log_that_has_forgotten_says_so_and_nothing_wrong() {
    let clock = Time::default();
    let store = MemoryStore::builder()
        .with_clock(clock.clone())
        .usage_rows_max(3)
        .build();
    let ann = account("ann");
    pay(&store, &ann, 1_000).await;
    for charged in 1..=5 {
        clock.advance(Duration::from_secs(100));
        spend(&store, charged).await;
        pay(&store, &ann, 10 * charged).await;
    }
    // Charges of 3, 4 and 5 are left, and every payment.
    let read = async |from, to| Statement::read(&store, &ann, later(from), later(to)).await;
    let forgotten = read(0, 1_000).await.unwrap();
    assert!(!forgotten.is_whole);
    assert_eq!(forgotten.from, later(300));
    let opening = 1_000 + 10 + 20 - 1 - 2;
    let closing = opening + 30 + 40 + 50 - 3 - 4 - 5;
    assert_eq!(sums(&forgotten), [opening, 120, 0, 12, closing]);
    // A payment from before the period says nothing about charges that stood between.
    let unsure = read(250, 1_000).await.unwrap();
    assert!(!unsure.is_whole && unsure.from == later(300));
    let known = read(350, 450).await.unwrap();
    assert!(known.is_whole);
    assert_eq!(sums(&known), [opening + 30 - 3, 40, 0, 4, opening + 70 - 7]);
    assert_eq!(kind(read(0, 200).await), StoreErrorKind::NotFound);
    assert_eq!(
        closing,
        store.balance(&ann).await.unwrap().available().nanos()
    );
}

#[tokio::test]
async fn a_clock_that_is_set_back_changes_no_sum() {
    let clock = Time::default();
    let store = MemoryStore::builder().with_clock(clock.clone()).build();
    pay(&store, &account("ann"), 1_000).await;
    for (secs, charged) in [(100, 1), (300, 2), (200, 4), (400, 8), (50, 16)] {
        clock.set(later(secs));
        spend(&store, charged).await;
    }
    for (from, to) in [(0, 500), (150, 350), (100, 200), (250, 450), (60, 500)] {
        let read = Statement::read(&store, &account("ann"), later(from), later(to)).await;
        let statement = read.unwrap();
        let [opening, paid_in, _, charged, closing] = sums(&statement);
        assert_eq!(opening + paid_in - charged, closing, "from {from} to {to}");
    }
}

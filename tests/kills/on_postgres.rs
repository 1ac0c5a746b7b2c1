//! On a PostgreSQL server.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use sqlx::postgres::PgConnectOptions;
use tollgate::{
    clock::ManualClock,
    money::Money,
    store::{Ledger, PostgresStore, PostgresStoreBuilder},
};

use super::{
    ACCOUNTS, Answered, CALLERS, Caller, LONG, account, all_books, begin, check, kill_clients,
    kills, nothing_is_lost, on_leases::KEPT_BACK,
};

#[path = "../support/postgres.rs"]
mod server;

async fn builder(place: PgConnectOptions) -> PostgresStoreBuilder {
    PostgresStore::builder(server::pool(place, 6).await)
}

fn place(options: &PgConnectOptions) -> String {
    let folder = options.get_socket().unwrap().display();
    format!("postgres:{folder}#{}", options.get_database().unwrap())
}

/// Of a place that is `postgres:`, a folder, `#` and a database.
pub(crate) async fn open(place: &str) -> PostgresStore {
    let (folder, database) = place.split_once('#').unwrap();
    let folder = Path::new(folder.strip_prefix("postgres:").unwrap());
    let builder = builder(server::options(folder, database)).await;
    builder.open().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_once_after_each_of_many_kills() {
    let Some(options) = server::database().await else {
        return;
    };
    let place = place(&options);
    let open = async |clock: Arc<ManualClock>| {
        let builder = builder(options.clone()).await.with_clock(clock);
        builder.open().await.unwrap()
    };
    let close = async |store: PostgresStore| store.close().await.unwrap();
    kill_clients(&place, (kills(10), LONG), None, open, close).await;
}

fn signal(caller: &Caller, name: &str) {
    let kill = format!("kill -{name} {}", caller.process.id());
    let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(sent.success());
}

/// Whether nothing is held any more within half a minute.
async fn comes_to_rest(store: &PostgresStore) -> bool {
    for _ in 0..300 {
        let mut held = Money::ZERO;
        for number in 0..ACCOUNTS {
            let balance = store.balance(&account(number)).await.unwrap();
            held = held.saturating_add(balance.held);
        }
        if held.is_zero() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

/// What it was answered, by what others see of it: `place` is where it calls, and it was stopped
/// for so long that they took it for dead.
async fn stopped_and_killed(place: String, store: &PostgresStore) -> Answered {
    let caller = tokio::task::spawn_blocking(move || begin(&place, 0));
    let caller = caller.await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    signal(&caller, "STOP");
    assert!(comes_to_rest(store).await, "what a stopped node holds");
    signal(&caller, "CONT");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answered = caller.kill();
    assert!(comes_to_rest(store).await, "what a dead node holds");
    answered
}

/// What it has is given back while it is stopped, and charged when it says what became of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_stopped_and_goes_on_is_charged_for_all_it_answered_once() {
    let Some(options) = server::database().await else {
        return;
    };
    let store = builder(options.clone()).await.open().await.unwrap();
    let mut answered = stopped_and_killed(place(&options), &store).await;
    let mut books = all_books();
    check(&store, 0, &mut answered, &mut books).await;
    nothing_is_lost(0, &answered, None);
    let late: usize = books.iter().map(|books| books.late).sum();
    assert!(late > 0, "given back, and heard of after all");
    store.close().await.unwrap();
}

/// With real clocks: a node may spend what it leased for four seconds after it last was heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_stopped_and_goes_on_is_charged_for_all_it_served_once() {
    let Some(options) = server::database().await else {
        return;
    };
    let leased = format!("leased:{}", place(&options));
    let store = builder(options.clone()).await.open().await.unwrap();
    let mut answered = stopped_and_killed(leased, &store).await;
    let mut books = all_books();
    check(&store, 0, &mut answered, &mut books).await;
    nothing_is_lost(0, &answered, Some(KEPT_BACK));
    for number in 0..ACCOUNTS {
        let balance = store.balance(&account(number)).await.unwrap();
        assert!(!balance.available().is_negative(), "nobody else spent");
    }
    let callers = usize::try_from(CALLERS).unwrap();
    let abandoned: usize = books.iter().map(|books| books.abandoned).sum();
    // One of each when it was stopped, and one when it was killed.
    assert!(abandoned <= 2 * callers, "{abandoned}");
    assert!(answered.leased > 0);
    store.close().await.unwrap();
}

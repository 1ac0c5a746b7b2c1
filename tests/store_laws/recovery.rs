//! Processes that share a place, and processes that die.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tollgate::usage::Outcome;

use crate::engines::{
    LedgerEngine, Time, account, balances, budget, costs, hold, nanos, pay, request, usage,
};

pub(crate) async fn two_stores_in_one_place_keep_one_set_of_books<S: LedgerEngine>(
    first: S,
    second: S,
) {
    let ann = account("ann");
    pay(&first, &ann, 109).await;
    let tasks: Vec<_> = (0..100)
        .map(|number| {
            let store = if number % 2 == 0 { &first } else { &second };
            let store = store.clone();
            tokio::spawn(async move {
                let ann = account("ann");
                let held = hold(&store, &ann, &[budget("key-1")], 10).await.ok()?;
                store.settle(held, costs(10)).await.unwrap();
                Some(())
            })
        })
        .collect();
    let mut served = 0;
    for task in tasks {
        served += task.await.unwrap().map_or(0, |()| 1);
    }
    assert_eq!(served, 10);
    balances(&first, &ann, 109, 0).await;
    balances(&second, &ann, 109, 0).await;
}

/// A store whose time stands still says nothing any more: to others it is dead.
pub(crate) async fn what_a_silent_process_held_is_given_back_after_the_bound_and_not_before<
    S: LedgerEngine,
>(
    silent: S,
    another: impl AsyncFnOnce() -> (S, Time),
) {
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&silent, &ann, 100).await;
    let held = hold(&silent, &ann, &[key.clone()], 100).await.unwrap();
    let (other, clock) = another().await;
    for _ in 0..5 {
        clock.advance(Duration::from_secs(1));
        other.flush().await.unwrap();
        balances(&other, &ann, 100, 100).await;
    }
    clock.advance(Duration::from_secs(1));
    other.flush().await.unwrap();
    clock.advance(Duration::from_secs(1));
    other.flush().await.unwrap();
    balances(&other, &ann, 100, 0).await;
    let rows = usage(&other, &ann).await;
    assert_eq!(rows[0].settlement.outcome, Outcome::Abandoned);
    assert_eq!(rows[0].settlement.status, None);
    assert_eq!(other.budget(&ann, &key).await.unwrap().total.held, nanos(0));
    let sold_again = hold(&other, &ann, &[key.clone()], 100).await.unwrap();
    other.settle(sold_again, costs(100)).await.unwrap();
    // It lived after all, and its call was answered: that is charged, and it is good for new ones.
    silent.settle(held, costs(80)).await.unwrap();
    assert_eq!(other.balance(&ann).await.unwrap().settled, nanos(180));
    assert_eq!(
        other.budget(&ann, &key).await.unwrap().total.settled,
        nanos(180)
    );
    pay(&other, &ann, 140).await;
    let held = hold(&silent, &ann, &[], 60).await.unwrap();
    other.flush().await.unwrap();
    silent.settle(held, costs(60)).await.unwrap();
    balances(&silent, &ann, 240, 0).await;
    let rows = usage(&silent, &ann).await;
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[1].settlement.charged, nanos(80));
    assert_eq!(rows[1].settlement.outcome, Outcome::Completed);
}

pub(crate) async fn a_process_that_lives_keeps_its_holds_whatever_the_clocks_say<
    S: LedgerEngine,
>(
    (first, first_clock): (S, Time),
    (second, second_clock): (S, Time),
) {
    let ann = account("ann");
    pay(&first, &ann, 100).await;
    let mut long = request(&ann, &[], 10);
    long.lifetime = Duration::from_secs(3_600);
    let held = first.hold(long).await.unwrap().unwrap();
    let days = ["2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z"].map(|day| day.parse().unwrap());
    for round in 0..30 {
        second_clock.set(days[round % 2]);
        for (store, clock) in [(&first, &first_clock), (&second, &second_clock)] {
            clock.advance(Duration::from_secs(2));
            store.flush().await.unwrap();
        }
    }
    balances(&second, &ann, 100, 10).await;
    first.settle(held, costs(10)).await.unwrap();
    balances(&second, &ann, 100, 0).await;
}

/// Names a place to the tests that are processes of their own.
pub(crate) const CHILD: &str = "TOLLGATE_LAWS_CHILD";

/// Runs one test as a process of its own, in `place`.
pub(crate) fn child(test: &str, place: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, place)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the process says so.
pub(crate) fn heard(child: &mut Child, word: &str) -> bool {
    let output = BufReader::new(child.stdout.take().unwrap());
    output.lines().any(|line| line.unwrap() == word)
}

/// What the process does that the next law kills.
pub(crate) async fn hold_until_killed<S: LedgerEngine>(store: S) {
    let ann = account("ann");
    pay(&store, &ann, 1_000_000).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(hold(&store, &ann, &[budget("key-1")], 10).await.unwrap());
    }
    store.settle(open.pop().unwrap(), costs(7)).await.unwrap();
    println!("\nholding");
    loop {
        let held = hold(&store, &ann, &[], 1).await.unwrap();
        store.settle(held, costs(1)).await.unwrap();
    }
}

pub(crate) async fn after_a_kill_nothing_acknowledged_is_lost_and_nothing_stays_held<
    S: LedgerEngine,
>(
    mut holding: Child,
    next: impl AsyncFnOnce() -> (S, Time),
) {
    assert!(heard(&mut holding, "holding"));
    std::thread::sleep(Duration::from_millis(100));
    holding.kill().unwrap();
    holding.wait().unwrap();
    let (store, clock) = next().await;
    let ann = account("ann");
    let before = store.balance(&ann).await.unwrap();
    assert!(before.held >= nanos(190) && before.settled >= nanos(7));
    for _ in 0..8 {
        clock.advance(Duration::from_secs(1));
        store.flush().await.unwrap();
    }
    balances(&store, &ann, 1_000_000, 0).await;
    let after = store.balance(&ann).await.unwrap();
    // The last commit may have been on its way.
    let late = after.settled.nanos() - before.settled.nanos();
    assert!((0..=1).contains(&late), "{late}");
    let abandoned =
        |row: &&tollgate::usage::UsageEntry| row.settlement.outcome == Outcome::Abandoned;
    let given_back = usage(&store, &ann).await.iter().filter(abandoned).count();
    assert!((19..=20).contains(&given_back), "{given_back}");
}

/// What one of the processes of the next law does. It says how many calls it was served.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) async fn spend_the_last_cents<S: LedgerEngine>(store: S, close: impl AsyncFnOnce(S)) {
    println!("\nready");
    let mut start = String::new();
    std::io::stdin().read_line(&mut start).unwrap();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let ann = account("ann");
                let Ok(held) = hold(&store, &ann, &[budget("key-1")], 7).await else {
                    return 0;
                };
                store.settle(held, costs(7)).await.unwrap();
                1
            })
        })
        .collect();
    let mut served = 0;
    for caller in callers {
        served += caller.await.unwrap();
    }
    close(store).await;
    println!("served={served}");
}

#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) async fn four_processes_spend_the_last_cents<S: LedgerEngine>(
    store: S,
    test: &str,
    place: &str,
) {
    use std::io::Write;

    let ann = account("ann");
    // 61 calls at 7, and 5 are left over.
    pay(&store, &ann, 432).await;
    let mut children: Vec<_> = (0..4)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture"])
                .env(CHILD, place)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let outputs = children.iter_mut().map(|child| {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ready"));
        lines
    });
    let outputs: Vec<_> = outputs.collect();
    for child in &mut children {
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    let mut served = 0;
    for lines in outputs {
        // To its end, or the process couldn't go on writing.
        let told = lines.map(Result::unwrap).filter_map(|line| {
            let served = line.strip_prefix("served=")?;
            served.parse::<usize>().ok()
        });
        served += told.sum::<usize>();
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(served, 61);
    balances(&store, &ann, 432, 0).await;
    assert_eq!(usage(&store, &ann).await.len(), 61);
    let spent = store.budget(&ann, &budget("key-1")).await.unwrap();
    assert_eq!(spent.total.settled, nanos(427));
}

#[cfg(feature = "sqlite")]
mod on_sqlite {
    use std::path::Path;

    use tollgate::store::SqliteStore;

    use super::CHILD;
    use crate::engines::sqlite;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn two_stores_in_one_place_keep_one_set_of_books() {
        let folder = tempfile::tempdir().unwrap();
        let (first, _) = sqlite(folder.path()).await;
        let (second, _) = sqlite(folder.path()).await;
        super::two_stores_in_one_place_keep_one_set_of_books(first, second).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_a_silent_process_held_is_given_back_after_the_bound_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let (silent, _) = sqlite(folder.path()).await;
        let another = async || sqlite(folder.path()).await;
        super::what_a_silent_process_held_is_given_back_after_the_bound_and_not_before(
            silent, another,
        )
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_process_that_lives_keeps_its_holds_whatever_the_clocks_say() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (sqlite(folder.path()).await, sqlite(folder.path()).await);
        super::a_process_that_lives_keeps_its_holds_whatever_the_clocks_say(first, second).await;
    }

    /// Not a law: the process that the next one kills.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn child_that_holds_until_it_is_killed() {
        if let Ok(path) = std::env::var(CHILD) {
            super::hold_until_killed(SqliteStore::open(Path::new(&path)).await.unwrap()).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_a_kill_nothing_acknowledged_is_lost_and_nothing_stays_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.db");
        let test = "recovery::on_sqlite::child_that_holds_until_it_is_killed";
        let child = super::child(test, path.to_str().unwrap());
        let next = async || sqlite(folder.path()).await;
        super::after_a_kill_nothing_acknowledged_is_lost_and_nothing_stays_held(child, next).await;
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use std::path::Path;

    use sqlx::postgres::PgConnectOptions;
    use tollgate::store::PostgresStore;

    use super::CHILD;
    use crate::{
        engines::postgres_on,
        postgres_server::{database, options, pool},
    };

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn two_stores_in_one_place_keep_one_set_of_books() {
        let Some(place) = database().await else {
            return;
        };
        let (first, _) = postgres_on(place.clone()).await;
        let (second, _) = postgres_on(place).await;
        super::two_stores_in_one_place_keep_one_set_of_books(first, second).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_a_silent_process_held_is_given_back_after_the_bound_and_not_before() {
        let Some(place) = database().await else {
            return;
        };
        let (silent, _) = postgres_on(place.clone()).await;
        let another = async || postgres_on(place).await;
        super::what_a_silent_process_held_is_given_back_after_the_bound_and_not_before(
            silent, another,
        )
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_process_that_lives_keeps_its_holds_whatever_the_clocks_say() {
        let Some(place) = database().await else {
            return;
        };
        let (first, second) = (postgres_on(place.clone()).await, postgres_on(place).await);
        super::a_process_that_lives_keeps_its_holds_whatever_the_clocks_say(first, second).await;
    }

    fn named(place: &PgConnectOptions) -> String {
        let socket = place.get_socket().unwrap().to_str().unwrap();
        format!("{socket} {}", place.get_database().unwrap())
    }

    async fn child_s_store() -> Option<PostgresStore> {
        let place = std::env::var(CHILD).ok()?;
        let (socket, name) = place.split_once(' ')?;
        let pool = pool(options(Path::new(socket), name), 6).await;
        Some(PostgresStore::open(pool).await.unwrap())
    }

    /// Not a law: the process that the next one kills.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn child_that_holds_until_it_is_killed() {
        if let Some(store) = child_s_store().await {
            super::hold_until_killed(store).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_a_kill_nothing_acknowledged_is_lost_and_nothing_stays_held() {
        let Some(place) = database().await else {
            return;
        };
        let test = "recovery::on_postgres::child_that_holds_until_it_is_killed";
        let child = super::child(test, &named(&place));
        let next = async || postgres_on(place).await;
        super::after_a_kill_nothing_acknowledged_is_lost_and_nothing_stays_held(child, next).await;
    }

    /// Not a law: one of the processes of the next one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn child_that_spends_the_last_cents() {
        if let Some(store) = child_s_store().await {
            super::spend_the_last_cents(store, async |store| store.close().await.unwrap()).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn four_processes_spend_the_last_cents_and_not_one_more() {
        let Some(place) = database().await else {
            return;
        };
        let (store, _) = postgres_on(place.clone()).await;
        let test = "recovery::on_postgres::child_that_spends_the_last_cents";
        super::four_processes_spend_the_last_cents(store.clone(), test, &named(&place)).await;
        store.close().await.unwrap();
    }
}

#[cfg(feature = "redis")]
mod on_redis {
    use tollgate::store::RedisLedger;

    use super::CHILD;
    use crate::{
        engines::{redis, redis_on},
        redis_server::RedisServer,
    };

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn two_stores_in_one_place_keep_one_set_of_books() {
        if let Some((first, _, server)) = redis().await {
            let (second, _) = redis_on(&server.url()).await;
            super::two_stores_in_one_place_keep_one_set_of_books(first, second).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_a_silent_process_held_is_given_back_after_the_bound_and_not_before() {
        if let Some((silent, _, server)) = redis().await {
            let another = async || redis_on(&server.url()).await;
            super::what_a_silent_process_held_is_given_back_after_the_bound_and_not_before(
                silent, another,
            )
            .await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_process_that_lives_keeps_its_holds_whatever_the_clocks_say() {
        if let Some((first, clock, server)) = redis().await {
            let second = redis_on(&server.url()).await;
            let first = (first, clock);
            super::a_process_that_lives_keeps_its_holds_whatever_the_clocks_say(first, second)
                .await;
        }
    }

    /// Not a law: the process that the next one kills.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn child_that_holds_until_it_is_killed() {
        if let Ok(url) = std::env::var(CHILD) {
            super::hold_until_killed(RedisLedger::open(url.as_str()).await.unwrap()).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_a_kill_nothing_acknowledged_is_lost_and_nothing_stays_held() {
        let Some(server) = RedisServer::start() else {
            return;
        };
        let test = "recovery::on_redis::child_that_holds_until_it_is_killed";
        let child = super::child(test, &server.url());
        let next = async || redis_on(&server.url()).await;
        super::after_a_kill_nothing_acknowledged_is_lost_and_nothing_stays_held(child, next).await;
    }

    /// Not a law: one of the processes of the next one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn child_that_spends_the_last_cents() {
        if let Ok(url) = std::env::var(CHILD) {
            let store = RedisLedger::open(url.as_str()).await.unwrap();
            super::spend_the_last_cents(store, async |store| store.close().await.unwrap()).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn four_processes_spend_the_last_cents_and_not_one_more() {
        if let Some((store, _, server)) = redis().await {
            let test = "recovery::on_redis::child_that_spends_the_last_cents";
            super::four_processes_spend_the_last_cents(store.clone(), test, &server.url()).await;
            store.close().await.unwrap();
        }
    }
}

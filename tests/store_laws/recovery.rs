//! Processes that share a file, and processes that die.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tollgate::{
    clock::{Clock, ManualClock},
    store::{Ledger, SqliteStore},
    usage::Outcome,
};

use crate::engines::{
    Time, account, balances, budget, costs, hold, nanos, pay, request, sqlite, usage,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_stores_on_one_file_keep_one_set_of_books() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _) = sqlite(folder.path()).await;
    let (second, _) = sqlite(folder.path()).await;
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
        served += i32::from(task.await.unwrap().is_some());
    }
    assert_eq!(served, 10);
    balances(&first, &ann, 109, 0).await;
    balances(&second, &ann, 109, 0).await;
}

/// A store whose time stands still says nothing any more: to others it is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_silent_process_held_is_given_back_after_the_bound_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let (silent, _) = sqlite(folder.path()).await;
    let (ann, key) = (account("ann"), budget("key-1"));
    pay(&silent, &ann, 100).await;
    let held = hold(&silent, &ann, &[key.clone()], 100).await.unwrap();
    let (other, clock) = sqlite(folder.path()).await;
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
    // It lived after all: too late for that hold, and good for new ones.
    silent.settle(held, costs(100)).await.unwrap();
    balances(&other, &ann, 100, 0).await;
    let held = hold(&silent, &ann, &[], 60).await.unwrap();
    other.flush().await.unwrap();
    silent.settle(held, costs(60)).await.unwrap();
    balances(&silent, &ann, 100, 0).await;
    assert_eq!(usage(&silent, &ann).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_process_that_lives_keeps_its_holds_whatever_the_clocks_say() {
    let folder = tempfile::tempdir().unwrap();
    let (first, first_clock) = sqlite(folder.path()).await;
    let (second, second_clock) = sqlite(folder.path()).await;
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

const CHILD: &str = "TOLLGATE_LAWS_CHILD";

/// Not a law: the process that the next one kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_holds_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let store = SqliteStore::open(Path::new(&path)).await.unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_nothing_acknowledged_is_lost_and_nothing_stays_held() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.db");
    let name = "recovery::child_that_holds_until_it_is_killed";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let holding = output.lines().any(|line| line.unwrap() == "holding");
    assert!(holding);
    std::thread::sleep(Duration::from_millis(100));
    child.kill().unwrap();
    child.wait().unwrap();
    let clock = Time::default();
    let store = SqliteStore::builder(&path)
        .with_clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .open()
        .await
        .unwrap();
    let ann = account("ann");
    let before = store.balance(&ann).await.unwrap();
    assert!(before.held >= nanos(190) && before.settled >= nanos(7));
    for _ in 0..8 {
        ManualClock::advance(&clock, Duration::from_secs(1));
        store.flush().await.unwrap();
    }
    balances(&store, &ann, 1_000_000, 0).await;
    let after = store.balance(&ann).await.unwrap();
    assert_eq!(after.settled, before.settled);
    let abandoned =
        |row: &&tollgate::usage::UsageEntry| row.settlement.outcome == Outcome::Abandoned;
    let given_back = usage(&store, &ann).await.iter().filter(abandoned).count();
    assert!((19..=20).contains(&given_back), "{given_back}");
}

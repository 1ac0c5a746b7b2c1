//! Who is silent, and who only wasn't heard.

use std::time::Duration;

use tollgate::usage::Outcome;

use crate::{
    engines::{LedgerEngine, Time, account, balances, costs, hold, pay, usage},
    leases::time_goes_on,
};

/// An observer that was stopped, or whose place was away, hears what it hears from then on.
pub(crate) async fn who_did_not_look_takes_nobody_for_dead<S: LedgerEngine>(
    (living, own_clock): (S, Time),
    (other, clock): (S, Time),
) {
    let ann = account("ann");
    pay(&living, &ann, 100).await;
    let held = hold(&living, &ann, &[], 10).await.unwrap();
    time_goes_on(&other, &clock, 5).await;
    for pause in [3, 6, 60] {
        clock.advance(Duration::from_secs(pause));
        other.flush().await.unwrap();
        time_goes_on(&other, &clock, 5).await;
        balances(&other, &ann, 100, 10).await;
    }
    // It lived all the time.
    own_clock.advance(Duration::from_secs(2));
    living.flush().await.unwrap();
    time_goes_on(&other, &clock, 5).await;
    living.settle(held, costs(10)).await.unwrap();
    balances(&other, &ann, 100, 0).await;
    let rows = usage(&other, &ann).await;
    assert_eq!(rows[0].settlement.outcome, Outcome::Completed);

    // Who is dead is found all the same.
    own_clock.advance(Duration::from_secs(2));
    living.flush().await.unwrap();
    let lost = hold(&living, &ann, &[], 20).await.unwrap();
    clock.advance(Duration::from_secs(60));
    other.flush().await.unwrap();
    time_goes_on(&other, &clock, 5).await;
    balances(&other, &ann, 100, 20).await;
    time_goes_on(&other, &clock, 2).await;
    balances(&other, &ann, 100, 0).await;
    let rows = usage(&other, &ann).await;
    assert_eq!(rows[0].settlement.outcome, Outcome::Abandoned);
    drop(lost);
}

#[cfg(feature = "sqlite")]
mod on_sqlite {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::{Duration, Instant},
    };

    use tollgate::store::{Ledger, SqliteStore};

    use super::time_goes_on;
    use crate::engines::{account, balances, costs, hold, pay, sqlite};

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn who_did_not_look_takes_nobody_for_dead() {
        let folder = tempfile::tempdir().unwrap();
        let (living, other) = (sqlite(folder.path()).await, sqlite(folder.path()).await);
        super::who_did_not_look_takes_nobody_for_dead(living, other).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn who_only_waits_for_the_lock_says_so_before_it_is_buried() {
        let folder = tempfile::tempdir().unwrap();
        let (waiting, own_clock) = sqlite(folder.path()).await;
        let (other, clock) = sqlite(folder.path()).await;
        let ann = account("ann");
        pay(&waiting, &ann, 100).await;
        let held = hold(&waiting, &ann, &[], 10).await.unwrap();
        time_goes_on(&other, &clock, 6).await;
        // Six seconds of silence; in the moment that it is left now, it writes.
        own_clock.advance(Duration::from_secs(2));
        waiting.flush().await.unwrap();
        time_goes_on(&other, &clock, 5).await;
        balances(&other, &ann, 100, 10).await;
        waiting.settle(held, costs(10)).await.unwrap();
        assert_eq!(
            other.balance(&ann).await.unwrap().settled,
            crate::engines::nanos(10)
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    #[allow(clippy::disallowed_methods, reason = "how long a real wait takes")]
    async fn a_process_that_writes_all_the_time_leaves_others_the_lock() {
        static DONE: AtomicBool = AtomicBool::new(false);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.db");
        let busy = SqliteStore::open(&path).await.unwrap();
        let other = SqliteStore::open(&path).await.unwrap();
        let (ann, bob) = (account("ann"), account("bob"));
        pay(&busy, &ann, 1_000_000).await;
        pay(&other, &bob, 1_000).await;
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let (busy, ann) = (busy.clone(), ann.clone());
                tokio::spawn(async move {
                    while !DONE.load(Ordering::Relaxed) {
                        let held = hold(&busy, &ann, &[], 1).await.unwrap();
                        busy.settle(held, costs(0)).await.unwrap();
                    }
                })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        for _ in 0..10 {
            let asked = Instant::now();
            let held = hold(&other, &bob, &[], 1).await.unwrap();
            other.settle(held, costs(1)).await.unwrap();
            slowest = slowest.max(asked.elapsed());
        }
        DONE.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await.unwrap();
        }
        eprintln!("the slowest call waited for {slowest:?}");
        assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    }
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_did_not_look_takes_nobody_for_dead_on_postgres() {
    let Some(place) = crate::postgres_server::database().await else {
        return;
    };
    let living = crate::engines::postgres_on(place.clone()).await;
    let other = crate::engines::postgres_on(place).await;
    who_did_not_look_takes_nobody_for_dead(living, other).await;
}

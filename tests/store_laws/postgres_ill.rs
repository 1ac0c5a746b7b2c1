//! Money survives a database that is ill: that takes nobody in, that only reads, that is busy, that
//! falls silent, in which somebody sits on a row.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::time::timeout;
use tollgate::{
    key::KeyDigest,
    store::{KeyLookup, Ledger, PostgresStore, StoreErrorKind},
    usage::Outcome,
};

use crate::{
    engines::{
        Time, account, balances, costs, hold, kind, nanos, pay, postgres_on, request, usage,
    },
    postgres_proxy::Proxy,
    postgres_server::{database, pool},
};

/// Says something to the server, in another database than the store's.
pub(crate) async fn say(place: &PgConnectOptions, words: &str) {
    let options = place.clone().database("postgres");
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    let name = place.get_database().unwrap();
    let words = words.replace("$name", name);
    sqlx::raw_sql(AssertSqlSafe(words))
        .execute(&mut connection)
        .await
        .unwrap();
}

pub(crate) const CUT: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '$name'";

pub(crate) async fn until(mut so: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never was so");
}

/// A store with one lane, whose calls end soon.
pub(crate) async fn short(pool: PgPool) -> (PostgresStore, Time) {
    let clock = Time::default();
    let store = PostgresStore::builder(pool)
        .with_clock(clock.clone())
        .lanes(1)
        .deadline(Duration::from_millis(500))
        .open()
        .await
        .unwrap();
    (store, clock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_settlement_outlasts_a_database_that_takes_nobody_in() {
    let Some(place) = database().await else {
        return;
    };
    let (store, _) = short(pool(place.clone(), 4).await).await;
    let ann = account("ann");
    pay(&store, &ann, 1_000).await;
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(hold(&store, &ann, &[], 10).await.unwrap());
    }
    say(&place, "ALTER DATABASE $name ALLOW_CONNECTIONS false").await;
    say(&place, CUT).await;
    for held in held {
        drop(store.settle(held, costs(10)));
    }
    let told = store.record(crate::engines::call(&ann, "free"), costs(0));
    assert_eq!(kind(told.await), StoreErrorKind::Unavailable);
    tokio::time::sleep(Duration::from_millis(300)).await;
    say(&place, "ALTER DATABASE $name ALLOW_CONNECTIONS true").await;
    until(async || store.flush().await.is_ok()).await;
    balances(&store, &ann, 1_000, 0).await;
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(500));
    assert_eq!(usage(&store, &ann).await.len(), 51);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_settlement_that_waits_for_the_database_outlasts_the_lifetime_of_its_hold() {
    let Some(place) = database().await else {
        return;
    };
    let (store, clock) = short(pool(place.clone(), 4).await).await;
    let (ann, bob) = (account("ann"), account("bob"));
    pay(&store, &ann, 1_000).await;
    pay(&store, &bob, 10).await;
    let left = hold(&store, &bob, &[], 10).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(hold(&store, &ann, &[], 10).await.unwrap());
    }
    say(&place, "ALTER DATABASE $name ALLOW_CONNECTIONS false").await;
    say(&place, CUT).await;
    for held in held {
        drop(store.settle(held, costs(10)));
    }
    clock.advance(Duration::from_secs(61));
    // By then the lane tries once a second, and who clears up four times.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    say(&place, "ALTER DATABASE $name ALLOW_CONNECTIONS true").await;
    until(async || {
        // Who clears up looks each second.
        clock.advance(Duration::from_secs(1));
        let balance = store.balance(&ann).await;
        balance.is_ok_and(|balance| balance.held.is_zero())
    })
    .await;
    balances(&store, &ann, 1_000, 0).await;
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(500));
    // Of which nothing was heard is overdue all the same.
    clock.advance(Duration::from_secs(1));
    until(async || store.flush().await.is_ok()).await;
    balances(&store, &bob, 10, 0).await;
    assert_eq!(store.balance(&bob).await.unwrap().settled, nanos(0));
    drop(left);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_extension_that_waits_for_the_database_outlasts_the_lifetime_of_its_hold() {
    let Some(place) = database().await else {
        return;
    };
    let (store, clock) = short(pool(place.clone(), 4).await).await;
    let (ann, bob) = (account("ann"), account("bob"));
    pay(&store, &ann, 100).await;
    pay(&store, &bob, 100).await;
    let extended = hold(&store, &ann, &[], 10).await.unwrap();
    let left = hold(&store, &bob, &[], 10).await.unwrap();
    say(&place, "ALTER DATABASE $name ALLOW_CONNECTIONS false").await;
    say(&place, CUT).await;
    // As a call does whose answer goes on.
    for _ in 0..3 {
        let minute = Duration::from_secs(60);
        let told = store.extend(&extended, minute).await;
        assert_eq!(told.unwrap_err().kind(), StoreErrorKind::Unavailable);
    }
    clock.advance(Duration::from_secs(61));
    say(&place, "ALTER DATABASE $name ALLOW_CONNECTIONS true").await;
    until(async || {
        clock.advance(Duration::from_secs(1));
        let balance = store.balance(&bob).await;
        balance.is_ok_and(|balance| balance.held.is_zero())
    })
    .await;
    drop(left);
    until(async || store.flush().await.is_ok()).await;
    assert_eq!(store.balance(&ann).await.unwrap().held, nanos(10));
    store.settle(extended, costs(10)).await.unwrap();
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(10));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_settlement_outlasts_what_stops_its_account_alone() {
    let Some(place) = database().await else {
        return;
    };
    let (store, _) = short(pool(place.clone(), 4).await).await;
    let (ann, bob) = (account("ann"), account("bob"));
    pay(&store, &ann, 100).await;
    pay(&store, &bob, 100).await;
    let mut held = Vec::new();
    for owner in [&ann, &bob, &ann, &bob] {
        held.push(hold(&store, owner, &[], 10).await.unwrap());
    }
    let elsewhere = pool(place, 1).await;
    // What an operator's trigger does to one account.
    let stop = "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF NEW.id = 'ann' THEN RAISE 'not now'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER stop BEFORE UPDATE ON tollgate.account FOR EACH ROW EXECUTE FUNCTION stop()";
    sqlx::raw_sql(stop).execute(&elsewhere).await.unwrap();
    for held in held {
        drop(store.settle(held, costs(10)));
    }
    until(async || store.balance(&bob).await.unwrap().settled == nanos(20)).await;
    // Nor does it keep others from going on.
    for _ in 0..5 {
        let held = hold(&store, &bob, &[], 1).await.unwrap();
        store.settle(held, costs(1)).await.unwrap();
    }
    assert_eq!(store.balance(&ann).await.unwrap().held, nanos(20));
    let go = "DROP TRIGGER stop ON tollgate.account";
    sqlx::raw_sql(go).execute(&elsewhere).await.unwrap();
    until(async || store.flush().await.is_ok()).await;
    balances(&store, &ann, 100, 0).await;
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(20));
    balances(&store, &bob, 100, 0).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_can_not_say_that_they_live_bury_nobody() {
    let Some(place) = database().await else {
        return;
    };
    let (one, one_clock) = postgres_on(place.clone()).await;
    let (other, other_clock) = postgres_on(place.clone()).await;
    let ann = account("ann");
    pay(&one, &ann, 100).await;
    let held = hold(&one, &ann, &[], 10).await.unwrap();
    let elsewhere = pool(place, 1).await;
    let stop = "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE 'no beat'; END $$;
         CREATE TRIGGER stop BEFORE UPDATE ON tollgate.instance FOR EACH ROW EXECUTE FUNCTION stop()";
    sqlx::raw_sql(stop).execute(&elsewhere).await.unwrap();
    // In such steps as leave looks without a try to say something before.
    for _ in 0..40 {
        for (store, clock) in [(&one, &one_clock), (&other, &other_clock)] {
            clock.advance(Duration::from_millis(500));
            let _ = store.flush().await;
        }
    }
    let living: i64 = sqlx::query_scalar("SELECT count(*) FROM tollgate.instance")
        .fetch_one(&elsewhere)
        .await
        .unwrap();
    assert_eq!(living, 2, "neither has heard the other be silent");
    let go = "DROP TRIGGER stop ON tollgate.instance";
    sqlx::raw_sql(go).execute(&elsewhere).await.unwrap();
    for _ in 0..4 {
        for (store, clock) in [(&one, &one_clock), (&other, &other_clock)] {
            clock.advance(Duration::from_secs(1));
            store.flush().await.unwrap();
        }
    }
    one.settle(held, costs(10)).await.unwrap();
    balances(&other, &ann, 100, 0).await;
    assert_eq!(
        usage(&other, &ann).await[0].settlement.outcome,
        Outcome::Completed
    );
}

async fn beats(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT sum(beats)::bigint FROM tollgate.instance")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_lives_says_so_while_the_pool_is_busy() {
    let Some(place) = database().await else {
        return;
    };
    let shared = pool(place.clone(), 3).await;
    let (store, clock) = short(shared.clone()).await;
    let elsewhere = pool(place, 1).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(shared.acquire().await.unwrap());
    }
    let before = beats(&elsewhere).await;
    for said in 1..4 {
        clock.advance(Duration::from_secs(2));
        until(async || beats(&elsewhere).await >= before + said).await;
    }
    drop(taken);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_falls_silent_does_not_cost_the_pool() {
    let Some(place) = database().await else {
        return;
    };
    let proxy = Proxy::to(place.get_socket().unwrap()).await;
    let (store, clock) = short(pool(proxy.options(&place), 4).await).await;
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[], 10).await.unwrap();
    // Each time all connections are in the middle of something, and each in the middle of something
    // else.
    for _ in 0..8 {
        let goes_on = Arc::new(AtomicBool::new(true));
        let reading: Vec<_> = (0..8)
            .map(|_| {
                let (store, goes_on) = (store.clone(), Arc::clone(&goes_on));
                tokio::spawn(async move {
                    while goes_on.load(Ordering::Relaxed) {
                        let _ = store.balance(&account("ann")).await;
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        proxy.freeze();
        goes_on.store(false, Ordering::Relaxed);
        for reader in reading {
            reader.await.unwrap();
        }
        until(async || store.balance(&ann).await.is_ok()).await;
    }
    clock.advance(Duration::from_secs(2));
    let digest = KeyDigest::of("ps_live_key-1");
    until(async || store.find(&digest).await.is_ok()).await;
    store.settle(held, costs(10)).await.unwrap();
    until(async || store.flush().await.is_ok()).await;
    balances(&store, &ann, 100, 0).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_that_only_read_unless_they_are_told_to_write_are_told_so() {
    let Some(place) = database().await else {
        return;
    };
    let (store, clock) = short(pool(place.clone(), 4).await).await;
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[], 10).await.unwrap();
    let careful = "ALTER DATABASE $name SET default_transaction_read_only = on";
    say(&place, careful).await;
    say(&place, CUT).await;
    until(async || store.balance(&ann).await.is_ok()).await;
    store.settle(held, costs(10)).await.unwrap();
    let elsewhere = pool(place, 1).await;
    let before = beats(&elsewhere).await;
    let beats_again = async || {
        clock.advance(Duration::from_secs(1));
        beats(&elsewhere).await > before
    };
    until(beats_again).await;
    until(async || store.flush().await.is_ok()).await;
    balances(&store, &ann, 100, 0).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_sits_on_one_account_stops_nobody_else_and_no_recovery() {
    let Some(place) = database().await else {
        return;
    };
    let clock = Time::default();
    let store = PostgresStore::builder(pool(place.clone(), 6).await)
        .with_clock(clock.clone())
        .lanes(1)
        .deadline(Duration::from_secs(2))
        .open()
        .await
        .unwrap();
    let (ann, bob) = (account("ann"), account("bob"));
    pay(&store, &ann, 100).await;
    pay(&store, &bob, 100).await;
    let of_bob = hold(&store, &bob, &[], 10).await.unwrap();
    let forgotten = [&bob, &ann].map(|owner| request(owner, &[], 20));
    for wish in forgotten {
        drop(store.hold(wish).await.unwrap().unwrap());
    }
    let elsewhere = pool(place, 1).await;
    let mut lock = elsewhere.begin().await.unwrap();
    sqlx::raw_sql("SELECT FROM tollgate.account WHERE id = 'bob' FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    drop(store.settle(of_bob, costs(10)));
    let of_bob = store.hold(request(&bob, &[], 1));
    for _ in 0..10 {
        let held = hold(&store, &ann, &[], 1).await.unwrap();
        store.settle(held, costs(1)).await.unwrap();
    }
    assert_eq!(kind(of_bob.await), StoreErrorKind::Unavailable);
    // Both holds that were forgotten have outlived their time; only one can be given back.
    clock.advance(Duration::from_secs(70));
    until(async || store.balance(&ann).await.unwrap().held == nanos(0)).await;
    let read = store.balance(&bob).await.unwrap();
    assert_eq!((read.held, read.settled), (nanos(30), nanos(0)));
    lock.rollback().await.unwrap();
    until(async || store.balance(&bob).await.unwrap().held == nanos(0)).await;
    until(async || store.flush().await.is_ok()).await;
    balances(&store, &bob, 100, 0).await;
    balances(&store, &ann, 100, 0).await;
    assert_eq!(store.balance(&bob).await.unwrap().settled, nanos(10));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_settlement_of_which_the_answer_is_lost_takes_no_place_for_ever() {
    let Some(place) = database().await else {
        return;
    };
    let proxy = Proxy::to(place.get_socket().unwrap()).await;
    let store = PostgresStore::builder(pool(proxy.options(&place), 6).await)
        .with_clock(Time::default())
        .open_holds_max(1)
        .open_holds_per_account_max(1)
        .open()
        .await
        .unwrap();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    for lost in 1..3 {
        let held = hold(&store, &ann, &[], 10).await.unwrap();
        proxy.lose_a_commit();
        store.settle(held, costs(10)).await.unwrap();
        assert!(proxy.has_lost_one());
        balances(&store, &ann, 100, 0).await;
        let settled = store.balance(&ann).await.unwrap().settled;
        assert_eq!(settled, nanos(lost * 10), "once");
    }
    // Nor does a hold.
    proxy.lose_a_commit();
    assert!(store.hold(request(&ann, &[], 10)).await.is_err());
    until(async || store.flush().await.is_ok()).await;
    let held = hold(&store, &ann, &[], 10).await.unwrap();
    store.settle(held, costs(0)).await.unwrap();
    balances(&store, &ann, 100, 0).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_deadline_will_do() {
    let Some(place) = database().await else {
        return;
    };
    let store = PostgresStore::builder(pool(place, 6).await)
        .with_clock(Time::default())
        .deadline(Duration::MAX)
        .open()
        .await
        .unwrap();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    balances(&store, &ann, 100, 0).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_open_a_new_database_at_once_whatever_its_isolation() {
    for _ in 0..3 {
        let Some(place) = database().await else {
            return;
        };
        let strict = "ALTER DATABASE $name SET default_transaction_isolation = 'repeatable read'";
        say(&place, strict).await;
        let opening: Vec<_> = (0..8)
            .map(|_| tokio::spawn(postgres_on(place.clone())))
            .collect();
        for store in opening {
            store.await.unwrap().0.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_is_a_sign_of_life_when_it_is_time_for_one() {
    let Some(place) = database().await else {
        return;
    };
    let (store, clock) = short(pool(place.clone(), 4).await).await;
    let elsewhere = pool(place, 1).await;
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    for _ in 0..20 {
        let before = beats(&elsewhere).await;
        let held = hold(&store, &ann, &[], 1).await.unwrap();
        assert_eq!(beats(&elsewhere).await, before, "not yet");
        clock.advance(Duration::from_secs(2));
        store.settle(held, costs(1)).await.unwrap();
        // Not when its own task comes to it.
        assert!(beats(&elsewhere).await > before);
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_that_forgot_their_statements_are_not_kept() {
    let Some(place) = database().await else {
        return;
    };
    let shared = pool(place.clone(), 4).await;
    let (store, _) = short(shared.clone()).await;
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[], 10).await.unwrap();
    balances(&store, &ann, 100, 10).await;
    // As a pooler does that hands a session on to others. The lane gives its connection back
    // meanwhile.
    let mut sessions = Vec::new();
    while let Ok(Ok(session)) = timeout(Duration::from_secs(1), shared.acquire()).await {
        sessions.push(session);
    }
    assert_eq!(sessions.len(), 4);
    for session in &mut sessions {
        sqlx::raw_sql("DEALLOCATE ALL")
            .execute(&mut **session)
            .await
            .unwrap();
    }
    drop(sessions);
    drop(store.settle(held, costs(10)));
    until(async || store.flush().await.is_ok()).await;
    // Of what was given back to the pool each fails once: another store looks.
    let (other, _) = postgres_on(place).await;
    balances(&other, &ann, 100, 0).await;
    assert_eq!(other.balance(&ann).await.unwrap().settled, nanos(10));
}

//! Passwords and their hashes: bounds, times, and what is stored.

use super::*;
use crate::log::Log;

#[tokio::test]
async fn passwords_have_a_length() {
    let world = World::new();
    for password in ["", "1234567", "äöüäöüä", &"x".repeat(1_025)] {
        let outcome = world.logins.register(NewUser::new(EMAIL, password)).await;
        assert!(kind(outcome).starts_with("WeakPassword"), "{password}");
    }
    let longest = "x".repeat(1_024);
    world
        .logins
        .register(NewUser::new(EMAIL, &longest))
        .await
        .unwrap();
    world.logins.login(EMAIL, &longest).await.unwrap();
    assert_eq!(
        kind(world.logins.login(EMAIL, "").await),
        "InvalidCredentials"
    );
    assert_eq!(
        kind(world.logins.login(EMAIL, &"x".repeat(1_025)).await),
        "InvalidCredentials"
    );
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the real time is what an attacker sees"
)]
async fn an_unknown_user_takes_the_time_of_a_known_one() {
    let today = Passwords::builder().memory_kib(8_192).build().unwrap();
    let before = Passwords::builder().memory_kib(1_024).iterations(1);
    let before = before.build().unwrap().hash(PASSWORD).await.unwrap();
    let stored = [today.hash(PASSWORD).await.unwrap(), before];
    let callers = [Some(&*stored[0]), Some(&*stored[1]), None];
    let mut times = [Duration::MAX; 3];
    // The shortest of many: others are at work on this machine.
    for _ in 0..200 {
        for (caller, time) in callers.iter().zip(&mut times) {
            let start = std::time::Instant::now();
            today.verify("wrong", *caller).await.unwrap();
            *time = start.elapsed().min(*time);
        }
        let [shortest, longest] = [times.iter().min(), times.iter().max()].map(Option::unwrap);
        if *shortest * 3 > *longest * 2 {
            return;
        }
    }
    panic!("{times:?}");
}

#[tokio::test]
async fn a_weaker_hash_is_replaced_at_login_and_no_login_ends_for_it() {
    let (world, ann) = World::with_ann().await;
    let (_, token) = world.login().await;
    let stronger = logins_on(
        &world.store,
        &world.clock,
        cheap().iterations(2).build().unwrap(),
    );
    stronger.login(EMAIL, "wrong horse").await.unwrap_err();
    assert_eq!(
        stronger.user(&ann.id).await.unwrap().unwrap().password_hash,
        ann.password_hash
    );
    stronger.login(EMAIL, PASSWORD).await.unwrap();
    let hash = stronger.user(&ann.id).await.unwrap().unwrap().password_hash;
    assert!(hash.starts_with("$argon2id$v=19$m=64,t=2,p=1$"), "{hash}");
    assert_eq!(world.verdict(&token).await, "ok");
    world.logins.login(EMAIL, PASSWORD).await.unwrap();
    assert_eq!(
        stronger.user(&ann.id).await.unwrap().unwrap().password_hash,
        hash,
        "not weakened"
    );
}

#[tokio::test]
async fn an_outage_in_which_no_hash_can_be_replaced_is_told_of_once() {
    let (world, _) = World::with_ann().await;
    let passwords = cheap().iterations(2).build().unwrap();
    let stronger = logins_on(&world.store, &world.clock, passwords);
    world.store.failing_rehash.store(true, Ordering::Release);
    let (log, _logged) = Log::begin();
    for _ in 0..3 {
        stronger.login(EMAIL, PASSWORD).await.unwrap();
    }
    assert_eq!(log.count("could not be stored"), 1, "{}", log.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waiting_line_has_an_end() {
    let passwords = Passwords::builder()
        .memory_kib(4_096)
        .concurrency(1)
        .waiting(3)
        .build()
        .unwrap();
    let outcomes = join_all((0..10).map(|_| passwords.hash(PASSWORD))).await;
    let busy = outcomes
        .iter()
        .filter(|outcome| **outcome == Err(PasswordError::Busy))
        .count();
    assert_eq!(busy, 6, "one hashed, three waited");
    assert!(
        passwords.hash(PASSWORD).await.is_ok(),
        "places are given back"
    );

    // Whoever hangs up gives the place back only when the hash is done.
    let slow = Passwords::builder()
        .memory_kib(65_536)
        .concurrency(1)
        .waiting(0)
        .build()
        .unwrap();
    let mut abandoned = Box::pin(slow.hash(PASSWORD));
    assert!(abandoned.as_mut().now_or_never().is_none());
    drop(abandoned);
    assert_eq!(slow.hash(PASSWORD).await, Err(PasswordError::Busy));
    let denial = Denial::from(LoginError::from(PasswordError::Busy));
    assert_eq!(denial.kind(), DenialKind::Unavailable);
    assert_eq!(denial.wait_secs(), Some(1));
}

#[tokio::test]
async fn damaged_and_greedy_hashes_let_nobody_in() {
    let passwords = cheap().build().unwrap();
    let stored = passwords.hash(PASSWORD).await.unwrap();
    assert_eq!(
        passwords.verify(PASSWORD, Some(&stored)).await,
        Ok(PasswordCheck::Match)
    );
    let cut = &stored[..stored.len() - 4];
    for damaged in [
        "",
        "plain",
        "$2b$12$abcdefghijklmnopqrstuu",
        "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ",
        &stored.replace("m=64", "m=4294967295"),
        &stored.replace("t=1", "t=4294967295"),
        cut,
    ] {
        assert_eq!(
            passwords.verify(PASSWORD, Some(damaged)).await,
            Ok(PasswordCheck::Mismatch),
            "{damaged}"
        );
    }
    for outcome in ["", &"x".repeat(1_025)] {
        assert_eq!(passwords.hash(outcome).await, Err(PasswordError::Length));
        assert_eq!(
            passwords.verify(outcome, None).await,
            Err(PasswordError::Length)
        );
    }
}

//! Which tokens wait for a fetch, and how many.

use std::task::Poll;

use super::*;

#[tokio::test]
async fn a_flood_of_unknown_keys_costs_one_fetch_in_a_cooldown() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let issuer = signer(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    let verifier = verifier(source.keys(&clock), &clock);
    let good = token(&issuer);
    assert_eq!(verdict(&verifier, &good).await, Ok(()), "the first waits");
    assert_eq!(source.hits(), 1);
    for round in 1..=4 {
        for number in 0..25_000 {
            let bad = made_up(&format!("{round}-{number}"));
            assert_eq!(verdict(&verifier, &bad).await, Err(Kind::UnknownKey));
            if number % 5_000 == 0 {
                assert!(
                    verifier.verify(&token(&issuer)).is_ok(),
                    "known ones never wait"
                );
            }
        }
        assert_eq!(source.hits(), round);
        clock.advance(Duration::from_secs(30));
    }
    // The name that the last fetch was for is known to be absent.
    for _ in 0..3 {
        assert_eq!(
            verdict(&verifier, &made_up("4-0")).await,
            Err(Kind::UnknownKey)
        );
    }
    assert_eq!(source.hits(), 4);
}

#[tokio::test]
async fn a_fetch_goes_on_when_whoever_waits_for_it_hangs_up() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let issuer = signer(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    source.hold();
    let verifier = verifier(source.keys(&clock), &clock);
    let good = token(&issuer);
    for _ in 0..3 {
        hang_up(&verifier, &good).await;
    }
    source.is_asked(1).await;
    source.release();
    comes_true(|| verifier.verify(&good).is_ok()).await;
    assert_eq!(source.hits(), 1);
}

#[tokio::test]
async fn a_key_that_came_after_a_fetch_began_is_not_taken_for_absent() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let (issuer, next) = (signer(&clock), signer(&clock));
    source.tell("200 OK", "", &issuer.jwks());
    source.hold();
    let verifier = verifier(source.keys(&clock), &clock);
    let (first, second) = (made_up("x"), token(&next));
    let mut first = Box::pin(verdict(&verifier, &first));
    assert_eq!(futures_util::poll!(&mut first), Poll::Pending);
    source.is_asked(1).await;
    // The response may have been read before the next key existed.
    let mut waits = Box::pin(verdict(&verifier, &second));
    assert_eq!(futures_util::poll!(&mut waits), Poll::Pending);
    source.release();
    assert_eq!(first.await, Err(Kind::UnknownKey));
    assert_eq!(waits.await, Err(Kind::UnknownKey));
    source.tell("200 OK", "", &next.jwks());
    clock.advance(Duration::from_secs(30));
    assert_eq!(verdict(&verifier, &second).await, Ok(()));
}

#[tokio::test]
async fn a_name_that_was_made_up_before_its_key_was_there_is_forgotten() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let (issuer, next) = (signer(&clock), signer(&clock));
    source.tell("200 OK", "", &issuer.jwks());
    let verifier = verifier(source.keys(&clock), &clock);
    let new = token(&next);
    assert_eq!(verdict(&verifier, &new).await, Err(Kind::UnknownKey));
    source.tell("200 OK", "", &next.jwks());
    clock.advance(Duration::from_secs(59));
    assert_eq!(verdict(&verifier, &new).await, Err(Kind::UnknownKey));
    assert_eq!(source.hits(), 1);
    clock.advance(Duration::from_secs(1));
    assert_eq!(verdict(&verifier, &new).await, Ok(()));
}

#[tokio::test]
async fn whom_the_line_has_no_place_for_is_told_to_come_again() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let issuer = signer(&clock);
    let keys = source.keys(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    keys.fetch().await.unwrap();
    let verifier = verifier(keys, &clock);
    clock.advance(Duration::from_secs(30));
    source.hold();
    let bad = made_up("x");
    let mut line: Vec<_> = (0..1_024)
        .map(|_| Box::pin(verdict(&verifier, &bad)))
        .collect();
    for place in &mut line {
        assert_eq!(futures_util::poll!(place), Poll::Pending);
    }
    let strange = token(&signer(&clock));
    assert_eq!(verdict(&verifier, &strange).await, Err(Kind::NoKeys));
    assert_eq!(verdict(&verifier, &token(&issuer)).await, Ok(()));
    source.release();
    let outcomes = futures_util::future::join_all(line).await;
    assert!(outcomes.iter().all(|it| *it == Err(Kind::UnknownKey)));
    assert_eq!(verdict(&verifier, &strange).await, Err(Kind::UnknownKey));
    assert_eq!(source.hits(), 2);
}

#[test]
fn a_runtime_that_ends_ends_a_fetch_and_no_one_hangs() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    let clock = Arc::new(ManualClock::default());
    // The source outlives the runtime of its first caller.
    let others = tokio::runtime::Runtime::new().unwrap();
    let source = others.block_on(Source::new());
    let issuer = signer(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    source.hold();
    let verifier = verifier(source.keys(&clock), &clock);
    let good = token(&issuer);
    let first = runtime().unwrap();
    first.block_on(hang_up(&verifier, &good));
    drop(first);
    assert_eq!(verifier.verify(&good).unwrap_err().kind(), Kind::NoKeys);
    source.release();
    clock.advance(Duration::from_secs(30));
    let second = runtime().unwrap();
    assert_eq!(second.block_on(verdict(&verifier, &good)), Ok(()));
}

#[tokio::test]
async fn many_at_once_share_one_fetch() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let issuer = signer(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    let verifier = verifier(source.keys(&clock), &clock);
    let good = token(&issuer);
    let waits = (0..500).map(|_| verdict(&verifier, &good));
    let outcomes = futures_util::future::join_all(waits).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(source.hits(), 1);
}

#[tokio::test]
async fn keys_that_came_since_a_token_was_looked_at_count_for_it() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let keys = source.keys(&clock);
    let verifier = verifier(keys.clone(), &clock);
    // Both before the first keys, and after they change.
    for issuer in [signer(&clock), signer(&clock)] {
        source.tell("200 OK", "", &issuer.jwks());
        let good = token(&issuer);
        let refusal = verifier.look(&good).unwrap_err();
        // Another token's complete fetch. The next is a cooldown away.
        keys.fetch().await.unwrap();
        let outcome = verifier.retry_after_refresh(&good, refusal);
        assert!(matches!(outcome, Verification::Over(Ok(_))));
        let bad = made_up("x");
        let refusal = verifier.look(&bad).unwrap_err();
        let outcome = verifier.retry_after_refresh(&bad, refusal);
        assert!(matches!(outcome, Verification::Over(Err(_))));
    }
    assert_eq!(source.hits(), 2);
}

#[tokio::test]
async fn keys_that_were_due_long_ago_are_waited_for() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let (first, issuer, next) = (signer(&clock), signer(&clock), signer(&clock));
    let fresh = "cache-control: max-age=120\r\n";
    source.tell("200 OK", fresh, &first.jwks());
    let keys = source.keys(&clock);
    keys.fetch().await.unwrap();
    let verifier = verifier(keys, &clock);
    source.tell("200 OK", fresh, &issuer.jwks());
    source.hold();
    clock.advance(Duration::from_secs(239));
    let good = token(&first);
    assert_eq!(verdict(&verifier, &good).await, Ok(()), "it is only due");
    source.release();
    let good = token(&issuer);
    comes_true(|| verifier.verify(&good).is_ok()).await;
    assert_eq!(source.hits(), 2);
    clock.advance(Duration::from_secs(240));
    source.tell("200 OK", fresh, &next.jwks());
    source.hold();
    let mut first = Box::pin(verdict(&verifier, &good));
    assert_eq!(futures_util::poll!(&mut first), Poll::Pending);
    assert!(verifier.verify(&good).is_ok(), "who can't wait goes on");
    source.release();
    assert_eq!(first.await, Err(Kind::UnknownKey), "it was withdrawn");
    assert_eq!(source.hits(), 3);
    // While it fails, no token waits for it.
    let good = token(&next);
    source.tell("500 Oops", "", "");
    clock.advance(Duration::from_secs(240));
    assert_eq!(verdict(&verifier, &good).await, Ok(()));
    assert_eq!(source.hits(), 4);
    source.hold();
    clock.advance(Duration::from_secs(240));
    let call = verdict(&verifier, &good);
    assert_eq!(futures_util::poll!(Box::pin(call)), Poll::Ready(Ok(())));
}

#[tokio::test]
async fn whoever_does_not_wait_begins_the_first_fetch_too() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let issuer = signer(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    let verifier = verifier(source.keys(&clock), &clock);
    let good = token(&issuer);
    assert_eq!(verifier.verify(&good).unwrap_err().kind(), Kind::NoKeys);
    comes_true(|| verifier.verify(&good).is_ok()).await;
    assert_eq!(source.hits(), 1);
}

fn without_names(jwks: &str) -> String {
    let mut jwks: serde_json::Value = serde_json::from_str(jwks).unwrap();
    for key in jwks["keys"].as_array_mut().unwrap() {
        key.as_object_mut().unwrap().remove("kid").unwrap();
    }
    jwks.to_string()
}

#[tokio::test]
async fn a_key_without_a_name_may_be_followed_by_another() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let (issuer, next) = (signer(&clock), signer(&clock));
    source.tell("200 OK", "", &without_names(&issuer.jwks()));
    let verifier = verifier(source.keys(&clock), &clock);
    let (old, new) = (token(&issuer), token(&next));
    assert_eq!(verdict(&verifier, &old).await, Ok(()));
    source.tell("200 OK", "", &without_names(&next.jwks()));
    assert_eq!(verdict(&verifier, &new).await, Err(Kind::BadSignature));
    assert_eq!(source.hits(), 1, "in the cooldown");
    clock.advance(Duration::from_secs(30));
    assert_eq!(verdict(&verifier, &new).await, Ok(()));
    // During the cooldown, after it, and in the one that follows a fetch that did not bring the
    // key.
    for hits in [2, 3, 3] {
        for _ in 0..1_000 {
            assert_eq!(verdict(&verifier, &old).await, Err(Kind::BadSignature));
        }
        assert_eq!(source.hits(), hits);
        clock.advance(Duration::from_secs(30));
    }
    source.tell("500 Oops", "", "");
    assert_eq!(verdict(&verifier, &old).await, Err(Kind::NoKeys));
    assert_eq!(verdict(&verifier, &new).await, Ok(()));
    // If keys are selected by name, a bad signature is final.
    source.tell("200 OK", "", &next.jwks());
    clock.advance(Duration::from_secs(30));
    let hits = source.hits();
    let (signed, _) = new.rsplit_once('.').unwrap();
    let (_, signature) = old.rsplit_once('.').unwrap();
    assert_eq!(verdict(&verifier, &old).await, Err(Kind::UnknownKey));
    clock.advance(Duration::from_secs(30));
    let forged = format!("{signed}.{signature}");
    assert_eq!(verdict(&verifier, &forged).await, Err(Kind::BadSignature));
    assert_eq!(source.hits(), hits + 1);
}

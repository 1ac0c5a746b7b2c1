//! When a token is valid.

use super::*;

#[test]
fn expiry_is_a_finite_number_and_now_is_over() {
    for exp in [
        r#""1767225660""#,
        "null",
        "-1",
        "-1.5",
        "1e308",
        "1e400",
        "1e18",
        "253402300800",
        "18446744073709551616",
        "true",
        "[]",
        "{}",
        "NaN",
        "Infinity",
    ] {
        refused(&with_exp(exp), Kind::Malformed);
    }
    refused(
        &sign(HEADER, r#"{"iss":"api","aud":"web","sub":"me"}"#),
        Kind::Malformed,
    );
    let expired_at = |second, nanosecond| Kind::Expired {
        at: Timestamp::new(second, nanosecond).unwrap(),
    };
    refused(&with_exp(&NOW.to_string()), expired_at(NOW, 0));
    refused(&with_exp(&(NOW - 1).to_string()), expired_at(NOW - 1, 0));
    refused(&with_exp("0"), expired_at(0, 0));
    refused(
        &with_exp(&format!("{}.5", NOW - 1)),
        expired_at(NOW - 1, 500_000_000),
    );
    accepted(&with_exp(&format!("{NOW}.5")));
    accepted(&with_exp(&(NOW + 1).to_string()));
    accepted(&with_exp("1.8e9"));
    // The last second of other calendars.
    accepted(&with_exp("253402300799"));
    accepted(&with_exp("253402300799.9"));
}

#[test]
fn what_begins_in_the_future_waits() {
    for name in ["nbf", "iat"] {
        refused(
            &sign(HEADER, good_claims(&format!(r#","{name}":{}"#, NOW + 1))),
            Kind::NotYetValid,
        );
        accepted(&sign(HEADER, good_claims(&format!(r#","{name}":{NOW}"#))));
    }
}

#[test]
fn leeway_counts_both_ways_and_is_nothing_unless_set() {
    let clock = Arc::new(ManualClock::default());
    let lenient = builder(&clock)
        .leeway(Duration::from_secs(5))
        .build()
        .unwrap();
    lenient.verify(&with_exp(&(NOW - 4).to_string())).unwrap();
    assert!(lenient.verify(&with_exp(&(NOW - 5).to_string())).is_err());
    for name in ["nbf", "iat"] {
        let early = |second| early(name, second);
        lenient.verify(&early(NOW + 5)).unwrap();
        assert!(lenient.verify(&early(NOW + 6)).is_err(), "{name}");
    }
}

fn early(name: &str, second: i64) -> String {
    sign(HEADER, good_claims(&format!(r#","{name}":{second}"#)))
}

#[test]
fn a_clock_that_is_ahead_prolongs_nothing() {
    let clock = Arc::new(ManualClock::default());
    let seconds = Duration::from_secs;
    let ahead = builder(&clock).leeway_ahead(seconds(5)).build().unwrap();
    // However much the other way is.
    let behind = builder(&clock).leeway(seconds(9)).leeway_ahead(seconds(0));
    let behind = behind.build().unwrap();
    for name in ["nbf", "iat"] {
        ahead.verify(&early(name, NOW + 5)).unwrap();
        assert!(ahead.verify(&early(name, NOW + 6)).is_err(), "{name}");
        assert!(behind.verify(&early(name, NOW + 1)).is_err(), "{name}");
    }
    assert!(ahead.verify(&with_exp(&NOW.to_string())).is_err());
    behind.verify(&with_exp(&(NOW - 8).to_string())).unwrap();
}

#[test]
fn a_remembered_token_still_expires_and_the_clock_may_step_back() {
    let (verifier, clock) = setup();
    let token = sign(HEADER, good_claims(&format!(r#","iat":{NOW}"#)));
    let first = verifier.verify(&token).unwrap();
    assert!(
        Arc::ptr_eq(&first, &verifier.verify(&token).unwrap()),
        "remembered"
    );
    clock.advance(Duration::from_millis(59_999));
    verifier.verify(&token).unwrap();
    clock.advance(Duration::from_millis(1));
    let at = first.expires_at();
    for _ in 0..2 {
        assert_eq!(
            verifier.verify(&token).unwrap_err().kind(),
            Kind::Expired { at }
        );
    }
    clock.set(Timestamp::from_second(NOW + 30).unwrap());
    assert!(
        !Arc::ptr_eq(&first, &verifier.verify(&token).unwrap()),
        "verified from scratch"
    );
    clock.set(Timestamp::from_second(NOW - 1).unwrap());
    assert_eq!(
        verifier.verify(&token).unwrap_err().kind(),
        Kind::NotYetValid
    );
}

#[test]
fn remembering_can_be_switched_off() {
    let clock = Arc::new(ManualClock::default());
    let verifier = builder(&clock).cache_capacity(0).build().unwrap();
    let token = sign(HEADER, good_claims(""));
    let (first, second) = (
        verifier.verify(&token).unwrap(),
        verifier.verify(&token).unwrap(),
    );
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(first, second);
}

#[test]
fn an_issued_token_is_good_as_long_as_it_is_said_to_be() {
    let clock = Arc::new(ManualClock::default());
    let issuer = TokenIssuer::hs256(CANARY)
        .lifetime(Duration::from_secs(1))
        .with_clock(clock.clone())
        .build()
        .unwrap();
    let verifier = issuer.verifier().build().unwrap();
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    for millis in [0, 1, 500, 950, 999] {
        clock.set(Timestamp::from_millisecond(NOW * 1_000 + millis).unwrap());
        let token = issuer.issue(&user, &session, []).unwrap();
        assert_eq!(token.expires_in_secs(), 1);
        assert_eq!(token.expires_at().as_second(), NOW + 1);
        let verified = verifier.verify(token.expose()).unwrap();
        assert_eq!(verified.issued_at().unwrap().as_second(), NOW);
        clock.set(Timestamp::from_millisecond(NOW * 1_000 + 999).unwrap());
        verifier.verify(token.expose()).unwrap();
        clock.advance(Duration::from_millis(1));
        let error = verifier.verify(token.expose()).unwrap_err();
        let at = token.expires_at();
        assert_eq!(error.kind(), Kind::Expired { at });
    }
}

#[test]
fn no_token_is_said_to_outlive_its_login() {
    let clock = Arc::new(ManualClock::default());
    let issuer = TokenIssuer::hs256(CANARY).with_clock(clock.clone());
    let issuer = issuer.build().unwrap();
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    clock.set(Timestamp::from_millisecond(NOW * 1_000 + 600).unwrap());
    for (millis, exp, seconds) in [(7_500, NOW + 7, 7), (7_000, NOW + 7, 7), (900, NOW, 0)] {
        let latest = Timestamp::from_millisecond(NOW * 1_000 + millis).unwrap();
        let token = issuer.issue_until(&user, &session, [], latest).unwrap();
        assert_eq!(token.expires_at().as_second(), exp);
        assert_eq!(token.expires_in_secs(), seconds);
    }
}

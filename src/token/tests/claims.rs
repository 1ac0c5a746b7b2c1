//! What claims may contain.

use super::*;

#[test]
fn members_that_are_there_twice_are_refused() {
    for more in [
        r#","exp":99999999999"#,
        r#","\u0065xp":99999999999"#,
        r#","sub":"me""#,
        r#","iss":"api""#,
        r#","aud":"web""#,
        r#","sid":"s","sid":"s""#,
        r#","nbf":1,"nbf":1"#,
        r#","iat":1,"iat":1"#,
        r#","jti":"a","jti":"b""#,
        r#","roles":[],"roles":["admin"]"#,
        r#","token_use":"access","token_use":"access""#,
        r#","admin":false,"admin":true"#,
        r#","x":{"a":{"b":1,"b":1}}"#,
        r#","x":[[{"b":1,"\u0062":1}]]"#,
    ] {
        refused(&sign(HEADER, good_claims(more)), Kind::Malformed);
    }
}

#[test]
fn claims_have_their_types() {
    for more in [
        r#","nbf":"1""#,
        r#","nbf":null"#,
        r#","iat":"1""#,
        r#","iat":-1"#,
        r#","iat":true"#,
        r#","jti":1"#,
        r#","jti":null"#,
        r#","sid":1"#,
        r#","sid":["s"]"#,
        r#","sid":"""#,
        r#","sid":null"#,
        r#","roles":"admin""#,
        r#","roles":["a",1]"#,
        r#","roles":{"a":1}"#,
        r#","roles":null,"roles":["a"]"#,
        r#","roles":[null]"#,
        r#","token_use":1"#,
        r#","token_use":null"#,
        r#","token_use":["access"]"#,
    ] {
        refused(&sign(HEADER, good_claims(more)), Kind::Malformed);
    }
    for (name, value) in [
        ("iss", r#"["api"]"#),
        ("iss", "1"),
        ("iss", "null"),
        ("sub", "1"),
        ("sub", "null"),
        ("sub", r#"["me"]"#),
        ("sub", r#""""#),
        ("aud", "123"),
        ("aud", "null"),
        ("aud", r#"["web",1]"#),
        ("aud", r#"["web",null]"#),
        ("aud", r#"{"web":1}"#),
    ] {
        let mut claims =
            serde_json::json!({"iss": "api", "aud": "web", "sub": "me", "exp": NOW + 60});
        claims[name] = serde_json::from_str(value).unwrap();
        refused(&sign(HEADER, claims.to_string()), Kind::Malformed);
    }
    let missing_sub = format!(r#"{{"iss":"api","aud":"web","exp":{}}}"#, NOW + 60);
    refused(&sign(HEADER, missing_sub), Kind::Malformed);
    let long_sub = format!(
        r#"{{"iss":"api","aud":"web","sub":"{}","exp":{}}}"#,
        "x".repeat(256),
        NOW + 60
    );
    refused(&sign(HEADER, long_sub), Kind::Malformed);
}

#[test]
fn no_roles_may_be_written_as_null() {
    let token = accepted(&sign(HEADER, good_claims(r#","roles":null"#)));
    assert_eq!(token.roles().count(), 0);
}

#[test]
fn several_names_of_an_issuer_and_of_ours_are_as_good_as_one() {
    let clock = Arc::new(ManualClock::default());
    let verifier = builder(&clock)
        .add_issuer("https://api.example")
        .add_audience("mobile")
        .build()
        .unwrap();
    let verdict = |iss: &str, aud: &str| {
        let claims = format!(r#"{{{iss}{aud}"sub":"me","exp":{}}}"#, NOW + 60);
        let verified = verifier.verify(&sign(HEADER, claims));
        verified.map(drop).map_err(|error| error.kind())
    };
    let issuers = [r#""iss":"api","#, r#""iss":"https://api.example","#];
    for iss in issuers {
        for aud in [
            r#""aud":"web","#,
            r#""aud":"mobile","#,
            r#""aud":["x","mobile"],"#,
        ] {
            assert_eq!(verdict(iss, aud), Ok(()), "{iss}{aud}");
        }
        for foreign in [
            "",
            r#""aud":"x","#,
            r#""aud":[],"#,
            r#""aud":"web mobile","#,
        ] {
            assert_eq!(verdict(iss, foreign), Err(Kind::WrongAudience), "{foreign}");
        }
        for odd in [r#""aud":123,"#, r#""aud":null,"#, r#""aud":["mobile",1],"#] {
            assert_eq!(verdict(iss, odd), Err(Kind::Malformed), "{odd}");
        }
    }
    let aud = r#""aud":"mobile","#;
    for foreign in ["", r#""iss":"API","#, r#""iss":"https://api.example/","#] {
        assert_eq!(verdict(foreign, aud), Err(Kind::WrongIssuer), "{foreign}");
    }
    for odd in [r#""iss":["api"],"#, r#""iss":null,"#] {
        assert_eq!(verdict(odd, aud), Err(Kind::Malformed), "{odd}");
    }
    // The last setting wins.
    let alone = builder(&clock)
        .add_issuer("b")
        .issuer("c")
        .add_audience("d");
    let alone = alone.audience("e").build().unwrap();
    for (iss, aud, is_good) in [("c", "e", true), ("api", "e", false), ("b", "e", false)]
        .into_iter()
        .chain([("c", "web", false), ("c", "d", false)])
    {
        let exp = NOW + 60;
        let claims = format!(r#"{{"iss":"{iss}","aud":"{aud}","sub":"me","exp":{exp}}}"#);
        assert_eq!(alone.verify(&sign(HEADER, claims)).is_ok(), is_good);
    }
}

#[test]
fn claims_are_one_well_formed_object() {
    let trailing = format!("{}{{}}", good_claims(""));
    let bom = format!("\u{feff}{}", good_claims(""));
    for claims in [
        "",
        "null",
        "[]",
        "\"x\"",
        "1",
        "{",
        "{\"sub\":}",
        &trailing,
        &bom,
    ] {
        refused(&sign(HEADER, claims), Kind::Malformed);
    }
    let mut not_utf8 = good_claims(r#","x":"?""#).into_bytes();
    let at = not_utf8.iter().position(|byte| *byte == b'?').unwrap();
    not_utf8[at] = 0xff;
    refused(&sign(HEADER, not_utf8), Kind::Malformed);
    refused(
        &sign(HEADER, good_claims(r#","x":"\ud800""#)),
        Kind::Malformed,
    );
}

#[test]
fn issuer_audience_and_use_must_be_ours() {
    let claims = |iss: &str, aud: &str, more: &str| {
        sign(
            HEADER,
            format!(r#"{{{iss}{aud}"sub":"me","exp":{}{more}}}"#, NOW + 60),
        )
    };
    let (iss, aud) = (r#""iss":"api","#, r#""aud":"web","#);
    accepted(&claims(iss, aud, ""));
    accepted(&claims(iss, r#""aud":["a","web"],"#, ""));
    refused(&claims(r#""iss":"API","#, aud, ""), Kind::WrongIssuer);
    refused(&claims("", aud, ""), Kind::WrongIssuer);
    refused(&claims(iss, r#""aud":"webb","#, ""), Kind::WrongAudience);
    refused(&claims(iss, r#""aud":["a"],"#, ""), Kind::WrongAudience);
    refused(&claims(iss, r#""aud":[],"#, ""), Kind::WrongAudience);
    refused(&claims(iss, "", ""), Kind::WrongAudience);
    for other in ["refresh", "id", "Access", ""] {
        refused(
            &claims(iss, aud, &format!(r#","token_use":"{other}""#)),
            Kind::WrongUse,
        );
    }
    let clock = Arc::new(ManualClock::default());
    let refresh = builder(&clock)
        .token_use(TokenUse::Refresh)
        .build()
        .unwrap();
    refresh
        .verify(&claims(iss, aud, r#","token_use":"refresh""#))
        .unwrap();
    for token in [
        claims(iss, aud, ""),
        claims(iss, aud, r#","token_use":"access""#),
    ] {
        assert_eq!(refresh.verify(&token).unwrap_err().kind(), Kind::WrongUse);
    }
    let nameless = TokenVerifier::hs256(CANARY)
        .with_clock(clock)
        .build()
        .unwrap();
    nameless.verify(&claims(iss, "", "")).unwrap();
    let error = nameless.verify(&claims(iss, aud, "")).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongAudience);
}

#[test]
fn what_some_providers_say_in_a_claim_is_heard() {
    for other in ["ID", "Refresh", "Offline", "Logout", "Serialized-ID", "id"] {
        let claims = good_claims(&format!(r#","typ":"{other}""#));
        refused(&sign(HEADER, &claims), Kind::WrongUse);
    }
    for fine in ["Bearer", "DPoP", "JWT", ""] {
        accepted(&sign(HEADER, good_claims(&format!(r#","typ":"{fine}""#))));
    }
    for odd in ["1", "null", "true", r#"["ID"]"#, r#"{"a":"ID"}"#] {
        accepted(&sign(HEADER, good_claims(&format!(r#","typ":{odd}"#))));
    }
    refused(
        &sign(HEADER, good_claims(r#","typ":"I\u0044""#)),
        Kind::WrongUse,
    );
    let deep = format!("{}{}", "[".repeat(17), "]".repeat(17));
    for malformed in [
        r#","typ":"Bearer","typ":"ID""#,
        r#","typ":1,"typ":"Bearer""#,
        r#","typ":{"a":1,"a":2}"#,
        &format!(r#","typ":{deep}"#),
    ] {
        refused(&sign(HEADER, good_claims(malformed)), Kind::Malformed);
    }
    let clock = Arc::new(ManualClock::default());
    let refresh = builder(&clock)
        .token_use(TokenUse::Refresh)
        .build()
        .unwrap();
    let says = |typ: &str| {
        let more = format!(r#","token_use":"refresh","typ":"{typ}""#);
        refresh.verify(&sign(HEADER, good_claims(&more)))
    };
    says("Refresh").unwrap();
    assert_eq!(says("ID").unwrap_err().kind(), Kind::WrongUse);
}

#[test]
fn other_claims_are_kept_when_asked_for_and_checked_all_the_same() {
    let clock = Arc::new(ManualClock::default());
    let verifier = builder(&clock).add_claim("realm").build().unwrap();
    let token = verifier
        .verify(&sign(
            HEADER,
            good_claims(r#","realm":{"roles":["a"]},"y":1"#),
        ))
        .unwrap();
    assert_eq!(token.claim("realm").unwrap()["roles"][0], "a");
    assert_eq!(token.claim("y"), None);
    for more in [
        r#","realm":{"a":1,"a":2}"#,
        r#","realm":1,"realm":1"#,
        &format!(r#","realm":{}{}"#, "[".repeat(16), "]".repeat(16)),
        // serde_json would read what the text says.
        r#","realm":{"$serde_json::private::RawValue":"[1]"}"#,
        r#","realm":[{"a":{"\u0024serde_json::private::RawValue":"[1]"}}]"#,
        r#","scope":{"$serde_json::private::RawValue":"\"a b\""}"#,
        r#","y":{"$serde_json::private::RawValue":"[1]"}"#,
        r#","$serde_json::private::RawValue":"[1]""#,
    ] {
        let error = verifier
            .verify(&sign(HEADER, good_claims(more)))
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
    }
}

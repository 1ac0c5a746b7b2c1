//! How other issuers' claims are mapped.

use super::*;

fn verify(
    build: impl FnOnce(TokenVerifierBuilder) -> TokenVerifierBuilder,
    more: &str,
) -> Result<Arc<VerifiedToken>, Kind> {
    let clock = Arc::new(ManualClock::default());
    let verifier = build(builder(&clock)).build().unwrap();
    let token = sign(HEADER, good_claims(more));
    verifier.verify(&token).map_err(|error| error.kind())
}

#[test]
fn roles_come_from_where_the_issuer_puts_them() {
    let nested = |builder: TokenVerifierBuilder| builder.roles_from(["realm_access", "roles"]);
    let roles = |token: Arc<VerifiedToken>| token.roles().map(str::to_owned).collect::<Vec<_>>();
    let more = r#","realm_access":{"roles":["a","b"]},"roles":["x"]"#;
    let token = verify(nested, more).unwrap();
    assert_eq!(roles(token.clone()), ["a", "b"]);
    assert!(token.principal().has_role("b") && !token.principal().has_role("x"));
    for none in [
        "",
        r#","realm_access":{}"#,
        r#","realm_access":[]"#,
        r#","realm_access":1"#,
        r#","realm_access":null"#,
        r#","realm_access":{"roles":null}"#,
    ] {
        assert!(roles(verify(nested, none).unwrap()).is_empty(), "{none}");
    }
    for odd in ["1", "false", r#"{"a":1}"#, r#"["a",null]"#, r#"[["a"]]"#] {
        let more = format!(r#","realm_access":{{"roles":{odd}}}"#);
        assert_eq!(verify(nested, &more).unwrap_err(), Kind::Malformed, "{odd}");
    }
    let many = format!(
        r#","realm_access":{{"roles":[{}"a"]}}"#,
        r#""a","#.repeat(64)
    );
    assert_eq!(verify(nested, &many).unwrap_err(), Kind::Malformed);
    let words = |builder: TokenVerifierBuilder| builder.roles_from(["scope"]);
    let token = verify(words, r#","scope":"chat:read  chat:write""#).unwrap();
    assert_eq!(roles(token), ["chat:read", "chat:write"]);
}

#[test]
fn the_usual_place_of_roles_may_be_named_and_may_be_anothers() {
    let roles = |token: Arc<VerifiedToken>| token.roles().map(str::to_owned).collect::<Vec<_>>();
    let named = |builder: TokenVerifierBuilder| builder.roles_from(["roles"]);
    for written in [r#"["a","b"]"#, r#""a b""#] {
        let token = verify(named, &format!(r#","roles":{written}"#)).unwrap();
        assert_eq!(roles(token), ["a", "b"], "{written}");
    }
    for none in ["", r#","roles":null"#] {
        assert!(roles(verify(named, none).unwrap()).is_empty(), "{none}");
    }
    let odd = verify(named, r#","roles":{"a":1}"#);
    assert_eq!(odd.unwrap_err(), Kind::Malformed);
    let twice = verify(named, r#","roles":["a"],"roles":["b"]"#);
    assert_eq!(twice.unwrap_err(), Kind::Malformed);
    let nested = |builder: TokenVerifierBuilder| builder.roles_from(["realm_access", "roles"]);
    for other in [r#""admin""#, "1", "null", r#"{"a":1}"#] {
        let more = format!(r#","roles":{other},"realm_access":{{"roles":["a"]}}"#);
        assert_eq!(roles(verify(nested, &more).unwrap()), ["a"], "{other}");
        let twice = format!(r#"{more},"roles":[]"#);
        assert_eq!(verify(nested, &twice).unwrap_err(), Kind::Malformed);
    }
}

#[test]
fn claims_that_are_always_read_can_be_kept_and_mapped_too() {
    let kept = |builder: TokenVerifierBuilder| {
        builder
            .add_attribute_from("issuer", ["iss"])
            .add_claim("aud")
            .add_claim("roles")
            .add_claim("exp")
            .add_required_claim("sid")
    };
    let token = verify(kept, r#","sid":"s","roles":["a"]"#).unwrap();
    assert_eq!(token.principal().attribute("issuer"), Some("api"));
    assert_eq!(token.claim("aud").unwrap(), "web");
    assert_eq!(token.claim("exp").unwrap(), NOW + 60);
    assert_eq!(token.claim("roles").unwrap()[0], "a");
    assert_eq!(token.claim("sub"), None);
    // They are still read.
    assert_eq!(token.roles().collect::<Vec<_>>(), ["a"]);
    assert_eq!(token.session().unwrap().as_str(), "s");
    for odd in [
        r#","sid":"s","sid":"s""#,
        r#","sid":"s","iss":"api""#,
        r#","sid":"s","roles":"a""#,
        r#","sid":1"#,
        r#","sid":null"#,
    ] {
        assert_eq!(verify(kept, odd).unwrap_err(), Kind::Malformed, "{odd}");
    }
    assert_eq!(verify(kept, "").unwrap_err(), Kind::MissingClaim);
}

#[test]
fn scopes_are_words_or_a_list_and_no_roles() {
    let plain = |builder: TokenVerifierBuilder| builder;
    let scopes = |token: &VerifiedToken| token.scopes().map(str::to_owned).collect::<Vec<_>>();
    let token = verify(
        plain,
        r#","scope":"chat:read  chat:write","roles":["user"]"#,
    )
    .unwrap();
    assert_eq!(scopes(&token), ["chat:read", "chat:write"]);
    let principal = token.principal();
    assert!(principal.has_scope("chat:read") && !principal.has_scope("user"));
    assert!(principal.has_role("user") && !principal.has_role("chat:read"));
    for none in [
        "",
        r#","scope":"""#,
        r#","scope":" ""#,
        r#","scope":[]"#,
        r#","scope":null"#,
        r#","scp":"a""#,
    ] {
        let token = verify(plain, none).unwrap();
        assert!(scopes(&token).is_empty(), "{none}");
        assert_eq!(token.principal().scopes().count(), 0);
    }
    for odd in ["1", "[null]", "true", r#"{"a":1}"#, r#"["a",1]"#] {
        let more = format!(r#","scope":{odd}"#);
        assert_eq!(verify(plain, &more).unwrap_err(), Kind::Malformed, "{odd}");
    }
    let many = format!(r#","scope":"{}a""#, "a ".repeat(256));
    assert_eq!(verify(plain, &many).unwrap_err(), Kind::Malformed);
    let elsewhere = |builder: TokenVerifierBuilder| builder.scopes_from(["scp"]);
    let token = verify(elsewhere, r#","scp":["a","b"],"scope":"c""#).unwrap();
    assert_eq!(scopes(&token), ["a", "b"]);
    let built = TokenVerifier::hs256(CANARY).scopes_from([]).build();
    assert_eq!(built.unwrap_err(), TokenConfigError::ClaimPath);
}

#[test]
fn attributes_are_strings_of_the_principal() {
    let tenant = |builder: TokenVerifierBuilder| {
        builder
            .add_attribute_from("tenant", ["org", "id"])
            .add_attribute_from("mail", ["email"])
    };
    let token = verify(tenant, r#","org":{"id":"acme"},"email":"a@b""#).unwrap();
    assert_eq!(token.principal().attribute("tenant"), Some("acme"));
    assert_eq!(token.principal().attribute("mail"), Some("a@b"));
    for none in ["", r#","org":null"#, r#","org":{"id":null},"email":null"#] {
        let token = verify(tenant, none).unwrap();
        assert_eq!(token.principal().attribute("tenant"), None, "{none}");
        assert_eq!(token.principal().attribute("mail"), None, "{none}");
    }
    for (value, attribute) in [
        ("7", "7"),
        ("0", "0"),
        ("-3", "-3"),
        ("true", "true"),
        ("false", "false"),
        ("18446744073709551615", "18446744073709551615"),
        ("-9223372036854775808", "-9223372036854775808"),
    ] {
        let token = verify(tenant, &format!(r#","org":{{"id":{value}}}"#)).unwrap();
        assert_eq!(token.principal().attribute("tenant"), Some(attribute));
    }
    for odd in [
        r#"["acme"]"#,
        "{}",
        "1.5",
        "1.0",
        "1e2",
        "-0",
        "18446744073709551616",
        "-9223372036854775809",
    ] {
        let more = format!(r#","org":{{"id":{odd}}}"#);
        assert_eq!(verify(tenant, &more).unwrap_err(), Kind::Malformed, "{odd}");
    }
    let roles = |builder: TokenVerifierBuilder| builder.roles_from(["org", "id"]);
    for odd in ["7", "true", "[7]"] {
        let more = format!(r#","org":{{"id":{odd}}}"#);
        assert_eq!(verify(roles, &more).unwrap_err(), Kind::Malformed, "{odd}");
    }
    // Standard claims are read whether mapped or not.
    let named = |builder: TokenVerifierBuilder| builder.add_attribute_from("name", ["sub"]);
    let claims = format!(
        r#"{{"iss":"api","aud":"web","sub":null,"exp":{}}}"#,
        NOW + 60
    );
    let clock = Arc::new(ManualClock::default());
    let verifier = named(builder(&clock)).build().unwrap();
    let odd = verifier.verify(&sign(HEADER, claims)).unwrap_err();
    assert_eq!(odd.kind(), Kind::Malformed);
}

#[test]
fn a_subject_is_where_the_issuer_puts_it() {
    let verdict = |build: fn(TokenVerifierBuilder) -> TokenVerifierBuilder, more: &str| {
        let clock = Arc::new(ManualClock::default());
        let verifier = build(builder(&clock)).build().unwrap();
        let exp = NOW + 60;
        let claims = format!(r#"{{"iss":"api","aud":"web","exp":{exp}{more}}}"#);
        let verified = verifier.verify(&sign(HEADER, claims));
        let subject = verified.map(|token| token.subject().to_owned());
        subject.map_err(|error| error.kind())
    };
    let oid = |builder: TokenVerifierBuilder| builder.subject_from(["oid"]);
    let both = r#","sub":"pairwise","oid":"of-all""#;
    assert_eq!(verdict(oid, both), Ok("of-all".to_owned()));
    for none in [
        "",
        r#","sub":"s""#,
        r#","oid":"""#,
        r#","oid":null"#,
        r#","oid":7"#,
    ] {
        assert_eq!(verdict(oid, none), Err(Kind::Malformed), "{none}");
    }

    let service = |builder: TokenVerifierBuilder| {
        let first = builder.add_subject_from(["org", "client"]);
        first.add_subject_from(["client_id"]).subject_prefix("kc:")
    };
    for (more, subject) in [
        (r#","sub":"user","client_id":"c""#, "kc:user"),
        (
            r#","sub":"","org":{"client":"nested"},"client_id":"c""#,
            "kc:nested",
        ),
        (r#","org":{},"client_id":"c""#, "kc:c"),
    ] {
        assert_eq!(verdict(service, more), Ok(subject.to_owned()));
    }
    for none in ["", r#","client_id":["c"]"#, r#","sub":1,"client_id":"c""#] {
        assert_eq!(verdict(service, none), Err(Kind::Malformed), "{none}");
    }
    let long = format!(r#","client_id":"{}""#, "c".repeat(253));
    assert_eq!(verdict(service, &long), Err(Kind::Malformed));
    let built = TokenVerifier::hs256(CANARY).subject_from([]).build();
    assert_eq!(built.unwrap_err(), TokenConfigError::ClaimPath);
}

#[test]
fn what_is_required_must_be_there() {
    let required = |builder: TokenVerifierBuilder| {
        builder
            .add_required_claim("jti")
            .add_required_claim("client_id")
    };
    verify(required, r#","jti":"1","client_id":"c""#).unwrap();
    let all = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid"];
    let all = all.into_iter().chain(["token_use", "roles", "typ"]);
    let more = [
        r#","nbf":1"#,
        r#","iat":1"#,
        r#","jti":"1""#,
        r#","sid":"s""#,
        r#","token_use":"access""#,
        r#","roles":[]"#,
        r#","typ":"Bearer""#,
    ];
    let strict = |mut builder: TokenVerifierBuilder| {
        for name in all.clone() {
            builder = builder.add_required_claim(name);
        }
        builder
    };
    verify(strict, &more.concat()).unwrap();
    for one in more {
        let lacking = more.concat().replace(one, "");
        assert_eq!(verify(strict, &lacking).unwrap_err(), Kind::MissingClaim);
    }
    for lacking in [
        "",
        r#","jti":"1""#,
        r#","jti":"1","client_id":null"#,
        r#","client_id":"c""#,
    ] {
        let outcome = verify(required, lacking);
        assert_eq!(outcome.unwrap_err(), Kind::MissingClaim, "{lacking}");
    }
}

#[test]
fn a_token_may_be_too_old_before_it_expires() {
    let young = |builder: TokenVerifierBuilder| builder.age_max(Duration::from_secs(10));
    let issued = |second: i64| format!(r#","iat":{second}"#);
    verify(young, &issued(NOW - 9)).unwrap();
    assert_eq!(verify(young, &issued(NOW - 10)).unwrap_err(), Kind::TooOld);
    assert_eq!(verify(young, "").unwrap_err(), Kind::MissingClaim);
    let clock = Arc::new(ManualClock::default());
    let verifier = young(builder(&clock)).build().unwrap();
    let token = sign(HEADER, good_claims(&issued(NOW)));
    verifier.verify(&token).unwrap();
    clock.advance(Duration::from_secs(10));
    let error = verifier.verify(&token).unwrap_err();
    assert_eq!(error.kind(), Kind::TooOld, "although it is remembered");
}

#[test]
fn paths_and_ages_that_make_no_sense_are_refused() {
    use TokenConfigError as E;
    let verifier = || TokenVerifier::hs256(CANARY);
    for path in [&[][..], &[""], &["a", ""], &["a"; 9]] {
        let path = || path.iter().copied();
        assert_eq!(
            verifier().roles_from(path()).build().unwrap_err(),
            E::ClaimPath
        );
        let built = verifier().add_attribute_from("x", path()).build();
        assert_eq!(built.unwrap_err(), E::ClaimPath);
    }
    let built = verifier().add_required_claim("").build();
    assert_eq!(built.unwrap_err(), E::ClaimPath);
    let built = verifier().age_max(Duration::from_millis(999)).build();
    assert_eq!(built.unwrap_err(), E::Age);
}

//! Several kinds of credential in order: which one counts, and what becomes of a bad one.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{convert::Infallible, time::Duration};

use http::{HeaderName, Request, Response};
use tollgate::{
    ApiKeyLayer, AuthenticateLayer, ClientAddress, CredentialKind, ForwardedHeader, JwtLayer,
    PeerAddress, Principal, RateLimitLayer, RequestHead,
    guard::Authenticator,
    key::{Alphabet, ForeignFormat, KeyDigest, KeyFormat, KeyRecord},
    keyring::{KeyResolver, Keyring, NewKey},
    network::IpNet,
    quota::Quota,
    store::{BudgetId, KeyId, KeyStore, MemoryStore, SessionId, StaticKeys, UserId},
    token::{TokenIssuer, TokenVerifier},
};
use tower::{Layer, ServiceExt, service_fn};

const SECRET: &[u8] = b"thirty-two bytes or more, please!";

async fn whoami(request: Request<()>) -> Result<Response<String>, Infallible> {
    let principal = request.extensions().get::<Principal>().unwrap();
    let answer = Response::builder().header("x-subject", principal.subject());
    Ok(answer.body(String::new()).unwrap())
}

fn request(lines: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    for (name, value) in lines {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

/// Keys are made by one, and found by the other.
fn keys() -> (Keyring, KeyResolver) {
    let store = MemoryStore::new();
    let format = KeyFormat::builder("acme").build().unwrap();
    let resolver = KeyResolver::builder(store.clone())
        .add_format(format.clone())
        .build();
    (Keyring::new(store, format, resolver.clone()), resolver)
}

/// Whom a layer takes the request for; a status when it refuses.
macro_rules! ask {
    ($layer:expr, $lines:expr) => {{
        let service = $layer.layer(service_fn(whoami));
        let answer = service.oneshot(request($lines)).await.unwrap();
        match answer.headers().get("x-subject") {
            Some(subject) => subject.to_str().unwrap().to_owned(),
            None => answer.status().as_u16().to_string(),
        }
    }};
}

/// Also of a policy of one's own, which knows nothing of keys, and of a token in a cookie.
#[tokio::test]
async fn nobody_is_admitted_beside_a_credential_in_two_lines() {
    let issuer = TokenIssuer::hs256(SECRET).build().unwrap();
    let (user, session) = (UserId::new("ann").unwrap(), SessionId::new("s").unwrap());
    let token = issuer.issue(&user, &session, ["viewer"]).unwrap();
    let cookie = format!("token={}", token.expose());
    let verifier = || TokenVerifier::hs256(SECRET).build().unwrap();
    let whom = |name: String| Principal::builder(&name, CredentialKind::Token).build();
    let said = |head: &RequestHead<'_>| {
        let name = head.headers.get("x-user")?.to_str().ok()?;
        Some(name.to_owned())
    };
    let at_once = AuthenticateLayer::by_head(move |head| Ok(said(head).map(whom)));
    let asked = AuthenticateLayer::new(said, move |name| async move { Ok(whom(name)) });
    let (_, keys) = keys();
    let keys = || ApiKeyLayer::new(keys.clone());
    for name in ["x-api-key", "authorization"] {
        let beside = |(other, value), count| {
            let mut lines = vec![(name, "Bearer"); count];
            lines.push((other, value));
            lines
        };
        for (count, who) in [(1, "ann"), (2, "401")] {
            let said = ("x-user", "ann");
            assert_eq!(ask!(at_once.clone().or(keys()), &beside(said, count)), who);
            assert_eq!(ask!(asked.clone().or(keys()), &beside(said, count)), who);
            let in_cookie = ("cookie", cookie.as_str());
            let jwt = JwtLayer::new(verifier()).cookie("token");
            assert_eq!(ask!(jwt.clone(), &beside(in_cookie, count)), who);
            assert_eq!(ask!(jwt.or(keys()), &beside(in_cookie, count)), who);
        }
    }
}

#[tokio::test]
async fn the_first_layer_with_a_credential_of_its_kind_decides() {
    let (ring, resolver) = keys();
    let (key, record) = ring.create("by-key", NewKey::default()).await.unwrap();
    let (revoked, of_revoked) = ring.create("by-key", NewKey::default()).await.unwrap();
    ring.revoke("by-key", &of_revoked.id).await.unwrap();
    assert_ne!(record.id, of_revoked.id);
    let user = UserId::new("by-token").unwrap();
    let login = SessionId::new("login-1").unwrap();
    let issuer = TokenIssuer::hs256(SECRET).build().unwrap();
    let token = issuer.issue(&user, &login, ["viewer"]).unwrap();
    let stranger = TokenIssuer::hs256(b"another secret of at least 32 bytes")
        .build()
        .unwrap();
    let forged = stranger.issue(&user, &login, ["admin"]).unwrap();

    let keys = ApiKeyLayer::new(resolver);
    let tokens = JwtLayer::new(TokenVerifier::hs256(SECRET).build().unwrap());
    let keys_first = keys.clone().or(tokens.clone());
    let tokens_first = tokens.or(keys);

    let bearer = |text: &str| format!("Bearer {text}");
    let (good_token, forged) = (bearer(token.expose()), bearer(forged.expose()));
    let (key_as_bearer, revoked_as_bearer) = (bearer(key.expose()), bearer(revoked.expose()));
    let (header, authorization) = ("x-api-key", "authorization");
    for (lines, taken_for) in [
        (vec![(header, key.expose())], "by-key"),
        (vec![(authorization, key_as_bearer.as_str())], "by-key"),
        (vec![(authorization, &good_token)], "by-token"),
        (vec![], "401"),
        // A bad credential is refused, not passed on.
        (vec![(header, revoked.expose())], "401"),
        (vec![(authorization, &revoked_as_bearer)], "401"),
        (vec![(authorization, &forged)], "401"),
        (vec![(header, "acme_guess")], "401"),
        (vec![(authorization, "Bearer nonsense")], "401"),
        // Nor does a good one heal it, nor are two taken.
        (
            vec![(header, revoked.expose()), (authorization, &good_token)],
            "401",
        ),
        (
            vec![(header, key.expose()), (authorization, &forged)],
            "401",
        ),
        (
            vec![(header, key.expose()), (authorization, &good_token)],
            "401",
        ),
        (vec![(header, key.expose()), (header, key.expose())], "401"),
        (
            vec![(authorization, &good_token), (authorization, &good_token)],
            "401",
        ),
    ] {
        assert_eq!(ask!(keys_first, &lines), taken_for, "keys first: {lines:?}");
        assert_eq!(
            ask!(tokens_first, &lines),
            taken_for,
            "tokens first: {lines:?}"
        );
    }
}

/// Keys of no format: then every text may be one, but what has the form of a token.
#[tokio::test]
async fn tokens_stand_beside_keys_of_no_format() {
    let store = MemoryStore::new();
    let keys = KeyResolver::builder(store.clone())
        .ttl(Duration::from_secs(30))
        .build();
    let jwt = TokenVerifier::hs256(SECRET)
        .issuer("api")
        .audience("web")
        .build()
        .unwrap();
    let format = KeyFormat::builder("acme").build().unwrap();
    let ring = Keyring::new(store.clone(), format, keys.clone());
    let (key, _) = ring.create("by-key", NewKey::default()).await.unwrap();
    let issuer = TokenIssuer::hs256(SECRET).issuer("api").audience("web");
    let (user, login) = (
        UserId::new("by-token").unwrap(),
        SessionId::new("login-1").unwrap(),
    );
    let token = issuer.build().unwrap().issue(&user, &login, []).unwrap();
    // A key that has the form of a token, of a format that says so.
    let form = ForeignFormat::builder(Alphabet::Base64Url, 30..=60)
        .prefix("eyJ")
        .add_characters(".");
    let foreign = KeyResolver::builder(store.clone()).add_foreign_format(form.build().unwrap());
    let foreign = foreign.build();
    let alike = "eyJ0123456789abcdef.0123456789abcdef.0123456789abcdef";
    let format = KeyFormat::builder("acme").build().unwrap();
    let imports = Keyring::new(store.clone(), format, foreign.clone());
    let imported = imports.import("by-import", alike, NewKey::default()).await;
    imported.unwrap();

    let layer = ApiKeyLayer::new(keys.clone()).or(JwtLayer::new(jwt.clone()));
    let claimed = ApiKeyLayer::new(foreign).or(JwtLayer::new(jwt));
    let bearer = |text: &str| format!("Bearer {text}");
    for (text, expected) in [
        (key.expose(), "by-key"),
        (token.expose(), "by-token"),
        ("nobody's-key", "401"),
        ("eyJhbGciOiJub25lIn0.e30.", "401"),
        (alike, "401"),
    ] {
        let line = bearer(text);
        assert_eq!(ask!(layer, &[("authorization", &line)]), expected, "{text}");
    }
    let line = bearer(alike);
    assert_eq!(ask!(claimed, &[("authorization", &line)]), "by-import");
    // In the header of keys everything is a key.
    assert_eq!(ask!(layer, &[("x-api-key", alike)]), "by-import");
    assert_eq!(ask!(layer, &[("x-api-key", token.expose())]), "401");
    let alone = ApiKeyLayer::new(keys);
    let line = bearer(token.expose());
    assert_eq!(ask!(alone, &[("authorization", &line)]), "401");
}

/// An address of IPv4 may come written as IPv6, and so may a network that somebody wrote down.
#[tokio::test]
async fn a_network_is_the_same_in_either_form() {
    let mapped: IpNet = "::ffff:192.0.2.0/120".parse().unwrap();
    let store = MemoryStore::new();
    let keys = KeyResolver::builder(store.clone()).build();
    let format = KeyFormat::builder("acme").build().unwrap();
    let ring = Keyring::new(store.clone(), format, keys.clone());
    let bound = NewKey {
        networks: vec![mapped],
        ..NewKey::default()
    };
    let (key, record) = ring.create("ann", bound).await.unwrap();
    assert_eq!(record.networks[0].to_string(), "192.0.2.0/24");
    // As another program has stored it.
    let (id, lineage) = (KeyId::new("old").unwrap(), BudgetId::new("old").unwrap());
    let digest = KeyDigest::of("an-old-key");
    let mut old = KeyRecord::new(id, lineage, digest, "bob", record.created_at);
    old.networks = vec![mapped];
    store.insert(old, None).await.unwrap();

    let proxied = ClientAddress::peer().trusting([mapped], ForwardedHeader::XForwardedFor);
    let layers = [
        ApiKeyLayer::new(keys.clone()),
        ApiKeyLayer::new(keys.clone()).networks([mapped]),
    ];
    for layer in layers {
        let service = layer.layer(service_fn(whoami));
        for (text, whose) in [(key.expose(), "ann"), ("an-old-key", "bob")] {
            for (peer, expected) in [
                ("192.0.2.7:1", Some(whose)),
                ("[::ffff:192.0.2.7]:1", Some(whose)),
                ("198.51.100.7:1", None),
            ] {
                let mut call = request(&[("x-api-key", text)]);
                let peer = PeerAddress(peer.parse().unwrap());
                call.extensions_mut().insert(peer);
                let answer = service.clone().oneshot(call).await.unwrap();
                let subject = answer.headers().get("x-subject");
                assert_eq!(
                    subject.map(|subject| subject.to_str().unwrap()),
                    expected,
                    "{text} from {peer:?}"
                );
            }
        }
    }
    let mut call = request(&[("x-forwarded-for", "198.51.100.7")]);
    let peer = PeerAddress("192.0.2.7:1".parse().unwrap());
    call.extensions_mut().insert(peer);
    let client = proxied.resolve(&RequestHead::of(&call)).unwrap();
    assert_eq!(client.to_string(), "198.51.100.7");
}

#[tokio::test]
async fn a_rival_in_a_header_of_ones_own_choice_is_seen_in_either_order() {
    let (ring, resolver) = keys();
    let (one, _) = ring.create("one", NewKey::default()).await.unwrap();
    let (other, _) = ring.create("other", NewKey::default()).await.unwrap();
    let issuer = TokenIssuer::hs256(SECRET).build().unwrap();
    let (user, login) = (
        UserId::new("by-token").unwrap(),
        SessionId::new("login-1").unwrap(),
    );
    let token = issuer.issue(&user, &login, []).unwrap();
    let bearer = format!("Bearer {}", token.expose());

    let keys = |header| ApiKeyLayer::new(resolver.clone()).header(HeaderName::from_static(header));
    let tokens = || JwtLayer::new(TokenVerifier::hs256(SECRET).build().unwrap());
    let keys_first = keys("x-acme").or(tokens()).or(keys("x-old"));
    let tokens_first = tokens().or(keys("x-old").or(keys("x-acme")));
    for (lines, taken_for) in [
        (vec![("x-acme", one.expose())], "one"),
        (vec![("x-old", other.expose())], "other"),
        (vec![("authorization", bearer.as_str())], "by-token"),
        (
            vec![("x-old", one.expose()), ("x-acme", one.expose())],
            "one",
        ),
        (
            vec![("x-old", one.expose()), ("x-acme", other.expose())],
            "401",
        ),
        (
            vec![("authorization", &bearer), ("x-acme", one.expose())],
            "401",
        ),
        (
            vec![("authorization", &bearer), ("x-old", "acme_garbage")],
            "401",
        ),
        (
            vec![("x-old", one.expose()), ("x-old", one.expose())],
            "401",
        ),
    ] {
        assert_eq!(ask!(keys_first, &lines), taken_for, "keys first: {lines:?}");
        assert_eq!(
            ask!(tokens_first, &lines),
            taken_for,
            "tokens first: {lines:?}"
        );
    }
}

#[tokio::test]
async fn a_guess_at_a_key_is_counted_and_a_request_without_a_credential_is_none() {
    let keys = StaticKeys::new()
        .add_key("ann", "the-right-key", [])
        .unwrap();
    let by_key = ApiKeyLayer::new(KeyResolver::builder(keys.clone()).build());
    let spared = by_key.clone();
    let attempts = || RateLimitLayer::global(Quota::per_hour(2)).failed_attempts();
    let all = attempts().layer(by_key.clone().layer(service_fn(whoami)));
    for (key, expected) in [
        (None, 401),
        (None, 401),
        (None, 401),
        (Some("a-guess"), 401),
        (Some("the-right-key"), 200),
        (Some("a-guess"), 401),
        (Some("a-guess"), 429),
        (Some("the-right-key"), 429),
        (None, 429),
    ] {
        let line = key.map(|key| ("x-api-key", key));
        let answer = all.clone().oneshot(request(line.as_slice())).await.unwrap();
        assert_eq!(answer.status(), expected, "{key:?}");
    }
    let attempts = attempts().skip(move |head| spared.brings_one_of(&keys, head));
    let others = attempts.layer(by_key.layer(service_fn(whoami)));
    for (key, expected) in [
        ("a-guess", 401),
        ("a-guess", 401),
        ("a-guess", 429),
        ("the-right-key", 200),
    ] {
        let call = request(&[("x-api-key", key)]);
        let answer = others.clone().oneshot(call).await.unwrap();
        assert_eq!(answer.status(), expected, "{key}");
    }
}

/// In whichever place it stands, and among layers whose types it doesn't know.
#[tokio::test]
async fn an_authenticator_of_one_s_own_stands_first() {
    fn before_keys(first: impl Authenticator, keys: KeyResolver) -> impl Authenticator {
        first.or(ApiKeyLayer::new(keys))
    }
    let (ring, keys) = keys();
    let (key, _) = ring.create("ann", NewKey::default()).await.unwrap();
    let by_name = AuthenticateLayer::by_head(|head| {
        let name = head
            .headers
            .get("x-user")
            .map(|name| name.to_str().unwrap());
        Ok(name.map(|name| Principal::builder(name, CredentialKind::Other("ticket")).build()))
    });
    let gate = before_keys(by_name, keys).into_gate();
    assert_eq!(ask!(gate, &[("x-user", "bob")]), "bob");
    assert_eq!(ask!(gate, &[("x-api-key", key.expose())]), "ann");
    assert_eq!(
        ask!(gate, &[("x-user", "bob"), ("x-api-key", "guess")]),
        "bob"
    );
    assert_eq!(ask!(gate, &[]), "401");
    assert_eq!(CredentialKind::Other("ticket").as_str(), "ticket");
}

/// A key in a place of the application's own is judged like any other, its networks too.
#[tokio::test]
async fn a_key_is_read_from_where_the_application_says() {
    let (ring, keys) = keys();
    let (key, _) = ring.create("ann", NewKey::default()).await.unwrap();
    let bound = NewKey {
        networks: vec!["192.0.2.0/24".parse().unwrap()],
        ..NewKey::default()
    };
    let (bound, _) = ring.create("ann", bound).await.unwrap();
    let offered = || {
        ApiKeyLayer::new(keys.clone()).read_by(|head| {
            let offered = head.headers.get("sec-websocket-protocol")?;
            let key = offered.to_str().ok()?.strip_prefix("key.")?;
            Some(key.to_owned())
        })
    };
    let with = |key: &str| format!("key.{key}");
    for (offer, answer) in [
        (with(key.expose()), "ann"),
        (with("acme_guess"), "401"),
        (with(bound.expose()), "403"),
        ("chat".to_owned(), "401"),
    ] {
        let lines = [("sec-websocket-protocol", offer.as_str())];
        assert_eq!(ask!(offered(), &lines), answer, "{offer}");
    }
    assert_eq!(ask!(offered(), &[("x-api-key", key.expose())]), "401");
    let either = offered().or(ApiKeyLayer::new(keys.clone()));
    assert_eq!(ask!(either, &[("x-api-key", key.expose())]), "ann");
    let beside = [
        ("sec-websocket-protocol", "key.acme_guess"),
        ("x-api-key", key.expose()),
    ];
    assert_eq!(ask!(either, &beside), "401", "a bad key is refused");
}

/// What doesn't look like a key of ours is asked about further, whichever layer stands first.
#[tokio::test]
async fn a_bearer_may_be_for_a_rule_of_ones_own() {
    let (_, resolver) = keys();
    let keys = || ApiKeyLayer::new(resolver.clone());
    let known = |head: &RequestHead<'_>| {
        let bearer = head.headers.get("authorization")?.to_str().ok()?;
        let name = bearer.strip_prefix("Bearer opaque-")?;
        Some(Principal::builder(name, CredentialKind::Token).build())
    };
    let rule = || AuthenticateLayer::by_head(move |head| Ok(known(head)));
    let opaque = [("authorization", "Bearer opaque-ann")];
    assert_eq!(ask!(keys().or(rule()), &opaque), "ann");
    assert_eq!(ask!(Authenticator::or(rule(), keys()), &opaque), "ann");
    let other = [("authorization", "Bearer other")];
    assert_eq!(ask!(keys().or(rule()), &other), "401");
}

/// A relayed request must not carry the caller's credential to a provider.
#[tokio::test]
async fn hidden_credentials_reach_no_handler() {
    let (keyring, resolver) = keys();
    let (key, _) = keyring.create("ann", NewKey::default()).await.unwrap();
    let seen = service_fn(async |request: Request<()>| {
        let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        let answer = Response::builder().header("x-seen", names.join(" "));
        Ok::<_, Infallible>(answer.body(String::new()).unwrap())
    });
    let bearer = format!("Bearer {}", key.expose());
    let all = [
        ("x-api-key", key.expose()),
        ("authorization", bearer.as_str()),
        ("accept", "*/*"),
    ];
    let tokens = JwtLayer::new(TokenVerifier::hs256(SECRET).build().unwrap());
    let keys = ApiKeyLayer::new(resolver);
    for (layer, lines, left) in [
        (keys.clone(), &all[..], "x-api-key authorization accept"),
        (keys.clone().hide_credentials(), &all, "accept"),
        (keys.clone().hide_credentials(), &all[1..], "accept"),
    ] {
        let answer = layer.layer(seen).oneshot(request(lines)).await.unwrap();
        assert_eq!(answer.headers()["x-seen"], left);
    }
    // Only what is read: the provider's own credential stays.
    let own = HeaderName::from_static("x-gateway-key");
    let own = keys.clone().hide_credentials().only_in_header(own);
    let lines = [
        ("x-gateway-key", key.expose()),
        ("authorization", "Bearer of-the-provider"),
    ];
    let answer = own.layer(seen).oneshot(request(&lines)).await.unwrap();
    assert_eq!(answer.headers()["x-seen"], "authorization");
    // In an `or`, what either reads, whoever is first.
    for layer in [
        tokens.clone().hide_credentials().or(keys.clone()).shadow(),
        tokens.clone().or(keys.clone().hide_credentials()),
        tokens.or(keys).hide_credentials(),
    ] {
        let answer = layer.layer(seen).oneshot(request(&all)).await.unwrap();
        assert_eq!(answer.headers()["x-seen"], "accept");
    }
}

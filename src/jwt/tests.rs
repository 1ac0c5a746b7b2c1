//! Where tokens are read from, and how attacks are answered.

mod issuers;

use std::{convert::Infallible, str::FromStr, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    domain::principal::Principal,
    login::{Login, Logins, NewUser, Passwords},
    store::{MemoryStore, SessionId, UserId},
    token::TokenIssuer,
};

const SECRET: &[u8] = b"thirty-two bytes or more, please!";

fn issuer() -> TokenIssuer {
    let issuer = TokenIssuer::hs256(SECRET).lifetime(Duration::from_secs(60));
    issuer.build().unwrap()
}

fn token() -> String {
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    let token = issuer().issue(&user, &session, []).unwrap();
    token.expose().to_owned()
}

fn layer() -> JwtLayer {
    JwtLayer::new(issuer().verifier().build().unwrap())
}

/// The status, and the challenge to the client.
async fn answer(layer: &JwtLayer, request: http::request::Builder) -> (u16, String) {
    let hello =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
    let request = request.body(()).unwrap();
    let answer = layer.layer(hello).oneshot(request).await.unwrap();
    let challenge = answer.headers().get("www-authenticate");
    let challenge = challenge.map_or("", |value| value.to_str().unwrap());
    (answer.status().as_u16(), challenge.to_owned())
}

fn bearer(token: &str) -> http::request::Builder {
    Request::builder().header("authorization", format!("Bearer {token}"))
}

#[tokio::test]
async fn a_challenge_has_an_error_code_where_a_credential_was_sent_and_none_where_not() {
    let layer = layer();
    assert_eq!(answer(&layer, bearer(&token())).await.0, 200);
    let (status, challenge) = answer(&layer, Request::builder()).await;
    assert_eq!((status, challenge.as_str()), (401, "Bearer realm=\"api\""));
    let (status, challenge) = answer(&layer, bearer("a.b.c")).await;
    assert_eq!(status, 401);
    assert!(
        challenge.contains(r#"error="invalid_token""#),
        "{challenge}"
    );
    let twice = bearer(&token()).header("authorization", format!("Bearer {}", token()));
    let (status, challenge) = answer(&layer, twice).await;
    assert_eq!(status, 401);
    assert!(
        challenge.contains(r#"error="invalid_token""#),
        "{challenge}"
    );
}

#[tokio::test]
async fn a_cookie_is_taken_from_pages_of_one_s_own_alone() {
    let layer = layer()
        .cookie("session")
        .add_trusted_origin(Origin::from_str("https://app.example.com").unwrap());
    let request = |method: &str| {
        let cookie = format!("a=b; session={}; c=d", token());
        Request::builder()
            .method(method)
            .uri("/x")
            .header("host", "api.example.com")
            .header("cookie", cookie)
    };
    assert_eq!(answer(&layer, request("GET")).await.0, 200);
    assert_eq!(answer(&layer, request("POST")).await.0, 200);
    for (origin, status) in [
        ("https://api.example.com", 200),
        ("https://app.example.com", 200),
        ("https://evil.example.com", 403),
        ("null", 403),
    ] {
        let posted = request("POST").header("origin", origin);
        assert_eq!(answer(&layer, posted).await.0, status, "{origin}");
    }
    let cross = request("DELETE").header("sec-fetch-site", "cross-site");
    assert_eq!(answer(&layer, cross).await.0, 403);
    assert_eq!(
        answer(&layer, bearer(&token())).await.0,
        401,
        "no header is read"
    );
    let twice = request("GET").header("cookie", format!("session={}", token()));
    assert_eq!(answer(&layer, twice).await.0, 401);
    let odd = Request::builder().header("cookie", "session=\"x y\"");
    assert_eq!(answer(&layer, odd).await.0, 401);
}

#[tokio::test]
async fn a_token_may_be_elsewhere() {
    let layer = layer().read_by(|head| {
        let value = head.headers.get("x-id-token")?;
        value.to_str().ok().map(ToOwned::to_owned)
    });
    let there = |token: &str| Request::builder().header("x-id-token", token);
    assert_eq!(answer(&layer, there(&token())).await.0, 200);
    assert_eq!(answer(&layer, there("x")).await.0, 401);
    assert_eq!(answer(&layer, bearer(&token())).await.0, 401);
}

#[expect(clippy::too_many_lines, reason = "it is a table")]
fn attacks(good: &str) -> Vec<(&'static str, String)> {
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three segments");
    };
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let with_header = |json: &str| format!("{}.{claims}.{signature}", encode(json));
    let deep = format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200));
    vec![
        ("no algorithm", with_header(r#"{"alg":"none"}"#)),
        (
            "no algorithm, in other letters",
            with_header(r#"{"alg":"nOnE"}"#),
        ),
        ("an empty signature", format!("{header}.{claims}.")),
        ("two segments", format!("{header}.{claims}")),
        ("four segments", format!("{good}.x")),
        (
            "JSON",
            format!(r#"{{"payload":"{claims}","signature":"{signature}"}}.."#),
        ),
        ("another algorithm", with_header(r#"{"alg":"RS256"}"#)),
        (
            "a key in the header",
            with_header(r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}"#),
        ),
        (
            "a key elsewhere",
            with_header(r#"{"alg":"HS256","jku":"http://127.0.0.1:9/"}"#),
        ),
        (
            "a certificate elsewhere",
            with_header(r#"{"alg":"HS256","x5u":"http://127.0.0.1:9/"}"#),
        ),
        (
            "a path as a name",
            with_header(r#"{"alg":"HS256","kid":"../../dev/null"}"#),
        ),
        (
            "a query as a name",
            with_header(r#"{"alg":"HS256","kid":"' UNION SELECT 1 --"}"#),
        ),
        (
            "a long name",
            with_header(&format!(
                r#"{{"alg":"HS256","kid":"{}"}}"#,
                "k".repeat(2_000)
            )),
        ),
        (
            "what is critical",
            with_header(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#),
        ),
        ("compression", with_header(r#"{"alg":"HS256","zip":"DEF"}"#)),
        (
            "encryption",
            with_header(r#"{"alg":"dir","enc":"A256GCM"}"#),
        ),
        (
            "an algorithm twice",
            with_header(r#"{"alg":"HS256","alg":"HS256"}"#),
        ),
        ("padding", format!("{header}.{claims}.{signature}=")),
        (
            "other claims",
            format!(
                "{header}.{}.{signature}",
                encode(r#"{"sub":"admin","exp":9999999999}"#)
            ),
        ),
        (
            "deep claims",
            format!("{header}.{}.{signature}", encode(&deep)),
        ),
        ("other alphabets", good.replace('.', "%2e")),
        ("nothing", "..".to_owned()),
    ]
}

#[tokio::test]
async fn every_attack_is_401_and_none_is_500() {
    let layer = layer();
    let good = token();
    for (name, attack) in attacks(&good) {
        let (status, challenge) = answer(&layer, bearer(&attack)).await;
        assert_eq!(status, 401, "{name}");
        assert!(challenge.contains(", error="), "{name}: {challenge}");
    }
    let huge = format!("{good}{}", "A".repeat(4 << 20));
    assert_eq!(answer(&layer, bearer(&huge)).await.0, 401);
    assert_eq!(answer(&layer, bearer(&good)).await.0, 200);
}

/// Ann, a viewer, with a login that ends in a minute.
async fn ann() -> (Logins, Login) {
    let store = Arc::new(MemoryStore::new());
    let cheap = Passwords::builder().memory_kib(64).iterations(1).build();
    let logins = Logins::builder(store.clone(), store, issuer())
        .with_passwords(cheap.unwrap())
        .build()
        .unwrap();
    let ann = NewUser::new("ann@example.org", "correct horse");
    let ann = ann.role("viewer").attribute("username", "ann");
    logins.register(ann).await.unwrap();
    let login = logins.login("ann@example.org", "correct horse").await;
    (logins, login.unwrap())
}

/// A token of that login, with other claims.
fn token_of(login: &Login, more: serde_json::Value) -> String {
    let mut claims = serde_json::json!({
        "sub": login.user.id.as_str(), "sid": login.session.as_str(), "exp": 4_000_000_000_u64,
        "roles": ["admin"],
    });
    let serde_json::Value::Object(more) = more else {
        panic!("claims");
    };
    claims.as_object_mut().unwrap().extend(more);
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

async fn caller(layer: &JwtLayer, token: &str) -> Principal {
    let seen = service_fn(async |request: Request<()>| {
        let caller = request.extensions().get::<Principal>().cloned();
        let mut answer = Response::new(String::new());
        answer.extensions_mut().insert(caller.unwrap());
        Ok::<_, Infallible>(answer)
    });
    let request = bearer(token).body(()).unwrap();
    let answer = layer.layer(seen).oneshot(request).await.unwrap();
    answer.extensions().get::<Principal>().unwrap().clone()
}

#[tokio::test]
async fn the_user_is_who_the_login_says_and_the_scopes_are_those_of_the_token() {
    let (logins, login) = ann().await;
    let layer = layer().sessions(logins.resolver().clone());
    // Uncached, cached, and another token of the same login.
    for scope in ["documents chat", "documents chat", "", "chat"] {
        let token = token_of(&login, serde_json::json!({ "scope": scope }));
        let caller = caller(&layer, &token).await;
        let scopes: Vec<_> = scope.split_ascii_whitespace().collect();
        assert_eq!(caller.scopes().collect::<Vec<_>>(), scopes);
        assert_eq!(caller.roles().collect::<Vec<_>>(), ["viewer"]);
    }
}

#[tokio::test]
async fn a_caller_ends_with_the_token_or_the_login_and_the_user_s_attributes_come_first() {
    let (logins, login) = ann().await;
    let verifier = issuer().verifier();
    let verifier = verifier
        .add_attribute_from("tenant", ["org", "id"])
        .add_attribute_from("username", ["name"])
        .build()
        .unwrap();
    let alone = JwtLayer::new(verifier);
    let with_logins = alone.clone().sessions(logins.resolver().clone());
    let open = logins.logins_of(&login.user.id).await.unwrap();
    let end = open[0].expires_at.as_second();
    for (exp, org) in [(end - 20, "acme"), (end + 20, "acme"), (end - 10, "evil")] {
        let more = serde_json::json!({ "exp": exp, "org": { "id": org }, "name": "eve" });
        let token = token_of(&login, more);
        let caller_alone = caller(&alone, &token).await;
        assert_eq!(caller_alone.expires_at().unwrap().as_second(), exp);
        assert_eq!(caller_alone.attribute("username"), Some("eve"));
        for _ in ["cold", "warm"] {
            let caller = caller(&with_logins, &token).await;
            assert_eq!(caller.expires_at().unwrap().as_second(), exp.min(end));
            assert_eq!(caller.tenant(), Some(org));
            assert_eq!(caller.attribute("username"), Some("ann"));
        }
    }
}

/// They are the token's: two of one login may differ.
#[tokio::test]
async fn a_handler_reads_the_claims_that_are_kept_and_no_others() {
    let (logins, login) = ann().await;
    let verifier = issuer().verifier().add_claim("org").add_claim("amr");
    let alone = JwtLayer::new(verifier.roles_from(["groups"]).build().unwrap());
    let with_logins = alone.clone().sessions(logins.resolver().clone());
    for org in ["acme", "evil"] {
        let more = serde_json::json!({ "org": { "id": org }, "groups": ["a"], "dropped": 1 });
        let token = token_of(&login, more);
        for layer in [&alone, &with_logins, &alone, &with_logins] {
            let caller = caller(layer, &token).await;
            assert_eq!(caller.claim("org").unwrap()["id"], org);
            for none in ["amr", "groups", "dropped", "sub", "exp"] {
                assert_eq!(caller.claim(none), None, "{none}");
            }
            let fewer = caller.to_builder().roles([]).build();
            assert_eq!(fewer.claim("org"), caller.claim("org"));
        }
    }
}

#[tokio::test]
async fn what_is_kept_of_a_token_is_bounded() {
    let (_, login) = ann().await;
    let layer = JwtLayer::new(issuer().verifier().add_claim("org").build().unwrap());
    // `{"org":""}` are ten bytes.
    for (name, length, status) in [("org", 4_086, 200), ("org", 4_087, 401), ("x", 4_087, 200)] {
        let mut more = serde_json::Map::new();
        more.insert(name.to_owned(), "a".repeat(length).into());
        let token = token_of(&login, more.into());
        assert_eq!(answer(&layer, bearer(&token)).await.0, status);
    }
}

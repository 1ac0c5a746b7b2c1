//! Sessions of a web application in front of a service, alone and beside keys.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "it is a test")]

use std::convert::Infallible;

use tower::{Layer, ServiceExt, service_fn};

use tollgate::{
    ApiKeyLayer, Principal, SessionCookieLayer,
    key::KeyFormat,
    keyring::{KeyResolver, Keyring, NewKey},
    store::MemoryStore,
    token::SessionCookieVerifier,
};

const WHOLE: &str = include_str!("../src/token/cookie/vectors/whole.txt");
const CHUNKS: &str = include_str!("../src/token/cookie/vectors/chunks.txt");

fn layer() -> SessionCookieLayer {
    let verifier = SessionCookieVerifier::next_auth(b"a secret made for the tests of this crate");
    SessionCookieLayer::new(verifier.build().unwrap())
}

async fn ask<L>(layer: &L, method: &str, lines: &[(&str, &str)]) -> (u16, String)
where
    L: Layer<tower::util::BoxCloneService<http::Request<()>, http::Response<String>, Infallible>>,
    L::Service: tower_service::Service<http::Request<()>, Error = Infallible>,
    <L::Service as tower_service::Service<http::Request<()>>>::Response: Status,
{
    let whoami = service_fn(async |request: http::Request<()>| {
        let principal = request.extensions().get::<Principal>().unwrap();
        let mut answer = http::Response::new(String::new());
        let subject = principal.subject().parse().unwrap();
        answer.headers_mut().insert("x-subject", subject);
        Ok(answer)
    });
    let mut request = http::Request::builder().method(method).uri("/");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let service = layer.layer(tower::util::BoxCloneService::new(whoami));
    let answer = service.oneshot(request.body(()).unwrap()).await.unwrap();
    answer.read()
}

trait Status {
    fn read(&self) -> (u16, String);
}

impl<B> Status for http::Response<B> {
    fn read(&self) -> (u16, String) {
        let subject = self.headers().get("x-subject");
        let subject = subject.map_or("", |subject| subject.to_str().unwrap());
        (self.status().as_u16(), subject.to_owned())
    }
}

fn cookie(name: &str) -> String {
    format!("theme=dark; {name}={WHOLE}")
}

fn chunks(order: [usize; 2], numbers: [usize; 2]) -> String {
    let parts: Vec<_> = CHUNKS.split('\n').collect();
    let part = |at: usize| {
        format!(
            "next-auth.session-token.{}={}",
            numbers[at], parts[order[at]]
        )
    };
    format!("{}; {}", part(0), part(1))
}

#[tokio::test]
async fn both_names_and_pieces_are_taken() {
    let known = (200, "user-7".to_owned());
    for name in [
        "next-auth.session-token",
        "__Secure-next-auth.session-token",
    ] {
        assert_eq!(
            ask(&layer(), "GET", &[("cookie", &cookie(name))]).await,
            known
        );
    }
    for whole in [chunks([0, 1], [0, 1]), chunks([1, 0], [1, 0])] {
        assert_eq!(ask(&layer(), "GET", &[("cookie", &whole)]).await, known);
    }
    let named = layer().name("sid");
    assert_eq!(
        ask(&named, "GET", &[("cookie", &cookie("sid"))]).await,
        known
    );
    let other = cookie("next-auth.session-token");
    assert_eq!(ask(&named, "GET", &[("cookie", &other)]).await.0, 401);
    let both = named.add_name("next-auth.session-token");
    assert_eq!(ask(&both, "GET", &[("cookie", &other)]).await, known);
    let stale = format!("{other}; sid=a.b.c.d.e");
    assert_eq!(ask(&both, "GET", &[("cookie", &stale)]).await.0, 401);
}

#[tokio::test]
async fn of_two_cookies_the_secure_one_is_judged_alone() {
    let stale = "next-auth.session-token=a.b.c.d.e";
    let good = cookie("__Secure-next-auth.session-token");
    let both = format!("{stale}; {good}");
    assert_eq!(ask(&layer(), "GET", &[("cookie", &both)]).await.0, 200);
    let swapped = format!("__Secure-{stale}; {}", cookie("next-auth.session-token"));
    assert_eq!(ask(&layer(), "GET", &[("cookie", &swapped)]).await.0, 401);
    assert_eq!(
        ask(&layer(), "GET", &[("cookie", "next-auth.session-token=")])
            .await
            .0,
        401
    );
}

#[tokio::test]
async fn the_applications_url_chooses_the_cookie_and_the_origin() {
    let of_url = |url: &str| layer().name("sid").application_url(url).unwrap();
    let (plain, secure) = (
        "next-auth.session-token",
        "__Secure-next-auth.session-token",
    );
    for (url, own, other, alone) in [
        ("http://localhost:3000", plain, secure, 200),
        // A network attacker can set it, and the application doesn't look at it.
        ("HTTPS://a.example/app/api/auth", secure, plain, 401),
    ] {
        let good = format!("{}; {other}=a.b.c.d.e", cookie(own));
        let stale = format!("{}; {own}=a.b.c.d.e", cookie(other));
        for (sent, status) in [
            (good, 200),
            (stale, 401),
            (cookie(other), alone),
            (format!("{own}=; {}", cookie(other)), alone),
            (cookie("sid"), 401),
        ] {
            let answer = ask(&of_url(url), "GET", &[("cookie", &sent)]).await;
            assert_eq!(answer.0, status, "{url}: {sent}");
        }
    }
    let whole = cookie(secure);
    let from = |origin| {
        [
            ("cookie", whole.as_str()),
            ("host", "10.0.0.7"),
            ("origin", origin),
        ]
    };
    let here = of_url("https://a.example/app");
    assert_eq!(ask(&here, "POST", &from("https://a.example")).await.0, 200);
    assert_eq!(ask(&here, "POST", &from("http://a.example")).await.0, 403);
    for none in ["a.example", "ftp://a.example", "https://", ""] {
        assert!(layer().application_url(none).is_err(), "{none}");
    }
}

#[tokio::test]
async fn what_is_no_good_session_is_refused() {
    let whole = cookie("next-auth.session-token");
    for lines in [
        vec![],
        vec![("cookie", "theme=dark")],
        vec![("cookie", whole.as_str()), ("cookie", whole.as_str())],
        vec![("cookie", &chunks([1, 0], [0, 1]))],
        vec![("cookie", &chunks([0, 1], [0, 2]))],
        vec![("cookie", &whole[..whole.len() - 1])],
    ] {
        assert_eq!(ask(&layer(), "GET", &lines).await.0, 401, "{lines:?}");
    }
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing() {
    let whole = cookie("next-auth.session-token");
    let from = |origin| {
        [
            ("cookie", whole.as_str()),
            ("host", "a.example"),
            ("origin", origin),
        ]
    };
    let foreign = from("https://evil.example");
    assert_eq!(ask(&layer(), "POST", &foreign).await.0, 403);
    assert_eq!(ask(&layer(), "GET", &foreign).await.0, 200);
    assert_eq!(
        ask(&layer(), "POST", &from("https://a.example")).await.0,
        200
    );
    let trusting = layer().add_trusted_origin("https://evil.example".parse().unwrap());
    assert_eq!(ask(&trusting, "POST", &foreign).await.0, 200);
    assert_eq!(
        ask(&layer().dangerous_any_origin(), "POST", &foreign)
            .await
            .0,
        200
    );
    assert_eq!(
        ask(&layer(), "POST", &foreign[1..]).await.0,
        401,
        "without a cookie it is nobody's"
    );
}

#[tokio::test]
async fn a_session_isnt_taken_beside_two_lines_of_a_key_or_a_token() {
    let whole = cookie("next-auth.session-token");
    let beside = |lines: &[(&'static str, &'static str)]| {
        let mut all = vec![("cookie", whole.as_str())];
        all.extend_from_slice(lines);
        all
    };
    let keys = KeyResolver::builder(MemoryStore::new()).build();
    let alone = layer();
    let header = http::HeaderName::from_static("x-other");
    let before_keys = layer().or(ApiKeyLayer::new(keys.clone()));
    let before_others = layer().or(ApiKeyLayer::new(keys).header(header));
    for (name, everywhere) in [
        ("x-api-key", true),
        ("authorization", true),
        ("x-other", false),
    ] {
        let (one, two) = (
            beside(&[(name, "k1")]),
            beside(&[(name, "k1"), (name, "k1")]),
        );
        let status = async |lines: Vec<(&'static str, &str)>| {
            [
                ask(&alone, "GET", &lines).await.0,
                ask(&before_keys, "GET", &lines).await.0,
                ask(&before_others, "GET", &lines).await.0,
            ]
        };
        assert_eq!(status(one).await, [200; 3], "one {name}");
        let here = if everywhere { 401 } else { 200 };
        assert_eq!(status(two).await, [here, here, 401], "two of {name}");
    }
}

#[tokio::test]
async fn a_key_is_taken_where_no_good_cookie_is() {
    let (store, format) = (
        MemoryStore::new(),
        KeyFormat::builder("acme").build().unwrap(),
    );
    let keys = KeyResolver::builder(store.clone())
        .add_format(format.clone())
        .build();
    let ring = Keyring::new(store, format, keys.clone());
    let (key, _) = ring.create("owner", NewKey::default()).await.unwrap();
    let (whole, bad) = (
        cookie("next-auth.session-token"),
        "next-auth.session-token=a.b",
    );
    let key = ("x-api-key", key.expose());
    let either = layer().or(ApiKeyLayer::new(keys));
    for (lines, answer) in [
        (vec![key], (200, "owner")),
        (vec![("cookie", whole.as_str())], (200, "user-7")),
        (vec![key, ("cookie", whole.as_str())], (200, "user-7")),
        (
            vec![("x-api-key", "acme_guess"), ("cookie", whole.as_str())],
            (200, "user-7"),
        ),
        (vec![key, ("cookie", bad)], (200, "owner")),
        (
            vec![("x-api-key", "acme_guess"), ("cookie", bad)],
            (401, ""),
        ),
        (vec![("cookie", bad)], (401, "")),
        (vec![], (401, "")),
    ] {
        let (status, subject) = ask(&either, "POST", &lines).await;
        assert_eq!((status, subject.as_str()), answer, "{lines:?}");
    }
    let alone = layer().exclusive();
    assert_eq!(ask(&alone, "POST", &[("cookie", &whole)]).await.0, 200);
    for other in [key, ("x-api-key", ""), ("authorization", "Bearer x")] {
        assert_eq!(
            ask(&alone, "POST", &[("cookie", &whole), other]).await.0,
            401
        );
        assert_eq!(ask(&alone, "POST", &[other]).await.0, 401);
    }
}

/// The name of the cookie is a part of its key.
#[tokio::test]
async fn a_session_of_auth_js_is_taken_under_the_name_that_it_was_made_for() {
    const PLAIN: &str = include_str!("../src/token/cookie/vectors/auth_js/plain.txt");
    const SECURE: &str = include_str!("../src/token/cookie/vectors/auth_js/secure.txt");
    let verifier = SessionCookieVerifier::auth_js(b"a secret made for the tests of this crate");
    let layer = SessionCookieLayer::new(verifier.build().unwrap());
    let (half, rest) = PLAIN.split_at(200);
    for good in [
        format!("authjs.session-token={PLAIN}"),
        format!("__Secure-authjs.session-token={SECURE}"),
        format!("authjs.session-token.1={rest}; authjs.session-token.0={half}"),
        format!("authjs.session-token=x; __Secure-authjs.session-token={SECURE}"),
    ] {
        let answer = ask(&layer, "GET", &[("cookie", &good)]).await;
        assert_eq!(answer, (200, "user-7".into()), "{good}");
    }
    for bad in [
        format!("authjs.session-token={SECURE}"),
        format!("__Secure-authjs.session-token={PLAIN}; authjs.session-token={PLAIN}"),
        format!("next-auth.session-token={PLAIN}"),
        cookie("next-auth.session-token"),
    ] {
        let (status, _) = ask(&layer, "GET", &[("cookie", &bad)]).await;
        assert_eq!(status, 401, "{bad}");
    }
    let renamed = layer.name("my-session");
    let (status, _) = ask(
        &renamed,
        "GET",
        &[("cookie", &format!("my-session={PLAIN}"))],
    )
    .await;
    assert_eq!(status, 401, "it was made for another name");
}

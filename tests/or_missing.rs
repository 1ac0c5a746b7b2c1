//! What a request without a credential is told, where several would do.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::convert::Infallible;

use http::{HeaderName, Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use tollgate::{
    ApiKeyLayer, AuthenticateLayer, DenialFormat, Denials, JwtLayer, SessionCookieLayer, Tollgate,
    denial::DenialKind,
    keyring::KeyResolver,
    store::StaticKeys,
    token::{SessionCookieVerifier, TokenVerifier},
};
use tower::{Layer, ServiceExt, service_fn};

const KEY_OR_TOKEN: &str =
    "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key or token";

fn keys() -> ApiKeyLayer {
    ApiKeyLayer::new(KeyResolver::builder(StaticKeys::new()).build())
}

fn keys_in(name: &'static str) -> ApiKeyLayer {
    keys().header(HeaderName::from_static(name))
}

fn tokens() -> JwtLayer {
    let secret = b"thirty-two bytes or more, please!";
    JwtLayer::new(TokenVerifier::hs256(secret).build().unwrap())
}

fn sessions() -> SessionCookieLayer {
    let verifier = SessionCookieVerifier::next_auth(b"a secret made for the tests of this crate");
    SessionCookieLayer::new(verifier.build().unwrap())
}

/// The title and the detail of the refusal of a request without a credential; it has one challenge.
macro_rules! told {
    ($layer:expr) => {{
        let never = service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(
                http_body_util::Full::<bytes::Bytes>::default(),
            ))
        });
        let answer = $layer.layer(never).oneshot(Request::new(())).await.unwrap();
        assert_eq!(answer.status(), 401);
        let challenges = answer.headers().get_all("www-authenticate").iter();
        let challenges: Vec<_> = challenges
            .map(|one| one.to_str().unwrap().to_owned())
            .collect();
        assert_eq!(challenges, [r#"Bearer realm="api""#]);
        let body = answer.into_body().collect().await.unwrap();
        let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap();
        assert_eq!(body["code"], "credential_missing");
        let text = |member: &str| body[member].as_str().unwrap().to_owned();
        (text("title"), text("detail"))
    }};
}

#[tokio::test]
async fn all_that_would_do_is_named_in_any_order_and_nothing_twice() {
    let either = ("Missing credentials".to_owned(), KEY_OR_TOKEN.to_owned());
    assert_eq!(told!(keys().or(tokens())), either);
    assert_eq!(told!(tokens().or(keys())), either);
    assert_eq!(told!(tokens().or(keys()).or(tokens())), either);
    assert_eq!(told!(keys().or(tokens().or(keys()))), either);
    let gate = Tollgate::builder().authenticate(keys().or(tokens()));
    assert_eq!(told!(gate.build().unwrap()), either);

    let of_three = "Expected 'x-acme', 'X-API-Key', 'x-old' or 'Authorization: Bearer' header with \
                    access key or token";
    let (_, detail) = told!(
        keys_in("x-acme")
            .or(keys())
            .or(tokens().or(keys_in("x-old")))
    );
    assert_eq!(detail, of_three);
    let (_, detail) = told!(sessions().or(tokens()).or(keys()));
    assert_eq!(detail, format!("{KEY_OR_TOKEN}, or a session"));
    let (_, detail) = told!(keys().or(AuthenticateLayer::by_head(|_| Ok(None))));
    let (expected, _) = KEY_OR_TOKEN.split_once(" or token").unwrap();
    assert_eq!(detail, format!("{expected}, or another credential"));
}

#[tokio::test]
async fn one_kind_is_told_as_by_itself() {
    let key = told!(keys());
    assert_eq!(key.0, "Missing API key");
    assert_eq!(told!(keys().or(keys())), key);
    let (title, detail) = told!(keys().or(keys_in("x-acme")));
    assert_eq!(title, "Missing API key");
    let expected =
        "Expected 'X-API-Key', 'x-acme' or 'Authorization: Bearer' header with access key";
    assert_eq!(detail, expected);
    let in_cookie = (
        "Missing token".into(),
        "The request carries no token".into(),
    );
    assert_eq!(told!(tokens().cookie("token")), in_cookie);
}

#[tokio::test]
async fn a_service_s_own_text_is_said_instead() {
    let own =
        || Denials::new(DenialFormat::Problem).add_message(DenialKind::CredentialMissing, "No");
    for (_, detail) in [
        told!(keys().or(tokens()).denials(own())),
        told!(keys_in("x-acme").or(tokens()).denials(own())),
        told!(tokens().or(keys_in("x-acme")).denials(own())),
    ] {
        assert_eq!(detail, "No");
    }
}

#[tokio::test]
async fn in_grpc_too() {
    let never =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
    let call = Request::builder().version(http::Version::HTTP_2);
    let call = call.header("content-type", "application/grpc");
    let answer = keys().or(tokens()).layer(never);
    let answer = answer.oneshot(call.body(()).unwrap()).await.unwrap();
    assert_eq!(answer.headers()["grpc-message"], KEY_OR_TOKEN);
    assert_eq!(answer.headers()["grpc-status"], "16");
}

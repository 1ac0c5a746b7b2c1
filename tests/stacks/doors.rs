//! Several credentials on one request.

use std::convert::Infallible;

use http::{HeaderName, Request, Response};
use tollgate::{
    ApiKeyLayer, JwtLayer, Principal,
    keyring::KeyResolver,
    store::{SessionId, StaticKeys, UserId},
    token::{TokenIssuer, TokenVerifier},
};
use tower::{Layer, ServiceExt, service_fn};

const APP_KEY: &str = "3f6e1c0a9b7d4e52-of-32-or-more";
const SECRET: &[u8] = b"thirty-two bytes or more, please!";
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

fn keys() -> ApiKeyLayer {
    let keys = StaticKeys::new().add_key("app", APP_KEY, ["app"]).unwrap();
    ApiKeyLayer::new(KeyResolver::builder(keys).build())
}

fn tokens() -> JwtLayer {
    JwtLayer::new(TokenVerifier::hs256(SECRET).build().unwrap())
}

fn token() -> String {
    let issuer = TokenIssuer::hs256(SECRET).build().unwrap();
    let (user, login) = (
        UserId::new("ann").unwrap(),
        SessionId::new("login-1").unwrap(),
    );
    let token = issuer.issue(&user, &login, ["viewer"]).unwrap();
    format!("Bearer {}", token.expose())
}

fn with(lines: &[(&str, &str)]) -> Request<()> {
    let request = lines
        .iter()
        .fold(Request::builder(), |request, (name, value)| {
            request.header(*name, *value)
        });
    request.body(()).unwrap()
}

async fn whoami(request: Request<()>) -> Result<Response<String>, Infallible> {
    let caller = request.extensions().get::<Principal>();
    let name = caller.map_or("nobody", Principal::subject);
    Ok(Response::new(name.to_owned()))
}

#[tokio::test]
async fn an_application_and_its_user_may_both_be_required() {
    let app = keys().only_in_header(X_API_KEY);
    let service = app.layer(tokens().only_bearer().layer(service_fn(whoami)));
    let token = token();
    for (lines, status, caller) in [
        (
            vec![("x-api-key", APP_KEY), ("authorization", &token)],
            200,
            "ann",
        ),
        (vec![("authorization", &token)], 401, ""),
        (vec![("x-api-key", APP_KEY)], 401, ""),
        (
            vec![("authorization", APP_KEY), ("x-api-key", &token)],
            401,
            "",
        ),
    ] {
        let answer = service.clone().oneshot(with(&lines)).await.unwrap();
        assert_eq!(answer.status(), status, "{lines:?}");
        if status == 200 {
            let body = http_body_util::BodyExt::collect(answer.into_body()).await;
            assert_eq!(body.unwrap().to_bytes(), caller);
        }
    }
}

#[tokio::test]
async fn in_one_line_a_key_and_a_token_are_rivals_wherever_they_may_stand() {
    let token = token();
    let app = || keys().only_in_header(X_API_KEY);
    let asked = [
        app()
            .or(tokens().only_bearer())
            .layer(service_fn(whoami))
            .boxed_clone(),
        tokens()
            .only_bearer()
            .or(app())
            .layer(service_fn(whoami))
            .boxed_clone(),
        app().or(tokens()).layer(service_fn(whoami)).boxed_clone(),
    ];
    for service in asked {
        for (lines, status) in [
            (vec![("x-api-key", APP_KEY)], 200),
            (vec![("authorization", token.as_str())], 200),
            (vec![("x-api-key", APP_KEY), ("authorization", &token)], 401),
        ] {
            let answer = service.clone().oneshot(with(&lines)).await.unwrap();
            assert_eq!(answer.status(), status, "{lines:?}");
        }
    }
}

#[tokio::test]
async fn without_being_asked_to_no_layer_overlooks_a_rival() {
    let both = || {
        with(&[
            ("x-api-key", APP_KEY),
            ("authorization", "Bearer sk-of-a-provider"),
        ])
    };
    let strict = keys().layer(service_fn(whoami));
    assert_eq!(strict.oneshot(both()).await.unwrap().status(), 401);
    let named = keys().header(X_API_KEY).layer(service_fn(whoami));
    assert_eq!(named.oneshot(both()).await.unwrap().status(), 401);
    let alone = keys().only_in_header(X_API_KEY).layer(service_fn(whoami));
    assert_eq!(alone.oneshot(both()).await.unwrap().status(), 200);
}

/// A layer that leaves a token to another issuer's doesn't leave it to the keys between them.
#[tokio::test]
async fn two_issuers_may_stand_on_either_side_of_keys() {
    let other = TokenIssuer::hs256(b"their secret, of thirty-two bytes").issuer("them");
    let other = other.build().unwrap();
    let own = TokenIssuer::hs256(SECRET).issuer("us").build().unwrap();
    let [of_own, of_other] = [&own, &other].map(|issuer| {
        let (user, login) = (UserId::new("ann").unwrap(), SessionId::new("s").unwrap());
        let token = issuer.issue(&user, &login, []).unwrap();
        format!("Bearer {}", token.expose())
    });
    let layer = |issuer: &TokenIssuer| JwtLayer::new(issuer.verifier().build().unwrap());
    let chain = layer(&own).or(keys()).or(layer(&other));
    let nested = keys().or(layer(&other).or(layer(&own)));
    for service in [
        chain.layer(service_fn(whoami)).boxed_clone(),
        nested.layer(service_fn(whoami)).boxed_clone(),
    ] {
        for (line, status) in [
            (Some(("authorization", of_own.as_str())), 200),
            (Some(("authorization", of_other.as_str())), 200),
            (Some(("x-api-key", APP_KEY)), 200),
            (None, 401),
        ] {
            let answer = service
                .clone()
                .oneshot(with(line.as_slice()))
                .await
                .unwrap();
            assert_eq!(answer.status(), status, "{line:?}");
        }
        let both = with(&[("x-api-key", APP_KEY), ("authorization", &of_other)]);
        assert_eq!(service.oneshot(both).await.unwrap().status(), 401);
    }
}

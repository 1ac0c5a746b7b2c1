//! A layer whose keys lie at an address: the first token waits for them, and no failing address makes a token bad.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use http::{Request, Response};
use tokio::net::TcpListener;
use tollgate::{
    JwtLayer,
    clock::ManualClock,
    store::{SessionId, UserId},
    token::{JwksUrl, SigningKey, TokenAlgorithm, TokenIssuer, TokenVerifier},
};
use tower::{Layer, ServiceExt, service_fn};

/// What the address answers: keys, or nothing but an error.
type Said = Arc<Mutex<Option<String>>>;

async fn address(said: Said) -> String {
    let answer = move || {
        let said = said.lock().unwrap().clone();
        async move { said.ok_or(StatusCode::INTERNAL_SERVER_ERROR) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let app = Router::new().route("/keys", get(answer));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

fn issuer(clock: &Arc<ManualClock>) -> TokenIssuer {
    let key = SigningKey::generate(TokenAlgorithm::EdDsa).unwrap();
    let issuer = TokenIssuer::with_key(key).with_clock(clock.clone());
    issuer.build().unwrap()
}

fn token(issuer: &TokenIssuer) -> String {
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    let token = issuer.issue(&user, &session, []).unwrap();
    token.expose().to_owned()
}

#[tokio::test]
async fn a_layer_waits_for_the_keys_of_the_first_token() {
    let (said, clock) = (Said::default(), Arc::new(ManualClock::default()));
    let (ours, strange, stranger) = (issuer(&clock), issuer(&clock), issuer(&clock));
    *said.lock().unwrap() = Some(ours.jwks());
    let keys = JwksUrl::at(&address(said.clone()).await)
        .dangerous_allow_http()
        .dangerous_allow_private_addresses()
        .with_clock(clock.clone())
        .build()
        .unwrap();
    let verifier = TokenVerifier::builder(keys)
        .with_clock(clock.clone())
        .build()
        .unwrap();
    let hello =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
    let service = JwtLayer::new(verifier).layer(hello);
    let status = async |issuer: &TokenIssuer| {
        let bearer = format!("Bearer {}", token(issuer));
        let request = Request::builder().header("authorization", bearer);
        let answer = service.clone().oneshot(request.body(()).unwrap()).await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(status(&ours).await, 200);
    assert_eq!(status(&strange).await, 401);
    *said.lock().unwrap() = None;
    clock.advance(Duration::from_secs(30));
    assert_eq!(status(&stranger).await, 503, "nobody can tell whose it is");
    assert_eq!(status(&ours).await, 200);
}

use axum::{
    Router,
    body::Body,
    http::Request,
    middleware::{Next, from_fn},
    routing::get,
};
use http::Response;
use tower::{Layer, Service, ServiceExt};

use super::*;
use crate::wire::DenialFormat;

async fn ask<S, B>(service: S, method: &str, path: &str) -> (u16, Option<String>)
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
{
    let request = Request::builder().method(method).uri(path);
    let request = request.body(Body::empty()).unwrap();
    let answer = service.oneshot(request).await.unwrap();
    let methods = answer.headers().get(ALLOW);
    let methods = methods.map(|methods| methods.to_str().unwrap().to_owned());
    (answer.status().as_u16(), methods)
}

/// A router tells which methods a route has, whoever answered; a stranger would learn which routes there are.
#[tokio::test]
async fn what_a_route_allows_is_told_with_a_405_alone() {
    let routes = || {
        let options = async || ([(ALLOW, "GET, PURGE")], "of its own");
        Router::new()
            .route("/secret", get("you know me").options(options))
            .fallback(async || StatusCode::NOT_FOUND)
    };
    let house = DenialsLayer::new(DenialFormat::Detail).cover_plain_errors();
    let gate = from_fn(async |_: Request<Body>, _: Next| StatusCode::UNAUTHORIZED);
    let within = routes().layer(gate).layer(house.clone());
    let (status, methods) = ask(within.clone(), "PUT", "/secret").await;
    assert!(status == 401 && methods.is_some(), "the router comes last");
    for path in ["/secret", "/nothing"] {
        let answer = ask(AllowLayer::new().layer(within.clone()), "PUT", path).await;
        assert_eq!(answer, (401, None));
        let answer = ask(house.layer(within.clone()), "PUT", path).await;
        assert_eq!(answer, (401, None));
    }
    let busy = from_fn(async |_: Request<Body>, _: Next| StatusCode::TOO_MANY_REQUESTS);
    let plain = Router::new().route("/plain", get("hello").layer(busy));
    let answer = ask(house.layer(plain.clone()), "PUT", "/plain").await;
    assert_eq!(answer, (429, None));
    let answer = ask(AllowLayer::new().layer(plain), "PUT", "/plain").await;
    assert_eq!(answer, (429, None));

    let (refused, told) = ("GET,HEAD,OPTIONS".to_owned(), "GET, PURGE".to_owned());
    for (method, status, methods) in [("PUT", 405, refused), ("OPTIONS", 200, told)] {
        let expected = (status, Some(methods));
        let answer = ask(house.layer(routes()), method, "/secret").await;
        assert_eq!(answer, expected);
        let answer = ask(AllowLayer::new().layer(routes()), method, "/secret").await;
        assert_eq!(answer, expected);
    }
}

use axum::{
    Router,
    body::Body,
    http::Request,
    middleware::{Next, from_fn},
    response::IntoResponse,
    routing::get,
};
use http::{HeaderValue, Response, header::ALLOW};
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

/// A router reveals a route's methods whoever answers, so a stranger could learn which routes
/// exist.
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

#[tokio::test]
async fn a_plain_error_s_own_time_to_come_again_stays() {
    let house = DenialsLayer::new(DenialFormat::OpenAi).cover_plain_errors();
    let told = async |after: Option<&'static str>| {
        let away = move || async move {
            let mut answer = StatusCode::SERVICE_UNAVAILABLE.into_response();
            if let Some(after) = after {
                let after = HeaderValue::from_static(after);
                answer.headers_mut().insert(RETRY_AFTER, after);
            }
            answer
        };
        let routes = Router::new().route("/", get(away));
        let request = Request::get("/").body(Body::empty()).unwrap();
        let answer = house.layer(routes).oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 503);
        let field = |name| Some(answer.headers().get(name)?.to_str().unwrap().to_owned());
        (field("retry-after"), field("retry-after-ms"))
    };
    let seconds = |after: &str| (Some(after.to_owned()), Some(format!("{after}000")));
    assert_eq!(told(None).await, seconds("1"));
    assert_eq!(told(Some("120")).await, seconds("120"));
    let date = "Fri, 27 Nov 2026 12:00:00 GMT";
    assert_eq!(told(Some(date)).await, (Some(date.to_owned()), None));
}

#[cfg(feature = "tonic")]
mod grpc {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{HeaderMap, Request, Response};
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use tonic::Status;
    use tonic_types::StatusExt;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::domain::denial::DenialKind;

    /// The trailers of a call that ended with this status after its first message.
    async fn ended(layer: DenialsLayer, how: &Status) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        how.add_header(&mut trailers).unwrap();
        let service = layer.layer(service_fn(|_: Request<()>| {
            let frames = [
                Frame::data(Bytes::from_static(b"\0\0\0\0\0")),
                Frame::trailers(trailers.clone()),
            ];
            let frames = frames.map(Ok::<_, Infallible>);
            let answer = Response::builder().header("content-type", "application/grpc");
            let answer = answer.body(StreamBody::new(futures_util::stream::iter(frames)));
            std::future::ready(Ok::<_, Infallible>(answer.unwrap()))
        }));
        let request = Request::post("/demo.Echo/Say").version(http::Version::HTTP_2);
        let request = request.header("content-type", "application/grpc");
        let answer = service.oneshot(request.body(()).unwrap()).await.unwrap();
        assert!(!answer.headers().contains_key("grpc-status"));
        let body = answer.into_body().collect().await.unwrap();
        body.trailers().unwrap().clone()
    }

    fn reason(trailers: &HeaderMap) -> Option<String> {
        let status = Status::from_header_map(trailers).unwrap();
        let details = status.get_error_details();
        details.error_info().map(|info| info.reason.clone())
    }

    #[tokio::test]
    async fn a_call_that_fails_after_its_first_message_says_why_in_its_trailers() {
        let house = || DenialsLayer::new(DenialFormat::Problem).cover_plain_errors();
        let failed = Status::data_loss("half of it is gone");
        let trailers = ended(house(), &failed).await;
        assert_eq!(reason(&trailers).as_deref(), Some("DATA_LOSS"));
        assert_eq!(
            (&trailers["grpc-status"], trailers.len()),
            (&"15".parse().unwrap(), 3)
        );
        // Whoever said it already is left alone, and who didn't fail.
        let refused = Status::from(Denial::new(DenialKind::NotPermitted));
        let trailers = ended(house(), &refused).await;
        assert_eq!(reason(&trailers).as_deref(), Some("NOT_PERMITTED"));
        let trailers = ended(house(), &Status::ok("")).await;
        assert!(!trailers.contains_key("grpc-status-details-bin"));
        let plain = ended(DenialsLayer::new(DenialFormat::Problem), &failed).await;
        assert_eq!(reason(&plain), None);
    }
}

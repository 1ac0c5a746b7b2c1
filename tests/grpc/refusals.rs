//! Refusals on the wire, and what only a failing store brings about.

use std::convert::Infallible;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tollgate::{
    ApiKeyLayer, CredentialKind, Price, PriceTable, Principal, SpendingLimitLayer,
    denial::{Denial, DenialKind},
    key::{KeyDigest, KeyRecord},
    keyring::KeyResolver,
    money::Money,
    store::{AccountId, KeyLookup, Ledger, MemoryStore, StoreError, StoreErrorKind, StoreFuture},
    usage::Credit,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::{Layer, ServiceExt, service_fn};

use super::support::Demo;

const PATH: &str = "/tollgate.demo.v1.Echo/Say";

fn call() -> Request<()> {
    let request = Request::post(PATH).version(http::Version::HTTP_2);
    let request = request.header("content-type", "application/grpc");
    request.body(()).unwrap()
}

#[tokio::test]
async fn a_refusal_is_one_block_of_headers() {
    let example = Demo::of("grpc");
    let server = example.start(&[]).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http::<Full<Bytes>>();
    for path in [
        PATH,
        "/tollgate.demo.v1.Echo/Shout",
        "/no.such.Service/Call",
    ] {
        let request = Request::post(format!("http://{}{path}", server.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(&[0; 5])))
            .unwrap();
        let answer = client.request(request).await.unwrap();
        assert_eq!(
            (answer.status(), answer.version()),
            (http::StatusCode::OK, http::Version::HTTP_2)
        );
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        assert_eq!(answer.headers()["grpc-status"], "16");
        let details = answer.headers()["grpc-status-details-bin"]
            .to_str()
            .unwrap();
        assert!(!details.contains('='), "no padding");
        let body = answer.into_body();
        assert!(hyper::body::Body::is_end_stream(&body), "trailers-only");
        assert!(body.collect().await.unwrap().trailers().is_none());
    }
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_method_that_has_no_price_is_unimplemented() {
    let example = Demo::of("grpc");
    let key = example.key("admin").await;
    let server = example.start(&[]).await;
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(super::say(""));
    request
        .metadata_mut()
        .insert("x-api-key", key.parse().unwrap());
    let path = http::uri::PathAndQuery::from_static("/tollgate.demo.v1.Echo/Shout");
    let codec = tonic_prost::ProstCodec::<super::pb::demo::SayRequest, super::pb::demo::SayResponse>::default();
    let status = client.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(super::reason(&status), "NOT_FOUND");
    server.stop().await.without_panic();
}

#[derive(Debug)]
struct Gone;

impl KeyLookup for Gone {
    fn find(&self, _: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        StoreFuture::ready(Err(StoreError::new(StoreErrorKind::Unavailable, "gone")))
    }
}

#[tokio::test]
async fn a_store_that_is_gone_is_unavailable() {
    let keys = KeyResolver::builder(Gone).build();
    let service = ApiKeyLayer::new(keys).layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
    }));
    let mut request = call();
    request
        .headers_mut()
        .insert("x-api-key", "some-key".parse().unwrap());
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let status = Status::from_header_map(answer.headers()).unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(super::reason(&status), "UNAVAILABLE");
}

/// An answer of 200 whose gRPC status, in its head or its trailers, is a failure.
#[tokio::test]
async fn a_status_other_than_ok_is_not_charged() {
    for (status, charged) in [("0", 7), ("13", 0)] {
        for in_trailers in [false, true] {
            let ledger = MemoryStore::new();
            let account = AccountId::new("me").unwrap();
            let credit = Credit {
                account: account.clone(),
                amount: Money::from_nanos(10),
                reference: "first".into(),
            };
            ledger.credit(credit).await.unwrap();
            let price = Price::flat(Money::from_nanos(7));
            let prices = PriceTable::new().route("POST", PATH, price).unwrap();
            let handler = service_fn(move |_: Request<()>| {
                let body = Full::new(Bytes::from_static(b"message"));
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                let mut answer = Response::new(());
                let media_type = "application/grpc".parse().unwrap();
                answer.headers_mut().insert("content-type", media_type);
                if !in_trailers {
                    answer.headers_mut().extend(trailers.clone());
                }
                let trailers = in_trailers.then(|| Ok(trailers));
                let answer = answer.map(|()| body.with_trailers(std::future::ready(trailers)));
                std::future::ready(Ok::<_, Infallible>(answer))
            });
            let mut request = call();
            let caller = Principal::builder("me", CredentialKind::ApiKey).build();
            request.extensions_mut().insert(caller);
            let answer = SpendingLimitLayer::new(ledger.clone(), prices)
                .layer(handler)
                .oneshot(request)
                .await
                .unwrap();
            answer.into_body().collect().await.unwrap();
            let balance = ledger.balance(&account).await.unwrap();
            assert_eq!(
                balance.settled,
                Money::from_nanos(charged),
                "{status} {in_trailers}"
            );
            assert_eq!(balance.held, Money::ZERO);
        }
    }
}

/// What a call over gRPC-Web that nobody translates is charged, of a price of 7.
async fn charged_over_web(media_type: &'static str, body: Vec<u8>) -> Money {
    let ledger = MemoryStore::new();
    let account = AccountId::new("me").unwrap();
    let credit = Credit {
        account: account.clone(),
        amount: Money::from_nanos(10),
        reference: "first".into(),
    };
    ledger.credit(credit).await.unwrap();
    let price = Price::flat(Money::from_nanos(7));
    let prices = PriceTable::new().route("POST", PATH, price).unwrap();
    let handler = service_fn(move |_: Request<()>| {
        let answer = Response::builder().header("content-type", media_type);
        // In pieces that end anywhere.
        let pieces: Vec<_> = body.chunks(7).map(Bytes::copy_from_slice).collect();
        let pieces = pieces.into_iter().map(|piece| Ok(Frame::data(piece)));
        let body = StreamBody::new(futures_util::stream::iter(pieces));
        std::future::ready(Ok::<_, Infallible>(answer.body(body).unwrap()))
    });
    let mut request = call();
    let media_type = media_type.parse().unwrap();
    request.headers_mut().insert("content-type", media_type);
    let caller = Principal::builder("me", CredentialKind::ApiKey).build();
    request.extensions_mut().insert(caller);
    let answer = SpendingLimitLayer::new(ledger.clone(), prices)
        .layer(handler)
        .oneshot(request)
        .await
        .unwrap();
    let sent = answer.into_body().collect().await;
    sent.unwrap_or_else(|never: Infallible| match never {});
    let balance = ledger.balance(&account).await.unwrap();
    assert_eq!(balance.held, Money::ZERO);
    balance.settled
}

#[tokio::test]
async fn a_call_of_grpc_web_that_fails_in_its_body_is_not_charged() {
    let message = [0, 0, 0, 0, 2, 8, 1].as_slice();
    for (trailers, charged) in [
        ("grpc-status:0\r\n", 7),
        ("grpc-status:13\r\ngrpc-message:broken\r\n", 0),
        ("grpc-message:broken\r\ngrpc-status: 8\r\n", 0),
    ] {
        for message in [message, &[]] {
            let head = [0x80, 0, 0, 0, u8::try_from(trailers.len()).unwrap()];
            let body = [message, &head, trailers.as_bytes()].concat();
            let text = STANDARD.encode(&body).into_bytes();
            let charged = Money::from_nanos(charged);
            let binary = charged_over_web("application/grpc-web+proto", body).await;
            assert_eq!(binary, charged, "{trailers}");
            let encoded = charged_over_web("application/grpc-web-text", text).await;
            assert_eq!(encoded, charged, "{trailers} in text");
        }
    }
}

#[test]
fn a_denial_of_a_handler_is_a_status_with_its_reason() {
    let status = Status::from(Denial::new(DenialKind::Conflict).with_message("twice"));
    assert_eq!(
        (status.code(), status.message()),
        (Code::AlreadyExists, "twice")
    );
    assert_eq!(
        status.get_error_details().error_info().unwrap().reason,
        "CONFLICT"
    );
}

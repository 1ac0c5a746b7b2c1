//! What becomes of bodies on their way through layers.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tollgate::{
    DeadlineLayer, DenialFormat, DenialsLayer, DrainLayer, DrainedBody, Price, PriceTable,
    RbacLayer, SpendingLimitLayer, Tollgate,
    money::Money,
    role::RoleSet,
    store::{AccountId, Ledger, MemoryStore, Page},
    usage::Credit,
};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::request;

/// The head of an answer, and what of its body goes out.
async fn sent<B: Body<Error: std::fmt::Debug>>(answer: Response<B>) -> (HeaderMap, Option<Bytes>) {
    let (head, body) = answer.into_parts();
    let is_empty = body.is_end_stream();
    let bytes = body.collect().await.unwrap().to_bytes();
    assert_eq!(is_empty, bytes.is_empty(), "a server asks for it");
    (head.headers, Some(bytes).filter(|bytes| !bytes.is_empty()))
}

async fn answered<S, D>(service: S, request: Request<()>) -> (HeaderMap, Option<Bytes>)
where
    S: Service<Request<()>, Response = Response<D>, Error = Infallible>,
    D: Body<Error: std::fmt::Debug>,
{
    sent(service.oneshot(request).await.unwrap()).await
}

fn length(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()
}

/// A store with a dollar on the account of the caller, and a gate that sells a route by bytes.
async fn by_bytes() -> (MemoryStore, SpendingLimitLayer) {
    let (store, dollar) = (MemoryStore::new(), Money::from_nanos(1_000_000_000));
    let credit = Credit {
        account: AccountId::new("ann").unwrap(),
        amount: dollar,
        reference: "first".to_owned(),
    };
    store.credit(credit).await.unwrap();
    let price = Price::per_million_bytes(dollar, 1_000);
    let prices = PriceTable::new().route("GET", "/file", price).unwrap();
    (store.clone(), SpendingLimitLayer::new(store, prices))
}

#[tokio::test]
async fn what_is_not_asked_for_is_neither_sent_nor_paid() {
    let (store, gate) = by_bytes().await;
    let service = gate.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(&[7; 100]))))
    }));
    let (headers, body) = answered(service.clone(), request(Method::HEAD, "/file")).await;
    assert_eq!((length(&headers), body), (Some("100"), None));
    let (_, body) = answered(service, request(Method::GET, "/file")).await;
    assert_eq!(body.unwrap().len(), 100);
    let rows = store.usage(&AccountId::new("ann").unwrap(), Page::first(9));
    let rows = rows.await.unwrap().items;
    let bytes: Vec<_> = rows.iter().map(|row| row.settlement.bytes).collect();
    assert_eq!(bytes, [Some(100), Some(0)]);
    assert!(rows[1].settlement.charged.is_zero());
}

#[tokio::test]
async fn a_refusal_of_head_is_a_head_wherever_it_is_written() {
    let roles = RoleSet::viewer_operator_admin();
    let inner = RbacLayer::require(&roles, "write").layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(String::new()))
    }));
    let rewritten = DenialsLayer::new(DenialFormat::Detail).layer(inner.clone());
    let (headers, body) = answered(inner.clone(), request(Method::GET, "/")).await;
    assert_eq!(length(&headers), None, "a server tells it by the body");
    let plain = body.unwrap().len().to_string();
    let (_, body) = answered(rewritten.clone(), request(Method::GET, "/")).await;
    let styled = body.unwrap().len().to_string();
    assert_ne!(plain, styled);
    let (headers, body) = answered(inner, request(Method::HEAD, "/")).await;
    assert_eq!((length(&headers), body), (Some(plain.as_str()), None));
    let (headers, body) = answered(rewritten, request(Method::HEAD, "/")).await;
    assert_eq!((length(&headers), body), (Some(styled.as_str()), None));
}

#[tokio::test]
async fn a_length_that_nobody_knows_is_not_told_and_one_that_is_told_stays() {
    let gate = || Tollgate::builder().build().unwrap();
    let streamed = service_fn(async |request: Request<()>| {
        let piece = Frame::data(Bytes::from_static(b"piece"));
        let mut answer = Response::new(StreamBody::new(stream::iter([Ok::<_, Infallible>(piece)])));
        if request.uri().path() == "/told" {
            answer.headers_mut().insert(CONTENT_LENGTH, 5.into());
        }
        Ok::<_, Infallible>(answer)
    });
    let service = gate().layer(streamed);
    let (headers, body) = answered(service.clone(), request(Method::HEAD, "/")).await;
    assert_eq!((length(&headers), body), (None, None));
    let (headers, body) = answered(service, request(Method::HEAD, "/told")).await;
    assert_eq!((length(&headers), body), (Some("5"), None));
    // Left out further in.
    let empty = gate().layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
    }));
    let (headers, body) = answered(empty, request(Method::HEAD, "/")).await;
    assert_eq!((length(&headers), body), (None, None));
}

/// axum tells what a body knows of its length, around all layers.
#[cfg(feature = "axum")]
#[tokio::test]
async fn nor_is_it_told_by_axum_around_the_gate() {
    use axum::{Router, body::Body as AxumBody, routing::get};

    let streamed = async || {
        let piece = Ok::<_, Infallible>(Bytes::from_static(b"piece"));
        AxumBody::from_stream(stream::iter([piece]))
    };
    let app = Router::new().route("/", get(streamed));
    let app = app.layer(Tollgate::builder().build().unwrap());
    let head = Request::head("/").body(AxumBody::empty()).unwrap();
    let answer = app.oneshot(head).await.unwrap();
    assert_eq!(answer.headers().get(CONTENT_LENGTH), None);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(body.is_empty());
}

#[tokio::test]
async fn statuses_without_content_have_none() {
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let slip = service_fn(move |_: Request<()>| {
            let answer = Response::builder().status(status);
            std::future::ready(answer.body(Full::new(Bytes::from_static(b"a slip"))))
        });
        let service = Tollgate::builder().build().unwrap().layer(slip);
        let answer = service.oneshot(request(Method::GET, "/")).await.unwrap();
        assert_eq!(answer.status(), status);
        let (headers, body) = sent(answer).await;
        assert_eq!((length(&headers), body), (None, None), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_answers_head_with_a_head() {
    let slow = service_fn(async |_: Request<()>| {
        sleep(Duration::from_secs(60)).await;
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let service = DeadlineLayer::new(Duration::from_secs(1)).layer(slow);
    let (_, body) = answered(service.clone(), request(Method::GET, "/")).await;
    let whole = body.unwrap().len().to_string();
    let (headers, body) = answered(service, request(Method::HEAD, "/")).await;
    assert_eq!((length(&headers), body), (Some(whole.as_str()), None));
}

/// On plain hyper the handler's future lives on inside of the layer's, with what it holds of the
/// request.
#[tokio::test(start_paused = true)]
async fn a_deadline_gives_back_the_body_that_is_to_be_drained() {
    let (client, body) = mpsc::channel(1);
    let upload = tokio::spawn(async move {
        for _ in 0..100 {
            let piece = Frame::data(Bytes::from_static(&[0; 1_024]));
            client.send(Ok::<_, Infallible>(piece)).await?;
        }
        Ok::<_, mpsc::error::SendError<_>>(())
    });
    let handler = service_fn(async |request: Request<DrainedBody<_>>| {
        sleep(Duration::from_secs(60)).await;
        drop(request);
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let service =
        DrainLayer::new().layer(DeadlineLayer::new(Duration::from_secs(1)).layer(handler));
    let body = StreamBody::new(ReceiverStream::new(body));
    // Held until all is over, as a server's connection holds it.
    let mut answer = std::pin::pin!(service.oneshot(Request::new(body)));
    assert_eq!(answer.as_mut().await.unwrap().status(), 503);
    let upload = timeout(Duration::from_secs(1), upload).await;
    let upload = upload.expect("it is read on");
    upload.unwrap().expect("all of it");
}

/// Whoever boxes all bodies into one type boxes those behind a gate too.
#[tokio::test]
async fn a_body_may_be_shared_behind_any_layer_where_it_may_be_without() {
    fn boxed<D>(
        answer: Response<D>,
    ) -> Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>
    where
        D: Body<Data = Bytes, Error = Infallible> + Send + Sync + 'static,
    {
        answer.map(BodyExt::boxed)
    }
    let (_, metered) = by_bytes().await;
    let file = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"file"))))
    });
    let inner = DeadlineLayer::new(Duration::from_secs(1)).layer(metered.layer(file));
    let service = Tollgate::builder().build().unwrap().layer(inner);
    let answer = service.oneshot(request(Method::GET, "/file")).await;
    let (_, body) = sent(boxed(answer.unwrap())).await;
    assert_eq!(body.unwrap(), "file");
}

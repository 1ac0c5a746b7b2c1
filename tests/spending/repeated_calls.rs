//! Retries of gRPC calls, whose answers end with trailers.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// An answer in two messages, with its number in the trailers, or as many bytes as are asked for.
fn call_answer(number: u64, padding: usize) -> Answer {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-number", HeaderValue::from(number));
    trailers.insert("x-padding", "p".repeat(padding).parse().unwrap());
    let data = |text: &'static [u8]| Ok(Frame::data(Bytes::from_static(text)));
    let frames = [
        data(b"\0\0\0\0\x02hi"),
        data(b"\0\0\0\0\x03you"),
        Ok(Frame::trailers(trailers)),
    ];
    let mut answer = Response::new(StreamBody::new(stream::iter(frames)).boxed());
    let media_type = HeaderValue::from_static("application/grpc");
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

/// What every gRPC client sends.
const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

#[tokio::test]
async fn the_answer_to_a_grpc_call_is_repeated_with_its_trailers() {
    let gate = Gate::new().await;
    let layer = gate
        .layer(Price::flat(dollars("1")))
        .idempotency_keys(IdempotencyKeys::new().answer_bytes_max(1_000));
    let calls = Arc::new(AtomicU64::new(0));
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let number = calls.fetch_add(1, Ordering::SeqCst);
        let padding = request.headers().get("x-padding");
        let padding = padding.map_or(0, |padding| padding.to_str().unwrap().parse().unwrap());
        async move { Ok::<_, Infallible>(call_answer(number, padding)) }
    }));
    let call = |headers: &[(&'static str, &'static str)]| {
        let request = request_with("key-1", &[&GRPC[..], headers].concat());
        service.clone().oneshot(request)
    };
    let key = ("idempotency-key", "a");

    let first = call(&[key]).await.unwrap();
    assert!(!first.headers().contains_key("idempotency-replayed"));
    let first = first.into_body().collect().await.unwrap();
    let again = call(&[key]).await.unwrap();
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(again.headers()["content-type"], "application/grpc");
    let hint = again.body().size_hint();
    assert_eq!(
        hint.exact(),
        None,
        "a length would leave no place for trailers"
    );
    let again = again.into_body().collect().await.unwrap();
    assert_eq!(again.trailers().unwrap()["x-number"], "0");
    assert_eq!(again.trailers(), first.trailers());
    assert_eq!(again.to_bytes(), first.to_bytes());
    assert_eq!(gate.rows().await, 1);
    let settled = gate.ledger.balance(&account()).await.unwrap().settled;
    assert_eq!(settled, dollars("1"));
    let other = call(&[key, ("grpc-encoding", "gzip")]).await.unwrap();
    assert_eq!(
        other.headers()["grpc-status"],
        "3",
        "it says something else"
    );

    // As many bytes as there is room for, or one more.
    let others = "hi\0\0\0\0\x02you\0\0\0\0\x03grpc-status0x-number1x-padding".len();
    assert_eq!(1_000 - others, 955);
    let fits = [("idempotency-key", "b"), ("x-padding", "955")];
    let longer = [("idempotency-key", "c"), ("x-padding", "956")];
    for (call_twice, status) in [(fits, None), (longer, Some("6"))] {
        let first = call(&call_twice).await.unwrap();
        first.into_body().collect().await.unwrap();
        let again = call(&call_twice).await.unwrap();
        let refused = again.headers().get("grpc-status");
        assert_eq!(refused.map(|status| status.to_str().unwrap()), status);
    }
    assert_eq!(gate.rows().await, 3);
}

//! Calls that end before they should: what was counted by then is not all that was used.

use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt, StreamExt};

use super::*;

#[tokio::test]
async fn a_panic_that_is_caught_further_out_is_a_failure() {
    let gate = Gate::new().await;
    let price = Price::flat(dollars("1"));
    let layer = gate.layer(price).disconnected_calls(Charging::Hold);
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        request
            .extensions()
            .get::<Charge>()
            .unwrap()
            .set(dollars("2"));
        if request.headers().contains_key("x-later") {
            let first = stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from("a")))]);
            let then = stream::once(async { panic!("in the body") });
            return Ok::<_, Infallible>(Response::new(BodyExt::boxed(StreamBody::new(
                first.chain(then),
            ))));
        }
        tokio::task::yield_now().await;
        panic!("in the handler")
    }));

    // As tower-http's `CatchPanicLayer` does: the panic is over when what it went through is dropped.
    let mut call = Box::pin(AssertUnwindSafe(service.clone().oneshot(request())).catch_unwind());
    assert!((&mut call).await.is_err());
    drop(call);
    let row = gate.last().await;
    assert_eq!((row.settlement.outcome, nanos(&row)), (Outcome::Failed, 0));

    let later = request_with("key-1", &[("x-later", "1")]);
    let mut body = service.oneshot(later).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert!(AssertUnwindSafe(body.frame()).catch_unwind().await.is_err());
    drop(body);
    let row = gate.last().await;
    assert_eq!((row.settlement.outcome, nanos(&row)), (Outcome::Failed, 0));
    assert_eq!(gate.rows().await, 2);
    assert_eq!(gate.held().await, Money::ZERO);
}

//! Calls through the layer, taken a step at a time, so that they can end at any of them.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tollgate::{
    Charge, CostSource, CredentialKind, IdempotencyKeys, Price, PriceTable, Principal, RequestId,
    SpendingLimitLayer, TokenBound,
    money::Money,
    store::{AccountId, BudgetId},
    usage::Expiry,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    dice::Dice,
    watched::{Steps, Watched},
};

/// A call under way; a poll is a step, and a drop is its client's death.
pub(crate) struct CallUnderWay {
    pub(crate) request_id: String,
    pub(crate) call: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A body that takes its time, and may break off.
struct Slow {
    dice: Dice,
    frames: u64,
    breaks: bool,
    pause: u64,
}

impl Body for Slow {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.pause > 0 {
            self.pause -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pause = self.dice.roll(3);
        if self.frames == 0 {
            return Poll::Ready(self.breaks.then_some(Err(Broken)));
        }
        self.frames -= 1;
        let event = match self.frames {
            0 => "data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n",
            _ => "data: {\"usage\":null}\n\n",
        };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(event.as_bytes())))))
    }
}

#[derive(Debug)]
struct Broken;

fn prices() -> PriceTable {
    let by_token =
        Price::per_million_tokens(Money::from_nanos(1_000_000), Money::from_nanos(2_000_000))
            .input_bound(TokenBound::Fixed(4))
            .output_bound(TokenBound::Fixed(3))
            .cost_from(CostSource::Body);
    PriceTable::new()
        .route("POST", "/flat", Price::flat(Money::from_nanos(7)))
        .and_then(|table| table.route("POST", "/tokens", by_token))
        .and_then(|table| table.route("POST", "/free", Price::free()))
        .unwrap()
}

pub(crate) struct Caller {
    layer: SpendingLimitLayer,
    dice: Dice,
}

impl Caller {
    pub(crate) fn new(ledger: &Watched, dice: Dice) -> Self {
        let layer = SpendingLimitLayer::new(ledger.clone(), prices())
            .with_clock(ledger.clock.clone())
            .hold_lifetime(std::time::Duration::from_secs(120))
            .expired_holds(if dice.one_in(2) {
                Expiry::Charge
            } else {
                Expiry::Release
            })
            .idempotency_keys(IdempotencyKeys::new().keep_for(std::time::Duration::from_secs(600)));
        Self { layer, dice }
    }

    pub(crate) fn call(
        &self,
        number: usize,
        account: &AccountId,
        budgets: Arc<[BudgetId]>,
    ) -> CallUnderWay {
        let dice = self.dice.clone();
        let service = self.layer.layer(service_fn(move |request: Request<()>| {
            answer(dice.clone(), request)
        }));
        let path = *self
            .dice
            .pick(&["/flat", "/flat", "/tokens", "/tokens", "/free"]);
        let mut request = Request::post(path).body(()).unwrap();
        if self.dice.one_in(3) {
            let key = HeaderValue::from_str(&format!("once-{}", self.dice.roll(4))).unwrap();
            let name = HeaderName::from_static("idempotency-key");
            request.headers_mut().insert(name, key);
        }
        let request_id = format!("call-{number}");
        let id = RequestId::from_header(&HeaderValue::from_str(&request_id).unwrap());
        request.extensions_mut().insert(id.unwrap());
        let principal = Principal::builder(account.as_str(), CredentialKind::ApiKey);
        request
            .extensions_mut()
            .insert(principal.budgets(budgets).build());
        let call = Box::pin(async move {
            let Ok(answer) = service.oneshot(request).await else {
                return;
            };
            let mut body = answer.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        });
        CallUnderWay { request_id, call }
    }
}

async fn answer(dice: Dice, request: Request<()>) -> Result<Response<Slow>, Broken> {
    Steps(dice.roll(4)).await;
    let charge = request.extensions().get::<Charge>().unwrap();
    match dice.roll(8) {
        0 => return Err(Broken),
        1 => charge.set(Money::from_nanos(dice.between(-3, 20))),
        2 => charge.add_output_tokens(dice.roll(9)),
        _ => {}
    }
    let mut response = Response::new(Slow {
        frames: dice.roll(4),
        breaks: dice.one_in(8),
        pause: 0,
        dice: dice.clone(),
    });
    if dice.one_in(6) {
        *response.status_mut() = *dice.pick(&[StatusCode::BAD_REQUEST, StatusCode::BAD_GATEWAY]);
    }
    let value = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, value);
    Ok(response)
}

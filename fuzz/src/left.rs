//! Streams of providers, cut anywhere and left anywhere.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio_stream::StreamExt as _;
use tollgate::{
    CostSource, CredentialKind, Price, PriceTable, Principal, SpendingLimitLayer, TokenBound,
    money::Money,
    store::{AccountId, Ledger as _, MemoryStore},
    usage::Credit,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

use self::{
    model::Told,
    stream::{Dice, Stream},
};
use super::now;

#[path = "left/model.rs"]
mod model;
#[path = "left/stream.rs"]
mod stream;

/// Whoever leaves a stream pays the same however it was cut; at least what the provider counted and
/// what was written after that, as far as so much was held; and no more than was held or counted.
/// Whoever reads it to its end pays its last count.
pub fn left(data: &[u8]) {
    let mut dice = Dice(data);
    let held = dice.pick(&[1, 10, 40, 200, 1_000, 5_000, 100_000]);
    let cuts: Vec<_> = (0..3)
        .map(|_| 1 + usize::try_from(dice.byte()).unwrap())
        .collect();
    let [at, part] = [dice.byte(), dice.byte()].map(|byte| usize::try_from(byte).unwrap());
    let stream = stream::stream(&mut dice);
    if stream.ends.is_empty() {
        return;
    }
    // At the end of an event, or within the next.
    let at = at % stream.ends.len();
    let (from, to) = (stream.ends[at], stream.ends.get(at + 1).copied());
    let within = to.unwrap_or(from) - from;
    let left_at = from
        + if part % 2 == 0 {
            0
        } else {
            within * part / 256
        };
    is_fair(&stream, left_at, held, &cuts);
    is_exact(&stream, held, &cuts);
}

fn told(stream: &Stream) -> Vec<(usize, serde_json::Value)> {
    match stream.media_type {
        "application/json" => model::parts(&stream.bytes),
        _ => model::events(&stream.bytes),
    }
}

fn is_fair(stream: &Stream, left_at: usize, held: u64, cuts: &[usize]) {
    let (whole, rest): (Vec<_>, Vec<_>) = told(stream)
        .into_iter()
        .partition(|(end, _)| *end <= left_at);
    let whole: Vec<_> = whole.into_iter().map(|(_, event)| event).collect();
    let told = Told::by(&whole);
    // The count of an event that has begun may have come, or not.
    let mut also = told.clone();
    if let Some((_, begun)) = rest.first() {
        also.count(begun);
    }
    let least = told.least().min(also.least()).min(held);
    let most = held.max(told.output).max(also.output);
    let sent = &stream.bytes[..left_at];
    let at_once = charged(stream.media_type, sent, &[sent.len().max(1)], held, true);
    let show = || format!("{told:?} of {held}: {}", String::from_utf8_lossy(sent));
    assert!(
        least <= at_once,
        "{at_once} is less than {least}: {}",
        show()
    );
    assert!(at_once <= most, "{at_once} is more than {most}: {}", show());
    for cuts in [cuts, &[1], &[2], &[7, 1], &[64]] {
        let in_pieces = charged(stream.media_type, sent, cuts, held, true);
        assert_eq!(in_pieces, at_once, "in pieces of {cuts:?}: {}", show());
    }
}

fn is_exact(stream: &Stream, held: u64, cuts: &[usize]) {
    let events: Vec<_> = told(stream).into_iter().map(|(_, event)| event).collect();
    let told = Told::by(&events);
    for cuts in [cuts, &[1], &[stream.bytes.len()]] {
        let charged = charged(stream.media_type, &stream.bytes, cuts, held, false);
        let show = || {
            format!(
                "{told:?} of {held}: {}",
                String::from_utf8_lossy(&stream.bytes)
            )
        };
        match told.is_final {
            true => assert_eq!(charged, told.output, "{}", show()),
            false => assert!(charged >= told.least().min(held), "{charged}: {}", show()),
        }
    }
}

/// How many output tokens are charged for a body in pieces of these lengths, of so many that were
/// held for: where `is_left`, after the last of its pieces, and otherwise at its end.
fn charged(media_type: &'static str, sent: &[u8], cuts: &[usize], held: u64, is_left: bool) -> u64 {
    let (mut rest, mut pieces) = (sent, Vec::new());
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at((*cut).min(rest.len()));
        pieces.push(Bytes::copy_from_slice(piece));
        rest = behind;
    }
    let taken = pieces.len();
    let answer = service_fn(move |_: Request<()>| {
        let frames = pieces
            .clone()
            .into_iter()
            .map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let frames = tokio_stream::iter(frames);
        let more = tokio_stream::pending().take(usize::from(is_left));
        let body = StreamBody::new(frames.chain(more));
        let answer = Response::builder()
            .header("content-type", media_type)
            .body(body);
        async { Ok::<_, Infallible>(answer.unwrap()) }
    });
    now(async {
        let (ledger, account) = (MemoryStore::new(), AccountId::new("user-1").unwrap());
        let all = Money::from_nanos(i64::MAX / 2);
        let credit = Credit {
            account: account.clone(),
            amount: all,
            reference: "first".into(),
        };
        ledger.credit(credit).await.unwrap();
        // A nano-dollar for each token of output, and none for input.
        let price = Price::per_million_tokens(Money::ZERO, Money::from_nanos(1_000_000));
        let price = price
            .output_bound(TokenBound::Fixed(held))
            .cost_from(CostSource::Body);
        let prices = PriceTable::new().route("POST", "/chat", price).unwrap();
        let service = SpendingLimitLayer::new(ledger.clone(), prices).layer(answer);
        let mut request = Request::post("/chat").body(()).unwrap();
        let caller = Principal::builder("user-1", CredentialKind::ApiKey).build();
        request.extensions_mut().insert(caller);
        let mut body = service.oneshot(request).await.unwrap().into_body();
        match is_left {
            true => {
                for _ in 0..taken {
                    body.frame().await.unwrap().unwrap();
                }
            }
            false => drop((&mut body).collect().await.unwrap()),
        }
        drop(body);
        let left = ledger.balance(&account).await.unwrap().available();
        u64::try_from(all.nanos() - left.nanos()).unwrap()
    })
}

//! Several gates in one guard: they decide, mark and watch as they would in a guard each.

#![allow(clippy::unwrap_used, reason = "a test that fails ends")]

use std::{
    convert::Infallible,
    future::ready,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Extensions, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tollgate::{
    RequestHead,
    denial::{Denial, DenialKind},
    guard::{
        BodyEnd, Decision, Gate, Guard, Meter, Permit, Policy, ResponseMarks, Tail, Verdict,
        course::{Course, Then},
    },
    store::StoreFuture,
};
use tower::{Service, ServiceExt, service_fn};

type Diary = Arc<Mutex<Vec<String>>>;

/// What one gate does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Admits,
    AdmitsLate,
    Refuses,
    RefusesLate,
    Replaces,
}

#[derive(Clone, Debug)]
struct Step {
    name: &'static str,
    way: Way,
    diary: Diary,
}

struct Pass(Step, bool);

impl Step {
    fn note(&self, what: &str) {
        self.diary
            .lock()
            .unwrap()
            .push(format!("{} {what}", self.name));
    }
}

impl Policy for Step {
    type Permit = Pass;

    fn name(&self) -> &'static str {
        self.name
    }

    fn decide(&self, _: &RequestHead<'_>) -> Decision<Pass> {
        self.note("decides");
        let permit = Pass(self.clone(), false);
        let refusal = Denial::new(DenialKind::NotPermitted);
        match self.way {
            Way::Admits | Way::Replaces => Decision::Ready(Verdict::Admit(permit)),
            Way::Refuses => Decision::Ready(Verdict::Refuse(refusal)),
            Way::AdmitsLate => Decision::pending(async {
                tokio::task::yield_now().await;
                Verdict::Admit(permit)
            }),
            Way::RefusesLate => Decision::pending(async {
                tokio::task::yield_now().await;
                drop(permit);
                Verdict::Refuse(refusal)
            }),
        }
    }
}

impl Permit for Pass {
    type Meter = Self;

    fn mark_request(&mut self, extensions: &mut Extensions) {
        extensions
            .get_or_insert_with(Vec::<&str>::new)
            .push(self.0.name);
    }

    fn mark_response(mut self, marks: ResponseMarks<'_>) -> Tail<Self> {
        self.0.note(&format!("marks {}", marks.status.as_u16()));
        let name = HeaderName::from_static(self.0.name);
        marks.headers.insert(name, HeaderValue::from_static("1"));
        if self.0.way == Way::Replaces {
            self.1 = true;
            return Tail::Replaced(StatusCode::IM_A_TEAPOT, Bytes::from_static(b"another"));
        }
        Tail::Metered(self)
    }

    fn inner_failed(mut self) {
        self.1 = true;
        self.0.note("saw a failure");
    }
}

impl Meter for Pass {
    fn data(&mut self, piece: &[u8]) {
        self.0.note(&format!("sees {}", piece.len()));
    }

    fn end(mut self, _: BodyEnd) -> Option<StoreFuture<()>> {
        self.1 = true;
        self.0.note("ends");
        let step = self.0.clone();
        Some(StoreFuture::new(async move {
            step.note("has settled");
            Ok(())
        }))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.1 {
            self.0.note("is dropped");
        }
    }
}

fn gates(ways: [Way; 3]) -> (impl Course, Diary) {
    let diary = Diary::default();
    let gate = |name, way| {
        let diary = Arc::clone(&diary);
        Gate::new(Step { name, way, diary })
    };
    let [a, b, c] = ways;
    let course = Then {
        outer: gate("a", a),
        inner: Then {
            outer: Some(gate("b", b)),
            inner: gate("c", c),
        },
    };
    (course, diary)
}

async fn hello(request: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    let marks = request.extensions().get::<Vec<&str>>().unwrap().concat();
    Ok(Response::new(Full::from(marks)))
}

/// The status, the body, which gates marked the head, and what happened, of one call.
async fn call(ways: [Way; 3]) -> (u16, String, String, Vec<String>) {
    let (course, diary) = gates(ways);
    let service = Guard::new(service_fn(hello), course);
    let answer = service.oneshot(Request::new(())).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let marked = ["a", "b", "c"].into_iter();
    let marked = marked.filter(|name| head.headers.contains_key(*name));
    let diary = std::mem::take(&mut *diary.lock().unwrap());
    let body = String::from_utf8(body.to_vec()).unwrap();
    (head.status.as_u16(), body, marked.collect(), diary)
}

#[tokio::test]
async fn they_decide_inwards_and_mark_and_watch_outwards() {
    use Way::{Admits, AdmitsLate};
    let told = [
        "a decides",
        "b decides",
        "c decides",
        "c marks 200",
        "b marks 200",
        "a marks 200",
        "c sees 3",
        "b sees 3",
        "a sees 3",
        "c ends",
        "b ends",
        "a ends",
        "c has settled",
        "b has settled",
        "a has settled",
    ];
    for ways in [
        [Admits, Admits, Admits],
        [AdmitsLate, Admits, Admits],
        [Admits, AdmitsLate, Admits],
        [Admits, Admits, AdmitsLate],
        [AdmitsLate, AdmitsLate, AdmitsLate],
    ] {
        let (status, body, marked, diary) = call(ways).await;
        assert_eq!(
            (status, body.as_str(), marked.as_str()),
            (200, "abc", "abc")
        );
        assert_eq!(diary, told, "{ways:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_marked_by_the_gates_further_out_and_by_no_other() {
    use Way::{Admits, AdmitsLate, Refuses, RefusesLate};
    for ways in [
        [Admits, Refuses, Admits],
        [AdmitsLate, RefusesLate, Admits],
        [Admits, RefusesLate, Refuses],
    ] {
        let (status, body, marked, diary) = call(ways).await;
        assert_eq!((status, marked.as_str()), (403, "a"), "{ways:?}");
        assert!(body.contains("403"), "{body}");
        assert!(!diary.iter().any(|line| line.starts_with('c')), "{diary:?}");
        let ended = diary.iter().filter(|line| *line == "a has settled");
        assert_eq!(ended.count(), 1, "{diary:?}");
    }
    let (status, _, marked, _) = call([Refuses, Admits, Admits]).await;
    assert_eq!((status, marked.as_str()), (403, ""));
}

#[tokio::test]
async fn who_watches_a_body_that_is_replaced_further_out_is_dropped() {
    use Way::{Admits, Replaces};
    let (status, body, marked, diary) = call([Admits, Replaces, Admits]).await;
    assert_eq!(
        (status, body.as_str(), marked.as_str()),
        (418, "another", "abc")
    );
    assert_eq!(
        diary,
        [
            "a decides",
            "b decides",
            "c decides",
            "c marks 200",
            "b marks 200",
            "c is dropped",
            "a marks 418",
            "a sees 7",
            "a ends",
            "a has settled",
        ]
    );
    let (status, body, _, diary) = call([Admits, Admits, Replaces]).await;
    assert_eq!((status, body.as_str()), (418, "another"));
    assert!(diary.contains(&"b has settled".to_owned()), "{diary:?}");
}

#[tokio::test]
async fn a_failure_of_the_service_is_told_to_all_and_a_client_that_leaves_drops_all() {
    let (course, diary) = gates([Way::Admits; 3]);
    let failing = service_fn(|_: Request<()>| ready(Err::<Response<Full<Bytes>>, _>("broken")));
    let answer = Guard::new(failing, course).oneshot(Request::new(())).await;
    assert_eq!(answer.unwrap_err(), "broken");
    let read = || diary.lock().unwrap().split_off(3);
    assert_eq!(
        read(),
        ["c saw a failure", "b saw a failure", "a saw a failure"]
    );

    for ways in [
        [Way::Admits; 3],
        [Way::Admits, Way::Admits, Way::AdmitsLate],
    ] {
        let (course, diary) = gates(ways);
        let silent = service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
        });
        let mut guard = Guard::new(silent, course);
        let mut answer = Box::pin(guard.call(Request::new(())));
        assert!(futures_util::poll!(&mut answer).is_pending());
        drop(answer);
        let mut left = diary.lock().unwrap().split_off(3);
        left.sort();
        assert_eq!(left, ["a is dropped", "b is dropped", "c is dropped"]);
    }
}

#[tokio::test]
async fn the_whole_stack_takes_limits_with_settings_of_their_own() {
    use tollgate::{
        JwtLayer, RateHeaderDialect, RateLimitLayer, Tollgate,
        quota::Quota,
        rate_limit::ConcurrencyLimitLayer,
        store::{SessionId, UserId},
        token::{TokenIssuer, TokenVerifier},
    };
    const SECRET: &[u8] = b"thirty-two bytes or more, please!";
    let verifier = TokenVerifier::hs256(SECRET).build().unwrap();
    let issuer = TokenIssuer::hs256(SECRET).build().unwrap();
    let (user, session) = (UserId::new("ann").unwrap(), SessionId::new("s").unwrap());
    let token = issuer.issue(&user, &session, ["viewer"]).unwrap();
    let limit = RateLimitLayer::per_principal(Quota::per_hour(10))
        .cost(|_| 4)
        .add_headers(RateHeaderDialect::OpenAiRequests);
    let gate = Tollgate::builder()
        .authenticate(JwtLayer::new(verifier))
        .with_rate_limit(limit)
        .concurrency(ConcurrencyLimitLayer::per_principal(1))
        .build()
        .unwrap();
    let service = tower::Layer::layer(
        &gate,
        service_fn(|_: Request<()>| {
            ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
                "hello",
            ))))
        }),
    );
    let request = || {
        let bearer = format!("Bearer {}", token.expose());
        Request::get("/")
            .header("authorization", bearer)
            .body(())
            .unwrap()
    };
    let first = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(first.headers()["x-ratelimit-remaining-requests"], "6");
    let beside = service.clone().oneshot(request()).await.unwrap();
    assert_eq!(beside.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(
        !beside
            .headers()
            .contains_key("x-ratelimit-remaining-requests")
    );
    first.into_body().collect().await.unwrap();
    for (status, left) in [(200, "2"), (429, "2")] {
        let answer = service.clone().oneshot(request()).await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers()["x-ratelimit-remaining-requests"], left);
        answer.into_body().collect().await.unwrap();
    }
}

/// A buffer of many pieces that shows one at a time, as `Buf` allows.
struct Beads(&'static [u8]);

impl bytes::Buf for Beads {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn chunk(&self) -> &[u8] {
        self.0.get(..1).unwrap_or_default()
    }

    fn advance(&mut self, count: usize) {
        self.0 = self.0.get(count..).unwrap_or_default();
    }
}

#[tokio::test]
async fn bytes_that_a_buffer_does_not_show_are_paid_for() {
    use tollgate::{
        CredentialKind, Price, PriceTable, Principal, SpendingLimitLayer,
        money::Money,
        store::{AccountId, Ledger, MemoryStore},
        usage::Credit,
    };
    let store = MemoryStore::new();
    let account = AccountId::new("ann").unwrap();
    let credit = Credit {
        account: account.clone(),
        amount: Money::from_dollars(1).unwrap(),
        reference: "r".into(),
    };
    store.credit(credit).await.unwrap();
    let a_nano = Price::per_million_bytes(Money::from_nanos(1_000_000), 1_000);
    let prices = PriceTable::new().route("GET", "/", a_nano).unwrap();
    let layer = SpendingLimitLayer::new(store.clone(), prices);
    let service = tower::Layer::layer(
        &layer,
        service_fn(|_: Request<()>| {
            ready(Ok::<_, Infallible>(Response::new(Full::new(Beads(
                &[7; 100],
            )))))
        }),
    );
    let mut request = Request::new(());
    let ann = Principal::builder("ann", CredentialKind::ApiKey).build();
    request.extensions_mut().insert(ann);
    let answer = service.oneshot(request).await.unwrap();
    drop(answer.into_body().collect().await.unwrap());
    assert_eq!(
        store.balance(&account).await.unwrap().settled,
        Money::from_nanos(100)
    );
}

//! Rules of one's own, alone, in line with other layers, and in a whole gate.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/log.rs"]
mod log;

use std::{convert::Infallible, future::pending, time::Duration};

use http::{Request, Response, StatusCode};
use tollgate::{
    ApiKeyLayer, AuthenticateLayer, CredentialKind, Principal, RateLimitLayer, RequestHead,
    Tollgate,
    denial::{Denial, DenialKind},
    keyring::KeyResolver,
    quota::Quota,
    store::StaticKeys,
};
use tower::{Layer, ServiceExt, service_fn};
use tracing::Instrument;

use log::Log;

fn principal(subject: &str) -> Principal {
    Principal::builder(subject, CredentialKind::Token).build()
}

/// Knows whoever says a name, but for `nobody`, and fails for `trouble`.
fn by_name() -> AuthenticateLayer {
    AuthenticateLayer::by_head(|head| match head.headers.get("x-name") {
        None => Ok(None),
        Some(name) if name == "nobody" => Err(Denial::new(DenialKind::CredentialInvalid)),
        Some(name) if name == "trouble" => Err(Denial::new(DenialKind::Unavailable)),
        Some(name) => Ok(Some(principal(name.to_str().unwrap()))),
    })
}

/// The same, of somebody who takes his time.
fn by_asking() -> AuthenticateLayer {
    let name = |head: &RequestHead<'_>| {
        let name = head.headers.get("x-name")?;
        Some(name.to_str().unwrap().to_owned())
    };
    AuthenticateLayer::new(name, async |name| {
        tokio::task::yield_now().await;
        match name.as_str() {
            "nobody" => Err(Denial::new(DenialKind::CredentialInvalid)),
            "trouble" => Err(Denial::new(DenialKind::Unavailable)),
            name => Ok(principal(name)),
        }
    })
}

fn request(fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder();
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// The status, and who it was, of one request.
async fn ask<L, S>(layer: &L, request: Request<()>) -> (u16, String)
where
    L: Layer<Whoami, Service = S>,
    S: tower::Service<Request<()>, Error = Infallible>,
    S::Response: Answer,
{
    let answer = layer.layer(Whoami).oneshot(request).await.unwrap();
    answer.told()
}

/// Answers with whom it sees.
#[derive(Clone)]
struct Whoami;

impl tower::Service<Request<()>> for Whoami {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let caller = request.extensions().get::<Principal>();
        let subject = caller.map_or("", Principal::subject).to_owned();
        let answer = Response::builder().header("x-caller", &subject);
        std::future::ready(Ok(answer.body(subject).unwrap()))
    }
}

trait Answer {
    fn told(&self) -> (u16, String);
}

impl<B> Answer for Response<B> {
    fn told(&self) -> (u16, String) {
        let caller = self.headers().get("x-caller");
        let caller = caller.map_or("", |caller| caller.to_str().unwrap());
        (self.status().as_u16(), caller.to_owned())
    }
}

#[tokio::test]
async fn a_rule_admits_refuses_and_abstains() {
    for layer in [by_name(), by_asking()] {
        for (fields, status, caller) in [
            (&[("x-name", "ann")][..], 200, "ann"),
            (&[], 401, ""),
            (&[("x-name", "nobody")], 401, ""),
            (&[("x-name", "trouble")], 503, ""),
        ] {
            let answer = ask(&layer, request(fields)).await;
            assert_eq!(answer, (status, caller.into()));
        }
    }
}

#[tokio::test]
async fn what_it_does_not_know_is_the_next_one_s_and_what_is_no_good_is_not() {
    let keys = StaticKeys::new()
        .add_key("robot", "a-key-of-thirty-two-characters-!", ["viewer"])
        .unwrap();
    let keys = ApiKeyLayer::new(KeyResolver::builder(keys).build());
    let key = ("x-api-key", "a-key-of-thirty-two-characters-!");
    for rule in [by_name(), by_asking()] {
        let layer = rule.clone().or(keys.clone());
        assert_eq!(ask(&layer, request(&[key])).await, (200, "robot".into()));
        let ann = request(&[("x-name", "ann")]);
        assert_eq!(ask(&layer, ann).await, (200, "ann".into()));
        let both = request(&[key, ("x-name", "nobody")]);
        assert_eq!(ask(&layer, both).await.0, 401);
        assert_eq!(ask(&layer, request(&[])).await.0, 401);
        let layer = keys.clone().or(rule);
        let ann = request(&[("x-name", "ann")]);
        assert_eq!(ask(&layer, ann).await, (200, "ann".into()));
        let nobody = request(&[("x-name", "nobody")]);
        assert_eq!(ask(&layer, nobody).await.0, 401);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_never_answers_costs_a_deadline() {
    let layer = AuthenticateLayer::new(|_| Some(()), |()| pending());
    let layer = layer.deadline(Duration::from_secs(2));
    let asked = tokio::time::Instant::now();
    assert_eq!(ask(&layer, request(&[])).await.0, 503);
    assert_eq!(asked.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn whom_an_outer_layer_has_found_a_gate_limits() {
    let gate = Tollgate::builder()
        .authenticate(AuthenticateLayer::found_outside())
        .per_principal(Quota::per_hour(1))
        .build()
        .unwrap();
    let service = gate.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(String::new()))
    }));
    let mut statuses = Vec::new();
    for subject in [Some("ann"), Some("ann"), Some("bob"), None] {
        let mut request = Request::new(());
        if let Some(subject) = subject {
            request.extensions_mut().insert(principal(subject));
        }
        let answer = service.clone().oneshot(request).await.unwrap();
        statuses.push(answer.status());
    }
    let expected = [
        StatusCode::OK,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::OK,
        StatusCode::UNAUTHORIZED,
    ];
    assert_eq!(statuses, expected);
}

#[tokio::test]
async fn a_limit_alone_counts_whom_it_finds() {
    let limited = RateLimitLayer::per_principal(Quota::per_hour(1)).layer(Whoami);
    let service = by_name().layer(limited);
    let mut statuses = Vec::new();
    for name in ["ann", "ann", "bob"] {
        let answer = service.clone().oneshot(request(&[("x-name", name)])).await;
        statuses.push(answer.unwrap().status().as_u16());
    }
    assert_eq!(statuses, [200, 429, 200]);
}

#[tokio::test]
async fn the_log_and_the_span_of_a_request_say_who_it_was_and_what_became_of_it() {
    let (log, _logged) = Log::begin_at(tracing::Level::DEBUG);
    for layer in [by_name(), by_asking()] {
        for name in ["ann", "nobody"] {
            let empty = tracing::field::Empty;
            let span = tracing::info_span!(
                "request",
                principal = empty,
                credential = empty,
                denial = empty
            );
            let asked = ask(&layer, request(&[("x-name", name)]));
            asked.instrument(span).await;
        }
    }
    let said = log.text();
    let count = |text: &str| said.lines().filter(|line| line.contains(text)).count();
    let closed = |line: &&str| line.contains("close");
    let known = "request{principal=\"ann\" credential=\"token\"}";
    let refused = "request{denial=\"credential_invalid\"}";
    let spans: Vec<_> = said.lines().filter(closed).collect();
    assert_eq!(spans.len(), 4, "{said}");
    for (span, expected) in spans.into_iter().zip([known, refused, known, refused]) {
        assert!(span.contains(expected), "{span}");
    }
    assert_eq!(count("decision=\"admit\" principal=\"ann\""), 2, "{said}");
}

//! Strangers, guesses, known callers and failing stores, all on unknown routes.

use std::{convert::Infallible, sync::Mutex};

use http::{Request, Response, StatusCode};
use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService};

use super::*;
use crate::{
    audit::{AuditEvent, AuditLayer, AuditSink},
    authenticate::AuthenticateLayer,
    domain::{
        credential::CredentialKind,
        denial::{Denial, DenialKind},
        quota::Quota,
    },
};

/// Collects what is recorded: the action, the outcome, and the reason.
#[derive(Debug, Default)]
struct Recorded(Mutex<Vec<String>>);

impl AuditSink for Arc<Recorded> {
    fn record(&self, event: AuditEvent) {
        let why = event.reason.unwrap_or_default();
        let line = format!("{} {} {why}", event.action.as_str(), event.outcome.as_str());
        self.0.lock().unwrap().push(line);
    }
}

impl Recorded {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn verdict(word: &str) -> Result<Principal, Denial> {
    Err(Denial::new(match word {
        "good" => return Ok(Principal::builder("ann", CredentialKind::Token).build()),
        "elsewhere" => DenialKind::AddressRefused,
        "outage" => DenialKind::Unavailable,
        "often" => DenialKind::RateLimited,
        "old" => DenialKind::CredentialExpired,
        "two" => DenialKind::CredentialAmbiguous,
        _ => DenialKind::CredentialInvalid,
    }))
}

fn word(head: &RequestHead<'_>) -> Option<String> {
    let word = head.headers.get("x-word")?.to_str().ok()?;
    Some(word.to_owned())
}

/// At once, or after I/O.
fn rules() -> [AuthenticateLayer; 2] {
    [
        AuthenticateLayer::by_head(|head| word(head).map(|word| verdict(&word)).transpose()),
        AuthenticateLayer::new(word, async |word: String| {
            tokio::task::yield_now().await;
            verdict(&word)
        }),
    ]
}

type Asked = BoxCloneService<Request<()>, StatusCode, Infallible>;

/// An unknown route behind a limit of that many failed attempts, and of two requests per caller.
fn nothing(rule: AuthenticateLayer, attempts: u32, log: &Arc<Recorded>) -> Asked {
    let per_caller = RateLimitLayer::per_principal(Quota::per_hour(2));
    let attempts = RateLimitLayer::global(Quota::per_hour(attempts)).failed_attempts();
    let service = ServiceBuilder::new()
        .map_response(|answer: Response<_>| answer.status())
        .layer(AuditLayer::new(Arc::clone(log)))
        .layer(attempts)
        .layer(FallbackLayer::new(rule).add_rate_limit(per_caller))
        .service(service_fn(async |_| {
            let mut answer = Response::new(String::new());
            *answer.status_mut() = StatusCode::NOT_FOUND;
            Ok(answer)
        }));
    BoxCloneService::new(service)
}

async fn ask(service: &Asked, word: Option<&str>) -> u16 {
    let mut request = Request::builder();
    if let Some(word) = word {
        request = request.header("x-word", word);
    }
    let request = request.body(()).unwrap();
    service.clone().oneshot(request).await.unwrap().as_u16()
}

#[tokio::test]
async fn who_is_known_is_counted_and_nobody_else() {
    for rule in rules() {
        let log = Arc::default();
        let service = nothing(rule, 100, &log);
        for status in [404, 404, 429] {
            assert_eq!(ask(&service, Some("good")).await, status);
            assert_eq!(ask(&service, None).await, 404);
        }
        let known = [
            "authenticate success ",
            "application refused not_found: 404",
        ];
        let unknown = "application refused not_found: 404";
        let limited = "rate_limit refused rate_limited";
        let lines = log.take();
        let (calls, last) = lines.split_at(6);
        assert_eq!(calls, [known.as_slice(), &[unknown]].concat().repeat(2));
        assert_eq!(last[0], known[0]);
        assert!(last[1].starts_with(limited), "{last:?}");
        assert_eq!(last[2..], [unknown]);
    }
}

#[tokio::test]
async fn a_bad_credential_is_recorded_and_counts_and_hears_nothing_of_it() {
    for rule in rules() {
        let log = Arc::default();
        let service = nothing(rule, 3, &log);
        for (word, kind) in [
            ("guess", "credential_invalid"),
            ("old", "credential_expired"),
            ("two", "credential_ambiguous"),
        ] {
            assert_eq!(ask(&service, None).await, 404, "no attempt at anything");
            log.take();
            assert_eq!(ask(&service, Some(word)).await, 404, "{word}");
            // Once, and as anywhere else.
            assert_eq!(log.take(), [format!("authenticate refused {kind}")]);
        }
        for word in ["guess", "good"] {
            assert_eq!(ask(&service, Some(word)).await, 429, "{word}");
        }
    }
}

#[tokio::test]
async fn a_good_credential_from_elsewhere_is_recorded_and_is_no_guess() {
    for rule in rules() {
        let log = Arc::default();
        let service = nothing(rule, 1, &log);
        for _ in 0..3 {
            assert_eq!(ask(&service, Some("elsewhere")).await, 404);
            assert_eq!(log.take(), ["authenticate refused address_refused"]);
        }
    }
}

#[tokio::test]
async fn a_store_that_fails_is_the_server_s_matter() {
    for rule in rules() {
        let service = nothing(rule, 1, &Arc::default());
        for (word, status) in [("outage", 503), ("often", 429), ("good", 404)] {
            assert_eq!(ask(&service, Some(word)).await, status, "{word}");
        }
    }
}

#[tokio::test]
async fn a_credential_in_two_lines_is_nobody_s_and_an_attempt() {
    let [rule, other] = rules();
    let attempts = RateLimitLayer::global(Quota::per_hour(1)).failed_attempts();
    let seen_by = service_fn(async |request: Request<()>| {
        assert!(is_unknown(&RequestHead::of(&request)));
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let service = ServiceBuilder::new()
        .layer(attempts)
        .layer(FallbackLayer::new(rule.or(other)))
        .service(seen_by);
    for status in [200, 429] {
        let request = Request::builder().header("x-word", "good");
        let request = request.header("x-api-key", "a").header("x-api-key", "a");
        let answer = service.clone().oneshot(request.body(()).unwrap()).await;
        assert_eq!(answer.unwrap().status(), status);
    }
}

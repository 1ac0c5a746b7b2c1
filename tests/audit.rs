//! What the audit layer records, and what it leaves out.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that fails ends"
)]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use http_body_util::BodyExt;
use tollgate::{
    ApiKeyLayer, AuditLayer, Denials, PeerAddress, RateLimitLayer, RequestHead, RequestIdLayer,
    Tollgate,
    audit::{
        Act, AuditAction, AuditEntry, AuditEvent, AuditFilter, AuditOutcome, AuditSink, AuditTrail,
    },
    clock::Timestamp,
    denial::{Denial, DenialKind},
    key::KeyFormat,
    keyring::{KeyResolver, Keyring, NewKey},
    login::{Logins, NewUser},
    quota::Quota,
    store::{AuditLog, KeyId, MemoryStore, Page, Paged, StoreError, StoreErrorKind, StoreFuture},
    token::TokenIssuer,
};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<AuditEvent>>>);

impl AuditSink for Seen {
    fn record(&self, event: AuditEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Seen {
    fn take(&self) -> Vec<AuditEvent> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn told(&self) -> Vec<String> {
        let tell = |event: AuditEvent| {
            let actor = event.actor.unwrap_or_default();
            format!("{} {} {actor}", event.action, event.outcome.as_str())
        };
        self.take().into_iter().map(tell).collect()
    }
}

fn request(key: Option<&str>) -> Request<()> {
    let mut request = Request::get("/documents?token=CANARY");
    if let Some(key) = key {
        request = request.header("x-api-key", key);
    }
    let mut request = request.header("x-request-id", "req-7").body(()).unwrap();
    let peer = PeerAddress("192.0.2.7:1".parse().unwrap());
    request.extensions_mut().insert(peer);
    request
}

fn keys() -> (Keyring, KeyResolver) {
    let (store, format) = (
        MemoryStore::new(),
        KeyFormat::builder("acme").build().unwrap(),
    );
    let keys = KeyResolver::builder(store.clone())
        .add_format(format.clone())
        .build();
    (Keyring::new(store, format, keys.clone()), keys)
}

#[tokio::test]
async fn authentications_and_refusals_are_recorded_with_where_they_came_from() {
    let (ring, keys) = keys();
    let (key, record) = ring.create("user-1", NewKey::default()).await.unwrap();
    let seen = Seen::default();
    let gate = Tollgate::builder()
        .audit(seen.clone())
        .authenticate(ApiKeyLayer::new(keys))
        .per_principal(Quota::per_minute(2))
        .build()
        .unwrap();
    let hello = service_fn(async |_| Ok::<_, Infallible>(Response::new(String::new())));
    let service = gate.layer(hello);
    let send = |key: Option<&str>| service.clone().oneshot(request(key));

    for status in [200, 200, 429] {
        assert_eq!(send(Some(key.expose())).await.unwrap().status(), status);
    }
    let events = seen.take();
    let told: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
    let all = ["authenticate", "authenticate", "authenticate", "rate_limit"];
    assert_eq!(told, all);
    for event in &events {
        assert_eq!(event.actor.as_deref(), Some("user-1"));
        assert_eq!(event.key.as_ref(), Some(&record.id));
        assert_eq!(event.address, Some("192.0.2.7".parse().unwrap()));
        assert_eq!(event.request_id.as_deref(), Some("req-7"));
        assert_eq!(event.route.as_deref(), Some("GET /documents"));
    }
    assert_eq!(events[3].outcome, AuditOutcome::Refused);

    let forged = key.expose().replace(|c: char| c.is_ascii_digit(), "x");
    for sent in [None, Some("CANARY"), Some(forged.as_str())] {
        assert_eq!(send(sent).await.unwrap().status(), 401);
    }
    let events = seen.take();
    assert_eq!(events.len(), 3);
    let written = format!("{events:?}");
    for secret in ["CANARY", key.expose(), forged.as_str()] {
        assert!(!written.contains(secret), "{written}");
    }
    assert!(events.iter().all(|event| event.actor.is_none()));
}

#[tokio::test]
async fn a_refused_key_that_there_is_names_its_owner_in_the_log_alone() {
    let (ring, keys) = keys();
    let revoked = ring.create("user-1", NewKey::default()).await.unwrap();
    ring.revoke("user-1", &revoked.1.id).await.unwrap();
    let expired = NewKey {
        expires_at: Some(Timestamp::UNIX_EPOCH),
        ..NewKey::default()
    };
    let expired = ring.create("user-1", expired).await.unwrap();
    let elsewhere = NewKey {
        networks: vec!["10.0.0.0/8".parse().unwrap()],
        ..NewKey::default()
    };
    let elsewhere = ring.create("user-1", elsewhere).await.unwrap();
    let seen = Seen::default();
    let hello = service_fn(async |_| Ok::<_, Infallible>(Response::new(String::new())));
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(seen.clone()))
        .layer(ApiKeyLayer::new(keys))
        .service(hello);
    for ((key, record), status, action) in [
        (revoked, 401, "authenticate"),
        (expired, 401, "authenticate"),
        (elsewhere, 403, "api_key"),
    ] {
        // Cold, and then warm.
        for _ in 0..2 {
            let sent = request(Some(key.expose()));
            let answer = service.clone().oneshot(sent).await.unwrap();
            assert_eq!(answer.status(), status);
            let headers = format!("{:?}", answer.headers());
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let told = format!("{headers}{}", String::from_utf8_lossy(&body));
            assert!(!told.contains(record.id.as_str()) && !told.contains("user-1"));
            let [event] = <[AuditEvent; 1]>::try_from(seen.take()).unwrap();
            assert_eq!(event.action.as_str(), action);
            assert_eq!(event.outcome, AuditOutcome::Refused);
            assert_eq!(event.actor.as_deref(), Some("user-1"));
            assert_eq!(event.key, Some(record.id.clone()));
            assert!(!event.is_of_a_stranger());
        }
    }
}

#[tokio::test]
async fn what_a_handler_does_to_keys_is_the_caller_s_act() {
    let (ring, keys) = keys();
    let (key, record) = ring.create("user-1", NewKey::default()).await.unwrap();
    let seen = Seen::default();
    let handler = {
        let (ring, id) = (ring.clone(), record.id.clone());
        service_fn(move |_: Request<()>| {
            let (ring, id) = (ring.clone(), id.clone());
            async move {
                let (_, made) = ring.create("user-1", NewKey::default()).await.unwrap();
                delete_another_s(&ring, &made.id).await;
                ring.revoke("user-1", &id).await.unwrap();
                tollgate::audit::record(
                    Act::new(AuditAction::new("config.update")).target("limits"),
                );
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        })
    };
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(AuditLayer::new(seen.clone()))
        .layer(ApiKeyLayer::new(keys))
        .service(handler);
    let answer = service.oneshot(request(Some(key.expose()))).await.unwrap();
    assert_eq!(answer.status(), 200);
    let expected = [
        "authenticate success user-1",
        "key.create success user-1",
        "key.revoke success user-1",
        "config.update success user-1",
    ];
    assert_eq!(seen.told(), expected);
}

/// A key that isn't there is not changed, so that nothing is recorded.
async fn delete_another_s(ring: &Keyring, id: &KeyId) {
    assert!(ring.delete("somebody else", id).await.is_err());
}

#[tokio::test]
async fn without_the_layer_nothing_is_recorded_and_nothing_breaks() {
    let (ring, _) = keys();
    ring.create("user-1", NewKey::default()).await.unwrap();
    tollgate::audit::record(Act::new(AuditAction::LOGIN));
}

#[tokio::test]
async fn a_layer_in_shadow_refuses_nothing_that_could_be_recorded() {
    let seen = Seen::default();
    let hello = service_fn(async |_| Ok::<_, Infallible>(Response::new(String::new())));
    let limit = RateLimitLayer::per_client_ip(Quota::per_minute(1)).shadow();
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(seen.clone()))
        .layer(limit)
        .service(hello);
    for _ in 0..3 {
        assert_eq!(
            service
                .clone()
                .oneshot(request(None))
                .await
                .unwrap()
                .status(),
            200
        );
    }
    assert_eq!(seen.told(), Vec::<String>::new());
}

/// A log that takes nothing.
#[derive(Debug)]
struct Full;

impl AuditLog for Full {
    fn append(&self, _: AuditEvent) -> Result<(), StoreError> {
        Err(StoreError::new(StoreErrorKind::Busy, "full"))
    }

    fn entries(&self, _: AuditFilter, _: Page) -> StoreFuture<Paged<AuditEntry>> {
        StoreFuture::ready(Err(StoreError::new(StoreErrorKind::Busy, "full")))
    }
}

#[tokio::test]
async fn a_full_log_holds_up_no_request_and_its_losses_are_counted() {
    let trail = Arc::new(AuditTrail::new(Full));
    let (_, keys) = keys();
    let hello = service_fn(async |_| Ok::<_, Infallible>(Response::new(String::new())));
    let service = ServiceBuilder::new()
        .layer(AuditLayer::new(Arc::clone(&trail)))
        .layer(ApiKeyLayer::new(keys))
        .service(hello);
    for _ in 0..3 {
        assert_eq!(
            service
                .clone()
                .oneshot(request(None))
                .await
                .unwrap()
                .status(),
            401
        );
    }
    assert_eq!(trail.lost(), 3);
}

#[tokio::test]
async fn a_handler_s_own_refusal_is_recorded_once() {
    let seen = Seen::default();
    let handler = service_fn(async |request: Request<()>| {
        let kind = match request.headers().get("x-wrong") {
            Some(_) => DenialKind::Unprocessable,
            None => DenialKind::LoginFailed,
        };
        let head = RequestHead::of(&request);
        let answer = Denials::default().respond(&Denial::new(kind), &head);
        Ok::<_, Infallible>(answer.map(http_body_util::Full::new))
    });
    let service = AuditLayer::new(seen.clone()).layer(handler);
    let answer = service.clone().oneshot(request(None)).await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(seen.told(), ["authenticate refused "]);
    let mut wrong = request(None);
    wrong.headers_mut().insert("x-wrong", "1".parse().unwrap());
    assert_eq!(service.oneshot(wrong).await.unwrap().status(), 422);
    assert_eq!(seen.told(), ["application refused "]);
}

#[tokio::test]
async fn every_answer_that_refuses_is_recorded_also_a_bare_one() {
    let (ring, keys) = keys();
    let (key, _) = ring.create("user-1", NewKey::default()).await.unwrap();
    let seen = Seen::default();
    let bare = service_fn(async |request: Request<()>| {
        let status = request.headers().get("x-status").unwrap();
        let status = status.to_str().unwrap().parse().unwrap();
        let mut answer = Response::new(String::new());
        *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
        Ok::<_, Infallible>(answer)
    });
    let known = ServiceBuilder::new()
        .layer(AuditLayer::new(seen.clone()))
        .layer(ApiKeyLayer::new(keys))
        .service(bare);
    let unknown = AuditLayer::new(seen.clone()).layer(bare);
    for (status, outcome) in [
        (200, None),
        (304, None),
        (400, Some("refused")),
        (404, Some("refused")),
        (405, Some("refused")),
        (408, Some("refused")),
        (409, Some("refused")),
        (413, Some("refused")),
        (415, Some("refused")),
        (418, Some("refused")),
        (422, Some("refused")),
        (500, Some("failed")),
        (502, Some("failed")),
        (503, Some("failed")),
    ] {
        let ask = |key: Option<&str>| {
            let mut request = request(key);
            request.headers_mut().insert("x-status", status.into());
            request
        };
        let answer = known.clone().oneshot(ask(Some(key.expose()))).await;
        assert_eq!(answer.unwrap().status(), status);
        let events = seen.take();
        let told = events.get(1).map(|event| event.outcome.as_str());
        assert_eq!((events.len() > 1, told), (outcome.is_some(), outcome));
        for event in events.iter().skip(1) {
            assert_eq!(event.actor.as_deref(), Some("user-1"));
            assert_eq!(event.route.as_deref(), Some("GET /documents"));
            let reason = event.reason.as_deref().unwrap();
            assert!(reason.contains(&status.to_string()), "{reason}");
        }
        unknown.clone().oneshot(ask(None)).await.unwrap();
        let events = seen.take();
        assert_eq!(events.len(), usize::from(outcome.is_some()));
        assert!(events.iter().all(AuditEvent::is_of_a_stranger), "{status}");
    }
}

#[tokio::test]
async fn what_grpc_refuses_by_its_head_is_recorded_too() {
    let seen = Seen::default();
    let bare = service_fn(async |request: Request<()>| {
        let mut answer = Response::new(String::new());
        let status = request.headers()["x-status"].clone();
        answer.headers_mut().insert("grpc-status", status);
        Ok::<_, Infallible>(answer)
    });
    let service = AuditLayer::new(seen.clone()).layer(bare);
    for (status, told) in [
        ("0", None),
        ("5", Some("application refused ")),
        ("7", Some("application refused ")),
        ("16", Some("authenticate refused ")),
        ("13", Some("application failed ")),
        ("14", Some("application failed ")),
    ] {
        let mut request = request(None);
        let status = status.parse().unwrap();
        request.headers_mut().insert("x-status", status);
        service.clone().oneshot(request).await.unwrap();
        assert_eq!(seen.told(), told.into_iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn logins_and_users_are_recorded_and_no_password_is() {
    let (seen, store) = (Seen::default(), Arc::new(MemoryStore::new()));
    let issuer = TokenIssuer::hs256(b"thirty-two bytes or more, please!")
        .build()
        .unwrap();
    let logins = Logins::builder(store.clone(), store, issuer)
        .build()
        .unwrap();
    let handler = {
        let logins = logins.clone();
        service_fn(move |_: Request<()>| {
            let logins = logins.clone();
            async move {
                let (email, password) = ("me@example.com", "CANARY horse battery");
                let user = logins
                    .register(NewUser::new(email, password))
                    .await
                    .unwrap();
                assert!(logins.login(email, "CANARY wrong").await.is_err());
                assert!(
                    logins
                        .login("CANARY typed for a name", password)
                        .await
                        .is_err()
                );
                let login = logins.login(email, password).await.unwrap();
                logins.logout(&login.session).await.unwrap();
                logins
                    .set_roles(&user.id, vec!["viewer".to_owned()])
                    .await
                    .unwrap();
                logins.deactivate(&user.id).await.unwrap();
                logins.delete_user(&user.id).await.unwrap();
                assert!(logins.delete_user(&user.id).await.is_err());
                Ok::<_, Infallible>(Response::new(user.id.to_string()))
            }
        })
    };
    let service = AuditLayer::new(seen.clone()).layer(handler);
    let id = service.oneshot(request(None)).await.unwrap().into_body();
    let events = seen.take();
    let written = format!("{events:?}");
    assert!(!written.contains("CANARY"), "{written}");
    let tell = |event: &AuditEvent| {
        let who = event.actor.as_ref().or(event.target.as_ref());
        let who = who.map_or(
            "nobody",
            |name| if *name == id { "the user" } else { "other" },
        );
        let why = event.reason.as_deref().unwrap_or_default();
        format!("{} {} {who} {why}", event.action, event.outcome.as_str())
    };
    let told: Vec<_> = events.iter().map(tell).collect();
    assert_eq!(told[0], "user.create success the user ");
    assert!(told[1].starts_with("login refused the user "), "{told:?}");
    assert!(told[2].starts_with("login refused nobody "), "{told:?}");
    assert_eq!(told[3], "login success the user ");
    assert_eq!(told[4], "logout success other ");
    assert_eq!(told[5], "user.update success the user roles=viewer");
    assert_eq!(told[6], "user.update success the user active=false");
    assert_eq!(told[7], "user.delete success the user ");
    assert_eq!(told.len(), 8, "what was not done is not recorded");
}

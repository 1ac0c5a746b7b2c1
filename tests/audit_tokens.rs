//! Whose a refused token was, in the audit log: what its signature says, and never what it says
//! itself.

#![expect(clippy::unwrap_used, reason = "a test that fails ends")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use tollgate::{
    AuditLayer, Denials, JwtLayer, RequestHead,
    audit::{AuditAction, AuditEvent, AuditOutcome, AuditSink},
    clock::ManualClock,
    denial::Denial,
    login::{Login, Logins, NewUser, RefreshTokens},
    store::MemoryStore,
    token::{TokenIssuer, TokenVerifier},
};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

const OURS: &[u8] = b"thirty-two bytes or more, please!";
const EMAIL: &str = "me@example.com";
const PASSWORD: &str = "correct horse";

#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<AuditEvent>>>);

impl AuditSink for Seen {
    fn record(&self, event: AuditEvent) {
        self.0.lock().unwrap().push(event);
    }
}

struct World {
    clock: Arc<ManualClock>,
    logins: Logins,
    verifier: TokenVerifier,
    seen: Seen,
}

fn issuer(clock: &Arc<ManualClock>, secret: &[u8], name: &str) -> TokenIssuer {
    let issuer = TokenIssuer::hs256(secret).with_clock(clock.clone());
    let issuer = issuer.issuer(name).lifetime(Duration::from_secs(60));
    issuer.build().unwrap()
}

impl World {
    fn new() -> Self {
        let (store, clock) = <(Arc<MemoryStore>, Arc<ManualClock>)>::default();
        let issuer = issuer(&clock, OURS, "us");
        let verifier = issuer.verifier().build().unwrap();
        let logins = Logins::builder(store.clone(), store, issuer)
            .refresh(RefreshTokens::rotating(Duration::from_secs(120)))
            .build()
            .unwrap();
        Self {
            clock,
            logins,
            verifier,
            seen: Seen::default(),
        }
    }

    async fn login(&self) -> Login {
        self.logins.login(EMAIL, PASSWORD).await.unwrap()
    }

    /// Of the one event that is recorded: by whom.
    fn actor(&self, status: http::StatusCode, action: &AuditAction) -> Option<String> {
        assert_eq!(status, 401);
        let events = std::mem::take(&mut *self.seen.0.lock().unwrap());
        let [event] = <[AuditEvent; 1]>::try_from(events).unwrap();
        assert_eq!(event.outcome, AuditOutcome::Refused);
        assert_eq!(event.action, *action);
        event.actor
    }

    /// Who is named when a layer refuses the token.
    async fn at_the_door(&self, token: &str) -> Option<String> {
        let sessions = self.logins.resolver().clone();
        let guarded = ServiceBuilder::new()
            .layer(AuditLayer::new(self.seen.clone()))
            .layer(JwtLayer::new(self.verifier.clone()).sessions(sessions))
            .service(service_fn(async |_| {
                Ok::<_, Infallible>(Response::new(String::new()))
            }));
        let request = Request::get("/").header("authorization", format!("Bearer {token}"));
        let answer = guarded.oneshot(request.body(()).unwrap()).await;
        self.actor(answer.unwrap().status(), &AuditAction::AUTHENTICATE)
    }

    /// Who is named when it is no good as a refresh token.
    async fn at_a_refresh(&self, token: &str) -> Option<String> {
        let logins = &self.logins;
        let refresh = service_fn(async |request: Request<()>| {
            let refused = logins.refresh(token).await.unwrap_err();
            let head = RequestHead::of(&request);
            let answer = Denials::default().respond(&Denial::from(refused), &head);
            Ok::<_, Infallible>(answer.map(http_body_util::Full::new))
        });
        let audited = AuditLayer::new(self.seen.clone()).layer(refresh);
        let answer = audited.oneshot(Request::new(())).await.unwrap();
        self.actor(answer.status(), &AuditAction::REFRESH)
    }
}

fn refresh_of(login: &Login) -> &str {
    login.refresh_token.as_ref().unwrap().expose()
}

#[tokio::test]
async fn a_refused_token_names_its_holder_where_its_signature_is_good() {
    let world = World::new();
    let user = world.logins.register(NewUser::new(EMAIL, PASSWORD)).await;
    let me = Some(user.unwrap().id.to_string());
    let (over, late) = (world.login().await, world.login().await);
    world.logins.logout(&over.session).await.unwrap();
    // Cold, and then warm.
    for _ in 0..2 {
        assert_eq!(world.at_the_door(over.token.expose()).await, me);
        assert_eq!(world.at_a_refresh(refresh_of(&over)).await, me);
    }
    assert_eq!(
        world.at_the_door(refresh_of(&late)).await,
        me,
        "another use"
    );
    assert_eq!(world.at_a_refresh(late.token.expose()).await, me);
    world.clock.advance(Duration::from_secs(200));
    for _ in 0..2 {
        assert_eq!(world.at_the_door(late.token.expose()).await, me);
        assert_eq!(world.at_a_refresh(refresh_of(&late)).await, me);
    }
}

#[tokio::test]
async fn a_token_that_we_did_not_issue_names_nobody() {
    let world = World::new();
    let user = world.logins.register(NewUser::new(EMAIL, PASSWORD)).await;
    let user = user.unwrap().id;
    let login = world.login().await;
    let forge = |secret, name| {
        let issuer = issuer(&world.clock, secret, name);
        let token = issuer.issue(&user, &login.session, []).unwrap();
        token.expose().to_owned()
    };
    let (claims, _) = login.token.expose().rsplit_once('.').unwrap();
    for token in [
        forge(b"another thirty-two bytes or more!", "us"),
        // A namesake.
        forge(OURS, "them"),
        format!("{claims}.AAAA"),
        "a.b.c".to_owned(),
    ] {
        assert_eq!(world.at_the_door(&token).await, None);
        assert_eq!(world.at_a_refresh(&token).await, None);
    }
}

//! A session's cookie that isn't good, beside a key or a token: it counts as none.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, header::AUTHORIZATION};
use tollgate::{
    ApiKeyLayer, AuthenticateLayer, CredentialKind, FallbackLayer, JwtLayer, Principal,
    RateLimitLayer, RequestHead, SessionCookieLayer, Tollgate,
    audit::{AuditEvent, AuditSink},
    clock::{Clock, Timestamp},
    denial::{Denial, DenialKind},
    guard::{Authenticator, CredentialPlaces, Decision, Gate, Identified, Policy, Verdict},
    keyring::KeyResolver,
    quota::Quota,
    store::{SessionId, StaticKeys, UserId},
    token::{SessionCookieVerifier, TokenIssuer, TokenVerifier},
};
use tower::{Layer, ServiceExt, service_fn};

const WHOLE: &str = include_str!("../src/token/cookie/vectors/whole.txt");
const SECRET: &[u8] = b"thirty-two bytes or more, please!";
const KEY: &str = "the-key-of-somebody";
const OTHER: &str = "x-acme-key";

type Line<'a> = (&'static str, &'a str);

/// After the end of every session.
#[derive(Debug)]
struct Late;

impl Clock for Late {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(5_000_000_000).unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

fn sessions() -> SessionCookieLayer {
    let verifier = SessionCookieVerifier::next_auth(b"a secret made for the tests of this crate");
    SessionCookieLayer::new(verifier.build().unwrap())
}

fn after_their_end() -> SessionCookieLayer {
    let verifier = SessionCookieVerifier::next_auth(b"a secret made for the tests of this crate");
    let verifier = verifier.with_clock(Arc::new(Late));
    SessionCookieLayer::new(verifier.build().unwrap())
}

fn of_another_secret() -> SessionCookieLayer {
    let verifier = SessionCookieVerifier::next_auth(b"another secret made for these tests, too");
    SessionCookieLayer::new(verifier.build().unwrap())
}

fn keys() -> ApiKeyLayer {
    let keys = StaticKeys::new().add_key("app", KEY, []).unwrap();
    ApiKeyLayer::new(KeyResolver::builder(keys).build())
}

fn tokens() -> JwtLayer {
    JwtLayer::new(TokenVerifier::hs256(SECRET).build().unwrap())
}

fn bearer() -> String {
    let (user, login) = (
        UserId::new("by-token").unwrap(),
        SessionId::new("s").unwrap(),
    );
    let issuer = TokenIssuer::hs256(SECRET).build().unwrap();
    format!(
        "Bearer {}",
        issuer.issue(&user, &login, []).unwrap().expose()
    )
}

fn cookie(value: &str) -> String {
    format!("theme=dark; next-auth.session-token={value}")
}

/// Each isn't good for another reason.
fn bad_cookies() -> [String; 5] {
    [
        cookie("a.b.c.d.e"),
        cookie(&WHOLE[1..]),
        cookie(&format!("{WHOLE}; next-auth.session-token={WHOLE}")),
        cookie("%22"),
        "next-auth.session-token.1=a".to_owned(),
    ]
}

async fn whoami(request: Request<()>) -> Result<Response<String>, Infallible> {
    let mut answer = Response::new(String::new());
    if let Some(principal) = request.extensions().get::<Principal>() {
        let subject = principal.subject().parse().unwrap();
        answer.headers_mut().insert("x-subject", subject);
    }
    Ok(answer)
}

fn request(lines: &[Line<'_>]) -> Request<()> {
    let request = Request::builder().method("POST").uri("/");
    let fill =
        |request: http::request::Builder, (name, value): &Line<'_>| request.header(*name, *value);
    lines
        .iter()
        .fold(request.header("host", "a.example"), fill)
        .body(())
        .unwrap()
}

/// Whom the answer is for; a status when it is a refusal.
macro_rules! ask {
    ($layer:expr, $lines:expr) => {{
        let service = $layer.layer(service_fn(whoami));
        let answer = service.oneshot(request($lines)).await.unwrap();
        match answer.headers().get("x-subject") {
            Some(subject) => subject.to_str().unwrap().to_owned(),
            None => answer.status().as_u16().to_string(),
        }
    }};
}

/// In every order of the three, and on either side.
macro_rules! everywhere {
    ($sessions:expr, $lines:expr, $expected:expr) => {{
        let sessions = || $sessions;
        let lines: &[Line<'_>] = $lines;
        let expected: &str = $expected;
        assert_eq!(ask!(sessions().or(keys()).or(tokens()), lines), expected);
        assert_eq!(ask!(sessions().or(keys().or(tokens())), lines), expected);
        assert_eq!(ask!(sessions().or(tokens()).or(keys()), lines), expected);
        assert_eq!(ask!(sessions().or(tokens().or(keys())), lines), expected);
        assert_eq!(ask!(keys().or(sessions()).or(tokens()), lines), expected);
        assert_eq!(ask!(keys().or(sessions().or(tokens())), lines), expected);
        assert_eq!(ask!(tokens().or(sessions()).or(keys()), lines), expected);
        assert_eq!(ask!(tokens().or(sessions().or(keys())), lines), expected);
        assert_eq!(ask!(keys().or(tokens()).or(sessions()), lines), expected);
        assert_eq!(ask!(tokens().or(keys().or(sessions())), lines), expected);
        let gate = Tollgate::builder().authenticate(sessions().or(keys()).or(tokens()));
        assert_eq!(ask!(gate.build().unwrap(), lines), expected);
    }};
}

fn with<'a>(cookie: &'a str, beside: &[Line<'a>]) -> Vec<Line<'a>> {
    [beside, &[("cookie", cookie)]].concat()
}

#[tokio::test]
async fn the_other_credential_decides_alone() {
    let (bearer, bearer_key) = (bearer(), format!("Bearer {KEY}"));
    let foreign = ("origin", "https://evil.example");
    let cases: [(Vec<Line<'_>>, &str); 9] = [
        (vec![("x-api-key", KEY)], "app"),
        (vec![("authorization", &bearer_key)], "app"),
        (vec![("authorization", &bearer)], "by-token"),
        (vec![("x-api-key", KEY), foreign], "app"),
        (vec![("x-api-key", "a-guess")], "401"),
        (vec![("x-api-key", "")], "401"),
        (vec![("authorization", "Bearer a.b.c")], "401"),
        (vec![("authorization", "Basic YTpi")], "401"),
        (vec![("x-api-key", KEY), ("x-api-key", KEY)], "401"),
    ];
    for (beside, expected) in &cases {
        for bad in bad_cookies() {
            everywhere!(sessions(), &with(&bad, beside), expected);
        }
        let whole = cookie(WHOLE);
        everywhere!(after_their_end(), &with(&whole, beside), expected);
        everywhere!(of_another_secret(), &with(&whole, beside), expected);
    }
}

#[tokio::test]
async fn without_another_credential_a_bad_cookie_is_refused() {
    let guest = || {
        AuthenticateLayer::by_head(|_| {
            let guest = Principal::builder("guest", CredentialKind::Other("none"));
            Ok(Some(guest.build()))
        })
    };
    assert_eq!(ask!(sessions().or(guest()), &[]), "guest");
    for bad in bad_cookies() {
        let bad = ("cookie", bad.as_str());
        everywhere!(sessions(), &[bad], "401");
        everywhere!(sessions(), &[bad, ("x-other", KEY)], "401");
        assert_eq!(ask!(sessions().or(guest()), &[bad]), "401");
        assert_eq!(ask!(sessions(), &[bad, ("x-api-key", KEY)]), "401");
        let exclusive = sessions().exclusive().or(keys());
        assert_eq!(ask!(exclusive, &[bad, ("x-api-key", KEY)]), "401");
    }
    let unread = cookie("a.b.c.d.e");
    let foreign = [("cookie", &*unread), ("origin", "https://evil.example")];
    assert_eq!(ask!(sessions().or(keys()), &foreign), "403");
}

#[tokio::test]
async fn a_key_in_a_header_of_ones_own_is_another_credential() {
    let own = || keys().header(OTHER.parse().unwrap());
    let bad = cookie("a.b.c.d.e");
    let lines = [("cookie", &*bad), (OTHER, KEY)];
    assert_eq!(ask!(sessions().or(own()), &lines), "app");
    assert_eq!(ask!(sessions().or(tokens()).or(own()), &lines), "app");
    assert_eq!(ask!(sessions().or(tokens().or(own())), &lines), "app");
    assert_eq!(ask!(tokens().or(sessions()).or(own()), &lines), "app");
    assert_eq!(ask!(sessions().or(keys()), &lines), "401");
}

#[tokio::test]
async fn a_good_cookie_keeps_its_place_and_its_rules() {
    let whole = cookie(WHOLE);
    let good = ("cookie", &*whole);
    let foreign = ("origin", "https://evil.example");
    for beside in [KEY, "a-guess"] {
        let key = ("x-api-key", beside);
        assert_eq!(ask!(sessions().or(keys()), &[good, key]), "user-7");
        assert_eq!(ask!(sessions().or(keys()), &[good, key, foreign]), "403");
        assert_eq!(ask!(sessions().or(keys()), &[good, key, key]), "401");
    }
    let key = ("x-api-key", KEY);
    assert_eq!(ask!(keys().or(sessions()), &[good, key]), "app");
}

/// The refusal of what was sent on purpose says more than that of the cookie.
#[tokio::test]
async fn a_refusal_is_about_the_other_credential() {
    let whole = cookie(WHOLE);
    let either = after_their_end().or(tokens());
    let code = async |lines: &[Line<'_>]| {
        let service = either.clone().layer(service_fn(whoami));
        let answer = service.oneshot(request(lines)).await.unwrap();
        let denial = answer.extensions().get::<tollgate::denial::Denial>();
        let denial = denial.unwrap();
        (denial.kind().as_str(), denial.credential().unwrap())
    };
    let cookie = ("cookie", &*whole);
    assert_eq!(
        code(&[cookie]).await,
        ("credential_expired", CredentialKind::SessionCookie)
    );
    assert_eq!(
        code(&[cookie, ("authorization", "Bearer opaque")]).await,
        ("credential_invalid", CredentialKind::Token)
    );
    assert_eq!(
        code(&[cookie, ("authorization", "Basic YTpi")]).await,
        ("credential_expired", CredentialKind::SessionCookie)
    );
}

/// Knows nobody, and takes its time to say so.
#[derive(Clone, Debug)]
struct Slow;

impl Policy for Slow {
    type Permit = Identified;

    fn name(&self) -> &'static str {
        "slow"
    }

    fn places(&self) -> CredentialPlaces {
        CredentialPlaces::headers([AUTHORIZATION])
    }

    fn decide(&self, _: &RequestHead<'_>) -> Decision<Identified> {
        Decision::pending(async {
            tokio::task::yield_now().await;
            Verdict::Abstain(Denial::new(DenialKind::CredentialMissing))
        })
    }
}

impl Authenticator for Slow {
    type Policy = Self;

    fn into_gate(self) -> Gate<Self> {
        Gate::new(self)
    }
}

/// Or a guess would count as none.
#[tokio::test]
async fn a_policy_that_takes_its_time_unsays_no_bad_cookie() {
    for bad in bad_cookies() {
        let service = sessions().or(Slow).layer(service_fn(whoami));
        let lines = with(&bad, &[("authorization", "Basic YTpi")]);
        let answer = service.oneshot(request(&lines)).await.unwrap();
        let denial = answer.extensions().get::<Denial>().unwrap();
        assert_ne!(denial.kind(), DenialKind::CredentialMissing, "{bad}");
        assert_eq!(denial.credential(), Some(CredentialKind::SessionCookie));
    }
}

/// What is recorded: the outcome, of whom, and the reason.
#[derive(Clone, Debug, Default)]
struct Recorded(Arc<Mutex<Vec<String>>>);

impl AuditSink for Recorded {
    fn record(&self, event: AuditEvent) {
        let whose = event.actor.as_deref().unwrap_or("-").to_owned();
        let why = event.reason.unwrap_or_default();
        let line = format!("{} {whose} {why}", event.outcome.as_str());
        self.0.lock().unwrap().push(line);
    }
}

#[tokio::test]
async fn the_audit_log_tells_what_was_judged() {
    let recorded = Recorded::default();
    let gate = Tollgate::builder().authenticate(sessions().or(keys()));
    let gate = gate.audit(recorded.clone()).build().unwrap();
    let bad = cookie("a.b.c.d.e");
    let bad = ("cookie", &*bad);
    for (lines, expected, line) in [
        (
            vec![bad, ("x-api-key", "a-guess")],
            "401",
            "refused - credential_invalid: unknown key",
        ),
        (vec![bad, ("x-api-key", KEY)], "app", "success app "),
        (vec![bad], "401", "refused - credential_invalid: `dir`"),
    ] {
        assert_eq!(ask!(gate.clone(), &lines), expected);
        let said = std::mem::take(&mut *recorded.0.lock().unwrap());
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with(line), "{said:?}");
    }
}

#[tokio::test]
async fn in_shadow_the_key_s_owner_is_known() {
    let bad = cookie("a.b.c.d.e");
    let either = sessions().or(keys()).shadow();
    let known = [("cookie", &*bad), ("x-api-key", KEY)];
    assert_eq!(ask!(either.clone(), &known), "app");
    let guessed = [("cookie", &*bad), ("x-api-key", "a-guess")];
    assert_eq!(ask!(either.clone(), &guessed), "200");
    assert_eq!(ask!(either, &known[..1]), "200");
}

/// On routes, and where there is none.
#[tokio::test]
async fn guesses_at_keys_count_beside_any_cookie() {
    async fn guess(either: impl Authenticator) {
        let attempts = || {
            let (limit, spared) = (RateLimitLayer::global(Quota::per_hour(2)), sessions());
            limit
                .failed_attempts()
                .skip(move |head| spared.finds_session(head))
        };
        let gate = either.into_gate();
        let route = attempts().layer(gate.layer(service_fn(whoami)));
        let nowhere = attempts().layer(FallbackLayer::new(Same(gate)).layer(service_fn(whoami)));
        let (good, bad) = (cookie(WHOLE), cookie("a.b.c.d.e"));
        for (cookie, key, at_route, at_nothing) in [
            (&bad, KEY, 200, 200),
            (&good, "a-guess", 200, 200),
            (&bad, "a-guess", 401, 200),
            (&good, "a-guess", 200, 200),
            (&bad, "another-guess", 401, 200),
            (&bad, "a-third-guess", 429, 429),
            (&bad, KEY, 429, 429),
            (&good, KEY, 200, 200),
        ] {
            let call = || request(&[("cookie", cookie), ("x-api-key", key)]);
            let answer = route.clone().oneshot(call()).await.unwrap();
            assert_eq!(answer.status(), at_route, "{key}");
            let answer = nowhere.clone().oneshot(call()).await.unwrap();
            assert_eq!(answer.status(), at_nothing, "{key}");
        }
    }
    guess(sessions().or(keys())).await;
    guess(sessions().or(tokens()).or(keys())).await;
    guess(sessions().or(tokens().or(keys()))).await;
}

/// A gate as an authenticator.
struct Same<P>(tollgate::guard::Gate<P>);

impl<P> Authenticator for Same<P>
where
    P: tollgate::guard::Policy<Permit = tollgate::guard::Identified> + Clone,
{
    type Policy = P;

    fn into_gate(self) -> tollgate::guard::Gate<P> {
        self.0
    }
}

#[test]
fn a_session_is_found_only_if_it_is_good() {
    let finds = |layer: &SessionCookieLayer, lines: &[Line<'_>]| {
        let request = request(lines);
        layer.finds_session(&tollgate::RequestHead::of(&request))
    };
    let whole = cookie(WHOLE);
    assert!(finds(&sessions(), &[("cookie", &whole)]));
    assert!(finds(
        &sessions(),
        &[("cookie", &whole), ("x-api-key", KEY)]
    ));
    assert!(!finds(&after_their_end(), &[("cookie", &whole)]));
    assert!(!finds(&of_another_secret(), &[("cookie", &whole)]));
    assert!(!finds(&sessions(), &[]));
    for bad in bad_cookies() {
        assert!(!finds(&sessions(), &[("cookie", &bad)]), "{bad}");
    }
}

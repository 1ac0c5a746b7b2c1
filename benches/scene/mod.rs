//! One caller in front of one service, and contestants that are measured by turns.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod parts;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::BodyExt;
use tollgate::{
    ApiKeyLayer, JwtLayer, PeerAddress, Price, PriceTable, Principal, RateLimitLayer, RbacLayer,
    SpendingLimitLayer, Tollgate, TollgateLayer,
    api_key::ApiKeyPolicy,
    key::{ApiKey, KeyFormat},
    keyring::{KeyResolver, Keyring, NewKey, Resolution},
    money::Money,
    quota::Quota,
    role::{Permission, RoleSet},
    store::{AccountId, Ledger, MemoryStore, SessionId, UserId},
    token::{TokenIssuer, TokenVerifier},
    usage::Credit,
};
use tower::{Service, ServiceExt};

pub(crate) const PATH: &str = "/v1/chat/completions";
pub(crate) const SECRET: &[u8] = b"a secret of forty bytes, all of it ASCII";
/// So many that no call is refused, nor the arithmetic spared.
const PER_MINUTE: u32 = 4_000_000_000;

/// A caller with a key, a token and money.
pub(crate) struct Scene {
    pub(crate) key: ApiKey,
    pub(crate) token: String,
    pub(crate) principal: Principal,
    key_header: HeaderValue,
    bearer: HeaderValue,
    keys: KeyResolver,
    verifier: TokenVerifier,
    roles: RoleSet,
    store: MemoryStore,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let store = MemoryStore::builder().usage_rows_max(1_000).build();
        let format = KeyFormat::builder("bench")
            .environments(["live"])
            .build()
            .unwrap();
        let keys = KeyResolver::builder(store.clone())
            .add_format(format.clone())
            .ttl(Duration::from_secs(86_400))
            .touch_interval(Duration::from_secs(86_400))
            .build();
        let new = NewKey {
            environment: Some("live".into()),
            roles: vec!["operator".into()],
            ..NewKey::default()
        };
        let ring = Keyring::new(store.clone(), format, keys.clone());
        let (key, _) = ring.create("user-1", new).await.unwrap();
        let credit = Credit {
            account: AccountId::new("user-1").unwrap(),
            amount: Money::from_dollars(5_000_000_000).unwrap(),
            reference: "first".into(),
        };
        store.credit(credit).await.unwrap();
        let Resolution::Pending(found) = keys.resolve(key.expose()) else {
            unreachable!("nobody has asked for it yet");
        };
        let principal = found.await.unwrap().principal().clone();
        let issuer = TokenIssuer::hs256(SECRET).issuer("bench").audience("bench");
        let issuer = issuer
            .lifetime(Duration::from_secs(86_400))
            .build()
            .unwrap();
        let user = UserId::new("user-1").unwrap();
        let session = SessionId::new("session-1").unwrap();
        let token = issuer.issue(&user, &session, ["operator"]).unwrap();
        Self {
            key_header: key.expose().parse().unwrap(),
            bearer: format!("Bearer {}", token.expose()).parse().unwrap(),
            token: token.expose().to_owned(),
            key,
            principal,
            keys,
            verifier: Self::verifier(50_000),
            roles: RoleSet::viewer_operator_admin(),
            store,
        }
    }

    /// A verifier that remembers so many tokens.
    pub(crate) fn verifier(tokens: usize) -> TokenVerifier {
        let verifier = TokenVerifier::hs256(SECRET)
            .issuer("bench")
            .audience("bench");
        verifier.cache_capacity(tokens).build().unwrap()
    }

    /// A request with a key, from a peer that is known.
    pub(crate) fn with_key(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(PATH);
        let peer = PeerAddress(([192, 0, 2, 7], 4_711).into());
        request.extensions_mut().insert(peer);
        let headers = request.headers_mut();
        headers.insert("x-api-key", self.key_header.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request
    }

    /// The same with a token.
    pub(crate) fn with_token(&self) -> Request<()> {
        let mut request = self.with_key();
        request.headers_mut().remove("x-api-key");
        request
            .headers_mut()
            .insert("authorization", self.bearer.clone());
        request
    }

    /// The same, of somebody who is known already.
    pub(crate) fn known(&self) -> Request<()> {
        let mut request = self.with_key();
        request.extensions_mut().insert(self.principal.clone());
        request
    }

    pub(crate) fn api_key(&self) -> ApiKeyLayer {
        ApiKeyLayer::new(self.keys.clone())
    }

    pub(crate) fn jwt(&self) -> JwtLayer {
        JwtLayer::new(self.verifier.clone())
    }

    pub(crate) fn rbac(&self) -> RbacLayer {
        RbacLayer::require(&self.roles, Permission::new("write"))
    }

    pub(crate) fn one_window(&self) -> RateLimitLayer {
        RateLimitLayer::per_principal(Quota::per_minute(PER_MINUTE))
    }

    pub(crate) fn three_windows(&self) -> RateLimitLayer {
        RateLimitLayer::per_principal(three_windows())
    }

    pub(crate) fn spending(&self) -> SpendingLimitLayer {
        SpendingLimitLayer::new(self.store.clone(), prices())
    }

    /// Limit by address, key, role, three windows, money.
    pub(crate) fn whole(&self) -> TollgateLayer<ApiKeyPolicy> {
        Tollgate::builder()
            .per_client_ip(Quota::per_minute(PER_MINUTE))
            .authenticate(self.api_key())
            .require(&self.roles, Permission::new("write"))
            .per_principal(three_windows())
            .spending(self.store.clone(), prices())
            .build()
            .unwrap()
    }
}

fn three_windows() -> [Quota; 3] {
    [
        Quota::per_second(100_000_000),
        Quota::per_minute(PER_MINUTE),
        Quota::per_hour(u32::MAX),
    ]
}

fn prices() -> PriceTable {
    let price = Price::flat(Money::from_nanos(1_000));
    PriceTable::new().route("POST", PATH, price).unwrap()
}

/// The service behind all of it: an answer with one header and a short body, at once.
pub(crate) struct Bare<B>(pub(crate) fn() -> B);

impl<B> Clone for Bare<B> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<R, B> Service<Request<R>> for Bare<B> {
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Ready<Result<Response<B>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        black_box(&request);
        let mut answer = Response::new((self.0)());
        let media_type = HeaderValue::from_static("application/json");
        answer.headers_mut().insert(CONTENT_TYPE, media_type);
        ready(Ok(answer))
    }
}

pub(crate) fn full<B: From<&'static str>>() -> B {
    B::from(r#"{"hello":"world"}"#)
}

/// One call, as a server makes it: a clone of the service, the answer, its body to the end. Nothing
/// waits.
pub(crate) fn call<S, R, B>(service: &S, request: Request<R>)
where
    S: Service<Request<R>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes> + Unpin,
{
    let answer = service.clone().oneshot(request).now_or_never();
    let (head, mut body) = answer.unwrap().unwrap().into_parts();
    assert_eq!(head.status, 200);
    while let Some(frame) = body.frame().now_or_never().unwrap() {
        black_box(frame.ok());
    }
    black_box(head);
}

/// Whoever is measured: a name and one call of it.
pub(crate) type Contestant<'a> = (&'static str, Box<dyn FnMut() + 'a>);

/// What one call of each takes, in picoseconds. Short slices are taken by turns, so that whatever
/// else the machine does meets all of them, and the tenth fastest of a hundred counts: slices in
/// which something else was served, as most are on a busy machine, say nothing about the
/// contestant.
pub(crate) fn by_turns(contestants: &mut [Contestant<'_>], rounds: usize) -> Vec<u128> {
    const CALLS: u32 = 32;
    let mut slices = vec![Vec::with_capacity(rounds); contestants.len()];
    for round in 0..rounds + rounds / 10 {
        for ((_, contestant), slices) in contestants.iter_mut().zip(&mut slices) {
            let started = Instant::now();
            for _ in 0..CALLS {
                contestant();
            }
            let spent = started.elapsed();
            // The first rounds warm up.
            if round >= rounds / 10 {
                slices.push(spent.as_nanos() * 1_000 / u128::from(CALLS));
            }
        }
    }
    let fast = |mut slices: Vec<u128>| {
        slices.sort_unstable();
        slices[slices.len() / 10]
    };
    slices.into_iter().map(fast).collect()
}

/// `a` over `b`, in hundredths.
pub(crate) fn ratio(a: u128, b: u128) -> String {
    let hundredths = a.saturating_mul(100).checked_div(b).unwrap_or(0);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Picoseconds as nanoseconds.
pub(crate) fn nanos(picos: u128) -> String {
    format!("{} ns", picos / 1_000)
}

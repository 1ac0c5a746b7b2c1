//! Each layer over a bare service, beside the sum of the parts that no such layer can do without: a
//! digest, look-ups, limit checks, header fields.

use std::{hint::black_box, net::IpAddr, num::NonZeroU32, sync::Arc};

use bytes::Bytes;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::Full;
use moka::sync::Cache;
use sha2::{Digest, Sha256};
use tower::Layer;

use super::{Bare, Contestant, Scene, by_turns, call, full, nanos, ratio};

type Body = Full<Bytes>;

pub(crate) struct Parts {
    key: String,
    found: Cache<[u8; 32], Arc<str>>,
    by_address: DefaultKeyedRateLimiter<IpAddr>,
    by_caller: [DefaultKeyedRateLimiter<Arc<str>>; 3],
    address: IpAddr,
    caller: Arc<str>,
}

impl Parts {
    pub(crate) fn new(key: &str) -> Self {
        let found = Cache::new(100_000);
        found.insert(Sha256::digest(key).into(), Arc::from("user-1"));
        let quota = || Quota::per_second(NonZeroU32::new(100_000_000).unwrap());
        Self {
            key: key.to_owned(),
            found,
            by_address: RateLimiter::keyed(quota()),
            by_caller: std::array::from_fn(|_| RateLimiter::keyed(quota())),
            address: IpAddr::from([192, 0, 2, 7]),
            caller: Arc::from("key-lineage-of-the-caller"),
        }
    }

    fn find_key(&self) {
        let digest: [u8; 32] = Sha256::digest(black_box(&self.key)).into();
        black_box(self.found.get(&digest));
    }

    fn find_token(&self, token: &str) {
        let digest: [u8; 32] = Sha256::digest(black_box(token)).into();
        black_box(self.found.get(&digest));
    }

    fn check_limits(&self, windows: usize) {
        for limiter in self.by_caller.iter().take(windows) {
            limiter.check_key(&self.caller).unwrap();
        }
    }

    fn write_limits(&self, headers: &mut HeaderMap) {
        const NAMES: [HeaderName; 4] = [
            HeaderName::from_static("ratelimit-policy"),
            HeaderName::from_static("x-ratelimit-limit"),
            HeaderName::from_static("x-ratelimit-remaining"),
            HeaderName::from_static("x-ratelimit-reset"),
        ];
        let list = format!("\"second\";r={};t={}", black_box(99), black_box(1));
        headers.insert(HeaderName::from_static("ratelimit"), list.parse().unwrap());
        let [policy, limit, remaining, reset] = NAMES;
        headers.insert(policy, HeaderValue::from_static("\"second\";q=100;w=1"));
        headers.insert(limit, HeaderValue::from_static("100"));
        headers.insert(remaining, HeaderValue::from(black_box(99_u32)));
        headers.insert(reset, HeaderValue::from(black_box(1_u32)));
    }

    fn whole(&self) {
        self.by_address.check_key(&self.address).unwrap();
        self.find_key();
        self.check_limits(3);
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        self.write_limits(&mut headers);
        let id = HeaderValue::from_str(black_box("req-0123456789abcdef-1a2b3c")).unwrap();
        headers.insert(HeaderName::from_static("x-request-id"), id);
        black_box(headers);
    }
}

/// The bare service, each layer in front of it, and the parts.
pub(crate) fn contestants<'a>(scene: &'a Scene, parts: &'a Parts) -> Vec<Contestant<'a>> {
    let bare = Bare(full::<Body>);
    let (for_token, for_known) = (bare.clone(), bare.clone());
    let key = scene.api_key().layer(bare.clone());
    let jwt = scene.jwt().layer(bare.clone());
    let rbac = scene.rbac().layer(bare.clone());
    let one = scene.one_window().layer(bare.clone());
    let three = scene.three_windows().layer(bare.clone());
    let spending = scene.spending().layer(bare.clone());
    let whole = scene.whole().layer(bare.clone());
    vec![
        (
            "bare service, request with a key",
            Box::new(move || call(&bare, scene.with_key())),
        ),
        (
            "bare service, request with a token",
            Box::new(move || call(&for_token, scene.with_token())),
        ),
        (
            "bare service, caller known",
            Box::new(move || call(&for_known, scene.known())),
        ),
        (
            "ApiKeyLayer, warm",
            Box::new(move || call(&key, scene.with_key())),
        ),
        (
            "JwtLayer, warm",
            Box::new(move || call(&jwt, scene.with_token())),
        ),
        ("RbacLayer", Box::new(move || call(&rbac, scene.known()))),
        (
            "RateLimitLayer, 1 window",
            Box::new(move || call(&one, scene.known())),
        ),
        (
            "RateLimitLayer, 3 windows",
            Box::new(move || call(&three, scene.known())),
        ),
        (
            "SpendingLimitLayer, in memory",
            Box::new(move || call(&spending, scene.known())),
        ),
        (
            "the whole stack",
            Box::new(move || call(&whole, scene.with_key())),
        ),
        (
            "parts: SHA-256 and moka, of a key",
            Box::new(|| parts.find_key()),
        ),
        (
            "parts: SHA-256 and moka, of a token",
            Box::new(|| parts.find_token(&scene.token)),
        ),
        (
            "parts: 1 governor check, headers",
            Box::new(|| limited(parts, 1)),
        ),
        (
            "parts: 3 governor checks, headers",
            Box::new(|| limited(parts, 3)),
        ),
        ("parts: of the whole stack", Box::new(|| parts.whole())),
    ]
}

fn limited(parts: &Parts, windows: usize) {
    parts.check_limits(windows);
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    parts.write_limits(&mut headers);
    black_box(headers);
}

/// Each layer over the bare service, and how often its parts would go into that.
pub(crate) fn table(scene: &Scene) {
    let parts = Parts::new(scene.key.expose());
    let mut contestants = contestants(scene, &parts);
    let spent = by_turns(&mut contestants, 2_000);
    let of = |name: &str| {
        let at = contestants.iter().position(|(other, _)| *other == name);
        spent[at.unwrap()]
    };
    println!(
        "{:<34}{:>10}{:>10}{:>8}",
        "layer", "over bare", "parts", "ratio"
    );
    for (layer, bare, parts) in [
        (
            "ApiKeyLayer, warm",
            "request with a key",
            Some("SHA-256 and moka, of a key"),
        ),
        (
            "JwtLayer, warm",
            "request with a token",
            Some("SHA-256 and moka, of a token"),
        ),
        ("RbacLayer", "caller known", None),
        (
            "RateLimitLayer, 1 window",
            "caller known",
            Some("1 governor check, headers"),
        ),
        (
            "RateLimitLayer, 3 windows",
            "caller known",
            Some("3 governor checks, headers"),
        ),
        ("SpendingLimitLayer, in memory", "caller known", None),
        (
            "the whole stack",
            "request with a key",
            Some("of the whole stack"),
        ),
    ] {
        let over = of(layer).saturating_sub(of(&format!("bare service, {bare}")));
        let parts = parts.map(|parts| of(&format!("parts: {parts}")));
        let (told, ratio) =
            parts.map_or_else(Default::default, |parts| (nanos(parts), ratio(over, parts)));
        println!("{layer:<34}{:>10}{told:>10}{ratio:>8}", nanos(over));
    }
}

//! The targets.

use std::{convert::Infallible, sync::LazyLock};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tollgate::{
    ApiKeyLayer, ClientAddress, CostSource, CredentialKind, ForwardedHeader, PeerAddress, Price,
    PriceTable, Principal, RateLimitLayer, RbacLayer, RequestHead, SpendingLimitLayer,
    key::{Alphabet, KeyFormat},
    keyring::KeyResolver,
    money::Money,
    quota::Quota,
    rate_limit::RateLimitKey,
    rbac::RouteTable,
    role::{Requirement, RoleSet},
    store::{AccountId, Ledger as _, MemoryStore},
    token::TokenVerifier,
    usage::Credit,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

#[path = "left.rs"]
pub mod left;
#[path = "request.rs"]
pub mod request;

const SECRET: &[u8] = b"thirty-two bytes or more, please!";

fn now<T>(answer: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().build().unwrap().block_on(answer)
}

/// Keys: what is accepted begins as its format does, is as long, and has no other form.
pub fn key(data: &[u8]) {
    static FORMATS: LazyLock<[KeyFormat; 4]> = LazyLock::new(|| {
        let builder = KeyFormat::builder("acme");
        let plain = builder
            .alphabet(Alphabet::Base62)
            .without_checksum()
            .length(64);
        [
            KeyFormat::builder("acme").build().unwrap(),
            KeyFormat::live_and_test("sk").unwrap(),
            KeyFormat::url_safe("pk").unwrap(),
            plain.build().unwrap(),
        ]
    });
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for format in FORMATS.iter() {
        if format.parse(text).is_ok() {
            assert!(format.claims(text) && text.is_ascii());
            for other in [format!("{text}a"), format!(" {text}"), text[1..].to_owned()] {
                assert!(format.parse(&other).is_err(), "{other:?}");
            }
        }
    }
}

/// Tokens: the bytes as they are, and as header and claims (cut at the first line's end) of a token
/// with a good signature.
pub fn token(data: &[u8]) {
    static VERIFIER: LazyLock<TokenVerifier> = LazyLock::new(|| {
        TokenVerifier::hs256(SECRET)
            .cache_capacity(0)
            .build()
            .unwrap()
    });
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(VERIFIER.verify(text).is_err(), "nobody signed it");
    }
    let cut = data.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (header, claims) = data.split_at(cut);
    let claims = claims.strip_prefix(b"\n").unwrap_or(claims);
    let covered = [header, claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let signature = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, SECRET),
        covered.as_bytes(),
    );
    let token = format!("{covered}.{}", URL_SAFE_NO_PAD.encode(signature));
    if VERIFIER.verify(&token).is_ok() {
        let claims = std::str::from_utf8(claims).expect("JSON is UTF-8");
        assert!(claims.contains("exp") && !header.is_empty());
    }
}

/// Header fields, a line each: nobody is let in without a key, and a limit answers or refuses.
pub fn headers(data: &[u8]) {
    let mut request = Request::new(());
    for line in data.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let name = HeaderName::from_bytes(name);
        let value = HeaderValue::from_bytes(value[1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    let peer = PeerAddress(([127, 0, 0, 1], 9).into());
    request.extensions_mut().insert(peer);
    for header in [
        ForwardedHeader::XForwardedFor,
        ForwardedHeader::Forwarded,
        ForwardedHeader::XForwardedForOrXRealIp,
    ] {
        let trusted = ["127.0.0.0/8".parse().unwrap()];
        let client = ClientAddress::peer().trusting(trusted, header);
        let _ = client.resolve(&RequestHead::of(&request));
    }
    let hello = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(String::from("hello")))
    });
    let limit = RateLimitLayer::per(
        RateLimitKey::header(HeaderName::from_static("x-tenant")),
        Quota::per_minute(1),
    );
    let limited = limit.layer(hello);
    let answer = now(limited.oneshot(request.clone())).unwrap();
    assert!(answer.status().is_success() || answer.status().is_client_error());

    let resolver = KeyResolver::builder(MemoryStore::new());
    let resolver = resolver.add_format(KeyFormat::builder("acme").build().unwrap());
    let known = ApiKeyLayer::new(resolver.build()).layer(hello);
    let answer = now(known.oneshot(request)).unwrap();
    let grpc = answer.headers().get("grpc-status");
    assert!(answer.status() == StatusCode::UNAUTHORIZED || grpc.is_some_and(|code| code == "16"));
}

/// The usage in an answer's body: however it is cut into pieces, it comes to the same. The first
/// byte says which media type.
pub fn usage(data: &[u8]) {
    let Some((first, text)) = data.split_first() else {
        return;
    };
    let media_type = match first % 2 {
        0 => "application/json",
        _ => "text/event-stream",
    };
    let whole = charged(media_type, text, text.len().max(1));
    for cut in [1, 2, 7, 64] {
        assert_eq!(charged(media_type, text, cut), whole, "in pieces of {cut}");
    }
}

fn charged(media_type: &'static str, text: &[u8], cut: usize) -> Money {
    let pieces: Vec<_> = text.chunks(cut).map(Bytes::copy_from_slice).collect();
    let answer = service_fn(move |_: Request<()>| {
        let frames = pieces
            .clone()
            .into_iter()
            .map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let body = StreamBody::new(tokio_stream::iter(frames));
        let answer = Response::builder()
            .header("content-type", media_type)
            .body(body);
        async { Ok::<_, Infallible>(answer.unwrap()) }
    });
    now(async {
        let (ledger, account) = (MemoryStore::new(), AccountId::new("user-1").unwrap());
        let credit = Credit {
            account: account.clone(),
            amount: Money::from_nanos(i64::MAX / 2),
            reference: "first".into(),
        };
        ledger.credit(credit).await.unwrap();
        let price = Price::per_million_tokens(Money::from_nanos(1_000), Money::from_nanos(3_000));
        let price = price.cost_from(CostSource::Body);
        let prices = PriceTable::new().route("POST", "/chat", price).unwrap();
        let service = SpendingLimitLayer::new(ledger.clone(), prices).layer(answer);
        let mut request = Request::post("/chat").body(()).unwrap();
        let caller = Principal::builder("user-1", CredentialKind::ApiKey).build();
        request.extensions_mut().insert(caller);
        let answer = service.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let _ = answer.into_body().collect().await;
        ledger.balance(&account).await.unwrap().available()
    })
}

/// Paths: nobody without a credential gets anywhere but below `/public`, whatever the path is made
/// of.
pub fn path(data: &[u8]) {
    static LAYER: LazyLock<RbacLayer> = LazyLock::new(|| {
        let table = RouteTable::new()
            .route("GET", "/public/{*rest}", Requirement::nothing())
            .and_then(|table| table.route("GET", "/agents/{id}/query", "read"))
            .and_then(|table| table.route("GET", "/admin", "delete"));
        RbacLayer::routes(&RoleSet::viewer_operator_admin(), table.unwrap())
    });
    let Ok(request) = Request::get(data).body(()) else {
        return;
    };
    let why = LAYER.explain(&RequestHead::of(&request));
    if why.is_admitted() {
        let path = request.uri().path();
        assert!(path.starts_with("/public/"), "{path:?}");
        let lower = path.to_ascii_lowercase();
        for trick in ["//", "/./", "/../", "\\", "%2e", "%2f", "%5c", "%00"] {
            assert!(!lower.contains(trick), "{path:?}");
        }
        assert!(!lower.ends_with("/.."), "{path:?}");
    }
}

//! Two issuers with users and keys of their own in one chain: whose token is judged by whom.

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use super::*;
use crate::token::{
    IssuerTemplate, TokenAlgorithm, TokenVerifier, TokenVerifierBuilder, VerifyingKey,
    VerifyingKeys,
};

const OURS: &[u8] = b"our secret, thirty-two bytes or more";
const THEIRS: &[u8] = b"their secret, thirty-two bytes or so";

/// Both call their keys by the same name.
fn verifier(secret: &[u8], issuer: &str) -> TokenVerifierBuilder {
    let key = VerifyingKey::from_secret(TokenAlgorithm::Hs256, secret).unwrap();
    let keys = VerifyingKeys::new([key.kid("1").unwrap()]).unwrap();
    TokenVerifier::builder(keys).issuer(issuer)
}

fn ours() -> JwtLayer {
    JwtLayer::new(verifier(OURS, "us").build().unwrap())
}

fn theirs() -> JwtLayer {
    let verifier = verifier(THEIRS, "them").subject_prefix("them:");
    JwtLayer::new(verifier.build().unwrap())
}

/// A token whose claims are exactly this text.
fn signed(secret: &[u8], claims: &str) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = encode(br#"{"alg":"HS256","typ":"JWT","kid":"1"}"#);
    let signed = format!("{header}.{}", encode(claims.as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

fn token(secret: &[u8], issuer: impl Into<Value>) -> String {
    let claims = json!({ "iss": issuer.into(), "sub": "1", "exp": 4_000_000_000_u64 });
    signed(secret, &claims.to_string())
}

/// The subject, or the status of the refusal.
async fn subject<L>(layer: &L, request: http::request::Builder) -> String
where
    L: Authenticator + Clone,
{
    let whoami = service_fn(async |request: Request<()>| {
        let caller = request.extensions().get::<Principal>().unwrap();
        let answer = Response::builder().header("x-subject", caller.subject());
        Ok::<_, Infallible>(answer.body(String::new()).unwrap())
    });
    let request = request.body(()).unwrap();
    let service = layer.clone().into_gate().layer(whoami);
    let answer = service.oneshot(request).await.unwrap();
    match answer.headers().get("x-subject") {
        Some(subject) => subject.to_str().unwrap().to_owned(),
        None => answer.status().as_u16().to_string(),
    }
}

#[tokio::test]
async fn each_issuer_s_tokens_are_good_in_any_order_and_every_time() {
    let (one, other) = (token(OURS, "us"), token(THEIRS, "them"));
    for _ in ["cold", "warm"] {
        assert_eq!(subject(&ours().or(theirs()), bearer(&one)).await, "1");
    }
    let (chain, nested) = (ours().or(theirs()), theirs().or(ours()));
    for _ in ["cold", "warm"] {
        assert_eq!(subject(&chain, bearer(&one)).await, "1");
        assert_eq!(subject(&chain, bearer(&other)).await, "them:1");
        assert_eq!(subject(&nested, bearer(&one)).await, "1");
        assert_eq!(subject(&nested, bearer(&other)).await, "them:1");
    }
    let uncached = verifier(OURS, "us").cache_capacity(0).build().unwrap();
    let uncached = JwtLayer::new(uncached).or(theirs());
    assert_eq!(subject(&uncached, bearer(&one)).await, "1");
    assert_eq!(subject(&uncached, bearer(&other)).await, "them:1");
    assert_eq!(subject(&chain, Request::builder()).await, "401");
}

#[tokio::test]
async fn nobody_s_keys_are_tried_on_the_other_s_tokens() {
    let exp = r#""sub":"1","exp":4000000000"#;
    let attacks = [
        ("ours by their key", token(THEIRS, "us")),
        ("theirs by our key", token(OURS, "them")),
        ("a third issuer, our key", token(OURS, "mallory")),
        ("a third issuer, their key", token(THEIRS, "mallory")),
        ("both, their key", token(THEIRS, json!(["us", "them"]))),
        ("null", token(THEIRS, Value::Null)),
        ("empty", token(THEIRS, "")),
        ("other letters", token(THEIRS, "Them")),
        ("no issuer, our key", signed(OURS, &format!("{{{exp}}}"))),
        (
            "no issuer, their key",
            signed(THEIRS, &format!("{{{exp}}}")),
        ),
    ];
    let twice = [("us", "them"), ("them", "us"), ("them", "them")].map(|(one, other)| {
        let claims = format!(r#"{{"iss":"{one}","iss":"{other}",{exp}}}"#);
        [OURS, THEIRS].map(|secret| ("an issuer twice", signed(secret, &claims)))
    });
    let escaped = format!(r#"{{"iss":"them","\u0069ss":"us",{exp}}}"#);
    let escaped = [OURS, THEIRS].map(|secret| ("an escaped name", signed(secret, &escaped)));
    let nested = format!(r#"{{"x":{{"iss":"them"}},{exp}}}"#);
    let nested = [OURS, THEIRS].map(|secret| ("an issuer within", signed(secret, &nested)));
    let trailing = format!(r#"{{"iss":"them",{exp}}}{{"iss":"us"}}"#);
    let trailing = [OURS, THEIRS].map(|secret| ("two objects", signed(secret, &trailing)));
    let (one_way, other_way) = (ours().or(theirs()), theirs().or(ours()));
    let attacks = attacks.into_iter().chain(twice.into_iter().flatten());
    for (name, attack) in attacks.chain(escaped).chain(nested).chain(trailing) {
        for _ in ["once", "twice"] {
            assert_eq!(subject(&one_way, bearer(&attack)).await, "401", "{name}");
            assert_eq!(subject(&other_way, bearer(&attack)).await, "401", "{name}");
        }
    }
}

/// Swapping the issuer of a good token, with its signature, gains nothing.
#[tokio::test]
async fn a_good_token_with_the_other_s_name_is_bad() {
    let layer = ours().or(theirs());
    for (secret, other) in [(OURS, "them"), (THEIRS, "us")] {
        let good = token(secret, if secret == OURS { "us" } else { "them" });
        assert_ne!(subject(&layer, bearer(&good)).await, "401");
        let swapped = token(secret, other);
        let [claims, good] = [&swapped, &good].map(|token| token.split('.').collect::<Vec<_>>());
        let swapped = format!("{}.{}.{}", good[0], claims[1], good[2]);
        assert_eq!(subject(&layer, bearer(&swapped)).await, "401");
    }
}

/// A verifier without issuers takes all tokens that reach it, and those of an issuer that it shares
/// with another are its own.
#[tokio::test]
async fn only_issuers_that_are_named_are_told_apart() {
    let any = || {
        let key = VerifyingKey::from_secret(TokenAlgorithm::Hs256, OURS).unwrap();
        let keys = VerifyingKeys::new([key.kid("1").unwrap()]).unwrap();
        JwtLayer::new(TokenVerifier::builder(keys).build().unwrap())
    };
    let first = any().or(theirs());
    assert_eq!(subject(&first, bearer(&token(OURS, "us"))).await, "1");
    assert_eq!(subject(&first, bearer(&token(OURS, "them"))).await, "1");
    assert_eq!(subject(&first, bearer(&token(THEIRS, "them"))).await, "401");
    let last = theirs().or(any());
    assert_eq!(
        subject(&last, bearer(&token(THEIRS, "them"))).await,
        "them:1"
    );
    for issuer in ["us", "them"] {
        assert_eq!(subject(&last, bearer(&token(OURS, issuer))).await, "401");
    }
    let same = JwtLayer::new(verifier(OURS, "them").build().unwrap()).or(theirs());
    assert_eq!(subject(&same, bearer(&token(OURS, "them"))).await, "1");
    assert_eq!(subject(&same, bearer(&token(THEIRS, "them"))).await, "401");
}

/// A token of a tenant is left to the verifier that takes it, and to no other.
#[tokio::test]
async fn tenants_may_have_a_verifier_each() {
    let [ann, bob, eve] = [
        "72f988bf-86f1-41af-91ab-2d7cd011db47",
        "0b4c7d3e-6e0b-4f7e-9c7a-2a1d4e1f8a55",
        "9188040d-6c67-4c5b-b112-36a304b66dad",
    ];
    const TEMPLATE: &str = "https://login.microsoftonline.com/{tenantid}/v2.0";
    let of = |tenant: &str, secret: &[u8]| {
        let key = VerifyingKey::from_secret(TokenAlgorithm::Hs256, secret).unwrap();
        let keys = VerifyingKeys::new([key.kid("1").unwrap()]).unwrap();
        let template = IssuerTemplate::of_tenants(TEMPLATE, "tid", [tenant]).unwrap();
        let verifier = TokenVerifier::builder(keys).add_issuer_template(template);
        JwtLayer::new(verifier.build().unwrap())
    };
    let token = |issuer: &str, tid: &str, secret: &[u8]| {
        let issuer = TEMPLATE.replace("{tenantid}", issuer);
        let claims = json!({ "iss": issuer, "tid": tid, "sub": "1", "exp": 4_000_000_000_u64 });
        signed(secret, &claims.to_string())
    };
    let chain = of(ann, OURS).or(of(bob, THEIRS)).or(ours());
    for _ in ["cold", "warm"] {
        for (tenant, secret) in [(ann, OURS), (bob, THEIRS)] {
            let good = bearer(&token(tenant, tenant, secret));
            assert_eq!(subject(&chain, good).await, format!("{tenant}:1"));
        }
        let plain = bearer(&self::token(OURS, "us"));
        assert_eq!(subject(&chain, plain).await, "1");
    }
    for (issuer, tid, secret) in [
        (ann, ann, THEIRS),
        (bob, bob, OURS),
        (ann, bob, OURS),
        (ann, bob, THEIRS),
        (bob, ann, OURS),
        (bob, ann, THEIRS),
        (eve, eve, OURS),
        (eve, eve, THEIRS),
    ] {
        let bad = bearer(&token(issuer, tid, secret));
        assert_eq!(subject(&chain, bad).await, "401");
    }
}

/// A policy of one's own that judges opaque tokens with an issuer, as an introspection would.
#[derive(Clone, Debug)]
struct Introspecting {
    judged: Issuers,
    left: Issuers,
}

impl Policy for Introspecting {
    type Permit = Identified;

    fn name(&self) -> &'static str {
        "introspecting"
    }

    fn places(&self) -> CredentialPlaces {
        CredentialPlaces::headers([http::header::AUTHORIZATION])
    }

    fn bearer_issuers(&self) -> Issuers {
        self.judged.clone()
    }

    fn leave_bearers_of(&mut self, issuers: &Issuers) {
        self.left = issuers.clone();
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<Identified> {
        let bearer = head.headers["authorization"].to_str().unwrap();
        let claims = bearer.split('.').nth(1).unwrap();
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        let issuer = claims["iss"].as_str().unwrap();
        Decision::Ready(if self.judged.have(issuer) {
            let caller = Principal::builder(issuer, CredentialKind::Token).build();
            Verdict::Admit(Identified::new(caller))
        } else if self.left.have(issuer) {
            Verdict::Abstain(denial(DenialKind::CredentialInvalid))
        } else {
            Verdict::Refuse(denial(DenialKind::CredentialInvalid))
        })
    }
}

impl Authenticator for Introspecting {
    type Policy = Self;

    fn into_gate(self) -> Gate<Self> {
        Gate::new(self)
    }
}

#[tokio::test]
async fn a_policy_of_one_s_own_names_its_issuers_too() {
    let template = "https://id.example.com/{tenant}/";
    let tenant = template.replace("{tenant}", "72f988bf-86f1-41af-91ab-2d7cd011db47");
    let template = IssuerTemplate::of_any_tenant(template, "tid").unwrap();
    let own = Introspecting {
        judged: Issuers::default().add_name("acme").add_template(template),
        left: Issuers::default(),
    };
    let (first, last) = (own.clone().or(ours()), ours().or(own));
    for (issuer, who) in [
        ("us", "1"),
        ("acme", "acme"),
        (&tenant, &tenant),
        ("mallory", "401"),
        ("https://id.example.com/common/", "401"),
    ] {
        let token = token(OURS, issuer);
        assert_eq!(subject(&first, bearer(&token)).await, who, "{issuer}");
        assert_eq!(subject(&last, bearer(&token)).await, who, "{issuer}");
    }
}

/// A bad token in a cookie isn't overlooked for a good one elsewhere.
#[tokio::test]
async fn tokens_in_a_cookie_are_left_to_nobody() {
    let layer = ours().cookie("token").or(theirs());
    let (one, other) = (token(OURS, "us"), token(THEIRS, "them"));
    let with_cookie = |value: &str| Request::builder().header("cookie", format!("token={value}"));
    assert_eq!(subject(&layer, with_cookie(&one)).await, "1");
    assert_eq!(subject(&layer, bearer(&other)).await, "them:1");
    assert_eq!(subject(&layer, with_cookie(&other)).await, "401");
    let both = with_cookie(&other).header("authorization", format!("Bearer {other}"));
    assert_eq!(subject(&layer, both).await, "401");
}

/// A token that is left mustn't be overlooked for another credential on the way to its verifier.
#[tokio::test]
async fn nothing_else_stands_between_two_issuers() {
    let cookie = || ours().cookie("token");
    let (one, other) = (token(OURS, "us"), token(THEIRS, "them"));
    let with_cookie = || Request::builder().header("cookie", format!("token={one}"));
    for bad in [&other, "a.b.c"] {
        let both = || with_cookie().header("authorization", format!("Bearer {bad}"));
        let between = ours().or(cookie()).or(theirs());
        assert_eq!(subject(&between, both()).await, "401");
        let nested = ours().or(cookie().or(theirs()));
        assert_eq!(subject(&nested, both()).await, "401");
    }
    let behind = ours().or(theirs()).or(cookie());
    assert_eq!(subject(&behind, bearer(&other)).await, "them:1");
    assert_eq!(subject(&behind, bearer(&one)).await, "1");
    assert_eq!(subject(&behind, with_cookie()).await, "1");
}

#[tokio::test]
async fn a_subject_has_its_prefix_within_its_bound() {
    let layer = JwtLayer::new(verifier(OURS, "us").subject_prefix("us:").build().unwrap());
    for (length, outcome) in [(252, None), (253, Some("401")), (0, Some("401"))] {
        let sub = "u".repeat(length);
        let claims = json!({ "iss": "us", "sub": sub, "exp": 4_000_000_000_u64 });
        let seen = subject(&layer, bearer(&signed(OURS, &claims.to_string()))).await;
        let expected = format!("us:{sub}");
        assert_eq!(seen, outcome.unwrap_or(&expected));
    }
}

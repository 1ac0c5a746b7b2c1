//! `cargo test --release --lib token::tests::timing -- --ignored --nocapture`

use std::{hint::black_box, time::Instant};

use super::*;

#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn beside_bare_decode() {
    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "as an application would have it")]
    struct Bare {
        iss: String,
        aud: String,
        sub: String,
        sid: String,
        jti: String,
        iat: i64,
        exp: i64,
        token_use: String,
        roles: Vec<String>,
    }

    fn nanoseconds(mut work: impl FnMut()) -> u128 {
        let rounds = 20_000;
        let best = (0..9).map(|_| {
            let start = Instant::now();
            (0..rounds).for_each(|_| work());
            start.elapsed().as_nanos() / rounds
        });
        best.min().unwrap()
    }

    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let issuer = TokenIssuer::hs256(CANARY)
        .issuer("api")
        .audience("web")
        .build()
        .unwrap();
    let user = UserId::new("user-550e8400-e29b-41d4-a716-446655440000").unwrap();
    let session = SessionId::new("session-550e8400-e29b-41d4-a716-446655440000").unwrap();
    let token = issuer.issue(&user, &session, ["user"]).unwrap();
    let verifier = || TokenVerifier::hs256(CANARY).issuer("api").audience("web");
    let (warm, uncached) = (
        verifier().build().unwrap(),
        verifier().cache_capacity(0).build().unwrap(),
    );
    let key = jsonwebtoken::DecodingKey::from_secret(CANARY);
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    rules.set_issuer(&["api"]);
    rules.set_audience(&["web"]);

    let bare = nanoseconds(|| {
        black_box(jsonwebtoken::decode::<Bare>(token.expose(), &key, &rules).unwrap());
    });
    let no_cache = nanoseconds(|| drop(black_box(uncached.verify(token.expose()).unwrap())));
    let cached = nanoseconds(|| drop(black_box(warm.verify(token.expose()).unwrap())));
    // Every token is new, so that each misses the cache and is added.
    let tokens: Vec<_> = (0..180_000)
        .map(|_| issuer.issue(&user, &session, ["user"]).unwrap())
        .collect();
    let mut fresh = tokens.iter().cycle();
    let cold = nanoseconds(|| {
        black_box(warm.verify(fresh.next().unwrap().expose()).unwrap());
    });
    let mut fresh = tokens.iter().cycle();
    let bare_fresh = nanoseconds(|| {
        let token = fresh.next().unwrap().expose();
        black_box(jsonwebtoken::decode::<Bare>(token, &key, &rules).unwrap());
    });
    println!("bytes {}", token.expose().len());
    println!("bare decode {bare} ns (fresh tokens {bare_fresh} ns)");
    println!("uncached {no_cache} ns, cold and remembered {cold} ns, warm {cached} ns");
}

/// Uncached tokens of every kind of signature, compared with the library using the same key.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn signatures_beside_bare_decode() {
    #[derive(serde::Deserialize)]
    struct Bare {
        #[expect(dead_code, reason = "as an application would have it")]
        sub: String,
    }

    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    for algorithm in [
        TokenAlgorithm::Rs256,
        TokenAlgorithm::Ps256,
        TokenAlgorithm::Es256,
        TokenAlgorithm::EdDsa,
    ] {
        let key = SigningKey::generate(algorithm).unwrap();
        let issuer = TokenIssuer::with_key(key).build().unwrap();
        let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
        let token = issuer.issue(&user, &session, []).unwrap();
        let verifier = issuer.verifier().cache_capacity(0).build().unwrap();
        let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_str(&issuer.jwks()).unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(&jwks.keys[0]).unwrap();
        let rules = jsonwebtoken::Validation::new(algorithm.as_str().parse().unwrap());
        let best = |work: &mut dyn FnMut()| {
            let rounds = (0..9).map(|_| {
                let start = Instant::now();
                (0..1_000).for_each(|_| work());
                start.elapsed().as_nanos() / 1_000
            });
            rounds.min().unwrap()
        };
        let ours = best(&mut || drop(black_box(verifier.verify(token.expose()).unwrap())));
        let bare = best(&mut || {
            black_box(jsonwebtoken::decode::<Bare>(token.expose(), &key, &rules).unwrap());
        });
        println!("{algorithm}: cold {ours} ns, bare decode {bare} ns");
    }
}

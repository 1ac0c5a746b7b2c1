//! Forged, bent and outlived tokens. The secret is known here, so that a token can be wrong in one
//! thing only.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Account, Answer, Client, RawCall, SECRET, home, now};

/// HMAC-SHA-256 as RFC 2104 writes it, so that nothing of the crate vouches for itself.
fn hmac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    assert!(
        secret.len() <= 64,
        "a longer secret would have to be hashed first"
    );
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block
            .iter_mut()
            .zip(secret)
            .for_each(|(padded, key)| *padded ^= key);
        block
    };
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize()
        .to_vec()
}

fn encode(part: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

fn signed_with(secret: &[u8], header: &str, claims: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = hmac(secret, message.as_bytes());
    format!("{message}.{}", encode(signature))
}

/// A genuine token taken apart.
struct Parts {
    header: String,
    claims: Value,
}

impl Parts {
    fn of(token: &str) -> Self {
        let mut parts = token.split('.').map(|part| {
            let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64url");
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let header = parts.next().expect("a header");
        let claims = serde_json::from_str(&parts.next().expect("claims")).expect("JSON claims");
        Self { header, claims }
    }

    /// The same with one claim changed, signed with the true secret.
    fn with(&self, claim: &str, value: Value) -> String {
        let mut claims = self.claims.clone();
        claims[claim] = value;
        signed_with(SECRET.as_bytes(), &self.header, &claims.to_string())
    }

    /// The same with a header of this text, signed with the true secret.
    fn under(&self, header: &str) -> String {
        signed_with(SECRET.as_bytes(), header, &self.claims.to_string())
    }

    /// The same without one claim.
    fn without(&self, claim: &str) -> String {
        let mut claims = self.claims.clone();
        claims.as_object_mut().expect("an object").remove(claim);
        signed_with(SECRET.as_bytes(), &self.header, &claims.to_string())
    }
}

async fn me(client: &Client, token: &str) -> Answer {
    client.get("/api/auth/me").bearer(token).send().await
}

#[tokio::test]
async fn the_secret_is_its_raw_bytes_and_the_algorithm_is_hs256() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let (message, signature) = account.token.rsplit_once('.').expect("three parts");
    assert_eq!(
        signature,
        encode(hmac(SECRET.as_bytes(), message.as_bytes()))
    );

    // Without this, the refusals below might be of the wrong thing.
    let parts = Parts::of(&account.token);
    let sooner = parts.claims["exp"].as_i64().expect("exp") - 60;
    me(&server, &parts.with("exp", json!(sooner)))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_token_without_a_true_signature_is_refused() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let stranger = Account::new(&server).await;
    let parts = Parts::of(&account.token);
    let claims = encode(parts.claims.to_string());
    let (message, signature) = account.token.rsplit_once('.').expect("three parts");
    let other = stranger.token.rsplit_once('.').expect("three parts").1;

    let mut forged = Vec::new();
    for algorithm in ["none", "None", "NONE", "nOnE", ""] {
        let header = encode(json!({"alg": algorithm, "typ": "JWT"}).to_string());
        for signature in ["", signature] {
            forged.push(format!("{header}.{claims}.{signature}"));
        }
        forged.push(format!("{header}.{claims}"));
        forged.push(parts.under(&json!({"alg": algorithm, "typ": "JWT"}).to_string()));
    }
    forged.push(format!("{message}."));
    forged.push(message.to_owned());
    forged.push(format!("{message}.{other}"));
    forged.push(format!("{message}.{}", encode([0_u8; 32])));
    forged.push(format!("{}.{signature}.{signature}", message));
    forged.push(format!("{message}.{}", &signature[..signature.len() - 2]));
    for secret in [
        "",
        "secret",
        "another secret of more than 32 bytes, all ASCII",
    ] {
        let claims = parts.claims.to_string();
        forged.push(signed_with(secret.as_bytes(), &parts.header, &claims));
    }
    for token in forged {
        me(&server, &token).await.refused(&[401]);
    }
    me(&server, &account.token).await.expect(200);
}

#[tokio::test]
async fn a_tampered_claim_is_refused() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let stranger = Account::new(&server).await;
    let parts: Vec<&str> = account.token.split('.').collect();
    let foreign: Vec<&str> = stranger.token.split('.').collect();
    me(
        &server,
        &format!("{}.{}.{}", parts[0], foreign[1], parts[2]),
    )
    .await
    .refused(&[401]);
    let mut claims = Parts::of(&account.token).claims;
    claims["role"] = json!("admin");
    let claims = encode(claims.to_string());
    me(&server, &format!("{}.{claims}.{}", parts[0], parts[2]))
        .await
        .refused(&[401]);
    for at in (0..account.token.len())
        .step_by(7)
        .filter(|at| account.token.as_bytes()[*at] != b'.')
    {
        let other = if account.token.as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        let mut token = account.token.clone();
        token.replace_range(at..=at, other);
        me(&server, &token).await.refused(&[401]);
    }
}

#[tokio::test]
async fn a_header_that_asks_for_something_else_is_refused() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let parts = Parts::of(&account.token);
    let headers = [
        json!({"alg": "HS384", "typ": "JWT"}),
        json!({"alg": "HS512", "typ": "JWT"}),
        json!({"alg": "RS256", "typ": "JWT"}),
        json!({"alg": "ES256", "typ": "JWT"}),
        json!({"alg": "hs256", "typ": "JWT"}),
        json!({"alg": ["HS256"], "typ": "JWT"}),
        json!({"typ": "JWT"}),
        json!({"alg": "HS256", "typ": "JWT", "crit": ["exp"]}),
        json!({"alg": "HS256", "typ": "JWT", "crit": ["b64"], "b64": false}),
        json!([]),
        json!("HS256"),
    ];
    for header in headers {
        me(&server, &parts.under(&header.to_string()))
            .await
            .refused(&[401]);
    }
    me(&server, &parts.under("")).await.refused(&[401]);
    me(&server, &parts.under("{")).await.refused(&[401]);
}

/// A key that comes with the token is no key of ours.
#[tokio::test]
async fn a_key_inside_the_token_is_not_used() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let own = b"a secret that the sender brings along";
    let claims = Parts::of(&account.token).claims.to_string();
    for extra in [
        json!({"jwk": {"kty": "oct", "k": encode(own)}}),
        json!({"jku": "http://127.0.0.1:9/keys"}),
        json!({"x5u": "http://127.0.0.1:9/cert"}),
        json!({"kid": "../../../../dev/null"}),
        json!({"kid": "' OR 1=1 --"}),
    ] {
        let mut header = json!({"alg": "HS256", "typ": "JWT"});
        header
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        me(&server, &signed_with(own, &header.to_string(), &claims))
            .await
            .refused(&[401]);
        me(&server, &signed_with(b"", &header.to_string(), &claims))
            .await
            .refused(&[401]);
    }
}

/// The documentation calls them tokens, and has one text for each.
#[tokio::test]
async fn a_token_is_refused_in_the_documented_words() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let parts = Parts::of(&account.token);
    server.get("/api/auth/me").send().await.missing_key();
    server.get("/api/keys").send().await.missing_key();
    me(&server, "x.y.z").await.invalid_key();
    me(&server, &parts.without("sub")).await.invalid_key();
    let past = json!(now().as_second() - 10);
    me(&server, &parts.with("exp", past)).await.expired_key();
}

#[tokio::test]
async fn claims_that_do_not_hold_are_refused() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let parts = Parts::of(&account.token);
    let now = now().as_second();
    let exp = &parts.claims["exp"];
    let bad = [
        parts.with("exp", json!(now - 10)),
        parts.with("exp", json!(0)),
        parts.with("exp", json!(-1)),
        parts.with("exp", json!(exp.to_string())),
        parts.with("exp", Value::Null),
        parts.with("exp", json!([exp])),
        parts.without("exp"),
        parts.with("nbf", json!(now + 3_600)),
        parts.with("sub", json!(1)),
        parts.with("sub", json!([account.id])),
        parts.with("sub", json!("user-00000000-0000-4000-8000-000000000000")),
        parts.with("sub", json!("")),
        parts.without("sub"),
    ];
    for token in bad {
        me(&server, &token).await.refused(&[401]);
    }
    for claims in ["", "{", "[]", "null", "\"x\"", "{}"] {
        let token = signed_with(SECRET.as_bytes(), &parts.header, claims);
        me(&server, &token).await.refused(&[401]);
    }
    let twice = parts
        .claims
        .to_string()
        .replacen('{', &format!(r#"{{"exp":{exp},"#), 1);
    let token = signed_with(SECRET.as_bytes(), &parts.header, &twice);
    me(&server, &token).await.refused(&[401]);
}

#[tokio::test]
async fn a_token_that_is_written_otherwise_is_refused() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let token = &account.token;
    let bent = [
        format!("{token}="),
        format!("{token}."),
        format!(".{token}"),
        format!("{token}.{token}"),
        format!("{token},{token}"),
        token.replacen('.', "..", 1),
        token.replacen('.', ". ", 1),
        not_canonical(token),
        "..".to_owned(),
        ".".to_owned(),
    ];
    for token in bent {
        me(&server, &token).await.refused(&[400, 401]);
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let parts = Parts::of(token);
    let claims = parts
        .claims
        .to_string()
        .replacen('{', &format!(r#"{{"deep":{deep},"#), 1);
    let nested = signed_with(SECRET.as_bytes(), &parts.header, &claims);
    let answer = me(&server, &nested).await;
    assert!(!answer.status.is_server_error(), "{answer:?}");
    for size in [20_000, 4_000_000] {
        let line = format!("authorization: Bearer {token}{}", "A".repeat(size));
        let answer = RawCall::new("GET", "/api/auth/me")
            .line(line)
            .attempt(&server)
            .await;
        assert!(answer.is_none_or(|answer| answer.status.is_client_error()));
    }
    me(&server, token).await.expect(200);
}

/// 32 bytes leave two bits over in their last character; they have to be zero.
fn not_canonical(token: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (start, last) = token.split_at(token.len() - 1);
    let value = ALPHABET.find(last).expect("base64url");
    format!("{start}{}", &ALPHABET[value + 1..value + 2])
}

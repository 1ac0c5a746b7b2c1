//! What is a key, where it may stand in a request, and what happens to everything else.

use base64::{Engine, engine::general_purpose};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::support::{Account, CHAT_PRICE, Client, RawCall, demo_body, home};

const HEALTH: &str = "/api/hub/health";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The server answers others as if nothing had happened.
async fn lives_on(client: &Client) {
    client.get(HEALTH).send().await.missing_key();
}

#[tokio::test]
async fn a_token_opens_no_key_route_and_a_key_no_token_route() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    server
        .get(HEALTH)
        .bearer(&account.token)
        .send()
        .await
        .refused(&[401]);
    server
        .get(HEALTH)
        .key(&account.token)
        .send()
        .await
        .refused(&[401]);
    let chat = server
        .post("/api/hub/agents/chat")
        .json(&demo_body("Hello!"));
    chat.bearer(&account.token).send().await.refused(&[401]);

    for path in [
        "/api/auth/me",
        "/api/keys",
        "/api/payments/balance",
        "/api/monitoring/usage",
    ] {
        server
            .get(path)
            .bearer(&key.value)
            .send()
            .await
            .refused(&[401]);
        server
            .get(path)
            .key(&key.value)
            .send()
            .await
            .refused(&[401]);
        server
            .get(path)
            .key(&account.token)
            .send()
            .await
            .refused(&[401]);
    }
    let top_up = server
        .post("/api/payments/topup")
        .key(&key.value)
        .json(&json!({"amount": 1}));
    top_up.send().await.refused(&[401]);
    assert_eq!(account.settled(&server).await, 1_000_000_000);
}

#[tokio::test]
async fn two_key_lines_are_refused_even_when_they_are_equal() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let (one, other) = (
        account.key(&server).await.value,
        account.key(&server).await.value,
    );
    let pairs = [(&one, &one), (&one, &other), (&other, &one)];
    for (first, second) in pairs {
        RawCall::new("GET", HEALTH)
            .line(format!("X-API-Key: {first}"))
            .line(format!("x-api-key: {second}"))
            .send(&server)
            .await
            .refused(&[400, 401]);
    }
    for nonsense in ["nonsense", ""] {
        for pair in [[one.as_str(), nonsense], [nonsense, one.as_str()]] {
            RawCall::new("GET", HEALTH)
                .line(format!("X-API-Key: {}", pair[0]))
                .line(format!("X-API-Key: {}", pair[1]))
                .send(&server)
                .await
                .refused(&[400, 401]);
        }
    }
}

#[tokio::test]
async fn two_authorization_lines_that_disagree_are_refused() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let (one, other) = (
        account.key(&server).await.value,
        account.key(&server).await.value,
    );
    for second in [&other, &account.token, &"nonsense".to_owned()] {
        RawCall::new("GET", HEALTH)
            .line(format!("Authorization: Bearer {one}"))
            .line(format!("Authorization: Bearer {second}"))
            .send(&server)
            .await
            .refused(&[400, 401]);
    }
}

#[tokio::test]
async fn a_key_and_a_bearer_must_agree() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let second = account.key(&server).await;
    let stranger = Account::new(&server).await;
    let foreign = stranger.key(&server).await;

    server
        .get(HEALTH)
        .key(&key.value)
        .bearer(&key.value)
        .send()
        .await
        .expect(200);
    key.chat(&server, "Hello!")
        .bearer(&key.value)
        .send()
        .await
        .expect(200);
    for bearer in [
        &second.value,
        &foreign.value,
        &stranger.token,
        &"nonsense".to_owned(),
    ] {
        let both = server.get(HEALTH).key(&key.value).bearer(bearer);
        both.send().await.refused(&[400, 401]);
        key.chat(&server, "Hello!")
            .bearer(bearer)
            .send()
            .await
            .refused(&[400, 401]);
    }
    for wrong in [&foreign.value, &"nonsense".to_owned()] {
        let both = server.get("/api/auth/me").bearer(&account.token).key(wrong);
        both.send().await.refused(&[400, 401]);
    }
    assert_eq!(account.settled(&server).await, 1_000_000_000 - CHAT_PRICE);
}

#[tokio::test]
async fn a_key_outside_its_headers_is_no_credential() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await.value;
    for name in [
        "api_key",
        "apikey",
        "key",
        "x-api-key",
        "X-API-Key",
        "access_token",
        "token",
    ] {
        server
            .get(&format!("{HEALTH}?{name}={key}"))
            .send()
            .await
            .missing_key();
        let me = format!("/api/auth/me?{name}={}", account.token);
        server.get(&me).send().await.refused(&[401]);
    }
    for name in [
        "authorization-bin",
        "x-api-key-bin",
        "proxy-authorization",
        "x-authorization",
    ] {
        let call = server.get(HEALTH).header(name, &format!("Bearer {key}"));
        call.send().await.missing_key();
    }
    server
        .get(HEALTH)
        .header("cookie", &format!("x-api-key={key}"))
        .send()
        .await
        .missing_key();
    let trailer = format!("0\r\nx-api-key: {key}\r\n\r\n");
    RawCall::new("POST", "/api/hub/agents/chat")
        .line("transfer-encoding: chunked")
        .line("trailer: x-api-key")
        .sent_as(trailer.as_bytes())
        .send(&server)
        .await
        .missing_key();
}

#[tokio::test]
async fn a_comma_list_is_one_bad_key() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let (one, other) = (
        account.key(&server).await.value,
        account.key(&server).await.value,
    );
    for list in [
        format!("{one},{one}"),
        format!("{one}, {other}"),
        format!("{one},"),
        format!(",{one}"),
        format!("nonsense, {one}"),
    ] {
        server.get(HEALTH).key(&list).send().await.invalid_key();
        server
            .get(HEALTH)
            .bearer(&list)
            .send()
            .await
            .refused(&[401]);
    }
}

#[tokio::test]
async fn values_that_cannot_be_keys_are_refused() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await.value;
    let mut values: Vec<Vec<u8>> = [
        "",
        "ps_live_",
        "ps_live_\t0123456789",
        "' OR '1'='1",
        "../../etc/passwd",
        "%00",
        "null",
        "ps_live_ ",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    values.push(b"ps_live_\xff\xfe\xfd".to_vec());
    values.push([key.as_bytes(), "\u{e9}".as_bytes()].concat());
    values.push([key.as_bytes(), b"\xa0"].concat());
    values.push([&key.as_bytes()[..20], b" ", &key.as_bytes()[20..]].concat());
    for value in values {
        for name in ["x-api-key: ", "authorization: Bearer ", "authorization: "] {
            let line = [name.as_bytes(), &value].concat();
            let answer = RawCall::new("GET", HEALTH).line(&line).send(&server).await;
            answer.refused(&[400, 401]);
        }
    }
    for line in [
        "authorization: Bearer",
        "authorization: Basic dTpw",
        "authorization:",
        "x-api-key:",
    ] {
        RawCall::new("GET", HEALTH)
            .line(line)
            .send(&server)
            .await
            .refused(&[400, 401]);
    }
}

/// Such a head may be too long to be read at all: then the connection is closed or answered by
/// something that knows no JSON. What counts is that nobody is let in and the server lives.
#[tokio::test]
async fn an_enormous_header_ends_no_more_than_its_request() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await.value;
    for size in [5_000, 30_000, 300_000] {
        let padding = "a".repeat(size);
        for line in [
            format!("x-api-key: {padding}"),
            format!("x-api-key: {key}{padding}"),
            format!("authorization: Bearer {padding}"),
            format!("authorization: Bearer {}{padding}", account.token),
        ] {
            let answer = RawCall::new("GET", HEALTH)
                .line(line)
                .attempt(&server)
                .await;
            let is_refused = answer.as_ref().is_none_or(|it| it.status.is_client_error());
            assert!(is_refused, "{size} bytes: {answer:?}");
        }
        lives_on(&server).await;
    }
    server.get(HEALTH).key(&key).send().await.expect(200);
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_key_that_is_nearly_right_is_wrong() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await.value;
    server.get(HEALTH).key(&key).send().await.expect(200);

    let mut near: Vec<String> = (8..key.len())
        .step_by(3)
        .map(|at| {
            let other = if key.as_bytes()[at] == b'a' { "b" } else { "a" };
            let mut changed = key.clone();
            changed.replace_range(at..=at, other);
            changed
        })
        .collect();
    near.push(key[..key.len() - 1].to_owned());
    near.push(key[8..].to_owned());
    near.push(format!("{key}a"));
    near.push(format!("{key}{key}"));
    near.push(key.replace("ps_live_", "ps_test_"));
    near.push(key.replace("ps_live_", "PS_LIVE_"));
    near.push(format!("{}...{}", &key[..12], &key[key.len() - 4..]));
    for wrong in near {
        server.get(HEALTH).key(&wrong).send().await.invalid_key();
        server.get(HEALTH).bearer(&wrong).send().await.invalid_key();
    }
}

#[tokio::test]
async fn the_digest_of_a_key_is_not_a_key() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    for hashed in [key.value.as_str(), &key.value[8..]] {
        let digest = Sha256::digest(hashed.as_bytes());
        for text in [
            hex(&digest),
            hex(&digest).to_uppercase(),
            general_purpose::STANDARD.encode(digest),
            general_purpose::URL_SAFE_NO_PAD.encode(digest),
        ] {
            server.get(HEALTH).key(&text).send().await.invalid_key();
            let prefixed = format!("ps_live_{text}");
            server.get(HEALTH).key(&prefixed).send().await.invalid_key();
            let cut = format!("ps_live_{}", &text[..32]);
            server.get(HEALTH).key(&cut).send().await.invalid_key();
        }
    }
    server.get(HEALTH).key(&key.id).send().await.invalid_key();
    server.get(HEALTH).key(&key.value).send().await.expect(200);
}

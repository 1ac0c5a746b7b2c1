//! Limits on how often: per key, per user, per address.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::support::{Account, Answer, CHAT_PRICE, Home, Key, Server, home};

/// An account made under generous limits, then a server with this setting on the same file.
async fn limited(home: &Home, name: &str, per_minute: &str) -> (Server, Account, Key) {
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    server.stop().await.without_panic();
    (
        home.launch().env(name, per_minute).start().await,
        account,
        key,
    )
}

#[track_caller]
fn is_five_a_minute(answer: &Answer, remaining: u64) {
    assert_eq!(answer.number("x-ratelimit-limit"), 5);
    assert_eq!(answer.number("x-ratelimit-remaining"), remaining);
    assert!(answer.number("x-ratelimit-reset") <= 61);
    let policy = answer.header("ratelimit-policy");
    assert!(policy.contains(r#""minute";q=5;w=60"#), "{policy}");
    let state = answer.header("ratelimit");
    assert!(
        state.contains(&format!(r#""minute";r={remaining};t="#)),
        "{state}"
    );
}

#[track_caller]
fn is_refused_for_a_while(answer: Answer) {
    let answer = answer.refused(&[429]);
    is_five_a_minute(&answer, 0);
    let wait = answer.number("retry-after");
    assert!(
        (1..=13).contains(&wait),
        "one more each twelve seconds, not in {wait} s"
    );
}

#[tokio::test]
async fn a_key_has_five_a_minute() {
    let home = home();
    let (server, account, key) = limited(&home, "KEY_RATE_LIMIT_PER_MINUTE", "5").await;
    let stranger = Account::new(&server).await;
    let foreign = stranger.key(&server).await;
    for remaining in (0..5).rev() {
        is_five_a_minute(
            &key.chat(&server, "Hello!").send().await.expect(200),
            remaining,
        );
    }
    for _ in 0..3 {
        is_refused_for_a_while(key.chat(&server, "Hello!").send().await);
        is_refused_for_a_while(key.health(&server).await);
        let openai = server.get("/v1/models").key(&key.value).send().await;
        openai.refused_openai(&[429]);
    }
    foreign.health(&server).await.expect(200);
    // Nobody vouches for a stranger, and nobody's key pays for one.
    server.get("/api/hub/health").send().await.missing_key();
    server.stop().await.without_panic();
    let server = home.start().await;
    assert_eq!(
        account.settled(&server).await,
        1_000_000_000 - 5 * CHAT_PRICE
    );
}

/// Whoever is known is counted, and told what is left, also where there is nothing; to all others
/// there is nothing either.
#[tokio::test]
async fn what_is_not_there_counts_and_tells_what_is_left() {
    let home = home();
    let (server, account, key) = limited(&home, "KEY_RATE_LIMIT_PER_MINUTE", "5").await;
    let token = format!("Bearer {}", account.token);
    for (name, credential) in [("x-api-key", &key.value), ("authorization", &token)] {
        let known = |path| server.get(path).header(name, credential).send();
        is_five_a_minute(&known("/nowhere").await.expect(404), 4);
        is_five_a_minute(&known("/api/keys/nowhere/at/all").await.expect(404), 3);
        is_five_a_minute(&known("/v1/nowhere").await.expect(404), 2);
        is_five_a_minute(&known("/api/omm/process").await.expect(405), 1);
        let answer = known("/api/payments/topup").await.expect(405);
        is_five_a_minute(&answer, 0);
        assert_eq!(answer.header("allow"), "POST");
        is_refused_for_a_while(known("/nowhere").await);
    }
    let stranger = server.get("/nowhere").send().await;
    for credential in ["ps_live_guess", ""] {
        let guess = server.get("/nowhere").key(credential).send().await;
        assert_eq!(
            guess.number("x-ratelimit-limit"),
            stranger.number("x-ratelimit-limit")
        );
        guess.refused(&[404]);
    }
    stranger.refused(&[404]);
}

#[tokio::test]
async fn a_user_has_five_a_minute() {
    let home = home();
    let (server, account, _) = limited(&home, "KEY_RATE_LIMIT_PER_MINUTE", "5").await;
    for remaining in (0..5).rev() {
        is_five_a_minute(&account.me(&server).await.expect(200), remaining);
    }
    is_refused_for_a_while(account.me(&server).await);
    let list = server.get("/api/keys").bearer(&account.token).send().await;
    is_refused_for_a_while(list);
    // Another token of the same user is the same user.
    let mut again = account.clone();
    again.log_in(&server).await;
    is_refused_for_a_while(again.me(&server).await);
    Account::new(&server).await.me(&server).await.expect(200);
}

/// A burst of thirty, then one more each two seconds; refusals take nothing.
#[tokio::test]
async fn whoever_waits_as_told_is_admitted() {
    let home = home();
    let (server, _, key) = limited(&home, "KEY_RATE_LIMIT_PER_MINUTE", "30").await;
    let start = Instant::now();
    let mut admitted = 0;
    let mut refused = key.health(&server).await;
    while refused.status.is_success() {
        admitted += 1;
        assert!(admitted < 200, "no limit");
        refused = key.health(&server).await;
    }
    let refilled = start.elapsed().as_secs() / 2 + 1;
    assert!(
        (30..=30 + refilled).contains(&admitted),
        "{admitted} in {:?}",
        start.elapsed()
    );

    for _ in 0..20 {
        key.health(&server).await;
    }
    let refused = key.health(&server).await;
    if refused.status.as_u16() == 429 {
        let wait = refused.refused(&[429]).number("retry-after");
        assert!((1..=3).contains(&wait), "{wait} s");
        sleep(Duration::from_secs(wait)).await;
        key.health(&server).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_at_once_are_not_more_than_the_limit() {
    let home = home();
    let (server, account, key) = limited(&home, "KEY_RATE_LIMIT_PER_MINUTE", "10").await;
    let start = Instant::now();
    let calls = (0..100).map(|_| tokio::spawn(key.chat(&server, "Hello!").send()));
    let mut admitted = 0;
    for answer in join_all(calls.collect::<Vec<_>>()).await {
        let answer = answer.expect("no panic");
        if answer.status.is_success() {
            admitted += 1;
        } else {
            answer.refused(&[429]);
        }
    }
    let refilled = i64::try_from(start.elapsed().as_secs()).unwrap() / 6;
    assert!((10..=10 + refilled).contains(&admitted), "{admitted}");
    assert_eq!(
        account.settled(&server).await,
        1_000_000_000 - admitted * CHAT_PRICE
    );
}

/// Before authentication: a flood of bad keys meets this limit, whatever else it says of itself.
#[tokio::test]
async fn an_address_is_limited_before_anyone_is_asked() {
    let home = home();
    let (server, _, key) = limited(&home, "IP_RATE_LIMIT_PER_MINUTE", "5").await;
    for number in 0..5 {
        let answer = server
            .get("/api/hub/health")
            .key(&format!("bad-{number}"))
            .send()
            .await;
        answer.invalid_key();
    }
    is_refused_for_a_while(server.get("/api/hub/health").key("bad").send().await);
    is_refused_for_a_while(server.get("/api/hub/health").send().await);
    is_refused_for_a_while(server.get("/api/auth/me").bearer("bad").send().await);
    server
        .post("/api/auth/login")
        .body("{}")
        .send()
        .await
        .refused(&[429]);
    server.get("/v1/models").send().await.refused_openai(&[429]);
    key.health(&server).await.refused(&[429]);
    for number in 0..10 {
        for name in ["x-forwarded-for", "x-real-ip", "forwarded"] {
            let call = server
                .get("/api/hub/health")
                .header(name, &format!("192.0.2.{number}"));
            call.send().await.refused(&[429]);
        }
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own() {
    let home = home();
    let launch = home.launch().env("IP_RATE_LIMIT_PER_MINUTE", "5");
    let server = launch.env("TRUSTED_PROXIES", "127.0.0.0/8").start().await;
    let from = |chain: String| {
        server
            .get("/api/hub/health")
            .header("x-forwarded-for", &chain)
    };
    for client in 1..=3 {
        for _ in 0..5 {
            from(format!("192.0.2.{client}")).send().await.missing_key();
        }
        from(format!("192.0.2.{client}"))
            .send()
            .await
            .refused(&[429]);
    }
    // What the client says of itself, left of what the proxy saw, changes nothing.
    for number in 0..5 {
        from(format!("198.51.100.{number}, 192.0.2.1"))
            .send()
            .await
            .refused(&[429]);
    }
}

/// What a key may not do counts too: nobody tries as often as they like.
#[tokio::test]
async fn a_key_that_may_not_is_counted_and_told_so() {
    let home = home();
    let (server, account, _) = limited(&home, "KEY_RATE_LIMIT_PER_MINUTE", "5").await;
    let viewer = account
        .key_with(&server, serde_json::json!({"roles": ["viewer"]}))
        .await;
    for remaining in (0..5).rev() {
        let refused = viewer.chat(&server, "Hello!").send().await.refused(&[403]);
        is_five_a_minute(&refused, remaining);
    }
    is_refused_for_a_while(viewer.chat(&server, "Hello!").send().await);
    is_refused_for_a_while(viewer.health(&server).await);
}

//! Four credentials, in their order.

use super::{
    ADMIN, NEXTAUTH_SECRET, ask,
    cookie::{Cookie, REAL, REAL_CHUNKS, now, sealed},
    home, launch, make_key, refused,
    support::{Call, RawCall},
};
use serde_json::json;

const INVALID: &str = "Invalid API key";

#[tokio::test]
async fn each_of_the_four_asks() {
    let home = home();
    let server = launch(&home).start().await;
    let session = Cookie::of("ann");
    let made = make_key(&server, &session).await;
    for key in [
        made["key"].as_str().unwrap(),
        ADMIN,
        "client-key-1",
        "client-key-2",
        "client-key-3",
    ] {
        let answer = ask(&server).key(key).send().await.expect(200).json();
        assert_eq!(answer["workspaceId"], "workspace-123");
        ask(&server).bearer(key).send().await.expect(200);
        ask(&server).key(key).bearer(key).send().await.expect(200);
    }
    session.on(ask(&server)).send().await.expect(200);
    // As the documentation has it with curl: no type of its own.
    let body = r#"{"workspaceId":"w","question":"q"}"#;
    let call = server
        .post("/api/ask")
        .header("content-type", "application/x-www-form-urlencoded");
    call.body(body).key(ADMIN).send().await.expect(200);
}

/// No token is a credential here, so that whatever comes as a bearer is a key.
#[tokio::test]
async fn a_key_that_looks_like_a_token_is_taken_wherever_it_stands() {
    let home = home();
    let key = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjaSJ9.c2lnbmF0dXJlLW9mLWEta2V5";
    let server = launch(&home).env("VALID_API_KEYS", key).start().await;
    ask(&server).key(key).send().await.expect(200);
    ask(&server).bearer(key).send().await.expect(200);
    ask(&server).key(key).bearer(key).send().await.expect(200);
    refused(&ask(&server).bearer(&key[1..]).send().await, 401, INVALID);
    let other = format!("{key}A");
    refused(&ask(&server).bearer(&other).send().await, 401, INVALID);
}

#[tokio::test]
async fn what_next_auth_itself_made_is_taken() {
    let home = home();
    let server = launch(&home).start().await;
    let chunks: Vec<_> = REAL_CHUNKS.split('\n').collect();
    let piece = |number, of: usize| format!("next-auth.session-token.{number}={}", chunks[of]);
    for good in [
        Cookie::plain(REAL),
        Cookie::named("__Secure-next-auth.session-token", REAL),
        Cookie(format!("{}; a=1; {}", piece(0, 0), piece(1, 1))),
        Cookie(format!("{}; {}", piece(1, 1), piece(0, 0))),
    ] {
        good.on(ask(&server)).send().await.expect(200);
    }
    let expired = json!({"sub": "ann", "exp": now() - 1});
    let valid = json!({"sub": "ann", "exp": now() + 60});
    // NextAuth's clock may be a little ahead.
    let made_in = |seconds| json!({"sub": "ann", "iat": now() + seconds, "exp": now() + 120});
    let fresh = Cookie::plain(&sealed(NEXTAUTH_SECRET, &made_in(5)));
    fresh.on(ask(&server)).send().await.expect(200);
    for bad in [
        Cookie(format!("{}; {}", piece(0, 1), piece(1, 0))),
        Cookie(piece(0, 0)),
        Cookie(piece(1, 1)),
        Cookie::plain(&REAL[..REAL.len() - 1]),
        Cookie::plain(&REAL.replacen("..", ".AA.", 1)),
        Cookie::plain(&sealed(NEXTAUTH_SECRET, &expired)),
        Cookie::plain(&sealed(NEXTAUTH_SECRET, &made_in(60))),
        Cookie::plain(&sealed("another secret made for these tests, too", &valid)),
        Cookie(format!(
            "next-auth.session-token={REAL}; next-auth.session-token={REAL}"
        )),
        Cookie::plain(""),
    ] {
        refused(&bad.on(ask(&server)).send().await, 401, INVALID);
    }
    assert!(!server.stop().await.stderr.contains(&REAL[40..80]));
}

/// A browser keeps both when an application moves to https.
#[tokio::test]
async fn of_two_cookies_the_one_that_next_auth_reads_is_judged() {
    let secure = "__Secure-next-auth.session-token";
    for (url, https) in [
        (None, true),
        (Some("https://app.example.com"), true),
        (Some("http://localhost:3000"), false),
    ] {
        let home = home();
        let launched = launch(&home);
        let server = match url {
            Some(url) => launched.env("NEXTAUTH_URL", url),
            None => launched,
        };
        let server = server.start().await;
        let both = |plain: &str, value: &str| {
            Cookie(format!("next-auth.session-token={plain}; {secure}={value}"))
        };
        let (stale, good) = ("a.b.c.d.e", REAL);
        let (read, other) = (both(stale, good), both(good, stale));
        let (read, other) = if https { (read, other) } else { (other, read) };
        read.on(ask(&server)).send().await.expect(200);
        refused(&other.on(ask(&server)).send().await, 401, INVALID);
        let beside = other.on(server.get("/api/admin/stats")).key("client-key-1");
        beside.send().await.refusal(&[403]);
        // Alone, either is a session, unless the application is known to be https: a network
        // attacker can set the plain one.
        let alone = |name| Cookie::named(name, REAL).on(ask(&server)).send();
        alone(secure).await.expect(200);
        let plain = alone("next-auth.session-token").await;
        if url.is_some() && https {
            refused(&plain, 401, INVALID);
        } else {
            plain.expect(200);
        }
    }
}

#[tokio::test]
async fn a_cookie_without_a_value_shuts_nobody_out() {
    let home = home();
    let server = launch(&home).start().await;
    for empty in [
        Cookie::plain(""),
        Cookie::plain("\"\""),
        Cookie("next-auth.session-token.0=; next-auth.session-token.1=".to_owned()),
        Cookie::named("__Secure-next-auth.session-token", ""),
    ] {
        empty.on(ask(&server)).key(ADMIN).send().await.expect(200);
        let stranger = empty.on(ask(&server)).key("no-such-key").send().await;
        refused(&stranger, 401, INVALID);
        refused(&empty.on(ask(&server)).send().await, 401, INVALID);
    }
}

#[tokio::test]
async fn a_good_session_comes_first_and_a_bad_one_does_not_count_beside_a_key() {
    let home = home();
    let server = launch(&home).start().await;
    let good = Cookie::of("ann");
    let made = make_key(&server, &good).await;
    let dashboard = made["key"].as_str().unwrap();
    good.on(ask(&server))
        .key("no-such-key")
        .send()
        .await
        .expect(200);
    good.on(server.get("/api/admin/stats"))
        .key("client-key-1")
        .send()
        .await
        .expect(200);
    let ended = json!({"sub": "ann", "exp": now() - 1});
    let foreign = json!({"sub": "ann", "exp": now() + 60});
    for bad in [
        Cookie::plain("a.b.c.d.e"),
        Cookie::plain("not a session"),
        Cookie::plain(&sealed(NEXTAUTH_SECRET, &ended)),
        Cookie::plain(&sealed(
            "another secret made for these tests, too",
            &foreign,
        )),
        Cookie(format!("{}; {}", good.0, good.0)),
    ] {
        for key in [ADMIN, "client-key-1", dashboard] {
            bad.on(ask(&server)).key(key).send().await.expect(200);
            bad.on(ask(&server)).bearer(key).send().await.expect(200);
        }
        let stats = || bad.on(server.get("/api/admin/stats"));
        stats().key(ADMIN).send().await.expect(200);
        stats().key("client-key-1").send().await.refusal(&[403]);
        let elsewhere = bad
            .on(ask(&server))
            .header("origin", "https://evil.example");
        elsewhere.key("client-key-1").send().await.expect(200);
        let guess = bad.on(ask(&server)).key("no-such-key").send().await;
        refused(&guess, 401, INVALID);
        refused(&bad.on(ask(&server)).send().await, 401, INVALID);
        // Keys are made by sessions alone.
        let list = bad.on(server.get("/api/keys")).key(ADMIN).send().await;
        refused(&list, 401, INVALID);
    }
    let elsewhere = good
        .on(ask(&server))
        .header("origin", "https://evil.example");
    elsewhere.key("client-key-1").send().await.refusal(&[403]);
}

#[tokio::test]
async fn without_a_secret_no_cookie_is_a_session_and_none_hinders_a_key() {
    let home = home();
    let launch = launch(&home).env("NEXTAUTH_SECRET", "");
    let server = launch.start().await;
    for cookie in [Cookie::of("ann"), Cookie::plain(REAL)] {
        refused(&cookie.on(ask(&server)).send().await, 401, INVALID);
        let list = cookie.on(server.get("/api/keys")).send().await;
        refused(&list, 401, INVALID);
        for key in [ADMIN, "client-key-1"] {
            cookie.on(ask(&server)).key(key).send().await.expect(200);
        }
    }
}

#[tokio::test]
async fn what_is_no_good_key_is_refused() {
    let home = home();
    let server = launch(&home).start().await;
    refused(&ask(&server).send().await, 401, INVALID);
    for key in [
        "",
        "no-such-key",
        "client-key-",
        "client-key-1,client-key-2",
        "CLIENT-KEY-1",
        &"a".repeat(600),
    ] {
        refused(&ask(&server).key(key).send().await, 401, INVALID);
        refused(&ask(&server).bearer(key).send().await, 401, INVALID);
    }
    let twice = ask(&server).key("client-key-1").key("client-key-1");
    refused(&twice.send().await, 401, INVALID);
    let two = ask(&server).key("client-key-1").bearer("client-key-2");
    refused(&two.send().await, 401, INVALID);
    let basic = ask(&server).header("authorization", "Basic YWRtaW46YWRtaW4=");
    refused(&basic.send().await, 401, INVALID);
    let query = server.post("/api/ask?x-api-key=client-key-1&api_key=client-key-1");
    refused(&query.send().await, 401, INVALID);
    let odd = RawCall::new("POST", "/api/ask").line(b"x-api-key: \xff\xfeclient-key-1");
    refused(&odd.send(&server).await, 401, INVALID);
}

#[tokio::test]
async fn a_session_is_not_taken_beside_two_lines_of_a_key() {
    let home = home();
    let server = launch(&home).start().await;
    let session = Cookie::of("ann");
    session.on(ask(&server)).send().await.expect(200);
    let twice = session
        .on(ask(&server))
        .key("client-key-1")
        .key("client-key-1");
    refused(&twice.send().await, 401, INVALID);
    let twice = session.on(ask(&server)).bearer("x").bearer("x");
    refused(&twice.send().await, 401, INVALID);
}

/// Where there is nothing, and where no key will do, as well.
#[tokio::test]
async fn a_client_is_counted_and_told_wherever_it_brings_its_key() {
    let home = home();
    let limits = launch(&home).env("API_RATE_LIMIT", "9");
    let server = limits.env("FAILED_ATTEMPTS_PER_MINUTE", "3").start().await;
    let key = "client-key-1";
    let mut left = 9;
    let calls: [(&dyn Fn() -> Call, u16); 6] = [
        (&|| ask(&server), 200),
        (&|| server.get("/nope"), 404),
        (&|| server.get("/api/ask"), 405),
        (&|| server.get("/api/admin/stats"), 403),
        (&|| server.delete("/api/keys/x").bearer(key), 401),
        (&|| server.get("/api/keys/x"), 405),
    ];
    for (call, status) in calls {
        let answer = call().key(key).send().await.expect(status);
        left -= 1;
        assert_eq!(answer.number("x-ratelimit-limit"), 9, "{status}");
        assert_eq!(answer.number("x-ratelimit-remaining"), left, "{status}");
        assert_eq!(answer.headers.contains_key("allow"), status == 405);
    }
    // What there isn't is no news to strangers, sessions, or the administrator, and tells nobody
    // which keys are good.
    for call in [
        server.get("/nope"),
        server.get("/nope").key(ADMIN),
        Cookie::of("ann").on(server.get("/nope")),
        server.get("/nope").key("guess-1"),
        server.get("/nope").key("guess-2"),
    ] {
        let answer = call.send().await;
        answer.refusal(&[404]);
        assert!(!answer.headers.contains_key("x-ratelimit-limit"));
        assert!(!answer.headers.contains_key("www-authenticate"));
    }
    // A guess counts there as elsewhere: the key that no session was beside was one too.
    let answer = server.get("/nope").key("guess-3").send().await;
    refused(&answer, 429, "Rate limit exceeded");
}

#[tokio::test]
async fn statistics_are_for_the_administrator_and_for_sessions() {
    let home = home();
    let server = launch(&home).start().await;
    let stats = || server.get("/api/admin/stats");
    let session = Cookie::of("ann");
    let made = make_key(&server, &session).await;
    stats().key(ADMIN).send().await.expect(200);
    stats().bearer(ADMIN).send().await.expect(200);
    session.on(stats()).send().await.expect(200);
    for key in ["client-key-1", made["key"].as_str().unwrap()] {
        stats().key(key).send().await.refusal(&[403]);
    }
    refused(&stats().send().await, 401, INVALID);
}

#[tokio::test]
async fn clients_are_limited_each_by_its_key() {
    let home = home();
    let server = launch(&home).env("API_RATE_LIMIT", "3").start().await;
    let session = Cookie::of("ann");
    let made = make_key(&server, &session).await;
    for key in [
        "client-key-1",
        "client-key-2",
        made["key"].as_str().unwrap(),
    ] {
        for left in [2, 1, 0] {
            let answer = ask(&server).key(key).send().await.expect(200);
            assert_eq!(answer.number("x-ratelimit-limit"), 3);
            assert_eq!(answer.number("x-ratelimit-remaining"), left);
        }
        let answer = ask(&server).bearer(key).send().await;
        refused(&answer, 429, "Rate limit exceeded");
        // Three an hour: the next in twenty minutes.
        assert!((1_190..=1_200).contains(&answer.number("retry-after")));
    }
    // What a client may not do counts too, and its limit is told.
    for left in [2, 1, 0] {
        let answer = server.get("/api/admin/stats").key("client-key-3");
        let answer = answer.send().await.expect(403);
        assert_eq!(answer.number("x-ratelimit-remaining"), left);
    }
    let answer = ask(&server).key("client-key-3").send().await;
    refused(&answer, 429, "Rate limit exceeded");
}

/// Nor do they pay for strangers who come from where they do.
#[tokio::test]
async fn sessions_and_the_administrator_are_not_limited() {
    let home = home();
    let launch = launch(&home).env("API_RATE_LIMIT", "3");
    let server = launch.env("IP_RATE_LIMIT_PER_MINUTE", "3").start().await;
    let session = Cookie::of("ann");
    for _ in 0..10 {
        refused(&ask(&server).send().await, 401, INVALID);
        refused(&ask(&server).key("no-such-key").send().await, 401, INVALID);
        ask(&server).key(ADMIN).send().await.expect(200);
        session.on(ask(&server)).send().await.expect(200);
        session.on(server.get("/api/keys")).send().await.expect(200);
    }
}

#[tokio::test]
async fn a_key_of_two_sources_counts_as_the_first_one_s() {
    let home = home();
    let server = launch(&home).start().await;
    let made = make_key(&server, &Cookie::of("ann")).await;
    let key = made["key"].as_str().unwrap();
    server.stop().await;
    let server = launch(&home).env("ADMIN_API_KEY", key).start().await;
    server
        .get("/api/admin/stats")
        .key(key)
        .send()
        .await
        .refusal(&[403]);
    std::fs::remove_file(home.path().join("workspaces/api-keys.json")).unwrap();
    let changed = async {
        while server.get("/api/admin/stats").key(key).send().await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(2), changed)
        .await
        .unwrap();
}

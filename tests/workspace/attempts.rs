//! Guesses at keys, and what the log says of attempts.

use super::*;

#[tokio::test]
async fn guesses_are_limited_and_neither_sessions_nor_the_administrator_pay_for_them() {
    let home = home();
    let launch = launch(&home).env("FAILED_ATTEMPTS_PER_MINUTE", "3");
    let server = launch.start().await;
    let session = Cookie::of("ann");
    for _ in 0..10 {
        ask(&server).key("client-key-1").send().await.expect(200);
        refused(&ask(&server).send().await, 401, "Invalid API key");
    }
    for guess in ["guess-1", "guess-2", "guess-3"] {
        refused(
            &ask(&server).key(guess).send().await,
            401,
            "Invalid API key",
        );
    }
    for key in ["guess-4", "client-key-1"] {
        let answer = ask(&server).key(key).send().await;
        refused(&answer, 429, "Rate limit exceeded");
        assert!((1..=20).contains(&answer.number("retry-after")));
    }
    ask(&server).key(ADMIN).send().await.expect(200);
    ask(&server).bearer(ADMIN).send().await.expect(200);
    session.on(ask(&server)).send().await.expect(200);
    session.on(server.get("/api/keys")).send().await.expect(200);
    // Another cookie is no session, and nor is one that isn't good.
    for cookie in [
        "theme=dark",
        "next-auth.session-token=a.b.c.d.e",
        "next-auth.session-token=?",
    ] {
        let call = ask(&server).key("client-key-1").header("cookie", cookie);
        refused(&call.send().await, 429, "Rate limit exceeded");
        let admin = ask(&server).key(ADMIN).header("cookie", cookie);
        admin.send().await.expect(200);
    }
}

/// Whatever the cookie, and wherever the guess is sent.
#[tokio::test]
async fn guesses_beside_a_made_up_cookie_are_counted() {
    let routes = ["/api/ask", "/api/admin/stats", "/api/keys", "/nope"];
    let cookies = ["a.b.c.d.e", "not a session", &cookie::REAL[1..]];
    for route in routes {
        let home = home();
        let launch = launch(&home).env("FAILED_ATTEMPTS_PER_MINUTE", "3");
        let server = launch.start().await;
        let guess = |at: usize| {
            let call = Cookie::plain(cookies[at % cookies.len()]).on(server.get(route));
            call.key(&format!("guess-{at}")).send()
        };
        for at in 0..3 {
            guess(at).await.refusal(&[401, 404, 405]);
        }
        refused(&guess(3).await, 429, "Rate limit exceeded");
    }
}

#[tokio::test]
async fn who_guesses_behind_a_proxy_shuts_out_nobody_else() {
    let home = home();
    let launch = launch(&home)
        .env("FAILED_ATTEMPTS_PER_MINUTE", "3")
        .env("TRUSTED_PROXIES", "127.0.0.1");
    let server = launch.start().await;
    let from = |address: &str, key: &str| {
        let call = ask(&server).key(key).header("x-forwarded-for", address);
        call.send()
    };
    for status in [401, 401, 401, 429, 429] {
        from("198.51.100.1", "a-guess").await.refusal(&[status]);
    }
    from("198.51.100.1", "client-key-1").await.refusal(&[429]);
    from("203.0.113.2", "client-key-1").await.expect(200);
    from("203.0.113.3", "a-guess").await.refusal(&[401]);
}

/// The line of the log on one request.
fn line_of<'a>(said: &'a str, answer: &Answer) -> &'a str {
    let of_it =
        |line: &&str| line.contains("tollgate::audit") && line.contains(answer.request_id());
    let mut lines = said.lines().filter(of_it);
    let line = lines.next().unwrap_or_else(|| panic!("no line in {said}"));
    assert_eq!(lines.next(), None, "one line an attempt");
    line
}

#[tokio::test]
async fn an_attempt_is_logged_with_who_it_was_by_what_and_from_where() {
    let home = home();
    let launch = launch(&home)
        .env("RUST_LOG", "off")
        .env("TRUSTED_PROXIES", "127.0.0.0/8");
    let server = launch.start().await;
    let from = |call: Call| call.header("x-forwarded-for", "203.0.113.7");
    let made = Cookie::of("ann").on(server.post("/api/keys"));
    let made = from(made)
        .json(&json!({ "name": "mine" }))
        .send()
        .await
        .expect(201);
    let (key, id) = (made.json()["key"].clone(), made.json()["id"].clone());
    let (key, id) = (key.as_str().unwrap(), id.as_str().unwrap());
    let bad = "a-bad-key-of-ours";
    let session = from(Cookie::of("ann").on(ask(&server)))
        .send()
        .await
        .expect(200);
    let dashboard = from(ask(&server).key(key)).send().await.expect(200);
    let admin = from(ask(&server).bearer(ADMIN)).send().await.expect(200);
    let client = from(ask(&server).key("client-key-2"))
        .send()
        .await
        .expect(200);
    let refused = from(ask(&server).key(bad)).send().await.expect(401);
    let nobody = from(ask(&server)).send().await.expect(401);
    let nowhere = from(server.get("/nope").key(bad)).send().await.expect(404);
    let said = server.stop().await.stderr;

    let actor = line_of(&said, &session).split("actor=").nth(1);
    let ann = actor
        .and_then(|actor| actor.split(' ').next())
        .expect("who it was");
    for (answer, words) in [
        (&session, vec!["success", ann]),
        (&dashboard, vec!["success", ann, id]),
        (
            &admin,
            vec!["success", r#"actor="admin""#, r#"key="admin""#],
        ),
        (
            &client,
            vec![
                "success",
                r#"actor="client-de7eed0461f3""#,
                r#"key="client-de7eed0461f3""#,
            ],
        ),
        (&refused, vec!["refused", "unknown key"]),
        (&nobody, vec!["refused", "credential_missing"]),
    ] {
        let line = line_of(&said, answer);
        for word in words
            .iter()
            .chain(&["authenticate", "address=203.0.113.7", "POST /api/ask"])
        {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
    assert!(!line_of(&said, &session).contains("key="), "{said}");
    let line = line_of(&said, &nowhere);
    for word in ["authenticate", "refused", "unknown key", "GET /nope"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    let act = |line: &&str| line.contains("key.create");
    assert_eq!(said.lines().filter(act).count(), 1, "told once: {said}");
    for secret in [key, ADMIN, "client-key-2", bad] {
        assert!(!said.contains(secret), "{said}");
    }
}

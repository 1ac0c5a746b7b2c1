//! Guesses at keys.

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
    // Another cookie is no session.
    let call = ask(&server).key("guess-5").header("cookie", "theme=dark");
    refused(&call.send().await, 429, "Rate limit exceeded");
    // A bad session is refused, and no key beside it is looked at.
    let bad = Cookie::plain("guess").on(ask(&server)).key("client-key-1");
    refused(&bad.send().await, 401, "Invalid API key");
}

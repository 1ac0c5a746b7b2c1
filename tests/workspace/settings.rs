//! Where settings come from, and which stop the start.

use std::fs;

use super::{ADMIN, ask, cookie::Cookie, home, launch, refused};

#[tokio::test]
async fn env_local_is_read_and_the_process_s_own_wins() {
    let home = home();
    let file = "# comment\nADMIN_API_KEY=from-the-file-0123456789abcdef\nVALID_API_KEYS=file-key-1,file-key-2\nAPI_RATE_LIMIT=2\n";
    fs::write(home.path().join(".env.local"), file).unwrap();
    let server = home.launch().env("ADMIN_API_KEY", ADMIN).start().await;
    ask(&server).key(ADMIN).send().await.expect(200);
    refused(
        &ask(&server)
            .key("from-the-file-0123456789abcdef")
            .send()
            .await,
        401,
        "Invalid API key",
    );
    let answer = ask(&server).key("file-key-2").send().await.expect(200);
    assert_eq!(answer.number("x-ratelimit-limit"), 2);
    // Without NEXTAUTH_SECRET nobody has a session.
    refused(
        &Cookie::of("ann").on(ask(&server)).send().await,
        401,
        "Invalid API key",
    );
}

#[tokio::test]
async fn a_setting_that_cannot_be_is_named_without_its_secret() {
    for (name, value) in [
        ("ADMIN_API_KEY", "a \"short\" one"),
        ("VALID_API_KEYS", "client-key-1,with blank"),
        ("ALLOWED_IPS", "10.0.0.1,localhost"),
        ("API_RATE_LIMIT", "many"),
        ("API_RATE_LIMIT", "0"),
        ("FAILED_ATTEMPTS_PER_MINUTE", "0"),
        ("NEXTAUTH_URL", "app.example.com"),
        ("TRUSTED_PROXIES", "x"),
    ] {
        let home = home();
        let ended = launch(&home).env(name, value).refused().await;
        let said = ended.stderr.to_lowercase();
        let named = said.contains(&name.to_lowercase());
        assert!(named, "{name}: {}", ended.stderr);
        assert!(
            !said.contains("with blank") && !said.contains("short"),
            "{}",
            ended.stderr
        );
    }
    let home = home();
    let not_utf8 = b"ADMIN_API_KEY=my-secret-key\xff";
    fs::write(home.path().join(".env.local"), not_utf8).unwrap();
    let ended = home.launch().refused().await;
    assert!(ended.stderr.contains(".env.local") && !ended.stderr.contains("my-secret"));
}

#[tokio::test]
async fn env_local_is_read_as_the_application_beside_it_reads_it() {
    let home = home();
    let file = "# who's the administrator\n\
        export ADMIN_API_KEY='the administrator's'\n\
        ADMIN_API_KEY=\"key-of-the-administrator\" # the last one counts\n\
        VALID_API_KEYS=client-key-1, client-key-2 # and no more\n\
        ALLOWED_IPS=192.168.1.100, 127.0.0.1\n\
        this is no assignment\n\
        API_RATE_LIMIT = 7\n";
    fs::write(home.path().join(".env.local"), file).unwrap();
    let server = home.launch().start().await;
    for key in ["key-of-the-administrator", "client-key-2"] {
        ask(&server).key(key).send().await.expect(200);
    }
    let limited = ask(&server).key("client-key-1").send().await.expect(200);
    assert_eq!(limited.number("x-ratelimit-limit"), 7);
    server.stop().await;

    // A stricter line below isn't passed over.
    fs::write(
        home.path().join(".env.local"),
        "VALID_API_KEYS=client-key-1\nALLOWED_IPS=*\nALLOWED_IPS=192.168.1.100\n",
    )
    .unwrap();
    let server = home.launch().start().await;
    let elsewhere = ask(&server).key("client-key-1").send().await;
    refused(&elsewhere, 403, "Access denied from this IP address");
}

#[tokio::test]
async fn a_short_key_of_the_configuration_is_taken_with_a_warning() {
    let home = home();
    let server = launch(&home).env("ADMIN_API_KEY", "s3cret");
    let server = server.env("VALID_API_KEYS", "x~z,client-key-2");
    let server = server.start().await;
    for key in ["s3cret", "x~z", "client-key-2"] {
        ask(&server).key(key).send().await.expect(200);
    }
    refused(&ask(&server).key("x~").send().await, 401, "Invalid API key");
    let said = server.stop().await.stderr;
    assert_eq!(said.matches("can be guessed").count(), 2, "{said}");
    assert!(!said.contains("s3cret") && !said.contains("x~z"), "{said}");
}

/// There is nothing to write, so that a file which can't be written to is nobody's concern.
#[tokio::test]
async fn the_end_touches_no_file_that_nothing_changed() {
    let home = home();
    fs::create_dir(home.path().join("workspaces")).unwrap();
    fs::write(home.path().join("workspaces/api-keys.json"), "{ no JSON").unwrap();
    let server = launch(&home).start().await;
    let ended = server.stop().await;
    assert!(!home.path().join("workspaces/api-keys.json.lock").exists());
    ended.without_panic();
}

/// Unread, they would let in whoever comes.
#[tokio::test]
async fn a_setting_that_is_no_text_stops_the_start() {
    for name in [
        "ALLOWED_IPS",
        "ADMIN_API_KEY",
        "VALID_API_KEYS",
        "NEXTAUTH_URL",
    ] {
        let home = home();
        let ended = launch(&home).env_bytes(name, b"10.0.0.1\xff");
        let ended = ended.refused().await;
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
        assert!(!ended.stderr.contains("10.0.0.1"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn every_attempt_is_logged_whatever_rust_log_says() {
    for level in ["off", "error", "hyper=trace", "nonsense=="] {
        let home = home();
        let server = launch(&home).env("RUST_LOG", level).start().await;
        let good = ask(&server).key(ADMIN).send().await.expect(200);
        let bad = ask(&server)
            .key("a-bad-key-of-ours")
            .send()
            .await
            .expect(401);
        let session = Cookie::of("ann").on(ask(&server)).send().await.expect(200);
        let said = server.stop().await.stderr;
        for answer in [good, bad, session] {
            assert!(said.contains(answer.request_id()), "{level}: {said}");
        }
        assert!(
            !said.contains(ADMIN) && !said.contains("a-bad-key-of-ours"),
            "{said}"
        );
    }
}

//! What the environment says, and what happens when it says nothing.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::PathBuf};

use serde_json::json;

use crate::support::{Account, Home, demo_body, home};

#[tokio::test]
async fn a_short_secret_is_refused_with_its_name() {
    for secret in ["x", "31 bytes are one byte too few !"] {
        assert!(secret.len() < 32);
        let home = home();
        let ended = home.launch().env("JWT_SECRET", secret).refused().await;
        ended.without_panic();
        assert!(!ended.stdout.contains("listening"), "{ended:?}");
        assert!(ended.stderr.contains("JWT_SECRET"), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("32"),
            "how long it has to be: {}",
            ended.stderr
        );
        assert!(
            secret.len() < 2 || !ended.stderr.contains(secret),
            "{}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn an_administrator_has_an_address_and_a_password_or_there_is_none() {
    for name in ["ADMIN_EMAIL", "ADMIN_PASSWORD"] {
        let home = home();
        let ended = home.launch().env(name, "me@example.com").refused().await;
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_secret_is_counted_in_bytes() {
    let ascii = "exactly thirty-two bytes, ASCII!";
    let wide = "\u{e9}".repeat(16);
    for secret in [ascii, &wide] {
        assert_eq!(secret.len(), 32);
        let home = home();
        let server = home.launch().env("JWT_SECRET", secret).start().await;
        let account = Account::new(&server).await;
        account.me(&server).await.expect(200);
    }
}

/// Random bytes are a secret too, and no reason to make another.
#[tokio::test]
async fn a_secret_need_not_be_text() {
    let secret = [&[0x80, 0xff, 0xfe][..], &[b'x'; 29]].concat();
    let home = home();
    let launch = || home.launch().env_bytes("JWT_SECRET", &secret);
    let server = launch().start().await;
    let account = Account::new(&server).await;
    account.me(&server).await.expect(200);
    assert!(private_files(&home).is_empty());
    server.stop().await.without_panic();
    let server = launch().start().await;
    account.me(&server).await.expect(200);

    for short in [&[0xff; 31][..], b""] {
        let refused = home.launch().env_bytes("JWT_SECRET", short).refused().await;
        assert!(refused.stderr.contains("JWT_SECRET"), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn a_setting_that_is_no_text_stops_the_start() {
    for name in [
        "HOST",
        "PORT",
        "DATABASE_URL",
        "REDIS_URL",
        "ADMIN_EMAIL",
        "ADMIN_PASSWORD",
        "TRUSTED_PROXIES",
        "IP_RATE_LIMIT_PER_MINUTE",
    ] {
        let home = home();
        let ended = home.launch().env_bytes(name, b"odd\xff").refused().await;
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
        assert!(!ended.stderr.contains("odd"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn an_empty_setting_is_one_that_is_not_set() {
    let home = home();
    let names = [
        "HOST",
        "REDIS_URL",
        "ADMIN_EMAIL",
        "ADMIN_PASSWORD",
        "TRUSTED_PROXIES",
        "IP_RATE_LIMIT_PER_MINUTE",
        "KEY_RATE_LIMIT_PER_MINUTE",
    ];
    let launch = names
        .iter()
        .fold(home.launch(), |launch, name| launch.env(name, ""));
    let server = launch.start().await;
    let account = Account::new(&server).await;
    let me = account.me(&server).await.expect(200);
    assert_eq!(me.number("x-ratelimit-limit"), 600);
}

#[tokio::test]
async fn an_administrator_who_cannot_be_stops_the_start_by_the_setting() {
    let good = ("root@example.com", "The First Password 123!");
    for (email, password, named) in [
        ("no-address", good.1, "ADMIN_EMAIL"),
        (good.0, "short", "ADMIN_PASSWORD"),
    ] {
        let home = home();
        let launch = home.launch().env("ADMIN_EMAIL", email);
        let ended = launch.env("ADMIN_PASSWORD", password).refused().await;
        assert!(ended.stderr.contains(named), "{}", ended.stderr);
        assert!(!ended.stderr.contains("no-address"), "{}", ended.stderr);
    }
}

/// At `info` it is told where the secret lies.
#[tokio::test]
async fn an_empty_or_unreadable_rust_log_is_info_and_the_latter_is_told_of() {
    for (asked, is_told_of) in [
        (&b""[..], false),
        (b"tollgate==loud", true),
        (b"\xff", true),
    ] {
        let home = home();
        let launch = home.launch().without("JWT_SECRET");
        let server = launch.env_bytes("RUST_LOG", asked).start().await;
        let said = server.stop().await.stderr;
        assert!(said.contains("JWT_SECRET"), "{said}");
        assert_eq!(said.contains("RUST_LOG"), is_told_of, "{said}");
    }
}

/// Whoever starts a server may change their mind as soon as it says that it is there.
#[tokio::test]
async fn a_signal_right_after_the_ready_line_ends_the_server_well() {
    let home = home();
    for _ in 0..8 {
        home.start().await.stop().await.without_panic();
    }
}

#[tokio::test]
async fn another_secret_ends_every_token_and_no_key() {
    let home = home();
    let server = home.start().await;
    let mut account = Account::new(&server).await;
    let key = account.key(&server).await;
    server.stop().await.without_panic();
    let launch = home
        .launch()
        .env("JWT_SECRET", "another secret of 39 bytes, also ASCII.");
    let server = launch.start().await;
    account.me(&server).await.refused(&[401]);
    key.health(&server).await.expect(200);
    account.log_in(&server).await;
    account.me(&server).await.expect(200);
}

/// Files beside the database that nobody but their owner can read.
fn private_files(home: &Home) -> Vec<PathBuf> {
    let database = ["p.db", "p.db-wal", "p.db-shm", "p.db-journal"];
    let entries = fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap());
    entries
        .filter(|entry| !database.iter().any(|name| entry.file_name() == *name))
        .filter(|entry| {
            let about = entry.metadata().unwrap();
            about.is_file() && about.permissions().mode() & 0o777 == 0o600 && about.len() >= 32
        })
        .map(|entry| entry.path())
        .collect()
}

#[tokio::test]
async fn a_missing_secret_is_made_and_kept() {
    let mut made = Vec::new();
    for _ in 0..2 {
        let home = home();
        let server = home.launch().without("JWT_SECRET").start().await;
        let account = Account::new(&server).await;
        account.me(&server).await.expect(200);
        let files = private_files(&home);
        assert_eq!(
            files.len(),
            1,
            "one secret of mode 0600 beside the database: {files:?}"
        );
        let secret = fs::read(&files[0]).unwrap();
        let ended = server.stop().await;
        let text = String::from_utf8_lossy(&secret).trim().to_owned();
        assert!(!ended.stderr.contains(&text) && !ended.stdout.contains(&text));

        let server = home.launch().without("JWT_SECRET").start().await;
        account.me(&server).await.expect(200);
        assert_eq!(fs::read(&private_files(&home)[0]).unwrap(), secret);
        made.push(secret);
    }
    assert_ne!(made[0], made[1], "a constant is no secret");
}

#[tokio::test]
async fn the_default_database_is_made_where_it_is_documented() {
    let home = home();
    let server = home.launch().without("DATABASE_URL").start().await;
    let account = Account::new(&server).await;
    assert!(home.path().join("data/polysystems.db").is_file());
    server.stop().await.without_panic();
    let server = home.launch().without("DATABASE_URL").start().await;
    account.me(&server).await.expect(200);
}

#[tokio::test]
async fn the_memory_engine_serves_the_same() {
    let home = home();
    let server = home.launch().env("DATABASE_URL", "memory:").start().await;
    let (account, key) = Account::with_money(&server, "0.004").await;
    key.chat(&server, "Hello!").send().await.expect(200);
    key.chat(&server, "!fail").send().await.expect(500);
    key.chat(&server, "Hello!").send().await.expect(200);
    key.chat(&server, "Hello!")
        .send()
        .await
        .insufficient("$0.0020");
    assert_eq!(account.settled(&server).await, 0);
    account.top_up(&server, "1").await;
    account
        .limits(&server, &key.id, "0.006", "null")
        .send()
        .await
        .expect(200);
    key.chat(&server, "Hello!").send().await.expect(200);
    key.chat(&server, "Hello!").send().await.limit_exceeded();
    account.revoke(&server, &key.id).send().await.expect(200);
    key.health(&server).await.invalid_key();
    let charged: i64 = account
        .usage(&server)
        .await
        .iter()
        .map(|row| row.money("charged"))
        .sum();
    assert_eq!(charged, 6_000_000);
    server.stop().await.without_panic();
}

#[tokio::test]
async fn the_first_administrator_is_made_once() {
    let home = home();
    let launch = |password: &str| {
        let launch = home.launch().env("ADMIN_EMAIL", "root@example.com");
        launch.env("ADMIN_PASSWORD", password)
    };
    for password in ["The First Password 123!", "A Later Password 123!"] {
        let server = launch(password).start().await;
        let login = json!({"email": "root@example.com", "password": "The First Password 123!"});
        let answer = server
            .post("/api/auth/login")
            .json(&login)
            .send()
            .await
            .expect(200)
            .json();
        assert_eq!(answer["user"]["role"], "admin");
        let ended = server.stop().await;
        ended.without_panic();
        assert!(!ended.stderr.contains(password), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn stdout_is_one_line_however_much_happens() {
    let home = home();
    let server = home.launch().env("RUST_LOG", "trace").start().await;
    let address = server.address;
    let (_, key) = Account::with_money(&server, "1").await;
    key.chat(&server, "Hello!").send().await.expect(200);
    server.get("/nope").send().await.expect(404);
    let ended = server.stop().await;
    assert_eq!(ended.stdout, format!("listening on http://{address}\n"));
}

#[tokio::test]
async fn a_port_that_is_named_is_used() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let home = home();
    let server = home.launch().env("PORT", &free.to_string()).start().await;
    assert_eq!(server.address.port(), free);
    let call = server.post("/api/omm/process").json(&demo_body("x"));
    call.send().await.missing_key();
}

/// Long before it gives up.
#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_database_that_does_not_answer_is_told_of_while_it_is_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgres://ann:s3cret@127.0.0.1:{port}/books");
    let home = home();
    let launch = home.launch().env("DATABASE_URL", &url);
    let ended = launch
        .says("still waiting for a connection to PostgreSQL")
        .await;
    assert!(ended.stderr.contains("WARN"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
}

//! The process: keys made beside it, restarts, its end, and settings that can't be.

use serde_json::json;

use crate::{ADMIN, access, home, key, login, refused, start, user};

#[tokio::test]
async fn a_key_that_is_made_beside_the_running_server_works_at_once() {
    let home = home();
    let server = start(&home).await;
    let made = home.launch().args(&["generate-key"]).run().await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let viewer = made.stdout.trim_end();
    assert!(viewer.starts_with("hai_") && viewer.len() == 47, "{viewer}");
    server
        .get("/api/v1/triage")
        .key(viewer)
        .send()
        .await
        .expect(200);
    let written = server.call("POST".parse().unwrap(), "/api/v1/documents");
    let written = written
        .key(viewer)
        .json(&json!({ "title": "A" }))
        .send()
        .await;
    refused(&written, 403);
}

/// They are all the service's own, and never end.
#[tokio::test]
async fn there_may_be_as_many_generated_keys_as_are_wanted() {
    let home = home();
    home.fill("service").await;
    let viewer = key(&home, "viewer").await;
    let server = start(&home).await;
    let answer = server.get("/api/v1/triage").key(&viewer).send().await;
    answer.expect(200);
}

#[tokio::test]
async fn wrong_arguments_make_no_key() {
    let home = home();
    let forgetful = home.launch().env("DATABASE_URL", "memory:");
    let refused = forgetful.args(&["generate-key"]).run().await;
    assert_ne!(refused.code, Some(0));
    assert_eq!(refused.stdout, "");
    assert!(
        refused.stderr.contains("DATABASE_URL"),
        "{}",
        refused.stderr
    );
    for arguments in [
        &["generate-key", "--role", "root"][..],
        &["generate-key", "--role"],
        &["generate-key", "operator"],
        &["generate-keys"],
    ] {
        let refused = home.launch().args(arguments).run().await;
        assert_ne!(refused.code, Some(0), "{arguments:?}");
        assert_eq!(refused.stdout, "", "{arguments:?}");
        assert_ne!(refused.stderr, "", "{arguments:?}");
    }
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let home = home();
    let server = start(&home).await;
    let admin = login(&server, ADMIN).await;
    let (_, viewer) = user(&server, access(&admin), "viewer").await;
    let operator = key(&home, "operator").await;
    server
        .get("/api/v1/audit")
        .key(&operator)
        .send()
        .await
        .expect(200);
    server.kill().await;

    let server = start(&home).await;
    server
        .get("/api/v1/audit")
        .key(&operator)
        .send()
        .await
        .expect(200);
    server
        .get("/api/v1/triage")
        .bearer(access(&viewer))
        .send()
        .await
        .expect(200);
    let body = json!({ "refresh_token": admin["refresh_token"] });
    let refreshed = server.post("/api/v1/auth/refresh").json(&body).send().await;
    let refreshed = refreshed.expect(200).json();
    server.stop().await.without_panic();

    let server = start(&home).await;
    refused(
        &server.post("/api/v1/auth/refresh").json(&body).send().await,
        401,
    );
    let ended = server.get("/api/v1/triage").bearer(access(&refreshed));
    refused(&ended.send().await, 401);
}

#[tokio::test]
async fn lifetimes_come_from_the_environment_and_nonsense_stops_the_start() {
    let home = home();
    let launch = home
        .launch()
        .env("HAAGSMAN_JWT_ACCESS_TOKEN_TTL_MINUTES", "2");
    let launch = launch
        .env("ADMIN_EMAIL", ADMIN.0)
        .env("ADMIN_PASSWORD", ADMIN.1);
    let server = launch.start().await;
    assert_eq!(login(&server, ADMIN).await["expires_in"], 120);
    server.stop().await.without_panic();
    for (name, value) in [
        ("HAAGSMAN_JWT_ACCESS_TOKEN_TTL_MINUTES", "0"),
        ("HAAGSMAN_JWT_ACCESS_TOKEN_TTL_MINUTES", "soon"),
        ("HAAGSMAN_JWT_REFRESH_TOKEN_TTL_DAYS", "-1"),
        ("JWT_SECRET", "short"),
        ("TRUSTED_PROXIES", "0.0.0.0/0"),
        ("TRUSTED_PROXIES", "everybody"),
    ] {
        let refused = home.launch().env(name, value).refused().await;
        assert!(!refused.stdout.contains("listening"), "{name}={value}");
    }
}

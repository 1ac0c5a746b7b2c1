//! The process: keys made beside it, restarts, its end, and settings that can't be.

use serde_json::json;

use crate::{
    ADMIN, access, home, key, login, refused, start,
    support::{Client, Home},
    user,
};

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
        &["generate-key", "--role", "viewer", "--role", "admin"],
        &["generate-key", "--expires-days", "0"],
        &["generate-key", "--expires-days", "soon"],
        &["generate-key", "--expires-days", "4294967295"],
        &["list-keys", "all"],
        &["revoke-key"],
        &["revoke-key", "key-0"],
        &["rotate-key"],
        &["rotate-key", "key-0"],
        &["rotate-key", "key-0", "--overlap-hours", "soon"],
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
        ("HAAGSMAN_JWT_ACCESS_TOKEN_TTL_MINUTES", "9999999"),
        ("HAAGSMAN_JWT_REFRESH_TOKEN_TTL_DAYS", "-1"),
        ("HAAGSMAN_JWT_REFRESH_TOKEN_TTL_DAYS", "0"),
        ("HAAGSMAN_JWT_REFRESH_TOKEN_TTL_DAYS", "9999"),
        ("JWT_SECRET", "short"),
        ("TRUSTED_PROXIES", "0.0.0.0/0"),
        ("TRUSTED_PROXIES", "everybody"),
    ] {
        let refused = home.launch().env(name, value).refused().await;
        assert!(!refused.stdout.contains("listening"), "{name}={value}");
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
    }
}

/// What `list-keys` says: the columns of each key, newest first.
async fn listed(home: &Home) -> Vec<Vec<String>> {
    let printed = home.launch().args(&["list-keys"]).printed().await;
    let columns = |line: &str| line.split('\t').map(str::to_owned).collect();
    printed.lines().skip(1).map(columns).collect()
}

async fn status(server: &Client, key: &str) -> u16 {
    let answer = server.get("/api/v1/triage").key(key).send().await;
    answer.status.as_u16()
}

#[tokio::test]
async fn keys_are_listed_replaced_and_ended_beside_the_running_server() {
    let home = home();
    let server = start(&home).await;
    let (first, second) = (key(&home, "operator").await, key(&home, "viewer").await);
    assert_eq!(status(&server, &first).await, 200);
    let keys = listed(&home).await;
    let [viewer, operator] = keys.as_slice() else {
        panic!("{keys:?}")
    };
    assert_eq!((viewer[2].as_str(), viewer[3].as_str()), ("viewer", "good"));
    assert_eq!(
        (operator[2].as_str(), operator[5].as_str()),
        ("operator", "-")
    );
    assert!(
        keys.iter()
            .flatten()
            .all(|column| *column != first && *column != second)
    );

    let args = [
        "rotate-key",
        &operator[0],
        "--overlap-hours",
        "0",
        "--expires-days",
        "90",
    ];
    let third = home.launch().args(&args).printed().await;
    assert!(third.starts_with("hai_") && third.len() == 47 && third != first);
    let ended = home.launch().args(&["revoke-key", &viewer[0]]).run().await;
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), ""),
        "{}",
        ended.stderr
    );
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(status(&server, &first).await, 401, "it was replaced");
    assert_eq!(status(&server, &second).await, 401, "it was ended");
    assert_eq!(status(&server, &third).await, 200);

    let keys = listed(&home).await;
    let states: Vec<_> = keys.iter().map(|key| key[3].as_str()).collect();
    assert_eq!(states, ["good", "revoked", "expired"]);
    assert_eq!(keys[0][2], "operator", "it may what the old one could");
    assert!(keys[0][5].starts_with("20"), "it ends: {keys:?}");

    let operator = server.get("/api/v1/audit").key(&third).send().await;
    let log = operator.expect(200).json();
    let acts: Vec<_> = log["items"].as_array().unwrap().iter().collect();
    for (action, actor) in [("key.rotate", "rotate-key"), ("key.revoke", "revoke-key")] {
        let act = acts.iter().find(|entry| entry["action"] == action);
        assert_eq!(act.unwrap()["actor"], actor);
    }
}

#[tokio::test]
async fn a_key_is_given_an_end_and_a_rotated_one_goes_on_for_a_day() {
    let home = home();
    let args = ["generate-key", "--expires-days", "90", "--role", "admin"];
    let old = home.launch().args(&args).printed().await;
    let keys = listed(&home).await;
    assert_eq!(
        (keys[0][2].as_str(), keys[0][3].as_str()),
        ("admin", "good")
    );
    assert!(keys[0][5].starts_with("20"), "{keys:?}");
    let new = home
        .launch()
        .args(&["rotate-key", &keys[0][0]])
        .printed()
        .await;
    let again = home.launch().args(&["rotate-key", &keys[0][0]]).run().await;
    assert_ne!(again.code, Some(0), "a key is replaced once");
    let keys = listed(&home).await;
    let states: Vec<_> = keys.iter().map(|key| key[3].as_str()).collect();
    assert_eq!(states, ["good", "rotated"]);
    // As long a life as the old one had; that one ends with the overlap.
    let life = |key: &[String]| {
        let [from, to] = [4, 5].map(|column| key[column].parse::<jiff::Timestamp>().unwrap());
        to.duration_since(from).as_secs()
    };
    let (days, day) = (90 * 86_400, 86_400);
    assert!((days - 2..=days + 2).contains(&life(&keys[0])), "{keys:?}");
    assert!((day..day + 600).contains(&life(&keys[1])), "{keys:?}");
    let server = start(&home).await;
    for key in [&old, &new] {
        assert_eq!(status(&server, key).await, 200);
    }
}

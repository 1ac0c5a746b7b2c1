//! Registration, login, refresh, logout; restart and end.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{PASSWORD, Person, home, query, refused};

#[tokio::test]
async fn who_registers_logs_in_and_out_at_both_addresses() {
    let home = home();
    let server = home.start().await;
    for (prefix, email) in [("/api/auth", "a@example.com"), ("/auth", "b@example.com")] {
        let body = json!({
            "email": email, "password": PASSWORD, "firstName": "John", "lastName": "Doe",
        });
        let register = server.post(&format!("{prefix}/register/")).json(&body);
        let user = register.send().await.expect(201).json();
        assert_eq!(user["email"], email);
        let id = user["id"].as_str().unwrap();
        assert!(uuid::Uuid::try_parse(id).is_ok(), "{id}");
        assert_eq!(user["firstName"], "John");
        assert_eq!(user["lastName"], "Doe");
        assert!(!user.to_string().contains(PASSWORD));
        let credentials = json!({ "email": email, "password": PASSWORD });
        let login = server.post(&format!("{prefix}/login/")).json(&credentials);
        let login = login.send().await.expect(200).json();
        assert_eq!(login["user"], user);
        assert_eq!(login.as_object().unwrap().len(), 3);
        let refresh = server.post(&format!("{prefix}/token/refresh/"));
        let refresh = refresh.body(json!({ "refresh": login["refresh"] }).to_string());
        let access = refresh.send().await.expect(200).json();
        assert_eq!(access.as_object().unwrap().len(), 1);
        let access = access["access"].as_str().unwrap();
        assert_ne!(access, login["access"]);
        let logout = server.post(&format!("{prefix}/logout/")).bearer(access);
        assert!(logout.send().await.expect(204).body.is_empty());
        let again = server.post(&format!("{prefix}/logout/")).bearer(access);
        refused(&again.send().await, 401, "token_invalid");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_are_one_answer() {
    let home = home();
    let server = home.start().await;
    Person::new(&server, "ann").await;
    let mut answers = Vec::new();
    for (email, password) in [
        ("ann@example.com", "wrong horse"),
        ("bob@example.com", PASSWORD),
    ] {
        let body = json!({ "email": email, "password": password });
        let answer = server.post("/api/auth/login/").json(&body).send().await;
        refused(&answer, 401, "invalid_credentials");
        answers.push(answer.json());
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn a_logout_ends_both_tokens_of_its_login_and_no_other() {
    let home = home();
    let server = home.start().await;
    let first = Person::new(&server, "ann").await;
    let second = first.again().await;
    let renewed = first.refreshed().await.expect(200).json();
    let logout = server.post("/api/auth/logout/").bearer(&first.access);
    logout.send().await.expect(204);
    refused(&first.get("/api/agents/").await, 401, "token_invalid");
    refused(&first.refreshed().await, 401, "token_invalid");
    let renewed = server
        .get("/api/agents/")
        .bearer(renewed["access"].as_str().unwrap());
    refused(&renewed.send().await, 401, "token_invalid");
    second.get("/api/agents/").await.expect(200);
    second.refreshed().await.expect(200);
    server.stop().await;
    let restarted = home.start().await;
    let after = restarted.get("/api/agents/").bearer(&first.access);
    refused(&after.send().await, 401, "token_invalid");
    let after = restarted.get("/api/agents/").bearer(&second.access);
    after.send().await.expect(200);
}

#[tokio::test]
async fn an_expired_access_token_says_so_and_is_refreshed() {
    let home = home();
    let server = home.launch().env("ACCESS_TTL_SECONDS", "2").start().await;
    let person = Person::new(&server, "ann").await;
    let deadline = Instant::now() + Duration::from_secs(10);
    let details = loop {
        let answer = person.get("/api/agents/").await;
        if answer.status == 401 {
            break refused(&answer, 401, "token_expired");
        }
        assert!(Instant::now() < deadline, "it does not expire");
        sleep(Duration::from_millis(100)).await;
    };
    let at = details["expired_at"].as_str().unwrap();
    assert!(
        at.ends_with('Z') && at.len() == "2024-01-15T10:30:00Z".len(),
        "{at}"
    );
    at.parse::<jiff::Timestamp>().unwrap();
    for _ in 0..2 {
        let renewed = person.refreshed().await.expect(200).json();
        let access = renewed["access"].as_str().unwrap();
        let call = server.get("/api/agents/").bearer(access);
        call.send().await.expect(200);
    }
    let as_access = server.get("/api/agents/").bearer(&person.refresh);
    refused(&as_access.send().await, 401, "token_invalid");
}

/// How many seconds a token is good for.
fn lifetime_of(token: &str) -> i64 {
    let claims = token.split('.').nth(1).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
}

#[tokio::test]
async fn an_access_token_of_a_late_refresh_lives_as_long_as_every_other() {
    let home = home();
    let server = home.launch().env("ACCESS_TTL_SECONDS", "30");
    let server = server.env("REFRESH_TTL_SECONDS", "3").start().await;
    let person = Person::new(&server, "ann").await;
    let mut renewed = 0;
    loop {
        let answer = person.refreshed().await;
        if answer.status == 401 {
            break;
        }
        let access = answer.expect(200).json()["access"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(lifetime_of(&access), 30);
        renewed += 1;
        sleep(Duration::from_millis(200)).await;
    }
    assert!(renewed > 1, "up to the end of the refresh token");
    person.get("/api/agents/").await.expect(200);
}

#[tokio::test]
async fn an_expired_refresh_token_says_so() {
    let home = home();
    let server = home.launch().env("REFRESH_TTL_SECONDS", "1").start().await;
    let person = Person::new(&server, "ann").await;
    let deadline = Instant::now() + Duration::from_secs(10);
    let answer = loop {
        let answer = person.refreshed().await;
        if answer.status == 401 {
            break answer;
        }
        assert!(Instant::now() < deadline, "it does not expire");
        sleep(Duration::from_millis(100)).await;
    };
    assert!(refused(&answer, 401, "token_expired")["expired_at"].is_string());
    person.get("/api/agents/").await.expect(200);
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let home = home();
    let server = home.start().await;
    let person = Person::new(&server, "ann").await;
    let agent = person.agent("helper").await;
    let key = person.key(&agent).await;
    let before = person.get("/api/agents/").await.expect(200).json();
    server.stop().await;
    let server = home.start().await;
    let call = server.get("/api/agents/").bearer(&person.access);
    assert_eq!(call.send().await.expect(200).json(), before);
    query(&server, &agent, &key).await.expect(200);
    let body = json!({ "refresh": person.refresh });
    let call = server.post("/api/auth/token/refresh/").json(&body);
    call.send().await.expect(200);
    let said = server.stop().await;
    for secret in [PASSWORD, &key, &person.access, &person.refresh] {
        assert!(!said.stderr.contains(secret) && !said.stdout.contains(secret));
    }
}

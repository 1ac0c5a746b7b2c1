//! Logins: two tokens, families of refresh tokens, and changes that count at once.

use serde_json::{Value, json};

use crate::{
    ADMIN, access, home, login, refused, start,
    support::{Answer, Client},
    user,
};

async fn refresh(client: &Client, token: &str) -> Answer {
    let body = json!({ "refresh_token": token });
    client.post("/api/v1/auth/refresh").json(&body).send().await
}

fn refresh_token(login: &Value) -> &str {
    login["refresh_token"].as_str().expect("a refresh token")
}

async fn triage(client: &Client, token: &str) -> Answer {
    client.get("/api/v1/triage").bearer(token).send().await
}

#[tokio::test]
async fn a_login_gives_two_tokens_each_for_its_own_place() {
    let home = home();
    let server = start(&home).await;
    let login = login(&server, ADMIN).await;
    assert_eq!(login["token_type"], "bearer");
    assert_eq!(login["expires_in"], 15 * 60);
    triage(&server, access(&login)).await.expect(200);
    refused(&triage(&server, refresh_token(&login)).await, 401);
    refused(&refresh(&server, access(&login)).await, 401);
    refused(&refresh(&server, "nonsense").await, 401);
    let wrong = json!({ "email": ADMIN.0, "password": "wrong password" });
    let unknown = json!({ "email": "nobody@example.com", "password": "wrong password" });
    let mut details = Vec::new();
    for body in [wrong, unknown] {
        let answer = server.post("/api/v1/auth/login").json(&body).send().await;
        details.push(refused(&answer, 401));
    }
    assert_eq!(details[0], details[1], "who exists is told nobody");
    for body in ["", "{", "[]", "{\"email\":1}"] {
        let answer = server.post("/api/v1/auth/login").body(body).send().await;
        answer.refusal(&[400, 422]);
    }
    // A refusal to log in has ended nobody's login.
    triage(&server, access(&login)).await.expect(200);
}

#[tokio::test]
async fn a_refresh_token_that_comes_twice_ends_the_family() {
    let home = home();
    let server = start(&home).await;
    let first = login(&server, ADMIN).await;
    let other = login(&server, ADMIN).await;
    let second = refresh(&server, refresh_token(&first))
        .await
        .expect(200)
        .json();
    assert_ne!(refresh_token(&first), refresh_token(&second));
    triage(&server, access(&second)).await.expect(200);
    let third = refresh(&server, refresh_token(&second))
        .await
        .expect(200)
        .json();
    refused(&refresh(&server, refresh_token(&first)).await, 401);
    for ended in [&first, &second, &third] {
        refused(&triage(&server, access(ended)).await, 401);
        refused(&refresh(&server, refresh_token(ended)).await, 401);
    }
    triage(&server, access(&other)).await.expect(200);
}

#[tokio::test]
async fn in_a_race_one_call_wins_and_then_the_family_ends() {
    let home = home();
    let server = start(&home).await;
    let login = login(&server, ADMIN).await;
    let token = refresh_token(&login);
    let answers = futures_util::future::join_all((0..20).map(|_| refresh(&server, token))).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!((won.len(), lost.len()), (1, 19));
    for answer in lost {
        refused(answer, 401);
    }
    let won = won[0].json();
    refused(&triage(&server, access(&won)).await, 401);
    refused(&refresh(&server, refresh_token(&won)).await, 401);
}

#[tokio::test]
async fn a_logout_ends_both_tokens_of_one_login() {
    let home = home();
    let server = start(&home).await;
    let (one, two) = (login(&server, ADMIN).await, login(&server, ADMIN).await);
    let logout = |token: String| server.post("/api/v1/auth/logout").bearer(&token).send();
    logout(access(&one).to_owned()).await.expect(204);
    refused(&logout(access(&one).to_owned()).await, 401);
    refused(&triage(&server, access(&one)).await, 401);
    refused(&refresh(&server, refresh_token(&one)).await, 401);
    triage(&server, access(&two)).await.expect(200);
    refused(&server.post("/api/v1/auth/logout").send().await, 401);
}

#[tokio::test]
async fn a_change_of_a_user_counts_on_the_next_request() {
    let home = home();
    let server = start(&home).await;
    let admin = login(&server, ADMIN).await;
    let admin = access(&admin);
    let (id, operator) = user(&server, admin, "operator").await;
    let path = format!("/api/v1/users/{id}");
    let change = |body: Value| {
        let call = server.call("PATCH".parse().unwrap(), &path).bearer(admin);
        call.json(&body).send()
    };
    let audit = || server.get("/api/v1/audit").bearer(access(&operator)).send();
    audit().await.expect(200);
    let lowered = change(json!({ "role": "viewer" })).await.expect(200).json();
    assert_eq!(lowered["role"], "viewer");
    refused(&audit().await, 403);
    triage(&server, access(&operator)).await.expect(200);
    change(json!({ "role": "operator" })).await.expect(200);
    audit().await.expect(200);

    let disabled = change(json!({ "active": false })).await.expect(200).json();
    assert_eq!(disabled["active"], false);
    refused(&audit().await, 401);
    refused(&refresh(&server, refresh_token(&operator)).await, 401);
    let body = json!({ "email": "the-operator@example.com", "password": "battery staple" });
    let again = || server.post("/api/v1/auth/login").json(&body).send();
    refused(&again().await, 401);
    change(json!({ "active": true })).await.expect(200);
    let operator = again().await.expect(200).json();
    triage(&server, access(&operator)).await.expect(200);

    let both = json!({ "role": "viewer", "active": false });
    let changed = change(both).await.expect(200).json();
    assert_eq!(
        (&changed["role"], &changed["active"]),
        (&json!("viewer"), &json!(false))
    );
    let both = json!({ "role": "operator", "active": true });
    let changed = change(both).await.expect(200).json();
    assert_eq!(
        (&changed["role"], &changed["active"]),
        (&json!("operator"), &json!(true))
    );
    refused(&triage(&server, access(&operator)).await, 401);
    let operator = again().await.expect(200).json();
    triage(&server, access(&operator)).await.expect(200);

    server.delete(&path).bearer(admin).send().await.expect(204);
    refused(&triage(&server, access(&operator)).await, 401);
    refused(&again().await, 401);
    refused(&change(json!({ "role": "viewer" })).await, 404);
}

#[tokio::test]
async fn a_user_that_cannot_be_is_refused() {
    let home = home();
    let server = start(&home).await;
    let admin = login(&server, ADMIN).await;
    let (id, _) = user(&server, access(&admin), "viewer").await;
    let make = |body: Value| {
        let call = server.post("/api/v1/users").bearer(access(&admin));
        call.json(&body).send()
    };
    let new = |email: &str, role: &str| json!({ "email": email, "password": "battery staple", "role": role });
    refused(&make(new("The-VIEWER@example.com", "viewer")).await, 409);
    refused(&make(new("x@example.com", "owner")).await, 422);
    refused(&make(new("x@example.com", "Admin")).await, 422);
    make(json!({ "email": "x@example.com" }))
        .await
        .refusal(&[400, 422]);
    let path = format!("/api/v1/users/{id}");
    for body in [
        json!({ "role": "root" }),
        json!({}),
        json!({ "active": "yes" }),
    ] {
        let call = server.call("PATCH".parse().unwrap(), &path);
        let answer = call.bearer(access(&admin)).json(&body).send().await;
        answer.refusal(&[400, 422]);
    }
}

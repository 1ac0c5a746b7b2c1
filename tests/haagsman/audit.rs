//! The audit log: everything is in it, and no secret.

use serde_json::{Value, json};

use crate::{
    ADMIN, access, home, key, login, refused, start,
    support::{Client, RawCall},
    user,
};

async fn entries(client: &Client, token: &str, query: &str) -> Vec<Value> {
    let path = format!("/api/v1/audit?limit=1000{query}");
    let answer = client
        .get(&path)
        .bearer(token)
        .send()
        .await
        .expect(200)
        .json();
    answer["items"].as_array().expect("a list").clone()
}

fn told(entry: &Value) -> (&str, &str) {
    let text = |name: &str| entry[name].as_str().expect("a text");
    (text("action"), text("outcome"))
}

fn everything_is_there(all: &[Value], user: &str) {
    let acts: Vec<_> = all.iter().map(told).collect();
    for expected in [
        ("key.create", "success"),
        ("login", "success"),
        ("login", "refused"),
        ("authenticate", "refused"),
        ("gdpr.erase", "success"),
    ] {
        assert!(acts.contains(&expected), "{expected:?} in {acts:?}");
    }
    let made = all
        .iter()
        .find(|entry| told(entry).0 == "user.create" && entry["target"] == json!(user));
    assert!(made.expect("the new user")["actor"].is_string());
    let times: Vec<_> = all
        .iter()
        .map(|entry| entry["time"].as_str().unwrap())
        .collect();
    assert!(
        times
            .iter()
            .zip(&times[1..])
            .all(|(newer, older)| newer >= older)
    );
}

#[tokio::test]
async fn a_secret_in_the_place_of_the_method_is_told_nowhere() {
    let home = home();
    let server = start(&home).await;
    let secret = "hai_aBcDeFgHiJkLmNoPqRsTuVwXyZ-_aBcDeFgHiJkLmNoPqRs";
    let answer = RawCall::new(secret, "/api/v1/triage").send(&server).await;
    refused(&answer, answer.status.as_u16());
    let admin = login(&server, ADMIN).await;
    let all = entries(&server, access(&admin), "").await;
    let of_it = |entry: &&Value| entry["request_id"] == answer.request_id();
    let entry = all.iter().find(of_it).expect("it was refused");
    assert!(!entry.to_string().contains(&secret[4..]), "{entry}");
    let said = server.stop().await.stderr;
    assert!(!said.contains(&secret[4..]), "{said}");
}

#[tokio::test]
async fn every_authentication_refusal_and_act_is_recorded_newest_first() {
    let home = home();
    let server = start(&home).await;
    let viewer = key(&home, "viewer").await;
    let admin = login(&server, ADMIN).await;
    let admin = access(&admin);
    let named = server
        .get("/api/v1/users")
        .key(&viewer)
        .header("x-request-id", "look-for-me");
    refused(&named.send().await, 403);
    let wrong = json!({ "email": ADMIN.0, "password": "CANARY-wrong" });
    refused(
        &server.post("/api/v1/auth/login").json(&wrong).send().await,
        401,
    );
    refused(
        &server
            .get("/api/v1/triage?api_key=CANARY")
            .key("hai_CANARY")
            .send()
            .await,
        401,
    );
    let (id, _) = user(&server, admin, "operator").await;
    let erase = server.delete("/api/v1/gdpr/subject-7").bearer(admin);
    erase.send().await.expect(200);

    let all = entries(&server, admin, "").await;
    let of_request: Vec<_> = all
        .iter()
        .filter(|entry| entry["request_id"] == "look-for-me")
        .collect();
    let acts: Vec<_> = of_request.iter().map(|entry| told(entry)).collect();
    assert_eq!(acts, [("rbac", "refused"), ("authenticate", "success")]);
    for entry in of_request {
        assert_eq!(entry["address"], "127.0.0.1");
        assert_eq!(entry["route"], "GET /api/v1/users");
        assert_eq!(entry["actor"], "service");
        assert!(entry["key"].is_string() && entry["time"].is_string());
    }
    everything_is_there(&all, &id);
    assert_eq!(
        entries(&server, admin, "&outcome=refused&action=login")
            .await
            .len(),
        1
    );
    let written = json!(all).to_string();
    for secret in ["CANARY", &viewer, ADMIN.1, admin, "battery staple"] {
        assert!(!written.contains(secret), "{secret} is in the audit log");
    }
    let ended = server.stop().await;
    ended.without_panic();
    for secret in ["CANARY", &viewer, ADMIN.1, "battery staple"] {
        assert!(!ended.stderr.contains(secret), "{secret} is in the log");
    }
}

/// Clients put a key where an id belongs; whoever reads the log must not get an administrator's key
/// by that.
#[tokio::test]
async fn a_key_in_a_path_is_in_neither_log() {
    let home = home();
    let server = start(&home).await;
    let (viewer, admin) = (key(&home, "viewer").await, key(&home, "admin").await);
    for path in [
        format!("/api/v1/documents/{admin}"),
        format!("/api/v1/nothing/{admin}/here"),
        format!("/api/v1/users/{admin}"),
    ] {
        refused(&server.get(&path).send().await, 401);
        let known = server.get(&path).key(&viewer).send().await;
        assert!(known.status.is_client_error(), "{known:?}");
    }
    let by_name = server.delete(&format!("/api/v1/users/{admin}")).key(&admin);
    refused(&by_name.send().await, 404);
    let erase = server.delete(&format!("/api/v1/gdpr/{admin}")).key(&admin);
    erase.send().await.expect(200);
    let all = entries(&server, &admin, "").await;
    let erased = all.iter().find(|entry| told(entry).0 == "gdpr.erase");
    let shown = format!("{}***", &admin[..8]);
    assert_eq!(erased.expect("an act")["target"], shown.as_str());
    let routes: Vec<_> = all.iter().map(|entry| &entry["route"]).collect();
    let expected = json!(format!("GET /api/v1/documents/{shown}"));
    assert!(routes.contains(&&expected), "{routes:?}");
    let ended = server.stop().await;
    ended.without_panic();
    for text in [json!(all).to_string(), ended.stderr] {
        assert!(!text.contains(&admin[8..]), "a key is in a log");
    }
}

#[tokio::test]
async fn a_viewer_reads_no_audit_log_and_an_operator_does_page_by_page() {
    let home = home();
    let server = start(&home).await;
    let (viewer, operator) = (key(&home, "viewer").await, key(&home, "operator").await);
    refused(&server.get("/api/v1/audit").key(&viewer).send().await, 403);
    let mut cursor = String::new();
    let mut seen = Vec::new();
    for _ in 0..50 {
        let path = format!("/api/v1/audit?limit=2{cursor}");
        let page = server
            .get(&path)
            .key(&operator)
            .send()
            .await
            .expect(200)
            .json();
        seen.extend(page["items"].as_array().expect("a list").clone());
        match page["next_cursor"].as_u64() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let first = told(&seen[seen.len() - 1]);
    assert_eq!(first, ("user.create", "success").min(first), "{seen:?}");
    assert!(seen.len() >= 4, "{seen:?}");
    let bad = server.get("/api/v1/audit?outcome=maybe").key(&operator);
    refused(&bad.send().await, 422);
}

#[tokio::test]
async fn the_audit_log_outlives_the_server() {
    let home = home();
    let server = start(&home).await;
    let admin = login(&server, ADMIN).await;
    refused(&server.get("/api/v1/triage").send().await, 401);
    server.stop().await.without_panic();
    let server = start(&home).await;
    let all = entries(&server, access(&admin), "").await;
    let acts: Vec<_> = all.iter().map(told).collect();
    assert!(acts.contains(&("login", "success")) && acts.contains(&("authenticate", "refused")));
}

#[tokio::test]
async fn what_is_wrong_or_missing_is_recorded_with_who_it_was() {
    let home = home();
    let server = start(&home).await;
    let (viewer, admin) = (key(&home, "viewer").await, login(&server, ADMIN).await);
    let over = login(&server, ADMIN).await;
    let logout = server.post("/api/v1/auth/logout").bearer(access(&over));
    logout.send().await.expect(204);
    let named = |call: crate::support::Call, name: &str| call.header("x-request-id", name).send();
    let query = server.post("/api/v1/search/query").key(&viewer).body("{");
    refused(&named(query, "malformed").await, 400);
    let login = server.post("/api/v1/auth/login").body("{");
    refused(&named(login, "no-login").await, 400);
    refused(&named(server.get("/elsewhere"), "no-route").await, 404);
    let method = server.get("/api/v1/auth/login");
    refused(&named(method, "no-method").await, 405);
    // A guess is one wherever it is made, and hears of it where something could be had by a better
    // one.
    let guess = |path| server.get(path).key("hai_guess");
    refused(&named(guess("/api/v1/triage"), "guess-1").await, 401);
    refused(&named(guess("/elsewhere"), "guess-2").await, 404);
    refused(&named(guess("/api/v1/auth/login"), "guess-3").await, 405);
    let after = server.get("/api/v1/triage").bearer(access(&over));
    refused(&named(after, "logged-out").await, 401);
    let all = entries(&server, access(&admin), "").await;
    let guesses = ["guess-1", "guess-2", "guess-3"].map(|name| {
        let of_it: Vec<_> = all
            .iter()
            .filter(|entry| entry["request_id"] == name)
            .collect();
        assert_eq!(of_it.len(), 1, "{name}: {of_it:?}");
        let members = ["action", "outcome", "reason", "actor", "key", "address"];
        members.map(|member| &of_it[0][member])
    });
    assert_eq!(guesses[0][..2], ["authenticate", "refused"]);
    assert!(
        guesses.iter().all(|guess| *guess == guesses[0]),
        "{guesses:?}"
    );
    let told = |name: &str| {
        let of_it = all.iter().filter(|entry| entry["request_id"] == name);
        let refused: Vec<_> = of_it.filter(|it| it["outcome"] == "refused").collect();
        assert_eq!(refused.len(), 1, "{name}: {refused:?}");
        refused[0]["actor"].as_str().map(ToOwned::to_owned)
    };
    assert_eq!(told("malformed").as_deref(), Some("service"));
    for strange in ["no-login", "no-route", "no-method"] {
        assert_eq!(told(strange), None);
    }
    let logins = all.iter().find(|entry| told_of(entry, "login"));
    let admin = logins.expect("a login")["actor"].as_str();
    assert_eq!(told("logged-out").as_deref(), admin);
}

fn told_of(entry: &Value, action: &str) -> bool {
    told(entry) == (action, "success")
}

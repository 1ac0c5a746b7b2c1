//! Every role at every route.

use http::Method;
use serde_json::{Value, json};

use crate::{
    ADMIN, access, home, key, login, refused, start,
    support::{Answer, Client},
    user,
};

const VIEWER: [bool; 3] = [true, true, true];
const OPERATOR: [bool; 3] = [false, true, true];
const NOBODY_ELSE: [bool; 3] = [false, false, true];

/// Method, path, body, status, and who may: viewer, operator, admin.
type Route = (&'static str, &'static str, Option<Value>, u16, [bool; 3]);

fn routes() -> Vec<Route> {
    let query = || Some(json!({ "query": "What is our refund policy?" }));
    let question = || Some(json!({ "message": "Hello" }));
    vec![
        ("GET", "/api/v1/documents/stats", None, 200, VIEWER),
        ("HEAD", "/api/v1/documents/stats", None, 200, VIEWER),
        ("POST", "/api/v1/search/query", query(), 200, VIEWER),
        ("POST", "/api/v1/faq/chat", question(), 200, VIEWER),
        ("GET", "/api/v1/triage", None, 200, VIEWER),
        (
            "POST",
            "/api/v1/documents",
            Some(json!({ "title": "A" })),
            201,
            OPERATOR,
        ),
        ("DELETE", "/api/v1/documents/7", None, 204, OPERATOR),
        ("GET", "/api/v1/audit", None, 200, OPERATOR),
        ("GET", "/api/v1/users", None, 200, NOBODY_ELSE),
        (
            "PATCH",
            "/api/v1/users/nobody",
            Some(json!({ "role": "viewer" })),
            404,
            NOBODY_ELSE,
        ),
        ("DELETE", "/api/v1/users/nobody", None, 404, NOBODY_ELSE),
        (
            "PUT",
            "/api/v1/config",
            Some(json!({ "language": "nl" })),
            200,
            NOBODY_ELSE,
        ),
        ("DELETE", "/api/v1/gdpr/subject-7", None, 200, NOBODY_ELSE),
    ]
}

/// Which members these bodies have isn't documented.
#[tokio::test]
async fn a_permitted_call_is_answered_whatever_its_body_names() {
    let home = home();
    let server = start(&home).await;
    let key = key(&home, "admin").await;
    let bodies = [
        json!({}),
        json!({ "question": "Why?" }),
        json!({ "title": 7 }),
        json!([1]),
        json!("text"),
    ];
    for (path, status) in [("/api/v1/faq/chat", 200), ("/api/v1/documents", 201)] {
        for body in &bodies {
            let answer = server.post(path).key(&key).json(body).send().await;
            answer.expect(status);
        }
        server.post(path).key(&key).send().await.expect(status);
        let broken = server.post(path).key(&key);
        refused(&broken.body("{").send().await, 400);
    }
    let config = server.call(Method::PUT, "/api/v1/config");
    config.key(&key).send().await.expect(200);
    for (media_type, body) in [
        (
            "multipart/form-data; boundary=x",
            "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\nhello\r\n--x--\r\n",
        ),
        ("application/pdf", "%PDF-1.7"),
        ("text/plain", "hello"),
    ] {
        let file = server.post("/api/v1/documents").key(&key);
        let file = file.header("content-type", media_type).body(body);
        file.send().await.expect(201);
    }
}

#[derive(Clone, Copy)]
enum By<'a> {
    Key(&'a str),
    BearerKey(&'a str),
    Nothing,
}

async fn call(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<&Value>,
    by: By<'_>,
) -> Answer {
    let call = client.call(method.parse::<Method>().unwrap(), path);
    let call = match by {
        By::Key(key) => call.key(key),
        By::BearerKey(text) => call.bearer(text),
        By::Nothing => call,
    };
    match body {
        Some(body) => call.json(body).send().await,
        None => call.send().await,
    }
}

#[tokio::test]
async fn each_role_may_what_the_table_says_and_no_more() {
    let home = home();
    let server = start(&home).await;
    let admin = login(&server, ADMIN).await;
    for (place, role) in ["viewer", "operator", "admin"].into_iter().enumerate() {
        let key = key(&home, role).await;
        let (_, user) = user(&server, access(&admin), role).await;
        for by in [
            By::Key(&key),
            By::BearerKey(&key),
            By::BearerKey(access(&user)),
        ] {
            for (method, path, body, status, may) in routes() {
                let answer = call(&server, method, path, body.as_ref(), by).await;
                if may[place] {
                    assert_eq!(answer.status.as_u16(), status, "{role} {method} {path}");
                } else {
                    assert_eq!(answer.status.as_u16(), 403, "{role} {method} {path}");
                    refused(&answer, 403);
                }
                assert!(answer.header("ratelimit").starts_with("\"minute\";r="));
            }
        }
    }
}

#[tokio::test]
async fn what_the_table_does_not_name_is_refused_even_to_an_administrator() {
    let home = home();
    let server = start(&home).await;
    let admin = login(&server, ADMIN).await;
    for path in [
        "/api/v1",
        "/api/v1/",
        "/api/v1/nothing",
        "/api/v1/documents/7/pages",
        "/api/v1/documents/stats/",
        "/api/v1/auth",
        "/api/v1/auth/login/",
        "/api/v1/users/1/roles",
    ] {
        let answer = server.get(path).bearer(access(&admin)).send().await;
        answer.refusal(&[403, 404]);
        server.get(path).send().await.refusal(&[401, 404]);
    }
    for (method, path) in [
        ("DELETE", "/api/v1/documents/stats"),
        ("GET", "/api/v1/search/query"),
        ("PATCH", "/api/v1/config"),
        ("OPTIONS", "/api/v1/users"),
        ("TRACE", "/api/v1/users"),
    ] {
        let call = server.call(method.parse().unwrap(), path);
        let answer = call.bearer(access(&admin)).send().await;
        let detail = answer.refusal(&[403, 405]);
        assert!(
            detail["detail"].is_string() || method == "DELETE",
            "{method} {path}"
        );
    }
    let call = server.call(http::Method::PATCH, "/api/v1/config");
    let answer = call.bearer(access(&admin)).send().await;
    refused(&answer, 405);
    assert_eq!(answer.header("allow"), "PUT");
    refused(&server.get("/nothing").send().await, 404);
    refused(&server.get("/api/v1/auth/login").send().await, 405);
}

#[tokio::test]
async fn nobody_comes_in_without_one_good_credential() {
    let home = home();
    let server = start(&home).await;
    let (one, two) = (key(&home, "admin").await, key(&home, "admin").await);
    let admin = login(&server, ADMIN).await;
    for (method, path, body, _, _) in routes() {
        let answer = call(&server, method, path, body.as_ref(), By::Nothing).await;
        assert_eq!(answer.status.as_u16(), 401, "{method} {path}");
    }
    let path = "/api/v1/triage";
    let forged = format!("hai_{}", "A".repeat(43));
    for bad in [
        "hai_",
        "hai_Ab3x9Kf2...",
        "x",
        &forged,
        &one[..46],
        &format!("{one}x"),
    ] {
        refused(&server.get(path).key(bad).send().await, 401);
        refused(&server.get(path).bearer(bad).send().await, 401);
    }
    refused(&server.get(path).key(&one).key(&two).send().await, 401);
    refused(&server.get(path).key(&one).key(&one).send().await, 401);
    let both = server.get(path).key(&one).bearer(access(&admin));
    refused(&both.send().await, 401);
    let query = format!("{path}?api_key={one}&x-api-key={one}");
    refused(&server.get(&query).send().await, 401);
    // A bad key is not passed on to whoever takes tokens.
    let bad_key = server.get(path).key(&forged).bearer(access(&admin));
    refused(&bad_key.send().await, 401);
    server.get(path).key(&one).send().await.expect(200);
}

#[tokio::test]
async fn sixty_a_minute_for_each_key() {
    let home = home();
    let launch = home.launch().without("KEY_RATE_LIMIT_PER_MINUTE");
    let server = launch.start().await;
    let (one, two) = (key(&home, "viewer").await, key(&home, "viewer").await);
    let (mut admitted, mut last) = (0, None);
    for _ in 0..70 {
        let answer = server.get("/api/v1/triage").key(&one).send().await;
        if answer.status == 200 {
            admitted += 1;
        } else {
            last = Some(answer);
        }
    }
    assert!((60..=66).contains(&admitted), "{admitted}");
    let last = last.expect("a refusal");
    assert_eq!(refused(&last, 429), "Rate limit exceeded. Try again later.");
    assert_eq!(last.header("x-ratelimit-limit"), "60");
    assert_eq!(last.header("ratelimit-policy"), "\"minute\";q=60;w=60");
    server
        .get("/api/v1/triage")
        .key(&two)
        .send()
        .await
        .expect(200);
}

//! Keys are made in the dashboard, by sessions alone.

use serde_json::{Value, json};

use super::{ADMIN, ask, cookie::Cookie, home, launch, make_key, refused, support::Call};

const INVALID: &str = "Invalid API key";

#[tokio::test]
async fn a_key_is_made_listed_and_deleted() {
    let home = home();
    let server = launch(&home).start().await;
    let (ann, bob) = (Cookie::of("ann"), Cookie::of("bob"));
    let made = make_key(&server, &ann).await;
    let members: Vec<_> = made
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(members, ["created_at", "id", "key", "name", "preview"]);
    let key = made["key"].as_str().unwrap();
    ask(&server).key(key).send().await.expect(200);

    let list = |who: &Cookie| who.on(server.get("/api/keys")).send();
    let anns = list(&ann).await.expect(200);
    assert!(!anns.text().contains(key), "shown once");
    assert_eq!(anns.json()[0]["id"], made["id"]);
    assert_eq!(anns.json()[0]["preview"], made["preview"]);
    assert_eq!(list(&bob).await.expect(200).json(), json!([]));

    let path = format!("/api/keys/{}", made["id"].as_str().unwrap());
    let delete = |who: &Cookie| who.on(server.delete(&path)).send();
    delete(&bob).await.refusal(&[404]);
    delete(&ann).await.expect(204);
    refused(&ask(&server).key(key).send().await, 401, INVALID);
    delete(&ann).await.refusal(&[404]);
    assert_eq!(list(&ann).await.json(), json!([]));
}

#[tokio::test]
async fn no_key_opens_these_routes_not_even_beside_a_session() {
    let home = home();
    let server = launch(&home).start().await;
    let session = Cookie::of("ann");
    let made = make_key(&server, &session).await;
    let path = format!("/api/keys/{}", made["id"].as_str().unwrap());
    let new = json!({"name": "n"});
    for key in [
        ADMIN,
        "client-key-1",
        made["key"].as_str().unwrap(),
        "no-such-key",
    ] {
        let calls: [&dyn Fn() -> Call; 3] = [
            &|| server.get("/api/keys"),
            &|| server.post("/api/keys").json(&new),
            &|| server.delete(&path),
        ];
        for call in calls {
            refused(&call().key(key).send().await, 401, INVALID);
            refused(&call().bearer(key).send().await, 401, INVALID);
            refused(&session.on(call()).key(key).send().await, 401, INVALID);
        }
    }
    refused(&server.get("/api/keys").send().await, 401, INVALID);
    assert_eq!(
        session.on(server.get("/api/keys")).send().await.json()[0]["id"],
        made["id"]
    );
}

#[tokio::test]
async fn a_page_of_another_site_makes_no_key() {
    let home = home();
    let trusting = launch(&home).env("NEXTAUTH_URL", "https://app.example.com/app/api/auth");
    let server = trusting.start().await;
    let session = Cookie(
        Cookie::of("ann")
            .0
            .replace("next-auth", "__Secure-next-auth"),
    );
    let made = make_key(&server, &session).await;
    let path = format!("/api/keys/{}", made["id"].as_str().unwrap());
    let own = format!("http://{}", server.address);
    let new = || server.post("/api/keys").json(&json!({"name": "n"}));
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://app.example.com"),
        ("origin", "https://app.example.com.evil.example"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        session
            .on(new())
            .header(name, value)
            .send()
            .await
            .refusal(&[403]);
        session
            .on(server.delete(&path))
            .header(name, value)
            .send()
            .await
            .refusal(&[403]);
        session
            .on(ask(&server))
            .header(name, value)
            .send()
            .await
            .refusal(&[403]);
        session
            .on(server.get("/api/keys"))
            .header(name, value)
            .send()
            .await
            .expect(200);
    }
    for good in [own.as_str(), "https://app.example.com"] {
        session
            .on(new())
            .header("origin", good)
            .send()
            .await
            .expect(201);
    }
    // A key is no cookie: no page can make a browser send it.
    let by_key = ask(&server)
        .key(ADMIN)
        .header("origin", "https://evil.example");
    by_key.send().await.expect(200);
}

#[tokio::test]
async fn other_refusals_have_the_shape_too() {
    let home = home();
    let server = launch(&home).start().await;
    let session = Cookie::of("ann");
    let shape = |body: Value| {
        let members = body.as_object().unwrap();
        assert!(members.len() == 1 && members["error"].is_string(), "{body}");
    };
    shape(server.get("/api/nowhere").send().await.refusal(&[404]));
    shape(server.get("/api/ask").send().await.refusal(&[405]));
    for (body, among) in [
        ("{", [400]),
        ("{}", [422]),
        ("[]", [422]),
        (r#"{"name":1}"#, [422]),
    ] {
        let call = session.on(server.post("/api/keys")).body(body);
        shape(call.send().await.refusal(&among));
    }
    for name in ["n".repeat(256), "n".repeat(1_000_000), "a\u{1b}b".into()] {
        let odd = session.on(server.post("/api/keys"));
        let odd = odd.json(&json!({ "name": name })).send().await;
        shape(odd.refusal(&[422]));
    }
    shape(
        ask(&server)
            .body("{")
            .key(ADMIN)
            .send()
            .await
            .refusal(&[400]),
    );
}

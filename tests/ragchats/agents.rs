//! Agents and their keys.

use serde_json::json;

use crate::{PASSWORD, Person, home, query, refused};

#[tokio::test]
async fn an_agent_answers_to_its_own_key_alone() {
    let home = home();
    let server = home.start().await;
    let ann = Person::new(&server, "ann").await;
    let (one, two) = (ann.agent("one").await, ann.agent("two").await);
    let agents = ann.get("/api/agents/").await.expect(200).json();
    assert_eq!(
        agents,
        json!([{ "id": one, "name": "one" }, { "id": two, "name": "two" }])
    );
    let key = ann.key(&one).await;
    query(&server, &one, &key).await.expect(200);
    for elsewhere in [&two, "no-such-agent", &one.to_uppercase()] {
        let answer = query(&server, elsewhere, &key).await;
        refused(&answer, 403, "permission_denied");
    }
    let listed = ann.get("/api/agents/").await.expect(200);
    assert!(!listed.text().contains(&key), "shown once");
}

#[tokio::test]
async fn keys_and_tokens_are_not_taken_for_each_other() {
    let home = home();
    let server = home.start().await;
    let ann = Person::new(&server, "ann").await;
    let agent = ann.agent("one").await;
    let key = ann.key(&agent).await;
    refused(
        &query(&server, &agent, &ann.access).await,
        401,
        "token_invalid",
    );
    let with_key = |path: &str| server.post(path).bearer(&key).json(&json!({ "name": "x" }));
    for path in ["/api/agents/", &format!("/api/agents/{agent}/api-keys/")] {
        refused(&with_key(path).send().await, 401, "token_invalid");
    }
    let list = server.get("/api/agents/").bearer(&key);
    refused(&list.send().await, 401, "token_invalid");
    let logout = server.post("/api/auth/logout/").bearer(&key);
    refused(&logout.send().await, 401, "token_invalid");
    let nobody = server.post(&format!("/api/agents/{agent}/query/"));
    let nobody = nobody.json(&json!({ "message": "Hello" }));
    refused(&nobody.send().await, 401, "token_missing");
}

#[tokio::test]
async fn another_user_s_agent_is_like_none() {
    let home = home();
    let server = home.start().await;
    let (ann, bob) = (
        Person::new(&server, "ann").await,
        Person::new(&server, "bob").await,
    );
    let agent = ann.agent("one").await;
    let agents = bob.get("/api/agents/").await.expect(200).json();
    assert_eq!(agents, json!([]));
    let mut answers = Vec::new();
    for id in [agent.as_str(), "no-such-agent"] {
        let path = format!("/api/agents/{id}/api-keys/");
        let answer = bob.post(&path, &json!({ "name": "x" })).await;
        refused(&answer, 404, "not_found");
        answers.push(answer.json());
    }
    assert_eq!(answers[0], answers[1]);
    let key = bob.key(&bob.agent("two").await).await;
    refused(
        &query(&server, &agent, &key).await,
        403,
        "permission_denied",
    );
}

#[tokio::test]
async fn agents_made_at_once_are_all_there() {
    let home = home();
    let server = home.start().await;
    let ann = Person::new(&server, "ann").await;
    let calls = (0..10).map(|_| ann.agent("one"));
    let made = futures_util::future::join_all(calls).await;
    let agents = ann.get("/api/agents/").await.expect(200).json();
    assert_eq!(agents.as_array().unwrap().len(), made.len());
}

/// The cap holds for those made at once, too.
#[tokio::test]
async fn a_user_has_only_so_many_agents() {
    let home = home();
    let server = home.launch().env("RATE_LIMIT_PER_MINUTE", "1000");
    let server = server.start().await;
    let ann = Person::new(&server, "ann").await;
    for _ in 0..95 {
        ann.agent("one").await;
    }
    let new = json!({ "name": "one" });
    let answers = futures_util::future::join_all((0..12).map(|_| ann.post("/api/agents/", &new)));
    let mut made = 0;
    for answer in answers.await {
        match answer.status.as_u16() {
            201 => made += 1,
            _ => drop(refused(&answer, 409, "conflict")),
        }
    }
    assert_eq!(made, 5);
    let listed = ann.get("/api/agents/").await.expect(200).json();
    assert_eq!(listed.as_array().unwrap().len(), 100);
}

/// What a key may not do counts too, and its limit is told.
#[tokio::test]
async fn a_key_at_another_agent_is_counted() {
    let home = home();
    let limited = home.launch().env("RATE_LIMIT_PER_MINUTE", "3");
    let server = limited.start().await;
    let ann = Person::new(&server, "ann").await;
    let agent = ann.agent("one").await;
    let key = ann.key(&agent).await;
    for left in [2, 1, 0] {
        let answer = query(&server, "another", &key).await;
        refused(&answer, 403, "permission_denied");
        assert_eq!(answer.number("x-ratelimit-limit"), 3);
        assert_eq!(answer.number("x-ratelimit-remaining"), left);
    }
    let answer = query(&server, &agent, &key).await;
    refused(&answer, 429, "rate_limited");
}

/// They are spread over many agents.
#[tokio::test]
async fn a_user_may_have_more_than_a_thousand_keys() {
    let home = home();
    let server = home.start().await;
    let person = Person::new(&server, "ann").await;
    let agent = person.agent("one").await;
    let body = json!({ "email": person.email, "password": PASSWORD });
    let login = server.post("/api/auth/login/").json(&body).send().await;
    let login = login.expect(200).json();
    home.fill(login["user"]["id"].as_str().unwrap()).await;
    person.key(&agent).await;
}

#[tokio::test]
async fn a_key_is_listed_and_ended() {
    let home = home();
    let server = home.start().await;
    let (ann, bob) = (
        Person::new(&server, "ann").await,
        Person::new(&server, "bob").await,
    );
    let (one, two) = (ann.agent("one").await, ann.agent("two").await);
    let (key, kept) = (ann.key(&one).await, ann.key(&one).await);
    ann.key(&two).await;
    let keys = format!("/api/agents/{one}/api-keys/");
    let listed = ann.get(&keys).await.expect(200);
    assert!(!listed.text().contains(&key), "shown once");
    let ids: Vec<String> = listed
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|listed| {
            let members: Vec<_> = listed.as_object().unwrap().keys().collect();
            assert_eq!(
                members,
                ["createdAt", "id", "lastUsedAt", "name", "preview"]
            );
            assert_eq!(listed["name"], "server");
            listed["id"].as_str().unwrap().to_owned()
        })
        .collect();
    let [_, id] = ids.as_slice() else {
        panic!("those of the agent, newest first: {ids:?}")
    };

    let end = |client: &Person, path: &str| server.delete(path).bearer(&client.access).send();
    let path = format!("{keys}{id}/");
    refused(&bob.get(&keys).await, 404, "not_found");
    refused(&end(&bob, &path).await, 404, "not_found");
    let elsewhere = format!("/api/agents/{two}/api-keys/{id}/");
    refused(&end(&ann, &elsewhere).await, 404, "not_found");
    refused(&end(&ann, &format!("{keys}key-0/")).await, 404, "not_found");
    let by_key = server.delete(&path).bearer(&key).send().await;
    refused(&by_key, 401, "token_invalid");
    refused(
        &server.get(&keys).bearer(&key).send().await,
        401,
        "token_invalid",
    );
    refused(&server.get(&keys).send().await, 401, "token_missing");
    query(&server, &one, &key).await.expect(200);

    end(&ann, &path).await.expect(204);
    refused(&query(&server, &one, &key).await, 401, "token_invalid");
    query(&server, &one, &kept).await.expect(200);
    refused(&end(&ann, &path).await, 404, "not_found");
    assert_eq!(
        ann.get(&keys)
            .await
            .expect(200)
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

/// What is said of names holds for names of any alphabet.
#[tokio::test]
async fn a_hundred_agents_with_names_as_long_as_they_may_be_are_all_there() {
    let home = home();
    let server = home
        .launch()
        .env("RATE_LIMIT_PER_MINUTE", "1000")
        .start()
        .await;
    let long = "\u{1f980}".repeat(200);
    let person = json!({
        "email": "ann@example.com", "password": PASSWORD, "firstName": long, "lastName": long,
    });
    server
        .post("/api/auth/register/")
        .json(&person)
        .send()
        .await
        .expect(201);
    let ann = Person::login((*server).clone(), "ann@example.com").await;
    let name = "名".repeat(80);
    let mut agent = String::new();
    for _ in 0..100 {
        agent = ann.agent(&name).await;
    }
    let listed = ann.get("/api/agents/").await.expect(200).json();
    assert_eq!(listed.as_array().unwrap().len(), 100);
    let keys = format!("/api/agents/{agent}/api-keys/");
    for path in ["/api/agents/", &keys] {
        for name in ["ж".repeat(121), "名".repeat(81), "x".repeat(201)] {
            let answer = ann.post(path, &json!({ "name": name })).await;
            refused(&answer, 422, "validation_error");
            let rule = answer.json()["message"].as_str().unwrap().to_owned();
            assert!(
                rule.starts_with("name: 1 to 200 characters, of at most 240 bytes"),
                "{rule}"
            );
        }
    }
    for name in ["ж".repeat(120), "x".repeat(200)] {
        ann.post(&keys, &json!({ "name": name })).await.expect(201);
    }
}

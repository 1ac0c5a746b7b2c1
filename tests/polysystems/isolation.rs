//! One account sees and touches nothing of another's.

use serde_json::json;

use crate::support::{Account, after, home};

const UNKNOWN: &str = "key-00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn a_foreign_key_answers_like_one_that_never_was() {
    let home = home();
    let server = home.start().await;
    let owner = Account::new(&server).await;
    let thief = Account::new(&server).await;
    let key = owner.key(&server).await;
    owner
        .limits(&server, &key.id, "5", "50")
        .send()
        .await
        .expect(200);

    let calls = |id: &str| {
        [
            thief.revoke(&server, id),
            thief.delete(&server, id),
            thief.rotate(&server, id, &json!({})),
            thief.rotate(&server, id, &json!({"overlap_seconds": 0})),
            thief.limits(&server, id, "0.000000001", "null"),
        ]
    };
    for (foreign, unknown) in calls(&key.id).into_iter().zip(calls(UNKNOWN)) {
        let foreign = foreign.send().await.refused(&[404]);
        let unknown = unknown.send().await.refused(&[404]);
        assert_eq!(foreign.text(), unknown.text());
    }
    key.health(&server).await.expect(200);
    assert_eq!(owner.listed(&server, &key.id).await["is_active"], true);
    assert_eq!(owner.keys(&server).await.len(), 1);
    assert!(thief.keys(&server).await.is_empty());
}

#[tokio::test]
async fn an_id_that_is_none_is_404_or_400() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let long = "a".repeat(5_000);
    let ids = [
        "x",
        "key-",
        "key-123",
        "..%2f..",
        "%00",
        "%ff",
        "'%20OR%201=1",
        "*",
        "-1",
        &long,
    ];
    for id in ids {
        account
            .revoke(&server, id)
            .send()
            .await
            .refused(&[400, 404]);
        account
            .delete(&server, id)
            .send()
            .await
            .refused(&[400, 404]);
        account
            .rotate(&server, id, &json!({}))
            .send()
            .await
            .refused(&[400, 404]);
        account
            .limits(&server, id, "1", "1")
            .send()
            .await
            .refused(&[400, 404]);
    }
    server.stop().await.without_panic();
}

#[tokio::test]
async fn money_and_logs_are_per_account() {
    let home = home();
    let server = home.start().await;
    let (rich, key) = Account::with_money(&server, "1").await;
    let poor = Account::new(&server).await;
    key.chat(&server, "Hello!").send().await.expect(200);
    rich.settled(&server).await;

    assert_eq!(poor.settled(&server).await, 0);
    assert!(poor.usage(&server).await.is_empty());
    assert!(poor.transactions(&server).await.is_empty());
    poor.key(&server)
        .await
        .chat(&server, "Hello!")
        .send()
        .await
        .insufficient("$0.0020");
    assert_eq!(rich.settled(&server).await, 998_000_000);

    // A cursor of one account opens nothing to another.
    key.chat(&server, "Hello!").send().await.expect(200);
    let (_, cursor) = rich
        .page(&server, "/api/monitoring/usage", "?limit=1")
        .await;
    let query = after("10", &cursor.expect("two rows"));
    let call = server
        .get(&format!("/api/monitoring/usage{query}"))
        .bearer(&poor.token);
    let answer = call.send().await;
    if answer.status.is_success() {
        assert!(answer.page().0.is_empty());
    } else {
        answer.refused(&[400, 404, 422]);
    }
}

#[tokio::test]
async fn a_restart_changes_nothing_that_anyone_sees() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    let test = account
        .key_with(&server, json!({"environment": "test"}))
        .await;
    let dead = account.key(&server).await;
    account.revoke(&server, &dead.id).send().await.expect(200);
    account
        .limits(&server, &key.id, "0.5", "null")
        .send()
        .await
        .expect(200);
    key.chat(&server, "Hello!").send().await.expect(200);
    test.chat(&server, "!fail").send().await.expect(500);
    account.settled(&server).await;

    let paths = [
        "/api/auth/me",
        "/api/payments/balance",
        "/api/payments/transactions?limit=100",
        "/api/monitoring/usage?limit=100",
    ];
    let mut before = Vec::new();
    for path in paths {
        before.push(
            server
                .get(path)
                .bearer(&account.token)
                .send()
                .await
                .expect(200)
                .json(),
        );
    }
    server.stop().await.without_panic();
    let server = home.start().await;
    for (path, before) in paths.into_iter().zip(before) {
        let after = server
            .get(path)
            .bearer(&account.token)
            .send()
            .await
            .expect(200)
            .json();
        assert_eq!(after, before, "{path}");
    }
    key.health(&server).await.expect(200);
    test.health(&server).await.expect(200);
    dead.health(&server).await.invalid_key();
    assert_eq!(account.keys(&server).await.len(), 3);
    account
        .try_password(&server, &account.password)
        .await
        .expect(200);
}

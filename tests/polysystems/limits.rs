//! Spending limits of a key: daily and monthly, from before they were set, beyond a restart.

use serde_json::{Value, json};

use crate::support::{Account, PRICED, away_from_midnight, home, nanos};

#[tokio::test]
async fn limits_are_answered_as_they_are_stored() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    for (daily, monthly) in [("1.00", "10.00"), ("0.000000001", "123456.789"), ("5", "5")] {
        let stored = account
            .limits(&server, &key.id, daily, monthly)
            .send()
            .await
            .expect(200);
        assert_eq!(stored.money("daily_limit"), nanos(daily));
        assert_eq!(stored.money("monthly_limit"), nanos(monthly));
    }
    let stored = account
        .limits(&server, &key.id, "2", "null")
        .send()
        .await
        .expect(200)
        .row();
    assert_eq!(stored.money("daily_limit"), 2_000_000_000);
    assert_eq!(stored.value("monthly_limit"), Value::Null);
    let stored = account
        .limits(&server, &key.id, "null", "null")
        .send()
        .await
        .expect(200)
        .row();
    assert_eq!(stored.value("daily_limit"), Value::Null);
    assert_eq!(stored.value("monthly_limit"), Value::Null);
}

#[tokio::test]
async fn a_misspelt_restriction_is_refused_and_lifts_none() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    let path = format!("/api/keys/{}", key.id);
    let limits = |body: Value| {
        let call = server.put(&format!("{path}/limits"));
        call.bearer(&account.token).json(&body).send()
    };
    limits(json!({"daily_limit": 1, "monthly_limit": 10}))
        .await
        .expect(200);
    for body in [
        json!({"dailyLimit": 2, "monthly_limit": 20}),
        json!({"daily_limit": 2, "monthly_limit": 20, "weekly_limit": 5}),
        json!({"limit": null}),
    ] {
        limits(body).await.refused(&[422]);
    }
    for body in [
        json!({"name": "x", "allowed_ip": ["192.0.2.1"]}),
        json!({"name": "x", "expiresAt": "2024-02-15T12:00:00Z"}),
        json!({"name": "x", "role": "viewer"}),
    ] {
        let call = server.post("/api/keys").bearer(&account.token);
        call.json(&body).send().await.refused(&[422]);
    }
    let overlap = json!({"overlap": 0});
    let rotated = account.rotate(&server, &key.id, &overlap).send().await;
    rotated.refused(&[422]);
    assert_eq!(account.keys(&server).await.len(), 1);
    // One that isn't named is none.
    let stored = limits(json!({"monthly_limit": 10})).await.expect(200).row();
    assert_eq!(stored.value("daily_limit"), Value::Null);
    assert_eq!(stored.money("monthly_limit"), 10_000_000_000);
}

#[tokio::test]
async fn what_is_no_limit_is_refused_and_changes_nothing() {
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    account
        .limits(&server, &key.id, "0.004", "null")
        .send()
        .await
        .expect(200);
    let bad = [
        "-1",
        "-0.001",
        "NaN",
        "Infinity",
        "1e300",
        "1e400",
        "1e-10",
        "0.0000000001",
        "\"1\"",
        "true",
        "[1]",
        "{}",
        "99999999999999999999",
        "9223372036.854775808",
        "",
    ];
    for limit in bad {
        account
            .limits(&server, &key.id, limit, "1")
            .send()
            .await
            .refused(&[400, 422]);
        account
            .limits(&server, &key.id, "1", limit)
            .send()
            .await
            .refused(&[400, 422]);
    }
    key.chat(&server, "Hello!").send().await.expect(200);
    key.chat(&server, "Hello!").send().await.expect(200);
    key.chat(&server, "Hello!").send().await.limit_exceeded();
}

#[tokio::test]
async fn a_limit_admits_exactly_what_it_says() {
    away_from_midnight().await;
    let home = home();
    let server = home.start().await;
    for (daily, monthly) in [
        ("0.005", "null"),
        ("null", "0.005"),
        ("0.005", "1"),
        ("1", "0.004"),
    ] {
        let (account, key) = Account::with_money(&server, "1").await;
        account
            .limits(&server, &key.id, daily, monthly)
            .send()
            .await
            .expect(200);
        key.chat(&server, "Hello!").send().await.expect(200);
        key.chat(&server, "!fail").send().await.expect(500);
        let broken = server
            .post("/api/hub/agents/chat")
            .key(&key.value)
            .body("{");
        broken.send().await.refused(&[400, 422]);
        key.chat(&server, "Hello!").send().await.expect(200);
        for (path, _, _) in PRICED {
            key.paid(&server, path, "Hello!")
                .send()
                .await
                .limit_exceeded();
        }
        assert_eq!(account.settled(&server).await, 996_000_000);
        key.health(&server).await.expect(200);
        account
            .key(&server)
            .await
            .chat(&server, "Hello!")
            .send()
            .await
            .expect(200);
    }
}

#[tokio::test]
async fn a_raised_or_removed_limit_admits_again() {
    away_from_midnight().await;
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    account
        .limits(&server, &key.id, "0.002", "null")
        .send()
        .await
        .expect(200);
    key.chat(&server, "Hello!").send().await.expect(200);
    key.chat(&server, "Hello!").send().await.limit_exceeded();
    account
        .limits(&server, &key.id, "0.004", "null")
        .send()
        .await
        .expect(200);
    key.chat(&server, "Hello!").send().await.expect(200);
    key.chat(&server, "Hello!").send().await.limit_exceeded();
    account
        .limits(&server, &key.id, "null", "null")
        .send()
        .await
        .expect(200);
    key.chat(&server, "Hello!").send().await.expect(200);
}

#[tokio::test]
async fn what_was_spent_before_a_limit_counts() {
    away_from_midnight().await;
    let home = home();
    let server = home.start().await;
    for is_daily in [true, false] {
        let (account, key) = Account::with_money(&server, "1").await;
        for _ in 0..3 {
            key.chat(&server, "Hello!").send().await.expect(200);
        }
        let pair = |limit| {
            if is_daily {
                (limit, "null")
            } else {
                ("null", limit)
            }
        };
        // Below, at, and one call above what is spent.
        for limit in ["0.001", "0.006", "0.0079"] {
            let (daily, monthly) = pair(limit);
            account
                .limits(&server, &key.id, daily, monthly)
                .send()
                .await
                .expect(200);
            key.chat(&server, "Hello!").send().await.limit_exceeded();
        }
        let (daily, monthly) = pair("0.008");
        account
            .limits(&server, &key.id, daily, monthly)
            .send()
            .await
            .expect(200);
        key.chat(&server, "Hello!").send().await.expect(200);
        key.chat(&server, "Hello!").send().await.limit_exceeded();
        assert_eq!(account.settled(&server).await, 992_000_000);
    }
}

#[tokio::test]
async fn a_limit_and_what_is_spent_outlive_the_server() {
    away_from_midnight().await;
    let home = home();
    let server = home.start().await;
    let (account, key) = Account::with_money(&server, "1").await;
    account
        .limits(&server, &key.id, "0.006", "0.02")
        .send()
        .await
        .expect(200);
    key.chat(&server, "Hello!").send().await.expect(200);
    key.chat(&server, "Hello!").send().await.expect(200);
    server.stop().await.without_panic();

    let server = home.start().await;
    key.chat(&server, "Hello!").send().await.expect(200);
    key.chat(&server, "Hello!").send().await.limit_exceeded();
    server.kill().await;

    let server = home.start().await;
    key.chat(&server, "Hello!").send().await.limit_exceeded();
    assert_eq!(account.settled(&server).await, 994_000_000);
}

/// The balance is looked at before the limits.
#[tokio::test]
async fn an_empty_account_is_told_so_before_its_limit() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    account
        .limits(&server, &key.id, "0.001", "0.001")
        .send()
        .await
        .expect(200);
    key.chat(&server, "Hello!")
        .send()
        .await
        .insufficient("$0.0020");
    account.top_up(&server, "1").await;
    key.chat(&server, "Hello!").send().await.limit_exceeded();
}

/// Nothing is kept of what was there: of two at once one wins whole.
#[tokio::test]
async fn limits_are_replaced_both_at_once() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    let set = async |body: &str| {
        let call = server.put(&format!("/api/keys/{}/limits", key.id));
        let call = call.bearer(&account.token).body(body);
        let stored = call.send().await.expect(200).json();
        (
            stored["daily_limit"].clone(),
            stored["monthly_limit"].clone(),
        )
    };
    let number = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let (daily, monthly) = (number("1"), number("10"));
    for (body, expected) in [
        (
            r#"{"daily_limit": 1.00, "monthly_limit": 10.00}"#,
            (daily.clone(), monthly.clone()),
        ),
        (r#"{"daily_limit": 1.00}"#, (daily.clone(), Value::Null)),
        (r#"{"monthly_limit": 10.00}"#, (Value::Null, monthly)),
        (
            r#"{"daily_limit": 1, "monthly_limit": null}"#,
            (daily, Value::Null),
        ),
        ("{}", (Value::Null, Value::Null)),
    ] {
        assert_eq!(set(body).await, expected, "{body}");
    }
}

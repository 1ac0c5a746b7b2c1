//! Registration, login, and what a changed password ends.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::{Account, Answer, home};

#[tokio::test]
async fn an_unknown_email_answers_like_a_wrong_password() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let mut unknown = account.clone();
    unknown.email = "nobody@example.com".to_owned();

    let wrong = account
        .try_password(&server, "Not the password 123!")
        .await
        .refused(&[401]);
    let absent = unknown
        .try_password(&server, "Not the password 123!")
        .await
        .refused(&[401]);
    assert_eq!(wrong.json()["error"], "Invalid credentials");
    assert_eq!(wrong.text(), absent.text());
    let names = |answer: &Answer| {
        let mut names: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(names(&wrong), names(&absent));
}

/// Coarse on purpose: a missing hash would be faster by two orders of magnitude.
#[tokio::test]
async fn an_unknown_email_takes_as_long_as_a_wrong_password() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let mut unknown = account.clone();
    unknown.email = "nobody@example.com".to_owned();
    let median = async |account: &Account| {
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = Instant::now();
            account
                .try_password(&server, "Not the password 123!")
                .await
                .expect(401);
            times.push(start.elapsed());
        }
        times.sort();
        times[2]
    };
    median(&account).await;
    let (wrong, absent) = (median(&account).await, median(&unknown).await);
    assert!(
        absent * 4 > wrong,
        "unknown email {absent:?}, wrong password {wrong:?}"
    );
    assert!(
        wrong * 4 > absent,
        "unknown email {absent:?}, wrong password {wrong:?}"
    );
}

#[tokio::test]
async fn an_email_registers_once() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let body = json!({
        "email": account.email, "password": "Another Password 123!", "username": "somebody-else",
    });
    server
        .post("/api/auth/register")
        .json(&body)
        .send()
        .await
        .refused(&[400, 409, 422]);
    account
        .try_password(&server, "Another Password 123!")
        .await
        .refused(&[401]);
    account
        .try_password(&server, &account.password)
        .await
        .expect(200);
}

#[tokio::test]
async fn a_changed_password_ends_older_tokens_and_no_key() {
    let home = home();
    let server = home.start().await;
    let mut account = Account::new(&server).await;
    let bystander = Account::new(&server).await;
    let key = account.key(&server).await;
    let old_password = account.password.clone();
    let mut old_tokens = vec![account.token.clone()];
    account.log_in(&server).await;
    old_tokens.push(account.token.clone());
    for token in &old_tokens {
        server
            .get("/api/auth/me")
            .bearer(token)
            .send()
            .await
            .expect(200);
    }

    account
        .change_password(&server, "A New Password 123!")
        .await;
    for token in &old_tokens {
        server
            .get("/api/auth/me")
            .bearer(token)
            .send()
            .await
            .refused(&[401]);
        server
            .get("/api/keys")
            .bearer(token)
            .send()
            .await
            .refused(&[401]);
    }
    key.health(&server).await.expect(200);
    bystander.me(&server).await.expect(200);
    account
        .try_password(&server, &old_password)
        .await
        .refused(&[401]);
    account.log_in(&server).await;
    account.me(&server).await.expect(200);

    server.stop().await.without_panic();
    let server = home.start().await;
    for token in &old_tokens {
        server
            .get("/api/auth/me")
            .bearer(token)
            .send()
            .await
            .refused(&[401]);
    }
    account.me(&server).await.expect(200);
    account
        .try_password(&server, &old_password)
        .await
        .refused(&[401]);
    key.health(&server).await.expect(200);
}

/// Times in tokens are whole seconds: one that was issued just before the change looks as young as
/// one that was issued just after it.
#[tokio::test]
async fn a_token_of_the_same_second_ends_too_and_a_newer_one_does_not() {
    let home = home();
    let server = home.start().await;
    let mut account = Account::new(&server).await;
    for round in 0..4 {
        account.log_in(&server).await;
        let old = account.token.clone();
        account.me(&server).await.expect(200);
        account
            .change_password(&server, &format!("Password number {round}!"))
            .await;
        server
            .get("/api/auth/me")
            .bearer(&old)
            .send()
            .await
            .refused(&[401]);
        account.log_in(&server).await;
        account.me(&server).await.expect(200);
    }
}

#[tokio::test]
async fn a_change_needs_the_current_password() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let body = json!({
        "current_password": "Not the password 123!", "new_password": "A New Password 123!",
    });
    let change = server
        .post("/api/auth/change-password")
        .bearer(&account.token)
        .json(&body);
    change.send().await.refused(&[400, 401, 403, 422]);
    account.me(&server).await.expect(200);
    account
        .try_password(&server, "A New Password 123!")
        .await
        .refused(&[401]);
    account
        .try_password(&server, &account.password)
        .await
        .expect(200);
}

/// However many want a hash at once: everybody is answered, others are served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_at_the_login_does_not_stop_the_server() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let key = account.key(&server).await;
    let crowd: Vec<_> = (0..16)
        .map(|_| {
            let (account, client) = (account.clone(), (*server).clone());
            tokio::spawn(async move { account.try_password(&client, "wrong").await })
        })
        .collect();
    let start = Instant::now();
    key.health(&server).await.expect(200);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    for login in crowd {
        let answer = login.await.expect("no panic");
        // A waiting line has an end.
        answer.refused(&[401, 503]);
    }
    account
        .try_password(&server, &account.password)
        .await
        .expect(200);
}

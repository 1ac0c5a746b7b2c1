//! A crowd that wants the same thing at once: one gets it, and everybody is told what became of it.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Account, Answer, Call, home};

const CROWD: usize = 100;

async fn all_at_once(call: impl Fn() -> Call) -> Vec<Answer> {
    let calls = (0..CROWD).map(|_| tokio::spawn(call().send()));
    let answers: Vec<_> = calls.collect();
    let answers = join_all(answers).await.into_iter();
    answers.map(|answer| answer.expect("no panic")).collect()
}

/// How many got it. Everybody else came too late, or is told when to come again.
fn got_it(answers: Vec<Answer>) -> usize {
    let mut got = 0;
    for answer in answers {
        match answer.status.as_u16() {
            201 => got += 1,
            503 => assert!(answer.number("retry-after") >= 1, "{answer:?}"),
            _ => {
                answer.refused(&[409]);
            }
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_is_registered_once() {
    let home = home();
    let server = home.launch().unhurried().start().await;
    let body = json!({
        "email": "ann@example.com", "password": "correct horse battery", "username": "ann",
    });
    let register = || server.post("/api/auth/register").json(&body);
    assert_eq!(got_it(all_at_once(register).await), 1);
    let again = register().send().await;
    again.refused(&[409]);
    let login = json!({ "email": "ann@example.com", "password": "correct horse battery" });
    let login = server.post("/api/auth/login").json(&login);
    login.send().await.expect(200);
    server.stop().await.without_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_no_more_keys_than_it_may() {
    const FREE: usize = 7;
    let home = home();
    let server = home.launch().unhurried().start().await;
    let account = Account::new(&server).await;
    home.fill(&account.id).await;
    let listed = account.keys(&server).await;
    for key in &listed[..FREE] {
        let id = key["id"].as_str().expect("an id");
        account.revoke(&server, id).send().await.expect(200);
    }
    let create = || {
        let body = json!({ "name": "one of many", "expires_at": null });
        let call = server.post("/api/keys").bearer(&account.token);
        call.json(&body)
    };
    assert_eq!(got_it(all_at_once(create).await), FREE);
    create().send().await.refused(&[409]);
    let listed = account.keys(&server).await;
    assert_eq!(listed.len(), 1_000 + FREE);
    server.stop().await.without_panic();
}

//! A disk that is full: what can't be written is refused, what can be read is answered, and nothing
//! is lost that was answered.

use serde_json::json;

use crate::support::{Account, home};

const CENT: i64 = 10_000_000;

#[tokio::test]
async fn on_a_full_disk_nothing_is_lost_and_what_was_written_is_read() {
    let home = home();
    let server = home.launch().unhurried().start().await;
    let (account, key) = Account::with_money(&server, "0.01").await;
    server.stop().await.without_panic();

    let launch = home.launch().unhurried().on_a_small_disk(1_000);
    let server = launch.start().await;
    let mut paid = CENT;
    let refused = loop {
        let answer = account.top_up_call(&server, "0.01").send().await;
        if !answer.status.is_success() {
            break answer;
        }
        paid += CENT;
        assert!(paid < 10_000 * CENT, "the disk is never full");
    };
    refused.refused(&[503]);
    for _ in 0..20 {
        account
            .top_up_call(&server, "0.01")
            .send()
            .await
            .refused(&[503]);
        let made = json!({ "name": "A key", "expires_at": null });
        let made = server.post("/api/keys").bearer(&account.token).json(&made);
        made.send().await.refused(&[503]);
        key.chat(&server, "Hello!").send().await.refused(&[503]);
    }
    key.health(&server).await.expect(200);
    account.me(&server).await.expect(200);
    assert_eq!(account.keys(&server).await.len(), 1);
    let before = account.balance(&server).await;
    assert_eq!((before.balance, before.held), (paid, 0));
    server.kill().await;

    let server = home.start().await;
    assert_eq!(account.settled(&server).await, paid);
    account.top_up(&server, "0.01").await;
    key.chat(&server, "Hello!").send().await.expect(200);
    server.stop().await.without_panic();
}

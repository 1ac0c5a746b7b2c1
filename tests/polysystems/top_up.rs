//! What is an amount, and what is none.

use serde_json::json;

use crate::support::{Account, home};

#[tokio::test]
async fn an_amount_is_added_exactly() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let mut expected = 0;
    let amounts = [
        ("1", 1_000_000_000),
        ("0.000000001", 1),
        ("0.1", 100_000_000),
        ("0.2", 200_000_000),
        ("10.00", 10_000_000_000),
        ("1234.567890123", 1_234_567_890_123),
        ("0.3", 300_000_000),
    ];
    for (amount, nanos) in amounts {
        account.top_up(&server, amount).await;
        expected += nanos;
        let balance = account.balance(&server).await;
        assert_eq!(
            (balance.balance, balance.held),
            (expected, 0),
            "after {amount}"
        );
    }
    server.stop().await.without_panic();
    let server = home.start().await;
    assert_eq!(account.settled(&server).await, expected);
}

#[tokio::test]
async fn a_payment_under_an_idempotency_key_is_counted_once() {
    let home = home();
    let server = home.start().await;
    let (account, other) = (Account::new(&server).await, Account::new(&server).await);
    let pay = |account: &Account, amount: &str, key: &str| {
        let call = account.top_up_call(&server, amount);
        call.header("idempotency-key", key).send()
    };
    for _ in 0..3 {
        let paid = pay(&account, "2", "order-7").await.expect(200);
        assert_eq!(paid.money("balance"), 2_000_000_000);
    }
    pay(&account, "3", "order-7").await.refused(&[409, 422]);
    pay(&account, "1", "order-8").await.expect(200);
    pay(&other, "3", "order-7").await.expect(200);
    pay(&account, "1", "").await.refused(&[400]);
    let twice = account.top_up_call(&server, "1");
    let twice = twice
        .header("idempotency-key", "a")
        .header("idempotency-key", "a");
    twice.send().await.refused(&[400]);
    for _ in 0..2 {
        account.top_up(&server, "1").await;
    }
    assert_eq!(account.settled(&server).await, 5_000_000_000);
    assert_eq!(other.settled(&server).await, 3_000_000_000);
    assert_eq!(account.transactions(&server).await.len(), 4);
}

/// JSON or not, none of these is a number of dollars that can be added.
const NO_AMOUNTS: &str = r#"
    -1 -0.000000001 -1e300 0 0.0 -0 NaN Infinity -Infinity
    1e300 1e400 1e999999999 -1e999999999 1e-10 1e-999999999
    0.0000000001 0.1234567891 1.0000000001
    99999999999999999999 9223372036854775807 18446744073709551616
    170141183460469231731687303715884105728 9223372036.854775808 18446744073.709551617
    "1" "NaN" "" null true [1] [] {} {"amount":1}
    1.2.3 0x10 01 +1 1_000 1,5 .5 1.
"#;

#[tokio::test]
async fn what_is_no_amount_is_refused() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    for amount in NO_AMOUNTS.split_whitespace().chain([""]) {
        let answer = account.top_up_call(&server, amount).send().await;
        assert!(answer.status.is_client_error(), "{amount}: {answer:?}");
        answer.refused(&[400, 422]);
    }
    for body in [
        json!({}),
        json!([1]),
        json!(1),
        json!({"Amount": 1}),
        json!(null),
    ] {
        let call = server
            .post("/api/payments/topup")
            .bearer(&account.token)
            .json(&body);
        call.send().await.refused(&[400, 422]);
    }
    let huge = "1".repeat(100_000);
    let long = format!("0.{}1", "0".repeat(100_000));
    for amount in [huge, long] {
        let answer = account.top_up_call(&server, &amount).send().await;
        answer.refused(&[400, 413, 422]);
    }
    assert_eq!(account.settled(&server).await, 0);
    assert!(account.transactions(&server).await.is_empty());
    server.stop().await.without_panic();
}

/// An exponent may be read or refused; it is never read as something else.
#[tokio::test]
async fn an_exponent_is_refused_or_exact() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let mut expected = 0;
    let amounts = [
        ("1e1", 10_000_000_000),
        ("1E0", 1_000_000_000),
        ("5e-1", 500_000_000),
        ("1e-9", 1),
    ];
    for (amount, nanos) in amounts {
        let answer = account.top_up_call(&server, amount).send().await;
        if answer.status.is_success() {
            expected += nanos;
        } else {
            answer.refused(&[400, 422]);
        }
        assert_eq!(account.settled(&server).await, expected, "after {amount}");
    }
}

/// 9 223 372 036 dollars are nearly all that 64 bits of nano-dollars can hold.
#[tokio::test]
async fn a_balance_does_not_overflow() {
    let home = home();
    let server = home.start().await;
    let account = Account::new(&server).await;
    let mut expected = 0_i128;
    for _ in 0..4 {
        let answer = account.top_up_call(&server, "9223372036").send().await;
        if answer.status.is_success() {
            expected += 9_223_372_036_000_000_000;
        } else {
            answer.refused(&[400, 409, 422]);
        }
        let balance = account.balance(&server).await;
        assert_eq!(i128::from(balance.balance), expected);
    }
    assert!(expected <= i128::from(i64::MAX));
    server.stop().await.without_panic();
}

//! Against a real server.

#[cfg(feature = "redis-cluster")]
mod cluster;
mod lost;
mod rules;
mod soft;
mod upkeep;

use std::{sync::Arc, time::Duration};

use super::{RedisLedger, RedisLedgerBuilder};
use crate::{
    domain::{
        AccountId, BudgetId,
        clock::{Clock, ManualClock},
        money::Money,
        page::Page,
        usage::{
            Adjustment, Call, Credit, Expiry, Hold, HoldRequest, Idempotency, Outcome, Settlement,
            UsageEntry,
        },
    },
    store::{Ledger, redis::test_server::RedisServer},
};

fn budget(number: u8) -> BudgetId {
    BudgetId::new(&format!("key {number}")).unwrap()
}

fn account(name: &str) -> AccountId {
    AccountId::new(name).unwrap()
}

fn call(account: &AccountId, clock: &ManualClock) -> Call {
    Call {
        request_id: "request-1".into(),
        account: account.clone(),
        principal: Arc::from("somebody"),
        key: None,
        route: Arc::from("POST /chat"),
        started_at: clock.now(),
    }
}

fn request(account: &AccountId, clock: &ManualClock, amount: i64) -> HoldRequest {
    HoldRequest {
        call: call(account, clock),
        budgets: budget(0).into(),
        amount: Money::from_nanos(amount),
        lifetime: Duration::MAX,
        expiry: Expiry::Release,
        idempotency: None,
    }
}

/// A ledger with a clock that is moved by hand, and a thousand in ann's account.
async fn ledger(
    server: &RedisServer,
    set: impl FnOnce(RedisLedgerBuilder) -> RedisLedgerBuilder,
) -> (RedisLedger, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let builder = RedisLedger::builder(server.url()).with_clock(clock.clone());
    let ledger = set(builder).open().await.unwrap();
    pay(&ledger, "ann").await;
    (ledger, clock)
}

async fn pay(ledger: &RedisLedger, name: &str) {
    let credit = Credit {
        account: account(name),
        amount: Money::from_nanos(1_000),
        reference: format!("{name} pays"),
    };
    ledger.credit(credit).await.unwrap();
}

async fn hold(ledger: &RedisLedger, clock: &ManualClock, amount: i64) -> Hold {
    let wish = request(&account("ann"), clock, amount);
    ledger.hold(wish).await.unwrap().unwrap()
}

fn costs(charged: i64) -> Settlement {
    Settlement::new(Money::from_nanos(charged), Outcome::Completed)
}

/// What ann has settled and held.
async fn books(ledger: &RedisLedger) -> (i64, i64) {
    let balance = ledger.balance(&account("ann")).await.unwrap();
    (balance.settled.nanos(), balance.held.nanos())
}

async fn rows(ledger: &RedisLedger) -> Vec<UsageEntry> {
    let page = Page::first(1_000);
    ledger.usage(&account("ann"), page).await.unwrap().items
}

/// Sends a command to the server as an operator would.
async fn say<T: redis::FromRedisValue>(server: &RedisServer, words: &[&str]) -> T {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::cmd(words[0]);
    command
        .arg(&words[1..])
        .query_async(&mut connection)
        .await
        .unwrap()
}

/// Waits until a condition holds, for as long as a server may take to come back.
async fn until(mut so: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never was so");
}

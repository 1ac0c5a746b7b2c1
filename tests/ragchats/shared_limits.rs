//! Two processes on one file and one Redis: one limit for both.

use crate::{Home, Person, Server, home, query, redis::RedisServer, refused};

const LIMIT: usize = 30;

async fn start(home: &Home, redis: &RedisServer) -> Server {
    let launch = home.launch().unhurried();
    let launch = launch.env("REDIS_URL", &redis.url());
    launch.env("RATE_LIMIT_PER_MINUTE", "30").start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_one_limit() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let home = home();
    let servers = [start(&home, &redis).await, start(&home, &redis).await];
    let person = Person::new(&servers[0], "jo").await;
    let agent = person.agent("Support").await;
    let key = person.key(&agent).await;
    let mut admitted = 0;
    for number in 0..2 * LIMIT {
        let answer = query(&servers[number % 2], &agent, &key).await;
        if answer.status.is_success() {
            admitted += 1;
        } else {
            let details = refused(&answer, 429, "rate_limited");
            assert!(details["retry_after"].as_u64().is_some_and(|wait| wait > 0));
        }
    }
    // Apart they would admit them all. A busy machine may leave a few to the processes themselves.
    assert!(
        (LIMIT..=LIMIT * 3 / 2).contains(&admitted),
        "{admitted} of {LIMIT}"
    );
    for server in servers {
        server.stop().await.without_panic();
    }
}

//! Two processes on one file and one Redis: one limit for both.

use crate::{ADMIN, Home, Server, home, key, redis::RedisServer};

const LIMIT: usize = 30;

async fn start(home: &Home, redis: &RedisServer) -> Server {
    let launch = home.launch().unhurried();
    let launch = launch.env("REDIS_URL", &redis.url());
    let launch = launch.env("KEY_RATE_LIMIT_PER_MINUTE", "30");
    let launch = launch.env("ADMIN_EMAIL", ADMIN.0);
    launch.env("ADMIN_PASSWORD", ADMIN.1).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_one_limit() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let home = home();
    let servers = [start(&home, &redis).await, start(&home, &redis).await];
    let key = key(&home, "viewer").await;
    let mut admitted = 0;
    for number in 0..2 * LIMIT {
        let call = servers[number % 2].get("/api/v1/documents/stats").key(&key);
        let answer = call.send().await;
        match answer.status.as_u16() {
            200 => admitted += 1,
            429 => assert_eq!(
                answer.json()["detail"],
                "Rate limit exceeded. Try again later."
            ),
            status => panic!("{status}: {}", answer.text()),
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

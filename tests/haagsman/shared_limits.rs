//! Two processes on one file and one Redis: one limit for both, and what one does the other knows.

use std::time::Duration;

use tokio::time::Instant;

use crate::{ADMIN, Home, Server, access, home, key, login, redis::RedisServer};

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

/// A login is believed for a second where nothing is heard of it. A busy machine may be late, but
/// not each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_one_process_ends_is_refused_by_the_other_at_once() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let home = home();
    let (one, other) = (start(&home, &redis).await, start(&home, &redis).await);
    let mut waits = Vec::new();
    for _ in 0..5 {
        let login = login(&one, ADMIN).await;
        let stats = || other.get("/api/v1/documents/stats").bearer(access(&login));
        stats().send().await.expect(200);
        let warm = Instant::now();
        let logout = one.post("/api/v1/auth/logout").bearer(access(&login));
        logout.send().await.expect(204);
        while stats().send().await.status != 401 {
            assert!(warm.elapsed() < Duration::from_secs(10), "it goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        waits.push(warm.elapsed());
    }
    waits.sort();
    assert!(waits[0] < Duration::from_millis(400), "{waits:?}");
}

//! Two processes on one file and one Redis: one limit for both, whatever becomes of Redis, and
//! what one does the other knows.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::{
    redis::RedisServer,
    support::{Account, Home, Key, Server, home},
};

const LIMIT: usize = 60;

async fn pair(home: &Home, redis: &RedisServer) -> (Server, Server, Key) {
    let start = async || {
        let launch = home.launch().env("REDIS_URL", &redis.url());
        let launch = launch.env("KEY_RATE_LIMIT_PER_MINUTE", "60");
        launch.start().await
    };
    let (one, other) = (start().await, start().await);
    let (_, key) = Account::with_money(&one, "1").await;
    key.health(&one).await.expect(200);
    (one, other, key)
}

/// Asks both servers, so many times each, a few at once; how many were admitted, and the waits.
async fn ask(servers: [&Server; 2], key: &Key, times: usize) -> (usize, Vec<Duration>) {
    let (mut admitted, mut waits) = (0, Vec::new());
    for _ in 0..times.div_ceil(4) {
        let calls = (0..8).map(|number| {
            let server = servers[number % 2];
            async move {
                let began = Instant::now();
                let answer = key.health(server).await;
                (answer, began.elapsed())
            }
        });
        for (answer, wait) in join_all(calls).await {
            let status = answer.status.as_u16();
            assert!(matches!(status, 200 | 429), "{status}: {}", answer.text());
            admitted += usize::from(status == 200);
            waits.push(wait);
        }
    }
    waits.sort();
    (admitted, waits)
}

/// Refilled by the second, and a few that a busy machine let a process decide by itself.
fn bound(began: Instant) -> usize {
    LIMIT + usize::try_from(began.elapsed().as_secs()).unwrap() + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_one_limit() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let (home, began) = (home(), Instant::now());
    let (one, other, key) = pair(&home, &redis).await;
    let (admitted, _) = ask([&one, &other], &key, 100).await;
    assert!(admitted + 1 >= LIMIT, "{admitted}");
    assert!(
        admitted <= bound(began) + LIMIT / 4,
        "{admitted} in {:?}",
        began.elapsed()
    );
    let refused = key.health(&other).await.refused(&[429]);
    assert!((1..=2).contains(&refused.number("retry-after")));
    one.stop().await.without_panic();
    other.stop().await.without_panic();
}

/// Each process has half of the limit while it is alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_is_neither_felt_nor_a_way_around_the_limit() {
    let Some(mut redis) = RedisServer::start() else {
        return;
    };
    let (home, began) = (home(), Instant::now());
    let (one, other, key) = pair(&home, &redis).await;
    redis.kill();
    let (admitted, waits) = ask([&one, &other], &key, 100).await;
    assert!(
        admitted >= LIMIT / 2 && admitted <= bound(began),
        "{admitted}"
    );
    is_quick(&waits);
    redis.restart();
    let (_, waits) = ask([&one, &other], &key, 50).await;
    is_quick(&waits);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_silent_is_neither_felt_nor_a_way_around_the_limit() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let (home, began) = (home(), Instant::now());
    let (one, other, key) = pair(&home, &redis).await;
    redis.pause();
    let (admitted, waits) = ask([&one, &other], &key, 100).await;
    assert!(
        admitted >= LIMIT / 2 && admitted <= bound(began),
        "{admitted}"
    );
    is_quick(&waits);
    redis.resume();
    let (_, waits) = ask([&one, &other], &key, 50).await;
    is_quick(&waits);
}

/// Nobody waits for Redis; what a busy machine adds is not counted.
#[track_caller]
fn is_quick(waits: &[Duration]) {
    let most = waits[waits.len() * 9 / 10];
    assert!(
        most < Duration::from_millis(500),
        "nine of ten within {most:?}"
    );
}

#[tokio::test]
async fn a_redis_that_is_not_there_yet_stops_no_start_and_a_bad_address_does() {
    let home = home();
    let launch = home.launch().env("REDIS_URL", "redis://127.0.0.1:1/");
    let server = launch.start().await;
    server.get("/api/hub/health").send().await.missing_key();
    server.stop().await.without_panic();
    let ended = home
        .launch()
        .env("REDIS_URL", "http://nowhere/")
        .refused()
        .await;
    assert!(ended.stderr.contains("REDIS_URL"), "{}", ended.stderr);
}

/// What two rounds of a cache's memory can't be taken for.
const AT_ONCE: Duration = Duration::from_millis(700);

/// A key is believed for two seconds where nothing is heard of it. A busy machine may be late, but
/// not each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_one_process_revokes_is_refused_by_the_other_at_once() {
    let Some(redis) = RedisServer::start() else {
        return;
    };
    let home = home();
    let start = async || {
        let launch = home.launch().env("REDIS_URL", &redis.url());
        launch.unhurried().start().await
    };
    let (one, other) = (start().await, start().await);
    let account = Account::new(&one).await;
    let mut waits = Vec::new();
    for _ in 0..5 {
        let key = account.key(&one).await;
        key.health(&other).await.expect(200);
        let warm = Instant::now();
        account.revoke(&one, &key.id).send().await.expect(200);
        while key.health(&other).await.status != 401 {
            assert!(warm.elapsed() < Duration::from_secs(10), "it goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        waits.push(warm.elapsed());
    }
    waits.sort();
    assert!(waits[0] < AT_ONCE, "{waits:?}");
}

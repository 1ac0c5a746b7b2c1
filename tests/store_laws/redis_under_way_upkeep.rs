//! What the task of shared requests under way does: it frees and renews, many keys at a time, after
//! failures too, and to the end.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tollgate::store::{ConcurrencyStore, RedisConcurrency, Slot};

use crate::{
    redis_server::RedisServer,
    redis_under_way::{PATIENCE, connected, key, patient, takes},
};

const SECOND: Duration = Duration::from_secs(1);

/// A way to the server on which every answer takes that much longer, however many there are.
async fn longer_way(server: &RedisServer, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let port = server.port();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let (mut asks, mut hears) = client.into_split();
            let (mut answers, mut asked) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut asks, &mut asked).await });
            let (under_way, mut arriving) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
            tokio::spawn(async move {
                while let Some((at, bytes)) = arriving.recv().await {
                    sleep_until(at).await;
                    if hears.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move {
                let mut bytes = vec![0; 65_536];
                while let Ok(count @ 1..) = answers.read(&mut bytes).await {
                    let _ = under_way.send((Instant::now() + delay, bytes[..count].to_vec()));
                }
            });
        }
    });
    address
}

/// The names of what is under way in Redis.
async fn known(server: &RedisServer) -> Vec<String> {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut keys = redis::cmd("KEYS");
    let keys = keys.arg("tollgate:slots:*");
    keys.query_async(&mut connection).await.unwrap()
}

async fn hold(store: &RedisConcurrency, keys: usize) -> Vec<Slot> {
    let mut calls = JoinSet::new();
    for number in 0..keys {
        let store = store.clone();
        calls.spawn(async move { store.acquire(&key(&format!("stream-{number}")), 1).await });
    }
    let slots = calls.join_all().await.into_iter();
    slots.map(|slot| slot.unwrap().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_nothing_under_way_is_never_refused_by_its_own_process() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = patient(&server).await;
    for _ in 0..300 {
        let slot = takes(&store, 1).await;
        assert!(slot.is_some());
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_are_renewed_in_time_beside_many_short_requests() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    // One after the other, its keys take 3 seconds.
    let way = longer_way(&server, Duration::from_millis(10)).await;
    let builder = RedisConcurrency::builder(format!("redis://{way}/")).deadline(PATIENCE);
    let store = connected(builder.lifetime(SECOND)).await;
    let other = patient(&server).await;
    let slots = hold(&store, 300).await;
    let began = Instant::now();
    let mut round = 0;
    while began.elapsed() < 2 * SECOND {
        let mut calls = JoinSet::new();
        for number in 0..20 {
            let store = store.clone();
            let name = format!("short-{round}-{number}");
            calls.spawn(async move { drop(store.acquire(&key(&name), 1).await.unwrap()) });
        }
        let probed = key(&format!("stream-{}", round * 7 % slots.len()));
        assert!(other.acquire(&probed, 1).await.unwrap().is_none());
        calls.join_all().await;
        round += 1;
    }
    assert_eq!(store.under_way(), slots.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_fails_keeps_no_other_from_being_renewed_and_freed() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = patient(&server).await;
    let slots = hold(&store, 40).await;
    let names = known(&server).await;
    assert_eq!(names.len(), 40);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut other_type = redis::cmd("SET");
    other_type.arg(&names[0]).arg("text");
    other_type.exec_async(&mut connection).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < 2 * SECOND {
        assert_eq!(known(&server).await.len(), 40);
        sleep(Duration::from_millis(50)).await;
    }
    drop(slots);
    let freed = async {
        while known(&server).await != [names[0].clone()] {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, freed).await.unwrap();
    assert!(store.close().await.is_err(), "one wasn't freed");
}

#[test]
fn a_process_that_closes_leaves_nothing_and_one_without_redis_is_told() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    };
    runtime().block_on(async {
        let store = patient(&server).await;
        drop(hold(&store, 50).await);
        store.close().await.unwrap();
    });
    runtime().block_on(async {
        assert_eq!(known(&server).await, [""; 0]);
        let builder = RedisConcurrency::builder(server.url());
        let store = connected(builder.deadline(Duration::from_millis(300))).await;
        let slots = hold(&store, 2).await;
        server.pause();
        drop(slots);
        let began = Instant::now();
        assert!(store.close().await.is_err());
        assert!(began.elapsed() < 5 * SECOND);
        server.resume();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_outlives_its_store_and_is_told_as_soon_as_redis_is_back() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    // A third of the lifetime is more than anybody waits here.
    let builder = RedisConcurrency::builder(server.url()).lifetime(100 * PATIENCE);
    let store = connected(builder.deadline(PATIENCE)).await;
    let slot = takes(&store, 1).await;
    assert!(slot.is_some());
    server.kill();
    let lost = async {
        while !store.is_degraded() {
            let _ = store.acquire(&key("bob"), 1).await;
        }
    };
    timeout(PATIENCE, lost).await.unwrap();
    drop(store);
    // Longer than its task takes to look whether it is done.
    sleep(Duration::from_millis(1_200)).await;
    server.restart();
    let told = async {
        while known(&server).await.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, told).await.unwrap();
    drop(slot);
    let freed = async {
        while !known(&server).await.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, freed).await.unwrap();
}

#[tokio::test]
async fn a_lifetime_is_at_most_a_day() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let builder = RedisConcurrency::builder(server.url()).lifetime(Duration::MAX);
    let store = connected(builder.deadline(PATIENCE)).await;
    let slots = [
        takes(&store, 2).await,
        takes(&store, 2).await,
        takes(&store, 2).await,
    ];
    assert_eq!(slots.each_ref().map(Option::is_some), [true, true, false]);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut lasts = redis::cmd("PTTL");
    lasts.arg(&known(&server).await);
    let lasts: i64 = lasts.query_async(&mut connection).await.unwrap();
    assert!((86_000_000..=86_401_000).contains(&lasts), "{lasts}");
}

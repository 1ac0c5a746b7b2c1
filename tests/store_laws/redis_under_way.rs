//! Requests under way that several processes count together: never more than the limit, also when a
//! process is killed, or Redis falls silent or loses its memory.

use std::{
    io::{BufRead, BufReader},
    num::NonZeroU32,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use tollgate::{
    rate_limit::ConcurrencyLimitLayer,
    store::{
        ConcurrencyStore, Degraded, RateKey, RedisClient, RedisConcurrency,
        RedisConcurrencyBuilder, Slot, StoreErrorKind,
    },
};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::{engines::kind, redis_server::RedisServer};

/// Of which process a holder is one.
const PLACE: &str = "TOLLGATE_UNDER_WAY";

/// Longer than anything takes here, and no test passes by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn key(name: &str) -> RateKey {
    RateKey::new(&Arc::from("callers"), name.as_bytes())
}

pub(crate) async fn connected(builder: RedisConcurrencyBuilder) -> RedisConcurrency {
    let store = builder.build().unwrap();
    store.connect().await.unwrap();
    store
}

/// One that waits for Redis: a machine that is busy is no law's business.
pub(crate) async fn patient(server: &RedisServer) -> RedisConcurrency {
    patient_of(server.url()).await
}

pub(crate) async fn patient_of(client: impl Into<RedisClient>) -> RedisConcurrency {
    let builder = RedisConcurrency::builder(client).deadline(PATIENCE);
    connected(builder.lifetime(Duration::from_secs(1))).await
}

pub(crate) async fn takes(store: &RedisConcurrency, most: u32) -> Option<Slot> {
    store.acquire(&key("ann"), most).await.unwrap()
}

/// As many as there are, up to 100.
async fn all(store: &RedisConcurrency, most: u32) -> Vec<Slot> {
    let mut slots = Vec::new();
    while slots.len() < 100
        && let Some(slot) = takes(store, most).await
    {
        slots.push(slot);
    }
    slots
}

/// Releases are heard in the background: asks until there are so many.
async fn until_free(store: &RedisConcurrency, most: u32, free: usize) {
    let asks = async {
        loop {
            let slots = all(store, most).await;
            assert!(slots.len() <= free, "{} of {free}", slots.len());
            if slots.len() == free {
                return;
            }
            drop(slots);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asks).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_stores_have_never_more_under_way_than_the_limit() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let stores = [patient(&server).await, patient(&server).await];
    let (under_way, most, admitted) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let figures = Arc::new((under_way, most, admitted));
    let calls: Vec<_> = (0..400)
        .map(|number| {
            let (store, figures) = (stores[number % 2].clone(), Arc::clone(&figures));
            tokio::spawn(async move {
                let (under_way, most, admitted) = &*figures;
                for _ in 0..5 {
                    if let Some(slot) = takes(&store, 7).await {
                        most.fetch_max(
                            under_way.fetch_add(1, Ordering::SeqCst) + 1,
                            Ordering::SeqCst,
                        );
                        admitted.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        under_way.fetch_sub(1, Ordering::SeqCst);
                        drop(slot);
                    }
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let (_, most, admitted) = &*figures;
    assert!(most.load(Ordering::SeqCst) <= 7, "{most:?}");
    assert!(admitted.load(Ordering::SeqCst) >= 7, "{admitted:?}");
    assert_eq!(stores.each_ref().map(RedisConcurrency::under_way), [0, 0]);
    until_free(&stores[0], 7, 7).await;
    let other = stores[1].acquire(&key("bob"), 1).await.unwrap();
    assert!(other.is_some(), "another's limit");
}

/// Takes three slots, and keeps them until it is killed.
#[tokio::test]
async fn a_holder() {
    let Ok(url) = std::env::var(PLACE) else {
        return;
    };
    let builder = RedisConcurrency::builder(url.as_str()).deadline(PATIENCE);
    let store = connected(builder.lifetime(Duration::from_secs(1))).await;
    let slots = all(&store, 3).await;
    println!("\nholds {}", slots.len());
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_leaves_its_slots_after_their_lifetime() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["redis_under_way::a_holder", "--exact", "--nocapture"])
        .env(PLACE, server.url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let said = lines
        .map_while(Result::ok)
        .find(|line| line.starts_with("holds"));
    assert_eq!(said.as_deref(), Some("holds 3"));
    let store = patient(&server).await;
    // It renews them for longer than they last.
    for _ in 0..100 {
        assert!(takes(&store, 3).await.is_none());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(takes(&store, 3).await.is_none(), "not at once");
    let began = tokio::time::Instant::now();
    let again = async {
        while takes(&store, 3).await.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "a second, on a machine that is busy"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_request_keeps_its_slot_and_redis_hears_of_it_again() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let (here, there) = (patient(&server).await, patient(&server).await);
    let slot = takes(&here, 1).await;
    assert!(slot.is_some());
    for _ in 0..100 {
        assert!(takes(&there, 1).await.is_none());
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    // Its memory is lost, and half a limit of one is one: by a renewal it is known again.
    server.kill();
    server.restart();
    tokio::time::sleep(Duration::from_secs(3)).await;
    while here.is_degraded() || there.is_degraded() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(takes(&there, 1).await.is_none());
    drop(slot);
    until_free(&there, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_each_has_its_share_or_all_or_nothing() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let build = |degraded| {
        let builder = RedisConcurrency::builder(server.url()).degraded(degraded);
        connected(builder.deadline(Duration::from_millis(500)))
    };
    let local = build(Degraded::local(NonZeroU32::new(3).unwrap())).await;
    let (closed, open) = (
        build(Degraded::closed()).await,
        build(Degraded::dangerous_open()).await,
    );
    let held = [takes(&local, 9).await, takes(&local, 9).await];
    assert!(held.iter().all(Option::is_some));
    server.pause();
    // A third of nine, of which it has two.
    let one_more = all(&local, 9).await;
    assert_eq!(one_more.len(), 1);
    assert_eq!(
        kind(closed.acquire(&key("ann"), 9).await),
        StoreErrorKind::Unavailable
    );
    let beyond = all(&open, 9).await;
    assert_eq!(beyond.len(), 100, "there is no limit");
    assert_eq!(closed.under_way(), 0);
    drop(beyond);
    // Once it is known to be down nobody waits for it.
    while !local.is_degraded() {
        drop(local.acquire(&key("bob"), 9).await);
    }
    let began = tokio::time::Instant::now();
    drop(all(&local, 9).await);
    assert!(began.elapsed() < Duration::from_millis(400));
    server.resume();
    let back = async {
        while local.is_degraded() || open.is_degraded() || closed.is_degraded() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.unwrap();
    // What was admitted without it counts, and what ended without it does not.
    until_free(&closed, 9, 6).await;
    drop((held, one_more));
    until_free(&closed, 9, 9).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_has_its_slot_until_its_answer_ends_or_nobody_waits_for_it() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = patient(&server).await;
    let layer = || ConcurrencyLimitLayer::global(1).with_store("all", store.clone());
    let answer = async |request: http::Request<()>| match request.uri().path() {
        "/fails" => Err(std::io::Error::other("broken")),
        "/waits" => std::future::pending().await,
        _ => Ok(http::Response::new("hello".to_owned())),
    };
    // Two processes.
    let (here, there) = (
        layer().layer(service_fn(answer)),
        layer().layer(service_fn(answer)),
    );
    let request = |path: &str| http::Request::get(path).body(()).unwrap();
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    // A set without members is none.
    let is_free = async || {
        let asks = async {
            loop {
                let mut keys = redis::cmd("KEYS");
                let found = keys.arg("tollgate:slots:*");
                let found: Vec<String> = found.query_async(&mut connection.clone()).await.unwrap();
                if found.is_empty() && store.under_way() == 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asks).await.unwrap();
    };
    let status = async || {
        let answer = there.clone().oneshot(request("/")).await.unwrap();
        answer.status().as_u16()
    };
    let kept = here.clone().oneshot(request("/")).await.unwrap();
    let refused = there.clone().oneshot(request("/")).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "1");
    // To its last byte.
    let body = kept.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "hello");
    is_free().await;
    // A client that hangs up while the answer is sent, and one that does before there is any.
    let kept = here.clone().oneshot(request("/")).await.unwrap();
    assert_eq!(status().await, 429);
    drop(kept);
    is_free().await;
    let waits = tokio::spawn(here.clone().oneshot(request("/waits")));
    while store.under_way() == 0 || status().await != 429 {
        tokio::task::yield_now().await;
    }
    waits.abort();
    is_free().await;
    assert!(here.clone().oneshot(request("/fails")).await.is_err());
    is_free().await;
    // One that hangs up while Redis is asked.
    let mut service = here.clone();
    drop(service.ready().await.unwrap().call(request("/")));
    is_free().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_may_have_under_way_is_bounded() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let builder = RedisConcurrency::builder(server.url()).slots_max(3);
    let store = connected(builder.deadline(PATIENCE)).await;
    let mut slots = Vec::new();
    for name in ["ann", "bob", "cy"] {
        slots.extend(store.acquire(&key(name), 1).await.unwrap());
    }
    assert_eq!((slots.len(), store.under_way()), (3, 3));
    assert_eq!(
        kind(store.acquire(&key("dan"), 1).await),
        StoreErrorKind::Busy
    );
    slots.clear();
    assert!(store.acquire(&key("dan"), 1).await.unwrap().is_some());
}

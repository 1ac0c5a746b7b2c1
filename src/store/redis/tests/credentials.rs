//! Who a client says it is, and what the stores of one client share.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::store::{RedisConcurrency, RedisInvalidations, RedisSessions};

/// A password that changes, and how often it was asked for.
#[derive(Clone, Default)]
pub(super) struct Rotating(Arc<(Mutex<Option<String>>, AtomicUsize)>);

impl Rotating {
    pub(super) fn new(password: &str) -> Self {
        let rotating = Self::default();
        rotating.set(Some(password));
        rotating
    }

    pub(super) fn set(&self, password: Option<&str>) {
        *self.0.0.lock().unwrap() = password.map(str::to_owned);
    }

    pub(super) fn asked(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }

    pub(super) fn of(&self, client: RedisClient) -> RedisClient {
        let rotating = self.clone();
        client.with_credentials(move || {
            rotating.0.1.fetch_add(1, Ordering::SeqCst);
            let password = rotating.0.0.lock().unwrap().clone();
            async {
                let password = password.ok_or(StoreError::internal("the vault is shut"))?;
                Ok(RedisCredentials::password(password))
            }
        })
    }
}

/// Sends a command to a server, as somebody with that password.
pub(super) async fn order_as<T: redis::FromRedisValue>(
    server: &RedisServer,
    password: &str,
    words: &[&str],
) -> T {
    let url = format!("redis://:{password}@127.0.0.1:{}/", server.port());
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let (verb, arguments) = words.split_first().unwrap();
    let mut command = redis::cmd(verb);
    command.arg(arguments);
    command.query_async(&mut connection).await.unwrap()
}

/// What `CLIENT LIST` tells of the connections with that name.
async fn connections(server: &RedisServer, name: &str) -> Vec<String> {
    let list: String = order_as(server, "", &["CLIENT", "LIST"]).await;
    let name = format!(" name={name} ");
    let lines = list.lines().filter(|line| line.contains(&name));
    lines.map(str::to_owned).collect()
}

fn patient(client: &RedisClient) -> RedisRateLimiter {
    let limiter = RedisRateLimiter::builder(client)
        .deadline(Duration::from_secs(20))
        .degraded(Degraded::closed());
    limiter.build().unwrap()
}

#[tokio::test]
async fn a_password_that_changes_is_asked_for_at_each_connection() {
    let Some(server) = RedisServer::start_with(&["--requirepass", "first"]) else {
        return;
    };
    let rotating = Rotating::new("first");
    let client = rotating.of(RedisClient::new(server.url()));
    let limiter = patient(&client);
    limiter.connect().await.unwrap();
    let quotas = Quotas::from(Quota::per_hour(100));
    let take = |left: u32| {
        let taken = limiter.take(&key("ann"), &quotas, 1);
        async move { assert_eq!(taken.await.unwrap().readings.remaining(), left) }
    };
    take(99).await;
    let asked = rotating.asked();
    assert!(asked >= 4, "{asked}");

    order_as::<()>(
        &server,
        "first",
        &["CONFIG", "SET", "requirepass", "second"],
    )
    .await;
    rotating.set(Some("second"));
    take(98).await;
    assert_eq!(rotating.asked(), asked, "who is connected stays so");
    order_as::<()>(&server, "second", HANG_UP).await;
    take(97).await;
    assert_eq!(rotating.asked(), asked + 1);
    assert_eq!(limiter.statistics().failures, 0);

    let (resp2, resp3) = (RedisProtocol::Resp2, RedisProtocol::Resp3);
    for (protocol, password, told) in [
        (resp2, Some("third"), "AuthenticationFailed"),
        (resp3, Some("third"), "WRONGPASS"),
        (resp3, None, "the vault is shut"),
    ] {
        rotating.set(password);
        let stranger = patient(&client.clone().protocol(protocol));
        let error = stranger.connect().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        let all = format!("{error} {error:?} {stranger:?} {client:?}");
        assert!(all.contains(told), "{all}");
        assert!(!all.contains("third") && !all.contains("second"), "{all}");
    }
    order_as::<()>(&server, "second", HANG_UP).await;
    assert!(limiter.take(&key("ann"), &quotas, 1).await.is_err());
    rotating.set(Some("second"));
    limiter.connect().await.unwrap();
    take(96).await;
}

#[tokio::test]
async fn stores_with_one_deadline_share_connections_and_no_others() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let client = RedisClient::new(server.url())
        .database(3)
        .name("shop")
        .connections(2);
    let limiter = RedisRateLimiter::builder(&client).build().unwrap();
    let under_way = RedisConcurrency::builder(client.clone().prefix("other"))
        .build()
        .unwrap();
    limiter.connect().await.unwrap();
    under_way.connect().await.unwrap();
    assert_eq!(connections(&server, "shop").await.len(), 2);
    let sessions = RedisSessions::builder(&client).build().unwrap();
    sessions.connect().await.unwrap();
    let all = connections(&server, "shop").await;
    assert_eq!(all.len(), 4);
    assert!(
        all.iter()
            .all(|it| it.contains(" db=3 ") && it.contains(" resp=2"))
    );

    let elsewhere = client.clone().database(4).protocol(RedisProtocol::Resp3);
    let elsewhere = RedisRateLimiter::builder(elsewhere).build().unwrap();
    elsewhere.connect().await.unwrap();
    let all = connections(&server, "shop").await;
    let new = all
        .iter()
        .filter(|it| it.contains(" db=4 ") && it.contains(" resp=3"));
    assert_eq!(
        new.count(),
        2,
        "what is reached in another way shares nothing: {all:?}"
    );

    let news = RedisInvalidations::builder(client.clone().name("news"))
        .build()
        .unwrap();
    while !news.is_connected() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let all = connections(&server, "news").await;
    assert!(all.len() == 1 && all[0].contains(" resp=3"), "{all:?}");

    drop((limiter, under_way, sessions));
    while connections(&server, "shop").await.len() > 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The task that reconnects outlives it, and so does whoever waits for a connection.
#[tokio::test]
async fn a_provider_that_panics_is_one_that_fails() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let provider = |panics: fn(usize) -> bool| {
        let asked = Arc::clone(&asked);
        asked.store(0, Ordering::SeqCst);
        RedisClient::new(server.url()).with_credentials(move || {
            let nth = asked.fetch_add(1, Ordering::SeqCst);
            assert!(nth % 2 == 1 || !panics(nth), "before there is a future");
            async move {
                assert!(!panics(nth), "a mistake in the vault's client");
                Ok(RedisCredentials::new("default", "any"))
            }
        })
    };
    let limiter = patient(&provider(|nth| nth < 6));
    let error = limiter.connect().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.to_string().contains("panicked"), "{error}");
    while limiter.is_degraded() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(asked.load(Ordering::SeqCst) > 6);

    let news = RedisInvalidations::builder(provider(|nth| nth < 2));
    let news = news.build().unwrap();
    while !news.is_connected() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn little_of_a_providers_error_is_told() {
    let client = RedisClient::new("redis://127.0.0.1:1/").with_credentials(|| async {
        let page = format!("the vault is shut {}", "é".repeat(9_000));
        Err::<RedisCredentials, _>(StoreError::internal(&page))
    });
    let error = patient(&client).connect().await.unwrap_err().to_string();
    assert!(error.contains("the vault is shut é"), "{error}");
    assert!(error.len() < 700, "{}", error.len());
}

/// Those that wait would otherwise each start one that they don't see the end of.
#[tokio::test]
async fn who_waits_for_an_attempt_that_is_given_up_starts_no_other() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let client = RedisClient::new("redis://127.0.0.1:1/").connections(1);
    let client = client.with_credentials(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<Result<RedisCredentials, StoreError>>()
    });
    let servers = client.servers(Duration::from_secs(20)).unwrap();
    let call = || Box::pin(servers.forget(&[0; 16], "any"));
    let asked = async || {
        tokio::task::yield_now().await;
        asked.load(Ordering::SeqCst)
    };
    let (mut first, mut second) = (call(), call());
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    assert_eq!(asked().await, 1);
    drop(first);
    let error = second.await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert_eq!(asked().await, 1);

    let (mut third, mut reviving) = (call(), Box::pin(servers.revive()));
    assert!(futures_util::poll!(third.as_mut()).is_pending());
    assert!(futures_util::poll!(reviving.as_mut()).is_pending());
    assert_eq!(asked().await, 2);
    drop(third);
    assert!(futures_util::poll!(reviving.as_mut()).is_pending());
    assert_eq!(asked().await, 3, "what waits for the server goes on");
}

#[tokio::test]
async fn a_password_alone_is_the_default_users() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let user = ["ACL", "SETUSER", "bob", "on", ">bobs", "~*", "+@all"];
    order_as::<()>(&server, "", &user).await;
    let password = ["CONFIG", "SET", "requirepass", "first"];
    order_as::<()>(&server, "", &password).await;
    let client = |url: String, password: &'static str| {
        RedisClient::new(url)
            .database(3)
            .protocol(RedisProtocol::Resp3)
            .name("shop")
            .with_credentials(move || async move { Ok(RedisCredentials::password(password)) })
    };
    let port = server.port();
    let bobs = || format!("redis://bob:bobs@127.0.0.1:{port}/");
    for url in [bobs(), server.url()] {
        let limiter = patient(&client(url.clone(), "first"));
        limiter.connect().await.unwrap();
        let list: String = order_as(&server, "first", &["CLIENT", "LIST"]).await;
        let mine = list.lines().find(|line| line.contains(" name=shop "));
        let mine = mine.unwrap();
        for told in [" user=default ", " db=3 ", " resp=3"] {
            assert!(mine.contains(told), "{mine}");
        }
        let stranger = patient(&client(url, "bobs"));
        assert!(stranger.connect().await.is_err());
    }
    let nobody = patient(&RedisClient::new(server.url()));
    let error = nobody.connect().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
}

#[test]
fn a_client_that_makes_no_sense_is_refused_when_a_store_is_built() {
    let refused = |client: RedisClient| {
        let told = format!("{client:?}");
        let error = RedisRateLimiter::builder(client).build().unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Refused);
        let told = format!("{told} {error} {error:?}");
        assert!(!told.contains("secret"), "{told}");
        error.to_string()
    };
    for url in [
        "",
        "secret",
        "http://user:secret@host/",
        "redis://:secret@host:port/",
    ] {
        refused(url.into());
        refused(RedisClient::sentinel(
            "redis://:secret@main/",
            ["redis://host/", url],
        ));
        refused(RedisClient::sentinel(url, ["redis://host/"]));
    }
    refused(RedisClient::sentinel("redis://:secret@main/", []));
    refused(RedisClient::sentinel(
        "redis+unix:///secret",
        ["redis://host/"],
    ));
    refused(RedisClient::new("redis://:secret@host/").name("two words"));
    let hosts = ["redis://host/"];
    refused(RedisClient::new("redis://secret@host/"));
    refused(RedisClient::new("redis://host/?password=secret"));
    refused(RedisClient::sentinel("redis://:secret@main:1/", hosts));
    refused(RedisClient::sentinel(
        "redis://main/",
        ["redis://secret@host/"],
    ));
    refused(RedisClient::sentinel("redis://main/", ["redis://host/3"]));
    #[cfg(feature = "redis-cluster")]
    refused(RedisClient::cluster(hosts).name("two words"));
    let credentials = RedisCredentials::new("ann", "secret");
    assert!(!format!("{credentials:?}").contains("secret"));
    if !cfg!(feature = "redis-tls") {
        assert!(refused("rediss://:secret@host/".into()).contains("redis-tls"));
    }
}

#[cfg(feature = "redis-cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clusters_connections_ask_for_the_password_too() {
    let arguments = ["--cluster-enabled", "yes", "--requirepass", "first"];
    let Some(server) = RedisServer::start_with(&arguments) else {
        return;
    };
    order_as::<()>(
        &server,
        "first",
        &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"],
    )
    .await;
    let info = ["CLUSTER", "INFO"];
    while !order_as::<String>(&server, "first", &info)
        .await
        .contains("cluster_state:ok")
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rotating = Rotating::new("wrong");
    let client = rotating.of(RedisClient::cluster([server.url().as_str()]));
    let limiter = patient(&client);
    assert!(limiter.connect().await.is_err());
    rotating.set(Some("first"));
    limiter.connect().await.unwrap();
    let quotas = Quotas::from(Quota::per_hour(100));
    let taken = limiter.take(&key("ann"), &quotas, 1).await.unwrap();
    assert_eq!(taken.readings.remaining(), 99);
    order_as::<()>(
        &server,
        "first",
        &["CONFIG", "SET", "requirepass", "second"],
    )
    .await;
    rotating.set(Some("second"));
    let asked = rotating.asked();
    order_as::<()>(&server, "second", HANG_UP).await;
    let taken = limiter.take(&key("ann"), &quotas, 1).await.unwrap();
    assert!(taken.readings.remaining() <= 98);
    assert!(rotating.asked() > asked);
}

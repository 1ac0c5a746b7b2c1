//! Connections closed by the other side, and servers that are replaced by others.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use futures_util::StreamExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{
    domain::UserId,
    store::{
        Change, ChangeListener, RedisInvalidations,
        redis::{connections::Resend, link::Link},
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

/// An address that can be redirected from one server to another. Existing connections stay where
/// they are.
struct Address {
    url: String,
    port: Arc<AtomicU16>,
}

impl Address {
    async fn of(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}/", listener.local_addr().unwrap());
        let port = Arc::new(AtomicU16::new(server.port()));
        let to = Arc::clone(&port);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let port = to.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { url, port }
    }

    fn leads_to(&self, server: &RedisServer) {
        self.port.store(server.port(), Ordering::SeqCst);
    }
}

fn closed(url: &str) -> RedisRateLimiter {
    let limiter = RedisRateLimiter::builder(url)
        .deadline(PATIENCE)
        .degraded(Degraded::closed());
    limiter.build().unwrap()
}

async fn follow(server: &RedisServer, master: &RedisServer) {
    let port = master.port().to_string();
    order(server, &["REPLICAOF", "127.0.0.1", &port]).await;
}

#[tokio::test]
async fn connections_that_the_other_side_ended_cost_nobody_anything() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let limiter = closed(&server.url());
    limiter.connect().await.unwrap();
    let quotas = Quotas::from(Quota::per_hour(100));
    for round in 0..3 {
        order(&server, HANG_UP).await;
        for name in 0..12 {
            let key = key(&format!("{round} {name}"));
            let decision = limiter.take(&key, &quotas, 1).await.unwrap();
            assert_eq!(decision.readings.remaining(), 99);
        }
    }
    assert_eq!(limiter.statistics().failures, 0);
    assert!(!limiter.is_degraded());
}

#[tokio::test]
async fn what_may_not_be_said_twice_fails_alone() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let servers = RedisClient::new(server.url()).servers(PATIENCE).unwrap();
    let link = Link::new(servers, PATIENCE);
    link.connect().await.unwrap();
    let (get, count) = (
        redis::cmd("GET").arg("n").clone(),
        redis::cmd("INCR").arg("n").clone(),
    );
    order(&server, HANG_UP).await;
    let before: Option<i64> = link.ask(&get, Resend::Safe).await.unwrap();
    assert_eq!(before, None);
    order(&server, HANG_UP).await;
    let mut failed = Vec::new();
    for _ in 0..8 {
        if let Err(error) = link.ask::<i64>(&count, Resend::Never).await {
            failed.push(error.kind());
        }
    }
    assert_eq!(failed, [StoreErrorKind::Internal], "it is not away");
    let counted: i64 = link.ask(&get, Resend::Safe).await.unwrap();
    assert_eq!(counted, 7);
}

#[test]
fn a_correction_that_gives_back_is_never_sent_twice() {
    let correct = |units| {
        Operation::Correct(Correction {
            units,
            taken_at: TakenAt::default(),
            readings: Readings::default(),
        })
    };
    assert_eq!(correct(-1).resend(), Resend::Never);
    assert_eq!(correct(1).resend(), Resend::Safe);
    assert_eq!(Operation::Take(1).resend(), Resend::Safe);
}

#[tokio::test]
async fn whoever_has_become_a_replica_is_left_for_the_new_master() {
    let (Some(old), Some(new)) = (RedisServer::start(), RedisServer::start()) else {
        return;
    };
    let address = Address::of(&old).await;
    let limiter = closed(&address.url);
    limiter.connect().await.unwrap();
    let quotas = Quotas::from(Quota::per_hour(100));
    assert!(admits(&limiter, "a", &quotas).await);
    follow(&old, &new).await;
    address.leads_to(&new);
    for name in ["a", "b", "c", "d", "e", "f"] {
        // Over connections that still lead to the old one, the first of them.
        let _ = limiter.take(&key(name), &quotas, 1).await;
    }
    let decision = limiter.take(&key("g"), &quotas, 1).await.unwrap();
    assert!(decision.is_admitted());
    assert!(!limiter.is_degraded(), "{:?}", limiter.statistics());
}

#[tokio::test]
async fn a_replica_is_not_there_until_it_is_a_master() {
    let (Some(server), Some(other)) = (RedisServer::start(), RedisServer::start()) else {
        return;
    };
    let limiter = closed(&server.url());
    limiter.connect().await.unwrap();
    let quotas = Quotas::from(Quota::per_hour(100));
    follow(&server, &other).await;
    let refused = limiter.take(&key("a"), &quotas, 1).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    assert!(limiter.is_degraded());
    assert!(limiter.connect().await.is_err(), "it would answer a ping");
    order(&server, &["REPLICAOF", "NO", "ONE"]).await;
    for _ in 0..500 {
        if !limiter.is_degraded() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let decision = limiter.take(&key("a"), &quotas, 1).await.unwrap();
    assert!(decision.is_admitted());
}

/// What it publishes there doesn't reach the other processes, so it tells them to forget
/// everything.
#[tokio::test]
async fn who_publishes_all_the_time_notices_that_its_server_is_a_replica() {
    let (Some(server), Some(other)) = (RedisServer::start(), RedisServer::start()) else {
        return;
    };
    let news = RedisInvalidations::builder(server.url()).build().unwrap();
    let pause = || tokio::time::sleep(Duration::from_millis(50));
    while !news.is_connected() {
        pause().await;
    }
    follow(&server, &other).await;
    let noticed = async {
        while news.is_connected() {
            news.changed(&Change::User(UserId::new("ann").unwrap()));
            pause().await;
        }
    };
    tokio::time::timeout(PATIENCE, noticed).await.unwrap();
    let client = Client::open(server.url()).unwrap();
    let mut listener = client.get_async_pubsub().await.unwrap();
    listener.subscribe("tollgate").await.unwrap();
    order(&server, &["REPLICAOF", "NO", "ONE"]).await;
    let everything = Change::Everything.to_text();
    let messages = listener.into_on_message();
    let told = messages.filter(|message| {
        let text = message.get_payload::<String>().unwrap();
        std::future::ready(text == everything)
    });
    let told = std::pin::pin!(told);
    tokio::time::timeout(PATIENCE, told.into_future())
        .await
        .unwrap();
}

/// If the application may not ask for a server's role, an answer is enough.
#[tokio::test]
async fn an_application_that_may_not_ask_for_the_role_connects() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let rules = [
        "ACL", "SETUSER", "app", "on", ">word", "~*", "+@all", "-role",
    ];
    order(&server, &rules).await;
    let url = format!("redis://app:word@127.0.0.1:{}/", server.port());
    let limiter = closed(&url);
    limiter.connect().await.unwrap();
    assert!(admits(&limiter, "a", &Quota::per_hour(3).into()).await);
}

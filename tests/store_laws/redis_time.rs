//! Rate limits in Redis, by a clock that a law turns.
//!
//! The script reads the server's clock, which nobody can turn. So the server also has the script
//! with another source of time, and what stands between it and the limiter calls that one instead:
//! each by the digest of its text, of one length.

use std::{sync::Arc, time::Duration};

use redis::aio::MultiplexedConnection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tollgate::{
    clock::Clock,
    quota::Quotas,
    store::{
        Correction, RateDecision, RateKey, RateStore, Readings, RedisRateLimiter, StoreFuture,
    },
};

use crate::{engines::Time, redis_server::RedisServer};

const CODE: &str = include_str!("../../src/store/redis/rate.lua");

/// A limiter, and the way to turn its server's clock.
#[derive(Debug)]
pub(crate) struct Turned {
    limiter: RedisRateLimiter,
    connection: MultiplexedConnection,
    clock: Time,
}

/// A limiter on a server of its own, which ends with the guard; `None` where there is no Redis.
pub(crate) async fn rates() -> Option<(Turned, Time, RedisServer)> {
    let server = RedisServer::start()?;
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    // Keys expire by the server's own clock, which is another one.
    let timed = CODE.replace("redis.call('TIME')", "redis.call('LRANGE', 'clock', 0, 1)");
    let code = timed.replace("redis.call('PEXPIRE',", "tostring(");
    assert!(timed != CODE && code != timed, "the script reads otherwise");
    let mut digests = Vec::new();
    for code in [CODE, &code] {
        let loaded = redis::cmd("SCRIPT").arg("LOAD").arg(code).clone();
        digests.push(loaded.query_async::<String>(&mut connection).await.unwrap());
    }
    let port = instead(server.port(), digests[0].clone(), digests[1].clone()).await;
    let clock = Time::default();
    let limiter = RedisRateLimiter::builder(format!("redis://127.0.0.1:{port}/"))
        .with_clock(clock.clone())
        // A machine that is busy is no law's business.
        .deadline(Duration::from_secs(20))
        .build()
        .unwrap();
    limiter.connect().await.unwrap();
    let turned = Turned {
        limiter,
        connection,
        clock: clock.clone(),
    };
    Some((turned, clock, server))
}

/// Passes everything on, but one script for another. A command ends with a line, so no piece of a
/// digest waits for long.
async fn instead(port: u16, asked: String, meant: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let (asked, meant): (Arc<[u8]>, Arc<[u8]>) =
        (asked.into_bytes().into(), meant.into_bytes().into());
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
            });
            let (asked, meant) = (Arc::clone(&asked), Arc::clone(&meant));
            tokio::spawn(async move {
                let (mut bytes, mut waiting) = ([0; 16_384], Vec::new());
                while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
                    waiting.extend_from_slice(&bytes[..count]);
                    let found = waiting.windows(asked.len()).enumerate();
                    let found = found.filter(|(_, piece)| **piece == *asked);
                    let places: Vec<_> = found.map(|(at, _)| at).collect();
                    for at in places {
                        waiting[at..at + meant.len()].copy_from_slice(&meant);
                    }
                    let begun = |length: &usize| waiting.ends_with(&asked[..*length]);
                    let kept = (1..asked.len()).rev().find(begun).unwrap_or(0);
                    let ready: Vec<_> = waiting.drain(..waiting.len() - kept).collect();
                    if to_server.write_all(&ready).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    own
}

impl Turned {
    /// Sets the server's clock, and then asks.
    fn at_its_time<T: Send + Unpin + 'static>(&self, asked: StoreFuture<T>) -> StoreFuture<T> {
        let mut connection = self.connection.clone();
        let micros = self.clock.now().as_microsecond();
        let mut clock = redis::pipe();
        clock.atomic().del("clock").ignore();
        let set = clock.cmd("RPUSH").arg("clock");
        set.arg(micros / 1_000_000).arg(micros % 1_000_000).ignore();
        StoreFuture::new(async move {
            clock.exec_async(&mut connection).await.unwrap();
            asked.await
        })
    }
}

impl RateStore for Turned {
    fn take(&self, key: &RateKey, quotas: &Quotas, cost: u32) -> StoreFuture<RateDecision> {
        self.at_its_time(self.limiter.take(key, quotas, cost))
    }

    fn correct(&self, key: &RateKey, quotas: &Quotas, correction: Correction) -> StoreFuture<()> {
        self.at_its_time(self.limiter.correct(key, quotas, correction))
    }

    fn peek(&self, key: &RateKey, quotas: &Quotas) -> StoreFuture<Readings> {
        self.at_its_time(self.limiter.peek(key, quotas))
    }

    fn reset(&self, key: &RateKey) -> StoreFuture<()> {
        self.at_its_time(self.limiter.reset(key))
    }
}

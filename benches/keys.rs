//! A million keys: what a cold one costs, by one indexed read, and a warm one, in time and in
//! memory.
//!
//! `KEYS=100000` sets how many.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench that fails ends"
)]

#[path = "../tests/support/postgres.rs"]
mod postgres_server;

use std::{
    convert::Infallible,
    fs,
    future::ready,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tollgate::{
    ApiKeyLayer,
    clock::Timestamp,
    key::{KeyDigest, KeyRecord},
    keyring::{KeyResolver, Resolution},
    store::{BudgetId, KeyId, KeyLookup, KeyStore, PostgresStore, SqliteStore, StoreFuture},
};
use tower::{Layer, Service, service_fn};

const FEW: usize = 1_000;
const ROUNDS: usize = 1_000;
/// Connections on each side, over which the rounds are spread.
const TURNS: usize = 10;
const SLICE: usize = 200;
const COLD: usize = 5_000;

fn key(number: usize) -> String {
    format!("a-key-of-somebody-{number}")
}

fn record(digest: KeyDigest, name: &str) -> KeyRecord {
    // As long as those that a keyring makes.
    let id = format!("key-00000000-0000-0000-0000-{name:0>12}");
    let (id, lineage) = (KeyId::new(&id).unwrap(), BudgetId::new(&id).unwrap());
    let mut record = KeyRecord::new(
        id,
        lineage,
        digest,
        "user-1234567890",
        Timestamp::UNIX_EPOCH,
    );
    record.preview = "ps_live_abcd...xyz9".to_owned();
    record.name = "a name of a key".to_owned();
    record.roles = vec!["user".to_owned()];
    record
}

/// Numbers that follow no order.
struct Shuffled(u64);

impl Shuffled {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// Has every key, and remembers none.
#[derive(Debug)]
struct Endless;

impl KeyLookup for Endless {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        let name: String = digest.as_bytes()[..6]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        StoreFuture::ready(Ok(Some(record(*digest, &name))))
    }
}

fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

async fn fill(keys: &KeyResolver, texts: &[String]) {
    for text in texts {
        if let Resolution::Pending(found) = keys.resolve(text) {
            drop(found.await.unwrap());
        }
    }
}

/// How long a look takes, of a slice of them.
fn look(keys: &KeyResolver, asked: &[String]) -> Duration {
    let begin = Instant::now();
    for text in asked {
        assert!(matches!(keys.resolve(text), Resolution::Ready(Ok(_))));
    }
    begin.elapsed() / asked.len() as u32
}

/// The same of requests through the layer, from their heads to the answers.
fn call(keys: &KeyResolver, asked: &[String]) -> Duration {
    let request = |text: &String| {
        http::Request::builder()
            .header("x-api-key", text)
            .body(())
            .unwrap()
    };
    let requests: Vec<_> = asked.iter().map(request).collect();
    let hello = service_fn(|_: http::Request<()>| {
        ready(Ok::<_, Infallible>(http::Response::new(String::new())))
    });
    let mut service = ApiKeyLayer::new(keys.clone()).layer(hello);
    let begin = Instant::now();
    for request in requests {
        let answer = service.call(request).now_or_never().unwrap().unwrap();
        assert_eq!(answer.status(), 200);
    }
    begin.elapsed() / asked.len() as u32
}

/// The same over a socket, as a client sees it: from the request's first byte to the answer's last,
/// on one connection.
async fn send(keys: &KeyResolver, asked: &[Vec<String>]) -> Vec<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hello = service_fn(|_: http::Request<Incoming>| {
        ready(Ok::<_, Infallible>(http::Response::new(String::new())))
    });
    let service = ApiKeyLayer::new(keys.clone()).layer(hello);
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(service);
        let served = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
        served.await.unwrap();
    });
    let mut client = TcpStream::connect(address).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (mut answer, mut times) = (vec![0; 4_096], Vec::with_capacity(asked.len()));
    for slice in asked {
        let begin = Instant::now();
        for text in slice {
            let head = format!("GET / HTTP/1.1\r\nhost: bench\r\nx-api-key: {text}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            let mut read = 0;
            while !answer[..read].ends_with(b"\r\n\r\n") {
                read += client.read(&mut answer[read..]).await.unwrap();
            }
            assert!(answer.starts_with(b"HTTP/1.1 200 "));
        }
        times.push(begin.elapsed() / slice.len() as u32);
    }
    drop(client);
    server.await.unwrap();
    times
}

/// Of a tenth of the slices what the slowest takes: a busy machine disturbs the others.
fn tenth(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 10].as_nanos() as f64
}

async fn warm(count: usize) {
    let texts: Vec<_> = (0..count).map(key).collect();
    let resolver = |capacity: usize| {
        KeyResolver::builder(Endless)
            .capacity(capacity as u64)
            .ttl(Duration::from_secs(86_400))
            .build()
    };
    let (few, many) = (resolver(2 * FEW), resolver(2 * count));
    fill(&few, &texts[..FEW]).await;
    let before = resident_bytes();
    fill(&many, &texts).await;
    let each = (resident_bytes() - before) / count;
    println!("{count} remembered keys: {each} bytes each");
    let mut random = Shuffled(7);
    // A request has just been read: its own bytes are near.
    let mut some = |below| -> Vec<String> {
        let any = |_| texts[random.next(below)].clone();
        (0..SLICE).map(any).collect()
    };
    for (what, measure) in [
        ("a look", look as fn(&KeyResolver, &[String]) -> Duration),
        ("a request", call),
    ] {
        let (mut of_few, mut of_many) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            of_few.push(measure(&few, &some(FEW)));
            of_many.push(measure(&many, &some(count)));
        }
        tell(what, (tenth(of_few), tenth(of_many)), count);
    }
    let (mut of_few, mut of_many) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let mut slices = |below| -> Vec<_> { (0..ROUNDS / TURNS).map(|_| some(below)).collect() };
        of_few.extend(send(&few, &slices(FEW)).await);
        of_many.extend(send(&many, &slices(count)).await);
    }
    let times = (tenth(of_few), tenth(of_many));
    tell("a request over a socket", times, count);
}

fn tell(what: &str, (few, many): (f64, f64), count: usize) {
    let ratio = many / few;
    println!("{what}, any of {FEW}: {few} ns; any of {count}: {many} ns; {ratio:.2} times");
}

async fn cold(engine: &str, store: &impl KeyLookup, count: usize) {
    let mut random = Shuffled(11);
    let mut times = Vec::with_capacity(COLD);
    for _ in 0..COLD {
        let digest = KeyDigest::of(&key(random.next(count)));
        let begin = Instant::now();
        assert!(store.find(&digest).await.unwrap().is_some());
        times.push(begin.elapsed());
    }
    times.sort();
    let (half, most) = (times[COLD / 2], times[COLD * 99 / 100]);
    println!("{engine}: a cold key of {count}: {half:?} in the median, {most:?} in 99 of 100");
}

async fn sqlite(count: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.db");
    let store = SqliteStore::open(&path).await.unwrap();
    store
        .insert(record(KeyDigest::of("template"), "t"), None)
        .await
        .unwrap();
    store.close().await.unwrap();
    let mut connection = rusqlite::Connection::open(&path).unwrap();
    let filling = connection.transaction().unwrap();
    {
        let mut insert = filling
            .prepare(
                "INSERT INTO api_key (id, digest, preview, name, owner, roles, networks, created_at,
                 lineage, metadata) SELECT ?1, ?2, preview, name, owner || ?1, roles, networks,
                 created_at, ?1, metadata FROM api_key WHERE position = 1",
            )
            .unwrap();
        for number in 0..count {
            let digest = KeyDigest::of(&key(number));
            let id = format!("key-{number}");
            insert
                .execute(rusqlite::params![id, digest.as_bytes()])
                .unwrap();
        }
    }
    filling.commit().unwrap();
    let plan: String = connection
        .query_row(
            "EXPLAIN QUERY PLAN SELECT * FROM api_key WHERE digest = x'00'",
            [],
            |row| row.get(3),
        )
        .unwrap();
    println!(
        "SQLite: {plan}; {} MB",
        fs::metadata(&path).unwrap().len() / 1_000_000
    );
    assert!(plan.contains("SEARCH api_key USING INDEX"), "{plan}");
    drop(connection);
    let store = SqliteStore::open(&path).await.unwrap();
    cold("SQLite", &store, count).await;
    store.close().await.unwrap();
}

async fn postgres(count: usize) {
    let Some(place) = postgres_server::database().await else {
        return;
    };
    let pool = postgres_server::pool(place, 4).await;
    let store = PostgresStore::builder(pool.clone()).open().await.unwrap();
    store
        .insert(record(KeyDigest::of("template"), "t"), None)
        .await
        .unwrap();
    // Nobody listens, and a million pieces of news would take a while.
    let filling = "ALTER TABLE tollgate.api_key DISABLE TRIGGER USER;
         INSERT INTO tollgate.api_key (id, digest, preview, name, owner, roles, networks, created_at,
             lineage, metadata)
         SELECT 'key-' || number, sha256(('a-key-of-somebody-' || number)::bytea), preview, name,
             owner || number, roles, networks, created_at, 'key-' || number, metadata
         FROM tollgate.api_key, generate_series(0, $1 - 1) AS number;
         ALTER TABLE tollgate.api_key ENABLE TRIGGER USER;
         ANALYZE tollgate.api_key;";
    for step in filling.split_inclusive(';') {
        if step.contains("$1") {
            let query = sqlx::query(sqlx::AssertSqlSafe(step));
            query
                .bind(i32::try_from(count).unwrap())
                .execute(&pool)
                .await
                .unwrap();
        } else if !step.trim().is_empty() {
            sqlx::raw_sql(sqlx::AssertSqlSafe(step))
                .execute(&pool)
                .await
                .unwrap();
        }
    }
    let plan: String =
        sqlx::query_scalar("EXPLAIN SELECT * FROM tollgate.api_key WHERE digest = $1")
            .bind(&[0_u8; 32][..])
            .fetch_one(&pool)
            .await
            .unwrap();
    println!("PostgreSQL: {plan}");
    assert!(
        plan.contains("Index Scan using api_key_digest_key"),
        "{plan}"
    );
    cold("PostgreSQL", &store, count).await;
    store.close().await.unwrap();
}

fn main() {
    let count = std::env::var("KEYS").map_or(1_000_000, |count| count.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        warm(count).await;
        sqlite(count).await;
        postgres(count).await;
    });
}

//! News of changes over Redis, of stores that can't tell of them: two processes with one file of
//! keys.

use std::{
    path::Path,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tollgate::{
    key::{KeyDigest, KeyFormat, KeyUpdate},
    keyring::{KeyRefusal, KeyResolver, Keyring, NewKey, Resolution},
    store::{
        Change, ChangeListener, FileKeyStore, Invalidations, KeyStore, RedisInvalidations,
        StoreErrorKind, UserId,
    },
};

use crate::{
    engines::{Time, now},
    redis_server::RedisServer,
};

const TTL: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_secs(20);

/// What was told, in order.
#[derive(Default)]
struct Heard(Mutex<Vec<Change>>);

impl ChangeListener for Heard {
    fn changed(&self, change: &Change) {
        self.0.lock().unwrap().push(change.clone());
    }
}

struct Process {
    resolver: KeyResolver,
    ring: Keyring,
    store: FileKeyStore,
    news: RedisInvalidations,
    clock: Time,
    heard: Arc<Heard>,
}

impl Process {
    async fn new(file: &Path, server: &RedisServer) -> Self {
        let format = KeyFormat::builder("ps").build().unwrap();
        let store = FileKeyStore::builder(file)
            .check_interval(Duration::ZERO)
            .build();
        let clock = Time::default();
        let news = RedisInvalidations::builder(server.url()).build().unwrap();
        let resolver = KeyResolver::builder(store.clone())
            .add_format(format.clone())
            .ttl(TTL)
            .negative_ttl(TTL)
            .with_clock(clock.clone())
            .build();
        resolver.follow(&news);
        // After the resolver, so that what this has heard the resolver knows.
        let heard = Arc::new(Heard::default());
        let listener: Weak<Heard> = Arc::downgrade(&heard);
        news.subscribe(listener);
        let ring = Keyring::new(store.clone(), format, resolver.clone())
            .with_clock(clock.clone())
            .add_listener(news.clone());
        Self {
            resolver,
            ring,
            store,
            news,
            clock,
            heard,
        }
    }

    /// The news of a key's creation come after the creation, and make who has just read the key
    /// read it again.
    async fn has_heard_of(&self, digest: KeyDigest) {
        let news = Change::Key(digest);
        soon(async || self.heard.0.lock().unwrap().contains(&news)).await;
    }

    async fn resolve(&self, key: &str) -> Result<(), KeyRefusal> {
        match self.resolver.resolve(key) {
            Resolution::Ready(verdict) => verdict.map(drop),
            Resolution::Pending(verdict) => verdict.await.map(drop),
        }
    }

    async fn is_refused_within(&self, key: &str, bound: Duration) -> bool {
        let refused = until(async || self.resolve(key).await.is_err());
        tokio::time::timeout(bound, refused).await.is_ok()
    }

    async fn is_connected(&self) {
        soon(async || self.news.is_connected()).await;
    }
}

async fn until(is_so: impl AsyncFn() -> bool) {
    while !is_so().await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn soon(is_so: impl AsyncFn() -> bool) {
    tokio::time::timeout(SOON, until(is_so))
        .await
        .expect("soon");
}

async fn two(file: &Path, server: &RedisServer) -> [Process; 2] {
    let both = [
        Process::new(file, server).await,
        Process::new(file, server).await,
    ];
    for process in &both {
        process.is_connected().await;
    }
    both
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_another_process_revokes_is_refused_within_a_second() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [here, there] = two(&folder.path().join("keys.json"), &server).await;
    let (key, record) = there.ring.create("ann", NewKey::default()).await.unwrap();
    let key = key.expose();
    here.has_heard_of(record.digest).await;
    soon(async || here.resolve(key).await.is_ok()).await;
    // Nobody has told yet: what is remembered holds.
    let mut unsaid = KeyUpdate::default();
    unsaid.revoked_at = Some(now());
    let change = there.store.update("ann", &record.id, unsaid, None);
    change.await.unwrap();
    here.resolve(key).await.unwrap();
    there.ring.revoke("ann", &record.id).await.unwrap();
    assert!(here.is_refused_within(key, Duration::from_secs(1)).await);
    assert!(matches!(
        here.resolve(key).await,
        Err(KeyRefusal::Revoked { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_gone_the_ttl_holds_and_when_it_is_back_nothing_was_missed() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let [here, there] = two(&folder.path().join("keys.json"), &server).await;
    let mut keys = Vec::new();
    for _ in 0..3 {
        let (key, record) = there.ring.create("ann", NewKey::default()).await.unwrap();
        let key = key.expose().to_owned();
        here.has_heard_of(record.digest).await;
        soon(async || here.resolve(&key).await.is_ok()).await;
        keys.push((key, record.id));
    }
    server.kill();
    soon(async || !here.news.is_connected() && !there.news.is_connected()).await;

    there.ring.revoke("ann", &keys[0].1).await.unwrap();
    here.clock.advance(TTL - Duration::from_millis(1));
    here.resolve(&keys[0].0).await.expect("nobody could tell");
    here.clock.advance(Duration::from_millis(1));
    assert!(
        here.resolve(&keys[0].0).await.is_err(),
        "not later than the ttl"
    );

    here.resolve(&keys[1].0).await.unwrap();
    there.ring.revoke("ann", &keys[1].1).await.unwrap();
    here.resolve(&keys[1].0).await.expect("nobody could tell");
    server.restart();
    assert!(here.is_refused_within(&keys[1].0, SOON).await);

    here.is_connected().await;
    there.is_connected().await;
    here.resolve(&keys[2].0).await.unwrap();
    there.ring.revoke("ann", &keys[2].1).await.unwrap();
    assert!(
        here.is_refused_within(&keys[2].0, Duration::from_secs(1))
            .await
    );
}

/// What was published, to the text.
fn published(server: &RedisServer) -> std::sync::mpsc::Receiver<String> {
    let client = redis::Client::open(server.url()).unwrap();
    let (say, said) = std::sync::mpsc::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut connection = client.get_connection().unwrap();
        let mut channel = connection.as_pubsub();
        channel.subscribe("tollgate").unwrap();
        ready.send(()).unwrap();
        while let Ok(message) = channel.get_message() {
            if say.send(message.get_payload().unwrap()).is_err() {
                return;
            }
        }
    });
    is_ready.recv().unwrap();
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_is_a_digest_and_no_key() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let process = Process::new(&folder.path().join("keys.json"), &server).await;
    process.is_connected().await;
    let said = published(&server);
    let (key, record) = process.ring.create("ann", NewKey::default()).await.unwrap();
    process.ring.delete("ann", &record.id).await.unwrap();
    let digest = KeyDigest::of(key.expose());
    let hex: String = digest
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for _ in ["made", "deleted"] {
        assert_eq!(said.recv_timeout(SOON).unwrap(), format!("k{hex}"));
    }
    process
        .news
        .changed(&Change::User(UserId::new("ann").unwrap()));
    assert_eq!(said.recv_timeout(SOON).unwrap(), "uann");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_can_wait_is_everything_and_it_ends_with_the_last_who_cares() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let news = RedisInvalidations::builder(server.url()).build().unwrap();
    soon(async || news.is_connected()).await;
    server.kill();
    soon(async || !news.is_connected()).await;
    for number in 0..10_001 {
        let user = UserId::new(&format!("user-{number}")).unwrap();
        news.changed(&Change::User(user));
    }
    server.restart();
    let said = published(&server);
    // It may have been told before anybody listened; then what comes next is told as it is.
    soon(async || news.is_connected()).await;
    news.changed(&Change::User(UserId::new("last").unwrap()));
    let told: Vec<_> = std::iter::from_fn(|| said.recv_timeout(SOON).ok())
        .take_while(|told| told != "ulast")
        .collect();
    assert!(told.is_empty() || told == ["*"], "{told:?}");

    let connections = || {
        let mut connection = redis::Client::open(server.url())
            .unwrap()
            .get_connection()
            .unwrap();
        let list: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query(&mut connection)
            .unwrap();
        list.lines().filter(|line| line.contains("resp=3")).count()
    };
    assert_eq!(connections(), 1);
    drop(news);
    soon(async || connections() == 0).await;
}

#[test]
fn what_is_no_address_or_has_no_runtime_is_refused() {
    for url in ["no address", "redis://127.0.0.1/"] {
        let refused = RedisInvalidations::builder(url).build().unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Refused);
    }
}

/// Follows by itself whoever it is subscribed to.
#[tokio::test]
async fn a_newcomer_is_told_to_forget_everything() {
    let news = RedisInvalidations::builder("redis://127.0.0.1:1/")
        .build()
        .unwrap();
    let heard = Arc::new(Heard::default());
    let weak: Weak<Heard> = Arc::downgrade(&heard);
    news.subscribe(weak);
    assert_eq!(*heard.0.lock().unwrap(), [Change::Everything]);
}

//! How far keys hold: crowds, floods, a store that hangs, and secrets in the wrong places.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "it is a test"
)]

#[path = "key_reach/dying.rs"]
mod dying;
#[path = "support/log.rs"]
mod log;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tollgate::{
    ApiKeyLayer, AuditLayer, DenialFormat,
    audit::{AuditEvent, AuditSink},
    clock::{Clock, ManualClock, SystemClock, Timestamp},
    key::{KeyDigest, KeyFormat, KeyRecord, KeyUpdate},
    keyring::{KeyRefusal, KeyResolver, Keyring, KeyringError, NewKey, Resolution},
    store::{BudgetId, KeyId, KeyLookup, MemoryStore, SqliteStore, StoreFuture},
};
use tower::{Layer, ServiceExt, service_fn};

use dying::Dying;
use log::Log;

/// Has every key that it is asked for, once somebody opens the door.
#[derive(Clone, Debug)]
struct SlowStore {
    door: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
}

impl SlowStore {
    fn closed() -> Self {
        Self {
            door: Arc::new(Semaphore::new(0)),
            asked: Arc::default(),
        }
    }

    fn open(&self) {
        self.door.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl KeyLookup for SlowStore {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (door, digest) = (Arc::clone(&self.door), *digest);
        StoreFuture::new(async move {
            let _through = door.acquire().await.unwrap();
            Ok(Some(record(digest)))
        })
    }
}

/// Has no key at all, and takes a while to say so.
#[derive(Clone, Copy, Debug)]
struct EmptyStore;

impl KeyLookup for EmptyStore {
    fn find(&self, _: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        StoreFuture::new(async {
            tokio::task::yield_now().await;
            Ok(None)
        })
    }
}

fn record(digest: KeyDigest) -> KeyRecord {
    let (id, lineage) = (
        KeyId::new("key-1").unwrap(),
        BudgetId::new("key-1").unwrap(),
    );
    KeyRecord::new(id, lineage, digest, "ann", ManualClock::default().now())
}

async fn resolve(keys: &KeyResolver, key: &str) -> Result<String, KeyRefusal> {
    let found = match keys.resolve(key) {
        Resolution::Ready(found) => found,
        Resolution::Pending(found) => found.await,
    };
    found.map(|key| key.principal().subject().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_with_one_cold_key_ask_the_store_once_though_the_first_hang_up() {
    let store = SlowStore::closed();
    let keys = KeyResolver::builder(store.clone()).build();
    let ask = |keys: &KeyResolver| {
        let keys = keys.clone();
        tokio::spawn(async move { resolve(&keys, "one-cold-key").await.unwrap() })
    };
    let first = ask(&keys);
    while store.asked() == 0 {
        tokio::task::yield_now().await;
    }
    let crowd: Vec<_> = (0..1_000).map(|_| ask(&keys)).collect();
    while keys.statistics().misses < 1_001 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    store.open();
    for caller in crowd {
        assert_eq!(caller.await.unwrap(), "ann");
    }
    assert!(
        store.asked() <= 2,
        "the one that hung up, and the one who went on for all: {}",
        store.asked()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_with_one_cold_key_ask_the_store_once() {
    let store = SlowStore::closed();
    let keys = KeyResolver::builder(store.clone()).build();
    let ask = |keys: KeyResolver| {
        tokio::spawn(async move { resolve(&keys, "one-cold-key").await.unwrap() })
    };
    let crowd: Vec<_> = (0..1_000).map(|_| ask(keys.clone())).collect();
    while keys.statistics().misses < 1_000 {
        tokio::task::yield_now().await;
    }
    store.open();
    for caller in crowd {
        caller.await.unwrap();
    }
    assert_eq!((store.asked(), keys.statistics().loads), (1, 1));
}

#[tokio::test]
async fn a_million_garbage_keys_with_a_checksum_cost_no_look_up() {
    let store = SlowStore::closed();
    let format = KeyFormat::live_and_test("ps").unwrap();
    let keys = KeyResolver::builder(store.clone())
        .add_format(format)
        .build();
    for number in 0..1_000_000_u32 {
        let garbage = format!("ps_live_{number:032}");
        let Resolution::Ready(Err(KeyRefusal::Malformed)) = keys.resolve(&garbage) else {
            panic!("{garbage}: one in two thousand million would do")
        };
    }
    assert_eq!((store.asked(), keys.statistics().misses), (0, 0));
}

#[tokio::test]
async fn garbage_without_a_checksum_is_bounded_in_memory_and_in_look_ups() {
    let clock = Arc::new(ManualClock::default());
    let keys = KeyResolver::builder(EmptyStore)
        .with_clock(clock.clone())
        .negative_capacity(1_000)
        .unknown_keys_per_second(500)
        .build();
    for number in 0..100_000 {
        match resolve(&keys, &format!("garbage-{number}")).await {
            Err(KeyRefusal::Unknown | KeyRefusal::Store(_)) => {}
            other => panic!("{other:?}"),
        }
        if number % 10_000 == 9_999 {
            clock.advance(Duration::from_secs(1));
        }
    }
    let statistics = keys.statistics();
    assert_eq!(statistics.loads, 10 * 500);
    assert!(statistics.negative_entries <= 1_000, "{statistics:?}");
}

#[tokio::test(start_paused = true)]
async fn while_the_store_hangs_warm_keys_go_on_and_others_get_503_in_time() {
    let store = SlowStore::closed();
    let keys = KeyResolver::builder(store.clone())
        .deadline(Duration::from_secs(3))
        .build();
    let hello = service_fn(async |_| Ok::<_, Infallible>(http::Response::new("hello".to_owned())));
    let service = ApiKeyLayer::new(keys.clone()).layer(hello);
    let ask = |key: &str| {
        let request = http::Request::builder()
            .header("x-api-key", key)
            .body(())
            .unwrap();
        service.clone().oneshot(request)
    };
    store.open();
    assert_eq!(ask("warm-key").await.unwrap().status(), 200);
    store.door.forget_permits(Semaphore::MAX_PERMITS);
    let began = tokio::time::Instant::now();
    assert_eq!(ask("cold-key").await.unwrap().status(), 503);
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(ask("warm-key").await.unwrap().status(), 200);
    assert_eq!(began.elapsed().as_secs(), 3, "at once");
    store.open();
    assert_eq!(
        ask("cold-key").await.unwrap().status(),
        200,
        "a failure is not remembered"
    );
}

#[tokio::test]
async fn what_was_used_last_is_in_memory_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(folder.path().join("keys.db"))
        .await
        .unwrap();
    warms_up(sqlite.clone(), || sqlite.flush_keys()).await;
}

trait FlushKeys {
    fn flush_keys(&self) -> impl Future<Output = ()>;
}

impl FlushKeys for SqliteStore {
    async fn flush_keys(&self) {
        tollgate::store::Ledger::flush(self).await.unwrap();
    }
}

async fn warms_up<F: Future<Output = ()>>(
    store: impl tollgate::store::KeyStore + Clone,
    flush: impl Fn() -> F,
) {
    let format = KeyFormat::builder("acme").build().unwrap();
    let build = || {
        KeyResolver::builder(store.clone())
            .add_format(format.clone())
            .build()
    };
    let ring = Keyring::new(store.clone(), format.clone(), build());
    let mut keys = Vec::new();
    for _ in 0..10 {
        keys.push(ring.create("ann", NewKey::default()).await.unwrap());
    }
    ring.revoke("ann", &keys[0].1.id).await.unwrap();
    for (_, record) in &keys[..5] {
        store.touch(&record.id, "2030-01-01T00:00:00Z".parse().unwrap());
    }
    flush().await;
    let started = build();
    assert_eq!(started.warm_up(4).await.unwrap(), 4);
    for (place, (key, _)) in keys.iter().enumerate() {
        let warm = matches!(started.resolve(key.expose()), Resolution::Ready(Ok(_)));
        assert_eq!(warm, (1..5).contains(&place), "{place}");
    }
}

#[tokio::test]
async fn no_clear_key_is_in_the_database_the_logs_or_any_debug() {
    let (log, _logged) = Log::begin_at(tracing::Level::TRACE);
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("keys.db"))
        .await
        .unwrap();
    let format = KeyFormat::builder("acme").build().unwrap();
    let keys = KeyResolver::builder(store.clone())
        .add_format(format.clone())
        .build();
    let ring = Keyring::new(store.clone(), format.clone(), keys.clone());
    let (old, record) = ring.create("ann", NewKey::default()).await.unwrap();
    let (key, _) = ring
        .rotate("ann", &record.id, Duration::from_secs(60))
        .await
        .unwrap();
    let (revoked, ended) = ring.create("ann", NewKey::default()).await.unwrap();
    ring.revoke("ann", &ended.id).await.unwrap();
    let never = format.generate(None).unwrap();

    let mut said = String::new();
    let layer = ApiKeyLayer::new(keys.clone()).denials(DenialFormat::Problem);
    for key in [&old, &key, &revoked, &never] {
        let whoami = service_fn(async |request: http::Request<()>| {
            let principal = request.extensions().get::<tollgate::Principal>().unwrap();
            Ok::<_, Infallible>(http::Response::new(format!("{principal:?}")))
        });
        let request =
            http::Request::builder().header("authorization", format!("Bearer {}", key.expose()));
        let answer = layer
            .layer(whoami)
            .oneshot(request.body(()).unwrap())
            .await
            .unwrap();
        said.push_str(&format!(
            "{:?} {:?}",
            answer.headers(),
            answer.extensions().get::<tollgate::denial::Denial>()
        ));
        let body = http_body_util::BodyExt::collect(answer.into_body())
            .await
            .unwrap();
        said.push_str(&String::from_utf8_lossy(&body.to_bytes()));
        said.push_str(&format!(
            "{key:?} {:?} {:?}",
            resolve(&keys, key.expose()).await,
            keys.resolve(key.expose())
        ));
    }
    said.push_str(&format!("{ring:?} {keys:?} {layer:?} {store:?} {record:?}"));
    store.close().await.unwrap();
    let mut haystacks = vec![
        ("log", log.text().into_bytes()),
        ("said", said.into_bytes()),
    ];
    for file in std::fs::read_dir(folder.path()).unwrap() {
        haystacks.push(("file", std::fs::read(file.unwrap().path()).unwrap()));
    }
    assert!(haystacks.len() >= 3 && haystacks.iter().all(|(_, bytes)| !bytes.is_empty()));
    for key in [&old, &key, &revoked, &never] {
        // All of it but what a preview shows.
        let secret = key
            .expose()
            .as_bytes()
            .get(9..key.expose().len() - 4)
            .unwrap();
        for (place, bytes) in &haystacks {
            let found = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "in the {place}");
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<AuditEvent>>>);

impl AuditSink for Told {
    fn record(&self, event: AuditEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Told {
    /// Whether it was done, what, and to whom.
    fn lines(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.0.lock().unwrap());
        let line = |event: &AuditEvent| {
            let target = event.target.as_deref().unwrap();
            format!("{} {} {target}", event.action, event.outcome.as_str())
        };
        events.iter().map(line).collect()
    }
}

/// Does something within a request; what the audit log has of it.
async fn told_of<F: Future<Output = ()> + Send + 'static>(
    act: impl Fn() -> F + Clone + Send + 'static,
) -> Vec<String> {
    let told = Told::default();
    let handler = service_fn(move |_: http::Request<()>| {
        let act = act.clone();
        async move {
            act().await;
            Ok::<_, Infallible>(http::Response::new(String::new()))
        }
    });
    let service = AuditLayer::new(told.clone()).layer(handler);
    service.oneshot(http::Request::new(())).await.unwrap();
    told.lines()
}

#[tokio::test]
async fn a_change_that_the_store_dies_of_is_in_the_audit_log() {
    let (store, format) = (
        MemoryStore::new(),
        KeyFormat::builder("acme").build().unwrap(),
    );
    let keys = KeyResolver::builder(store.clone()).build();
    let ring = Keyring::new(Dying(store), format, keys);
    let (_, record) = ring.create("ann", NewKey::default()).await.unwrap();
    let id = record.id.clone();
    let told = told_of(move || {
        let (ring, id) = (ring.clone(), id.clone());
        async move { assert!(ring.revoke("ann", &id).await.is_err()) }
    });
    assert_eq!(told.await, [format!("key.revoke failed {}", record.id)]);
}

#[tokio::test]
async fn a_key_that_ends_is_told_as_ended_whichever_way_it_does() {
    let (store, format) = (
        MemoryStore::new(),
        KeyFormat::builder("acme").build().unwrap(),
    );
    let keys = KeyResolver::builder(store.clone()).build();
    let ring = Keyring::new(store, format, keys.clone());
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(ring.create("ann", NewKey::default()).await.unwrap());
    }
    let (bobs, _) = ring.create("bob", NewKey::default()).await.unwrap();
    let ids: Vec<_> = made.iter().map(|(_, key)| key.id.clone()).collect();
    let mut later = KeyUpdate::default();
    later.revoked_at = Some(Timestamp::MAX);
    let refused = ring.update("ann", &ids[0], later).await;
    assert!(
        matches!(refused, Err(KeyringError::Invalid(_))),
        "{refused:?}"
    );
    for (key, _) in &made {
        assert!(resolve(&keys, key.expose()).await.is_ok());
    }
    let (by_update, first) = (ring.clone(), ids[0].clone());
    let told = told_of(move || {
        let (ring, id) = (by_update.clone(), first.clone());
        let mut now = KeyUpdate::default();
        now.revoked_at = Some(SystemClock.now());
        async move { drop(ring.update("ann", &id, now).await.unwrap()) }
    });
    assert_eq!(told.await, [format!("key.revoke success {}", ids[0])]);
    let told = told_of(move || {
        let ring = ring.clone();
        async move { assert_eq!(ring.revoke_all("ann").await.unwrap().len(), 2) }
    });
    let mut told = told.await;
    told.sort_unstable();
    let mut expected: Vec<_> = ["ann", ids[1].as_str(), ids[2].as_str()]
        .map(|target| format!("key.revoke success {target}"))
        .into();
    expected.sort_unstable();
    assert_eq!(told, expected, "the call, and each key");
    for (key, _) in &made {
        let refused = resolve(&keys, key.expose()).await;
        assert!(matches!(refused, Err(KeyRefusal::Revoked { .. })));
    }
    assert!(resolve(&keys, bobs.expose()).await.is_ok());
}

#[tokio::test]
async fn what_is_disabled_and_enabled_is_told_as_such() {
    let (store, format) = (
        MemoryStore::new(),
        KeyFormat::builder("acme").build().unwrap(),
    );
    let keys = KeyResolver::builder(store.clone()).build();
    let ring = Keyring::new(store, format, keys);
    let (_, record) = ring.create("ann", NewKey::default()).await.unwrap();
    let id = record.id.clone();
    let told = told_of(move || {
        let (ring, id) = (ring.clone(), id.clone());
        async move {
            ring.disable("ann", &id).await.unwrap();
            ring.enable("ann", &id).await.unwrap();
        }
    });
    let expected = ["disable", "enable"].map(|act| format!("key.{act} success {}", record.id));
    assert_eq!(told.await, expected);
}

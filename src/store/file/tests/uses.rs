//! When a key was last used, as the file tells it.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

async fn last_use(store: &FileKeyStore, name: &str) -> Option<Timestamp> {
    let found = store.get("ann", &key(name).id).await.unwrap().unwrap();
    let listed = store.list("ann", Page::first(9)).await.unwrap().items;
    assert!(listed.contains(&found), "{listed:?}");
    found.last_used_at
}

#[tokio::test(start_paused = true)]
async fn a_use_is_told_at_once_and_written_within_a_minute_though_no_other_follows() {
    let bench = Bench::new();
    let store = bench.store();
    for name in ["key-1", "key-2"] {
        store.insert(key(name), None).await.unwrap();
    }
    let used = bench.clock.now();
    store.touch(&key("key-1").id, used);
    assert_eq!(last_use(&store, "key-1").await, Some(used));
    assert_eq!(last_use(&store, "key-2").await, None);
    assert_eq!(last_use(&bench.store(), "key-1").await, None, "not yet");
    // An older one, told late, changes nothing.
    store.touch(&key("key-1").id, Timestamp::UNIX_EPOCH);
    sleep(MINUTE).await;
    while bench
        .store()
        .0
        .refresh()
        .unwrap()
        .find(&KeyDigest::of("key-1"))
        .unwrap()
        .last_used_at
        != Some(used)
    {
        tokio::task::yield_now().await;
    }
    // And so is the next one, by the next writer.
    while store.0.memory().writer.is_some() {
        tokio::task::yield_now().await;
    }
    bench.clock.advance(MINUTE);
    let again = bench.clock.now();
    store.touch(&key("key-1").id, again);
    sleep(MINUTE).await;
    while !bench.content().contains(&again.to_string()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_writes_uses_is_one_tries_again_and_ends_with_the_store() {
    let bench = Bench::new();
    let store = bench.store();
    store.insert(key("key-1"), None).await.unwrap();
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = alive();
    for second in 0..100 {
        store.touch(
            &key("key-1").id,
            bench.clock.now() + Duration::from_secs(second),
        );
    }
    assert_eq!(alive(), before + 1);
    let good = bench.content();
    fs::write(bench.path(), "{ no JSON").unwrap();
    sleep(MINUTE * 2).await;
    assert_eq!(
        store.0.memory().touched.len(),
        1,
        "nothing is lost meanwhile"
    );
    fs::write(bench.path(), good).unwrap();
    sleep(MINUTE).await;
    while !bench.content().contains("last_used_at") || alive() != before {
        tokio::task::yield_now().await;
    }
    store.touch(&key("key-1").id, bench.clock.now() + MINUTE * 3);
    assert_eq!(alive(), before + 1);
    drop(store);
    while alive() != before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn times_of_last_use_are_written_with_a_change_and_of_keys_of_the_file_only() {
    let bench = Bench::new();
    let store = bench.store();
    store.insert(key("key-1"), None).await.unwrap();
    let used = |text: &str| text.contains("last_used_at");
    store.touch(&key("key-1").id, bench.clock.now());
    assert!(!used(&bench.content()));
    let change = KeyUpdate {
        name: Some("renamed".to_owned()),
        ..KeyUpdate::default()
    };
    let changed = store.update("ann", &key("key-1").id, change, None).await;
    let told = changed.unwrap().unwrap().last_used_at;
    assert_eq!(told, Some(bench.clock.now()));
    assert!(used(&bench.content()));
    assert_eq!(store.0.memory().touched.len(), 0);
    for number in 0..10_000 {
        let strange = KeyId::new(&format!("strange-{number}")).unwrap();
        store.touch(&strange, bench.clock.now());
    }
    assert_eq!(store.0.memory().touched.len(), 0);
}

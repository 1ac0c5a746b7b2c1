mod uses;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;

use super::*;
use crate::domain::{BudgetId, clock::ManualClock};

const TICK: Duration = Duration::from_millis(250);

struct Bench {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("workspaces/api-keys.json")
    }

    /// Opens the file as another process would.
    fn store(&self) -> FileKeyStore {
        FileKeyStore::builder(self.path())
            .with_clock(self.clock.clone())
            .build()
    }

    fn content(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }
}

fn key(name: &str) -> KeyRecord {
    let (id, lineage) = (KeyId::new(name).unwrap(), BudgetId::new(name).unwrap());
    let digest = KeyDigest::of(name);
    KeyRecord::new(id, lineage, digest, "ann", ManualClock::default().now())
}

async fn finds(store: &FileKeyStore, name: &str) -> bool {
    let found = store.find(&KeyDigest::of(name)).await.unwrap();
    found.is_some()
}

#[tokio::test]
async fn a_flush_of_nothing_touches_no_file() {
    let bench = Bench::new();
    let store = bench.store();
    store.flush().await.unwrap();
    assert!(!bench.path().parent().unwrap().exists());
    store.insert(key("key-1"), None).await.unwrap();
    store.touch(&key("key-1").id, bench.clock.now());
    fs::write(bench.path(), "{ no JSON").unwrap();
    assert!(store.flush().await.is_err(), "there is something to write");
    let other = bench.store();
    other.flush().await.unwrap();
}

#[tokio::test]
async fn what_another_process_writes_is_seen_within_the_interval() {
    let bench = Bench::new();
    let (ours, theirs) = (bench.store(), bench.store());
    assert!(!finds(&ours, "key-1").await, "there is no file yet");
    theirs.insert(key("key-1"), None).await.unwrap();
    bench.clock.advance(TICK);
    assert!(finds(&ours, "key-1").await);
    theirs.delete("ann", &key("key-1").id).await.unwrap();
    assert!(finds(&ours, "key-1").await, "from memory");
    bench.clock.advance(TICK);
    assert!(!finds(&ours, "key-1").await);
}

#[tokio::test]
async fn an_edit_in_place_is_seen_and_so_is_one_within_the_same_tick() {
    let bench = Bench::new();
    let store = bench.store();
    for name in ["key-1", "key-2"] {
        store.insert(key(name), None).await.unwrap();
    }
    let text = bench.content();
    for _ in 0..8 {
        bench.clock.advance(TICK);
        assert!(finds(&store, "key-1").await);
    }
    // Same length, and perhaps the same time.
    let hash = |name: &str| {
        let bytes = KeyDigest::of(name);
        let hex = bytes.as_bytes().iter().map(|byte| format!("{byte:02x}"));
        hex.collect::<String>()
    };
    fs::write(bench.path(), text.replace(&hash("key-1"), &hash("key-3"))).unwrap();
    bench.clock.advance(TICK);
    assert!(finds(&store, "key-3").await);
    fs::write(bench.path(), text).unwrap();
    bench.clock.advance(TICK);
    assert!(finds(&store, "key-1").await && !finds(&store, "key-3").await);
}

/// Saves as an editor does: through another file, and without checking our lock.
fn edit(path: &Path, change: impl FnOnce(&str) -> String) {
    let edited = change(&fs::read_to_string(path).unwrap());
    let draft = path.with_extension("swp");
    fs::write(&draft, edited).unwrap();
    fs::rename(draft, path).unwrap();
}

fn without(name: &str) -> impl FnOnce(&str) -> String {
    move |text| {
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        let keys = value["keys"].as_array_mut().unwrap();
        keys.retain(|key| key["id"] != name);
        value.to_string()
    }
}

/// Makes a change while others edit the file that many times, each time between our read and our
/// write.
async fn insert_beside(
    store: &FileKeyStore,
    name: &str,
    edits: usize,
    edit: impl Fn() + Send + Sync + 'static,
) -> Result<(), StoreError> {
    let (made, new) = (AtomicUsize::new(0), key(name));
    let change = store.change(move |document| {
        if made.fetch_add(1, Ordering::Relaxed) < edits {
            edit();
        }
        document.insert(new.clone(), None)
    });
    change.await
}

#[tokio::test]
async fn what_another_program_writes_between_our_reading_and_our_writing_stays() {
    let bench = Bench::new();
    let store = bench.store();
    for name in ["key-1", "key-2", "key-3"] {
        store.insert(key(name), None).await.unwrap();
    }
    // With a use of it that isn't written yet.
    store.touch(&key("key-1").id, bench.clock.now());
    let path = bench.path();
    let removed = move || edit(&path, without("key-1"));
    insert_beside(&store, "key-4", 1, removed).await.unwrap();
    for store in [&store, &bench.store()] {
        assert!(!finds(store, "key-1").await, "it lives again");
        assert!(finds(store, "key-2").await && finds(store, "key-4").await);
    }
    let path = bench.path();
    let deleted = move || fs::remove_file(&path).unwrap();
    insert_beside(&store, "key-5", 1, deleted).await.unwrap();
    for store in [&store, &bench.store()] {
        assert!(!finds(store, "key-2").await, "the file came back");
        assert!(finds(store, "key-5").await);
    }
    let path = bench.path();
    let busy = move || edit(&path, |text| format!("{text} "));
    let refused = insert_beside(&store, "key-6", 1_000, busy).await;
    assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Busy);
    bench.clock.advance(TICK);
    assert!(finds(&store, "key-5").await && !finds(&store, "key-6").await);
    let files = fs::read_dir(bench.path().parent().unwrap()).unwrap();
    assert_eq!(files.count(), 2, "the file and its lock, no drafts");
}

#[tokio::test]
async fn who_is_about_to_change_a_key_sees_what_another_process_has_just_written() {
    let bench = Bench::new();
    let (ours, theirs) = (bench.store(), bench.store());
    assert!(!finds(&ours, "key-1").await);
    theirs.insert(key("key-1"), None).await.unwrap();
    let found = ours.get("ann", &key("key-1").id).await.unwrap();
    assert!(found.is_some());
    theirs.delete("ann", &key("key-1").id).await.unwrap();
    let listed = ours.list("ann", Page::first(9)).await.unwrap();
    assert!(listed.items.is_empty());
}

#[tokio::test]
async fn a_removed_file_has_no_keys_and_the_next_key_makes_it_anew() {
    let bench = Bench::new();
    let store = bench.store();
    store.insert(key("key-1"), None).await.unwrap();
    assert!(finds(&store, "key-1").await);
    fs::remove_file(bench.path()).unwrap();
    bench.clock.advance(TICK);
    assert!(!finds(&store, "key-1").await);
    store.insert(key("key-2"), None).await.unwrap();
    assert!(finds(&store, "key-2").await && !finds(&store, "key-1").await);
}

#[tokio::test]
async fn what_cannot_be_read_is_a_failure_and_is_left_alone() {
    let bench = Bench::new();
    let store = bench.store();
    store.insert(key("key-1"), None).await.unwrap();
    let good = bench.content();
    let twice = good.replace("\"keys\": [", &format!("\"keys\": [{},", entry(&good)));
    for bad in [
        &good[..good.len() / 2],
        "",
        " \n",
        "[]",
        "{\"version\":2}",
        "{\"version\":1,\"keys\":[{\"id\":\"a\",\"hash\":\"secret\",\"owner\":\"o\"}]}",
        &twice,
    ] {
        fs::write(bench.path(), bad).unwrap();
        bench.clock.advance(TICK);
        let refused = store.find(&KeyDigest::of("key-1")).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Unavailable, "{bad}");
        assert!(!refused.to_string().contains("secret"));
        assert!(store.insert(key("key-2"), None).await.is_err());
        assert_eq!(bench.content(), bad);
    }
    fs::write(bench.path(), &good).unwrap();
    bench.clock.advance(TICK);
    assert!(finds(&store, "key-1").await);
    fs::remove_file(bench.path()).unwrap();
    bench.clock.advance(TICK);
    assert!(
        !finds(&store, "key-1").await,
        "where there is no file there are no keys"
    );
}

fn entry(json: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    value["keys"][0].to_string()
}

#[tokio::test]
async fn keys_written_by_hand_are_taken_and_strange_members_kept() {
    let bench = Bench::new();
    let (hash, store) = (entry_hash("old-key"), bench.store());
    fs::create_dir_all(bench.path().parent().unwrap()).unwrap();
    let by_hand = format!(
        r#"{{"version":1,"theme":"dark","keys":[{{"id":"a","hash":"{hash}","owner":"ann","color":"red"}}]}}"#
    );
    fs::write(bench.path(), by_hand).unwrap();
    let found = store
        .find(&KeyDigest::of("old-key"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((found.owner.as_str(), found.lineage.as_str()), ("ann", "a"));
    store.insert(key("key-1"), None).await.unwrap();
    let value: serde_json::Value = serde_json::from_str(&bench.content()).unwrap();
    assert_eq!(
        (&value["theme"], &value["keys"][0]["color"]),
        (&"dark".into(), &"red".into())
    );
    let listed = store.list("ann", Page::first(9)).await.unwrap();
    let names: Vec<_> = listed.items.iter().map(|key| key.id.as_str()).collect();
    assert_eq!(names, ["key-1", "a"]);
}

fn entry_hash(key: &str) -> String {
    let hex = KeyDigest::of(key)
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    format!("sha256:{hex}")
}

#[tokio::test]
async fn a_key_that_finds_no_room_is_refused_and_the_file_stays_readable() {
    let bench = Bench::new();
    let store = bench.store();
    store.insert(key("key-1"), None).await.unwrap();
    let last = (u64::MAX >> 1).to_string();
    edit(&bench.path(), |json| {
        json.replace("\"position\": 1", &format!("\"position\": {last}"))
    });
    assert!(bench.content().contains(&last));
    bench.clock.advance(TICK);
    let refused = store.insert(key("key-2"), None).await.unwrap_err();
    assert!(refused.to_string().contains("leaves no room"));
    let other = bench.store();
    assert!(finds(&other, "key-1").await && !finds(&other, "key-2").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_changes_from_four_processes_are_all_kept() {
    let bench = Bench::new();
    let stores: Vec<_> = (0..4).map(|_| bench.store()).collect();
    let changes = (0..100).map(|number| {
        let store = stores[number % 4].clone();
        tokio::spawn(async move {
            // Taking the lock fails after a second; under load, retry as a client would.
            for _ in 0..50 {
                match store.insert(key(&format!("key-{number}")), None).await {
                    Err(error) if error.kind() == StoreErrorKind::Busy => {}
                    outcome => return outcome.unwrap(),
                }
            }
            panic!("never its turn");
        })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.unwrap();
    }
    bench.clock.advance(TICK);
    for store in stores {
        let listed = store.list("ann", Page::first(1_000)).await.unwrap();
        assert_eq!(listed.items.len(), 100);
    }
    let files: Vec<_> = fs::read_dir(bench.path().parent().unwrap())
        .unwrap()
        .collect();
    assert_eq!(files.len(), 2, "the file and its lock, no drafts");
}

#[cfg(unix)]
#[tokio::test]
async fn others_may_not_read_it_and_a_link_stays_one() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let bench = Bench::new();
    let real = bench.folder.path().join("real.json");
    fs::write(&real, "{\"version\":1}").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir_all(bench.path().parent().unwrap()).unwrap();
    symlink(&real, bench.path()).unwrap();
    bench.store().insert(key("key-1"), None).await.unwrap();
    assert!(fs::symlink_metadata(bench.path()).unwrap().is_symlink());
    let mode = fs::metadata(&real).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let locked = bench.folder.path().join("real.json.lock");
    assert!(locked.exists(), "whoever comes by another link waits too");
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_to_a_file_that_is_not_there_yet_stays_one() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path().parent().unwrap()).unwrap();
    let near = bench.folder.path().join("near.json");
    std::os::unix::fs::symlink("deeper/real.json", &near).unwrap();
    std::os::unix::fs::symlink(&near, bench.path()).unwrap();
    bench.store().insert(key("key-1"), None).await.unwrap();
    for link in [&near, &bench.path()] {
        assert!(fs::symlink_metadata(link).unwrap().is_symlink());
    }
    let folder = bench.folder.path().join("deeper");
    assert!(folder.join("real.json").is_file() && folder.join("real.json.lock").exists());
    bench.store().insert(key("key-2"), None).await.unwrap();
    assert_eq!(
        bench
            .store()
            .list("ann", Page::first(9))
            .await
            .unwrap()
            .items
            .len(),
        2
    );
}

/// Only drafts of this very file; whatever else is there may be somebody's.
#[tokio::test]
async fn what_a_process_that_died_was_writing_is_removed_by_the_next() {
    let bench = Bench::new();
    bench.store().insert(key("a"), None).await.unwrap();
    let folder = bench.path().parent().unwrap().to_owned();
    let hex = "0123456789abcdef".repeat(2);
    let drafts = [
        format!(".api-keys.json.{hex}.draft"),
        format!(".api-keys.json.{}.draft", "f".repeat(32)),
    ];
    let others = [
        format!(".other-keys.json.{hex}.draft"),
        format!("api-keys.json.{hex}.draft"),
        format!(".api-keys.json.{hex}"),
        format!(".api-keys.json.{hex}0.draft"),
        format!(".api-keys.json.{}.draft", hex.to_uppercase()),
        format!(".api-keys.json.{}.draft", "g".repeat(32)),
        ".api-keys.json..draft".to_owned(),
        "notes".to_owned(),
    ];
    for name in drafts.iter().chain(&others) {
        fs::write(folder.join(name), "{").unwrap();
    }
    let place = folder.join(format!(".api-keys.json.{}.draft", "0".repeat(32)));
    fs::create_dir(&place).unwrap();

    let next = bench.store();
    assert!(finds(&next, "a").await);
    assert!(folder.join(&drafts[0]).exists(), "reading changes nothing");
    next.insert(key("b"), None).await.unwrap();
    for name in &drafts {
        assert!(!folder.join(name).exists(), "{name}");
    }
    for name in &others {
        assert!(folder.join(name).exists(), "{name}");
    }
    assert!(place.exists());
    assert!(finds(&next, "a").await && finds(&next, "b").await);
}

#[tokio::test]
async fn a_key_that_is_disabled_looks_revoked_to_who_does_not_know_the_difference() {
    let bench = Bench::new();
    let store = bench.store();
    let at = bench.clock.now();
    let mut disabled = key("key-1");
    disabled.disabled_at = Some(at);
    store.insert(disabled.clone(), None).await.unwrap();
    let content = bench.content();
    assert!(content.contains("\"revoked_at\": ") && content.contains("\"disabled\": true"));
    assert_eq!(
        bench.store().get("ann", &disabled.id).await.unwrap(),
        Some(disabled.clone())
    );
    // By hand, without a moment.
    let hand = KeyDigest::of("key-2")
        .as_bytes()
        .map(|byte| format!("{byte:02x}"))
        .concat();
    edit(&bench.path(), |content| {
        let entry =
            format!(r#"{{"id":"key-2","hash":"sha256:{hand}","owner":"ann","disabled":true}},"#);
        content.replacen("\"keys\": [", &format!("\"keys\": [{entry}"), 1)
    });
    let found = bench.store().find(&KeyDigest::of("key-2")).await.unwrap();
    assert!(!found.unwrap().is_active(at));
}

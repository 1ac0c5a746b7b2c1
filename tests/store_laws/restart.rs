//! What the file keeps, what is refused, and how it ends.

use std::{path::Path, time::Duration};

use rusqlite::Connection;
use tollgate::{
    audit::AuditFilter,
    key::{KeyDigest, KeyRecord},
    store::{
        AuditLog, BudgetId, KeyId, KeyLookup, KeyStore, Ledger, Page, SessionStore, SqliteStore,
        StoreErrorKind, UserStore,
    },
    usage::Credit,
};

use crate::{
    engines::{
        Time, account, balances, budget, call, costs, hold, kind, later, nanos, now, pay, request,
        sqlite, usage,
    },
    people::{user, user_id},
    rolling::rolling,
    sessions::{of_two_processes_one_exchanges_a_refresh_token, session, session_id},
};

async fn open(folder: &Path) -> SqliteStore {
    sqlite(folder).await.0
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (ann, key) = (account("ann"), budget("key-1"));
    let record = KeyRecord::new(
        KeyId::new("key-1").unwrap(),
        BudgetId::new("key-1").unwrap(),
        KeyDigest::of("ps_live_secret"),
        "ann",
        now(),
    );
    for round in 0..3 {
        let store = open(folder.path()).await;
        if round == 0 {
            store.insert(record.clone(), None).await.unwrap();
            store.insert_user(user("ann")).await.unwrap();
            store
                .open_session(session("s1", "ann"), Some(0), 1_000)
                .await
                .unwrap();
            pay(&store, &ann, 100).await;
            let held = hold(&store, &ann, &[key.clone()], 10).await.unwrap();
            // Neither is awaited: what was queued is written before the end.
            drop(store.settle(held, costs(7)));
            store.touch(&record.id, later(3));
        }
        // The first ends by being dropped, the second by being closed.
        if round == 0 {
            drop(store);
            continue;
        }
        balances(&store, &ann, 100, 0).await;
        if round == 2 {
            let mut touched = record.clone();
            touched.last_used_at = Some(later(3));
            assert_eq!(store.find(&record.digest).await.unwrap(), Some(touched));
            assert_eq!(
                store.user(&user_id("ann")).await.unwrap(),
                Some(user("ann"))
            );
            let login = store.session(&session_id("s1")).await.unwrap();
            assert_eq!(login, Some(session("s1", "ann")));
            let spent = store.budget(&ann, &key).await.unwrap();
            assert_eq!((spent.day.settled, spent.day.held), (nanos(7), nanos(0)));
        }
        store.close().await.unwrap();
    }
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["tollgate.db"], "no write-ahead log is left behind");
}

#[tokio::test]
async fn a_file_from_before_windows_rolled_is_opened_and_they_outlive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (ann, key) = (account("ann"), [budget("key-1")]);
    let store = open(folder.path()).await;
    pay(&store, &ann, 100).await;
    let gift = Credit {
        account: ann.clone(),
        amount: nanos(7),
        reference: "gift".to_owned(),
    };
    let given = store.credit(gift.clone()).await.unwrap();
    let held = hold(&store, &ann, &key, 30).await.unwrap();
    store.settle(held, costs(30)).await.unwrap();
    store.close().await.unwrap();
    let file = Connection::open(folder.path().join("tollgate.db")).unwrap();
    // No hold is open, so of their old table the names are enough.
    let before = "DROP TABLE bundle; DROP TABLE bundled; ALTER TABLE log DROP COLUMN next_hold;
        CREATE TABLE hold (instance, number, ends, account, amount, charges, key, principal, idempotency_key, day, month,
            started_at, budgets, request_id, route);
        ALTER TABLE budget DROP COLUMN rolling; ALTER TABLE budget DROP COLUMN thresholds;
        ALTER TABLE usage DROP COLUMN cached_tokens; ALTER TABLE usage DROP COLUMN cache_write_tokens;
        ALTER TABLE usage DROP COLUMN usage_is_missing; ALTER TABLE usage DROP COLUMN details;
        DROP INDEX audit_by_time; DROP INDEX audit_by_share; DROP INDEX audit_by_actor; DROP INDEX audit_by_action;
        ALTER TABLE audit DROP COLUMN share;
        ALTER TABLE audit ADD COLUMN stranger INTEGER NOT NULL DEFAULT 0;
        CREATE INDEX audit_by_ordinal ON audit (stranger, ordinal);
        INSERT INTO audit (at, actor, action, outcome, stranger, ordinal) VALUES (4102444800000000, 'ann', 'key.create', 'success', 0, 1);
        INSERT INTO audit (at, action, outcome, stranger, ordinal) VALUES (4102444800000000, 'authenticate', 'refused', 1, 1);
        DROP TABLE abandoned; ALTER TABLE api_key DROP COLUMN is_disabled;
        DROP INDEX credit_by_call; ALTER TABLE credit DROP COLUMN refunded; ALTER TABLE credit DROP COLUMN request_id;
        ALTER TABLE credit DROP COLUMN budgets;
        PRAGMA user_version = 8";
    file.execute_batch(before).unwrap();
    drop(file);

    let store = open(folder.path()).await;
    let entries = store.entries(AuditFilter::default(), Page::first(9));
    assert_eq!(entries.await.unwrap().items.len(), 2);
    // A payment from before references stood for budgets.
    assert_eq!(store.credit(gift).await.unwrap().deposited, given.deposited);
    let found = store.budget(&ann, &key[0]).await.unwrap();
    assert_eq!((found.day.settled, &found.rolling), (nanos(30), &None));
    let limits = rolling(86_400, 50);
    store
        .set_limits(&ann, &key[0], limits.clone())
        .await
        .unwrap();
    let held = hold(&store, &ann, &key, 15).await.unwrap();
    store.settle(held, costs(15)).await.unwrap();
    let kept = store.budget(&ann, &key[0]).await.unwrap();
    store.close().await.unwrap();

    let store = open(folder.path()).await;
    let found = store.budget(&ann, &key[0]).await.unwrap();
    assert_eq!((&found, &found.limits), (&kept, &limits));
    assert_eq!(found.rolling.unwrap().settled(), nanos(45));
    assert!(hold(&store, &ann, &key, 6).await.is_err());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_process_that_knows_of_no_disabled_keys_refuses_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let (id, lineage) = (KeyId::new("key-1"), BudgetId::new("key-1"));
    let digest = KeyDigest::of("ps_live_secret");
    let mut record = KeyRecord::new(id.unwrap(), lineage.unwrap(), digest, "ann", now());
    record.disabled_at = Some(later(1));
    store.insert(record, None).await.unwrap();
    let file = Connection::open(folder.path().join("tollgate.db")).unwrap();
    // What such a process reads.
    let read = "SELECT revoked_at FROM api_key WHERE id = 'key-1'";
    let ended: Option<i64> = file.query_row(read, [], |row| row.get(0)).unwrap();
    assert_eq!(ended, Some(later(1).as_microsecond()));
}

#[tokio::test]
async fn no_clear_secret_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let secret = "ps_live_canary0123456789";
    let record = KeyRecord::new(
        KeyId::new("key-1").unwrap(),
        BudgetId::new("key-1").unwrap(),
        KeyDigest::of(secret),
        "ann",
        now(),
    );
    store.insert(record, None).await.unwrap();
    store.close().await.unwrap();
    let bytes = std::fs::read(folder.path().join("tollgate.db")).unwrap();
    let found = bytes.windows(6).any(|window| window == b"canary");
    assert!(!found);
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let other = store.clone();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[], 10).await.unwrap();
    store.close().await.unwrap();
    let unavailable = StoreErrorKind::Unavailable;
    assert_eq!(kind(other.hold(request(&ann, &[], 1)).await), unavailable);
    assert_eq!(kind(other.settle(held, costs(1)).await), unavailable);
    assert_eq!(kind(other.balance(&ann).await), unavailable);
    assert_eq!(kind(other.flush().await), unavailable);
    drop(other);
    let again = open(folder.path()).await;
    balances(&again, &ann, 100, 0).await;
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_this_user_s_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a/b");
    let store = open(&deep).await;
    pay(&store, &account("ann"), 1).await;
    for name in ["tollgate.db", "tollgate.db-wal", "tollgate.db-shm"] {
        let mode = std::fs::metadata(deep.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let mode = std::fs::metadata(&deep).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let text = "no database at all, ".repeat(100);
    std::fs::write(&path, &text).unwrap();
    let error = SqliteStore::open(&path).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Internal);
    assert!(error.to_string().contains("not a database"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

    let newer = folder.path().join("newer.db");
    let connection = Connection::open(&newer).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = SqliteStore::open(&newer).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Internal);
    assert!(error.to_string().contains("newer"), "{error}");
}

#[tokio::test]
async fn where_nothing_can_be_written_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [folder.path().to_owned(), file.join("below/a/file.db")] {
        let error = SqliteStore::open(&path).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        let named = error.to_string().contains(&path.display().to_string());
        assert!(named, "{error}");
    }
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    for _ in 0..50 {
        drop(store.hold(request(&ann, &[], 1)));
    }
    store.flush().await.unwrap();
    store.flush().await.unwrap();
    balances(&store, &ann, 100, 0).await;
    let all = hold(&store, &ann, &[], 100).await.unwrap();
    store.settle(all, costs(0)).await.unwrap();
}

#[tokio::test]
async fn open_holds_have_a_bound_and_settlements_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::builder(folder.path().join("tollgate.db"))
        .with_clock(Time::default())
        .open_holds_max(2)
        .open()
        .await
        .unwrap();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    assert!(
        hold(&store, &ann, &[], 101).await.is_err(),
        "takes no place"
    );
    for _ in 0..3 {
        let first = hold(&store, &ann, &[], 1).await.unwrap();
        let second = hold(&store, &ann, &[], 1).await.unwrap();
        let third = store.hold(request(&ann, &[], 1)).await;
        assert_eq!(kind(third), StoreErrorKind::Busy);
        store.settle(first, costs(1)).await.unwrap();
        store.settle(second, costs(1)).await.unwrap();
    }
    balances(&store, &ann, 100, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_locked_file_calls_end_and_settlements_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.db");
    let store = SqliteStore::builder(&path)
        .with_clock(Time::default())
        .queue_max(4)
        .deadline(Duration::from_millis(100))
        .open()
        .await
        .unwrap();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    let held = hold(&store, &ann, &[], 10).await.unwrap();
    let stays = hold(&store, &ann, &[], 0).await.unwrap();
    let blocker = Connection::open(&path).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let unavailable = StoreErrorKind::Unavailable;
    assert_eq!(kind(store.settle(held, costs(10)).await), unavailable);
    let mut waiting: Vec<_> = (0..20).map(|_| store.hold(request(&ann, &[], 1))).collect();
    let last = waiting.pop().unwrap();
    assert_eq!(
        kind(last.await),
        StoreErrorKind::Busy,
        "the queue has an end"
    );
    let longer = store.extend(&stays, Duration::from_secs(600)).await;
    assert_eq!(kind(longer), unavailable, "but for what is open already");
    for answer in waiting {
        assert!(answer.await.is_err());
    }
    let read = store.balance(&ann).await.unwrap();
    assert_eq!(read.held, nanos(10), "who reads waits for nobody");
    // Longer than SQLite itself waits for the lock: the whole batch fails, and is tried again.
    tokio::time::sleep(Duration::from_millis(2_300)).await;
    blocker.execute_batch("COMMIT").unwrap();
    // Whoever asks may give up sooner than a busy machine answers; a settlement is written all the
    // same.
    let _ = store.settle(stays, costs(0)).await;
    for _ in 0..200 {
        let balance = store.balance(&ann).await.unwrap();
        if (balance.settled, balance.held) == (nanos(10), nanos(0)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let balance = store.balance(&ann).await.unwrap();
    assert_eq!((balance.settled, balance.held), (nanos(10), nanos(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_that_waits_for_the_file_outlasts_the_lifetime_of_its_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (store, clock) = sqlite(folder.path()).await;
    let (ann, bob, cat) = (account("ann"), account("bob"), account("cat"));
    pay(&store, &ann, 1_000).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(hold(&store, &ann, &[], 10).await.unwrap());
    }
    pay(&store, &bob, 10).await;
    let left = hold(&store, &bob, &[], 10).await.unwrap();
    pay(&store, &cat, 10).await;
    let goes_on = hold(&store, &cat, &[], 10).await.unwrap();
    let blocker = Connection::open(folder.path().join("tollgate.db")).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    // One alone waits for the lock, the others behind it.
    let mut settled = vec![store.settle(held.pop().unwrap(), costs(10))];
    tokio::time::sleep(Duration::from_millis(200)).await;
    settled.extend(held.into_iter().map(|held| store.settle(held, costs(10))));
    let extended = store.extend(&goes_on, Duration::from_secs(60));
    clock.advance(Duration::from_secs(61));
    blocker.execute_batch("COMMIT").unwrap();
    for settled in settled {
        settled.await.unwrap();
    }
    balances(&store, &ann, 1_000, 0).await;
    assert_eq!(store.balance(&ann).await.unwrap().settled, nanos(1_000));
    assert!(extended.await.unwrap(), "a sign of life is one");
    store.settle(goes_on, costs(10)).await.unwrap();
    assert_eq!(store.balance(&cat).await.unwrap().settled, nanos(10));
    // Of which nothing was heard is overdue all the same.
    balances(&store, &bob, 10, 0).await;
    assert_eq!(store.balance(&bob).await.unwrap().settled, nanos(0));
    drop(left);
}

#[tokio::test]
async fn the_log_is_bounded_by_rows_and_by_age() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Time::default();
    let store = SqliteStore::builder(folder.path().join("tollgate.db"))
        .with_clock(clock.clone())
        .usage_rows_max(5)
        .usage_age_max(Duration::from_secs(60))
        .open()
        .await
        .unwrap();
    let ann = account("ann");
    pay(&store, &ann, 100).await;
    for number in 0..20 {
        let call = call(&ann, &format!("{number}"));
        store.record(call, costs(0)).await.unwrap();
    }
    clock.advance(Duration::from_secs(2));
    store.flush().await.unwrap();
    assert_eq!(usage(&store, &ann).await.len(), 5);
    clock.advance(Duration::from_secs(57));
    store.record(call(&ann, "young"), costs(0)).await.unwrap();
    clock.advance(Duration::from_secs(2));
    store.flush().await.unwrap();
    let left = usage(&store, &ann).await;
    assert_eq!(left.len(), 1);
    assert_eq!(&*left[0].call.request_id, "young");
    let moved = store.transactions(&ann, Page::first(9)).await.unwrap();
    assert_eq!(moved.items.len(), 1, "a payment is kept for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_writers_of_one_file_one_exchanges_a_refresh_token() {
    let folder = tempfile::tempdir().unwrap();
    let stores = [open(folder.path()).await, open(folder.path()).await];
    of_two_processes_one_exchanges_a_refresh_token(stores).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_open_a_new_file_at_once_none_fails() {
    for _ in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.db");
        let opening: Vec<_> = (0..6)
            .map(|_| tokio::spawn(SqliteStore::open(path.clone())))
            .collect();
        let mut stores = Vec::new();
        for store in opening {
            stores.push(store.await.unwrap().unwrap());
        }
        for (number, store) in stores.iter().enumerate() {
            let who = account(&format!("account-{number}"));
            pay(store, &who, 1).await;
        }
    }
}

#[tokio::test]
async fn books_that_can_not_be_read_stop_nobody_else() {
    // More than are resolved at once.
    const SPOILT: i64 = 1_024;
    let folder = tempfile::tempdir().unwrap();
    let (store, clock) = sqlite(folder.path()).await;
    let (ann, bob, key) = (account("ann"), account("bob"), [budget("key-1")]);
    for (owner, count) in [(&bob, SPOILT), (&ann, 2)] {
        pay(&store, owner, SPOILT).await;
        for _ in 0..count {
            drop(hold(&store, owner, &key, 1).await.unwrap());
        }
    }
    let file = Connection::open(folder.path().join("tollgate.db")).unwrap();
    let spoil = "UPDATE budget SET rolling = 'nonsense'
        WHERE account = (SELECT number FROM account WHERE id = 'bob')";
    assert_eq!(file.execute(spoil, []).unwrap(), 1);
    // What was forgotten has outlived its time.
    clock.advance(Duration::from_secs(70));
    for _ in 0..2 {
        store.flush().await.unwrap();
    }
    balances(&store, &ann, SPOILT, 0).await;
    balances(&store, &bob, SPOILT, SPOILT).await;
    let held = hold(&store, &ann, &key, 10).await.unwrap();
    store.settle(held, costs(10)).await.unwrap();
    // Once it is mended, that is done too, within a minute.
    let mend = "UPDATE budget SET rolling = NULL";
    file.execute(mend, []).unwrap();
    drop(file);
    clock.advance(Duration::from_secs(62));
    for _ in 0..2 {
        store.flush().await.unwrap();
    }
    balances(&store, &bob, SPOILT, 0).await;
    store.close().await.unwrap();
}

//! What a key costs in memory while it is remembered. In a process of its own: it looks at all of its memory.

#![cfg(target_os = "linux")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "it is a test"
)]

use std::fs;

use tollgate::{
    clock::Timestamp,
    key::{KeyDigest, KeyRecord},
    keyring::{KeyResolver, Resolution},
    store::{BudgetId, KeyId, KeyLookup, StoreFuture},
};

const KEYS: usize = 50_000;

/// Has every key, and remembers none.
#[derive(Debug)]
struct Endless;

impl KeyLookup for Endless {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        // An id as long as those that a keyring makes.
        let hex: String = digest
            .as_bytes()
            .iter()
            .take(18)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let id = format!("key-{hex}");
        let (id, lineage) = (KeyId::new(&id).unwrap(), BudgetId::new(&id).unwrap());
        let mut record = KeyRecord::new(
            id,
            lineage,
            *digest,
            "user-1234567890",
            Timestamp::UNIX_EPOCH,
        );
        record.preview = "ps_live_abcd...xyz9".to_owned();
        record.name = "a name of a key".to_owned();
        record.roles = vec!["user".to_owned()];
        StoreFuture::ready(Ok(Some(record)))
    }
}

fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

async fn fill(keys: &KeyResolver, from: usize, count: usize) {
    for number in from..from + count {
        if let Resolution::Pending(found) = keys.resolve(&format!("key-number-{number}")) {
            drop(found.await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_remembered_key_costs_600_bytes_at_most() {
    let keys = KeyResolver::builder(Endless).capacity(1_000_000).build();
    // What is there once, however many keys there are.
    fill(&keys, 0, KEYS / 2).await;
    let before = resident_bytes();
    fill(&keys, KEYS / 2, KEYS).await;
    let each = (resident_bytes() - before) / KEYS;
    println!("{each} bytes a key");
    assert!(each <= 600, "{each} bytes a key");
    assert!(matches!(
        keys.resolve("key-number-1"),
        Resolution::Ready(Ok(_))
    ));
}

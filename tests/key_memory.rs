//! What a key costs in memory while it is remembered, and while it is counted. In a process of its
//! own: it looks at all of its memory.

#![cfg(target_os = "linux")]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "it is a test"
)]

use std::{fs, time::Duration};

use tollgate::{
    clock::{SystemClock, Timestamp},
    key::{KeyDigest, KeyRecord},
    keyring::{KeyResolver, Resolution},
    quota::{Quota, Quotas},
    store::{BudgetId, KeyId, KeyLookup, MemoryRateLimiter, StoreFuture},
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

/// Of so many that the tables of all parts have just grown: half of the places are empty.
const COUNTED: u32 = 60_000;

/// Bytes for each key that is counted.
fn counted(quotas: &Quotas) -> (usize, MemoryRateLimiter) {
    let before = resident_bytes();
    let limiter = MemoryRateLimiter::new(1_000_000, SystemClock::shared());
    for number in 0..COUNTED {
        let decision = limiter.take(&number, quotas, 1);
        assert!(decision.is_admitted());
    }
    let each = (resident_bytes() - before) / usize::try_from(COUNTED).unwrap();
    (each, limiter)
}

/// One after the other: what is measured is the whole process.
#[tokio::test]
async fn a_key_costs_no_more_than_is_said() {
    // What is let go of would be room for the next.
    let _kept = a_remembered_key_costs_600_bytes_at_most().await;
    let (rolling, _kept) = counted(&Quota::per_hour(100).into());
    let (strict, _kept) = counted(&Quota::per_hour(100).strict().into());
    println!("{rolling} bytes a counted key, {strict} with a strict quota");
    assert!(rolling <= 200 && strict <= 350, "{rolling}, {strict}");
}

async fn a_remembered_key_costs_600_bytes_at_most() -> KeyResolver {
    let keys = KeyResolver::builder(Endless)
        .capacity(1_000_000)
        .ttl(Duration::from_secs(3_600))
        .build();
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
    keys
}

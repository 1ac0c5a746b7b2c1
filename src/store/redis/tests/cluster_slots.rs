//! Requests under way on a cluster of three servers.

use super::{cluster::Nodes, *};
use crate::store::{ConcurrencyStore, RedisConcurrency, Slot};

const PATIENCE: Duration = Duration::from_secs(20);

async fn store(nodes: &Nodes) -> RedisConcurrency {
    let store = RedisConcurrency::builder(nodes.client())
        .deadline(PATIENCE)
        .degraded(Degraded::closed())
        .lifetime(Duration::from_secs(1));
    let store = store.build().unwrap();
    store.connect().await.unwrap();
    store
}

async fn take(store: &RedisConcurrency, name: &str) -> Option<Slot> {
    store.acquire(&key(name), 2).await.unwrap()
}

/// Another process hears of it in the background.
async fn until_taken(store: &RedisConcurrency, name: &str) -> Slot {
    let asks = async {
        loop {
            match take(store, name).await {
                Some(slot) => return slot,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asks).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_slots_on_every_node_also_while_they_move() {
    let Some(mut nodes) = Nodes::start().await else {
        return;
    };
    let (here, there) = (store(&nodes).await, store(&nodes).await);
    let names: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    let mut slots = Vec::new();
    for name in &names {
        let both = [take(&here, name).await, take(&there, name).await];
        assert!(both.iter().all(Option::is_some), "{name}");
        assert!(take(&here, name).await.is_none(), "{name}");
        assert!(take(&there, name).await.is_none(), "{name}");
        slots.push(both);
    }
    assert_eq!((here.under_way(), there.under_way()), (20, 20));

    let digest = u128::from_be_bytes(*key("7").digest());
    let name = format!("tollgate:slots:{{test:{digest:032x}}}");
    let (from, to) = nodes.of(&name).await;
    nodes.migrate(&name, from, to).await;
    assert!(take(&there, "7").await.is_none(), "they are there still");

    // Renewed on each node: longer than a slot lasts by itself.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for name in &names {
        assert!(take(&there, name).await.is_none(), "{name}");
    }
    for (name, both) in names.iter().zip(slots) {
        let [ours, theirs] = both;
        drop(ours);
        let again = until_taken(&there, name).await;
        assert!(take(&here, name).await.is_none(), "{name}");
        drop((theirs, again));
    }
    here.close().await.unwrap();
    there.close().await.unwrap();

    nodes.kill(0);
    let asks = async {
        while !here.is_degraded() {
            for name in &names {
                let _ = here.acquire(&key(name), 2).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(3 * PATIENCE, asks).await.unwrap();
    let refused = here.acquire(&key("1"), 2).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
}

//! With leases in hand.

use std::{sync::Arc, time::Duration};

use tollgate::{
    clock::ManualClock,
    money::Money,
    store::{LeaseStore, LeasedLedger, SqliteStore},
    usage::Credit,
};

use super::{ACCOUNTS, SHORT, account, kill_clients, kills, say};

/// What a node has to itself: an interval of reports, a commit, and what a busy machine adds to
/// that.
pub(crate) const KEPT_BACK: Duration = Duration::from_millis(700);

/// Enough to lease of.
const FUNDS: Money = Money::from_nanos(1_000_000_000);

/// A node in front of a file, or of a server.
pub(crate) async fn open(place: &str) -> LeasedLedger {
    #[cfg(feature = "postgres")]
    if place.starts_with("postgres:") {
        return lease(crate::on_postgres::open(place).await).await;
    }
    lease(SqliteStore::open(place).await.unwrap()).await
}

async fn lease(store: impl LeaseStore) -> LeasedLedger {
    for number in 0..ACCOUNTS {
        let funds = Credit {
            account: account(number),
            amount: FUNDS,
            reference: format!("funds-{number}"),
        };
        store.credit(funds).await.unwrap();
    }
    let ledger = LeasedLedger::start(store).unwrap();
    let watched = ledger.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            say(&format!("leased {}", watched.statistics().held_here));
        }
    });
    ledger
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_loses_its_last_calls_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.db");
    let open = async |clock: Arc<ManualClock>| {
        let builder = SqliteStore::builder(&path).with_clock(clock);
        builder.open().await.unwrap()
    };
    let close = async |store: SqliteStore| store.close().await.unwrap();
    let place = format!("leased:{}", path.display());
    let lives = (kills(5), KEPT_BACK + SHORT);
    kill_clients(&place, lives, Some(KEPT_BACK), open, close).await;
}

//! What may be spent is changed while a lease is being taken.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tollgate::{
    books::{Balance, Budget, HoldRefusal, LeaseStanding, LeaseStep, Snapshot},
    budget::{SpendingLimits, Windows},
    clock::{Clock, Timestamp},
    money::Money,
    store::{
        AccountId, BudgetId, LeaseStore, Ledger, Page, Paged, SqliteStore, StoreFuture, Tenure,
    },
    usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
};

use crate::{
    engines::{account, budget, costs, hold, nanos, pay, request, sqlite},
    leased::eager,
};

/// A store that changes limits once it has granted a lease.
#[derive(Clone, Debug)]
struct Slow {
    store: SqliteStore,
    leased: Arc<Semaphore>,
}

impl LeaseStore for Slow {
    fn lease(&self, step: Arc<LeaseStep>) -> StoreFuture<LeaseStanding> {
        let (answer, leased) = (self.store.lease(step), Arc::clone(&self.leased));
        StoreFuture::new(async move {
            let standing = answer.await?;
            leased.add_permits(1);
            Ok(standing)
        })
    }

    fn tenure(&self) -> &Tenure {
        self.store.tenure()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        LeaseStore::clock(&self.store)
    }

    fn windows(&self, now: Timestamp) -> Windows {
        self.store.windows(now)
    }
}

impl Ledger for Slow {
    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        self.store.hold(request)
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        self.store.settle(hold, settlement)
    }

    fn extend(&self, hold: &Hold, lifetime: std::time::Duration) -> StoreFuture<bool> {
        self.store.extend(hold, lifetime)
    }

    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()> {
        self.store.record(call, settlement)
    }

    fn set_limits(
        &self,
        account: &AccountId,
        budget: &BudgetId,
        limits: SpendingLimits,
    ) -> StoreFuture<Budget> {
        let (slow, account, budget) = (self.clone(), account.clone(), budget.clone());
        StoreFuture::new(async move {
            slow.leased.acquire().await.unwrap().forget();
            slow.store.set_limits(&account, &budget, limits).await
        })
    }

    pass_on_all_but_limits!(store);
}

#[tokio::test]
async fn a_lease_that_is_taken_while_limits_change_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Slow {
        store: sqlite(folder.path()).await.0,
        leased: Arc::new(Semaphore::new(0)),
    };
    let (ann, key) = (account("ann"), [budget("key-1")]);
    pay(&store, &ann, 1_000_000).await;
    let ledger = eager(store.clone());
    // Worth a lease, which is not taken yet when the change begins.
    let first = ledger.hold(request(&ann, &key, 10));
    let none = SpendingLimits {
        total: Some(nanos(0)),
        ..SpendingLimits::default()
    };
    let changed = ledger.set_limits(&ann, &key[0], none);
    let first = first.await.unwrap().unwrap();
    changed.await.unwrap();
    assert!(hold(&ledger, &ann, &key, 10).await.is_err());
    assert_eq!(store.balance(&ann).await.unwrap().held, nanos(10));
    ledger.settle(first, costs(10)).await.unwrap();
    assert_eq!(ledger.statistics().held_here, 0);
    ledger.close().await.unwrap();
}

//! What becomes of leases when their store or their task fails: nobody waits for ever, nobody waits
//! for another's account, and nothing is granted of which nobody will tell.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::Semaphore, time::timeout};
use tollgate::{
    books::{Balance, Budget, HoldRefusal, LeaseStanding, LeaseStep, Snapshot},
    budget::{SpendingLimits, Windows},
    clock::{Clock, Timestamp},
    money::Money,
    store::{
        AccountId, BudgetId, LeaseStore, LeasedLedger, Ledger, Page, Paged, SqliteStore,
        StoreError, StoreErrorKind, StoreFuture, Tenure,
    },
    usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
};

#[path = "../support/log.rs"]
mod logged;

use crate::{
    engines::{account, balances, budget, costs, hold, kind, nanos, pay, request, sqlite},
    leased::eager,
    leases::{leased, silent},
};

/// A store of which the leases can be made to fail.
#[derive(Clone, Debug)]
struct Faulty {
    store: SqliteStore,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct Faults {
    /// Whose steps wait at the gate.
    stuck: Mutex<Option<AccountId>>,
    gate: Semaphore,
    refuses_rows: AtomicBool,
    /// Of this call no row is taken.
    refused: Mutex<Option<&'static str>>,
    fails: AtomicBool,
    panics: AtomicBool,
}

impl Faulty {
    async fn open(folder: &TempDir) -> Self {
        Self {
            store: sqlite(folder.path()).await.0,
            faults: Arc::new(Faults {
                stuck: Mutex::default(),
                gate: Semaphore::new(0),
                refuses_rows: AtomicBool::new(false),
                refused: Mutex::default(),
                fails: AtomicBool::new(false),
                panics: AtomicBool::new(false),
            }),
        }
    }
}

impl LeaseStore for Faulty {
    fn lease(&self, step: Arc<LeaseStep>) -> StoreFuture<LeaseStanding> {
        let faults = Arc::clone(&self.faults);
        assert!(!faults.panics.load(Ordering::SeqCst), "a defect");
        if faults.refuses_rows.load(Ordering::SeqCst) && !step.served.is_empty() {
            let refused = StoreError::new(StoreErrorKind::Refused, "not these");
            return StoreFuture::ready(Err(refused));
        }
        let refused = *faults.refused.lock().unwrap();
        let mut calls = step.served.iter().map(|row| row.call.request_id.as_str());
        if refused.is_some_and(|refused| calls.any(|call| call == refused)) {
            let refused = StoreError::new(StoreErrorKind::Refused, "not this one");
            return StoreFuture::ready(Err(refused));
        }
        if faults.fails.load(Ordering::SeqCst) {
            let failed = StoreError::internal("the disk is being mended");
            return StoreFuture::ready(Err(failed));
        }
        if faults.stuck.lock().unwrap().as_ref() != Some(&step.account) {
            return self.store.lease(step);
        }
        let store = self.store.clone();
        StoreFuture::new(async move {
            faults.gate.acquire().await.unwrap().forget();
            store.lease(step).await
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

impl Ledger for Faulty {
    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        self.store.hold(request)
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        self.store.settle(hold, settlement)
    }

    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool> {
        self.store.extend(hold, lifetime)
    }

    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()> {
        self.store.record(call, settlement)
    }

    pass_on_books!(store);
}

async fn at_once<T>(answer: impl Future<Output = T>) -> T {
    let answer = timeout(Duration::from_secs(2), answer).await;
    answer.expect("an answer at once")
}

/// After the end of its leases a ledger asks the store, and nobody waits.
async fn everything_is_answered(ledger: &LeasedLedger, owner: &AccountId, all_told: bool) {
    let key = budget("key-1");
    let here = ledger.statistics().held_here;
    for _ in 0..20 {
        let held = at_once(hold(ledger, owner, &[key.clone()], 10)).await;
        at_once(ledger.settle(held.unwrap(), costs(10)))
            .await
            .unwrap();
    }
    assert_eq!(ledger.statistics().held_here, here, "nothing is granted");
    let too_much = at_once(hold(ledger, owner, &[key.clone()], 10_000_000)).await;
    assert_eq!(too_much.unwrap_err(), HoldRefusal::InsufficientCredits);
    at_once(ledger.balance(owner)).await.unwrap();
    let limits = SpendingLimits::default();
    at_once(ledger.set_limits(owner, &key, limits))
        .await
        .unwrap();
    let (flushed, returned) = (
        at_once(ledger.flush()).await,
        at_once(ledger.give_back()).await,
    );
    if all_told {
        flushed.unwrap();
        returned.unwrap();
    } else {
        assert_eq!(kind(flushed), StoreErrorKind::Unavailable);
        assert_eq!(kind(returned), StoreErrorKind::Unavailable);
    }
    assert!(at_once(ledger.clone().close()).await.is_ok() == all_told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_the_end_nobody_waits() {
    let folder = tempfile::tempdir().unwrap();
    let store = Faulty::open(&folder).await;
    let ann = account("ann");
    pay(&store, &ann, 1_000_000).await;
    let ledger = silent(store.clone());
    let (held, _) = leased(&ledger, &ann, &[budget("key-1")]).await;
    ledger.settle(held, costs(10)).await.unwrap();
    ledger.clone().close().await.unwrap();
    everything_is_answered(&ledger, &ann, true).await;
    balances(&store, &ann, 1_000_000, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_its_runtime_nothing_is_granted_and_nobody_waits() {
    let folder = tempfile::tempdir().unwrap();
    let store = Faulty::open(&folder).await;
    let ann = account("ann");
    pay(&store, &ann, 1_000_000).await;
    let runtime = Runtime::new().unwrap();
    let entered = runtime.enter();
    let ledger = silent(store.clone());
    drop(entered);
    let (held, _) = leased(&ledger, &ann, &[budget("key-1")]).await;
    ledger.settle(held, costs(10)).await.unwrap();
    let (late, _) = leased(&ledger, &ann, &[budget("key-1")]).await;
    let gone = tokio::task::spawn_blocking(move || drop(runtime));
    gone.await.unwrap();
    ledger.settle(late, costs(10)).await.unwrap();
    everything_is_answered(&ledger, &ann, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_panic_of_the_task_leaves_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let store = Faulty::open(&folder).await;
    let ann = account("ann");
    pay(&store, &ann, 1_000_000).await;
    let ledger = silent(store.clone());
    let (held, _) = leased(&ledger, &ann, &[budget("key-1")]).await;
    ledger.settle(held, costs(10)).await.unwrap();
    store.faults.panics.store(true, Ordering::SeqCst);
    let flushed = at_once(ledger.flush()).await;
    assert_eq!(kind(flushed), StoreErrorKind::Unavailable);
    everything_is_answered(&ledger, &ann, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_account_does_not_wait_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let store = Faulty::open(&folder).await;
    let (ann, bob) = (account("ann"), account("bob"));
    pay(&store, &ann, 1_000_000).await;
    pay(&store, &bob, 1_000_000).await;
    let ledger = eager(store.clone());
    let (held, bob_before) = leased(&ledger, &bob, &[]).await;
    *store.faults.stuck.lock().unwrap() = Some(bob.clone());
    ledger.settle(held, costs(10)).await.unwrap();
    let late = tokio::spawn(ledger.balance(&bob));
    for _ in 0..20 {
        let (held, _) = leased(&ledger, &ann, &[]).await;
        ledger.settle(held, costs(10)).await.unwrap();
        at_once(ledger.balance(&ann)).await.unwrap();
    }
    // Who waits for the one that is stuck does so for a while.
    let late = timeout(Duration::from_secs(9), late).await.unwrap();
    assert_eq!(kind(late.unwrap()), StoreErrorKind::Unavailable);
    *store.faults.stuck.lock().unwrap() = None;
    store.faults.gate.add_permits(100);
    let balance = at_once(ledger.balance(&bob)).await.unwrap();
    assert_eq!(balance.settled, nanos(10 * (bob_before + 1)));
    ledger.close().await.unwrap();
    balances(&store, &ann, 1_000_000, 0).await;
    balances(&store, &bob, 1_000_000, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_refused_for_good_does_not_keep_the_money() {
    let folder = tempfile::tempdir().unwrap();
    let store = Faulty::open(&folder).await;
    let ann = account("ann");
    pay(&store, &ann, 1_000_000).await;
    let ledger = eager(store.clone());
    store.faults.refuses_rows.store(true, Ordering::SeqCst);
    let (held, before) = leased(&ledger, &ann, &[]).await;
    ledger.settle(held, costs(10)).await.unwrap();
    let given_back = async {
        while store.balance(&ann).await.unwrap().held > Money::ZERO {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), given_back).await.unwrap();
    assert_eq!(ledger.statistics().unreported, 0);
    balances(&store, &ann, 1_000_000, 0).await;
    let settled = store.balance(&ann).await.unwrap().settled;
    assert_eq!(settled, nanos(10 * before), "what was refused is lost");
    // Others go on, and so does the account.
    store.faults.refuses_rows.store(false, Ordering::SeqCst);
    let (held, more) = leased(&ledger, &ann, &[]).await;
    ledger.settle(held, costs(10)).await.unwrap();
    ledger.close().await.unwrap();
    let settled = store.balance(&ann).await.unwrap().settled;
    assert_eq!(settled, nanos(10 * (before + more + 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_row_that_is_refused_does_not_cost_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = Faulty::open(&folder).await;
    let ann = account("ann");
    pay(&store, &ann, 1_000_000).await;
    let ledger = eager(store.clone());
    *store.faults.refused.lock().unwrap() = Some("refused");
    let (mut charged, mut refused) = (0, 0);
    for _ in 0..20 {
        let (held, before) = leased(&ledger, &ann, &[]).await;
        charged += before + 1;
        *store.faults.stuck.lock().unwrap() = Some(ann.clone());
        ledger.settle(held, costs(10)).await.unwrap();
        // They are told together.
        for number in 0..6 {
            let here = ledger.statistics().held_here;
            let mut wish = request(&ann, &[], 10);
            if number == 3 {
                wish.call.request_id = "refused".into();
            }
            let held = ledger.hold(wish).await.unwrap().unwrap();
            let is_refused = number == 3 && ledger.statistics().held_here > here;
            *if is_refused {
                &mut refused
            } else {
                &mut charged
            } += 1;
            ledger.settle(held, costs(10)).await.unwrap();
        }
        *store.faults.stuck.lock().unwrap() = None;
        store.faults.gate.add_permits(100);
        let all_told = async {
            while ledger.statistics().unreported > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), all_told).await.unwrap();
        if refused > 0 {
            break;
        }
    }
    assert_eq!(refused, 1, "served from a lease");
    ledger.close().await.unwrap();
    balances(&store, &ann, 1_000_000, 0).await;
    let settled = store.balance(&ann).await.unwrap().settled;
    assert_eq!(settled, nanos(10 * charged));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_may_be_mended_is_told_when_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = Faulty::open(&folder).await;
    let ann = account("ann");
    pay(&store, &ann, 1_000_000).await;
    let ledger = eager(store.clone());
    let (held, before) = leased(&ledger, &ann, &[]).await;
    store.faults.fails.store(true, Ordering::SeqCst);
    ledger.settle(held, costs(10)).await.unwrap();
    // It is tried many times meanwhile.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(ledger.statistics().unreported, 1);
    store.faults.fails.store(false, Ordering::SeqCst);
    ledger.close().await.unwrap();
    balances(&store, &ann, 1_000_000, 0).await;
    let settled = store.balance(&ann).await.unwrap().settled;
    assert_eq!(settled, nanos(10 * (before + 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_spent_budget_does_not_slow_the_others_of_its_account() {
    let folder = tempfile::tempdir().unwrap();
    let store = Faulty::open(&folder).await;
    let (ann, spent, free) = (account("ann"), budget("spent"), budget("free"));
    pay(&store, &ann, 1_000_000).await;
    let limits = SpendingLimits {
        total: Some(nanos(5)),
        ..SpendingLimits::default()
    };
    store.set_limits(&ann, &spent, limits).await.unwrap();
    let ledger = eager(store.clone());
    let (held, _) = leased(&ledger, &ann, &[free.clone()]).await;
    ledger.settle(held, costs(10)).await.unwrap();
    let asked = ledger.statistics().held_in_store;
    for _ in 0..100 {
        let refused = hold(&ledger, &ann, &[spent.clone()], 10).await;
        assert!(matches!(refused, Err(HoldRefusal::LimitReached(_))));
        let held = hold(&ledger, &ann, &[free.clone()], 10).await.unwrap();
        ledger.settle(held, costs(10)).await.unwrap();
    }
    let asked = ledger.statistics().held_in_store - asked;
    assert!(asked < 150, "the refused ones, and few others: {asked}");
    ledger.close().await.unwrap();
    balances(&store, &ann, 1_000_000, 0).await;
}

/// On one thread, because what is logged is kept by thread.
#[tokio::test]
async fn that_other_reports_are_accepted_is_no_end_of_what_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Faulty::open(&folder).await;
    let ann = account("ann");
    pay(&store, &ann, 1_000_000).await;
    let ledger = eager(store.clone());
    let (log, _logged) = logged::Log::begin();
    for (fault, ends) in [(&store.faults.refuses_rows, 0), (&store.faults.fails, 1)] {
        let (held, _) = leased(&ledger, &ann, &[]).await;
        fault.store(true, Ordering::SeqCst);
        ledger.settle(held, costs(10)).await.unwrap();
        let told = async {
            while log.count("did not accept a lease report") == ends {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        at_once(told).await;
        fault.store(false, Ordering::SeqCst);
        let (held, _) = leased(&ledger, &ann, &[]).await;
        ledger.settle(held, costs(10)).await.unwrap();
        ledger.flush().await.unwrap();
        let again = log.count("accepts lease reports again");
        assert_eq!(again, ends, "{}", log.text());
    }
    ledger.close().await.unwrap();
}

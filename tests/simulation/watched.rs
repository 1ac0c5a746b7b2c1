//! The ledger, with the oracle looking on, and with a way to and fro on which a caller may die.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use tollgate::{
    books::{Balance, Budget, HoldRefusal, Snapshot},
    budget::{SpendingAlert, SpendingLimits, Windows},
    clock::{Clock, ManualClock},
    money::Money,
    store::{AccountId, BudgetId, Ledger, MemoryStore, Page, Paged, StoreError, StoreFuture},
    usage::{Adjustment, Call, Credit, Hold, HoldRequest, Settlement, Transaction, UsageEntry},
};

use crate::{dice::Dice, oracle::Oracle};

/// Waits for so many looks.
pub(crate) struct Steps(pub(crate) u64);

impl Future for Steps {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The memory engine answers at once.
pub(crate) fn at_once<T>(answer: StoreFuture<T>) -> Result<T, StoreError> {
    answer.into_ready().unwrap()
}

#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) store: MemoryStore,
    pub(crate) oracle: Arc<Mutex<Oracle>>,
    pub(crate) clock: Arc<ManualClock>,
    alerts: Arc<Mutex<Vec<SpendingAlert>>>,
    dice: Dice,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

impl Watched {
    pub(crate) fn new(dice: Dice) -> Self {
        let clock = Arc::new(ManualClock::default());
        let alerts = Arc::<Mutex<Vec<SpendingAlert>>>::default();
        let heard = Arc::clone(&alerts);
        let store = MemoryStore::builder()
            .with_clock(clock.clone())
            .on_alert(move |alert| heard.lock().unwrap().push(alert.clone()))
            .build();
        Self {
            store,
            oracle: Arc::default(),
            clock,
            alerts,
            dice,
        }
    }

    /// Every look at an account ends what is over in it, and tells what that crosses.
    pub(crate) fn expire(&self, account: &AccountId) {
        let (now, second) = (self.clock.elapsed(), self.clock.now().as_second());
        let mut oracle = self.oracle.lock().unwrap();
        oracle.expire(account, now, second);
        at_once(self.store.balance(account)).unwrap();
        oracle.check_told_of_expired(account, &self.heard());
    }

    /// What was told since it was asked last.
    fn heard(&self) -> Vec<SpendingAlert> {
        std::mem::take(&mut *self.alerts.lock().unwrap())
    }

    /// The windows in which a hold has to count: the latest that any of its budgets has seen.
    fn windows(&self, request: &HoldRequest) -> Windows {
        let account = &request.call.account;
        let calendar = tollgate::budget::Calendar::utc();
        let mut windows = calendar.windows(self.clock.now());
        for budget in request.budgets.iter() {
            let seen = at_once(self.store.budget(account, budget)).unwrap().windows;
            windows.day = windows.day.max(seen.day);
            windows.month = windows.month.max(seen.month);
        }
        windows
    }

    fn delivered(&self, answer: &Result<Result<Hold, HoldRefusal>, StoreError>) {
        if let Ok(Ok(hold)) = answer {
            self.oracle.lock().unwrap().delivered(hold.id);
        }
    }

    fn hold_now(&self, request: &HoldRequest) -> Result<Result<Hold, HoldRefusal>, StoreError> {
        self.expire(&request.call.account);
        let windows = self.windows(request);
        let answer = at_once(self.store.hold(request.clone()))?;
        let now = self.clock.elapsed();
        let mut oracle = self.oracle.lock().unwrap();
        oracle.hold(request, windows, now, &answer);
        assert_eq!(self.heard(), [], "a hold tells nothing");
        Ok(answer)
    }
}

impl Ledger for Watched {
    /// The request may be lost, and so may the answer: its caller dies at one of the awaits.
    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        let (there, back) = (self.dice.roll(3), self.dice.roll(3));
        if there + back == 0 {
            let answer = self.hold_now(&request);
            self.delivered(&answer);
            return StoreFuture::ready(answer);
        }
        let ledger = self.clone();
        StoreFuture::new(async move {
            Steps(there).await;
            let answer = ledger.hold_now(&request);
            Steps(back).await;
            ledger.delivered(&answer);
            answer
        })
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        self.expire(&hold.call.account);
        let (id, charged) = (hold.id, settlement.charged.nanos());
        at_once(self.store.settle(hold, settlement)).unwrap();
        let mut oracle = self.oracle.lock().unwrap();
        oracle.settle(id, charged);
        oracle.check_told(&self.heard());
        let back = self.dice.roll(3);
        StoreFuture::new(async move {
            Steps(back).await;
            Ok(())
        })
    }

    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool> {
        self.expire(&hold.call.account);
        let answer = at_once(self.store.extend(hold, lifetime)).unwrap();
        let ends = self.clock.elapsed() + lifetime.max(Hold::LIFETIME_MIN);
        self.oracle.lock().unwrap().extend(hold.id, ends, answer);
        StoreFuture::ready(Ok(answer))
    }

    fn record(&self, call: Call, settlement: Settlement) -> StoreFuture<()> {
        self.expire(&call.account);
        self.oracle.lock().unwrap().record(&call.account);
        self.store.record(call, settlement)
    }

    pass_on_books!(store);
}

//! Accounts under sharded locks.
//!
//! Locks are taken in one order: payments, then a shard, then the log.

use std::{
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashMap};

use super::{Inner, MemoryStore, lock, log::Links, once::Once};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{self, Balance, Books, Budget, HoldRefusal},
        budget::{Budgets, SpendingAlert, SpendingLimits, Windows},
        clock::{Clock, Timestamp},
        money::Money,
        page::{Page, Paged},
        usage::{
            Adjustment, Call, Credit, Expiry, Hold, HoldId, HoldRequest, Settlement, Transaction,
            UsageEntry, is_reference,
        },
    },
    store::{Ledger, StoreError, StoreFuture},
};

const SHARDS: usize = 64;

type Shard = HashMap<AccountId, Account>;

pub(super) struct Accounts {
    shards: [Mutex<Shard>; SHARDS],
    chooser: DefaultHashBuilder,
    /// Every payment by its reference.
    payments: Mutex<HashMap<String, (AccountId, Money)>>,
    instance: u64,
    numbers: AtomicU64,
}

#[derive(Default)]
pub(super) struct Account {
    balance: Balance,
    budgets: HashMap<BudgetId, Budget>,
    open: HashMap<u64, OpenHold>,
    /// No open hold ends before that: most operations need not look at them.
    quiet_until: Option<Duration>,
    pub(super) latest: Links,
    pub(super) payments: Vec<Payment>,
    once: Once,
}

/// What is kept of a hold besides the [`Hold`] itself, which its call owns.
struct OpenHold {
    amount: Money,
    windows: Windows,
    idempotency_key: Option<Arc<str>>,
    /// `None`: it ends with its call, which brings all that is to be known of it.
    ends: Option<Box<Ending>>,
}

/// When a hold ends by the clock, and what is to be known of it then.
struct Ending {
    at: Duration,
    call: Call,
    budgets: Budgets,
    expiry: Expiry,
}

impl Ending {
    fn of(hold: &Hold, at: Duration) -> Box<Self> {
        Box::new(Self {
            at,
            call: hold.call.clone(),
            budgets: hold.budgets.clone(),
            expiry: hold.expiry,
        })
    }
}

impl OpenHold {
    fn end(&self) -> Option<Duration> {
        self.ends.as_ref().map(|ending| ending.at)
    }
}

pub(super) struct Payment {
    pub(super) transaction: Transaction,
    /// The charge before it.
    pub(super) charge: Option<u64>,
}

impl Books for Account {
    fn balance(&mut self) -> &mut Balance {
        &mut self.balance
    }

    fn budget(&mut self, id: &BudgetId) -> &mut Budget {
        self.budgets.entry_ref(id).or_default()
    }
}

impl Accounts {
    pub(super) fn new() -> Self {
        let chooser = DefaultHashBuilder::default();
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            payments: Mutex::default(),
            // Told apart within this process only, where alone such holds mean anything.
            instance: chooser.hash_one(u64::from(std::process::id())),
            chooser,
            numbers: AtomicU64::new(0),
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a byte modulo the number of shards is below it"
    )]
    fn shard(&self, account: &AccountId) -> MutexGuard<'_, Shard> {
        let [byte, ..] = self.chooser.hash_one(account).to_be_bytes();
        lock(&self.shards[usize::from(byte) % SHARDS])
    }
}

impl Account {
    /// The clock is asked only where a hold ends by it.
    fn is_quiet(&self, clock: &dyn Clock) -> bool {
        self.quiet_until.is_none_or(|end| clock.elapsed() < end)
    }

    fn keep(&mut self, number: u64, hold: OpenHold) {
        self.look_at(hold.end());
        self.open.insert(number, hold);
    }

    /// Something ends then.
    fn look_at(&mut self, end: Option<Duration>) {
        self.quiet_until = [self.quiet_until, end].into_iter().flatten().min();
    }

    /// Takes out the holds whose time is over.
    fn take_expired(&mut self, now: Duration) -> Vec<OpenHold> {
        let expired = self
            .open
            .extract_if(|_, hold| hold.end().is_some_and(|end| end <= now))
            .map(|(_, hold)| hold)
            .collect();
        self.quiet_until = self.open.values().filter_map(OpenHold::end).min();
        expired
    }
}

impl Inner {
    /// Ends a hold that was taken out of the open ones. What it returns is to be told when the account
    /// is not locked any more.
    fn end(
        &self,
        account: &mut Account,
        open: &OpenHold,
        (call, budgets): (Call, &Budgets),
        mut settlement: Settlement,
    ) -> Vec<SpendingAlert> {
        let now = self.clock.now();
        let settled = books::settle(
            account,
            &call.account,
            budgets,
            open.windows,
            open.amount,
            settlement.charged,
            now.as_second(),
        );
        settlement.charged = settled.charged;
        if let Some(key) = &open.idempotency_key {
            account.once.end(key, !settled.charged.is_zero());
        }
        self.log(account, call, open.amount, settlement, now);
        settled.alerts
    }

    /// Writes a row. The one that makes room for it is dropped when the log is free again: all accounts share it.
    fn log(
        &self,
        account: &mut Account,
        call: Call,
        held: Money,
        settlement: Settlement,
        now: Timestamp,
    ) {
        let oldest = lock(&self.log).append(&mut account.latest, call, held, settlement, now);
        drop(oldest);
    }

    /// Ends what outlived its lifetime; returns how many that were, and what is to be told.
    fn resolve(&self, account: &mut Account) -> (usize, Vec<SpendingAlert>) {
        if account.is_quiet(self.clock.as_ref()) {
            return (0, Vec::new());
        }
        let expired = account.take_expired(self.clock.elapsed());
        let count = expired.len();
        let today = self.clock.now();
        let mut alerts = Vec::new();
        for mut open in expired {
            let Some(ending) = open.ends.take() else {
                continue;
            };
            let age = today.duration_since(ending.call.started_at);
            let settlement = Settlement::abandoned(open.amount, ending.expiry, age);
            let of = (ending.call, &ending.budgets);
            alerts.extend(self.end(account, &open, of, settlement));
        }
        (count, alerts)
    }

    pub(super) fn resolve_expired(&self) -> usize {
        let resolve_shard = |shard: &Mutex<Shard>| -> usize {
            let mut locked = lock(shard);
            let (counts, alerts): (Vec<usize>, Vec<_>) = locked
                .values_mut()
                .map(|account| self.resolve(account))
                .unzip();
            drop(locked);
            self.alerts.tell(alerts.into_iter().flatten());
            counts.into_iter().sum()
        };
        self.accounts.shards.iter().map(resolve_shard).sum()
    }

    /// Does something with an account in which nothing is overdue.
    fn with_account<T>(&self, id: &AccountId, act: impl FnOnce(&mut Account) -> T) -> T {
        let mut shard = self.accounts.shard(id);
        let account = shard.entry_ref(id).or_default();
        let (_, alerts) = self.resolve(account);
        let answer = act(account);
        drop(shard);
        self.alerts.tell(alerts);
        answer
    }

    /// The same with one that may never have been, and then isn't made.
    fn with_known<T>(&self, id: &AccountId, act: impl FnOnce(&mut Account) -> T) -> Option<T> {
        let mut shard = self.accounts.shard(id);
        let account = shard.get_mut(id)?;
        let (_, alerts) = self.resolve(account);
        let answer = act(account);
        drop(shard);
        self.alerts.tell(alerts);
        Some(answer)
    }

    /// When a hold ends that lives so long from now on.
    fn end_of(&self, lifetime: Duration) -> Option<Duration> {
        (lifetime < Hold::AS_LONG_AS_ITS_CALL)
            .then(|| self.clock.elapsed().saturating_add(lifetime))
    }

    fn hold(&self, request: HoldRequest) -> Result<Hold, HoldRefusal> {
        let now = self.calendar.moment(self.clock.now());
        let id = request.call.account.clone();
        self.with_account(&id, |account| {
            let elapsed = || self.clock.elapsed();
            if let Some(wish) = &request.idempotency
                && let Some(refusal) = account.once.refuses(wish, elapsed())
            {
                return Err(refusal);
            }
            if account.open.len() >= self.open_holds_per_account_max {
                return Err(HoldRefusal::TooManyOpen);
            }
            let grant = books::hold(account, &request.budgets, request.amount, now)?;
            if let Some(wish) = &request.idempotency {
                account.once.begin(wish, elapsed());
            }
            let number = self.accounts.numbers.fetch_add(1, Ordering::Relaxed);
            let ends = self.end_of(request.lifetime);
            let id = HoldId {
                instance: self.accounts.instance,
                number,
            };
            let hold = Hold::granted(id, request, grant);
            account.keep(
                number,
                OpenHold {
                    amount: hold.amount,
                    windows: grant.windows,
                    idempotency_key: hold.idempotency_key.clone(),
                    ends: ends.map(|at| Ending::of(&hold, at)),
                },
            );
            Ok(hold)
        })
    }

    fn settle(&self, hold: Hold, settlement: Settlement) {
        let Hold {
            id, call, budgets, ..
        } = hold;
        let account = call.account.clone();
        let mut unsettled = Some((call, settlement));
        let settle = |account: &mut Account| {
            let open = account.open.remove(&id.number)?;
            let (call, settlement) = unsettled.take()?;
            Some(self.end(account, &open, (call, &budgets), settlement))
        };
        let ours = id.instance == self.accounts.instance;
        let ended = ours.then(|| self.with_known(&account, settle).flatten());
        if let Some(alerts) = ended.flatten() {
            self.alerts.tell(alerts);
        } else if let Some((call, _)) = unsettled {
            tracing::warn!(
                target: "tollgate::ledger",
                hold = %id,
                request_id = %call.request_id,
                "settled too late: the hold was resolved before"
            );
        }
    }

    fn extend(&self, hold: &Hold, lifetime: Duration) -> bool {
        if hold.id.instance != self.accounts.instance {
            return false;
        }
        let ends = self.end_of(lifetime);
        let extended = self.with_known(&hold.call.account, |account| {
            let open = account.open.get_mut(&hold.id.number)?;
            open.ends = ends.map(|at| Ending::of(hold, at));
            // The others may end later than this one did: the next look finds out.
            account.look_at(ends);
            Some(())
        });
        extended.flatten().is_some()
    }

    /// Moves money into or out of an account, once for each reference.
    fn pay(
        &self,
        id: AccountId,
        amount: Money,
        reference: String,
        rule: fn(&mut Balance, Money) -> Option<()>,
    ) -> Result<Balance, StoreError> {
        if !is_reference(&reference) {
            return Err(StoreError::no_reference());
        }
        let mut payments = lock(&self.accounts.payments);
        if let Some((account, earlier)) = payments.get(&reference) {
            if *account != id || *earlier != amount {
                return Err(StoreError::reference_taken());
            }
            let balance = self.with_known(&id, |account| account.balance);
            return Ok(balance.unwrap_or_default());
        }
        let balance = self.with_account(&id, |account| {
            rule(&mut account.balance, amount).ok_or_else(StoreError::amount_out_of_range)?;
            account.payments.push(Payment {
                transaction: Transaction {
                    position: lock(&self.log).position(),
                    at: self.clock.now(),
                    amount,
                    reference: reference.clone(),
                    route: None,
                },
                charge: account.latest.charge,
            });
            Ok(account.balance)
        })?;
        payments.insert(reference, (id, amount));
        Ok(balance)
    }
}

impl Ledger for MemoryStore {
    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        StoreFuture::ready(Ok(self.0.hold(request)))
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        self.0.settle(hold, settlement);
        StoreFuture::ready(Ok(()))
    }

    fn record(&self, call: Call, mut settlement: Settlement) -> StoreFuture<()> {
        settlement.charged = Money::ZERO;
        let id = call.account.clone();
        self.0.with_account(&id, |account| {
            let now = self.0.clock.now();
            self.0.log(account, call, Money::ZERO, settlement, now);
        });
        StoreFuture::ready(Ok(()))
    }

    fn extend(&self, hold: &Hold, lifetime: Duration) -> StoreFuture<bool> {
        StoreFuture::ready(Ok(self.0.extend(hold, lifetime)))
    }

    fn credit(&self, credit: Credit) -> StoreFuture<Balance> {
        let Credit {
            account,
            amount,
            reference,
        } = credit;
        StoreFuture::ready(self.0.pay(account, amount, reference, books::credit))
    }

    fn adjust(&self, adjustment: Adjustment) -> StoreFuture<Balance> {
        let Adjustment {
            account,
            amount,
            reference,
        } = adjustment;
        StoreFuture::ready(self.0.pay(account, amount, reference, books::adjust))
    }

    fn set_credit_line(&self, account: &AccountId, line: Money) -> StoreFuture<Balance> {
        if line.is_negative() {
            return StoreFuture::ready(Err(StoreError::negative_limit()));
        }
        StoreFuture::ready(Ok(self.0.with_account(account, |account| {
            account.balance.credit_line = line;
            account.balance
        })))
    }

    fn balance(&self, account: &AccountId) -> StoreFuture<Balance> {
        let balance = self.0.with_known(account, |account| account.balance);
        StoreFuture::ready(Ok(balance.unwrap_or_default()))
    }

    fn set_limits(
        &self,
        account: &AccountId,
        budget: &BudgetId,
        limits: SpendingLimits,
    ) -> StoreFuture<Budget> {
        if !limits.are_sound() {
            return StoreFuture::ready(Err(StoreError::negative_limit()));
        }
        let now = self.0.calendar.moment(self.0.clock.now());
        StoreFuture::ready(Ok(self.0.with_account(account, |account| {
            let budget = account.budget(budget);
            budget.set_limits(limits, now);
            budget.clone()
        })))
    }

    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget> {
        let now = self.0.calendar.moment(self.0.clock.now());
        let known = |account: &mut Account| account.budgets.get(budget).cloned();
        let found = self.0.with_known(account, known).flatten();
        StoreFuture::ready(Ok(found.unwrap_or_default().rolled(now)))
    }

    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        let rows = self.0.with_known(account, |known| {
            known.usage(&lock(&self.0.log), account, &page)
        });
        let none = || Paged::from_rows(&page, Vec::new());
        StoreFuture::ready(Ok(rows.unwrap_or_else(none)))
    }

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        let rows = self.0.with_known(account, |known| {
            known.transactions(&lock(&self.0.log), account, &page)
        });
        let none = || Paged::from_rows(&page, Vec::new());
        StoreFuture::ready(Ok(rows.unwrap_or_else(none)))
    }

    /// There is nothing on its way; holds that outlived their lifetime are resolved.
    fn flush(&self) -> StoreFuture<()> {
        self.0.resolve_expired();
        StoreFuture::ready(Ok(()))
    }
}

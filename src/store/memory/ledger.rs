//! Accounts under sharded locks.
//!
//! Locks are taken in one order: payments, then a shard, then the log.

use std::{
    hash::BuildHasher,
    iter,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashMap};

use super::{Inner, MemoryStore, lock, log::Links};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{self, Balance, Books, Budget, HoldRefusal},
        budget::{SpendingLimits, Windows},
        money::Money,
        page::{Page, Paged},
        usage::{
            Call, Credit, Hold, HoldId, HoldRequest, Outcome, Settlement, Transaction, UsageEntry,
        },
    },
    store::{Ledger, StoreError, StoreErrorKind, StoreFuture},
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
struct Account {
    balance: Balance,
    budgets: HashMap<BudgetId, Budget>,
    open: HashMap<u64, OpenHold>,
    /// No open hold ends before that: most operations need not look at them.
    quiet_until: Option<Duration>,
    latest: Links,
    payments: Vec<Payment>,
}

struct OpenHold {
    call: Call,
    budgets: std::sync::Arc<[BudgetId]>,
    amount: Money,
    windows: Windows,
    ends: Duration,
}

struct Payment {
    transaction: Transaction,
    /// The charge before it.
    charge: Option<u64>,
}

impl Books for Account {
    fn balance(&mut self) -> &mut Balance {
        &mut self.balance
    }

    fn budget(&mut self, id: &BudgetId) -> &mut Budget {
        self.budgets.entry(id.clone()).or_default()
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
    fn is_quiet(&self, now: Duration) -> bool {
        self.quiet_until.is_none_or(|end| now < end)
    }

    fn keep(&mut self, number: u64, hold: OpenHold) {
        let end = hold.ends;
        self.quiet_until = Some(self.quiet_until.map_or(end, |own| own.min(end)));
        self.open.insert(number, hold);
    }

    /// Takes out the holds whose time is over.
    fn take_expired(&mut self, now: Duration) -> Vec<OpenHold> {
        let expired = self
            .open
            .extract_if(|_, hold| hold.ends <= now)
            .map(|(_, hold)| hold)
            .collect();
        self.quiet_until = self.open.values().map(|hold| hold.ends).min();
        expired
    }
}

impl Inner {
    /// Ends a hold that was taken out of the open ones.
    fn end(&self, account: &mut Account, hold: OpenHold, mut settlement: Settlement) {
        settlement.charged = settlement.charged.max(Money::ZERO);
        books::settle(
            account,
            &hold.budgets,
            hold.windows,
            hold.amount,
            settlement.charged,
        );
        let now = self.clock.now();
        lock(&self.log).append(&mut account.latest, hold.call, hold.amount, settlement, now);
    }

    fn resolve(&self, account: &mut Account) -> usize {
        let now = self.clock.elapsed();
        if account.is_quiet(now) {
            return 0;
        }
        let expired = account.take_expired(now);
        let count = expired.len();
        let today = self.clock.now();
        for hold in expired {
            let latency = today.duration_since(hold.call.started_at);
            let settlement = Settlement {
                charged: Money::ZERO,
                outcome: Outcome::Abandoned,
                status: None,
                latency: latency.try_into().unwrap_or_default(),
                input_tokens: None,
                output_tokens: None,
            };
            self.end(account, hold, settlement);
        }
        count
    }

    pub(super) fn resolve_expired(&self) -> usize {
        let resolve_shard = |shard: &Mutex<Shard>| -> usize {
            let mut shard = lock(shard);
            shard
                .values_mut()
                .map(|account| self.resolve(account))
                .sum()
        };
        self.accounts.shards.iter().map(resolve_shard).sum()
    }

    fn hold(&self, request: HoldRequest) -> Result<Hold, HoldRefusal> {
        let windows = self.calendar.windows(self.clock.now());
        let mut shard = self.accounts.shard(&request.call.account);
        let account = shard.entry(request.call.account.clone()).or_default();
        self.resolve(account);
        let windows = books::hold(account, &request.budgets, request.amount, windows)?;
        let number = self.accounts.numbers.fetch_add(1, Ordering::Relaxed);
        account.keep(
            number,
            OpenHold {
                call: request.call.clone(),
                budgets: request.budgets.clone(),
                amount: request.amount,
                windows,
                ends: self.clock.elapsed().saturating_add(request.lifetime),
            },
        );
        Ok(Hold {
            id: HoldId {
                instance: self.accounts.instance,
                number,
            },
            call: request.call,
            budgets: request.budgets,
            amount: request.amount,
            windows,
        })
    }

    fn settle(&self, hold: &Hold, settlement: Settlement) {
        let mut shard = self.accounts.shard(&hold.call.account);
        let account = shard.get_mut(&hold.call.account);
        let ours = hold.id.instance == self.accounts.instance;
        let open = account.filter(|_| ours).and_then(|account| {
            self.resolve(account);
            let open = account.open.remove(&hold.id.number)?;
            Some((account, open))
        });
        match open {
            Some((account, open)) => self.end(account, open, settlement),
            None => tracing::warn!(
                target: "tollgate::ledger",
                hold = %hold.id,
                request_id = %hold.call.request_id,
                "settled too late: the hold was resolved before"
            ),
        }
    }

    fn credit(&self, credit: Credit) -> Result<Balance, StoreError> {
        let refused = || StoreError::new(StoreErrorKind::Refused, "amount out of range");
        if credit.amount <= Money::ZERO {
            return Err(refused());
        }
        let mut payments = lock(&self.accounts.payments);
        let mut shard = self.accounts.shard(&credit.account);
        if let Some((account, amount)) = payments.get(&credit.reference) {
            if *account != credit.account || *amount != credit.amount {
                let text = "the reference was used for another payment";
                return Err(StoreError::new(StoreErrorKind::Conflict, text));
            }
            let balance = shard.get(account).map(|account| account.balance);
            return Ok(balance.unwrap_or_default());
        }
        let account = shard.entry(credit.account.clone()).or_default();
        self.resolve(account);
        books::credit(&mut account.balance, credit.amount).ok_or_else(refused)?;
        account.payments.push(Payment {
            transaction: Transaction {
                position: lock(&self.log).position(),
                at: self.clock.now(),
                amount: credit.amount,
                reference: credit.reference.clone(),
                route: None,
            },
            charge: account.latest.charge,
        });
        payments.insert(credit.reference, (credit.account, credit.amount));
        Ok(account.balance)
    }

    fn usage(&self, id: &AccountId, page: &Page) -> Paged<UsageEntry> {
        let mut shard = self.accounts.shard(id);
        let Some(account) = shard.get_mut(id) else {
            return Paged::from_rows(page, Vec::new());
        };
        self.resolve(account);
        let log = lock(&self.log);
        let start = match page.cursor() {
            None => account.latest.usage,
            Some(cursor) => log.row(cursor, id).and_then(|row| row.previous.usage),
        };
        let rows = log
            .follow(id, start, |links| links.usage)
            .take(usize::from(page.limit()).saturating_add(1))
            .map(|entry| (entry.position, entry.clone()))
            .collect();
        Paged::from_rows(page, rows)
    }

    fn transactions(&self, id: &AccountId, page: &Page) -> Paged<Transaction> {
        let mut shard = self.accounts.shard(id);
        let Some(account) = shard.get_mut(id) else {
            return Paged::from_rows(page, Vec::new());
        };
        self.resolve(account);
        let log = lock(&self.log);
        let before = page.cursor().unwrap_or(u64::MAX);
        let older = account
            .payments
            .partition_point(|payment| payment.transaction.position < before);
        let start = match (page.cursor(), account.payments.get(older)) {
            (None, _) => account.latest.charge,
            (Some(cursor), Some(payment)) if payment.transaction.position == cursor => {
                payment.charge
            }
            (Some(cursor), _) => log.row(cursor, id).and_then(|row| row.previous.charge),
        };
        let mut charges = log
            .follow(id, start, |links| links.charge)
            .map(charged)
            .peekable();
        let mut paid = account
            .payments
            .get(..older)
            .unwrap_or_default()
            .iter()
            .rev()
            .map(|payment| payment.transaction.clone())
            .peekable();
        let newest_first = iter::from_fn(|| match (charges.peek(), paid.peek()) {
            (Some(charge), Some(payment)) if charge.position < payment.position => paid.next(),
            (None, _) => paid.next(),
            _ => charges.next(),
        });
        let rows = newest_first
            .take(usize::from(page.limit()).saturating_add(1))
            .map(|transaction| (transaction.position, transaction))
            .collect();
        Paged::from_rows(page, rows)
    }
}

fn charged(entry: &UsageEntry) -> Transaction {
    Transaction {
        position: entry.position,
        at: entry.settled_at,
        amount: Money::ZERO.saturating_sub(entry.settlement.charged),
        reference: entry.call.request_id.to_string(),
        route: Some(entry.call.route.to_string()),
    }
}

impl Ledger for MemoryStore {
    fn hold(&self, request: HoldRequest) -> StoreFuture<Result<Hold, HoldRefusal>> {
        StoreFuture::ready(Ok(self.0.hold(request)))
    }

    fn settle(&self, hold: Hold, settlement: Settlement) -> StoreFuture<()> {
        self.0.settle(&hold, settlement);
        StoreFuture::ready(Ok(()))
    }

    fn record(&self, call: Call, mut settlement: Settlement) -> StoreFuture<()> {
        settlement.charged = Money::ZERO;
        let mut shard = self.0.accounts.shard(&call.account);
        let account = shard.entry(call.account.clone()).or_default();
        let now = self.0.clock.now();
        lock(&self.0.log).append(&mut account.latest, call, Money::ZERO, settlement, now);
        StoreFuture::ready(Ok(()))
    }

    fn credit(&self, credit: Credit) -> StoreFuture<Balance> {
        StoreFuture::ready(self.0.credit(credit))
    }

    fn balance(&self, account: &AccountId) -> StoreFuture<Balance> {
        let mut shard = self.0.accounts.shard(account);
        let balance = shard.get_mut(account).map(|account| {
            self.0.resolve(account);
            account.balance
        });
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
        let now = self.0.calendar.windows(self.0.clock.now());
        let mut shard = self.0.accounts.shard(account);
        let account = shard.entry(account.clone()).or_default();
        self.0.resolve(account);
        let budget = account.budget(budget);
        *budget = budget.rolled(now);
        budget.limits = limits;
        StoreFuture::ready(Ok(*budget))
    }

    fn budget(&self, account: &AccountId, budget: &BudgetId) -> StoreFuture<Budget> {
        let now = self.0.calendar.windows(self.0.clock.now());
        let mut shard = self.0.accounts.shard(account);
        let found = shard.get_mut(account).and_then(|account| {
            self.0.resolve(account);
            account.budgets.get(budget).copied()
        });
        StoreFuture::ready(Ok(found.unwrap_or_default().rolled(now)))
    }

    fn usage(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<UsageEntry>> {
        StoreFuture::ready(Ok(self.0.usage(account, &page)))
    }

    fn transactions(&self, account: &AccountId, page: Page) -> StoreFuture<Paged<Transaction>> {
        StoreFuture::ready(Ok(self.0.transactions(account, &page)))
    }

    /// There is nothing on its way; holds that outlived their lifetime are resolved.
    fn flush(&self) -> StoreFuture<()> {
        self.0.resolve_expired();
        StoreFuture::ready(Ok(()))
    }
}

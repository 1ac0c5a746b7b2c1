//! What this node knows of the accounts that it has, or may soon have, a lease of: under sharded locks.

use std::{
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashMap};
use tokio::sync::Notify;

use super::{builder::Settings, share::Share, waiters::Waiters};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{Grant, LeaseId, Served},
        clock::Clock,
        money::Money,
        usage::{Call, Expiry, Hold, HoldId, HoldRequest, Settlement},
    },
    store::{LeaseStore, StoreError, gauge::Gauge, open_holds::OpenHolds},
};

const SHARDS: usize = 64;

/// Accounts that are looked at; the calls of others go to the store.
const ACCOUNTS_MAX: usize = 65_536;

/// Leases and watched sets of budgets of one account.
const SHARES_MAX: usize = 16;

/// How long an account of which there was too little left to be shared is not leased again.
const EXACT_FOR: Duration = Duration::from_secs(1);

pub(super) type Shard = HashMap<AccountId, Account>;

pub(super) struct Accounts {
    pub(super) store: Arc<dyn LeaseStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    /// Wakes the agent before its time.
    pub(super) urgent: Notify,
    pub(super) waiters: Mutex<Waiters>,
    pub(super) is_closed: AtomicBool,
    pub(super) held_here: AtomicU64,
    pub(super) held_in_store: AtomicU64,
    /// Holds that are open here, and rows that the store doesn't have yet.
    pub(super) places: AtomicUsize,
    pub(super) leases: AtomicUsize,
    pub(super) shards: [Mutex<Shard>; SHARDS],
    chooser: DefaultHashBuilder,
    pub(super) known: AtomicUsize,
    instance: u64,
    numbers: AtomicU64,
}

#[derive(Default)]
pub(super) struct Account {
    pub(super) shares: Vec<Share>,
    pub(super) open: OpenHolds<OpenHold>,
    /// Nothing is leased before that.
    exact_until: Duration,
    /// Nothing that one of these budgets counts is leased before that.
    exact: Vec<(Arc<[BudgetId]>, Duration)>,
    /// How often the store has answered to a step of its leases.
    pub(super) answers: u64,
}

/// Of what there is too little left to be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scarce<'a> {
    Account,
    /// Other budgets of the account may have enough.
    Budgets(&'a [BudgetId]),
}

pub(super) struct OpenHold {
    call: Call,
    amount: Money,
    lease: LeaseId,
    expiry: Expiry,
}

/// Whether a hold was granted here.
pub(super) enum Held {
    Yes(Hold),
    /// It is for the store to say.
    No(HoldRequest),
}

impl Account {
    pub(super) fn share(&mut self, lease: LeaseId) -> Option<&mut Share> {
        self.shares.iter_mut().find(|share| share.id == lease)
    }

    /// Leases nothing of what is scarce until then.
    pub(super) fn be_exact(&mut self, scarce: Scarce<'_>, elapsed: Duration) {
        let until = elapsed.saturating_add(EXACT_FOR);
        self.exact.retain(|(_, end)| elapsed < *end);
        match scarce {
            Scarce::Budgets(budgets) if self.exact.len() < SHARES_MAX => {
                self.exact.push((Arc::from(budgets), until));
            }
            Scarce::Budgets(_) | Scarce::Account => self.exact_until = until,
        }
    }

    pub(super) fn is_exact(&self, budgets: &[BudgetId], elapsed: Duration) -> bool {
        let concerns = |(scarce, end): &(Arc<[BudgetId]>, Duration)| {
            elapsed < *end && scarce.iter().any(|budget| budgets.contains(budget))
        };
        elapsed < self.exact_until || self.exact.iter().any(concerns)
    }

    /// Whether nothing is to be remembered of it.
    pub(super) fn is_forgotten(&self, elapsed: Duration) -> bool {
        self.shares.is_empty()
            && elapsed >= self.exact_until
            && self.exact.iter().all(|(_, end)| elapsed >= *end)
    }

    /// Ends the holds whose time is over.
    pub(super) fn resolve(&mut self, elapsed: Duration, clock: &dyn Clock) {
        let over = self.open.take_over(elapsed);
        self.abandon(over, clock);
    }

    /// Ends these holds, each as its policy says.
    fn abandon(&mut self, holds: Vec<(u64, OpenHold)>, clock: &dyn Clock) {
        for (_, hold) in holds {
            let age = clock.now().duration_since(hold.call.started_at);
            let settlement = Settlement::abandoned(hold.amount, hold.expiry, age);
            if let Some(share) = self.share(hold.lease) {
                let (call, held) = (hold.call, hold.amount);
                share.settle(Served {
                    call,
                    held,
                    settlement,
                });
            }
        }
    }
}

impl Accounts {
    pub(super) fn new(store: Arc<dyn LeaseStore>, settings: Settings) -> Result<Self, StoreError> {
        Ok(Self {
            clock: store.clock(),
            store,
            settings,
            urgent: Notify::new(),
            waiters: Mutex::default(),
            is_closed: AtomicBool::new(false),
            held_here: AtomicU64::new(0),
            held_in_store: AtomicU64::new(0),
            places: AtomicUsize::new(0),
            leases: AtomicUsize::new(0),
            shards: std::array::from_fn(|_| Mutex::default()),
            chooser: DefaultHashBuilder::default(),
            known: AtomicUsize::new(0),
            instance: random()?,
            numbers: AtomicU64::new(0),
        })
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a byte modulo the number of shards is below it"
    )]
    pub(super) fn shard(&self, account: &AccountId) -> MutexGuard<'_, Shard> {
        let [byte, ..] = self.chooser.hash_one(account).to_be_bytes();
        lock(&self.shards[usize::from(byte) % SHARDS])
    }

    /// Whether a hold may be granted here at all: what must be durable is the store's.
    fn suits(&self, request: &HoldRequest) -> bool {
        let call = &request.call;
        let outlives_us =
            request.expiry == Expiry::Charge && self.settings.expiry == Expiry::Release;
        let texts = [call.request_id.as_str(), &call.principal, &call.route];
        request.idempotency.is_none()
            && request.amount > Money::ZERO
            && !outlives_us
            // The store refuses it, and must, before the call is served.
            && !texts.iter().any(|text| text.contains('\0'))
            && !self.is_closed.load(Ordering::Acquire)
    }

    /// Holds money from a lease; otherwise gives the request back, which is then the store's.
    pub(super) fn hold(&self, request: HoldRequest) -> Held {
        if !self.suits(&request) {
            return Held::No(request);
        }
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        let windows = self.store.windows(now);
        let mut shard = self.shard(&request.call.account);
        let Some(account) = shard.get_mut(&request.call.account) else {
            self.watch(&mut shard, &request, elapsed);
            return Held::No(request);
        };
        let found = account
            .shares
            .iter_mut()
            .find(|share| share.is_of(&request.budgets));
        let Some(share) = found else {
            self.watch_share(account, &request, elapsed);
            return Held::No(request);
        };
        let is_open = share.is_open_in(windows)
            && self.store.tenure().holds(share.id.instance, elapsed, now)
            && account.open.len() < self.settings.open_holds_per_account_max;
        let has_place = is_open && Gauge::enter(&self.places, self.settings.unreported_max);
        if !has_place || !share.grant(request.amount, elapsed) {
            if has_place {
                Gauge::leave(&self.places, 1);
            }
            if share.miss(request.amount, elapsed, self.settings.busy_from) {
                self.urgent.notify_one();
            }
            return Held::No(request);
        }
        let grant = Grant {
            windows: share.windows,
            left: share.left(),
        };
        let lease = share.id;
        let ends = Hold::end_after(request.lifetime, || elapsed);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let id = HoldId {
            instance: self.instance,
            number,
        };
        let hold = Hold::granted(id, request, grant);
        let open = OpenHold {
            call: hold.call.clone(),
            amount: hold.amount,
            lease,
            expiry: hold.expiry,
        };
        account.open.insert(number, ends, open);
        drop(shard);
        self.held_here.fetch_add(1, Ordering::Relaxed);
        Held::Yes(hold)
    }

    /// Begins to count the calls of an account.
    fn watch(&self, shard: &mut Shard, request: &HoldRequest, elapsed: Duration) {
        if Gauge::enter(&self.known, ACCOUNTS_MAX) {
            let account = shard.entry_ref(&request.call.account).or_default();
            self.watch_share(account, request, elapsed);
        }
    }

    fn watch_share(&self, account: &mut Account, request: &HoldRequest, elapsed: Duration) {
        if account.shares.len() >= SHARES_MAX {
            return;
        }
        let nameless = LeaseId {
            instance: 0,
            number: 0,
        };
        let mut share = Share::watched(nameless, Arc::from(&*request.budgets));
        if share.miss(request.amount, elapsed, self.settings.busy_from) {
            self.urgent.notify_one();
        }
        account.shares.push(share);
    }

    /// Settles what was held here; otherwise gives it back.
    pub(super) fn settle(&self, hold: Hold, settlement: Settlement) -> Option<(Hold, Settlement)> {
        if hold.id.instance != self.instance {
            return Some((hold, settlement));
        }
        let mut shard = self.shard(&hold.call.account);
        let account = shard.get_mut(&hold.call.account);
        let open = account.and_then(|account| {
            let open = account.open.remove(hold.id.number)?;
            Some((account.share(open.lease)?, open))
        });
        let Some((share, open)) = open else {
            drop(shard);
            tracing::warn!(
                target: "tollgate::ledger",
                hold = %hold.id,
                request_id = %hold.call.request_id,
                "settled too late: the hold was resolved before"
            );
            return None;
        };
        let is_urgent = share.settle(Served {
            call: hold.call,
            held: open.amount,
            settlement,
        });
        drop(shard);
        if is_urgent {
            self.urgent.notify_one();
        }
        None
    }

    /// Lets a hold of this node live for longer; `None`: it is another's.
    pub(super) fn extend(&self, hold: &Hold, lifetime: Duration) -> Option<bool> {
        if hold.id.instance != self.instance {
            return None;
        }
        let ends = Hold::end_after(lifetime, || self.clock.elapsed());
        let mut shard = self.shard(&hold.call.account);
        let account = shard.get_mut(&hold.call.account);
        let extended = account.and_then(|account| account.open.set_end(hold.id.number, ends));
        Some(extended.is_some())
    }

    /// Whether the account has a lease here.
    pub(super) fn has_lease(&self, account: &AccountId) -> bool {
        let shard = self.shard(account);
        let mut shares = shard
            .get(account)
            .into_iter()
            .flat_map(|known| &known.shares);
        shares.any(|share| !share.is_watched())
    }

    /// How often the store has answered to a step of the account's leases.
    pub(super) fn answers(&self, account: &AccountId) -> u64 {
        let shard = self.shard(account);
        shard.get(account).map_or(0, |known| known.answers)
    }

    /// Whether it has one of which the end would free something of what is scarce.
    pub(super) fn has_scarce(&self, account: &AccountId, scarce: Scarce<'_>) -> bool {
        let Scarce::Budgets(budgets) = scarce else {
            return self.has_lease(account);
        };
        let shard = self.shard(account);
        let mut shares = shard
            .get(account)
            .into_iter()
            .flat_map(|known| &known.shares);
        shares.any(|share| !share.is_watched() && share.counts_in(budgets))
    }

    /// Whether something of the account is still to be told; then somebody waits for it.
    pub(super) fn owe(&self, account: &AccountId) -> bool {
        let mut shard = self.shard(account);
        let Some(account) = shard.get_mut(account) else {
            return false;
        };
        let mut owes = false;
        for share in &mut account.shares {
            owes |= share.owe();
        }
        owes
    }

    /// Ends the leases of an account, or of all.
    pub(super) fn close(&self, account: Option<&AccountId>) {
        self.each(account, |account| {
            account.shares.iter_mut().for_each(Share::close);
        });
    }

    /// Ends the leases of an account from which what is scarce can be spent.
    pub(super) fn close_scarce(&self, account: &AccountId, scarce: Scarce<'_>) {
        let elapsed = self.clock.elapsed();
        self.each(Some(account), |account| {
            account.be_exact(scarce, elapsed);
            for share in &mut account.shares {
                let is_concerned = match scarce {
                    Scarce::Account => true,
                    Scarce::Budgets(scarce) => share.counts_in(scarce),
                };
                if is_concerned {
                    share.close();
                }
            }
        });
    }

    /// Somebody waits for all of an account, or of all, that is not told yet.
    pub(super) fn owe_all(&self, account: Option<&AccountId>) {
        self.each(account, |account| {
            for share in &mut account.shares {
                share.owe();
            }
        });
    }

    /// Ends every hold that is open here, as its policy says.
    pub(super) fn abandon(&self) {
        self.each(None, |account| {
            let all = account.open.take_all();
            account.abandon(all, &*self.clock);
        });
    }

    /// Whether nothing of an account, or of all, is owed or withheld.
    pub(super) fn is_clear(&self, account: Option<&AccountId>) -> bool {
        let mut is_clear = true;
        self.each(account, |account| {
            let in_debt = |share: &Share| share.owes() || share.withholds();
            is_clear &= !account.shares.iter().any(in_debt);
        });
        is_clear
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leases.load(Ordering::Acquire) == 0
    }

    pub(super) fn each(&self, account: Option<&AccountId>, mut act: impl FnMut(&mut Account)) {
        match account {
            Some(id) => {
                if let Some(account) = self.shard(id).get_mut(id) {
                    act(account);
                }
            }
            None => {
                for shard in &self.shards {
                    lock(shard).values_mut().for_each(&mut act);
                }
            }
        }
    }
}

pub(super) fn random() -> Result<u64, StoreError> {
    getrandom::u64().map_err(|_| StoreError::internal("no random numbers"))
}

/// No lock is held where a caller's code could panic, so a poisoned one is as good as another.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

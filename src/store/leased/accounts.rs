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

use super::{agent::Errand, builder::Settings, share::Share};
use crate::{
    domain::{
        AccountId,
        books::{Grant, LeaseId, LeaseStanding, LeaseStep, Served},
        clock::Clock,
        money::Money,
        usage::{Call, Expiry, Hold, HoldId, HoldRequest, Settlement},
    },
    store::{LeaseStore, StoreError, gauge::Gauge},
};

const SHARDS: usize = 64;

/// Accounts that are looked at; the calls of others go to the store.
const ACCOUNTS_MAX: usize = 65_536;

/// Leases and watched sets of budgets of one account.
const SHARES_MAX: usize = 16;

/// How long an account of which there was too little left to be shared is not leased again.
const EXACT_FOR: Duration = Duration::from_secs(1);

type Shard = HashMap<AccountId, Account>;

pub(super) struct Accounts {
    pub(super) store: Arc<dyn LeaseStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    /// Wakes the agent before its time.
    pub(super) urgent: Notify,
    pub(super) errands: Mutex<Vec<Errand>>,
    pub(super) is_closed: AtomicBool,
    pub(super) held_here: AtomicU64,
    pub(super) held_in_store: AtomicU64,
    /// Holds that are open here, and rows that the store doesn't have yet.
    pub(super) places: AtomicUsize,
    pub(super) leases: AtomicUsize,
    shards: [Mutex<Shard>; SHARDS],
    chooser: DefaultHashBuilder,
    known: AtomicUsize,
    instance: u64,
    numbers: AtomicU64,
}

#[derive(Default)]
struct Account {
    shares: Vec<Share>,
    open: HashMap<u64, OpenHold>,
    /// No open hold ends before that.
    quiet_until: Option<Duration>,
    /// Nothing is leased before that.
    exact_until: Duration,
}

struct OpenHold {
    call: Call,
    amount: Money,
    lease: LeaseId,
    ends: Duration,
    expiry: Expiry,
}

/// Whether a hold was granted here.
pub(super) enum Held {
    Yes(Hold),
    /// It is for the store to say.
    No(HoldRequest),
}

/// A step that is to be sent, and of which lease.
pub(super) struct Outgoing {
    pub(super) account: AccountId,
    pub(super) step: Arc<LeaseStep>,
}

impl Account {
    fn share(&mut self, lease: LeaseId) -> Option<&mut Share> {
        self.shares.iter_mut().find(|share| share.id == lease)
    }

    fn keep(&mut self, number: u64, hold: OpenHold) {
        let end = hold.ends;
        self.quiet_until = Some(self.quiet_until.map_or(end, |own| own.min(end)));
        self.open.insert(number, hold);
    }

    /// Ends the holds whose time is over.
    fn resolve(&mut self, elapsed: Duration, clock: &dyn Clock) {
        if self.quiet_until.is_none_or(|end| elapsed < end) {
            return;
        }
        let now = clock.now();
        let over = self.open.extract_if(|_, hold| hold.ends <= elapsed);
        let over: Vec<OpenHold> = over.map(|(_, hold)| hold).collect();
        self.quiet_until = self.open.values().map(|hold| hold.ends).min();
        for hold in over {
            let age = now.duration_since(hold.call.started_at);
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
            errands: Mutex::default(),
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
    fn shard(&self, account: &AccountId) -> MutexGuard<'_, Shard> {
        let [byte, ..] = self.chooser.hash_one(account).to_be_bytes();
        lock(&self.shards[usize::from(byte) % SHARDS])
    }

    /// Whether a hold may be granted here at all: what must be durable is the store's.
    fn suits(&self, request: &HoldRequest) -> bool {
        let call = &request.call;
        let outlives_us =
            request.expiry == Expiry::Charge && self.settings.expiry == Expiry::Release;
        let texts = [&call.request_id, &call.principal, &call.route];
        request.idempotency.is_none()
            && request.amount > Money::ZERO
            && !outlives_us
            // The store refuses it, and must, before the call is served.
            && !texts.iter().any(|text| text.contains('\0'))
            && !self.is_closed.load(Ordering::Acquire)
    }

    /// Holds money from a lease; otherwise gives the wish back, which is then the store's.
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
        let ends = elapsed.saturating_add(request.lifetime);
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
            ends,
            expiry: hold.expiry,
        };
        account.keep(number, open);
        drop(shard);
        self.held_here.fetch_add(1, Ordering::Relaxed);
        Held::Yes(hold)
    }

    /// Begins to count the calls of an account.
    fn watch(&self, shard: &mut Shard, request: &HoldRequest, elapsed: Duration) {
        if Gauge::enter(&self.known, ACCOUNTS_MAX) {
            let account = shard.entry(request.call.account.clone()).or_default();
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
        let mut share = Share::watched(nameless, Arc::clone(&request.budgets));
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
            let open = account.open.remove(&hold.id.number)?;
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
        let ends = self.clock.elapsed().saturating_add(lifetime);
        let mut shard = self.shard(&hold.call.account);
        let account = shard.get_mut(&hold.call.account);
        let extended = account.and_then(|account| {
            account.open.get_mut(&hold.id.number)?.ends = ends;
            account.quiet_until = account.quiet_until.map(|own| own.min(ends));
            Some(())
        });
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
    pub(super) fn close(&self, account: Option<&AccountId>, is_scarce: bool) {
        let until = self.clock.elapsed().saturating_add(EXACT_FOR);
        self.each(account, |account| {
            account.shares.iter_mut().for_each(Share::close);
            if is_scarce {
                account.exact_until = until;
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
            account.quiet_until = Some(Duration::ZERO);
            account.resolve(Duration::MAX, &*self.clock);
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

    fn each(&self, account: Option<&AccountId>, mut act: impl FnMut(&mut Account)) {
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

    /// What is to be sent now, and forgets what is over. `is_tick`: what waits for its time is due.
    pub(super) fn due(&self, is_tick: bool) -> Vec<Outgoing> {
        let (elapsed, instance) = (self.clock.elapsed(), self.store.tenure().instance());
        let windows = self.store.windows(self.clock.now());
        let mut outgoing = Vec::new();
        for shard in &self.shards {
            lock(shard).retain(|id, account| {
                account.resolve(elapsed, &*self.clock);
                self.look_at(
                    id,
                    account,
                    is_tick,
                    elapsed,
                    |share| {
                        let is_idle =
                            elapsed.saturating_sub(share.last_used) >= self.settings.idle_after;
                        let is_ours = share.id.instance == instance;
                        if is_idle || !is_ours || share.is_of_before(windows) {
                            share.close();
                        }
                    },
                    &mut outgoing,
                );
                let keep = !account.shares.is_empty() || elapsed < account.exact_until;
                if !keep {
                    Gauge::leave(&self.known, 1);
                }
                keep
            });
        }
        outgoing
    }

    fn look_at(
        &self,
        id: &AccountId,
        account: &mut Account,
        is_tick: bool,
        elapsed: Duration,
        check: impl Fn(&mut Share),
        outgoing: &mut Vec<Outgoing>,
    ) {
        let Settings {
            expiry,
            lease_max,
            busy_from,
            leases_max,
            ..
        } = self.settings;
        let may_open = elapsed >= account.exact_until && !self.is_closed.load(Ordering::Acquire);
        for share in &mut account.shares {
            if share.is_busy(busy_from) {
                if may_open && Gauge::enter(&self.leases, leases_max) {
                    match self.name() {
                        Some(name) => outgoing.push(Outgoing {
                            account: id.clone(),
                            step: share.open(id, name, expiry, lease_max),
                        }),
                        None => Gauge::leave(&self.leases, 1),
                    }
                }
            } else if !share.is_watched() {
                check(share);
                let step = share.next_step(id, expiry, lease_max, is_tick);
                outgoing.extend(step.map(|step| Outgoing {
                    account: id.clone(),
                    step,
                }));
            }
            if is_tick {
                share.look_back(lease_max);
            }
        }
        account.shares.retain(|share| {
            let is_over = share.is_over();
            if is_over && !share.is_watched() {
                Gauge::leave(&self.leases, 1);
            }
            !is_over
        });
    }

    fn name(&self) -> Option<LeaseId> {
        Some(LeaseId {
            instance: self.store.tenure().instance(),
            number: random().ok()?,
        })
    }

    /// The store's answer to a step; whether there is more to do at once.
    pub(super) fn answered(
        &self,
        sent: &Outgoing,
        answer: &Result<LeaseStanding, StoreError>,
    ) -> bool {
        let mut shard = self.shard(&sent.account);
        let Some(account) = shard.get_mut(&sent.account) else {
            return false;
        };
        let Some(share) = account.share(sent.step.id) else {
            return false;
        };
        let (answered, is_over) = match answer {
            Ok(standing) => share.answered(standing),
            Err(error) => (share.failed(is_passing(error)), false),
        };
        let is_urgent = answer.is_ok() && !is_over && share.is_urgent();
        if is_over {
            account.shares.retain(|share| share.id != sent.step.id);
            Gauge::leave(&self.leases, 1);
        }
        if answered.is_scarce {
            account.exact_until = self.clock.elapsed().saturating_add(EXACT_FOR);
        }
        drop(shard);
        Gauge::leave(&self.places, answered.rows);
        is_urgent
    }
}

fn is_passing(error: &StoreError) -> bool {
    use crate::store::StoreErrorKind::{Busy, Unavailable};
    matches!(error.kind(), Unavailable | Busy)
}

fn random() -> Result<u64, StoreError> {
    getrandom::u64().map_err(|_| StoreError::internal("no random numbers"))
}

/// No lock is held where a caller's code could panic, so a poisoned one is as good as another.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

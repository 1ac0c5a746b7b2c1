//! The accounts that have a lease on this node or may soon get one, under sharded locks.

use std::{
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hashbrown::{DefaultHashBuilder, HashMap};
use tokio::sync::Notify;

use super::{
    account::{Account, LEASES_PER_ACCOUNT_MAX, OpenHold},
    builder::Settings,
    lease::{LeaseState, Scarcity},
    waiters::Waiters,
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{Grant, LateReport, LeaseId, Served},
        clock::Clock,
        money::Money,
        usage::{Expiry, Hold, HoldId, HoldRequest, Settlement},
    },
    store::{LeaseStore, StoreError, gauge::Gauge},
    sync::lock,
};

const SHARDS: usize = 64;

/// Accounts tracked at once; calls of others go to the store.
const ACCOUNTS_MAX: usize = 65_536;

pub(super) type Shard = HashMap<AccountId, Account>;

pub(super) struct Accounts {
    pub(super) store: Arc<dyn LeaseStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    /// Wakes the reporter before its next interval.
    pub(super) urgent: Notify,
    pub(super) waiters: Mutex<Waiters>,
    pub(super) is_closed: AtomicBool,
    pub(super) held_here: AtomicU64,
    pub(super) held_in_store: AtomicU64,
    /// Open holds granted here, plus rows that the store doesn't have yet.
    pub(super) unreported: AtomicUsize,
    pub(super) leases: AtomicUsize,
    pub(super) shards: [Mutex<Shard>; SHARDS],
    chooser: DefaultHashBuilder,
    pub(super) known: AtomicUsize,
    instance: u64,
    next_number: AtomicU64,
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
            unreported: AtomicUsize::new(0),
            leases: AtomicUsize::new(0),
            shards: std::array::from_fn(|_| Mutex::default()),
            chooser: DefaultHashBuilder::default(),
            known: AtomicUsize::new(0),
            instance: random()?,
            next_number: AtomicU64::new(0),
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

    /// Whether a hold may be granted here at all: what must be durable goes to the store.
    fn suits(&self, request: &HoldRequest) -> bool {
        let call = &request.call;
        let outlives_us =
            request.expiry == Expiry::Charge && self.settings.expiry == Expiry::Release;
        let texts = [call.request_id.as_str(), &call.principal, &call.route];
        request.idempotency.is_none()
            && request.amount > Money::ZERO
            && !outlives_us
            // The store refuses these, and must do so before the call is served.
            && !texts.iter().any(|text| text.contains('\0'))
            && !self.is_closed.load(Ordering::Acquire)
    }

    /// Holds money from a lease; otherwise hands the request back for the store.
    #[expect(
        clippy::result_large_err,
        reason = "boxing the request would allocate on the way to the store"
    )]
    pub(super) fn hold(&self, request: HoldRequest) -> Result<Hold, HoldRequest> {
        if !self.suits(&request) {
            return Err(request);
        }
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        let windows = self.store.windows(now);
        let mut shard = self.shard(&request.call.account);
        let Some(account) = shard.get_mut(&request.call.account) else {
            self.watch(&mut shard, &request, elapsed);
            return Err(request);
        };
        let found = account
            .leases
            .iter_mut()
            .find(|lease| lease.is_for(&request.budgets));
        let Some(lease) = found else {
            self.watch_lease(account, &request, elapsed);
            return Err(request);
        };
        let is_open = lease.is_open_in(windows)
            && self.store.tenure().holds(lease.id.instance, elapsed, now)
            && account.open.len() < self.settings.open_holds_per_account_max;
        let has_place = is_open && Gauge::enter(&self.unreported, self.settings.unreported_max);
        if !has_place || !lease.grant(request.amount, elapsed) {
            if has_place {
                Gauge::leave(&self.unreported, 1);
            }
            if lease.miss(request.amount, elapsed, self.settings.busy_from) {
                self.urgent.notify_one();
            }
            return Err(request);
        }
        let grant = Grant {
            windows: lease.windows,
            left: lease.left(),
        };
        let lease_id = lease.id;
        let ends = Hold::end_after(request.lifetime, || elapsed);
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let id = HoldId {
            instance: self.instance,
            number,
        };
        let hold = Hold::granted(id, request, grant);
        let open = OpenHold {
            call: hold.call.clone(),
            amount: hold.amount,
            lease: lease_id,
            expiry: hold.expiry,
        };
        account.open.insert(number, ends, open);
        drop(shard);
        self.held_here.fetch_add(1, Ordering::Relaxed);
        Ok(hold)
    }

    /// Starts to count the calls of an account.
    fn watch(&self, shard: &mut Shard, request: &HoldRequest, elapsed: Duration) {
        if Gauge::enter(&self.known, ACCOUNTS_MAX) {
            let account = shard.entry_ref(&request.call.account).or_default();
            self.watch_lease(account, request, elapsed);
        }
    }

    fn watch_lease(&self, account: &mut Account, request: &HoldRequest, elapsed: Duration) {
        if account.leases.len() >= LEASES_PER_ACCOUNT_MAX {
            return;
        }
        let nameless = LeaseId {
            instance: 0,
            number: 0,
        };
        let mut lease = LeaseState::watched(nameless, Arc::from(&*request.budgets));
        if lease.miss(request.amount, elapsed, self.settings.busy_from) {
            self.urgent.notify_one();
        }
        account.leases.push(lease);
    }

    /// Settles what was held here; otherwise hands it back for the store.
    pub(super) fn settle(&self, hold: Hold, settlement: Settlement) -> Option<(Hold, Settlement)> {
        if hold.id.instance != self.instance {
            return Some((hold, settlement));
        }
        let mut shard = self.shard(&hold.call.account);
        let settled = match shard.get_mut(&hold.call.account) {
            None => Err(hold),
            Some(account) => match account.open.remove(hold.id.number) {
                None => self.settle_late(account, &hold, settlement).ok_or(hold),
                Some(open) => match account.lease(open.lease) {
                    None => Err(hold),
                    Some(lease) => Ok(lease.settle(Served {
                        call: hold.call,
                        held: open.amount,
                        settlement,
                    })),
                },
            },
        };
        drop(shard);
        match settled {
            Ok(true) => self.urgent.notify_one(),
            Ok(false) => {}
            Err(hold) => tracing::warn!(
                target: "tollgate::ledger",
                hold = %hold.id,
                request_id = %hold.call.request_id,
                "settled too late: the hold was resolved before"
            ),
        }
        None
    }

    /// Charges a call whose hold has expired; whether that is urgent. `None` if it is too late even
    /// for that.
    fn settle_late(
        &self,
        account: &mut Account,
        hold: &Hold,
        mut settlement: Settlement,
    ) -> Option<bool> {
        if self.is_closed.load(Ordering::Acquire) {
            return None;
        }
        let (report_id, elapsed) = (self.new_id()?, self.clock.elapsed());
        let late = account.late.take(hold.id.number, elapsed)?;
        settlement.charged = late.what.due(settlement.charged, None);
        let served = Served {
            call: hold.call.clone(),
            held: Money::ZERO,
            settlement,
        };
        // Counted without a limit: its hold was within it, and its call was answered.
        self.unreported.fetch_add(1, Ordering::AcqRel);
        let lease = account.lease(late.lease);
        // One that has sent its last step takes no more.
        let waits = match lease {
            Some(lease) if !lease.is_ending() => return Some(lease.settle(served)),
            Some(_) => true,
            None => false,
        };
        self.leases.fetch_add(1, Ordering::AcqRel);
        let report = LateReport {
            windows: hold.windows,
            lease: late.lease,
            was_resolved: late.was_resolved,
        };
        let budgets = Arc::from(&*hold.budgets);
        let mut report = LeaseState::late(report_id, budgets, report, waits);
        let is_urgent = report.settle(served);
        account.leases.push(report);
        Some(is_urgent)
    }

    /// Extends a hold of this node; `None` if the hold is not this node's.
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
        let mut leases = shard
            .get(account)
            .into_iter()
            .flat_map(|known| &known.leases);
        leases.any(|lease| !lease.is_watched())
    }

    /// How often the store has answered a step of the account's leases.
    pub(super) fn answers(&self, account: &AccountId) -> u64 {
        let shard = self.shard(account);
        shard.get(account).map_or(0, |known| known.answers)
    }

    /// Whether giving back a lease of the account would free some of what is scarce.
    pub(super) fn has_scarce(
        &self,
        account: &AccountId,
        scarcity: Scarcity,
        budgets: &[BudgetId],
    ) -> bool {
        if scarcity == Scarcity::Account {
            return self.has_lease(account);
        }
        let shard = self.shard(account);
        let mut leases = shard
            .get(account)
            .into_iter()
            .flat_map(|known| &known.leases);
        leases.any(|lease| !lease.is_watched() && lease.counts_in(budgets))
    }

    /// Marks what the account has to report as awaited by a caller; returns whether there is
    /// anything.
    pub(super) fn mark_awaited(&self, account: &AccountId) -> bool {
        let mut shard = self.shard(account);
        let Some(account) = shard.get_mut(account) else {
            return false;
        };
        let mut is_awaited = false;
        for lease in &mut account.leases {
            is_awaited |= lease.mark_awaited();
        }
        is_awaited
    }

    /// Ends the leases of an account, or of all.
    pub(super) fn close(&self, account: Option<&AccountId>) {
        self.each(account, |account| {
            account.leases.iter_mut().for_each(LeaseState::close);
        });
    }

    /// Ends the leases of an account that draw on what is scarce.
    pub(super) fn close_scarce(
        &self,
        account: &AccountId,
        scarcity: Scarcity,
        budgets: &[BudgetId],
    ) {
        let elapsed = self.clock.elapsed();
        self.each(Some(account), |account| {
            account.suspend_leasing(scarcity, budgets, elapsed);
            for lease in &mut account.leases {
                if scarcity == Scarcity::Account || lease.counts_in(budgets) {
                    lease.close();
                }
            }
        });
    }

    /// Marks everything that an account, or every account, has to report as awaited by a caller.
    pub(super) fn await_all(&self, account: Option<&AccountId>) {
        self.each(account, |account| {
            for lease in &mut account.leases {
                lease.mark_awaited();
            }
        });
    }

    /// Ends every open hold, as its policy says.
    pub(super) fn abandon(&self) {
        self.each(None, |account| {
            for (_, hold) in account.open.take_all() {
                account.abandon(hold, &*self.clock);
            }
        });
    }

    /// Whether an account, or every account, has nothing awaited or withheld.
    pub(super) fn is_clear(&self, account: Option<&AccountId>) -> bool {
        let mut is_clear = true;
        self.each(account, |account| {
            let is_pending = |lease: &LeaseState| lease.is_awaited() || lease.withholds();
            is_clear &= !account.leases.iter().any(is_pending);
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

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

use super::{
    Inner,
    idempotency::IdempotencyKeys,
    log::Links,
    payments::{Payment, Payments},
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{self, Abandoned, Balance, Books, Budget, HoldRefusal, Settled},
        budget::{Budgets, SpendingAlert, Windows},
        clock::Timestamp,
        money::Money,
        usage::{Call, Expiry, Hold, HoldId, HoldRequest, Settlement, UsageDetails},
    },
    store::{late_holds::LateHolds, open_holds::OpenHolds},
    sync::lock,
};

const SHARDS: usize = 64;

type Shard = HashMap<AccountId, Account>;

pub(super) struct Accounts {
    shards: [Mutex<Shard>; SHARDS],
    chooser: DefaultHashBuilder,
    /// All payments by reference.
    pub(super) payments: Mutex<Payments>,
    instance: u64,
    numbers: AtomicU64,
}

#[derive(Default)]
pub(super) struct Account {
    pub(super) balance: Balance,
    pub(super) budgets: HashMap<BudgetId, Budget>,
    open: OpenHolds<OpenHold>,
    late: LateHolds<LateHold>,
    pub(super) latest: Links,
    pub(super) payments: Vec<Payment>,
    idempotency: IdempotencyKeys,
}

/// What is kept of a hold; the [`Hold`] itself belongs to its call.
struct OpenHold {
    amount: Money,
    windows: Windows,
    idempotency_key: Option<Arc<str>>,
    /// `None` for a hold that only its call ends: the call brings everything needed.
    ending: Option<Box<Ending>>,
}

/// A hold that was resolved without its owner.
struct LateHold {
    what: Abandoned,
    /// When its idempotency key, if it has one, is forgotten.
    key_ends: Option<Duration>,
}

/// What is needed to resolve a hold that expires.
struct Ending {
    call: Call,
    budgets: Budgets,
    expiry: Expiry,
}

impl Ending {
    fn of(hold: &Hold) -> Box<Self> {
        Box::new(Self {
            call: hold.call.clone(),
            budgets: hold.budgets.clone(),
            expiry: hold.expiry,
        })
    }
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
            // Unique within this process only, which is the only place such holds mean anything.
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

impl Inner {
    /// Ends a hold that was removed from the open ones. The returned alerts must be sent once the
    /// account is unlocked.
    fn end(
        &self,
        account: &mut Account,
        open: &OpenHold,
        (call, budgets): (Call, &Budgets),
        mut settlement: Settlement,
    ) -> Settled {
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
        let noted = self.calendar.other_windows(call.started_at, open.windows);
        settlement.details = UsageDetails::with_windows(settlement.details, noted);
        if let Some(key) = &open.idempotency_key {
            account.idempotency.end(key, !settled.charged.is_zero());
        }
        self.log(account, call, open.amount, settlement, now);
        settled
    }

    /// Charges a call whose hold was resolved before.
    fn end_late(
        &self,
        account: &mut Account,
        late: &LateHold,
        hold: (Call, &Budgets),
        (windows, key): (Windows, Option<&Arc<str>>),
        mut settlement: Settlement,
    ) -> Settled {
        let now = self.clock.elapsed();
        let known = key.and_then(|key| account.idempotency.known(key, now));
        let known = known.map(|(known, _)| known);
        settlement.charged = late.what.due(settlement.charged, known.as_ref());
        let nothing_held = OpenHold {
            amount: Money::ZERO,
            windows,
            idempotency_key: None,
            ending: None,
        };
        let settled = self.end(account, &nothing_held, hold, settlement);
        if let (Some(key), Some(fingerprint), Some(ends)) =
            (key, late.what.fingerprint, late.key_ends)
            && known.is_none()
            && !settled.charged.is_zero()
        {
            account.idempotency.take_back(key, fingerprint, ends);
        }
        settled
    }

    /// Writes a row. A row that makes room for it is dropped after the log is unlocked: all
    /// accounts share the log.
    pub(super) fn log(
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

    /// Ends the holds whose lifetime is over; returns how many there were, and the alerts to send.
    fn resolve(&self, account: &mut Account) -> (usize, Vec<SpendingAlert>) {
        if account.open.none_due(|| self.clock.elapsed()) {
            return (0, Vec::new());
        }
        let elapsed = self.clock.elapsed();
        let over = account.open.take_expired(elapsed);
        let count = over.len();
        let today = self.clock.now();
        let mut alerts = Vec::new();
        for (number, mut open) in over {
            let Some(ending) = open.ending.take() else {
                continue;
            };
            let age = today.duration_since(ending.call.started_at);
            let settlement =
                Settlement::abandoned(open.amount, ending.expiry, age, &ending.budgets);
            let of = (ending.call, &ending.budgets);
            let key = open.idempotency_key.as_ref();
            let known = key.and_then(|key| account.idempotency.known(key, elapsed));
            let settled = self.end(account, &open, of, settlement);
            alerts.extend(settled.alerts);
            let late = LateHold {
                what: Abandoned::new(settled.charged, known.map(|(known, _)| known)),
                key_ends: known.map(|(_, ends)| ends),
            };
            account.late.insert(number, elapsed, late);
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

    /// Runs `act` on an account after resolving its expired holds.
    pub(super) fn with_account<T>(&self, id: &AccountId, act: impl FnOnce(&mut Account) -> T) -> T {
        let mut shard = self.accounts.shard(id);
        let account = shard.entry_ref(id).or_default();
        let (_, alerts) = self.resolve(account);
        let answer = act(account);
        drop(shard);
        self.alerts.tell(alerts);
        answer
    }

    /// Like [`with_account`](Self::with_account), but doesn't create an account that doesn't exist.
    pub(super) fn with_known<T>(
        &self,
        id: &AccountId,
        act: impl FnOnce(&mut Account) -> T,
    ) -> Option<T> {
        let mut shard = self.accounts.shard(id);
        let account = shard.get_mut(id)?;
        let (_, alerts) = self.resolve(account);
        let answer = act(account);
        drop(shard);
        self.alerts.tell(alerts);
        Some(answer)
    }

    pub(super) fn hold(&self, request: HoldRequest) -> Result<Hold, HoldRefusal> {
        let now = self.calendar.moment(self.clock.now());
        let id = request.call.account.clone();
        self.with_account(&id, |account| {
            let elapsed = || self.clock.elapsed();
            if let Some(wish) = &request.idempotency
                && let Some(refusal) = account.idempotency.refuses(wish, elapsed())
            {
                return Err(refusal);
            }
            if account.open.len() >= self.open_holds_per_account_max {
                return Err(HoldRefusal::TooManyOpen);
            }
            let grant = books::hold(account, &request.budgets, request.amount, now)?;
            if let Some(wish) = &request.idempotency {
                account.idempotency.begin(wish, elapsed());
            }
            let number = self.accounts.numbers.fetch_add(1, Ordering::Relaxed);
            let ends = Hold::end_after(request.lifetime, elapsed);
            let id = HoldId {
                instance: self.accounts.instance,
                number,
            };
            let hold = Hold::granted(id, request, grant);
            let open = OpenHold {
                amount: hold.amount,
                windows: grant.windows,
                idempotency_key: hold.idempotency_key.clone(),
                ending: ends.map(|_| Ending::of(&hold)),
            };
            account.open.insert(number, ends, open);
            Ok(hold)
        })
    }

    pub(super) fn settle(&self, hold: Hold, settlement: Settlement) {
        let Hold {
            id,
            call,
            budgets,
            windows,
            idempotency_key,
            ..
        } = hold;
        let account = call.account.clone();
        let mut unsettled = Some((call, settlement));
        let settle = |account: &mut Account| {
            if let Some(open) = account.open.remove(id.number) {
                let (call, settlement) = unsettled.take()?;
                return Some(self.end(account, &open, (call, &budgets), settlement));
            }
            let late = account.late.take(id.number, self.clock.elapsed())?;
            let (call, settlement) = unsettled.take()?;
            let stamped = (windows, idempotency_key.as_ref());
            Some(self.end_late(account, &late, (call, &budgets), stamped, settlement))
        };
        let ours = id.instance == self.accounts.instance;
        let ended = ours.then(|| self.with_known(&account, settle).flatten());
        if let Some(settled) = ended.flatten() {
            self.alerts.tell(settled.alerts);
        } else if let Some((call, _)) = unsettled {
            tracing::warn!(
                target: "tollgate::ledger",
                hold = %id,
                request_id = %call.request_id,
                "settled too late: the hold was resolved before"
            );
        }
    }

    pub(super) fn extend(&self, hold: &Hold, lifetime: Duration) -> bool {
        if hold.id.instance != self.accounts.instance {
            return false;
        }
        let ends = Hold::end_after(lifetime, || self.clock.elapsed());
        let extended = self.with_known(&hold.call.account, |account| {
            let open = account.open.set_end(hold.id.number, ends)?;
            open.ending = ends.map(|_| Ending::of(hold));
            Some(())
        });
        extended.flatten().is_some()
    }
}

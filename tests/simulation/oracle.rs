//! What must be so: the books, kept as sums over what happened, in wide numbers, and by the
//! windows' own names instead of by rolling them.

mod alerts;
mod late;
mod limits;
mod refund;
mod rolling;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tollgate::{
    RequestId,
    books::{Balance, Budget, HoldRefusal},
    budget::{BudgetWindow, Calendar, SpendingLimits, Windows},
    clock::Timestamp,
    store::{AccountId, BudgetId},
    usage::{Expiry, Hold, HoldId, HoldRequest},
};

use self::{alerts::Crossed, late::Late, limits::Counted, rolling::Rolling};

#[derive(Clone, Debug)]
struct Open {
    account: AccountId,
    budgets: Vec<BudgetId>,
    amount: i128,
    windows: Windows,
    ends: Duration,
    expiry: Expiry,
    key: Option<Arc<str>>,
    request_id: RequestId,
    /// Whether somebody got it: an answer can be lost.
    delivered: bool,
}

#[derive(Default)]
struct Account {
    deposited: i128,
    credit_line: i128,
    settled: i128,
    rows: usize,
}

struct Known {
    fingerprint: [u8; 32],
    settled: bool,
    ends: Duration,
}

type Window = (AccountId, BudgetId, BudgetWindow, i64);

#[derive(Default)]
pub(crate) struct Oracle {
    accounts: HashMap<AccountId, Account>,
    open: HashMap<HoldId, Open>,
    ended: HashSet<HoldId>,
    late: HashMap<HoldId, Late>,
    settled: HashMap<Window, i128>,
    /// Where calls count, by their requests.
    calls: HashMap<RequestId, refund::Counted>,
    /// What was given back of calls, by their positions.
    refunded: HashMap<u64, i128>,
    limits: HashMap<(AccountId, BudgetId), SpendingLimits>,
    known: HashMap<(AccountId, Arc<str>), Known>,
    /// By the settlement that is under way.
    crossed: HashMap<(BudgetId, BudgetWindow), Vec<Crossed>>,
    rolling: HashMap<(AccountId, BudgetId), Rolling>,
    /// The latest day and month that each budget has seen: it counts and tells nothing of others.
    windows: HashMap<(AccountId, BudgetId), Windows>,
    /// The time of day.
    second: i64,
    elapsed: Duration,
    pub(crate) expired: usize,
    /// Of those: charged late.
    pub(crate) charged_late: usize,
    pub(crate) alerts: usize,
    /// Of calls that ended without their owner.
    pub(crate) alerts_of_expired: usize,
    /// Settlements that crossed several soft limits of one window.
    pub(crate) alerts_together: usize,
}

const WINDOWS: [BudgetWindow; 3] = [BudgetWindow::Day, BudgetWindow::Month, BudgetWindow::Total];

fn begin(window: BudgetWindow, windows: Windows) -> i64 {
    match window {
        BudgetWindow::Day => windows.day,
        BudgetWindow::Month => windows.month,
        BudgetWindow::Total | BudgetWindow::Rolling => 0,
        other => unreachable!("{other:?} is not known here"),
    }
}

/// Each once, in their order.
fn in_order(budgets: &[BudgetId]) -> Vec<BudgetId> {
    let mut seen = HashSet::new();
    let each = budgets.iter().filter(|budget| seen.insert(*budget));
    each.cloned().collect()
}

fn distinct(budgets: &[BudgetId]) -> Vec<BudgetId> {
    let mut distinct = budgets.to_vec();
    distinct.sort();
    distinct.dedup();
    distinct
}

impl Oracle {
    fn held(&self, account: &AccountId) -> i128 {
        let own = self.open.values().filter(|open| open.account == *account);
        own.map(|open| open.amount).sum()
    }

    fn held_in(&self, (account, budget, window, from): &Window) -> i128 {
        let counts = |open: &&Open| {
            open.account == *account
                && begin(*window, open.windows) == *from
                && open.budgets.contains(budget)
        };
        let own = self.open.values().filter(counts);
        own.map(|open| open.amount).sum()
    }

    fn settled_in(&self, window: &Window) -> i128 {
        self.settled.get(window).copied().unwrap_or_default()
    }

    fn available(&self, account: &AccountId) -> i128 {
        let held = self.held(account);
        self.accounts.get(account).map_or(-held, |own| {
            own.deposited + own.credit_line - own.settled - held
        })
    }

    fn look(&mut self, account: &AccountId, budget: &BudgetId) {
        let place = (account.clone(), budget.clone());
        if let Some(rolling) = self.rolling.get_mut(&place) {
            rolling.seen = rolling.seen.max(self.second);
        }
    }

    /// The same, where the budget sees the day and the month too.
    fn look_at(&mut self, account: &AccountId, budget: &BudgetId, windows: Windows) {
        self.look(account, budget);
        let place = (account.clone(), budget.clone());
        let seen = self.windows.entry(place).or_default();
        (seen.day, seen.month) = (seen.day.max(windows.day), seen.month.max(windows.month));
    }

    fn repeats(&self, request: &HoldRequest, now: Duration) -> Option<HoldRefusal> {
        let wish = request.idempotency.as_ref()?;
        let place = (request.call.account.clone(), Arc::clone(&wish.key));
        let known = self.known.get(&place)?;
        if known.settled && known.ends <= now {
            None
        } else if known.fingerprint != wish.fingerprint {
            Some(HoldRefusal::OtherRequest)
        } else if known.settled {
            Some(HoldRefusal::AlreadySettled)
        } else {
            Some(HoldRefusal::InProgress)
        }
    }

    /// Judges the answer to a hold; `windows` are those that it had to count in.
    pub(crate) fn hold(
        &mut self,
        request: &HoldRequest,
        windows: Windows,
        now: Duration,
        answer: &Result<Hold, HoldRefusal>,
    ) {
        let account = &request.call.account;
        let amount = i128::from(request.amount.nanos());
        let repeats = self.repeats(request, now);
        let covered = self.available(account) >= amount;
        let over = self.over(request, windows, Counted::WithHolds);
        let gone = self.over(request, windows, Counted::ChargesAlone);
        let unheld = self.available(account) + self.held(account);
        let hold = match answer {
            Ok(hold) => hold,
            Err(HoldRefusal::NegativeAmount) => return assert!(amount < 0),
            Err(HoldRefusal::InsufficientCredits) => {
                return assert!(unheld < amount, "money is there, but held");
            }
            Err(HoldRefusal::OnlyHeld { limit }) => {
                return self.check_only_held(request, windows, *limit);
            }
            Err(HoldRefusal::LimitReached(window)) => {
                assert!(gone.contains(window) && unheld >= amount);
                return self.look_until_refused(request, windows);
            }
            Err(HoldRefusal::RollingLimitReached { wait }) => {
                assert!(gone.contains(&BudgetWindow::Rolling) && unheld >= amount);
                self.check_wait(request, *wait);
                return self.look_until_refused(request, windows);
            }
            // The clients of a world are fewer than that.
            Err(HoldRefusal::TooManyOpen) => panic!("refused one of a few open holds"),
            Err(refusal) => return assert_eq!(repeats, Some(*refusal)),
        };
        for budget in &in_order(&request.budgets) {
            self.look_at(account, budget, windows);
        }
        assert!(amount >= 0, "granted less than nothing");
        assert!(covered, "granted what wasn't there");
        assert!(over.is_empty(), "granted over a limit: {over:?}");
        assert_eq!(repeats, None, "granted twice");
        assert_eq!(hold.windows, windows);
        assert_eq!(
            i128::from(hold.left.account.nanos()),
            self.available(account) - amount
        );
        let counted = refund::Counted {
            budgets: distinct(&request.budgets),
            windows,
        };
        let before = self.calls.insert(request.call.request_id.clone(), counted);
        assert!(before.is_none(), "each call has its name");
        let open = Open {
            account: account.clone(),
            budgets: distinct(&request.budgets),
            amount,
            windows,
            ends: now + request.lifetime.max(Hold::LIFETIME_MIN),
            expiry: request.expiry,
            key: request.idempotency.as_ref().map(|wish| wish.key.clone()),
            request_id: request.call.request_id.clone(),
            delivered: false,
        };
        if let Some(wish) = &request.idempotency {
            let known = Known {
                fingerprint: wish.fingerprint,
                settled: false,
                ends: now + wish.keep_for,
            };
            self.known
                .insert((account.clone(), wish.key.clone()), known);
        }
        assert!(!self.ended.contains(&hold.id), "a name was given twice");
        assert!(self.open.insert(hold.id, open).is_none());
    }

    fn end(&mut self, id: HoldId, charged: i128) -> Option<Open> {
        let open = self.open.remove(&id)?;
        assert!(self.ended.insert(id), "a hold ended twice");
        let charged = charged.max(0);
        self.charge(&open, charged);
        if let Some(key) = &open.key {
            let place = (open.account.clone(), Arc::clone(key));
            if charged == 0 {
                self.known.remove(&place);
            } else if let Some(known) = self.known.get_mut(&place) {
                known.settled = true;
            }
        }
        Some(open)
    }

    fn charge(&mut self, hold: &Open, charged: i128) {
        for budget in &hold.budgets {
            for window in WINDOWS {
                let from = begin(window, hold.windows);
                let place = (hold.account.clone(), budget.clone(), window, from);
                let settled = self.settled.entry(place).or_default();
                let before = *settled;
                *settled += charged;
                let after = *settled;
                let seen = self.windows[&(hold.account.clone(), budget.clone())];
                if begin(window, seen) == from {
                    self.note_crossed((&hold.account, budget), window, (before, after));
                }
            }
            self.look(&hold.account, budget);
            let place = (hold.account.clone(), budget.clone());
            if let Some(rolling) = self.rolling.get_mut(&place) {
                let at = rolling.by(self.second);
                let before = rolling.settled(self.second);
                rolling.charges.push((at, charged));
                let crossed = (before, before + charged);
                self.note_crossed((&hold.account, budget), BudgetWindow::Rolling, crossed);
            }
        }
        let account = self.accounts.entry(hold.account.clone()).or_default();
        account.settled += charged;
        account.rows += 1;
    }

    /// What has been open for too long ends before anything else happens in its account.
    pub(crate) fn expire(&mut self, account: &AccountId, now: Duration, second: i64) {
        (self.second, self.elapsed) = (second, now);
        let over: Vec<_> = self
            .open
            .iter()
            .filter(|(_, open)| open.account == *account && open.ends <= now)
            .map(|(id, open)| {
                (
                    *id,
                    i128::from(u8::from(open.expiry == Expiry::Charge)) * open.amount,
                )
            })
            .collect();
        self.expired += over.len();
        for (id, charged) in over {
            let key = self.open[&id].key.clone();
            let known = key.and_then(|key| self.known.get(&(account.clone(), key)));
            let freed = known.filter(|_| charged == 0);
            let freed = freed.map(|known| (known.fingerprint, known.ends));
            let late = Late {
                hold: self.end(id, charged).unwrap(),
                charged,
                at: now,
                freed,
            };
            self.late.insert(id, late);
        }
    }

    pub(crate) fn settle(&mut self, id: HoldId, charged: i64) {
        let charged = i128::from(charged);
        if self.end(id, charged).is_none() {
            self.settle_late(id, charged);
        }
    }

    pub(crate) fn extend(&mut self, id: HoldId, ends: Duration, answer: bool) {
        let open = self.open.get_mut(&id);
        assert_eq!(open.is_some(), answer);
        if let Some(open) = open {
            open.ends = ends;
        }
    }

    pub(crate) fn record(&mut self, account: &AccountId) {
        self.accounts.entry(account.clone()).or_default().rows += 1;
    }

    pub(crate) fn pay(&mut self, account: &AccountId, amount: i64) {
        self.accounts.entry(account.clone()).or_default().deposited += i128::from(amount);
    }

    pub(crate) fn credit_line(&mut self, account: &AccountId, line: i64) {
        self.accounts
            .entry(account.clone())
            .or_default()
            .credit_line = i128::from(line);
    }

    pub(crate) fn limits(&mut self, account: &AccountId, budget: &BudgetId, to: SpendingLimits) {
        let place = (account.clone(), budget.clone());
        let before = self.limits.insert(place.clone(), to.clone());
        self.keep_told(&place, before.as_ref(), &to);
        let now = Timestamp::from_second(self.second).unwrap();
        self.look_at(account, budget, Calendar::utc().windows(now));
        if let Some(limit) = to.rolling {
            self.count_in(place, limit.window);
        }
    }

    pub(crate) fn delivered(&mut self, id: HoldId) {
        if let Some(open) = self.open.get_mut(&id) {
            open.delivered = true;
        }
    }

    /// Whoever had a hold has settled it.
    pub(crate) fn check_ended(&self, request_id: &str) {
        let mut open = self.open.values();
        let kept = open.find(|open| open.delivered && *open.request_id == *request_id);
        assert!(kept.is_none(), "left unsettled: {kept:?}");
    }

    pub(crate) fn check_balance(&self, account: &AccountId, balance: Balance) {
        let own = self.accounts.get(account);
        let (deposited, line, settled) = own.map_or((0, 0, 0), |own| {
            (own.deposited, own.credit_line, own.settled)
        });
        let wide = |money: tollgate::money::Money| i128::from(money.nanos());
        assert_eq!(wide(balance.deposited), deposited);
        assert_eq!(wide(balance.credit_line), line);
        assert_eq!(wide(balance.settled), settled);
        assert_eq!(wide(balance.held), self.held(account));
        assert_eq!(
            wide(balance.deposited) + wide(balance.credit_line),
            wide(balance.available()) + wide(balance.held) + wide(balance.settled)
        );
    }

    pub(crate) fn check_budget(&self, account: &AccountId, id: &BudgetId, budget: &Budget) {
        let spent = [budget.day, budget.month, budget.total];
        for (window, spent) in WINDOWS.into_iter().zip(spent) {
            let from = begin(window, budget.windows);
            let place = (account.clone(), id.clone(), window, from);
            let found = (
                i128::from(spent.settled.nanos()),
                i128::from(spent.held.nanos()),
            );
            let expected = (self.settled_in(&place), self.held_in(&place));
            assert_eq!(found, expected, "{window:?} of {id}");
        }
        let rolling = &self.rolling[&(account.clone(), id.clone())];
        let found = budget.rolling.as_ref().unwrap().settled();
        assert_eq!(
            i128::from(found.nanos()),
            rolling.settled(self.second),
            "of {id}"
        );
    }

    /// The log has a row for each call that ended, one more for each that was heard of late, and
    /// their sum is what was settled.
    pub(crate) fn check_log(&self, account: &AccountId, rows: usize, charged: i128) {
        let own = self.accounts.get(account);
        let (expected, settled) = own.map_or((0, 0), |own| (own.rows, own.settled));
        assert_eq!((rows, charged), (expected, settled));
    }

    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }
}

//! Leases: money of an account that one node spends on its own and accounts for afterwards, in
//! steps.
//!
//! A lease is set aside like a hold: in the account and in every budget, in the windows stamped on
//! it. Each step is applied exactly once, however often it is delivered: it charges the calls
//! served since the previous step and resizes the lease to what the node asks for. If the node
//! falls silent, its lease is resolved as its [`Expiry`] says. Calls that the node served
//! nevertheless are charged when they are reported later, beyond what was set aside if need be.
//!
//! A call may also be settled when its lease is over on its node. Then it is a step of its own, a
//! [`LateReport`].

mod late;

use std::{fmt, sync::Arc};

use super::{
    super::{
        AccountId, BudgetId,
        budget::{Moment, SpendingAlert, Windows},
        clock::Timestamp,
        money::Money,
        usage::{Call, Expiry, Settlement},
    },
    Books, Left, Settled, distinct, hold, settle, stamp,
};

pub use late::LateReport;

/// A lease grows at a time by no more than what is left of the account or budget divided by this.
/// Near the end leases get small, so that one node never holds much money that another needs.
pub(crate) const PART_OF_LEFT: i64 = 8;

/// Identifies a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId {
    /// The store instance that took the lease; the lease does not outlive it.
    pub instance: u64,
    /// A random number.
    pub number: u64,
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.instance, self.number)
    }
}

/// A call that was served from a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Which call.
    pub call: Call,
    /// What had been set aside for it, within the lease.
    pub held: Money,
    /// What it cost.
    pub settlement: Settlement,
}

/// What a node reports about a lease, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStep {
    /// Which lease; of a late report, a name of its own.
    pub id: LeaseId,
    /// What it is about.
    pub kind: StepKind,
    /// Counts the steps of the lease; step 1 opens it. A step that was already applied is not
    /// applied again.
    pub number: u64,
    /// The account that pays.
    pub account: AccountId,
    /// The budgets that it counts against.
    pub budgets: Arc<[BudgetId]>,
    /// What becomes of the lease if its node falls silent.
    pub expiry: Expiry,
    /// Calls that ended since the previous step.
    pub served: Vec<Served>,
    /// How much should be set aside once these calls are charged. A surplus is given back; an
    /// increase is granted as far as money allows.
    pub target: Money,
    /// Whether this is the last step.
    pub ends: bool,
}

/// What a step is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// A lease: what was served from it is charged, and it is resized.
    Lease,
    /// Calls that were settled when their lease was over. Nothing is set aside, so it takes no
    /// living instance.
    Late(LateReport),
}

/// The state of a lease, as its node needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseStanding {
    /// `false` if it was resolved without its node or was never opened; then nothing may be spent
    /// from it.
    pub is_open: bool,
    /// What is set aside.
    pub amount: Money,
    /// The windows in which it may be spent.
    pub windows: Windows,
    /// What could be set aside beyond it; negative after an overrun.
    pub left: Left,
}

/// A lease as an engine stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The last step that was applied.
    pub step: u64,
    /// What is set aside.
    pub amount: Money,
    /// The windows in which it counts.
    pub windows: Windows,
    /// `None` while it is open. Afterwards: what was charged when it was resolved, less the calls
    /// reported since.
    pub prepaid: Option<Money>,
}

/// What to do with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Apply it to this lease.
    Take(Lease),
    /// It was applied before.
    Done(Lease),
    /// There is no such lease, and none may be opened.
    Gone,
}

/// The result of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "what was charged belongs in the usage log, and alerts must be delivered"]
pub struct Stepped {
    /// What each of the calls was charged.
    pub charged: Vec<Money>,
    /// Soft limits that were crossed.
    pub alerts: Vec<SpendingAlert>,
}

impl Lease {
    /// What to do with a `step` of a lease, given the `stored` one. `may_open` says whether its
    /// store instance is alive.
    #[must_use]
    pub fn due(stored: Option<Self>, step: &LeaseStep, may_open: bool) -> Due {
        match stored {
            Some(lease) if lease.step >= step.number => Due::Done(lease),
            Some(lease) => Due::Take(lease),
            None if step.number == 1 && may_open => Due::Take(Self::default()),
            None => Due::Gone,
        }
    }

    /// Applies a step: charges what was served, and resizes the lease to what is asked for.
    pub fn take(&mut self, books: &mut impl Books, step: &LeaseStep, now: Moment) -> Stepped {
        if step.number == 1 {
            self.windows = stamp(books, &step.budgets, now.windows);
        }
        self.step = step.number;
        let stepped = self.charge_all(books, step, now.second);
        if self.prepaid.is_none() {
            self.fit(books, step, now);
        }
        stepped
    }

    fn charge_all(&mut self, books: &mut impl Books, step: &LeaseStep, second: i64) -> Stepped {
        let mut stepped = Stepped::default();
        for served in &step.served {
            let settled = self.charge(books, step, served.settlement.charged, second);
            stepped.charged.push(settled.charged);
            stepped.alerts.extend(settled.alerts);
        }
        stepped
    }

    /// Charges a call from what is set aside as far as that goes; the rest is charged on top.
    fn charge(
        &mut self,
        books: &mut impl Books,
        step: &LeaseStep,
        cost: Money,
        second: i64,
    ) -> Settled {
        let cost = cost.max(Money::ZERO);
        let (held, charged) = match &mut self.prepaid {
            None => {
                let held = cost.min(self.amount);
                self.amount = self.amount.saturating_sub(held);
                (held, cost)
            }
            Some(prepaid) => {
                let paid = cost.min(*prepaid);
                *prepaid = prepaid.saturating_sub(paid);
                (Money::ZERO, cost.saturating_sub(paid))
            }
        };
        let (account, budgets) = (&step.account, &step.budgets);
        settle(books, account, budgets, self.windows, held, charged, second)
    }

    fn fit(&mut self, books: &mut impl Books, step: &LeaseStep, now: Moment) {
        let (account, budgets) = (&step.account, &step.budgets);
        let target = step.target.max(Money::ZERO);
        let surplus = self.amount.saturating_sub(target);
        if surplus > Money::ZERO {
            let nothing = Money::ZERO;
            let _nothing_charged = settle(
                books,
                account,
                budgets,
                self.windows,
                surplus,
                nothing,
                now.second,
            );
            self.amount = target;
            return;
        }
        // A lease does not grow across a change of windows: the node opens another one.
        if stamp(books, budgets, now.windows) != self.windows {
            return;
        }
        let here = Moment {
            windows: self.windows,
            ..now
        };
        let part = left(books, budgets, here).least().nanos();
        let part = Money::from_nanos(part.checked_div(PART_OF_LEFT).unwrap_or_default());
        let wanted = target.saturating_sub(self.amount).min(part);
        if wanted > Money::ZERO && hold(books, budgets, wanted, now).is_ok() {
            self.amount = self.amount.saturating_add(wanted);
        }
    }

    /// Whether the lease can be deleted after `step`.
    #[must_use]
    pub fn is_done_with(&self, step: &LeaseStep) -> bool {
        self.prepaid.is_none() && self.amount.is_zero() && (step.ends || step.number == 1)
    }

    /// Ends the lease of a node that fell silent.
    pub fn resolve(
        &mut self,
        books: &mut impl Books,
        account: &AccountId,
        budgets: &[BudgetId],
        expiry: Expiry,
        second: i64,
    ) -> Settled {
        let (held, charged) = (self.amount, expiry.charged(self.amount));
        let settled = settle(books, account, budgets, self.windows, held, charged, second);
        self.amount = Money::ZERO;
        self.prepaid = Some(settled.charged);
        settled
    }

    /// Its state now.
    #[must_use]
    pub fn standing(
        &self,
        books: &mut impl Books,
        budgets: &[BudgetId],
        now: Moment,
    ) -> LeaseStanding {
        LeaseStanding {
            is_open: self.prepaid.is_none(),
            amount: self.amount,
            windows: self.windows,
            left: left(books, budgets, now),
        }
    }
}

/// The usage-log entry for a lease that was charged in full because its node fell silent.
#[must_use]
pub fn abandoned_call(id: LeaseId, account: &AccountId, now: Timestamp) -> Call {
    Call {
        request_id: format!("lease-{id}").into(),
        account: account.clone(),
        principal: Arc::from(account.as_str()),
        key: None,
        route: Arc::from("lease"),
        started_at: now,
    }
}

fn left(books: &mut impl Books, budgets: &[BudgetId], now: Moment) -> Left {
    let account = books.balance().available();
    let lefts = distinct(budgets).filter_map(|id| books.budget(id).left(now));
    Left {
        account,
        budgets: lefts.min(),
    }
}

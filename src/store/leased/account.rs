//! What this node knows of one account: its leases, its open holds, and why it leases nothing.

use std::{sync::Arc, time::Duration};

use super::lease::{LeaseState, Scarcity};
use crate::{
    domain::{
        BudgetId,
        books::{Abandoned, LeaseId, Served},
        clock::Clock,
        money::Money,
        usage::{Call, Expiry, Settlement},
    },
    store::{late_holds::LateHolds, open_holds::OpenHolds},
};

/// Leases and watched sets of budgets per account.
pub(super) const LEASES_PER_ACCOUNT_MAX: usize = 16;

/// How long leasing is suspended for an account that had too little left to lease.
const SUSPENDED_FOR: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Account {
    pub(super) leases: Vec<LeaseState>,
    pub(super) open: OpenHolds<OpenHold>,
    /// Holds that expired.
    pub(super) late: LateHolds<LateHold>,
    /// Nothing is leased before then.
    suspended_until: Duration,
    /// Sets of budgets for which nothing is leased before the time given with each.
    suspended_budgets: Vec<(Arc<[BudgetId]>, Duration)>,
    /// How often the store has answered a step of the account's leases.
    pub(super) answers: u64,
}

pub(super) struct OpenHold {
    pub(super) call: Call,
    pub(super) amount: Money,
    pub(super) lease: LeaseId,
    pub(super) expiry: Expiry,
}

/// A hold that expired.
pub(super) struct LateHold {
    pub(super) what: Abandoned,
    pub(super) lease: LeaseId,
    /// Whether the store resolved the lease without this node.
    pub(super) was_resolved: bool,
}

impl Account {
    pub(super) fn lease(&mut self, id: LeaseId) -> Option<&mut LeaseState> {
        self.leases.iter_mut().find(|lease| lease.id == id)
    }

    /// Suspends leasing for a while for what is scarce: the account, or the given budgets.
    pub(super) fn suspend_leasing(
        &mut self,
        scarcity: Scarcity,
        budgets: &[BudgetId],
        elapsed: Duration,
    ) {
        let until = elapsed.saturating_add(SUSPENDED_FOR);
        self.suspended_budgets.retain(|(_, end)| elapsed < *end);
        match scarcity {
            Scarcity::Budgets if self.suspended_budgets.len() < LEASES_PER_ACCOUNT_MAX => {
                self.suspended_budgets.push((Arc::from(budgets), until));
            }
            Scarcity::Budgets | Scarcity::Account => self.suspended_until = until,
        }
    }

    pub(super) fn is_suspended(&self, budgets: &[BudgetId], elapsed: Duration) -> bool {
        let concerns = |(scarce, end): &(Arc<[BudgetId]>, Duration)| {
            elapsed < *end && scarce.iter().any(|budget| budgets.contains(budget))
        };
        elapsed < self.suspended_until || self.suspended_budgets.iter().any(concerns)
    }

    /// Whether nothing about it needs to be remembered.
    pub(super) fn is_forgotten(&mut self, elapsed: Duration) -> bool {
        self.leases.is_empty()
            && self.late.is_empty(elapsed)
            && elapsed >= self.suspended_until
            && self
                .suspended_budgets
                .iter()
                .all(|(_, end)| elapsed >= *end)
    }

    /// Ends the holds whose lifetime is over.
    pub(super) fn resolve(&mut self, elapsed: Duration, clock: &dyn Clock) {
        for (number, hold) in self.open.take_expired(elapsed) {
            let late = LateHold {
                what: Abandoned::new(hold.expiry.charged(hold.amount), None),
                lease: hold.lease,
                was_resolved: false,
            };
            self.late.insert(number, elapsed, late);
            self.abandon(hold, clock);
        }
    }

    /// A lease has ended, perhaps resolved by the store. Returns whether late reports waited for
    /// it.
    pub(super) fn note_end(&mut self, ended: LeaseId, was_resolved: bool) -> bool {
        if was_resolved {
            let late = self.late.iter_mut().filter(|late| late.lease == ended);
            late.for_each(|late| late.was_resolved = true);
        }
        let reports = self.leases.iter_mut();
        let waited =
            reports.filter_map(|report| report.note_end(ended, was_resolved).then_some(()));
        waited.count() > 0
    }

    /// Ends a hold, as its policy says.
    pub(super) fn abandon(&mut self, hold: OpenHold, clock: &dyn Clock) {
        let age = clock.now().duration_since(hold.call.started_at);
        if let Some(lease) = self.lease(hold.lease) {
            let budgets = &lease.budgets;
            let settlement = Settlement::abandoned(hold.amount, hold.expiry, age, budgets);
            let (call, held) = (hold.call, hold.amount);
            lease.settle(Served {
                call,
                held,
                settlement,
            });
        }
    }
}

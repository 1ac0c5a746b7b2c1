//! The state of one lease on its node.

mod failure;
mod sizing;
mod steps;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

pub(super) use self::failure::StepFailure;
use crate::domain::{
    AccountId, BudgetId,
    books::{LateReport, LeaseId, LeaseStep, Left, Served},
    budget::Windows,
    money::Money,
    usage::Expiry,
};

/// Rows in one step.
const STEP_ROWS_MAX: usize = 4_096;

/// This many rows are sent without waiting for the next interval.
const ROWS_AT_ONCE: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is no lease yet: calls are counted to see whether one is worth it.
    Watched,
    /// Its first step is in progress.
    Opening,
    Open,
    /// Nothing is granted any more. What is free is given back, and the lease ends with its last
    /// call.
    Closing,
    /// The store has resolved it. What was served must still be reported.
    Dead,
}

pub(super) struct LeaseState {
    pub(super) id: LeaseId,
    pub(super) budgets: Arc<[BudgetId]>,
    pub(super) windows: Windows,
    pub(super) last_used: Duration,
    phase: Phase,
    step: u64,
    /// What the store has set aside, as of its last answer.
    amount: Money,
    /// The part of `amount` that is held for calls in progress.
    reserved: Money,
    /// The part of `amount` charged by calls that the store has not acknowledged.
    spent: Money,
    /// The part of `amount` that the step in progress gives back.
    offered: Money,
    /// What the store has left besides, as of its last answer.
    left: Left,
    served: Vec<Served>,
    under_way: Option<UnderWay>,
    /// The step in progress awaits its answer; if false, it must be sent again.
    is_sent: bool,
    /// How often the step in progress failed for a reason other than load or outage, and since
    /// when.
    failures: u32,
    failing_since: Option<Duration>,
    /// Rows in the next step: fewer while the row that the store refuses is being searched for.
    rows_max: usize,
    /// Steps given up since the last one that was accepted.
    given_up: u32,
    /// Intervals left during which nothing is sent.
    pause: u32,
    /// How much should be free.
    desired: Money,
    /// Granted since the last interval.
    drawn: Money,
    /// Something was granted since the last step.
    has_granted: bool,
    /// The largest amount requested recently.
    largest: Money,
    is_short: bool,
    /// Calls that went to the store since the last interval.
    missed: u32,
    /// Rows whose report a caller waits for.
    awaited_rows: usize,
    /// Set if it is no lease, but a late report.
    late: Option<LateCharge>,
}

/// What a late report is about.
struct LateCharge {
    report: LateReport,
    /// The lease that it belongs to has sent its last step: how it ended is known with the answer,
    /// and the report is sent after that.
    waits: bool,
}

struct UnderWay {
    step: Arc<LeaseStep>,
    charged: Money,
}

/// The effect of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answered {
    /// Rows that the store has now, or never will have.
    pub(super) rows: usize,
    /// There is too little left to lease.
    pub(super) scarcity: Option<Scarcity>,
}

/// What has too little left to be leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scarcity {
    Account,
    /// One of the lease's budgets: other budgets of the account may have enough.
    Budgets,
}

impl LeaseState {
    pub(super) fn watched(id: LeaseId, budgets: Arc<[BudgetId]>) -> Self {
        Self {
            id,
            budgets,
            windows: Windows::default(),
            last_used: Duration::ZERO,
            phase: Phase::Watched,
            step: 0,
            amount: Money::ZERO,
            reserved: Money::ZERO,
            spent: Money::ZERO,
            offered: Money::ZERO,
            left: Left::default(),
            served: Vec::new(),
            under_way: None,
            is_sent: false,
            failures: 0,
            failing_since: None,
            rows_max: STEP_ROWS_MAX,
            given_up: 0,
            pause: 0,
            desired: Money::ZERO,
            drawn: Money::ZERO,
            has_granted: false,
            largest: Money::ZERO,
            is_short: false,
            missed: 0,
            awaited_rows: 0,
            late: None,
        }
    }

    /// A late report. `waits`: the lease that it belongs to has still to end.
    pub(super) fn late(
        id: LeaseId,
        budgets: Arc<[BudgetId]>,
        report: LateReport,
        waits: bool,
    ) -> Self {
        Self {
            phase: Phase::Closing,
            late: Some(LateCharge { report, waits }),
            ..Self::watched(id, budgets)
        }
    }

    /// A lease has ended, perhaps resolved by the store; returns whether this waited for it.
    pub(super) fn note_end(&mut self, ended: LeaseId, was_resolved: bool) -> bool {
        let late = self.late.as_mut();
        let Some(late) = late.filter(|late| late.waits && late.report.lease == ended) else {
            return false;
        };
        (late.waits, late.report.was_resolved) = (false, was_resolved);
        true
    }

    pub(super) fn is_for(&self, budgets: &[BudgetId]) -> bool {
        let is_current = !matches!(self.phase, Phase::Closing | Phase::Dead);
        is_current && *self.budgets == *budgets
    }

    /// Whether what is spent from it counts toward one of these budgets.
    pub(super) fn counts_in(&self, budgets: &[BudgetId]) -> bool {
        self.budgets.iter().any(|budget| budgets.contains(budget))
    }

    pub(super) fn is_watched(&self) -> bool {
        self.phase == Phase::Watched
    }

    /// Whether it may grant calls in these windows, provided that its store's instance is still
    /// valid.
    pub(super) fn is_open_in(&self, windows: Windows) -> bool {
        self.phase == Phase::Open && windows.max(self.windows) == self.windows
    }

    /// Whether a day or month has begun in which it may not be spent.
    pub(super) fn is_stale_for(&self, windows: Windows) -> bool {
        self.phase == Phase::Open && !self.is_open_in(windows)
    }

    pub(super) fn free(&self) -> Money {
        self.amount
            .saturating_sub(self.reserved)
            .saturating_sub(self.spent)
            .saturating_sub(self.offered)
    }

    /// What can still be set aside for calls like this one, as far as this node knows.
    pub(super) fn left(&self) -> Left {
        let free = self.free();
        Left {
            account: self.left.account.saturating_add(free),
            budgets: self.left.budgets.map(|left| left.saturating_add(free)),
        }
    }

    /// Sets money aside for a call; `false` if there is not enough.
    pub(super) fn grant(&mut self, amount: Money, elapsed: Duration) -> bool {
        if self.free() < amount {
            return false;
        }
        self.reserved = self.reserved.saturating_add(amount);
        self.drawn = self.drawn.saturating_add(amount);
        self.largest = self.largest.max(amount);
        self.last_used = elapsed;
        self.has_granted = true;
        true
    }

    /// Records a call that goes to the store; returns whether the reporter should run right away.
    pub(super) fn miss(&mut self, amount: Money, elapsed: Duration, busy_from: u32) -> bool {
        self.missed = self.missed.saturating_add(1);
        self.largest = self.largest.max(amount);
        self.last_used = elapsed;
        match self.phase {
            Phase::Watched => self.missed == busy_from,
            Phase::Open => !std::mem::replace(&mut self.is_short, true),
            Phase::Opening | Phase::Closing | Phase::Dead => false,
        }
    }

    /// Ends a call; returns whether the reporter should run right away.
    pub(super) fn settle(&mut self, served: Served) -> bool {
        self.reserved = self.reserved.saturating_sub(served.held);
        let charged = served.settlement.charged.max(Money::ZERO);
        self.spent = self.spent.saturating_add(charged);
        self.served.push(served);
        self.served.len() == ROWS_AT_ONCE || self.phase == Phase::Closing
    }

    /// Stops granting. Where there is no lease yet, forgets the calls counted toward one.
    pub(super) fn close(&mut self) {
        match self.phase {
            Phase::Opening | Phase::Open => self.phase = Phase::Closing,
            Phase::Watched => self.missed = 0,
            Phase::Closing | Phase::Dead => {}
        }
    }

    /// Marks everything served so far as awaited by a caller; returns whether there is anything.
    pub(super) fn mark_awaited(&mut self) -> bool {
        let sent = self.under_way.as_ref();
        let sent = sent.map_or(0, |under_way| under_way.step.served.len());
        self.awaited_rows = self.served.len().saturating_add(sent);
        self.awaited_rows > 0
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.awaited_rows > 0
    }

    /// Whether it is closing and still has money that others could use.
    pub(super) fn withholds(&self) -> bool {
        let is_idle = self.reserved.is_zero();
        self.phase == Phase::Closing
            && (self.under_way.is_some() || self.free() > Money::ZERO || is_idle)
    }

    /// Whether its last step has been sent.
    pub(super) fn is_ending(&self) -> bool {
        self.under_way.as_ref().is_some_and(|sent| sent.step.ends)
    }

    /// Whether nothing is left to report or to keep.
    pub(super) fn is_finished(&self) -> bool {
        let all_reported = self.served.is_empty() && self.under_way.is_none();
        match self.phase {
            Phase::Watched => self.missed == 0,
            Phase::Dead => all_reported && self.reserved.is_zero(),
            Phase::Opening | Phase::Open | Phase::Closing => false,
        }
    }

    /// Whether it should not wait for the next interval.
    pub(super) fn is_urgent(&self) -> bool {
        self.under_way.is_none()
            && self.pause == 0
            && (self.served.len() >= ROWS_AT_ONCE
                || self.withholds()
                || (self.phase == Phase::Open && self.is_short && self.wanted() > self.free()))
    }

    /// Turns a watched set of budgets into a lease.
    pub(super) fn open(
        &mut self,
        account: &AccountId,
        id: LeaseId,
        expiry: Expiry,
        lease_max: Money,
    ) -> Arc<LeaseStep> {
        self.id = id;
        self.phase = Phase::Opening;
        self.raise_desired(lease_max);
        self.send(account, expiry, Vec::new(), self.desired, false)
    }

    /// Whether it is watched and has enough calls to be worth a lease.
    pub(super) fn is_busy(&self, busy_from: u32) -> bool {
        self.phase == Phase::Watched && self.missed >= busy_from
    }

    /// Rows that the store has not acknowledged, and what they charge.
    pub(super) fn unacknowledged(&self) -> (usize, Money) {
        let sent = self.under_way.as_ref();
        let (rows, charged) = sent.map_or((0, Money::ZERO), |under_way| {
            (under_way.step.served.len(), under_way.charged)
        });
        let rows = self.served.len().saturating_add(rows);
        (rows, self.served.iter().fold(charged, add_charge))
    }
}

fn add_charge(sum: Money, served: &Served) -> Money {
    sum.saturating_add(served.settlement.charged.max(Money::ZERO))
}

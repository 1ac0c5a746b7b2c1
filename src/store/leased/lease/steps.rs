//! The steps of a lease: what is sent, and what its answer means.

use std::sync::Arc;

use super::{
    Answered, LeaseState, Phase, STEP_ROWS_MAX, UnderWay, add_charge,
    sizing::{part, times},
};
use crate::domain::{
    AccountId,
    books::{LeaseStanding, LeaseStep, Served, StepKind},
    money::Money,
    usage::Expiry,
};

impl LeaseState {
    /// The step to send now, if any. `is_tick`: what waits for the interval is due too.
    pub(in super::super) fn next_step(
        &mut self,
        account: &AccountId,
        expiry: Expiry,
        lease_max: Money,
        is_tick: bool,
    ) -> Option<Arc<LeaseStep>> {
        self.pause = self.pause.saturating_sub(u32::from(is_tick));
        let waits = self.late.as_ref().is_some_and(|late| late.waits);
        if self.pause > 0 || self.is_sent || waits {
            return None;
        }
        if let Some(under_way) = &self.under_way {
            let is_due = is_tick || self.is_awaited() || self.withholds();
            self.is_sent = is_due;
            return is_due.then(|| Arc::clone(&under_way.step));
        }
        let is_due = is_tick || self.is_urgent() || self.is_awaited();
        if matches!(self.phase, Phase::Watched | Phase::Opening) || !is_due {
            return None;
        }
        self.raise_desired(lease_max);
        let free = self.free();
        let kept = match self.phase {
            Phase::Open => {
                let wanted = self.wanted();
                // Small differences are not worth a step.
                let is_much = free > times(wanted, 2);
                let is_little = free < part(wanted, 2);
                if is_much || is_little { wanted } else { free }
            }
            _ => Money::ZERO,
        };
        let rows = self.served.len().min(self.rows_max);
        let rows: Vec<Served> = self.served.drain(..rows).collect();
        let ends =
            self.phase == Phase::Closing && self.reserved.is_zero() && self.served.is_empty();
        // A lease that only grants reports too: a limit may have been lowered elsewhere.
        let asks = is_tick && self.has_granted && self.phase == Phase::Open;
        if rows.is_empty() && kept == free && !ends && !asks {
            return None;
        }
        if self.phase == Phase::Dead && rows.is_empty() {
            return None;
        }
        Some(self.send(account, expiry, rows, kept, ends))
    }

    /// Builds the step after which `kept` should be free, and marks it as sent.
    pub(super) fn send(
        &mut self,
        account: &AccountId,
        expiry: Expiry,
        served: Vec<Served>,
        kept: Money,
        ends: bool,
    ) -> Arc<LeaseStep> {
        let charged = served.iter().fold(Money::ZERO, add_charge);
        self.offered = self.free().saturating_sub(kept).max(Money::ZERO);
        let still_spent = self.spent.saturating_sub(charged);
        let late = self.late.as_ref();
        let step = Arc::new(LeaseStep {
            id: self.id,
            kind: late.map_or(StepKind::Lease, |late| StepKind::Late(late.report)),
            number: self.step.saturating_add(1),
            account: account.clone(),
            budgets: Arc::clone(&self.budgets),
            expiry,
            served,
            target: self
                .reserved
                .saturating_add(still_spent)
                .saturating_add(kept),
            ends,
        });
        self.is_sent = true;
        self.has_granted = false;
        self.under_way = Some(UnderWay {
            step: Arc::clone(&step),
            charged,
        });
        step
    }

    /// Applies the store's answer to the step in progress; also returns whether the lease has
    /// ended.
    pub(in super::super) fn answered(&mut self, standing: &LeaseStanding) -> (Answered, bool) {
        let Some(UnderWay { step, charged }) = self.under_way.take() else {
            return (Answered::default(), false);
        };
        (self.failures, self.given_up, self.failing_since) = (0, 0, None);
        self.rows_max = self.rows_max.saturating_mul(2).min(STEP_ROWS_MAX);
        let mut answered = self.acknowledge(step.served.len(), charged);
        self.step = step.number;
        if !standing.is_open {
            if step.ends {
                return (answered, true);
            }
            self.amount = Money::ZERO;
            self.phase = Phase::Dead;
            return (answered, false);
        }
        self.amount = standing.amount;
        self.left = standing.left;
        if step.number == 1 {
            self.windows = standing.windows;
            if self.phase == Phase::Opening {
                self.phase = Phase::Open;
            }
        }
        if step.ends || (step.number == 1 && standing.amount.is_zero()) {
            answered.scarcity = (!step.ends).then(|| self.scarcity());
            return (answered, true);
        }
        if self.phase == Phase::Open && self.is_scarce() {
            answered.scarcity = Some(self.scarcity());
            self.phase = Phase::Closing;
        }
        (answered, false)
    }

    pub(super) fn acknowledge(&mut self, rows: usize, charged: Money) -> Answered {
        self.is_sent = false;
        self.offered = Money::ZERO;
        self.spent = self.spent.saturating_sub(charged);
        self.awaited_rows = self.awaited_rows.saturating_sub(rows);
        Answered {
            rows,
            scarcity: None,
        }
    }
}

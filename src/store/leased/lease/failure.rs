//! What happens to a step that the store does not accept.

use std::time::Duration;

use super::{Answered, LeaseState, UnderWay};
use crate::domain::money::Money;

/// Attempts for a step with one row that the store refuses for its content.
const ATTEMPTS: u32 = 10;

/// How long to retry a step that fails for a reason that may be repaired.
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);

/// How often the pause after a failure doubles: up to 32 intervals.
const DOUBLINGS_MAX: u32 = 5;

/// Why the store did not accept a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum StepFailure {
    /// It is unreachable or overloaded.
    Transient,
    /// It can't store the content of the step.
    Refused,
    Defect,
}

impl LeaseState {
    /// The store did not accept the step. It is sent again unless that is pointless; then it is
    /// halved, so that one refused row doesn't cost the others, and a row that is refused on its
    /// own is lost. The lease moves on toward its end either way: otherwise its money would stay
    /// set aside until this process ends.
    pub(in super::super) fn failed(&mut self, failure: StepFailure, elapsed: Duration) -> Answered {
        self.is_sent = false;
        if failure == StepFailure::Transient {
            return Answered::default();
        }
        self.failures = self.failures.saturating_add(1);
        let since = *self.failing_since.get_or_insert(elapsed);
        let is_long = elapsed.saturating_sub(since) >= GIVE_UP_AFTER;
        if failure == StepFailure::Defect && !is_long {
            self.pause = 2_u32.saturating_pow(self.failures.min(DOUBLINGS_MAX));
            return Answered::default();
        }
        if self.halve() || (!is_long && self.failures < ATTEMPTS) {
            return Answered::default();
        }
        self.give_up()
    }

    /// Takes back the rejected step in order to send half of it instead.
    fn halve(&mut self) -> bool {
        let sent = self.under_way.take_if(|sent| sent.step.served.len() > 1);
        let Some(UnderWay { step, .. }) = sent else {
            return false;
        };
        self.rows_max = step.served.len() >> 1;
        let mut served = step.served.clone();
        served.append(&mut self.served);
        self.served = served;
        self.offered = Money::ZERO;
        true
    }

    fn give_up(&mut self) -> Answered {
        self.failures = 0;
        let Some(UnderWay { step, charged }) = self.under_way.take() else {
            return Answered::default();
        };
        tracing::error!(
            target: "tollgate::ledger",
            lease = %step.id,
            account = %step.account,
            rows = step.served.len(),
            %charged,
            "the store refuses a lease report: its calls are not charged"
        );
        // Part of it may have been applied after all, so no other step may reuse its number.
        self.step = step.number;
        self.given_up = self.given_up.saturating_add(1).min(DOUBLINGS_MAX);
        self.pause = 2_u32.saturating_pow(self.given_up);
        self.close();
        self.acknowledge(step.served.len(), charged)
    }
}

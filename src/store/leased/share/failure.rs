//! What becomes of a step that the store does not take.

use std::time::Duration;

use super::{Answered, Share, UnderWay};
use crate::domain::money::Money;

/// How often a step with one row is tried that the store refuses for what it says.
const ATTEMPTS: u32 = 10;

/// How long a step is tried that the store fails for another reason, which may be mended.
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);

/// How often the pause doubles that follows a failure: to 32 intervals.
const DOUBLINGS_MAX: u32 = 5;

/// Why the store did not take a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum StepFailure {
    /// It is away, or has too much to do.
    Passing,
    /// It can't store what the step says.
    Refused,
    Defect,
}

impl Share {
    /// The store did not take the step. It is sent again, unless that is in vain for good: then it is halved, so that one
    /// row that is refused does not cost the others; and what such a row told is lost. The lease goes on towards its end,
    /// or what is set aside for it would be kept from everybody until this process ends.
    pub(in super::super) fn failed(&mut self, failure: StepFailure, elapsed: Duration) -> Answered {
        self.is_sent = false;
        if failure == StepFailure::Passing {
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

    /// Takes the step under way back, which was not taken, to tell half of it in its place.
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
            "the store refuses a step of a lease: the calls that it tells of are not charged"
        );
        // Something of it may have been taken all the same: no other step has its number.
        self.step = step.number;
        self.given_up = self.given_up.saturating_add(1).min(DOUBLINGS_MAX);
        self.pause = 2_u32.saturating_pow(self.given_up);
        self.close();
        self.told(step.served.len(), charged)
    }
}

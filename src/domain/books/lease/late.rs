//! Calls that were settled when their lease was over on its node.

use super::{Books, Lease, LeaseId, LeaseStep, Stepped};
use crate::domain::{budget::Windows, money::Money, usage::Expiry};

/// Where calls belong whose hold was resolved without its owner, and then settled when the lease
/// that it was granted from was over on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateReport {
    /// The windows stamped on the hold: the charge counts in these.
    pub windows: Windows,
    /// The lease that the hold was granted from.
    pub lease: LeaseId,
    /// Whether the store resolved that lease without the node, which did not end it.
    pub was_resolved: bool,
}

impl LateReport {
    /// Charges the calls of `step`, which was not applied before. `lease` is the lease that they
    /// belong to, if the store knows it. Also returns what is to be stored under the step's own id,
    /// so that the step is known if it is sent again: it has ended like a resolved lease.
    ///
    /// If that lease was charged when it was resolved, it has paid for them as far as that goes. If
    /// it was charged, and is forgotten, nobody knows how far: then nothing is charged, lest one
    /// call be charged twice.
    pub fn take(
        &self,
        books: &mut impl Books,
        step: &LeaseStep,
        lease: Option<&mut Lease>,
        second: i64,
    ) -> (Lease, Stepped) {
        let mut own = Lease {
            step: step.number,
            amount: Money::ZERO,
            windows: self.windows,
            prepaid: Some(match self.was_resolved && step.expiry == Expiry::Charge {
                true => Money::MAX,
                false => Money::ZERO,
            }),
        };
        let stepped = lease.unwrap_or(&mut own).charge_all(books, step, second);
        own.prepaid = Some(Money::ZERO);
        (own, stepped)
    }
}

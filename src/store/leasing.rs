//! What a ledger must provide so that its money can be leased.

use std::{sync::Arc, time::Duration};

use super::{Ledger, StoreFuture, tenure::Tenure};
use crate::domain::{
    books::{LeaseStanding, LeaseStep},
    budget::Windows,
    clock::{Clock, Timestamp},
    money::Money,
};

/// The shortest silence after which a process may be declared dead. It covers at least two missed
/// heartbeats; otherwise a live process could be declared dead.
pub(super) const RECOVER_AFTER_MIN: Duration = Duration::from_secs(5);

/// An engine whose money nodes can lease: the basis of [`LeasedLedger`](super::LeasedLedger).
///
/// What to do with a step is decided by [`Lease`](crate::books::Lease). A store of one's own has a
/// [`Tenure`], which it [confirms](Tenure::confirm) with each sign of life that others have seen.
/// `tollgate::conformance::leases` (feature `test-util`) has the laws of its steps as tests.
pub trait LeaseStore: Ledger {
    /// Applies a step of a lease, once. It is in progress as soon as this returns.
    fn lease(&self, step: Arc<LeaseStep>) -> StoreFuture<LeaseStanding>;

    /// How long leases taken through this store may be spent.
    fn tenure(&self) -> &Tenure;

    /// The source of the store's time.
    fn clock(&self) -> Arc<dyn Clock>;

    /// The day and the month of a moment, in the store's calendar.
    fn windows(&self, now: Timestamp) -> Windows;
}

/// Logs calls that can't be stored because their lease is not known.
pub(super) fn tell_lost(step: &LeaseStep) {
    if step.served.is_empty() {
        return;
    }
    let charges = step.served.iter().map(|served| served.settlement.charged);
    let charged = charges.fold(Money::ZERO, |sum, charge| {
        sum.saturating_add(charge.max(Money::ZERO))
    });
    tracing::error!(
        target: "tollgate::ledger",
        lease = %step.id,
        account = %step.account,
        step = step.number,
        rows = step.served.len(),
        %charged,
        "calls are not charged: their lease does not exist (harmless if this was the last step of a lease, sent twice)"
    );
}

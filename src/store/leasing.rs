//! What a ledger must do so that its money can be leased.

use std::{sync::Arc, time::Duration};

use super::{Ledger, StoreFuture, tenure::Tenure};
use crate::domain::{
    books::{LeaseStanding, LeaseStep},
    budget::Windows,
    clock::{Clock, Timestamp},
    money::Money,
};

/// The shortest silence after which a process counts as dead: two missed signs of life, at least, or one that lives
/// would be taken for dead.
pub(super) const RECOVER_AFTER_MIN: Duration = Duration::from_secs(5);

/// An engine whose money nodes can lease: what [`LeasedLedger`](super::LeasedLedger) is built on.
pub trait LeaseStore: Ledger {
    /// Takes a step of a lease, once. It is on its way as soon as this returns.
    fn lease(&self, step: Arc<LeaseStep>) -> StoreFuture<LeaseStanding>;

    /// For how long leases that were taken through this store may be spent.
    fn tenure(&self) -> &Tenure;

    /// Where the store's time comes from.
    fn clock(&self) -> Arc<dyn Clock>;

    /// The day and the month of a moment, in the store's calendar.
    fn windows(&self, now: Timestamp) -> Windows;
}

/// Says what can't be written down, because its lease is not known.
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
        "calls are not charged: there is no such lease, unless this is the last step of one, sent twice"
    );
}

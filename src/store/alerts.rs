//! Notifications when a soft limit is passed.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::domain::budget::SpendingAlert;

type Listener = dyn Fn(&SpendingAlert) + Send + Sync;

/// Reports soft limits that were passed: as a `tracing` event with target `tollgate::ledger`, and
/// to the application's listener if there is one.
#[derive(Clone, Default)]
pub(super) struct Alerts(Option<Arc<Listener>>);

impl Alerts {
    pub(super) fn to(listener: impl Fn(&SpendingAlert) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Reports each alert. Don't call it under a lock: the listener is the application's code.
    pub(super) fn tell(&self, alerts: impl IntoIterator<Item = SpendingAlert>) {
        for alert in alerts {
            tracing::warn!(
                target: "tollgate::ledger",
                account = %alert.account,
                budget = %alert.budget,
                window = ?alert.window,
                limit = %alert.limit,
                spent = %alert.spent,
                "a soft limit was passed"
            );
            let Some(listener) = &self.0 else {
                continue;
            };
            // The caller has calls to answer and money to keep, so a panic of the listener must not
            // spread.
            if catch_unwind(AssertUnwindSafe(|| listener(&alert))).is_err() {
                tracing::error!(target: "tollgate::ledger", "the listener for soft limits panicked");
            }
        }
    }
}

impl fmt::Debug for Alerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alerts")
    }
}

//! Who is told when a soft limit is passed.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::domain::budget::SpendingAlert;

type Listener = dyn Fn(&SpendingAlert) + Send + Sync;

/// Tells of soft limits that were passed: an event of `tracing`, target `tollgate::ledger`, and whoever
/// else was named.
#[derive(Clone, Default)]
pub(super) struct Alerts(Option<Arc<Listener>>);

impl Alerts {
    pub(super) fn to(listener: impl Fn(&SpendingAlert) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Tells of each; not under a lock, for the listener is the application's.
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
            // Whoever tells has calls to answer and money to keep: a listener's panic is the listener's alone.
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

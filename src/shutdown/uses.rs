//! What is under way, on one connection or behind one layer.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{State, count::Count};
use crate::sync::atomic::{AtomicU64, Ordering};

/// How often it is looked at in the time that a connection may be idle.
const LOOKS: u32 = 4;
/// The shortest interval: with a time of zero, looking would loop without pause.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Counts for one connection, so that requests on others don't contend for them. The state that all
/// share is written only when the first use begins and when the last ends.
pub(super) struct Uses {
    /// Beginnings and ends, so that it differs after either.
    changes: AtomicU64,
    under_way: Count,
    state: Arc<State>,
}

/// A use, until it is dropped.
pub(super) struct Use(Arc<Uses>);

impl Uses {
    pub(super) fn new(state: Arc<State>) -> Arc<Self> {
        Arc::new(Self {
            changes: AtomicU64::new(0),
            under_way: Count::default(),
            state,
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Use {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.under_way
            .begin(|| self.state.begin_use(), || self.state.end_use());
        Use(Arc::clone(self))
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.state.is_stopping()
    }

    /// Waits until nothing has begun, ended or was under way for a while, apart from `kept`: the
    /// connection itself.
    pub(super) async fn idle(&self, kept: u64, time: Duration) {
        let interval = time.checked_div(LOOKS).unwrap_or_default();
        let interval = interval.max(INTERVAL_MIN);
        let (mut seen, mut looks) = (self.changes.load(Ordering::Relaxed), 0_u32);
        while looks < LOOKS {
            sleep(interval).await;
            let changes = self.changes.load(Ordering::Relaxed);
            let is_idle = changes == seen && self.under_way.get() <= kept;
            (seen, looks) = (changes, if is_idle { looks.saturating_add(1) } else { 0 });
        }
    }
}

impl Use {
    pub(super) fn of(&self) -> &Arc<Uses> {
        &self.0
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::Relaxed);
        self.0.under_way.end(|| self.0.state.end_use());
    }
}

//! Logs routes whose calls cost more than was held for them; otherwise accounts would be overdrawn
//! and nobody would know why.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use hashbrown::HashMap;

use crate::{domain::money::Money, sync::lock};

/// The most routes that are remembered; further ones are not logged. Real tables have fewer.
const ROUTES_MAX: usize = 1_024;

/// How long a route is not logged again.
const QUIET: Duration = Duration::from_secs(60);

/// When each route was last logged, on the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct OverrunLog(Mutex<HashMap<Arc<str>, Duration>>);

impl OverrunLog {
    /// Counts a call of a route, and logs it if none was logged for a while.
    pub(super) fn note(&self, route: &Arc<str>, held: Money, charged: Money, now: Duration) {
        count(route);
        if self.is_due(route, now) {
            tracing::warn!(
                target: "tollgate",
                %route,
                %held,
                %charged,
                "a call cost more than was held for it: calls at once may overdraw their account; see `output_bound`, `input_bound` and `read_use`"
            );
        }
    }

    fn is_due(&self, route: &Arc<str>, now: Duration) -> bool {
        let mut logged = lock(&self.0);
        let has_room = logged.len() < ROUTES_MAX;
        match logged.get_mut(route) {
            Some(last) if now.saturating_sub(*last) < QUIET => false,
            Some(last) => {
                *last = now;
                true
            }
            None if has_room => {
                logged.insert(Arc::clone(route), now);
                true
            }
            None => false,
        }
    }
}

#[cfg(feature = "metrics")]
fn count(route: &Arc<str>) {
    let route = metrics::SharedString::from(Arc::clone(route));
    metrics::counter!(crate::metric::HOLD_OVERRUNS, "route" => route).increment(1);
}

#[cfg(not(feature = "metrics"))]
fn count(_: &Arc<str>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_told_of_once_a_minute_and_no_more_routes_than_so_many() {
        let log = OverrunLog::default();
        let route: Arc<str> = Arc::from("POST /a");
        let at = Duration::from_secs;
        let due: Vec<bool> = [0, 1, 59, 60, 61, 119, 120]
            .map(|second| log.is_due(&route, at(second)))
            .to_vec();
        assert_eq!(due, [true, false, false, true, false, false, true]);
        let others = (1..2_000).filter(|number| log.is_due(&Arc::from(format!("{number}")), at(0)));
        assert_eq!(others.count(), ROUTES_MAX - 1);
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn each_call_is_counted_by_its_route() {
        let (log, cent) = (OverrunLog::default(), Money::from_nanos(10_000_000));
        let names = crate::spending_limit::missing::tests::counted(|| {
            for _ in 0..2 {
                log.note(&Arc::from("POST /a"), Money::ZERO, cent, Duration::ZERO);
            }
        });
        let counted = "tollgate_hold_overruns_total POST /a";
        assert_eq!(names, [counted, counted]);
    }
}

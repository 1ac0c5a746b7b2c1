//! Logs routes whose usage is not reported, since nobody would know otherwise why their calls cost
//! the full hold; and those with usage that has no price.

use std::sync::{Arc, RwLock};

use hashbrown::HashSet;

use super::CostSource;
use crate::{
    domain::money::Money,
    sync::{read, write},
};

/// The most routes that are remembered; further ones are not logged. Real tables have fewer.
const ROUTES_MAX: usize = 1_024;

/// The routes that have been logged, for missing usage and for usage without a price.
#[derive(Debug, Default)]
pub(super) struct MissingUsageLog {
    missing: Routes,
    /// By what has no price.
    unpriced: [Routes; 3],
}

/// What was counted though its price has none for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unpriced {
    Media,
    Searches,
    Tier,
}

impl Unpriced {
    fn as_str(self) -> &'static str {
        match self {
            Self::Media => {
                "audio or images were counted, and cost what text does: the price has none for them"
            }
            Self::Searches => {
                "web searches were counted, and cost nothing: the price has none for them"
            }
            Self::Tier => {
                "the answer names a tier, and costs what it does without: the price lists no tiers"
            }
        }
    }
}

/// Once a route is in it, calls only read it.
#[derive(Debug, Default)]
struct Routes(RwLock<HashSet<Arc<str>>>);

impl MissingUsageLog {
    /// Counts a call of a route, and logs the first one. `is_read`: whether usage is parsed from
    /// this kind of answer.
    pub(super) fn note(
        &self,
        route: &Arc<str>,
        source: &CostSource,
        is_read: bool,
        charged: Money,
    ) {
        count(route);
        if !self.missing.is_new(route) {
            return;
        }
        let why = match source {
            CostSource::Handler => {
                "the handler counted nothing, and the answer is not parsed for usage"
            }
            CostSource::Header(_) => {
                "the header that tells the cost is missing, or is not an amount"
            }
            CostSource::Body if is_read => {
                "there is no usage in the answer; OpenAI streams include it if the request sets stream_options.include_usage"
            }
            CostSource::Body => {
                "the answer is neither JSON nor text/event-stream (as are Bedrock's streams), or is already compressed"
            }
        };
        tracing::warn!(
            target: "tollgate",
            %route,
            why,
            %charged,
            "no usage is reported for this route: `missing_usage` applies; further calls are not logged"
        );
    }

    /// Logs the first call of a route that used something that its price has no price for.
    pub(super) fn note_unpriced(&self, route: &Arc<str>, what: Unpriced) {
        let [media, searches, tier] = &self.unpriced;
        let routes = match what {
            Unpriced::Media => media,
            Unpriced::Searches => searches,
            Unpriced::Tier => tier,
        };
        if routes.is_new(route) {
            tracing::warn!(
                target: "tollgate",
                %route,
                what = what.as_str(),
                "a call used what has no price of its own; further such calls are not logged"
            );
        }
    }
}

impl Routes {
    fn is_new(&self, route: &Arc<str>) -> bool {
        let may_be_new = |logged: &HashSet<_>| logged.len() < ROUTES_MAX && !logged.contains(route);
        if !may_be_new(&read(&self.0)) {
            return false;
        }
        let mut logged = write(&self.0);
        may_be_new(&logged) && logged.insert(Arc::clone(route))
    }
}

#[cfg(feature = "metrics")]
fn count(route: &Arc<str>) {
    let route = metrics::SharedString::from(Arc::clone(route));
    metrics::counter!(crate::metric::USAGE_MISSING, "route" => route).increment(1);
}

#[cfg(not(feature = "metrics"))]
fn count(_: &Arc<str>) {}

#[cfg(test)]
pub(super) mod tests {
    #[cfg(feature = "metrics")]
    use std::sync::Mutex;

    use super::*;

    /// The names and routes of what was counted while `act` ran.
    #[cfg(feature = "metrics")]
    pub(in crate::spending_limit) fn counted(act: impl FnOnce()) -> Vec<String> {
        let names = Names::default();
        metrics::with_local_recorder(&names, act);
        names.0.into_inner().unwrap()
    }

    #[test]
    fn each_route_is_told_of_once_and_no_more_than_so_many() {
        let missing_log = MissingUsageLog::default();
        let mut logged = 0;
        for number in (0..2_000).chain(0..2_000) {
            let route = Arc::from(format!("GET /{number}"));
            logged += usize::from(missing_log.missing.is_new(&route));
        }
        assert_eq!(logged, ROUTES_MAX);
        for kind in &missing_log.unpriced {
            assert!(kind.is_new(&Arc::from("GET /0")), "apart");
            assert!(!kind.is_new(&Arc::from("GET /0")));
        }
    }

    #[cfg(feature = "metrics")]
    #[derive(Default)]
    struct Names(Mutex<Vec<String>>);

    #[cfg(feature = "metrics")]
    impl metrics::Recorder for Names {
        fn describe_counter(
            &self,
            _: metrics::KeyName,
            _: Option<metrics::Unit>,
            _: metrics::SharedString,
        ) {
        }

        fn describe_gauge(
            &self,
            _: metrics::KeyName,
            _: Option<metrics::Unit>,
            _: metrics::SharedString,
        ) {
        }

        fn describe_histogram(
            &self,
            _: metrics::KeyName,
            _: Option<metrics::Unit>,
            _: metrics::SharedString,
        ) {
        }

        fn register_counter(
            &self,
            key: &metrics::Key,
            _: &metrics::Metadata<'_>,
        ) -> metrics::Counter {
            let routes: Vec<&str> = key.labels().map(metrics::Label::value).collect();
            let name = format!("{} {}", key.name(), routes.concat());
            self.0.lock().unwrap().push(name);
            metrics::Counter::noop()
        }

        fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
            metrics::Gauge::noop()
        }

        fn register_histogram(
            &self,
            _: &metrics::Key,
            _: &metrics::Metadata<'_>,
        ) -> metrics::Histogram {
            metrics::Histogram::noop()
        }
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn each_call_is_counted_by_its_route() {
        let missing_log = MissingUsageLog::default();
        let names = counted(|| {
            for _ in 0..2 {
                missing_log.note(&Arc::from("GET /a"), &CostSource::Body, true, Money::ZERO);
            }
        });
        let counted = "tollgate_usage_missing_total GET /a";
        assert_eq!(names, [counted, counted]);
    }
}

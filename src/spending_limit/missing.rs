//! What is said of calls of which nobody told what they used: or nobody would know why they cost their hold.

use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashSet;

use super::CostSource;
use crate::domain::money::Money;

/// Routes that are remembered; of others nothing is said. Tables have fewer.
const ROUTES_MAX: usize = 1_024;

/// The routes of which it was said.
#[derive(Debug, Default)]
pub(super) struct MissedUsage(Mutex<HashSet<Arc<str>>>);

impl MissedUsage {
    /// Counts a call of a route, and says so of the first one. `is_read`: its answer is one that usage is read in.
    pub(super) fn note(
        &self,
        route: &Arc<str>,
        source: &CostSource,
        is_read: bool,
        charged: Money,
    ) {
        count(route);
        if !self.is_new(route) {
            return;
        }
        let why = match source {
            CostSource::Handler => "the handler counted nothing, and the answer is not to be read",
            CostSource::Header(_) => "the header that tells the cost isn't there, or is no amount",
            CostSource::Body if is_read => {
                "there is no usage in the answer; a stream of OpenAI's has one if its request says stream_options.include_usage"
            }
            CostSource::Body => {
                "the answer is no JSON and no text/event-stream, or is compressed before it comes here"
            }
        };
        tracing::warn!(
            target: "tollgate",
            %route,
            why,
            %charged,
            "nobody tells what calls of a route use: each is charged as was set for that, without another word"
        );
    }

    fn is_new(&self, route: &Arc<str>) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < ROUTES_MAX && !told.contains(route) && told.insert(Arc::clone(route))
    }
}

#[cfg(feature = "metrics")]
fn count(route: &Arc<str>) {
    let route = metrics::SharedString::from(Arc::clone(route));
    metrics::counter!("tollgate_usage_missing_total", "route" => route).increment(1);
}

#[cfg(not(feature = "metrics"))]
fn count(_: &Arc<str>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_is_told_of_once_and_no_more_than_so_many() {
        let missed = MissedUsage::default();
        let mut told = 0;
        for number in (0..2_000).chain(0..2_000) {
            told += usize::from(missed.is_new(&Arc::from(format!("GET /{number}"))));
        }
        assert_eq!(told, ROUTES_MAX);
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn each_call_is_counted_by_its_route() {
        use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};

        #[derive(Default)]
        struct Names(Mutex<Vec<String>>);

        impl metrics::Recorder for Names {
            fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
            fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
            fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

            fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
                let routes: Vec<&str> = key.labels().map(metrics::Label::value).collect();
                let name = format!("{} {}", key.name(), routes.concat());
                self.0.lock().unwrap().push(name);
                Counter::noop()
            }

            fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
                Gauge::noop()
            }

            fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
                Histogram::noop()
            }
        }

        let (names, missed) = (Names::default(), MissedUsage::default());
        metrics::with_local_recorder(&names, || {
            for _ in 0..2 {
                missed.note(&Arc::from("GET /a"), &CostSource::Body, true, Money::ZERO);
            }
        });
        let counted = "tollgate_usage_missing_total GET /a";
        assert_eq!(*names.0.lock().unwrap(), [counted, counted]);
    }
}

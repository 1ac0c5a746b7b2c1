//! The names of the metrics, and what is told of them.

/// Decisions of the layers.
pub(crate) const DECISIONS: &str = "tollgate_decisions_total";
/// Calls that reported no usage.
pub(crate) const USAGE_MISSING: &str = "tollgate_usage_missing_total";
/// Calls that cost more than was held.
pub(crate) const HOLD_OVERRUNS: &str = "tollgate_hold_overruns_total";
/// Charges that are to be written again.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) const UNWRITTEN_SETTLEMENTS: &str = "tollgate_unwritten_settlements";

/// Describes [the metrics](crate#what-an-operator-sees) to the recorder of the `metrics` facade,
/// which shows it beside them: in Prometheus as `# HELP`. Call it once, after the recorder was
/// installed; before, it is lost.
///
/// ```
/// # fn install_recorder() {}
/// install_recorder(); // such as metrics_exporter_prometheus::PrometheusBuilder::new().install()
/// tollgate::describe_metrics();
/// ```
pub fn describe_metrics() {
    use metrics::{Unit, describe_counter};

    describe_counter!(
        DECISIONS,
        Unit::Count,
        "Decisions of the layers: admit, refuse, shadow_refuse."
    );
    describe_counter!(
        USAGE_MISSING,
        Unit::Count,
        "Calls that reported no usage, and were charged as the layer says."
    );
    describe_counter!(
        HOLD_OVERRUNS,
        Unit::Count,
        "Calls that cost more than was held for them."
    );
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    metrics::describe_gauge!(
        UNWRITTEN_SETTLEMENTS,
        Unit::Count,
        "Charges that the store failed to write and retries."
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::describe_metrics;

    /// Keeps what is described.
    #[derive(Debug, Default)]
    struct Described(Mutex<Vec<(String, String)>>);

    impl Described {
        fn add(&self, name: &KeyName, text: &SharedString) {
            let mut described = self.0.lock().unwrap();
            described.push((name.as_str().to_owned(), text.to_string()));
        }
    }

    impl Recorder for Described {
        fn describe_counter(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
            self.add(&name, &text);
        }

        fn describe_gauge(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
            self.add(&name, &text);
        }

        fn describe_histogram(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
            self.add(&name, &text);
        }

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    /// The table in the crate's documentation has the same ones.
    #[test]
    fn every_metric_is_described() {
        let recorder = Described::default();
        metrics::with_local_recorder(&recorder, describe_metrics);
        let described = recorder.0.into_inner().unwrap();
        let listed = include_str!("lib.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `tollgate_"))
            .filter_map(|line| line.split_once('`'));
        let listed: Vec<_> = listed
            .map(|(name, _)| format!("tollgate_{name}"))
            .filter(|name| {
                cfg!(any(feature = "postgres", feature = "sqlite"))
                    || !name.ends_with("_settlements")
            })
            .collect();
        let names: Vec<_> = described.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, listed);
        assert!(described.iter().all(|(_, text)| text.ends_with('.')));
    }
}

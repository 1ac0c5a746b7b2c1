//! One event and one counter for every decision, and the fields of the request's span.

use tracing::{Span, level_filters::LevelFilter};

use crate::{
    domain::{RequestId, denial::Denial, principal::Principal},
    trail,
    wire::RequestHead,
};

/// Records the caller in the request's span, if that declares the fields.
pub(super) fn authenticated(principal: &Principal) {
    // Without a subscriber there is no span, and this check is cheaper than looking for one.
    if LevelFilter::current() == LevelFilter::OFF {
        return;
    }
    let span = Span::current();
    span.record("principal", principal.subject());
    span.record("credential", principal.credential().as_str());
}

/// The caller's subject, if known.
fn subject<'a>(head: &RequestHead<'a>) -> Option<&'a str> {
    head.extensions.get().map(Principal::subject)
}

/// Reports an admission.
pub(super) fn admitted(layer: &'static str, head: &RequestHead<'_>, counted: &Counted) {
    counted.admitted(layer);
    tracing::debug!(
        target: "tollgate",
        layer,
        decision = "admit",
        principal = subject(head),
        request_id = head.request_id().map(RequestId::as_str),
        method = head.shown_method(),
        path = &*head.shown_path(),
    );
}

/// Reports a refusal, or in shadow what would have been one.
pub(super) fn refused(layer: &'static str, head: &RequestHead<'_>, denial: &Denial, shadow: bool) {
    let decision = if shadow { "shadow_refuse" } else { "refuse" };
    tracing::info!(
        target: "tollgate",
        layer,
        decision,
        kind = denial.kind().as_str(),
        reason = denial.reason(),
        principal = subject(head),
        request_id = head.request_id().map(RequestId::as_str),
        method = head.shown_method(),
        path = &*head.shown_path(),
    );
    count(layer, decision, denial.kind().as_str());
    if !shadow {
        Span::current().record("denial", denial.kind().as_str());
        trail::refused(layer, denial);
    }
}

/// Reports a refusal that was made outside the gates: by another kind of layer, or a service's
/// interceptor.
pub(crate) fn refused_outside(by: &'static str, request_id: Option<&RequestId>, denial: &Denial) {
    tracing::info!(
        target: "tollgate",
        layer = by,
        decision = "refuse",
        kind = denial.kind().as_str(),
        reason = denial.reason(),
        request_id = request_id.map(RequestId::as_str),
    );
    count(by, "refuse", denial.kind().as_str());
    trail::refused(by, denial);
}

/// Reports a refusal by a handler or an extractor. The audit log takes it from the response.
#[cfg(feature = "axum")]
pub(crate) fn refused_by_handler(denial: &Denial) {
    tracing::info!(
        target: "tollgate",
        layer = HANDLER,
        decision = "refuse",
        kind = denial.kind().as_str(),
        reason = denial.reason(),
    );
    count(HANDLER, "refuse", denial.kind().as_str());
}

/// The `layer` of refusals that no layer made.
#[cfg(feature = "axum")]
const HANDLER: &str = "handler";

/// The counter of a layer's admissions. Its key is built once, because it is used on every request.
#[derive(Default)]
pub(super) struct Counted {
    #[cfg(feature = "metrics")]
    key: std::sync::OnceLock<metrics::Key>,
}

#[cfg(feature = "metrics")]
impl Counted {
    fn admitted(&self, layer: &'static str) {
        let key = self.key.get_or_init(|| key(layer, "admit", ""));
        increment(key);
    }
}

#[cfg(feature = "metrics")]
fn count(layer: &'static str, decision: &'static str, kind: &'static str) {
    increment(&key(layer, decision, kind));
}

#[cfg(feature = "metrics")]
fn key(layer: &'static str, decision: &'static str, kind: &'static str) -> metrics::Key {
    let labels = [("layer", layer), ("decision", decision), ("kind", kind)];
    let labels = labels.map(|(name, value)| metrics::Label::new(name, value));
    metrics::Key::from_parts(crate::metric::DECISIONS, labels.to_vec())
}

#[cfg(feature = "metrics")]
fn increment(key: &metrics::Key) {
    let metadata = metrics::Metadata::new("tollgate", metrics::Level::INFO, Some(module_path!()));
    metrics::with_recorder(|recorder| recorder.register_counter(key, &metadata).increment(1));
}

#[cfg(not(feature = "metrics"))]
impl Counted {
    #[inline]
    fn admitted(&self, _: &'static str) {}
}

#[cfg(not(feature = "metrics"))]
fn count(_: &'static str, _: &'static str, _: &'static str) {}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use std::sync::{Arc, Mutex, atomic::AtomicU64};

    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};

    use super::*;
    use crate::domain::denial::DenialKind;

    /// Keeps the name and labels of every counter that is incremented.
    #[derive(Default)]
    struct Names(Mutex<Vec<String>>);

    impl metrics::Recorder for Names {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            let labels = key
                .labels()
                .map(|label| format!(" {}={}", label.key(), label.value()));
            let name = labels.fold(key.name().to_owned(), |name, label| name + &label);
            if let Ok(mut names) = self.0.lock() {
                names.push(name);
            }
            Counter::from_arc(Arc::new(AtomicU64::new(0)))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn every_decision_is_counted_by_layer_decision_and_kind() {
        let (names, counted) = (Names::default(), Counted::default());
        let request = http::Request::new(());
        let head = RequestHead::of(&request);
        metrics::with_local_recorder(&names, || {
            admitted("jwt", &head, &counted);
            admitted("jwt", &head, &counted);
            refused("rbac", &head, &Denial::new(DenialKind::NotPermitted), false);
            refused("rbac", &head, &Denial::new(DenialKind::NotPermitted), true);
            refused_outside("rbac", None, &Denial::new(DenialKind::NotPermitted));
        });
        let admission = "tollgate_decisions_total layer=jwt decision=admit kind=";
        let refusal = |decision| {
            format!("tollgate_decisions_total layer=rbac decision={decision} kind=not_permitted")
        };
        let expected = [
            admission.to_owned(),
            admission.to_owned(),
            refusal("refuse"),
            refusal("shadow_refuse"),
            refusal("refuse"),
        ];
        assert_eq!(*names.0.lock().unwrap(), expected);
    }
}

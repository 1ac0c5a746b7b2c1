//! One event and one counter for every decision.

use crate::{
    domain::denial::Denial,
    trail,
    wire::{RequestHead, RequestId},
};

/// Says that a request was admitted.
pub(super) fn admitted(layer: &'static str, head: &RequestHead<'_>) {
    tracing::debug!(
        target: "tollgate",
        layer,
        decision = "admit",
        request_id = head.request_id().map(RequestId::as_str),
        method = head.method.as_str(),
        path = head.path(),
    );
    count(layer, "admit", "");
}

/// Says that a request was refused, or would have been.
pub(super) fn refused(layer: &'static str, head: &RequestHead<'_>, denial: &Denial, shadow: bool) {
    let decision = if shadow { "shadow_refuse" } else { "refuse" };
    tracing::info!(
        target: "tollgate",
        layer,
        decision,
        kind = denial.kind().as_str(),
        reason = denial.reason(),
        request_id = head.request_id().map(RequestId::as_str),
        method = head.method.as_str(),
        path = head.path(),
    );
    count(layer, decision, denial.kind().as_str());
    if !shadow {
        trail::refused(layer, denial);
    }
}

#[cfg(feature = "metrics")]
fn count(layer: &'static str, decision: &'static str, kind: &'static str) {
    metrics::counter!(
        "tollgate_decisions_total", "layer" => layer, "decision" => decision, "kind" => kind
    )
    .increment(1);
}

#[cfg(not(feature = "metrics"))]
fn count(_: &'static str, _: &'static str, _: &'static str) {}

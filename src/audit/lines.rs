//! The audit log as lines of the operator's log.

use crate::{domain::audit::AuditEvent, trail::AuditSink};

/// The sink that writes every event to `tracing` at level `INFO` with the target `tollgate::audit`:
/// for services that keep no audit log of their own, or want it collected with their other logs.
///
/// A line says who did what (`actor`), with which key, from where, with what outcome and why, and
/// names the request.
///
/// ```
/// use tollgate::{AuditLayer, Tollgate, audit::AuditLines};
///
/// let layer = AuditLayer::new(AuditLines);
/// let gate = Tollgate::builder().audit(AuditLines).build()?;
/// # Ok::<(), tollgate::TollgateError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct AuditLines;

impl AuditSink for AuditLines {
    fn record(&self, event: AuditEvent) {
        tracing::info!(
            target: "tollgate::audit",
            action = event.action.as_str(),
            outcome = event.outcome.as_str(),
            actor = event.actor.as_deref(),
            key = event.key.as_ref().map(|key| key.as_str()),
            address = event.address.map(display),
            on = event.target.as_deref(),
            reason = event.reason.as_deref(),
            request_id = event.request_id.as_ref().map(|id| id.as_str()),
            route = event.route.as_deref(),
        );
    }

    fn tells_operators(&self) -> bool {
        true
    }
}

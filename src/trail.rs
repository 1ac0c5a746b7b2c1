//! Floor 1: how actions get into the audit log.
//!
//! [`AuditLayer`](crate::AuditLayer) opens a scope around a request; everything that is done within
//! it (a decision of a layer, a key created, a login ended) is recorded with the request's address,
//! id, route and caller. Without a scope there is no sink: acts go only to `tracing`, and decisions
//! cost a single check.

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::task::{JoinHandle, futures::TaskLocalFuture};

use crate::{
    domain::{
        KeyId, RequestId,
        audit::{Act, AuditAction, AuditEvent, AuditOutcome, bounded},
        clock::Clock,
        denial::{Denial, DenialKind},
        principal::Principal,
    },
    store::AuditLog,
};

/// Receives audit events as they happen. It must not block.
pub trait AuditSink: fmt::Debug + Send + Sync + 'static {
    /// Receives an event.
    fn record(&self, event: AuditEvent);

    /// Whether it writes every event to the operator's log itself. Then acts are not logged
    /// elsewhere.
    fn tells_operators(&self) -> bool {
        false
    }
}

impl<T: AuditSink + ?Sized> AuditSink for Arc<T> {
    fn record(&self, event: AuditEvent) {
        T::record(self, event);
    }

    fn tells_operators(&self) -> bool {
        T::tells_operators(self)
    }
}

/// The sink that writes to an [`AuditLog`]. Events that the log does not accept are counted and
/// reported in the operator's log.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::audit::{Act, AuditAction, AuditEvent, AuditFilter, AuditSink, AuditTrail};
/// use tollgate::clock::{Clock, SystemClock};
/// use tollgate::store::{AuditLog, MemoryStore, Page};
///
/// let store = MemoryStore::new();
/// let trail = AuditTrail::new(store.clone());
/// let act = Act::new(AuditAction::new("config.update")).actor("user-1");
/// trail.record(AuditEvent::new(SystemClock::shared().now(), act));
///
/// let entries = store.entries(AuditFilter::default(), Page::first(10)).await?;
/// assert_eq!(entries.items[0].event.actor.as_deref(), Some("user-1"));
/// assert_eq!(trail.lost(), 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct AuditTrail {
    log: Arc<dyn AuditLog>,
    refused: AtomicU64,
}

impl AuditTrail {
    /// Writes to `log`.
    #[must_use]
    pub fn new(log: impl AuditLog) -> Self {
        Self {
            log: Arc::new(log),
            refused: AtomicU64::new(0),
        }
    }

    /// How many events are missing from the log.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let refused = self.refused.load(Ordering::Relaxed);
        refused.saturating_add(self.log.lost())
    }
}

impl AuditSink for AuditTrail {
    fn record(&self, event: AuditEvent) {
        let Err(error) = self.log.append(event) else {
            return;
        };
        let before = self.refused.fetch_add(1, Ordering::Relaxed);
        let lost = before.saturating_add(1);
        // Logged only at every doubling, so that losses don't flood the log.
        if lost.is_power_of_two() {
            tracing::error!(target: "tollgate::audit", %error, lost, "audit events are lost");
        }
    }
}

tokio::task_local! {
    static SCOPE: Arc<Scope>;
}

/// The context of a request, for everything that is done within it.
pub(crate) struct Scope {
    pub(crate) sink: Arc<dyn AuditSink>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) request_id: OnceLock<RequestId>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) caller: OnceLock<Principal>,
    /// Whether a refusal has already been recorded.
    pub(crate) refusal_recorded: AtomicBool,
}

impl Scope {
    fn record(&self, act: Act) {
        self.record_of(None, act);
    }

    /// Records an act on `key`; `None` means the caller's key, if there is one.
    fn record_of(&self, key: Option<&KeyId>, act: Act) {
        if act.outcome != AuditOutcome::Success {
            self.refusal_recorded.store(true, Ordering::Relaxed);
        }
        let mut event = AuditEvent::new(self.clock.now(), act);
        event.key = key.cloned();
        event.address = self.address;
        event.request_id = self.request_id.get().cloned();
        event.route.clone_from(&self.route);
        if let Some(caller) = self.caller.get() {
            event.key = event.key.or_else(|| caller.key().cloned());
            if event.actor.is_none() {
                event.actor = Some(bounded(caller.subject()));
            }
        }
        self.sink.record(event);
    }

    /// Records a refusal that no layer has recorded: a handler's own, or a router's.
    pub(crate) fn refused_by_the_application(&self, denial: &Denial) {
        if !self.refusal_recorded.load(Ordering::Relaxed) {
            self.refused("application", denial);
        }
    }

    fn refused(&self, by: &'static str, denial: &Denial) {
        let kind = denial.kind();
        let action = if kind.is_authentication() {
            AuditAction::AUTHENTICATE
        } else {
            AuditAction::new(by)
        };
        let outcome = match kind {
            DenialKind::Unavailable | DenialKind::Internal => AuditOutcome::Failed,
            _ => AuditOutcome::Refused,
        };
        let why = match denial.reason() {
            "" => kind.as_str().to_owned(),
            reason => format!("{}: {reason}", kind.as_str()),
        };
        let act = Act::new(action).outcome(outcome).because(&why);
        match denial.holder() {
            Some(holder) => self.record_of(holder.key.as_ref(), act.actor(&holder.subject)),
            None => self.record(act),
        }
    }
}

/// Runs `call` in a scope.
pub(crate) fn within<T>(scope: &Arc<Scope>, call: impl FnOnce() -> T) -> T {
    SCOPE.sync_scope(Arc::clone(scope), call)
}

/// Runs `future` in a scope.
pub(crate) fn scoped<F: Future>(scope: Arc<Scope>, future: F) -> TaskLocalFuture<Arc<Scope>, F> {
    SCOPE.scope(scope, future)
}

/// Spawns a task in the scope of the current one.
pub(crate) fn spawn<T>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T>
where
    T: Send + 'static,
{
    match SCOPE.try_with(Arc::clone) {
        Ok(scope) => tokio::spawn(SCOPE.scope(scope, task)),
        Err(_) => tokio::spawn(task),
    }
}

/// Records an act in the audit log of the [`AuditLayer`](crate::AuditLayer) around the current
/// request, and in the operator's log. Keys and logins are recorded automatically; applications
/// record what only they know.
pub fn record(act: Act) {
    let is_logged = SCOPE.try_with(|scope| scope.sink.tells_operators());
    if !is_logged.unwrap_or(false) {
        tracing::info!(
            target: "tollgate::audit",
            action = act.action.as_str(),
            outcome = act.outcome.as_str(),
            actor = act.actor.as_deref(),
            on = act.target.as_deref(),
            reason = act.reason.as_deref(),
        );
    }
    let _ = SCOPE.try_with(|scope| scope.record(act));
}

/// Sets the id of the current request, if it has none yet.
pub(crate) fn named(request_id: &RequestId) {
    let _ = SCOPE.try_with(|scope| scope.request_id.set(request_id.clone()));
}

/// Records that a caller authenticated, and attributes later acts to that caller.
pub(crate) fn authenticated(principal: &Principal) {
    let _ = SCOPE.try_with(|scope| {
        if scope.caller.set(principal.clone()).is_ok() {
            scope.record(Act::new(AuditAction::AUTHENTICATE));
        }
    });
}

/// Records a handler's refusal, unless a layer has recorded one.
#[cfg(feature = "tonic")]
pub(crate) fn refused_by_the_application(denial: &Denial) {
    let _ = SCOPE.try_with(|scope| scope.refused_by_the_application(denial));
}

/// Records a layer's refusal.
pub(crate) fn refused(layer: &'static str, denial: &Denial) {
    let _ = SCOPE.try_with(|scope| scope.refused(layer, denial));
}

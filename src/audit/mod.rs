//! A record of who did what: [`AuditLayer`].
//!
//! - Refuses nothing. Stands outside every layer that decides; only
//!   [`RequestIdLayer`](crate::RequestIdLayer) is further out, so that entries carry the request's
//!   id.
//! - Records every authentication, every refusal (by a layer further in, a handler or a router:
//!   each response of 400 and above, and gRPC's equivalents), and every operation on keys and
//!   logins that a handler performs, with caller, address, request id and route. What only the
//!   application knows, it records by [`record`].
//! - Names the caller of a refused request if known, including the holder of a key or token that
//!   was once good; never by what an unverified token claims.
//! - A flood of refusals does not displace operations: refusals of unauthenticated callers, and the
//!   entries of any one caller, have their own shares of the log
//!   ([`AuditLog`](crate::store::AuditLog)).
//! - Never waits: an event goes to an [`AuditSink`] (a store's log, through an [`AuditTrail`], or
//!   the operator's, through [`AuditLines`]), and what a full or failing log doesn't accept is
//!   counted ([`AuditTrail::lost`]). An event contains no query and no header, and of anything in a
//!   path or a target that looks like a secret (a key, a token) at most the first eight characters.
//!
//! Anything done by a task that a handler spawns is outside the request; it goes to `tracing` only.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::convert::Infallible;
//! use tollgate::{AuditLayer, RbacLayer, audit::{AuditFilter, AuditTrail}, role::RoleSet};
//! use tollgate::store::{AuditLog, MemoryStore, Page};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let store = MemoryStore::new();
//! let service = ServiceBuilder::new()
//!     .layer(AuditLayer::new(AuditTrail::new(store.clone())))
//!     .layer(RbacLayer::require(&RoleSet::viewer_operator_admin(), "read"))
//!     .service(service_fn(async |_| Ok::<_, Infallible>(http::Response::new("hello".to_owned()))));
//! let stranger = http::Request::get("/documents?token=secret").body(())?;
//! assert_eq!(service.oneshot(stranger).await?.status(), 401);
//!
//! let entries = store.entries(AuditFilter::default(), Page::first(10)).await?.items;
//! assert_eq!(entries[0].event.action.as_str(), "authenticate");
//! assert_eq!(entries[0].event.outcome.as_str(), "refused");
//! assert_eq!(entries[0].event.route.as_deref(), Some("GET /documents"));
//! # Ok(()) }
//! ```

mod lines;

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tower_layer::Layer;
use tower_service::Service;

pub use self::lines::AuditLines;
pub use crate::{
    domain::audit::{Act, AuditAction, AuditEntry, AuditEvent, AuditFilter, AuditOutcome},
    trail::{AuditSink, AuditTrail, record},
};
use crate::{
    domain::{
        RequestId,
        audit::bounded,
        clock::{Clock, SystemClock},
        denial::{Denial, DenialKind},
    },
    trail::{self, Scope},
    wire::{ClientAddress, RequestHead, kind_of_grpc_answer, kind_of_status},
};

/// Records what happens further in. See the [module](self).
#[derive(Clone)]
pub struct AuditLayer {
    /// `None`: nothing is recorded.
    settings: Option<Arc<Settings>>,
}

#[derive(Clone)]
struct Settings {
    sink: Arc<dyn AuditSink>,
    address: ClientAddress,
    clock: Arc<dyn Clock>,
}

impl AuditLayer {
    /// Records to `sink`.
    #[must_use]
    pub fn new(sink: impl AuditSink) -> Self {
        let settings = Settings {
            sink: Arc::new(sink),
            address: ClientAddress::peer(),
            clock: SystemClock::shared(),
        };
        Self {
            settings: Some(Arc::new(settings)),
        }
    }

    /// Records nothing.
    pub(crate) fn off() -> Self {
        Self { settings: None }
    }

    /// How the client's address is found; the peer's unless set. If it can't be found, the entry
    /// has none.
    #[must_use]
    pub fn client_address(self, address: ClientAddress) -> Self {
        self.change(|settings| settings.address = address)
    }

    /// Another source of time.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        self.change(|settings| settings.clock = clock)
    }

    fn change(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        if let Some(settings) = &mut self.settings {
            change(Arc::make_mut(settings));
        }
        self
    }
}

impl fmt::Debug for AuditLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sink = self.settings.as_ref().map(|settings| &settings.sink);
        f.debug_struct("AuditLayer").field("sink", &sink).finish()
    }
}

impl<S> Layer<S> for AuditLayer {
    type Service = Audited<S>;

    fn layer(&self, inner: S) -> Audited<S> {
        Audited {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service whose requests are recorded.
#[derive(Clone, Debug)]
pub struct Audited<S> {
    inner: S,
    layer: AuditLayer,
}

impl Settings {
    fn scope(&self, head: &RequestHead<'_>) -> Scope {
        let route = format!("{} {}", head.shown_method(), head.shown_path());
        Scope {
            sink: Arc::clone(&self.sink),
            clock: Arc::clone(&self.clock),
            address: self.address.resolve(head).ok(),
            request_id: named(head),
            route: Some(bounded(&route).into()),
            caller: OnceLock::new(),
            refusal_recorded: AtomicBool::new(false),
        }
    }
}

impl<S, B, C> Service<Request<B>> for Audited<S>
where
    S: Service<Request<B>, Response = Response<C>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = AuditFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> AuditFuture<S::Future> {
        let Some(settings) = &self.layer.settings else {
            return AuditFuture(State::Plain(self.inner.call(request)));
        };
        let scope = Arc::new(settings.scope(&RequestHead::of(&request)));
        let answer = trail::within(&scope, || self.inner.call(request));
        AuditFuture(State::Scoped {
            answer: trail::scoped(Arc::clone(&scope), answer),
            scope,
        })
    }
}

/// The response future of an [`Audited`] service.
#[pin_project]
pub struct AuditFuture<F>(#[pin] State<F>);

#[pin_project(project = StateProjection)]
enum State<F> {
    Plain(#[pin] F),
    Scoped {
        #[pin]
        answer: TaskLocalFuture<Arc<Scope>, F>,
        scope: Arc<Scope>,
    },
}

impl<F, C, E> Future for AuditFuture<F>
where
    F: Future<Output = Result<Response<C>, E>>,
{
    type Output = Result<Response<C>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProjection::Plain(answer) => answer.poll(context),
            StateProjection::Scoped { answer, scope } => {
                let answer = ready!(answer.poll(context));
                if let Ok(answer) = &answer
                    && let Some(denial) = refusal(answer)
                {
                    scope.refused_by_the_application(&denial);
                }
                Poll::Ready(answer)
            }
        }
    }
}

/// The id that an outer layer has assigned to the request; if there is none, an inner layer may
/// still set it.
fn named(head: &RequestHead<'_>) -> OnceLock<RequestId> {
    let id = head.request_id();
    id.map_or_else(OnceLock::new, |id| id.clone().into())
}

/// The refusal that a response carries, or that its status alone implies.
fn refusal<C>(answer: &Response<C>) -> Option<Cow<'_, Denial>> {
    if let Some(denial) = answer.extensions().get() {
        return Some(Cow::Borrowed(denial));
    }
    let status = answer.status();
    let bare = |unless: DenialKind| {
        let kind = kind_of_status(status).unwrap_or(unless);
        Denial::new(kind).because(status.as_str().to_owned())
    };
    Some(Cow::Owned(match status.as_u16() {
        0..400 => Denial::new(kind_of_grpc_answer(answer.headers())?).because("by gRPC"),
        400..500 => bare(DenialKind::Malformed),
        _ => bare(DenialKind::Internal),
    }))
}

impl<F> fmt::Debug for AuditFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditFuture")
    }
}

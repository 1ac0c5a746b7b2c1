//! The finished gate: all layers in order.

use std::sync::Arc;

use tower_layer::Layer;

use crate::{
    audit::{AuditLayer, Audited},
    denials::DenialsPolicy,
    guard::{
        Decision, Gate, Guard, Identified, Policy,
        course::{Several, Then, Unless},
    },
    ip_allow::IpAllowPolicy,
    rate_limit::{ConcurrencyLimitPolicy, RateLimitPolicy},
    rbac::RbacPolicy,
    request_id::RequestIdPolicy,
    spending_limit::SpendingLimitPolicy,
    wire::RequestHead,
};

/// The authentication of a gate without one. This type has no values.
#[derive(Clone, Debug)]
pub enum NoAuthentication {}

impl Policy for NoAuthentication {
    type Permit = Identified;

    fn name(&self) -> &'static str {
        match *self {}
    }

    fn decide(&self, _: &RequestHead<'_>) -> Decision<Identified> {
        match *self {}
    }
}

/// The whole gate. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct TollgateLayer<A: Policy> {
    audit: AuditLayer,
    course: Arc<WholeCourse<A>>,
}

/// The gates for requests that aren't skipped, from the outside in.
type Guarded<A> = Then<Option<Gate<IpAllowPolicy>>, Located<A>>;
type Located<A> =
    Then<Option<Gate<RateLimitPolicy>>, Then<Several<RateLimitPolicy>, Unless<Authenticated<A>>>>;
type Authenticated<A> = Then<Option<Gate<A>>, Then<Option<Gate<ConcurrencyLimitPolicy>>, Metered>>;
type Metered = Then<Option<Gate<RateLimitPolicy>>, Then<Several<RateLimitPolicy>, Paying>>;
type Paying = Then<Option<Gate<RbacPolicy>>, Option<Gate<SpendingLimitPolicy>>>;

/// All gates of a [`TollgateLayer`].
pub(super) type WholeCourse<A> =
    Then<Gate<RequestIdPolicy>, Then<Gate<DenialsPolicy>, Unless<Guarded<A>>>>;

impl<A: Policy> TollgateLayer<A> {
    pub(super) fn new(audit: AuditLayer, course: WholeCourse<A>) -> Self {
        Self {
            audit,
            course: Arc::new(course),
        }
    }
}

impl<S, A: Policy<Permit = Identified>> Layer<S> for TollgateLayer<A> {
    type Service = Audited<Guard<S, Arc<WholeCourse<A>>>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.audit
            .layer(Guard::new(inner, Arc::clone(&self.course)))
    }
}

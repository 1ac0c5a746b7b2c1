//! What operators may ask and do while a layer is at work.

use super::{
    RateLimitPolicy,
    policy::{Engine, Place},
};
use crate::{
    domain::denial::Denial,
    store::{RateLimiterStatistics, Readings, StoreError},
    wire::RequestHead,
};

/// A handle on the counts of a [`RateLimitLayer`](super::RateLimitLayer). Whose they are is told by a
/// request's head: that of a request under way, or one made for the purpose.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::{CredentialKind, Principal, RateLimitLayer, RequestHead, quota::Quota};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let layer = RateLimitLayer::per_principal(Quota::per_minute(60));
/// let limits = layer.limits();
/// let request = || {
///     let mut request = http::Request::new(());
///     request.extensions_mut().insert(Principal::builder("user-7", CredentialKind::ApiKey).build());
///     request
/// };
/// let service = layer.layer(service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))));
/// service.oneshot(request()).await?;
/// let request = request();
/// let head = RequestHead::of(&request);
/// assert_eq!(limits.peek(&head).await?.remaining(), 59);
/// limits.reset(&head).await?;
/// assert_eq!(limits.peek(&head).await?.remaining(), 60);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RateLimits {
    policy: RateLimitPolicy,
}

/// Why a handle has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RateLimitsError {
    /// The head doesn't say whose counts are meant.
    #[error("nobody is meant: {0}")]
    Nobody(Denial),
    /// The shared store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RateLimits {
    pub(super) fn new(policy: &RateLimitPolicy) -> Self {
        Self {
            policy: policy.clone(),
        }
    }

    /// What is left to whoever sends such a request.
    ///
    /// # Errors
    /// When the head says nobody, or the shared store failed.
    pub async fn peek(&self, head: &RequestHead<'_>) -> Result<Readings, RateLimitsError> {
        let settings = &self.policy.settings;
        let quotas = settings.quotas(head);
        let answer = {
            let counted = settings.key.of(head).map_err(RateLimitsError::Nobody)?;
            match self.policy.place(&counted) {
                Place::Here(limiter) => return Ok(limiter.peek(&counted, &quotas)),
                Place::Named(key, store) => store.peek(&key, &quotas),
            }
        };
        Ok(answer.await?)
    }

    /// Forgets what whoever sends such a request has used.
    ///
    /// # Errors
    /// When the head says nobody, or the shared store failed.
    pub async fn reset(&self, head: &RequestHead<'_>) -> Result<(), RateLimitsError> {
        let answer = {
            let key = &self.policy.settings.key;
            let counted = key.of(head).map_err(RateLimitsError::Nobody)?;
            match self.policy.place(&counted) {
                Place::Here(limiter) => {
                    limiter.reset(&counted);
                    return Ok(());
                }
                Place::Named(key, store) => store.reset(&key),
            }
        };
        Ok(answer.await?)
    }

    /// How many callers are counted now: those who have used something that isn't there again. Of a layer with a store
    /// of its own, ask the store.
    #[must_use]
    pub fn keys(&self) -> Option<usize> {
        match &self.policy.engine {
            Engine::Memory(limiter) => Some(limiter.len()),
            Engine::Shared(..) => None,
        }
    }

    /// How many were admitted and refused; of a layer with a store of its own, ask the store.
    #[must_use]
    pub fn statistics(&self) -> Option<RateLimiterStatistics> {
        match &self.policy.engine {
            Engine::Memory(limiter) => Some(limiter.statistics()),
            Engine::Shared(..) => None,
        }
    }
}

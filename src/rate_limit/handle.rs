//! What operators can inspect and change while a layer is in use.

use super::{
    RateLimitPolicy,
    policy::{Counter, Engine},
};
use crate::{
    domain::denial::Denial,
    store::{RateLimiterStatistics, Readings, StoreError},
    wire::RequestHead,
};

/// A handle on the counts of a [`RateLimitLayer`](super::RateLimitLayer). A request head selects
/// the client: that of a real request, or one made for this purpose.
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

/// Why an operation on the counts failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RateLimitsError {
    /// The head doesn't identify a client.
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

    /// What is left for the sender of such a request.
    ///
    /// # Errors
    /// If the head doesn't identify a client, or the shared store failed.
    pub async fn peek(&self, head: &RequestHead<'_>) -> Result<Readings, RateLimitsError> {
        let settings = &self.policy.settings;
        let quotas = settings.quotas(head);
        let answer = {
            let counted = settings.key.of(head).map_err(RateLimitsError::Nobody)?;
            match self.policy.counter(&counted) {
                Counter::InProcess(limiter) => return Ok(limiter.peek(&counted, &quotas)),
                Counter::InStore(key, store) => store.peek(&key, &quotas),
            }
        };
        Ok(answer.await?)
    }

    /// Resets the counts of the sender of such a request.
    ///
    /// # Errors
    /// If the head doesn't identify a client, or the shared store failed.
    pub async fn reset(&self, head: &RequestHead<'_>) -> Result<(), RateLimitsError> {
        let answer = {
            let key = &self.policy.settings.key;
            let counted = key.of(head).map_err(RateLimitsError::Nobody)?;
            match self.policy.counter(&counted) {
                Counter::InProcess(limiter) => {
                    limiter.reset(&counted);
                    return Ok(());
                }
                Counter::InStore(key, store) => store.reset(&key),
            }
        };
        Ok(answer.await?)
    }

    /// How many callers are being counted: those who have used something that has not been restored
    /// yet. `None` for a layer with a store; ask the store.
    #[must_use]
    pub fn keys(&self) -> Option<usize> {
        match &self.policy.engine {
            Engine::Memory(limiter) => Some(limiter.len()),
            Engine::Shared(..) => None,
        }
    }

    /// How many requests were admitted and refused. `None` for a layer with a store; ask the store.
    #[must_use]
    pub fn statistics(&self) -> Option<RateLimiterStatistics> {
        match &self.policy.engine {
            Engine::Memory(limiter) => Some(limiter.statistics()),
            Engine::Shared(..) => None,
        }
    }
}

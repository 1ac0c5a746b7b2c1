//! Where requests are counted.

use std::sync::Arc;

use tollgate::{
    RateLimitLayer, TollgateBuilder,
    guard::{Identified, Policy},
    store::RateStore,
};

use super::{StartError, optional};

/// Where requests are counted: in this process, or as `REDIS_URL` says.
#[derive(Clone)]
pub(crate) struct RateLimits(Option<Arc<dyn RateStore>>);

impl RateLimits {
    /// `redis://…`. If the server is unreachable, startup continues; until it is there, this
    /// process counts by itself.
    pub(crate) async fn open(server: &str) -> Result<Self, StartError> {
        match optional("REDIS_URL")? {
            None => Ok(Self(None)),
            Some(url) => Ok(Self(Some(shared(&url, server).await?))),
        }
    }

    /// Shares a layer's counts with other processes under that name, if there is a server.
    pub(crate) fn share(&self, name: &str, layer: RateLimitLayer) -> RateLimitLayer {
        match &self.0 {
            Some(store) => layer.with_store(name, Arc::clone(store)),
            None => layer,
        }
    }

    /// Shares a gate's counts.
    pub(crate) fn share_all<A>(&self, gate: TollgateBuilder<A>) -> TollgateBuilder<A>
    where
        A: Policy<Permit = Identified> + Clone,
    {
        match &self.0 {
            Some(store) => gate.with_rate_store(Arc::clone(store)),
            None => gate,
        }
    }
}

#[cfg(feature = "redis")]
async fn shared(url: &str, server: &str) -> Result<Arc<dyn RateStore>, StartError> {
    use tollgate::store::{RedisClient, RedisRateLimiter};

    let client = RedisClient::new(url).prefix(server);
    let limiter = RedisRateLimiter::builder(client)
        .build()
        .map_err(|error| format!("REDIS_URL: {error}"))?;
    if let Err(error) = limiter.connect().await {
        tracing::warn!(%error, "REDIS_URL: not there yet");
    }
    Ok(Arc::new(limiter))
}

#[cfg(not(feature = "redis"))]
async fn shared(_: &str, _: &str) -> Result<Arc<dyn RateStore>, StartError> {
    Err("REDIS_URL: this build was made without the feature `redis`".into())
}

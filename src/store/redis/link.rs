//! A connection to a server with a deadline, and with a breaker while it is known to be down.

use std::{pin::pin, sync::Arc, time::Duration};

use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, aio::ConnectionLike};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;
use super::{connections::Resend, servers::Servers};
use crate::{
    domain::clock::SystemClock,
    store::{
        StoreError,
        remote::{self, Availability, RemoteServer},
    },
};

/// A clone is a reference count.
#[derive(Clone, Debug)]
pub(super) struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    servers: Arc<Servers>,
    availability: Availability,
}

#[derive(Clone, Copy)]
enum RedisRequest<'a> {
    One(&'a Cmd),
    All(&'a Pipeline),
}

impl RedisRequest<'_> {
    async fn send<T: FromRedisValue>(self, connection: &mut impl ConnectionLike) -> RedisResult<T> {
        match self {
            Self::One(command) => command.query_async(connection).await,
            Self::All(commands) => commands.query_async(connection).await,
        }
    }
}

impl Link {
    /// Nothing is connected yet: see [`connect`](Self::connect).
    pub(super) fn new(servers: Arc<Servers>, deadline: Duration) -> Self {
        Self(Arc::new(Inner {
            servers,
            availability: Availability::new(deadline, SystemClock::shared()),
        }))
    }

    /// Connects, and returns whether that succeeded. If not, retries continue in the background.
    pub(super) async fn connect(&self) -> Result<(), StoreError> {
        remote::connect(&self.0).await
    }

    /// Sends one command. After a failure it may or may not have been carried out.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        command: &Cmd,
        resend: Resend,
    ) -> Result<T, StoreError> {
        let answer = self.send(RedisRequest::One(command), resend);
        remote::ask(&self.0, pin!(answer)).await
    }

    /// Sends several commands in one round trip, without resending.
    pub(super) async fn ask_all<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, StoreError> {
        let answers = self.send(RedisRequest::All(commands), Resend::Never);
        remote::ask(&self.0, pin!(answers)).await
    }

    async fn send<T: FromRedisValue>(
        &self,
        request: RedisRequest<'_>,
        resend: Resend,
    ) -> Result<T, StoreError> {
        match &*self.0.servers {
            Servers::One(connections) => {
                let mut borrowed = connections.next().await?;
                loop {
                    match request.send(&mut borrowed.connection).await {
                        Ok(answer) => return Ok(answer),
                        Err(error) => {
                            borrowed = connections.for_retry(borrowed, &error, resend).await?
                        }
                    }
                }
            }
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(cluster) => {
                let answer = request.send(&mut cluster.connection(resend)?).await;
                answer.map_err(|error| Cluster::failed(&error, resend))
            }
        }
    }
}

impl RemoteServer for Inner {
    fn availability(&self) -> &Availability {
        &self.availability
    }

    async fn revive(&self) -> Result<(), StoreError> {
        self.servers.revive().await
    }

    fn is_lost(&self, error: &StoreError) {
        tracing::warn!(target: "tollgate::redis", %error, "Redis is unavailable");
    }

    fn is_back(&self) {
        tracing::info!(target: "tollgate::redis", "Redis is available again");
    }
}

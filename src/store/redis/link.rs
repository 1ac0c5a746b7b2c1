//! A connection to a server with a deadline, and with a breaker while it is known to be down.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, aio::ConnectionLike};
use tokio::time::{sleep, timeout};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;
use super::{Servers, connections::Resend};
use crate::{
    domain::clock::{Clock, SystemClock},
    store::{
        StoreError, StoreErrorKind,
        rate::{Breaker, Failure},
    },
};

/// A clone is a reference count.
#[derive(Clone, Debug)]
pub(super) struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    servers: Servers,
    deadline: Duration,
    breaker: Breaker,
    clock: Arc<dyn Clock>,
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
    pub(super) fn new(servers: Servers, deadline: Duration) -> Self {
        Self(Arc::new(Inner {
            servers,
            deadline,
            breaker: Breaker::default(),
            clock: SystemClock::shared(),
        }))
    }

    /// Connects, and returns whether that succeeded. If not, retries continue in the background.
    pub(super) async fn connect(&self) -> Result<(), StoreError> {
        let outcome = self.0.servers.revive().await;
        if let Err(error) = &outcome {
            self.failed(Failure::Final, error);
        }
        outcome
    }

    /// Sends one command. After a failure it may or may not have been carried out.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        command: &Cmd,
        resend: Resend,
    ) -> Result<T, StoreError> {
        self.guard(self.send(RedisRequest::One(command), resend))
            .await
    }

    /// Sends several commands in one round trip, without resending.
    pub(super) async fn ask_all<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, StoreError> {
        let answers = self.send(RedisRequest::All(commands), Resend::Never);
        self.guard(answers).await
    }

    async fn send<T: FromRedisValue>(
        &self,
        request: RedisRequest<'_>,
        resend: Resend,
    ) -> Result<T, StoreError> {
        match &self.0.servers {
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

    async fn guard<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if self.0.breaker.is_open() {
            let text = "Redis can't be reached";
            return Err(StoreError::new(StoreErrorKind::Unavailable, text));
        }
        let (error, failure) = match timeout(self.0.deadline, answer).await {
            Ok(Ok(answer)) => {
                self.0.breaker.succeeded();
                return Ok(answer);
            }
            Ok(Err(error)) if error.kind() == StoreErrorKind::Unavailable => {
                (error, Failure::Final)
            }
            Ok(Err(error)) => (error, Failure::Passing),
            Err(_) => {
                let text = "Redis did not answer in time";
                let error = StoreError::new(StoreErrorKind::Unavailable, text);
                (error, Failure::Passing)
            }
        };
        self.failed(failure, &error);
        Err(error)
    }

    fn failed(&self, failure: Failure, error: &StoreError) {
        if self.0.breaker.failed(failure) {
            tracing::warn!(target: "tollgate::redis", %error, "Redis is unavailable");
            self.watch_for_recovery();
        }
    }

    /// Checks until the server is back: one task for each time the breaker opens. It ends with the
    /// link.
    fn watch_for_recovery(&self) {
        let link = Arc::downgrade(&self.0);
        let mut pauses = self.0.breaker.pauses(self.0.clock.elapsed());
        tokio::spawn(async move {
            loop {
                sleep(pauses.next()).await;
                let Some(inner) = link.upgrade() else {
                    return;
                };
                if inner.servers.revive().await.is_ok() {
                    inner.breaker.close(inner.clock.elapsed());
                    tracing::info!(target: "tollgate::redis", "Redis is available again");
                    return;
                }
            }
        });
    }
}

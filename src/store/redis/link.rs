//! A server that is asked for no longer than a deadline, and not at all while it is known to be gone.

use std::{sync::Arc, time::Duration};

use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, aio::ConnectionLike};
use tokio::time::{sleep, timeout};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;
use super::{Servers, connections::Repeat};
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
enum Things<'a> {
    One(&'a Cmd),
    All(&'a Pipeline),
}

impl Things<'_> {
    async fn put<T: FromRedisValue>(self, connection: &mut impl ConnectionLike) -> RedisResult<T> {
        match self {
            Self::One(command) => command.query_async(connection).await,
            Self::All(commands) => commands.query_async(connection).await,
        }
    }
}

impl Link {
    /// Nothing is connected yet: [`connect`](Self::connect).
    pub(super) fn new(servers: Servers, deadline: Duration) -> Self {
        Self(Arc::new(Inner {
            servers,
            deadline,
            breaker: Breaker::default(),
            clock: SystemClock::shared(),
        }))
    }

    /// Connects, and tells whether that went well. If not, it is tried again in the background.
    pub(super) async fn connect(&self) -> Result<(), StoreError> {
        let outcome = self.0.servers.revive().await;
        if let Err(error) = &outcome {
            self.failed(Failure::Final, error);
        }
        outcome
    }

    /// Asks for one thing. After a failure it may have been done or not.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        command: &Cmd,
        repeat: Repeat,
    ) -> Result<T, StoreError> {
        self.judge(self.put(Things::One(command), repeat)).await
    }

    /// Asks for several things in one round trip, once.
    pub(super) async fn ask_all<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, StoreError> {
        let answers = self.put(Things::All(commands), Repeat::Never);
        self.judge(answers).await
    }

    async fn put<T: FromRedisValue>(
        &self,
        things: Things<'_>,
        repeat: Repeat,
    ) -> Result<T, StoreError> {
        match &self.0.servers {
            Servers::One(connections) => {
                let mut line = connections.next().await?;
                loop {
                    match things.put(&mut line.connection).await {
                        Ok(answer) => return Ok(answer),
                        Err(error) => line = connections.another(line, &error, repeat).await?,
                    }
                }
            }
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(cluster) => {
                let answer = things.put(&mut cluster.connection(repeat)?).await;
                answer.map_err(|error| Cluster::failed(&error, repeat))
            }
        }
    }

    async fn judge<T>(
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
            tracing::warn!(target: "tollgate::redis", %error, "Redis is gone");
            self.look_after();
        }
    }

    /// Looks whether the server is back until it is: one task for each time that the breaker opens. It ends with
    /// the link.
    fn look_after(&self) {
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
                    tracing::info!(target: "tollgate::redis", "Redis is back");
                    return;
                }
            }
        });
    }
}

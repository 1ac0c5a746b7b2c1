//! A server that is asked for no longer than a deadline, and not at all while it is known to be gone.

use std::{sync::Arc, time::Duration};

use redis::{Client, Cmd, FromRedisValue, Pipeline, RedisResult, aio::MultiplexedConnection};
use tokio::time::{error::Elapsed, sleep, timeout};

use super::connections::Connections;
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
    connections: Connections,
    deadline: Duration,
    breaker: Breaker,
    clock: Arc<dyn Clock>,
}

impl Link {
    /// Nothing is connected yet: [`connect`](Self::connect).
    pub(super) fn new(client: Client, connections: usize, deadline: Duration) -> Self {
        Self(Arc::new(Inner {
            connections: Connections::new(client, connections),
            deadline,
            breaker: Breaker::default(),
            clock: SystemClock::shared(),
        }))
    }

    /// Connects, and tells whether that went well. If not, it is tried again in the background.
    pub(super) async fn connect(&self) -> Result<(), StoreError> {
        let outcome = self.0.connections.revive().await;
        if let Err(error) = &outcome {
            self.failed(Failure::Final, error);
        }
        outcome
    }

    /// Asks for one thing. After a failure it may have been done or not.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let (slot, mut connection) = self.connection()?;
        let answer = command.query_async(&mut connection);
        self.judge(slot, timeout(self.0.deadline, answer).await)
    }

    /// Asks for several things in one round trip.
    pub(super) async fn ask_all<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
    ) -> Result<T, StoreError> {
        let (slot, mut connection) = self.connection()?;
        let answers = commands.query_async(&mut connection);
        self.judge(slot, timeout(self.0.deadline, answers).await)
    }

    fn connection(&self) -> Result<(usize, MultiplexedConnection), StoreError> {
        if self.0.breaker.is_open() {
            let text = "Redis can't be reached";
            return Err(StoreError::new(StoreErrorKind::Unavailable, text));
        }
        let found = self.0.connections.next();
        found.inspect_err(|error| self.failed(Failure::Final, error))
    }

    fn judge<T>(
        &self,
        slot: usize,
        answer: Result<RedisResult<T>, Elapsed>,
    ) -> Result<T, StoreError> {
        let (error, failure) = match answer {
            Ok(Ok(answer)) => {
                self.0.breaker.succeeded();
                return Ok(answer);
            }
            Ok(Err(error)) => {
                let error = self.0.connections.failed(slot, &error);
                let failure = match error.kind() {
                    StoreErrorKind::Unavailable => Failure::Final,
                    _ => Failure::Passing,
                };
                (error, failure)
            }
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
                if inner.connections.revive().await.is_ok() {
                    inner.breaker.close(inner.clock.elapsed());
                    tracing::info!(target: "tollgate::redis", "Redis is back");
                    return;
                }
            }
        });
    }
}

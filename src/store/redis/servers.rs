//! The connections that a store calls: to one server, or to a cluster.

use redis::{Cmd, FromRedisValue};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;
use super::{
    connections::{Connections, Resend},
    script::Invocation,
};
use crate::store::StoreError;

#[derive(Debug)]
pub(super) enum Servers {
    One(Box<Connections>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Box<Cluster>),
}

impl Servers {
    pub(super) async fn call(
        &self,
        digest: &[u8; 16],
        invocation: &Invocation,
    ) -> Result<Vec<i64>, StoreError> {
        match self {
            Self::One(connections) => {
                let resend = invocation.operation.resend();
                let mut borrowed = connections.of(digest).await?;
                loop {
                    match invocation.call(&mut borrowed.connection).await {
                        Ok(answer) => return Ok(answer),
                        Err(error) => {
                            borrowed = connections.for_retry(borrowed, &error, resend).await?
                        }
                    }
                }
            }
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => {
                let resend = invocation.operation.resend();
                let answer = invocation.call(&mut cluster.connection(resend)?).await;
                answer.map_err(|error| Cluster::failed(&error, resend))
            }
        }
    }

    pub(super) async fn forget(&self, digest: &[u8; 16], name: &str) -> Result<(), StoreError> {
        let mut forget = redis::cmd("DEL");
        forget.arg(name);
        self.order(digest, &forget, Resend::Safe).await
    }

    /// Sends one command about the key with that digest.
    pub(super) async fn order<T: FromRedisValue>(
        &self,
        digest: &[u8; 16],
        command: &Cmd,
        resend: Resend,
    ) -> Result<T, StoreError> {
        match self {
            Self::One(connections) => {
                let mut borrowed = connections.of(digest).await?;
                loop {
                    match command.query_async(&mut borrowed.connection).await {
                        Ok(answer) => return Ok(answer),
                        Err(error) => {
                            borrowed = connections.for_retry(borrowed, &error, resend).await?;
                        }
                    }
                }
            }
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => {
                let answer = command.query_async(&mut cluster.connection(resend)?).await;
                answer.map_err(|error| Cluster::failed(&error, resend))
            }
        }
    }

    pub(super) async fn revive(&self) -> Result<(), StoreError> {
        match self {
            Self::One(connections) => connections.revive().await,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.revive().await,
        }
    }
}

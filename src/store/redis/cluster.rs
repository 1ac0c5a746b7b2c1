//! A cluster: keys are spread over its nodes, and redis-rs knows where they are.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use redis::{
    Client, RedisError, RedisResult,
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
};

use super::connections::{CONNECT_MAX, Repeat, is_broken, unavailable, within};
use crate::store::{StoreError, StoreErrorKind};

/// How often a command is sent anew: once because a key has moved, and once because it is on its way. There
/// is a deadline on all of it.
const RETRIES: u32 = 2;

/// Two connections to every node. Made by [`revive`](Self::revive) alone, which one task at a time calls.
pub(super) struct Cluster {
    client: ClusterClient,
    /// A client that sends nothing twice, not even after a key that has moved: redis-rs tells the reasons apart for
    /// itself alone.
    once: ClusterClient,
    connections: Mutex<Option<Connections>>,
}

#[derive(Clone)]
struct Connections {
    repeating: ClusterConnection,
    once: ClusterConnection,
}

impl Cluster {
    /// Any of its nodes will do: they know of the others.
    pub(super) fn new(nodes: Vec<String>) -> RedisResult<Self> {
        // A cluster's client would look at the addresses only when it connects.
        for node in &nodes {
            Client::open(node.as_str())?;
        }
        let client = |nodes, retries| {
            ClusterClientBuilder::new(nodes)
                .connection_timeout(CONNECT_MAX)
                .response_timeout(CONNECT_MAX)
                .retries(retries)
                .build()
        };
        Ok(Self {
            once: client(nodes.clone(), 0)?,
            client: client(nodes, RETRIES)?,
            connections: Mutex::default(),
        })
    }

    pub(super) fn connection(&self, repeat: Repeat) -> Result<ClusterConnection, StoreError> {
        let Some(connections) = self.lock().clone() else {
            let text = "not connected to the Redis cluster";
            return Err(StoreError::new(StoreErrorKind::Unavailable, text));
        };
        Ok(match repeat {
            Repeat::Safe | Repeat::SameServer => connections.repeating,
            Repeat::Never => connections.once,
        })
    }

    /// Takes note of an error. The connection stays: it finds lost nodes again by itself, and whoever looks
    /// whether the cluster is back makes another if it doesn't. What was sent once fails alone: a key that has moved
    /// is no reason to ask nobody any more.
    pub(super) fn failed(error: &RedisError, repeat: Repeat) -> StoreError {
        let is_gone = error.is_cluster_error() || is_broken(error);
        if is_gone && repeat == Repeat::Never {
            return StoreError::internal("the Redis cluster may not have heard what is said once");
        }
        if error.is_cluster_error() {
            let text = "a part of the Redis cluster is gone";
            return StoreError::new(StoreErrorKind::Unavailable, text);
        }
        unavailable(error)
    }

    /// Sees to it that every node that keeps keys answers; makes the connection where it is missing. A cluster
    /// that isn't whole is taken for gone: otherwise the keys of the part that is gone would open the breaker
    /// again and again.
    pub(super) async fn revive(&self) -> Result<(), StoreError> {
        let known = self.lock().clone();
        let connections = match known {
            Some(connections) => connections,
            None => Connections {
                repeating: within(self.client.get_async_connection()).await?,
                once: within(self.once.get_async_connection()).await?,
            },
        };
        let answered = connections.clone().answer().await;
        *self.lock() = answered.is_ok().then_some(connections);
        answered
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Connections>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    async fn answer(mut self) -> Result<(), StoreError> {
        let ping = redis::cmd("PING");
        within(ping.exec_async(&mut self.repeating)).await?;
        within(ping.exec_async(&mut self.once)).await
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The addresses may hold passwords.
        f.write_str("Cluster")
    }
}

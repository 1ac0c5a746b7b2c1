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

use super::connections::{CONNECT_MAX, unavailable, within};
use crate::store::{StoreError, StoreErrorKind};

/// How often a command is sent anew: once because a key has moved, and once because it is on its way. There
/// is a deadline on all of it.
const RETRIES: u32 = 2;

/// A connection to every node. Made by [`revive`](Self::revive) alone, which one task at a time calls.
pub(super) struct Cluster {
    client: ClusterClient,
    connection: Mutex<Option<ClusterConnection>>,
}

impl Cluster {
    /// Any of its nodes will do: they know of the others.
    pub(super) fn new(nodes: Vec<String>) -> RedisResult<Self> {
        // A cluster's client would look at the addresses only when it connects.
        for node in &nodes {
            Client::open(node.as_str())?;
        }
        let client = ClusterClientBuilder::new(nodes)
            .connection_timeout(CONNECT_MAX)
            .response_timeout(CONNECT_MAX)
            .retries(RETRIES)
            .build()?;
        Ok(Self {
            client,
            connection: Mutex::default(),
        })
    }

    pub(super) fn connection(&self) -> Result<ClusterConnection, StoreError> {
        let connection = self.lock().clone();
        connection.ok_or_else(|| {
            let text = "not connected to the Redis cluster";
            StoreError::new(StoreErrorKind::Unavailable, text)
        })
    }

    /// Takes note of an error. The connection stays: it finds lost nodes again by itself, and whoever looks
    /// whether the cluster is back makes another if it doesn't.
    pub(super) fn failed(error: &RedisError) -> StoreError {
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
        let mut connection = match known {
            Some(connection) => connection,
            None => within(self.client.get_async_connection()).await?,
        };
        let ping = redis::cmd("PING");
        let answered = within(ping.exec_async(&mut connection)).await;
        *self.lock() = answered.is_ok().then_some(connection);
        answered
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ClusterConnection>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The addresses may hold passwords.
        f.write_str("Cluster")
    }
}

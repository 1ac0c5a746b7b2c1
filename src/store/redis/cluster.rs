//! A cluster: keys are spread over its nodes, and redis-rs knows where they are.

use std::{fmt, sync::Mutex, time::Duration};

#[cfg(feature = "redis-tls")]
use redis::ConnectionAddr;
use redis::{
    ConnectionInfo, RedisError, RedisResult,
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
};

use super::client::ClusterCredentials;
#[cfg(feature = "redis-tls")]
use super::client::choose_cryptography;
use super::connections::{CONNECT_MAX, Resend, is_broken, unavailable, within};
use crate::{
    store::{StoreError, StoreErrorKind},
    sync::lock,
};

/// How often a command is resent: once because a key has moved, and once because it is being moved.
/// A deadline covers all of it.
const RETRIES: u32 = 2;

/// Two connections to every node. Created only by [`revive`](Self::revive), which one task at a
/// time calls.
pub(super) struct Cluster {
    client: ClusterClient,
    /// A client that never resends, not even when a key has moved: redis-rs doesn't let callers
    /// distinguish the reasons.
    once: ClusterClient,
    #[cfg(feature = "redis-tls")]
    is_tls: bool,
    connections: Mutex<Option<Connections>>,
}

#[derive(Clone)]
struct Connections {
    repeating: ClusterConnection,
    once: ClusterConnection,
}

/// How a cluster is reached.
pub(super) struct Settings {
    pub(super) nodes: Vec<ConnectionInfo>,
    pub(super) deadline: Duration,
    pub(super) credentials: Option<ClusterCredentials>,
    #[cfg(feature = "redis-tls")]
    pub(super) certificates: Option<redis::TlsCertificates>,
}

impl Settings {
    fn client(&self, retries: u32) -> RedisResult<ClusterClient> {
        let mut client = ClusterClientBuilder::new(self.nodes.clone())
            .connection_timeout(CONNECT_MAX)
            .response_timeout(self.deadline.saturating_add(CONNECT_MAX))
            .retries(retries);
        if let Some(node) = self.nodes.first() {
            client = client.tcp_settings(node.tcp_settings().clone());
        }
        if let Some(credentials) = &self.credentials {
            client = client.set_credentials_provider(credentials.clone());
        }
        #[cfg(feature = "redis-tls")]
        if let Some(certificates) = &self.certificates {
            client = client.certs(certificates.clone());
        }
        client.build()
    }

    #[cfg(feature = "redis-tls")]
    fn is_tls(&self) -> bool {
        let mut addresses = self.nodes.iter().map(ConnectionInfo::addr);
        addresses.any(|address| matches!(address, ConnectionAddr::TcpTls { .. }))
    }
}

impl Cluster {
    /// Any of its nodes will do: they know the others. After the deadline nobody waits for an
    /// answer any more; a moment later the client forgets the command too, since a node that has
    /// stopped must not gather them. Not at the same time: what the client reports isn't `late`.
    pub(super) fn new(settings: &Settings) -> RedisResult<Self> {
        Ok(Self {
            once: settings.client(0)?,
            client: settings.client(RETRIES)?,
            #[cfg(feature = "redis-tls")]
            is_tls: settings.is_tls(),
            connections: Mutex::default(),
        })
    }

    pub(super) fn connection(&self, resend: Resend) -> Result<ClusterConnection, StoreError> {
        let Some(connections) = self.lock().clone() else {
            let text = "not connected to the Redis cluster";
            return Err(StoreError::new(StoreErrorKind::Unavailable, text));
        };
        Ok(match resend {
            Resend::Safe | Resend::SameServer => connections.repeating,
            Resend::Never => connections.once,
        })
    }

    /// Translates an error. The connection stays: it finds lost nodes again by itself, and `revive`
    /// replaces it if it doesn't. Commands that are never resent fail on their own: a key that has
    /// moved must not open the breaker for everyone.
    pub(super) fn failed(error: &RedisError, resend: Resend) -> StoreError {
        let is_gone = error.is_cluster_error() || is_broken(error);
        if is_gone && resend == Resend::Never {
            return StoreError::internal(
                "a command that must not be resent may not have reached the Redis cluster",
            );
        }
        if error.is_cluster_error() {
            let text = "part of the Redis cluster is down";
            return StoreError::new(StoreErrorKind::Unavailable, text);
        }
        unavailable(error)
    }

    /// Makes sure that every node with keys answers; connects if necessary. An incomplete cluster
    /// counts as down: otherwise keys of the missing part would open the breaker again and again.
    pub(super) async fn revive(&self) -> Result<(), StoreError> {
        #[cfg(feature = "redis-tls")]
        if self.is_tls {
            choose_cryptography();
        }
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
        lock(&self.connections)
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
        // The addresses may contain passwords.
        f.write_str("Cluster")
    }
}

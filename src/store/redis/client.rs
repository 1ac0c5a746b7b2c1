//! How Redis is reached: one server, one that sentinels choose, or a cluster.

mod address;
mod credentials;
mod endpoint;

use std::{
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

#[cfg(feature = "redis-cluster")]
pub(super) use credentials::ClusterCredentials;
use credentials::Credentials;
pub use credentials::RedisCredentials;
pub(super) use endpoint::Endpoint;
#[cfg(all(feature = "redis-cluster", feature = "redis-tls"))]
pub(super) use endpoint::choose_cryptography;
use redis::{ConnectionInfo, ProtocolVersion};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;
use super::{connections::Connections, servers::Servers};
use crate::{
    store::{StoreError, StoreErrorKind},
    sync::lock,
};

const CONNECTIONS: usize = 4;

/// How to reach Redis or Valkey (6.2 and later), for all stores in it. A clone is two reference
/// counts.
///
/// Wherever one is taken, so is an address: `redis://user:password@host:port/database`.
///
/// ```no_run
/// # async fn token() -> Result<String, tollgate::store::StoreError> { Ok(String::new()) }
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::store::{RedisClient, RedisCredentials, RedisRateLimiter, RedisSessions};
///
/// let redis = RedisClient::new("redis://cache.internal/")
///     .prefix("shop")
///     .with_credentials(|| async { Ok(RedisCredentials::new("shop", token().await?)) });
/// let limiter = RedisRateLimiter::builder(&redis).build()?;
/// let sessions = RedisSessions::builder(&redis).build()?;
/// # Ok(()) }
/// ```
///
/// # Connections
///
/// - Stores with the same deadline share their connections: unless set, rate limits and limits on
///   requests under way. Others have their own, since one that gives Redis up after 25 ms would
///   replace connections on which another still waits. So has each `RedisInvalidations`: what it
///   listens on speaks RESP3.
/// - Whatever must not be sent twice isn't, also on shared connections: a cluster has two to each
///   node, one of which never resends anything.
/// - Nothing connects before a store does.
///
/// # Permissions
///
/// A user of its own (`ACL SETUSER`) has what it needs with `+@all -@dangerous +role +info
/// +config|get`, the keys and channels of the [prefix](Self::prefix), and on a cluster
/// `+cluster|slots`. `ROLE` finds out whether a server is a replica; `INFO` and `CONFIG GET` are
/// for the warnings of a [`RedisLedger`](crate::store::RedisLedger). A command that is missing is
/// named in the log.
#[derive(Clone)]
#[must_use = "nothing is connected before a store is"]
pub struct RedisClient {
    reach: Arc<Reach>,
    prefix: Arc<str>,
}

/// The language that is spoken with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisProtocol {
    /// RESP2, which every server and proxy knows.
    Resp2,
    /// RESP3, of Redis 6 and later.
    Resp3,
}

/// Everything but the names of the keys.
#[derive(Clone)]
struct Reach {
    address: Address,
    connections: usize,
    database: Option<u32>,
    protocol: Option<RedisProtocol>,
    name: String,
    credentials: Option<Credentials>,
    #[cfg(feature = "redis-tls")]
    certificates: Option<redis::TlsCertificates>,
    shared: Shared,
}

#[derive(Clone)]
enum Address {
    Server(String),
    Sentinel {
        master: String,
        sentinels: Vec<String>,
    },
    #[cfg(feature = "redis-cluster")]
    Cluster(Vec<String>),
}

/// The connections of living stores, by deadline.
type Shared = Arc<Mutex<Vec<(Duration, Weak<Servers>)>>>;

impl RedisClient {
    /// The server at `url`: `redis://user:password@host:port/database`, or `rediss://…` for TLS
    /// with the feature `redis-tls`, or `unix:///path?db=database&user=user&pass=password`. Either
    /// may say `?protocol=resp3`. Whatever else an address has is refused when a store is built:
    /// other parameters, what follows a `#`, a user without a password
    /// ([`with_credentials`](Self::with_credentials) gives one), a number below 0. A user that
    /// needs no password takes any.
    pub fn new(url: impl Into<String>) -> Self {
        Self::at(Address::Server(url.into()))
    }

    /// The server that these sentinels call the master, whichever it is when a connection is
    /// opened. `master` is `redis://user:password@name/database` (or `rediss://…`): the name by
    /// which the sentinels know it, and what it wants to hear. `sentinels` are addresses such as
    /// `redis://:password@host:26379`; one is enough, and the others are asked when it doesn't
    /// know. A port of the master's is refused, and so is a database of a sentinel's.
    ///
    /// When a master is gone, its stores behave as for a server that is down, until the sentinels
    /// have chosen another one: they are asked again and again, every second and a half at most,
    /// and half a second later for each of them that is silent. A replica that was chosen may lack
    /// the last moment before; `min-replicas-to-write` bounds what a master that was cut off goes
    /// on accepting. With TLS the sentinels must name hosts, as certificates do
    /// (`resolve-hostnames`, `announce-hostnames`).
    pub fn sentinel<'a>(
        master: impl Into<String>,
        sentinels: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self::at(Address::Sentinel {
            master: master.into(),
            sentinels: sentinels.into_iter().map(str::to_owned).collect(),
        })
    }

    /// A cluster. These are some of its nodes, through which the others are found. Each process has
    /// two connections to every node for each deadline, one of which never resends anything. While
    /// part of the cluster is down, all of it counts as down, until a replica has taken over.
    #[cfg(feature = "redis-cluster")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-cluster")))]
    pub fn cluster<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Self {
        let nodes = nodes.into_iter().map(str::to_owned);
        Self::at(Address::Cluster(nodes.collect()))
    }

    fn at(address: Address) -> Self {
        Self {
            reach: Arc::new(Reach {
                address,
                connections: CONNECTIONS,
                database: None,
                protocol: None,
                name: "tollgate".to_owned(),
                credentials: None,
                #[cfg(feature = "redis-tls")]
                certificates: None,
                shared: Shared::default(),
            }),
            prefix: Arc::from("tollgate"),
        }
    }

    /// What is reached in another way shares nothing with what was reached before.
    fn reach(mut self, change: impl FnOnce(&mut Reach)) -> Self {
        let reach = Arc::make_mut(&mut self.reach);
        change(reach);
        reach.shared = Shared::default();
        self
    }

    /// The prefix of all key names; `tollgate` unless set. All processes that share something have
    /// the same.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = Arc::from(prefix);
        self
    }

    /// How many connections to a server the keys are spread over, for each deadline; 4 unless set,
    /// at least 1. To a cluster's node there are two.
    pub fn connections(self, count: usize) -> Self {
        self.reach(|reach| reach.connections = count)
    }

    /// The number of the database; that of the address unless set, or 0. A cluster has one alone.
    pub fn database(self, number: u32) -> Self {
        self.reach(|reach| reach.database = Some(number))
    }

    /// The protocol; RESP2 unless set, or what the address says (`?protocol=resp3`). What listens
    /// for changes needs RESP3 in any case.
    pub fn protocol(self, protocol: RedisProtocol) -> Self {
        self.reach(|reach| reach.protocol = Some(protocol))
    }

    /// The name of the connections, in `CLIENT LIST` and the server's logs: visible ASCII
    /// characters, `tollgate` unless set. A cluster's connections have none.
    pub fn name(self, name: &str) -> Self {
        self.reach(|reach| name.clone_into(&mut reach.name))
    }

    /// Asked for the user and password whenever a connection is opened, instead of those in the
    /// address: for tokens that change, such as those of AWS IAM or Entra ID. It has five seconds,
    /// on a cluster half a second, and is asked by several connections at once: let it keep a token
    /// as long as that is valid. Connections stay when their token expires, unless the server ends
    /// them; then they are opened again. Sentinels have the passwords of their own addresses.
    ///
    /// While it fails, or panics, Redis counts as down. The text of its error goes to the operator,
    /// at most 500 bytes of it.
    pub fn with_credentials<F, A>(self, provider: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<RedisCredentials, StoreError>> + Send + 'static,
    {
        self.reach(|reach| reach.credentials = Some(Credentials::from(provider)))
    }

    /// The certificate authorities (PEM) that servers and sentinels are trusted by, instead of
    /// those that Mozilla trusts. For addresses that begin with `rediss`.
    #[cfg(feature = "redis-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-tls")))]
    pub fn certificate_authority(self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates(|certificates| certificates.root_cert = Some(pem.into()))
    }

    /// The certificates (the client's first) and the key, in PEM, that servers and sentinels know
    /// this client by. For addresses that begin with `rediss`.
    #[cfg(feature = "redis-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-tls")))]
    pub fn client_certificate(self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        let (client_cert, client_key) = (chain.into(), key.into());
        self.certificates(|certificates| {
            certificates.client_tls = Some(redis::ClientTlsConfig {
                client_cert,
                client_key,
            });
        })
    }

    #[cfg(feature = "redis-tls")]
    fn certificates(self, change: impl FnOnce(&mut redis::TlsCertificates)) -> Self {
        self.reach(|reach| {
            change(reach.certificates.get_or_insert(redis::TlsCertificates {
                client_tls: None,
                root_cert: None,
            }));
        })
    }

    pub(super) fn key_prefix(&self) -> String {
        (*self.prefix).to_owned()
    }

    /// The connections of stores with that deadline. None is opened yet.
    pub(super) fn servers(&self, deadline: Duration) -> Result<Arc<Servers>, StoreError> {
        let mut shared = lock(&self.reach.shared);
        shared.retain(|(_, servers)| servers.strong_count() > 0);
        let known = shared.iter().find(|(of, _)| *of == deadline);
        if let Some(servers) = known.and_then(|(_, servers)| servers.upgrade()) {
            return Ok(servers);
        }
        let servers = Arc::new(self.reach.servers(deadline)?);
        shared.push((deadline, Arc::downgrade(&servers)));
        Ok(servers)
    }

    /// Where changes are announced and heard: any of a cluster's nodes will do.
    pub(super) fn news(&self) -> Result<Vec<Endpoint>, StoreError> {
        let endpoints = match &self.reach.address {
            #[cfg(feature = "redis-cluster")]
            Address::Cluster(nodes) => {
                let nodes = nodes.iter().map(|node| self.reach.server(node));
                nodes.collect::<Result<Vec<_>, _>>()?
            }
            _ => vec![self.reach.endpoint()?],
        };
        if endpoints.is_empty() {
            return Err(refused(UNREADABLE));
        }
        let endpoints = endpoints.into_iter();
        Ok(endpoints
            .map(|it| it.speaking(ProtocolVersion::RESP3))
            .collect())
    }
}

const UNREADABLE: &str = "not a valid Redis address";

impl Reach {
    #[cfg_attr(
        not(feature = "redis-cluster"),
        expect(
            unused_variables,
            reason = "one server's connections wait as long as they are asked"
        )
    )]
    fn servers(&self, deadline: Duration) -> Result<Servers, StoreError> {
        #[cfg(feature = "redis-cluster")]
        if let Address::Cluster(nodes) = &self.address {
            let nodes = nodes.iter().map(|node| self.info(node));
            let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
            let settings = super::cluster::Settings {
                nodes,
                deadline,
                credentials: self.credentials.clone().map(ClusterCredentials),
                #[cfg(feature = "redis-tls")]
                certificates: self.certificates.clone(),
            };
            let cluster = Cluster::new(&settings).map_err(|_| refused(UNREADABLE))?;
            return Ok(Servers::Cluster(Box::new(cluster)));
        }
        let connections = Connections::new(self.endpoint()?, self.connections);
        Ok(Servers::One(Box::new(connections)))
    }

    /// The one server, or that of the sentinels.
    fn endpoint(&self) -> Result<Endpoint, StoreError> {
        match &self.address {
            Address::Server(url) => self.server(url),
            Address::Sentinel { master, sentinels } => {
                let sentinels = sentinels.iter().map(|url| {
                    let info = address::of_sentinel(url)?;
                    self.secured(info)
                });
                let sentinels = sentinels.collect::<Result<Vec<_>, _>>()?;
                address::check_name(master)?;
                let master = self.server(master)?.found_by(sentinels);
                master.ok_or_else(|| refused("sentinels need a name and at least one address"))
            }
            #[cfg(feature = "redis-cluster")]
            Address::Cluster(_) => Err(refused("a cluster is no single server")),
        }
    }

    fn server(&self, url: &str) -> Result<Endpoint, StoreError> {
        let info = self.info(url)?;
        Ok(Endpoint::new(
            info,
            self.name.clone(),
            self.credentials.clone(),
        ))
    }

    fn info(&self, url: &str) -> Result<ConnectionInfo, StoreError> {
        if !self.name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused(
                "the name of a Redis connection isn't visible ASCII",
            ));
        }
        let info = address::read(url)?;
        if self.credentials.is_none() {
            address::check_user(&info)?;
        }
        let mut settings = info.redis_settings().clone();
        if let Some(number) = self.database {
            settings = settings.set_db(number.into());
        }
        if let Some(protocol) = self.protocol {
            settings = settings.set_protocol(match protocol {
                RedisProtocol::Resp2 => ProtocolVersion::RESP2,
                RedisProtocol::Resp3 => ProtocolVersion::RESP3,
            });
        }
        self.secured(info.set_redis_settings(settings))
    }

    /// With the certificates, which have no place where nothing is encrypted.
    #[cfg(feature = "redis-tls")]
    fn secured(&self, info: ConnectionInfo) -> Result<ConnectionInfo, StoreError> {
        match &self.certificates {
            Some(certificates) => endpoint::with_certificates(info, certificates),
            None => Ok(info),
        }
    }

    #[cfg(not(feature = "redis-tls"))]
    fn secured(&self, info: ConnectionInfo) -> Result<ConnectionInfo, StoreError> {
        Ok(info)
    }
}

fn refused(text: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Refused, text)
}

impl From<&RedisClient> for RedisClient {
    fn from(client: &RedisClient) -> Self {
        client.clone()
    }
}

impl From<&str> for RedisClient {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}

impl From<&String> for RedisClient {
    fn from(url: &String) -> Self {
        Self::new(url)
    }
}

impl From<String> for RedisClient {
    fn from(url: String) -> Self {
        Self::new(url)
    }
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses may contain passwords.
        f.debug_struct("RedisClient")
            .field("prefix", &self.prefix)
            .field("connections", &self.reach.connections)
            .field("database", &self.reach.database)
            .field("protocol", &self.reach.protocol)
            .field("name", &self.reach.name)
            .finish_non_exhaustive()
    }
}

//! One server, each connection to which is opened anew: by sentinels, and with new credentials.

use std::sync::atomic::{AtomicUsize, Ordering};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ProtocolVersion,
    aio::MultiplexedConnection,
};

use super::credentials::Credentials;
use crate::store::{
    StoreError, StoreErrorKind,
    redis::connections::{CONNECT_MAX, check_master, within},
};

/// A server, or the one that sentinels choose.
pub(in crate::store::redis) struct Endpoint {
    info: ConnectionInfo,
    name: String,
    credentials: Option<Credentials>,
    sentinels: Option<Sentinels>,
}

struct Sentinels {
    /// The name of the master.
    master: String,
    addresses: Vec<ConnectionInfo>,
    /// The one that last led to a master is asked first.
    first: AtomicUsize,
}

impl Endpoint {
    pub(super) fn new(
        info: ConnectionInfo,
        name: String,
        credentials: Option<Credentials>,
    ) -> Self {
        Self {
            info,
            name,
            credentials,
            sentinels: None,
        }
    }

    /// The host of the address is the name by which these sentinels know the server. `None` if it
    /// isn't a name, or there are no sentinels.
    pub(super) fn found_by(mut self, sentinels: Vec<ConnectionInfo>) -> Option<Self> {
        let (ConnectionAddr::Tcp(master, _) | ConnectionAddr::TcpTls { host: master, .. }) =
            self.info.addr()
        else {
            return None;
        };
        let is_known = !master.is_empty() && !sentinels.is_empty();
        self.sentinels = is_known.then(|| Sentinels {
            master: master.clone(),
            addresses: sentinels,
            first: AtomicUsize::new(0),
        });
        is_known.then_some(self)
    }

    pub(super) fn speaking(mut self, protocol: ProtocolVersion) -> Self {
        let settings = self.info.redis_settings().clone();
        let settings = settings.set_protocol(protocol);
        self.info = self.info.set_redis_settings(settings);
        self
    }

    /// A connection to a server that accepts writes.
    pub(in crate::store::redis) async fn connect(
        &self,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, StoreError> {
        let mut info = self.info.clone();
        if let Some(credentials) = &self.credentials {
            let settings = credentials.ask().await?.apply(info.redis_settings());
            info = info.set_redis_settings(settings);
        }
        let Some(sentinels) = &self.sentinels else {
            return self.connect_to(info, config).await;
        };
        let count = sentinels.addresses.len();
        let first = sentinels.first.load(Ordering::Relaxed);
        let mut tried: Vec<ConnectionAddr> = Vec::new();
        let mut failure = StoreError::new(StoreErrorKind::Unavailable, "no sentinel answers");
        let order = (first..first.saturating_add(count)).filter_map(|at| at.checked_rem(count));
        for at in order {
            let asked = match sentinels.addresses.get(at) {
                Some(sentinel) => ask(sentinel, &sentinels.master).await,
                None => continue,
            };
            let address = match asked {
                Ok((host, port)) => moved(self.info.addr(), host, port),
                Err(error) => {
                    failure = error;
                    continue;
                }
            };
            // One that was cut off may still name the last master.
            if tried.contains(&address) {
                continue;
            }
            match self
                .connect_to(info.clone().set_addr(address.clone()), config)
                .await
            {
                Ok(connection) => {
                    sentinels.first.store(at, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => failure = error,
            }
            tried.push(address);
        }
        Err(failure)
    }

    async fn connect_to(
        &self,
        info: ConnectionInfo,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, StoreError> {
        let connection = open(info, config).await?;
        let mut named = connection.clone();
        let mut naming = redis::cmd("CLIENT");
        naming.arg("SETNAME").arg(&self.name);
        // Who may not name a connection may use it.
        let (_, checked) = tokio::join!(
            within(naming.exec_async(&mut named)),
            check_master(connection.clone())
        );
        checked.map_err(|error| refused_at_opening(&error))?;
        Ok(connection)
    }
}

/// Where the master is.
async fn ask(sentinel: &ConnectionInfo, master: &str) -> Result<(String, u16), StoreError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        .set_response_timeout(Some(CONNECT_MAX));
    let mut connection = open(sentinel.clone(), &config).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let answer = within(question.query_async::<Option<(String, u16)>>(&mut connection));
    let answer = answer.await.map_err(|error| refused_at_opening(&error))?;
    answer.ok_or_else(|| {
        let text = "a sentinel knows no master of that name";
        StoreError::new(StoreErrorKind::Unavailable, text)
    })
}

async fn open(
    info: ConnectionInfo,
    config: &AsyncConnectionConfig,
) -> Result<MultiplexedConnection, StoreError> {
    #[cfg(feature = "redis-tls")]
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        choose_cryptography();
    }
    let opened = async {
        let client = Client::open(info)?;
        client
            .get_multiplexed_async_connection_with_config(config)
            .await
    };
    within(opened)
        .await
        .map_err(|error| refused_at_opening(&error))
}

/// Whoever is answered with an error, such as that of a wrong password or of a server that is still
/// loading, isn't connected.
fn refused_at_opening(error: &StoreError) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, &error.to_string())
}

/// The same way to another host.
fn moved(address: &ConnectionAddr, new_host: String, new_port: u16) -> ConnectionAddr {
    match address.clone() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host: new_host,
            port: new_port,
            insecure,
            tls_params,
        },
        _ => ConnectionAddr::Tcp(new_host, new_port),
    }
}

#[cfg(feature = "redis-tls")]
pub(super) fn with_certificates(
    info: ConnectionInfo,
    certificates: &redis::TlsCertificates,
) -> Result<ConnectionInfo, StoreError> {
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Err(super::refused(
            "certificates need an address that begins with `rediss`",
        ));
    }
    let is_certificate = |pem: &Vec<u8>| {
        let parts = pem::parse_many(pem).unwrap_or_default();
        parts.iter().any(|part| part.tag() == "CERTIFICATE")
    };
    // An empty one would trust nobody.
    let is_read = certificates.root_cert.as_ref().is_none_or(is_certificate);
    Client::build_with_tls(info, certificates.clone())
        .ok()
        .filter(|_| is_read)
        .map(|client| client.get_connection_info().clone())
        .ok_or_else(|| super::refused("not a certificate or key for Redis in PEM"))
}

/// What rustls would choose itself if nothing else in the build had a provider of cryptography:
/// with two of them it panics. One that the process has installed stays.
#[cfg(feature = "redis-tls")]
pub(in crate::store::redis) fn choose_cryptography() {
    use rustls::crypto::{CryptoProvider, aws_lc_rs};

    if CryptoProvider::get_default().is_none() {
        let _ = aws_lc_rs::default_provider().install_default();
    }
}

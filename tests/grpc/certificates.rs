//! Connections over TLS whose client has a certificate. Those of these tests are good from 2020 to
//! 2120.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, aws_lc_rs},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};
use tollgate::{PeerAddress, StallLayer, StallWatch, stall::WatchedIo};
use tonic::{
    Request, Status,
    service::interceptor::InterceptedService,
    transport::{
        Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
        server::{Connected, TlsConnectInfo},
    },
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const CA: &[u8] = include_bytes!("certificates/ca.pem");
const SERVER: &[u8] = include_bytes!("certificates/server.pem");
const SERVER_KEY: &[u8] = include_bytes!("certificates/server.key");
const CLIENT: &[u8] = include_bytes!("certificates/client.pem");
const CLIENT_KEY: &[u8] = include_bytes!("certificates/client.key");

const GREETING_WITHIN: Duration = Duration::from_millis(300);

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem)
        .map(Result::unwrap)
        .collect()
}

fn key(pem: &[u8]) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem).unwrap()
}

fn roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CA) {
        roots.add(certificate).unwrap();
    }
    Arc::new(roots)
}

fn provider() -> Arc<CryptoProvider> {
    // tonic takes the one of the process.
    let _ = aws_lc_rs::default_provider().install_default();
    Arc::new(aws_lc_rs::default_provider())
}

fn acceptor() -> TlsAcceptor {
    let clients = WebPkiClientVerifier::builder_with_provider(roots(), provider());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(certificates(SERVER), key(SERVER_KEY))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Connections as a server of tonic's takes them.
fn incoming<T, F: Future<Output = Option<T>>>(
    listener: TcpListener,
    accept: impl Fn(TcpStream) -> F,
) -> impl Stream<Item = std::io::Result<T>> {
    stream::unfold((listener, accept), async |(listener, accept)| {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Some(io) = accept(stream).await {
                return Some((Ok(io), (listener, accept)));
            }
        }
    })
}

fn watched<T>(stream: T) -> WatchedIo<T> {
    StallWatch::new()
        .greeting_within(GREETING_WITHIN)
        .io(stream)
}

/// One that is watched, with TLS inside.
async fn tls_inside(stream: TcpStream) -> Option<WatchedIo<TlsStream<TcpStream>>> {
    let accepted = timeout(Duration::from_secs(5), acceptor().accept(stream)).await;
    Some(watched(accepted.ok()?.ok()?))
}

/// Serves health checks, behind what looks at who comes.
async fn serve<T, F, L>(
    server: Server,
    listener: TcpListener,
    accept: impl Fn(TcpStream) -> F + Send + 'static,
    look: L,
) where
    F: Future<Output = Option<T>> + Send + 'static,
    T: Connected + tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    L: FnMut(Request<()>) -> Result<Request<()>, Status> + Clone + Send + Sync + 'static,
{
    let (_reporter, health) = tonic_health::server::health_reporter();
    let served = server
        .clone()
        .layer(StallLayer::new())
        .add_service(InterceptedService::new(health, look))
        .serve_with_incoming(incoming(listener, accept));
    tokio::spawn(served);
}

async fn listener() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn channel(address: std::net::SocketAddr, identity: Option<Identity>) -> Option<Channel> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(CA));
    let tls = tls.domain_name("localhost");
    let tls = identity.into_iter().fold(tls, ClientTlsConfig::identity);
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.ok()
}

fn identity() -> Identity {
    Identity::from_pem(CLIENT, CLIENT_KEY)
}

/// Fails unless the certificate is the client's, and the address one of this machine.
fn check(
    request: &Request<()>,
    found: Option<Arc<Vec<CertificateDer<'static>>>>,
) -> Result<(), Status> {
    let is_here = request
        .remote_addr()
        .is_some_and(|peer| peer.ip().is_loopback());
    let is_the_client = found.is_some_and(|found| *found == certificates(CLIENT));
    if is_here && is_the_client {
        Ok(())
    } else {
        Err(Status::failed_precondition("nobody whom I know"))
    }
}

async fn is_known(address: std::net::SocketAddr) {
    let channel = channel(address, Some(identity()))
        .await
        .expect("it connects");
    let mut health = HealthClient::new(channel);
    for _ in 0..2 {
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_s_certificate_is_told_of_through_a_watched_connection() {
    let (listener, address) = listener().await;
    let look = |request: Request<()>| {
        check(&request, request.peer_certs())?;
        // It was told of by the connection, not by the watch.
        assert!(request.extensions().get::<PeerAddress>().is_none());
        Ok(request)
    };
    provider();
    serve(Server::builder(), listener, tls_inside, look).await;
    is_known(address).await;
    // Whoever has none is not let in at all.
    if let Some(channel) = channel(address, None).await {
        let mut health = HealthClient::new(channel);
        let called = health.check(HealthCheckRequest::default()).await;
        called.unwrap_err();
    }
}

#[tokio::test]
async fn below_tonic_s_own_tls_a_watch_stands_beside_the_certificate() {
    let (listener, address) = listener().await;
    provider();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(SERVER, SERVER_KEY))
        .client_ca_root(Certificate::from_pem(CA));
    let server = Server::builder().tls_config(tls).unwrap();
    let look = |request: Request<()>| {
        let info = request.extensions().get::<TlsConnectInfo<StallWatch>>();
        check(&request, info.and_then(TlsConnectInfo::peer_certs))?;
        Ok(request)
    };
    serve(server, listener, async |stream| Some(watched(stream)), look).await;
    is_known(address).await;

    // A byte of a handshake, and then nothing.
    for said in [&[22_u8][..], &[22, 3, 1, 2, 0, 1], b""] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        assert!(is_ended(&mut stream).await, "{said:?}");
    }
}

/// Whether the server lets go of a client that says no more.
async fn is_ended(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
    ended.await.is_ok()
}

#[tokio::test]
async fn who_says_nothing_after_the_handshake_is_not_waited_for() {
    let (listener, address) = listener().await;
    serve(Server::builder(), listener, tls_inside, Ok).await;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots())
        .with_client_auth_cert(certificates(CLIENT), key(CLIENT_KEY))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    assert!(is_ended(&mut stream).await);
}

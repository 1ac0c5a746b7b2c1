//! A layer whose keys lie at an address: the first token waits for them, and no failing address
//! makes a token bad.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tollgate::{
    JwtLayer,
    clock::ManualClock,
    store::{SessionId, UserId},
    token::{JwksError, JwksUrl, SigningKey, TokenAlgorithm, TokenIssuer, TokenVerifier},
};
use tower::{Layer, ServiceExt, service_fn};

/// What the address answers: keys, or nothing but an error.
type Said = Arc<Mutex<Option<String>>>;

async fn address(said: Said) -> String {
    let answer = move || {
        let said = said.lock().unwrap().clone();
        async move { said.ok_or(StatusCode::INTERNAL_SERVER_ERROR) }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let app = Router::new().route("/keys", get(answer));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

fn issuer(clock: &Arc<ManualClock>) -> TokenIssuer {
    let key = SigningKey::generate(TokenAlgorithm::EdDsa).unwrap();
    let issuer = TokenIssuer::with_key(key).with_clock(clock.clone());
    issuer.build().unwrap()
}

fn token(issuer: &TokenIssuer) -> String {
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    let token = issuer.issue(&user, &session, []).unwrap();
    token.expose().to_owned()
}

#[tokio::test]
async fn a_layer_waits_for_the_keys_of_the_first_token() {
    let (said, clock) = (Said::default(), Arc::new(ManualClock::default()));
    let (ours, strange, stranger) = (issuer(&clock), issuer(&clock), issuer(&clock));
    *said.lock().unwrap() = Some(ours.jwks());
    let keys = JwksUrl::at(&address(said.clone()).await)
        .dangerous_allow_http()
        .dangerous_allow_private_addresses()
        .with_clock(clock.clone())
        .build()
        .unwrap();
    let verifier = TokenVerifier::builder(keys)
        .with_clock(clock.clone())
        .build()
        .unwrap();
    let hello =
        service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
    let service = JwtLayer::new(verifier).layer(hello);
    let status = async |issuer: &TokenIssuer| {
        let bearer = format!("Bearer {}", token(issuer));
        let request = Request::builder().header("authorization", bearer);
        let answer = service.clone().oneshot(request.body(()).unwrap()).await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!(status(&ours).await, 200);
    assert_eq!(status(&strange).await, 401);
    *said.lock().unwrap() = None;
    clock.advance(Duration::from_secs(30));
    assert_eq!(status(&stranger).await, 503, "nobody can tell whose it is");
    assert_eq!(status(&ours).await, 200);
}

/// A company's own authority, and a certificate of its for `localhost`; good from 2020 to 2120.
const CA: &[u8] = include_bytes!("grpc/certificates/ca.pem");
const SERVER: &[u8] = include_bytes!("grpc/certificates/server.pem");
const SERVER_KEY: &[u8] = include_bytes!("grpc/certificates/server.key");

/// The port at which keys are answered over TLS.
async fn over_tls(jwks: String) -> u16 {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_slice_iter(SERVER).map(Result::unwrap);
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            chain.collect(),
            PrivateKeyDer::from_pem_slice(SERVER_KEY).unwrap(),
        );
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let _ = stream.read(&mut [0; 4_096]).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", jwks.len());
            let answer = format!("{head}connection: close\r\n\r\n{jwks}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn a_company_s_own_authority_is_trusted_where_that_was_asked_for() {
    let clock = Arc::new(ManualClock::default());
    let port = over_tls(issuer(&clock).jwks()).await;
    let url = format!("https://localhost:{port}/keys");
    let at = || JwksUrl::at(&url).dangerous_allow_private_addresses();
    let own = at().root_certificate(CA).build().unwrap();
    own.fetch().await.unwrap();
    // Nobody else's word counts for it, and it counts for no other name.
    let system = at().build().unwrap().fetch().await;
    assert!(matches!(system, Err(JwksError::Answer(_))));
    let by_number = JwksUrl::at(&format!("https://127.0.0.1:{port}/keys"));
    let by_number = by_number.dangerous_allow_private_addresses();
    let by_number = by_number.root_certificate(CA).build().unwrap();
    let refused = by_number.fetch().await;
    assert!(matches!(refused, Err(JwksError::Answer(_))));
    // The other protections stay.
    let private = JwksUrl::at(&url).root_certificate(CA).build().unwrap();
    let refused = private.fetch().await;
    assert!(matches!(refused, Err(JwksError::PrivateAddress)));
    let plain = JwksUrl::at("http://id.example.com/").root_certificate(CA);
    assert!(matches!(plain.build(), Err(JwksError::Url)));
    const UNREADABLE: &[u8] = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let torn = &CA[..CA.len() / 2];
    let [one_bad, one_torn] = [UNREADABLE, torn].map(|bad| [CA, b"\n", bad].concat());
    for odd in [
        &b""[..],
        b"no certificate",
        SERVER_KEY,
        UNREADABLE,
        torn,
        &one_bad,
        &one_torn,
    ] {
        let refused = at().root_certificate(odd).build();
        assert!(matches!(refused, Err(JwksError::Setting(_))));
    }
}

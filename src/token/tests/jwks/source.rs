//! A key server and its clients.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};

use super::*;

/// Answers every request with the response that was last set.
pub(super) struct Source {
    pub(super) url: String,
    pub(super) told: Arc<Mutex<String>>,
    hits: Arc<AtomicUsize>,
    /// While false, no request is answered.
    answers: watch::Sender<bool>,
}

pub(super) fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

impl Source {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (told, hits) = <(Arc<Mutex<String>>, Arc<AtomicUsize>)>::default();
        let source = Self {
            url: url.clone(),
            told: told.clone(),
            hits: hits.clone(),
            answers: watch::Sender::new(true),
        };
        let mut answers = source.answers.subscribe();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                hits.fetch_add(1, Ordering::SeqCst);
                let mut request = vec![0; 4_096];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let _ = answers.wait_for(|answers| *answers).await;
                let mut text = told.lock().unwrap().clone();
                if request.starts_with("GET /.well-known/openid-configuration ") {
                    let body = format!(r#"{{"issuer":"{url}","jwks_uri":"{url}/keys"}}"#);
                    text = answer("200 OK", "", &body);
                }
                if request.starts_with("GET /organizations/v2.0/.well-known/openid-configuration ")
                {
                    let issuer = format!("{url}/{{tenantid}}/v2.0");
                    let body = format!(r#"{{"issuer":"{issuer}","jwks_uri":"{url}/keys"}}"#);
                    text = answer("200 OK", "", &body);
                }
                if !text.is_empty() {
                    let _ = stream.write_all(text.as_bytes()).await;
                }
                if text.is_empty() {
                    // A server that hangs.
                    tokio::spawn(async move {
                        std::future::pending::<()>().await;
                        drop(stream);
                    });
                }
            }
        });
        source
    }

    pub(super) fn tell(&self, status: &str, headers: &str, body: &str) {
        *self.told.lock().unwrap() = answer(status, headers, body);
    }

    pub(super) fn hold(&self) {
        self.answers.send_replace(false);
    }

    pub(super) fn release(&self) {
        self.answers.send_replace(true);
    }

    pub(super) async fn is_asked(&self, times: usize) {
        let asked = async {
            while self.hits() < times {
                tokio::task::yield_now().await;
            }
        };
        let asked = tokio::time::timeout(Duration::from_secs(10), asked);
        asked.await.expect("it is asked");
    }

    pub(super) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    pub(super) fn keys(&self, clock: &Arc<ManualClock>) -> JwksUrl {
        JwksUrl::at(&format!("{}/keys", self.url))
            .dangerous_allow_http()
            .dangerous_allow_private_addresses()
            .deadline(Duration::from_secs(2))
            .with_clock(clock.clone())
            .build()
            .unwrap()
    }
}

pub(super) fn verifier(keys: impl Into<TokenKeys>, clock: &Arc<ManualClock>) -> TokenVerifier {
    TokenVerifier::builder(keys)
        .with_clock(clock.clone())
        .build()
        .unwrap()
}

pub(super) fn signer(clock: &Arc<ManualClock>) -> TokenIssuer {
    let key = SigningKey::generate(TokenAlgorithm::EdDsa).unwrap();
    let issuer = TokenIssuer::with_key(key).with_clock(clock.clone());
    issuer.build().unwrap()
}

pub(super) fn token(issuer: &TokenIssuer) -> String {
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    issuer
        .issue(&user, &session, [])
        .unwrap()
        .expose()
        .to_owned()
}

pub(super) fn made_up(kid: &str) -> String {
    let header = format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#);
    format!("{}.{}.AA", encode(header), encode("{}"))
}

pub(super) async fn verdict(verifier: &TokenVerifier, token: &str) -> Result<(), Kind> {
    let outcome = verifier.verify_waiting(token).await;
    outcome.map(drop).map_err(|error| error.kind())
}

/// Polled once, and dropped.
pub(super) async fn hang_up(verifier: &TokenVerifier, token: &str) {
    let call = verdict(verifier, token);
    assert_eq!(futures_util::poll!(Box::pin(call)), Poll::Pending);
}

pub(super) async fn comes_true(what: impl Fn() -> bool) {
    let true_at_last = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    let true_at_last = tokio::time::timeout(Duration::from_secs(10), true_at_last);
    true_at_last.await.expect("it comes true");
}

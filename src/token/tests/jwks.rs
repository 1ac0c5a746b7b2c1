//! Keys at an address, which a real server of this process answers.

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

/// Answers every request with what it was last told to.
struct Source {
    url: String,
    told: Arc<Mutex<String>>,
    hits: Arc<AtomicUsize>,
    /// Nothing is answered while it is false.
    answers: watch::Sender<bool>,
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

impl Source {
    async fn new() -> Self {
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
                if !text.is_empty() {
                    let _ = stream.write_all(text.as_bytes()).await;
                }
                if text.is_empty() {
                    // One that hangs.
                    tokio::spawn(async move {
                        std::future::pending::<()>().await;
                        drop(stream);
                    });
                }
            }
        });
        source
    }

    fn tell(&self, status: &str, headers: &str, body: &str) {
        *self.told.lock().unwrap() = answer(status, headers, body);
    }

    fn hold(&self) {
        self.answers.send_replace(false);
    }

    fn release(&self) {
        self.answers.send_replace(true);
    }

    async fn is_asked(&self, times: usize) {
        let asked = async {
            while self.hits() < times {
                tokio::task::yield_now().await;
            }
        };
        let asked = tokio::time::timeout(Duration::from_secs(10), asked);
        asked.await.expect("it is asked");
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    fn keys(&self, clock: &Arc<ManualClock>) -> JwksUrl {
        JwksUrl::at(&format!("{}/keys", self.url))
            .dangerous_allow_http()
            .dangerous_allow_private_addresses()
            .deadline(Duration::from_secs(2))
            .with_clock(clock.clone())
            .build()
            .unwrap()
    }
}

fn verifier(keys: impl Into<TokenKeys>, clock: &Arc<ManualClock>) -> TokenVerifier {
    TokenVerifier::builder(keys)
        .with_clock(clock.clone())
        .build()
        .unwrap()
}

fn signer(clock: &Arc<ManualClock>) -> TokenIssuer {
    let key = SigningKey::generate(TokenAlgorithm::EdDsa).unwrap();
    let issuer = TokenIssuer::with_key(key).with_clock(clock.clone());
    issuer.build().unwrap()
}

fn token(issuer: &TokenIssuer) -> String {
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    issuer
        .issue(&user, &session, [])
        .unwrap()
        .expose()
        .to_owned()
}

fn made_up(kid: &str) -> String {
    let header = format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#);
    format!("{}.{}.AA", encode(header), encode("{}"))
}

async fn verdict(verifier: &TokenVerifier, token: &str) -> Result<(), Kind> {
    let outcome = verifier.verify_waiting(token).await;
    outcome.map(drop).map_err(|error| error.kind())
}

#[tokio::test]
async fn a_flood_of_unknown_keys_costs_one_fetch_in_a_cooldown() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let issuer = signer(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    let verifier = verifier(source.keys(&clock), &clock);
    let good = token(&issuer);
    assert_eq!(verdict(&verifier, &good).await, Ok(()), "the first waits");
    assert_eq!(source.hits(), 1);
    for round in 1..=4 {
        for number in 0..25_000 {
            let bad = made_up(&format!("{round}-{number}"));
            assert_eq!(verdict(&verifier, &bad).await, Err(Kind::UnknownKey));
            if number % 5_000 == 0 {
                assert!(
                    verifier.verify(&token(&issuer)).is_ok(),
                    "known ones never wait"
                );
            }
        }
        assert_eq!(source.hits(), round);
        clock.advance(Duration::from_secs(30));
    }
    // The one that the last fetch was for is known not to be there.
    for _ in 0..3 {
        assert_eq!(
            verdict(&verifier, &made_up("4-0")).await,
            Err(Kind::UnknownKey)
        );
    }
    assert_eq!(source.hits(), 4);
}

/// Polled once, and dropped.
async fn hang_up(verifier: &TokenVerifier, token: &str) {
    let call = verdict(verifier, token);
    assert_eq!(futures_util::poll!(Box::pin(call)), Poll::Pending);
}

async fn comes_true(what: impl Fn() -> bool) {
    let true_at_last = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    let true_at_last = tokio::time::timeout(Duration::from_secs(10), true_at_last);
    true_at_last.await.expect("it comes true");
}

#[tokio::test]
async fn a_fetch_goes_on_when_whoever_waits_for_it_hangs_up() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let issuer = signer(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    source.hold();
    let verifier = verifier(source.keys(&clock), &clock);
    let good = token(&issuer);
    for _ in 0..3 {
        hang_up(&verifier, &good).await;
    }
    source.is_asked(1).await;
    source.release();
    comes_true(|| verifier.verify(&good).is_ok()).await;
    assert_eq!(source.hits(), 1);
}

#[tokio::test]
async fn a_key_that_came_after_a_fetch_began_is_not_taken_for_absent() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let (issuer, next) = (signer(&clock), signer(&clock));
    source.tell("200 OK", "", &issuer.jwks());
    source.hold();
    let verifier = verifier(source.keys(&clock), &clock);
    let (first, second) = (made_up("x"), token(&next));
    let mut first = Box::pin(verdict(&verifier, &first));
    assert_eq!(futures_util::poll!(&mut first), Poll::Pending);
    source.is_asked(1).await;
    // The set that is answered may have been read before the next key was there.
    let mut waits = Box::pin(verdict(&verifier, &second));
    assert_eq!(futures_util::poll!(&mut waits), Poll::Pending);
    source.release();
    assert_eq!(first.await, Err(Kind::UnknownKey));
    assert_eq!(waits.await, Err(Kind::UnknownKey));
    source.tell("200 OK", "", &next.jwks());
    clock.advance(Duration::from_secs(30));
    assert_eq!(verdict(&verifier, &second).await, Ok(()));
}

#[tokio::test]
async fn a_name_that_was_made_up_before_its_key_was_there_is_forgotten() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let (issuer, next) = (signer(&clock), signer(&clock));
    source.tell("200 OK", "", &issuer.jwks());
    let verifier = verifier(source.keys(&clock), &clock);
    let new = token(&next);
    assert_eq!(verdict(&verifier, &new).await, Err(Kind::UnknownKey));
    source.tell("200 OK", "", &next.jwks());
    clock.advance(Duration::from_secs(59));
    assert_eq!(verdict(&verifier, &new).await, Err(Kind::UnknownKey));
    assert_eq!(source.hits(), 1);
    clock.advance(Duration::from_secs(1));
    assert_eq!(verdict(&verifier, &new).await, Ok(()));
}

#[tokio::test]
async fn whom_the_line_has_no_place_for_is_told_to_come_again() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let issuer = signer(&clock);
    let keys = source.keys(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    keys.fetch().await.unwrap();
    let verifier = verifier(keys, &clock);
    clock.advance(Duration::from_secs(30));
    source.hold();
    let bad = made_up("x");
    let mut line: Vec<_> = (0..1_024)
        .map(|_| Box::pin(verdict(&verifier, &bad)))
        .collect();
    for place in &mut line {
        assert_eq!(futures_util::poll!(place), Poll::Pending);
    }
    let strange = token(&signer(&clock));
    assert_eq!(verdict(&verifier, &strange).await, Err(Kind::NoKeys));
    assert_eq!(verdict(&verifier, &token(&issuer)).await, Ok(()));
    source.release();
    let outcomes = futures_util::future::join_all(line).await;
    assert!(outcomes.iter().all(|it| *it == Err(Kind::UnknownKey)));
    assert_eq!(verdict(&verifier, &strange).await, Err(Kind::UnknownKey));
    assert_eq!(source.hits(), 2);
}

#[tokio::test]
async fn keys_are_refreshed_although_the_time_of_day_steps_back() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let (issuer, next) = (signer(&clock), signer(&clock));
    let now = clock.now();
    let year = Duration::from_secs(365 * 86_400);
    clock.set(now.checked_add(year).unwrap());
    source.tell("200 OK", "cache-control: max-age=120\r\n", &issuer.jwks());
    let keys = source.keys(&clock);
    keys.fetch().await.unwrap();
    let verifier = verifier(keys, &clock);
    clock.set(now);
    let good = token(&issuer);
    source.tell("200 OK", "", &next.jwks());
    for _ in 0..119 {
        verifier.verify(&good).unwrap();
        clock.advance(Duration::from_secs(1));
    }
    // And on, which costs a look and no fetch.
    clock.set(now.checked_add(year).unwrap());
    let _ = verifier.verify(&good);
    clock.set(now);
    verifier.verify(&good).unwrap();
    tokio::task::yield_now().await;
    assert_eq!(source.hits(), 1);
    clock.advance(Duration::from_secs(1));
    let _ = verifier.verify(&good);
    comes_true(|| verifier.verify(&token(&next)).is_ok()).await;
    assert_eq!(source.hits(), 2);
}

#[test]
fn a_runtime_that_ends_ends_a_fetch_and_no_one_hangs() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    let clock = Arc::new(ManualClock::default());
    // The source outlives the runtime of whoever asks first.
    let others = tokio::runtime::Runtime::new().unwrap();
    let source = others.block_on(Source::new());
    let issuer = signer(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    source.hold();
    let verifier = verifier(source.keys(&clock), &clock);
    let good = token(&issuer);
    let first = runtime().unwrap();
    first.block_on(hang_up(&verifier, &good));
    drop(first);
    assert_eq!(verifier.verify(&good).unwrap_err().kind(), Kind::NoKeys);
    source.release();
    clock.advance(Duration::from_secs(30));
    let second = runtime().unwrap();
    assert_eq!(second.block_on(verdict(&verifier, &good)), Ok(()));
}

#[tokio::test]
async fn many_at_once_share_one_fetch() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let issuer = signer(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    let verifier = verifier(source.keys(&clock), &clock);
    let good = token(&issuer);
    let waits = (0..500).map(|_| verdict(&verifier, &good));
    let outcomes = futures_util::future::join_all(waits).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(source.hits(), 1);
}

#[tokio::test]
async fn a_failing_source_takes_no_key_away_and_is_503() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let (issuer, next) = (signer(&clock), signer(&clock));
    let verifier = verifier(source.keys(&clock), &clock);
    let good = token(&issuer);
    source.tell("500 Oops", "", "");
    assert_eq!(verdict(&verifier, &good).await, Err(Kind::NoKeys));
    let denial = Denial::from(verifier.verify(&good).unwrap_err());
    assert_eq!(denial.kind(), DenialKind::Unavailable);
    source.tell("200 OK", "", &issuer.jwks());
    assert_eq!(
        verdict(&verifier, &good).await,
        Err(Kind::NoKeys),
        "in the cooldown"
    );
    clock.advance(Duration::from_secs(30));
    assert_eq!(verdict(&verifier, &good).await, Ok(()));
    let weak = r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"1"}]}"#;
    let secret =
        r#"{"keys":[{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T","kid":"1"}]}"#;
    let elsewhere = format!("location: {}/elsewhere\r\n", source.url);
    let large = format!(r#"{{"keys":[],"x":"{}"}}"#, "x".repeat(10 << 20));
    for (status, headers, body) in [
        ("500 Oops", "", ""),
        ("302 Found", elsewhere.as_str(), ""),
        ("200 OK", "", "{"),
        ("200 OK", "", r#"{"keys":[]}"#),
        ("200 OK", "", weak),
        ("200 OK", "", secret),
        ("200 OK", "", &large),
        ("204 No Content", "", ""),
    ] {
        source.tell(status, headers, body);
        clock.advance(Duration::from_secs(30));
        let before = source.hits();
        assert_eq!(
            verdict(&verifier, &token(&next)).await,
            Err(Kind::NoKeys),
            "{status}"
        );
        assert_eq!(source.hits(), before + 1, "no redirect is followed");
        assert_eq!(verdict(&verifier, &good).await, Ok(()));
    }
    source.told.lock().unwrap().clear();
    clock.advance(Duration::from_secs(30));
    assert_eq!(
        verdict(&verifier, &token(&next)).await,
        Err(Kind::NoKeys),
        "it hangs"
    );
    assert_eq!(verdict(&verifier, &good).await, Ok(()));
    source.tell("200 OK", "", &next.jwks());
    clock.advance(Duration::from_secs(30));
    assert_eq!(verdict(&verifier, &token(&next)).await, Ok(()));
    assert_eq!(
        verdict(&verifier, &good).await,
        Err(Kind::UnknownKey),
        "it was withdrawn"
    );
}

#[tokio::test]
async fn keys_are_refreshed_beside_those_who_verify() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let (issuer, next) = (signer(&clock), signer(&clock));
    source.tell("200 OK", "cache-control: max-age=120\r\n", &issuer.jwks());
    let keys = source.keys(&clock);
    keys.fetch().await.unwrap();
    let verifier = verifier(keys, &clock);
    let good = token(&issuer);
    verifier.verify(&good).unwrap();
    clock.advance(Duration::from_secs(119));
    verifier.verify(&good).unwrap();
    tokio::task::yield_now().await;
    assert_eq!(source.hits(), 1);
    source.tell("200 OK", "", &next.jwks());
    clock.advance(Duration::from_secs(1));
    verifier
        .verify(&good)
        .expect("whoever finds it due doesn't wait");
    comes_true(|| verifier.verify(&token(&next)).is_ok()).await;
    assert_eq!(source.hits(), 2);
    assert!(
        verifier.verify(&good).is_err(),
        "its key is gone, though it was remembered"
    );
}

#[tokio::test]
async fn private_addresses_are_not_connected_to_by_any_name() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    source.tell("200 OK", "", &signer(&clock).jwks());
    let port = source.url.rsplit(':').next().unwrap().to_owned();
    let named = JwksUrl::at(&format!("http://localhost:{port}/keys"))
        .dangerous_allow_http()
        .build()
        .unwrap();
    assert!(matches!(named.fetch().await, Err(JwksError::Answer(_))));
    let literal = JwksUrl::at(&source.url).dangerous_allow_http().build();
    assert!(matches!(literal, Err(JwksError::PrivateAddress)));
    let plain = JwksUrl::at("http://id.example.com/keys").build();
    assert!(matches!(plain, Err(JwksError::Url)));
    assert_eq!(source.hits(), 0);
}

#[tokio::test]
async fn a_provider_says_where_its_keys_are_and_must_be_itself() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let issuer = signer(&clock);
    source.tell("200 OK", "", &issuer.jwks());
    let discover = |issuer: &str| {
        JwksUrl::discover(issuer)
            .dangerous_allow_http()
            .dangerous_allow_private_addresses()
            .with_clock(clock.clone())
            .build()
            .unwrap()
    };
    let verifier = verifier(discover(&source.url), &clock);
    assert_eq!(verdict(&verifier, &token(&issuer)).await, Ok(()));
    assert_eq!(source.hits(), 2);
    // The same address, and another name of an issuer.
    let other = discover(&format!("{}/", source.url)).fetch().await;
    assert!(matches!(other, Err(JwksError::Discovery)));
}

#[test]
fn settings_of_a_source_that_make_no_sense_are_refused() {
    let at = || JwksUrl::at("https://id.example.com/keys");
    let millis = Duration::from_millis;
    at().build().unwrap();
    for built in [
        at().cooldown(millis(999)).build(),
        at().deadline(millis(0)).build(),
        at().refresh(millis(59_999)).build(),
        at().refresh(Duration::from_secs(86_401)).build(),
    ] {
        assert!(matches!(built, Err(JwksError::Setting(_))));
    }
    assert!(matches!(
        JwksUrl::discover("id").build(),
        Err(JwksError::Url)
    ));
}

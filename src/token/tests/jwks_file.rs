//! Keys in a file that changes.

use super::*;

pub(super) fn signer(clock: &Arc<ManualClock>) -> TokenIssuer {
    let key = SigningKey::generate(TokenAlgorithm::EdDsa).unwrap();
    let issuer = TokenIssuer::with_key(key).with_clock(clock.clone());
    issuer.build().unwrap()
}

pub(super) fn token(issuer: &TokenIssuer) -> IssuedToken {
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new("s").unwrap());
    issuer.issue(&user, &session, []).unwrap()
}

#[test]
fn a_changed_file_is_read_again_and_a_broken_one_changes_nothing() {
    let clock = Arc::new(ManualClock::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let write = |text: &str| {
        let draft = folder.path().join("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(&draft, &path).unwrap();
        clock.advance(Duration::from_secs(1));
    };
    let (old, new) = (signer(&clock), signer(&clock));
    write(&old.jwks());
    let verifier = TokenVerifier::builder(JwksFile::open(&path).unwrap())
        .with_clock(clock.clone())
        .build()
        .unwrap();
    let (old_token, new_token) = (token(&old), token(&new));
    let verdict = |token: &IssuedToken| {
        verifier
            .verify(token.expose())
            .map(drop)
            .map_err(|error| error.kind())
    };
    assert_eq!(verdict(&old_token), Ok(()));
    assert_eq!(verdict(&new_token), Err(Kind::UnknownKey));
    for broken in ["", "{", r#"{"keys":[]}"#, &" ".repeat(300_000)] {
        write(broken);
        assert_eq!(verdict(&old_token), Ok(()));
    }
    std::fs::remove_file(&path).unwrap();
    clock.advance(Duration::from_secs(1));
    assert_eq!(verdict(&old_token), Ok(()));
    write(&new.jwks());
    assert_eq!(verdict(&new_token), Ok(()));
    assert_eq!(
        verdict(&old_token),
        Err(Kind::UnknownKey),
        "though it is remembered"
    );
}

#[test]
fn keys_that_say_no_algorithm_have_the_one_that_was_set_whenever_they_are_read() {
    let clock = Arc::new(ManualClock::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let made = || {
        let key = SigningKey::generate(TokenAlgorithm::Ps256).unwrap();
        let issuer = TokenIssuer::with_key(key).with_clock(clock.clone());
        issuer.build().unwrap()
    };
    let write = |issuer: &TokenIssuer| {
        std::fs::write(&path, issuer.jwks().replace(r#""alg":"PS256","#, "")).unwrap();
    };
    let (old, new) = (made(), made());
    write(&old);
    let file = JwksFile::open(&path).unwrap();
    let file = file.default_algorithm(TokenAlgorithm::Ps256).unwrap();
    let verifier = TokenVerifier::builder(file).with_clock(clock.clone());
    let verifier = verifier.build().unwrap();
    verifier.verify(token(&old).expose()).unwrap();
    std::fs::remove_file(&path).unwrap();
    write(&new);
    clock.advance(Duration::from_secs(1));
    verifier.verify(token(&new).expose()).unwrap();
}

#[test]
fn what_is_no_key_file_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    assert!(matches!(JwksFile::open(&path), Err(JwksError::File { .. })));
    std::fs::write(&path, r#"{"keys":[]}"#).unwrap();
    let empty = JwksFile::open(&path).unwrap_err();
    assert!(matches!(empty, JwksError::Keys(KeyError::Empty)));
    std::fs::write(&path, " ".repeat(300_000)).unwrap();
    assert!(matches!(JwksFile::open(&path), Err(JwksError::TooLarge)));
}

#[tokio::test]
async fn in_a_runtime_nobody_waits_for_the_file() {
    let clock = Arc::new(ManualClock::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let (old, new) = (signer(&clock), signer(&clock));
    std::fs::write(&path, old.jwks()).unwrap();
    let verifier = TokenVerifier::builder(JwksFile::open(&path).unwrap())
        .with_clock(clock.clone())
        .build()
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, new.jwks()).unwrap();
    let token = token(&new);
    // Each step of the clock allows one check; the read takes an unknown time.
    let counts = async {
        while verifier.verify(token.expose()).is_err() {
            clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), counts)
        .await
        .unwrap();
}

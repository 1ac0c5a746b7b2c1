//! Keys at an address, served by a real server in this process.

mod source;
mod waits;

use self::source::*;
use super::*;

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
    // It stays valid, without another fetch.
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

#[tokio::test]
async fn keys_that_say_no_algorithm_have_the_one_that_was_set() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let key = SigningKey::generate(TokenAlgorithm::Ps384).unwrap();
    let issuer = TokenIssuer::with_key(key).with_clock(clock.clone());
    let issuer = issuer.build().unwrap();
    source.tell(
        "200 OK",
        "",
        &issuer.jwks().replace(r#""alg":"PS384","#, ""),
    );
    let keys = JwksUrl::at(&source.url)
        .dangerous_allow_http()
        .dangerous_allow_private_addresses()
        .with_clock(clock.clone());
    let told = keys.default_algorithm(TokenAlgorithm::Rs512);
    let told = told.default_algorithm(TokenAlgorithm::EdDsa);
    let told = told
        .default_algorithm(TokenAlgorithm::Ps384)
        .build()
        .unwrap();
    let verifier = verifier(told, &clock);
    assert_eq!(verdict(&verifier, &token(&issuer)).await, Ok(()));
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
        "too soon"
    );
    clock.advance(Duration::from_secs(1));
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
    let refused = named.fetch().await;
    assert!(matches!(refused, Err(JwksError::PrivateAddress)));
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
    // The same address, but another issuer name.
    let other = discover(&format!("{}/", source.url)).fetch().await;
    let told = other.unwrap_err().to_string();
    let expected = format!(
        "the configuration of the issuer \"{0}/\" is that of \"{0}\"",
        source.url
    );
    assert_eq!(told, expected);
}

#[tokio::test]
async fn an_issuer_with_tenants_is_found_by_its_template() {
    const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let text = format!("{}/{{tenantid}}/v2.0", source.url);
    let discover = |text: &str, place: &str| {
        let template = IssuerTemplate::of_any_tenant(text, "sid").unwrap();
        JwksUrl::discover_template(&template, place)
            .dangerous_allow_http()
            .dangerous_allow_private_addresses()
            .with_clock(clock.clone())
            .build()
    };
    let key = SigningKey::generate(TokenAlgorithm::EdDsa).unwrap();
    let name = text.replace("{tenantid}", TENANT);
    let issuer = TokenIssuer::with_key(key).issuer(&name);
    let issuer = issuer.with_clock(clock.clone()).build().unwrap();
    let (user, session) = (UserId::new("u").unwrap(), SessionId::new(TENANT).unwrap());
    let token = issuer.issue(&user, &session, []).unwrap();
    let of = |issuer_of_key: &str| {
        let member = format!(r#""issuer":"{issuer_of_key}","kty""#);
        issuer.jwks().replace(r#""kty""#, &member)
    };
    source.tell("200 OK", "", &of(&text));
    let template = IssuerTemplate::of_any_tenant(&text, "sid").unwrap();
    let verifier = TokenVerifier::builder(discover(&text, "organizations").unwrap());
    let verifier = verifier.add_issuer_template(template);
    let verifier = verifier.with_clock(clock.clone()).build().unwrap();
    assert_eq!(verdict(&verifier, token.expose()).await, Ok(()));
    assert_eq!(source.hits(), 2);

    // The same key, but another's from now on: what was remembered is judged again.
    source.tell(
        "200 OK",
        "",
        &of("https://login.example.com/{tenantid}/v2.0"),
    );
    clock.advance(Duration::from_secs(600));
    let gone = || verifier.verify(token.expose()).is_err();
    comes_true(gone).await;
    let refused = verifier.verify(token.expose()).unwrap_err();
    assert_eq!(refused.kind(), Kind::WrongIssuer);

    // The configuration names another template, or a tenant.
    let older = text.replace("tenantid", "tenant");
    let other = discover(&older, "organizations").unwrap().fetch().await;
    let told = other.unwrap_err().to_string();
    assert!(told.contains(&format!("is that of {text:?}")), "{told}");
    for odd in [
        "",
        ".",
        "..",
        "a/b",
        "a?b",
        "a#b",
        "a%2fb",
        "{tenantid}",
        "a b",
    ] {
        let refused = discover(&text, odd);
        assert!(matches!(refused, Err(JwksError::Url)), "{odd}");
    }
}

#[tokio::test]
async fn without_any_keys_a_source_is_asked_again_soon_and_then_less_often() {
    let (source, clock) = (Source::new().await, Arc::new(ManualClock::default()));
    let issuer = signer(&clock);
    let verifier = verifier(source.keys(&clock), &clock);
    let good = token(&issuer);
    source.tell("500 Oops", "", "");
    for second in 0..=61 {
        let asked = source.hits();
        assert_eq!(verdict(&verifier, &good).await, Err(Kind::NoKeys));
        // After 1, 2, 4, 8, 16 and 30 seconds: the cooldown.
        let is_due = [0, 1, 3, 7, 15, 31, 61].contains(&second);
        assert_eq!(source.hits() - asked, usize::from(is_due), "{second}");
        clock.advance(Duration::from_secs(1));
    }
    // With keys, a failure is followed by the cooldown.
    source.tell("200 OK", "", &issuer.jwks());
    clock.advance(Duration::from_secs(30));
    assert_eq!(verdict(&verifier, &good).await, Ok(()));
    source.tell("500 Oops", "", "");
    let (next, asked) = (token(&signer(&clock)), source.hits());
    for second in 0..=60 {
        verdict(&verifier, &next).await.unwrap_err();
        let expected = asked + second / 30;
        assert_eq!(source.hits(), expected, "{second}");
        clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_source_that_is_not_there_says_why() {
    let closed = JwksUrl::at("http://127.0.0.1:1/keys?secret=s3cret")
        .dangerous_allow_http()
        .dangerous_allow_private_addresses()
        .build()
        .unwrap();
    let told = closed.fetch().await.unwrap_err().to_string();
    assert!(told.contains("onnection refused"), "{told}");
    assert!(!told.contains("s3cret"), "{told}");
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

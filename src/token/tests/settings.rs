//! Invalid settings.

use super::*;

#[test]
fn settings_that_make_no_sense_are_refused() {
    use TokenConfigError as E;
    let verifier = || TokenVerifier::hs256(CANARY);
    let issuer = || TokenIssuer::hs256(CANARY);
    let err = |outcome: Result<TokenVerifier, E>| outcome.unwrap_err();
    assert_eq!(
        err(TokenVerifier::hs256(&[7; 31]).build()),
        E::Key(KeyError::SecretTooShort)
    );
    assert_eq!(
        TokenIssuer::hs256(&[7; 31]).build().unwrap_err(),
        E::Key(KeyError::SecretTooShort)
    );
    assert_eq!(err(verifier().issuer("").build()), E::Issuer);
    assert_eq!(err(verifier().audience("").build()), E::Audience);
    let one_more = verifier().issuer("a").audience("b");
    assert_eq!(err(one_more.add_issuer("").build()), E::Issuer);
    let one_more = verifier().issuer("a").audience("b");
    assert_eq!(err(one_more.add_audience("").build()), E::Audience);
    assert_eq!(err(verifier().typ("").build()), E::Typ);
    let much = Duration::from_secs(601);
    assert_eq!(err(verifier().leeway(much).build()), E::Leeway);
    assert_eq!(err(verifier().leeway_ahead(much).build()), E::Leeway);
    assert_eq!(issuer().issuer("").build().unwrap_err(), E::Issuer);
    assert_eq!(issuer().audience("").build().unwrap_err(), E::Audience);
    for lifetime in [Duration::from_millis(999), Duration::MAX] {
        assert_eq!(
            issuer().lifetime(lifetime).build().unwrap_err(),
            E::Lifetime
        );
    }
}

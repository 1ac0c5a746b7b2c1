//! An issuer with a name for each of its tenants, as Microsoft Entra has.

use super::*;

const TEMPLATE: &str = "https://login.microsoftonline.com/{tenantid}/v2.0";
const ANN: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
const BOB: &str = "0b4c7d3e-6e0b-4f7e-9c7a-2a1d4e1f8a55";
/// The tenant of personal accounts, which has keys of its own.
const PERSONAL: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";

fn any() -> IssuerTemplate {
    IssuerTemplate::of_any_tenant(TEMPLATE, "tid").unwrap()
}

fn issuer_of(tenant: &str) -> String {
    TEMPLATE.replace("{tenantid}", tenant)
}

fn with(template: IssuerTemplate) -> TokenVerifierBuilder {
    TokenVerifier::hs256(CANARY)
        .add_issuer_template(template)
        .audience("web")
        .with_clock(Arc::new(ManualClock::default()))
}

fn claims(issuer: &str, more: &str) -> String {
    let exp = NOW + 60;
    format!(r#"{{"iss":"{issuer}","aud":"web","sub":"me","exp":{exp}{more}}}"#)
}

fn token(issuer: &str, tid: &str) -> String {
    sign(HEADER, claims(issuer, &format!(r#","tid":"{tid}""#)))
}

#[track_caller]
fn refuses(verifier: &TokenVerifier, token: &str, name: &str) {
    for _ in ["once", "twice"] {
        let refused = verifier.look(token).unwrap_err();
        assert_eq!(refused.error.kind(), Kind::WrongIssuer, "{name}");
        assert_eq!(refused.holder, None, "another's users are not ours: {name}");
    }
}

#[test]
fn each_tenant_s_tokens_are_its_own() {
    let verifier = with(any()).subject_prefix("entra:").build().unwrap();
    for tenant in [ANN, BOB, PERSONAL] {
        let token = token(&issuer_of(tenant), tenant);
        for _ in ["cold", "warm"] {
            let verified = verifier.verify(&token).unwrap();
            assert_eq!(verified.subject(), format!("entra:{tenant}:me"));
            assert_eq!(verified.principal().tenant(), Some(tenant));
            assert_eq!(verified.claim("tid"), None, "nobody asked for it");
        }
    }
    // A claim that a tenant's administrator sets is his tenant's too.
    let by_mail = with(any()).subject_from(["email"]).build().unwrap();
    let subject = |tenant: &str| {
        let more = format!(r#","tid":"{tenant}","email":"ann@example.org""#);
        let token = sign(HEADER, claims(&issuer_of(tenant), &more));
        by_mail.verify(&token).unwrap().subject().to_owned()
    };
    assert_ne!(subject(ANN), subject(BOB));
}

#[test]
fn the_issuer_is_the_template_with_the_token_s_own_tenant_to_the_letter() {
    let verifier = with(any()).build().unwrap();
    let own = issuer_of(ANN);
    for (name, issuer, tid) in [
        ("another's", own.as_str(), BOB),
        ("another's issuer", &issuer_of(BOB), ANN),
        ("the template itself", TEMPLATE, "{tenantid}"),
        ("the template, of one", TEMPLATE, ANN),
        ("all of them", &issuer_of("common"), "common"),
        ("no tenant", &issuer_of(""), ""),
        ("a way out", &issuer_of("../evil"), "../evil"),
        (
            "two segments",
            &issuer_of(&format!("{ANN}/x")),
            &format!("{ANN}/x"),
        ),
        (
            "capitals",
            &issuer_of(&ANN.to_uppercase()),
            &ANN.to_uppercase(),
        ),
        ("capitals in one", &own, &ANN.to_uppercase()),
        (
            "a brace",
            &issuer_of(&format!("{{{ANN}}}")),
            &format!("{{{ANN}}}"),
        ),
        (
            "no hyphens",
            &issuer_of(&ANN.replace('-', "0")),
            &ANN.replace('-', "0"),
        ),
        (
            "a letter too many",
            &issuer_of(&format!("{ANN}0")),
            &format!("{ANN}0"),
        ),
        ("another cloud", &own.replace(".com", ".us"), ANN),
        ("version 1", &format!("https://sts.windows.net/{ANN}/"), ANN),
        ("a slash more", &format!("{own}/"), ANN),
        ("plain http", &own.replace("https", "http"), ANN),
        ("another host", &format!("https://evil.example/{own}"), ANN),
    ] {
        refuses(&verifier, &token(issuer, tid), name);
    }
    for (name, more) in [
        ("no tenant", String::new()),
        ("null", r#","tid":null"#.to_owned()),
        ("a list", format!(r#","tid":["{ANN}"]"#)),
        ("a number", r#","tid":1"#.to_owned()),
        ("in another claim", format!(r#","TID":"{ANN}""#)),
        ("deeper", format!(r#","x":{{"tid":"{ANN}"}}"#)),
    ] {
        refuses(&verifier, &sign(HEADER, claims(&own, &more)), name);
    }
    let twice = format!(r#","tid":"{BOB}","tid":"{ANN}""#);
    let twice = verifier.verify(&sign(HEADER, claims(&own, &twice)));
    assert_eq!(twice.unwrap_err().kind(), Kind::Malformed);
    let without = format!(
        r#"{{"aud":"web","sub":"me","tid":"{ANN}","exp":{}}}"#,
        NOW + 60
    );
    refuses(&verifier, &sign(HEADER, without), "no issuer");
    // Without a template it is a name, and nothing more.
    let named = TokenVerifier::hs256(CANARY)
        .issuer(TEMPLATE)
        .audience("web");
    let named = named.with_clock(Arc::new(ManualClock::default()));
    let named = named.build().unwrap();
    refuses(&named, &token(&own, ANN), "a name");
}

#[test]
fn where_tenants_are_named_there_are_no_others() {
    let only = IssuerTemplate::of_tenants(TEMPLATE, "tid", [ANN, PERSONAL]).unwrap();
    let verifier = with(only).build().unwrap();
    verifier.verify(&token(&issuer_of(ANN), ANN)).unwrap();
    refuses(&verifier, &token(&issuer_of(BOB), BOB), "not one of ours");
    // Two templates, each with its tenants: version 1 of one, version 2 of the other.
    let older = IssuerTemplate::of_tenants("https://sts.windows.net/{tenantid}/", "tid", [BOB]);
    let only = IssuerTemplate::of_tenants(TEMPLATE, "tid", [ANN]).unwrap();
    let both = with(only).add_issuer_template(older.unwrap());
    let both = both.build().unwrap();
    let v1 = |tenant: &str| format!("https://sts.windows.net/{tenant}/");
    both.verify(&token(&issuer_of(ANN), ANN)).unwrap();
    both.verify(&token(&v1(BOB), BOB)).unwrap();
    refuses(&both, &token(&v1(ANN), ANN), "of the other version");
    refuses(&both, &token(&issuer_of(BOB), BOB), "of the other version");
}

#[test]
fn a_refusal_names_a_holder_with_its_tenant() {
    let verifier = with(any()).build().unwrap();
    let other = claims(&issuer_of(ANN), &format!(r#","tid":"{ANN}""#)).replace("web", "app");
    let refused = verifier.look(&sign(HEADER, other)).unwrap_err();
    assert_eq!(refused.error.kind(), Kind::WrongAudience);
    assert_eq!(&*refused.holder.unwrap(), format!("{ANN}:me"));
}

/// A signer whose set says of its key whose it is, and a verifier of that set.
fn bound(member: &str, template: IssuerTemplate) -> (SigningKey, TokenVerifier) {
    let key = SigningKey::generate(TokenAlgorithm::EdDsa).unwrap();
    let jwks = VerifyingKeys::from(key.verifying().clone()).to_jwks();
    let jwks = jwks.replace(r#""kty""#, &format!(r#"{member}"x5t":"AA","kty""#));
    let keys = VerifyingKeys::from_public_jwks(jwks.as_bytes()).unwrap();
    let verifier = TokenVerifier::builder(keys).add_issuer_template(template);
    let verifier = verifier.audience("web");
    let verifier = verifier.with_clock(Arc::new(ManualClock::default()));
    (key, verifier.build().unwrap())
}

fn sign_with(key: &SigningKey, claims: &str) -> String {
    let kid = key.verifying().name().unwrap();
    let header = format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#);
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = key.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", encode(signature))
}

#[test]
fn a_key_signs_for_the_issuer_that_its_set_names() {
    let of = |issuer: &str| format!(r#""issuer":"{issuer}","#);
    let cases = [
        ("everybody's", of(TEMPLATE), [true, true]),
        ("says nothing", String::new(), [true, true]),
        ("null", r#""issuer":null,"#.to_owned(), [true, true]),
        (
            "personal accounts'",
            of(&issuer_of(PERSONAL)),
            [false, true],
        ),
        (
            "another cloud's",
            of(&TEMPLATE.replace(".com", ".us")),
            [false; 2],
        ),
        (
            "another spelling",
            of(&TEMPLATE.replace("ti", "tI")),
            [false; 2],
        ),
        ("empty", of(""), [false; 2]),
        ("a number", r#""issuer":7,"#.to_owned(), [false; 2]),
        ("a list", format!(r#""issuer":["{TEMPLATE}"],"#), [false; 2]),
    ];
    for (name, member, good) in cases {
        let (key, verifier) = bound(&member, any());
        for (tenant, good) in [ANN, PERSONAL].into_iter().zip(good) {
            let claims = claims(&issuer_of(tenant), &format!(r#","tid":"{tenant}""#));
            let token = sign_with(&key, &claims);
            if good {
                verifier.verify(&token).expect(name);
            } else {
                refuses(&verifier, &token, name);
            }
        }
    }
}

/// No standard knows the member, so who has no template goes by what it was before.
#[test]
fn a_key_s_issuer_binds_nobody_without_a_template() {
    let key = SigningKey::generate(TokenAlgorithm::EdDsa).unwrap();
    let jwks = VerifyingKeys::from(key.verifying().clone()).to_jwks();
    for odd in [r#""CN=keys""#, "7", "{}"] {
        let jwks = jwks.replace(r#""kty""#, &format!(r#""issuer":{odd},"kty""#));
        let keys = VerifyingKeys::from_public_jwks(jwks.as_bytes()).unwrap();
        let verifier = TokenVerifier::builder(keys).issuer("api").audience("web");
        let verifier = verifier.with_clock(Arc::new(ManualClock::default()));
        let verifier = verifier.build().unwrap();
        verifier.verify(&sign_with(&key, &good_claims(""))).unwrap();
    }
}

#[test]
fn templates_that_make_no_sense_are_refused() {
    for odd in [
        "",
        "https://id.example.com/v2.0",
        "{tenantid}",
        "id.example.com/{tenantid}",
        "ftp://id.example.com/{tenantid}",
        "https://{tenantid}/v2.0",
        "https:///{tenantid}/v2.0",
        "https://{tenantid}.example.com/",
        "https://id.example.com/a{tenantid}/",
        "https://id.example.com/{tenantid}b/",
        "https://id.example.com/{}/",
        "https://id.example.com/{a/b}/",
        "https://id.example.com/{tenantid}/{tenantid}",
        "https://id.example.com/{tenantid}/}",
        "https://id.example.com/{tenantid",
        "https://id.example.com/?t=/{tenantid}",
        "https://id.example.com/#/{tenantid}",
    ] {
        let refused = IssuerTemplate::of_any_tenant(odd, "tid").unwrap_err();
        assert_eq!(refused, TokenConfigError::IssuerTemplate, "{odd}");
    }
    let unclaimed = IssuerTemplate::of_any_tenant(TEMPLATE, "").unwrap_err();
    assert_eq!(unclaimed, TokenConfigError::IssuerTemplate);
    for odd in [
        &[][..],
        &["common"],
        &[""],
        &[ANN, "*"],
        &["72F988BF-86F1-41AF-91AB-2D7CD011DB47"],
    ] {
        let refused = IssuerTemplate::of_tenants(TEMPLATE, "tid", odd.iter().copied());
        assert_eq!(refused.unwrap_err(), TokenConfigError::Tenants, "{odd:?}");
    }
    let mixed = with(any()).issuer("api").build().unwrap_err();
    assert_eq!(mixed, TokenConfigError::MixedIssuers);
    let twice = with(any()).add_attribute_from("tenant", ["tid"]).build();
    assert_eq!(twice.unwrap_err(), TokenConfigError::TenantAttribute);
    with(any())
        .add_attribute_from("oid", ["oid"])
        .build()
        .unwrap();
}

mod waits;

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::domain::{credential::CredentialKind, money::Money};

fn answer(denials: &Denials, denial: &Denial, path: &str) -> (Response<Bytes>, Value) {
    let request = http::Request::builder().uri(path).body(()).unwrap();
    let response = denials.respond(denial, &RequestHead::of(&request));
    let body = serde_json::from_slice(response.body()).unwrap();
    (response, body)
}

#[test]
fn the_texts_of_a_paid_api() {
    let denials = Denials::new(DenialFormat::ErrorMessage);
    let price = Money::from_nanos(2_000_000);
    let denial = Denial::new(DenialKind::InsufficientCredits).price(price);
    let (response, body) = answer(&denials, &denial, "/");
    assert_eq!(response.status(), 402);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    let text =
        "This request costs $0.0020 but your balance is insufficient. Please top up your account.";
    assert_eq!(
        body,
        json!({ "error": "Insufficient credits", "message": text })
    );
}

#[test]
fn of_a_price_by_use_the_text_says_the_most_that_it_comes_to() {
    let most = Money::from_nanos(2_000_000);
    let denial = Denial::new(DenialKind::InsufficientCredits).price_at_most(most);
    assert_eq!(
        (denial.priced_at(), denial.is_price_at_most()),
        (Some(most), true)
    );
    let (_, body) = answer(&Denials::new(DenialFormat::Detail), &denial, "/");
    let text = "This request may cost up to $0.0020 but your balance is insufficient. Please top up your account.";
    assert_eq!(body, json!({ "detail": text }));
    assert!(!denial.price(most).is_price_at_most());
}

#[test]
fn head_is_told_how_long_the_refusal_would_be() {
    let denial = Denial::new(DenialKind::NotFound);
    let (get, _) = answer(&Denials::default(), &denial, "/");
    let request = http::Request::head("/").body(()).unwrap();
    let head = Denials::default().respond(&denial, &RequestHead::of(&request));
    assert_eq!(head.status(), get.status());
    assert!(head.body().is_empty());
    let length = get.body().len().into();
    assert_eq!(head.headers().get(CONTENT_LENGTH), Some(&length));
}

#[test]
fn a_401_challenges_and_says_what_is_wrong_only_if_something_was_sent() {
    let challenge = |kind| {
        let denial = Denial::new(kind).of_credential(CredentialKind::Token);
        let (response, _) = answer(&Denials::default(), &denial, "/");
        assert_eq!(response.status(), 401);
        response.headers()[WWW_AUTHENTICATE]
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        challenge(DenialKind::CredentialMissing),
        r#"Bearer realm="api""#
    );
    assert!(challenge(DenialKind::CredentialInvalid).contains("invalid_token"));
    assert!(challenge(DenialKind::CredentialAmbiguous).contains("invalid_token"));
}

#[test]
fn what_is_neither_key_nor_token_is_called_neither() {
    let denials = Denials::new(DenialFormat::ErrorMessage);
    let ticket = CredentialKind::Other("ticket");
    for (kind, credential, title) in [
        (DenialKind::CredentialMissing, ticket, "Missing credentials"),
        (
            DenialKind::CredentialInvalid,
            CredentialKind::Certificate,
            "Invalid credentials",
        ),
        (DenialKind::CredentialExpired, ticket, "Credentials expired"),
        (
            DenialKind::CredentialExpired,
            CredentialKind::Token,
            "Token expired",
        ),
        (
            DenialKind::CredentialExpired,
            CredentialKind::ApiKey,
            "API key expired",
        ),
    ] {
        let denial = Denial::new(kind).of_credential(credential);
        let (response, body) = answer(&denials, &denial, "/");
        assert_eq!(
            (response.status().as_u16(), &body["error"]),
            (401, &json!(title))
        );
        let message = body["message"].as_str().unwrap();
        let names_none = message.contains("credential") && !message.contains("key");
        assert_eq!(
            names_none,
            title.to_lowercase().contains("credential"),
            "{message}"
        );
    }
}

#[test]
fn a_challenge_names_the_metadata_of_the_resource() {
    let url = "https://api.example.com/.well-known/oauth-protected-resource";
    let denials = Denials::default().resource_metadata(url);
    let challenge = |kind| {
        let (response, _) = answer(&denials, &Denial::new(kind), "/");
        response.headers()[WWW_AUTHENTICATE].clone()
    };
    assert_eq!(
        challenge(DenialKind::CredentialMissing),
        format!(r#"Bearer realm="api", resource_metadata="{url}""#)
    );
    assert_eq!(
        challenge(DenialKind::CredentialInvalid),
        format!(r#"Bearer realm="api", error="invalid_token", resource_metadata="{url}""#)
    );
}

#[test]
fn a_challenge_names_the_realm() {
    let denials = Denials::default().realm("the \"big\" api\r\n\\é");
    let (response, _) = answer(&denials, &Denial::new(DenialKind::CredentialInvalid), "/");
    assert_eq!(
        response.headers()[WWW_AUTHENTICATE],
        r#"Bearer realm="the big api", error="invalid_token""#
    );
}

#[test]
fn a_403_for_want_of_a_scope_names_it() {
    let challenge = |scopes: &[&str]| {
        let scopes: Vec<Box<str>> = scopes.iter().map(|scope| (*scope).into()).collect();
        let denial = Denial::new(DenialKind::NotPermitted).lacking_scope(&scopes);
        let (response, _) = answer(&Denials::default(), &denial, "/");
        assert_eq!(response.status(), 403);
        let challenge = response.headers().get(WWW_AUTHENTICATE);
        challenge.map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(
        challenge(&["documents", "chat:read"]).unwrap(),
        r#"Bearer realm="api", error="insufficient_scope", scope="documents chat:read""#
    );
    for odd in ["a\"b", "a\\b", "a\r\nb", "é"] {
        assert_eq!(challenge(&[odd]), None, "{odd}");
    }
    let (response, _) = answer(
        &Denials::default(),
        &Denial::new(DenialKind::NotPermitted),
        "/",
    );
    assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
}

#[test]
fn each_path_has_its_style() {
    let denials = |prefix: &str| {
        Denials::new(DenialFormat::ErrorMessage).add_path_prefix(prefix, DenialFormat::OpenAi)
    };
    let nothing = Denial::new(DenialKind::NotFound);
    for (prefix, path, is_openai) in [
        ("/v1", "/v1", true),
        ("/v1", "/v1/", true),
        ("/v1/", "/v1", true),
        ("/v1/", "/v1/a/b", true),
        ("/v1", "/v10", false),
        ("/v1/", "/v1beta/a", false),
        ("/v1/", "/api/v1/a", false),
        ("/", "/", true),
        ("", "/a", true),
    ] {
        let (_, body) = answer(&denials(prefix), &nothing, path);
        assert_eq!(body["error"].is_object(), is_openai, "{prefix} {path}");
    }
    let denials = denials("/v1/");
    let denial = Denial::new(DenialKind::SpendingLimitReached);
    let (response, body) = answer(&denials, &denial, "/v1/chat/completions");
    assert_eq!(response.headers()["x-should-retry"], "false");
    assert_eq!(body["error"]["code"], "billing_hard_limit_reached");
    let (_, body) = answer(&denials, &denial, "/v2");
    assert_eq!(body["error"], "Spending limit exceeded");
}

#[test]
fn grpc_is_answered_in_grpc_whatever_the_style() {
    let mut request = http::Request::new(());
    *request.version_mut() = http::Version::HTTP_2;
    request
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let denial = Denial::new(DenialKind::CredentialMissing);
    let response = Denials::default().respond(&denial, &RequestHead::of(&request));
    assert_eq!(
        (response.status(), response.body().len()),
        (StatusCode::OK, 0)
    );
    assert_eq!(response.headers()["grpc-status"], "16");
    // There is no gRPC over HTTP/1.1: to such a client a status of 200 would be an admission.
    *request.version_mut() = http::Version::HTTP_11;
    let response = Denials::default().respond(&denial, &RequestHead::of(&request));
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(!response.headers().contains_key("grpc-status"));
    // A call of gRPC-Web, translated: it came over HTTP/1.1, and goes on as gRPC.
    request
        .headers_mut()
        .insert(http::header::TE, HeaderValue::from_static("trailers"));
    let response = Denials::default().respond(&denial, &RequestHead::of(&request));
    assert_eq!(response.headers()["grpc-status"], "16");
}

#[test]
fn a_method_that_is_not_allowed_is_answered_with_those_that_are() {
    let denials = Denials::new(DenialFormat::Detail);
    let denial = Denial::new(DenialKind::MethodNotAllowed);
    let (response, _) = answer(&denials, &denial.clone().allowing(["GET", "HEAD"]), "/");
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "GET, HEAD");
    let (response, _) = answer(&denials, &denial, "/");
    assert!(!response.headers().contains_key("allow"), "nobody knows");
}

#[test]
fn the_operators_text_reaches_no_client() {
    let denial = Denial::new(DenialKind::Unavailable).because("CANARY db01:5432 refused");
    for style in [
        DenialFormat::Problem,
        DenialFormat::Detail,
        DenialFormat::Error,
        DenialFormat::ErrorMessage,
        DenialFormat::OpenAi,
        DenialFormat::Anthropic,
    ] {
        let (response, body) = answer(&Denials::new(style), &denial, "/");
        assert_eq!(response.status(), 503);
        assert!(!body.to_string().contains("CANARY"));
    }
}

#[test]
fn a_service_has_words_of_its_own() {
    let denials = Denials::new(DenialFormat::Detail).add_message(
        DenialKind::RateLimited,
        "Rate limit exceeded. Try again later.",
    );
    let limited = Denial::new(DenialKind::RateLimited).retry_after(Duration::from_secs(7));
    let (_, body) = answer(&denials, &limited, "/");
    assert_eq!(
        body,
        json!({ "detail": "Rate limit exceeded. Try again later." })
    );
    let (_, body) = answer(&denials, &limited.with_message("Slowly"), "/");
    assert_eq!(body, json!({ "detail": "Slowly" }));
    let (_, body) = answer(&denials, &Denial::new(DenialKind::NotFound), "/");
    assert_eq!(
        body,
        json!({ "detail": "There is nothing at this address" })
    );
}

#[test]
fn openai_s_clients_are_told_the_parameter_and_the_exact_code() {
    let denial = Denial::new(DenialKind::Malformed);
    let exact = denial
        .clone()
        .at_parameter("model")
        .with_code("model_not_found");
    let denials = Denials::new(DenialFormat::OpenAi);
    let (_, body) = answer(&denials, &exact, "/");
    assert_eq!(body["error"]["param"], "model");
    assert_eq!(body["error"]["code"], "model_not_found");
    let (_, body) = answer(&denials, &denial, "/");
    assert_eq!(body["error"]["param"], Value::Null);
    let (_, body) = answer(&Denials::new(DenialFormat::Problem), &exact, "/");
    assert_eq!(body["code"], "malformed");
}

#[test]
fn a_problem_names_the_limits_that_were_exceeded() {
    let problem = Denials::new(DenialFormat::Problem);
    let limited = Denial::new(DenialKind::RateLimited).retry_after(Duration::from_secs(7));
    let (_, body) = answer(&problem, &limited.clone().violating(["minute", "day"]), "/");
    let kind = "https://iana.org/assignments/http-problem-types#quota-exceeded";
    assert_eq!(body["type"], kind);
    assert_eq!(body["violated-policies"], json!(["minute", "day"]));
    assert_eq!(
        (&body["status"], &body["code"]),
        (&json!(429), &json!("rate_limited"))
    );
    let (_, body) = answer(&problem, &limited, "/");
    assert_eq!(body["type"], "about:blank");
    assert_eq!(body.get("violated-policies"), None);
}

#[test]
fn what_was_said_of_the_body_before_is_not_said_of_the_refusal() {
    let denials = Denials::new(DenialFormat::Detail);
    let mut before = HeaderMap::new();
    for (name, value) in [
        ("content-length", "9"),
        ("content-encoding", "gzip"),
        ("etag", "\"v1\""),
        ("content-digest", "sha-256=:x:"),
        ("x-kept", "1"),
        ("www-authenticate", "Basic realm=\"own\""),
    ] {
        before.insert(name, HeaderValue::from_static(value));
    }
    let denial = Denial::new(DenialKind::CredentialInvalid);
    for dialect in [Dialect::Http, Dialect::Grpc, Dialect::Web] {
        let request = RefusedRequest {
            target: None,
            request_id: None,
            dialect,
        };
        let answer = denials.respond_to(&denial, &request, before.clone());
        let headers = answer.headers();
        assert_eq!(headers["x-kept"], "1");
        for name in [
            "content-length",
            "content-encoding",
            "etag",
            "content-digest",
        ] {
            assert!(!headers.contains_key(name), "{name}, {dialect:?}");
        }
        // The application's own scheme: a browser asks for a password.
        assert_eq!(headers["www-authenticate"], "Basic realm=\"own\"");
    }
}

#[test]
fn who_speaks_grpc_web_reads_a_status_in_the_head() {
    for media_type in ["application/grpc-web", "application/grpc-web-text"] {
        let request = http::Request::post("/demo.v1.Echo/Say")
            .header("content-type", format!("{media_type}+proto"))
            .body(())
            .unwrap();
        let denial = Denial::new(DenialKind::NotPermitted);
        let answer = Denials::default().respond(&denial, &RequestHead::of(&request));
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], media_type);
        assert_eq!(answer.headers()["grpc-status"], "7");
        assert!(answer.body().is_empty());
    }
}

#[test]
fn members_are_written_in_their_documented_order() {
    let limited = Denial::new(DenialKind::RateLimited).violating(["minute"]);
    for (format, members) in [
        (DenialFormat::ErrorMessage, &["error", "message"][..]),
        (
            DenialFormat::OpenAi,
            &["error", "message", "type", "param", "code"],
        ),
        (DenialFormat::Anthropic, &["type", "error", "message"]),
        (
            DenialFormat::Problem,
            &[
                "type",
                "title",
                "status",
                "detail",
                "code",
                "violated-policies",
            ],
        ),
    ] {
        let (response, _) = answer(&Denials::new(format), &limited, "/");
        let text = std::str::from_utf8(response.body()).unwrap();
        let places: Vec<_> = members
            .iter()
            .map(|name| text.find(&format!("\"{name}\":")).unwrap())
            .collect();
        assert!(places.is_sorted(), "{text}");
    }
}

#[test]
fn anthropics_clients_read_the_type_of_an_error() {
    let denials = Denials::new(DenialFormat::Anthropic);
    for (kind, status, name) in [
        (DenialKind::CredentialInvalid, 401, "authentication_error"),
        (DenialKind::InsufficientCredits, 402, "billing_error"),
        (DenialKind::NotPermitted, 403, "permission_error"),
        (DenialKind::NotFound, 404, "not_found_error"),
        (DenialKind::TooLarge, 413, "request_too_large"),
        (DenialKind::RateLimited, 429, "rate_limit_error"),
        (DenialKind::Internal, 500, "api_error"),
        (DenialKind::Unavailable, 503, "overloaded_error"),
    ] {
        let (response, body) = answer(&denials, &Denial::new(kind), "/");
        assert_eq!(response.status(), status);
        let message = body["error"]["message"].clone();
        let error = json!({ "type": name, "message": message });
        assert_eq!(body, json!({ "type": "error", "error": error }));
        let retried = response.headers().get("x-should-retry");
        assert_eq!(retried.is_some(), status == 402, "{kind:?}");
    }
}

#[test]
fn the_words_are_those_of_the_credential_that_was_asked_for() {
    let denials = Denials::new(DenialFormat::ErrorMessage);
    let title = |denial: Denial| answer(&denials, &denial, "/").1["error"].clone();
    let missing = || Denial::new(DenialKind::CredentialMissing);
    assert_eq!(title(missing()), "Missing credentials");
    let key = missing().of_credential(CredentialKind::ApiKey);
    assert_eq!(title(key), "Missing API key");
    let session = missing().of_credential(CredentialKind::SessionCookie);
    assert_eq!(title(session), "Not signed in");

    let spent = Denial::new(DenialKind::SpendingLimitReached).of_credential(CredentialKind::Token);
    let (_, body) = answer(&denials, &spent, "/");
    let text = "The spending limit has been reached. Please adjust limits or top up credits.";
    assert_eq!(body["message"], text);
}

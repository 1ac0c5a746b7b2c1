//! The gRPC example from outside, as clients of the protocol see it, and the gate in front of tonic
//! where no process can be made to fail.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "every line here is a test, and a test that panics is one that fails"
)]

mod certificates;
mod connections;
mod live_price;
mod money;
mod refusals;
#[path = "../support/mod.rs"]
mod support;

/// Made from `examples/grpc/*.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated"
)]
mod pb {
    pub(crate) mod demo {
        include!("generated/tollgate.demo.v1.rs");
    }

    pub(crate) mod bank {
        include!("generated/tollgate.bank.v1.rs");
    }
}

use std::time::Duration;

use pb::{
    bank::{
        Balance, GetBalanceRequest, TopUpRequest, account_client::AccountClient,
        admin_client::AdminClient,
    },
    demo::{
        CompleteRequest, SayRequest, completion_client::CompletionClient, echo_client::EchoClient,
    },
};
use support::{Demo, Server};
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

const DOLLAR: i64 = 1_000_000_000;

async fn connect(server: &Server) -> Channel {
    Endpoint::from_shared(format!("http://{}", server.address))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("x-api-key", key.parse().unwrap());
    request
}

fn with_bearer<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

/// Metadata that a client encodes, and a credential never is in.
fn in_bytes(name: &'static str, value: &str) -> Request<SayRequest> {
    let mut request = Request::new(say(""));
    let value = MetadataValue::from_bytes(value.as_bytes());
    request.metadata_mut().insert_bin(name, value);
    request
}

fn say(message: &str) -> SayRequest {
    SayRequest {
        message: message.into(),
    }
}

fn prompt(prompt: &str) -> CompleteRequest {
    CompleteRequest {
        prompt: prompt.into(),
    }
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().expect("every refusal says why");
    assert_eq!(info.domain, "tollgate");
    info.reason.clone()
}

async fn balance(channel: &Channel, key: &str) -> Balance {
    let request = with_key(GetBalanceRequest {}, key);
    let answer = AccountClient::new(channel.clone())
        .get_balance(request)
        .await;
    answer.unwrap().into_inner()
}

#[tokio::test]
async fn keys_and_tokens_are_taken_from_either_metadata() {
    let example = Demo::of("grpc");
    let key = example.key("viewer").await;
    let token = example
        .command(&["generate-token", "--user", "somebody"])
        .await;
    let server = example.start(&[]).await;
    let mut echo = EchoClient::new(connect(&server).await);
    for (request, caller) in [
        (with_key(say("hello"), &key), "viewer"),
        (with_bearer(say("hello"), &key), "viewer"),
        (with_bearer(say("hello"), &token), "somebody"),
    ] {
        let answer = echo.say(request).await.unwrap();
        assert!(answer.metadata().contains_key("ratelimit"));
        assert!(answer.metadata().contains_key("x-request-id"));
        let answer = answer.into_inner();
        assert_eq!(
            (answer.message.as_str(), answer.caller.as_str()),
            ("hello", caller)
        );
    }
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_stream_comes_word_by_word() {
    let example = Demo::of("grpc");
    let key = example.key("viewer").await;
    let server = example.start(&[]).await;
    let mut echo = EchoClient::new(connect(&server).await);
    let request = with_key(say("one two three"), &key);
    let mut stream = echo.say_words(request).await.unwrap().into_inner();
    let mut words = Vec::new();
    while let Some(word) = stream.message().await.unwrap() {
        words.push(word.message);
    }
    assert_eq!(words, ["one", "two", "three"]);
    server.stop().await.without_panic();
}

#[tokio::test]
async fn nobody_is_unauthenticated() {
    let example = Demo::of("grpc");
    let key = example.key("viewer").await;
    let server = example.start(&[]).await;
    let mut echo = EchoClient::new(connect(&server).await);
    let last = if key.ends_with('x') { 'y' } else { 'x' };
    let other = format!("{}{last}", &key[..key.len() - 1]);
    let mut twice = with_key(say(""), &key);
    twice
        .metadata_mut()
        .append("x-api-key", key.parse().unwrap());
    for (request, expected) in [
        (Request::new(say("")), "CREDENTIAL_MISSING"),
        (with_key(say(""), &other), "CREDENTIAL_INVALID"),
        (with_bearer(say(""), "a.b.c"), "CREDENTIAL_INVALID"),
        (twice, "CREDENTIAL_AMBIGUOUS"),
        (in_bytes("x-api-key-bin", &key), "CREDENTIAL_MISSING"),
        (
            in_bytes("authorization-bin", &format!("Bearer {key}")),
            "CREDENTIAL_MISSING",
        ),
    ] {
        let status = echo.say(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(reason(&status), expected);
        let names_both =
            "Expected 'X-API-Key' or 'Authorization: Bearer' header with access key or token";
        let is_missing = expected == "CREDENTIAL_MISSING";
        assert_eq!(status.message() == names_both, is_missing, "{status:?}");
    }
    server.stop().await.without_panic();
}

#[tokio::test]
async fn each_role_has_its_services() {
    let example = Demo::of("grpc");
    let (viewer, operator) = (example.key("viewer").await, example.key("operator").await);
    let admin = example.key("admin").await;
    let server = example.start(&[]).await;
    let channel = connect(&server).await;
    let mut completion = CompletionClient::new(channel.clone());
    let refused = completion
        .complete(with_key(prompt("x"), &viewer))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(reason(&refused), "NOT_PERMITTED");
    assert_eq!(
        balance(&channel, &viewer).await.available_nanos,
        10 * DOLLAR,
        "a refusal is free"
    );
    completion
        .complete(with_key(prompt("x"), &operator))
        .await
        .unwrap();

    let payment = || TopUpRequest {
        account: "viewer".into(),
        amount_nanos: DOLLAR,
        reference: "once".into(),
    };
    let mut desk = AdminClient::new(channel.clone());
    let refused = desk
        .top_up(with_key(payment(), &operator))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    for _ in 0..2 {
        let paid = desk.top_up(with_key(payment(), &admin)).await.unwrap();
        assert_eq!(
            paid.into_inner().available_nanos,
            11 * DOLLAR,
            "one payment"
        );
    }
    for reference in [String::new(), "a".repeat(256)] {
        let payment = TopUpRequest {
            reference,
            ..payment()
        };
        let refused = desk.top_up(with_key(payment, &admin)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(reason(&refused), "UNPROCESSABLE");
    }
    let nobody = TopUpRequest {
        account: String::new(),
        ..payment()
    };
    let refused = desk.top_up(with_key(nobody, &admin)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(reason(&refused), "UNPROCESSABLE");
    server.stop().await.without_panic();
}

/// Nobody has to say who they are for a health check, and may not hold any number of them open.
#[tokio::test]
async fn strangers_are_counted_by_their_address() {
    let example = Demo::of("grpc");
    let server = example.start(&[("IP_RATE_LIMIT_PER_MINUTE", "3")]).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(connect(&server).await);
    let mut streams = Vec::new();
    let refused = loop {
        let request = tonic_health::pb::HealthCheckRequest::default();
        match health.watch(request).await {
            Ok(stream) => streams.push(stream),
            Err(refused) => break refused,
        }
        assert!(streams.len() <= 3);
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(reason(&refused), "RATE_LIMITED");
    assert_eq!(streams.len(), 3);
    drop(streams);
    server.stop().await.without_panic();
}

#[tokio::test]
async fn too_many_calls_are_told_when_to_come_again() {
    let example = Demo::of("grpc");
    let key = example.key("viewer").await;
    let server = example.start(&[("KEY_RATE_LIMIT_PER_MINUTE", "3")]).await;
    let mut echo = EchoClient::new(connect(&server).await);
    for _ in 0..3 {
        echo.say(with_key(say(""), &key)).await.unwrap();
    }
    let refused = echo.say(with_key(say(""), &key)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refused), "RATE_LIMITED");
    let retry = refused
        .get_error_details()
        .retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!(
        retry > Duration::ZERO && retry <= Duration::from_secs(20),
        "{retry:?}"
    );
    assert!(
        refused.metadata().contains_key("ratelimit"),
        "a refusal tells what is left too"
    );
    server.stop().await.without_panic();
}

#[tokio::test]
async fn health_and_reflection_ask_for_no_credential() {
    let example = Demo::of("grpc");
    let server = example.start(&[]).await;
    let channel = connect(&server).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let request = tonic_health::pb::HealthCheckRequest::default();
    health.check(request).await.unwrap();

    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel.clone())
        .server_reflection_info(tokio_stream::once(question))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}");
    };
    let named = |name: &str| list.service.iter().any(|service| service.name == name);
    assert!(named("tollgate.demo.v1.Echo") && named("tollgate.bank.v1.Admin"));

    // What clients of Python's ask.
    use tonic_reflection::pb::v1alpha;
    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let answers = v1alpha::server_reflection_client::ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(question))
        .await;
    let answer = answers.unwrap().into_inner().message().await.unwrap();
    assert!(answer.unwrap().message_response.is_some());
    server.stop().await.without_panic();
}

#[tokio::test]
async fn commands_that_mean_nothing_are_refused() {
    let example = Demo::of("grpc");
    example
        .refused(&["generate-key", "--role", "emperor"])
        .await;
    example.refused(&["generate-key", "--balance", "-1"]).await;
    example.refused(&["generate-key", "--role"]).await;
    example.refused(&["serve"]).await;
}

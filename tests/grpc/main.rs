//! The gRPC example from outside, as clients of the protocol see it, and the gate in front of tonic where
//! no process can be made to fail.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "every line here is a test, and a test that panics is one that fails"
)]

mod connections;
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
    ] {
        let status = echo.say(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(reason(&status), expected);
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

#[tokio::test]
async fn calls_cost_their_price_and_failures_nothing() {
    let example = Demo::of("grpc");
    let key = example.key("operator").await;
    let server = example.start(&[]).await;
    let channel = connect(&server).await;
    let mut completion = CompletionClient::new(channel.clone());
    let answer = completion
        .complete(with_key(prompt("hi"), &key))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().text, "hi");
    let mut left = 10 * DOLLAR - 2_000_000;
    assert_eq!(balance(&channel, &key).await.available_nanos, left);

    let failed = completion
        .complete(with_key(prompt("!fail"), &key))
        .await
        .unwrap_err();
    assert_eq!(
        (failed.code(), reason(&failed).as_str()),
        (Code::Internal, "INTERNAL")
    );
    assert_eq!(
        balance(&channel, &key).await.available_nanos,
        left,
        "a failure is free"
    );

    let request = with_key(prompt("one two three"), &key);
    let mut stream = completion
        .complete_stream(request)
        .await
        .unwrap()
        .into_inner();
    while stream.message().await.unwrap().is_some() {}
    left -= 3 * 100_000;
    assert_eq!(balance(&channel, &key).await.available_nanos, left);
    server.stop().await.without_panic();

    let server = example.start(&[]).await;
    assert_eq!(
        balance(&connect(&server).await, &key).await.available_nanos,
        left,
        "it is kept"
    );
    server.stop().await.without_panic();
}

#[tokio::test]
async fn a_stream_that_is_left_costs_what_was_said() {
    let example = Demo::of("grpc");
    let key = example.key("operator").await;
    let server = example.start(&[]).await;
    let channel = connect(&server).await;
    let mut completion = CompletionClient::new(channel.clone());
    let words = vec!["word"; 90].join(" ");
    let request = with_key(prompt(&words), &key);
    let mut stream = completion
        .complete_stream(request)
        .await
        .unwrap()
        .into_inner();
    for _ in 0..3 {
        stream.message().await.unwrap().unwrap();
    }
    let held = balance(&channel, &key).await.held_nanos;
    assert_eq!(held, 100 * 100_000, "what it may cost at most is set aside");
    drop(stream);
    let settled = async {
        loop {
            let balance = balance(&channel, &key).await;
            if balance.held_nanos == 0 {
                break balance.available_nanos;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let left = tokio::time::timeout(Duration::from_secs(20), settled)
        .await
        .unwrap();
    let cost = 10 * DOLLAR - left;
    assert!((300_000..9_000_000).contains(&cost), "{cost}");
    server.stop().await.without_panic();
}

#[tokio::test]
async fn without_money_the_quota_is_told() {
    let example = Demo::of("grpc");
    let arguments = ["generate-key", "--role", "operator", "--balance", "0.0020"];
    let key = example.command(&arguments).await;
    let server = example.start(&[]).await;
    let mut completion = CompletionClient::new(connect(&server).await);
    completion
        .complete(with_key(prompt("x"), &key))
        .await
        .unwrap();
    let refused = completion
        .complete(with_key(prompt("x"), &key))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refused), "INSUFFICIENT_CREDITS");
    let details = refused.get_error_details();
    assert_eq!(
        details.quota_failure().unwrap().violations[0].subject,
        "balance"
    );
    assert_eq!(
        details.error_info().unwrap().metadata["price_nanos"],
        "2000000"
    );
    server.stop().await.without_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_is_told_a_hundred_times_at_once_is_one() {
    let example = Demo::of("grpc");
    let (admin, user) = (example.key("admin").await, example.key("viewer").await);
    let server = example.start(&[]).await;
    let channel = connect(&server).await;
    let before = balance(&channel, &user).await.available_nanos;
    let payments = (0..100).map(|_| {
        let (mut client, admin) = (AdminClient::new(channel.clone()), admin.clone());
        let payment = TopUpRequest {
            account: "viewer".into(),
            amount_nanos: DOLLAR,
            reference: "payment-1".into(),
        };
        tokio::spawn(async move { client.top_up(with_key(payment, &admin)).await })
    });
    let payments: Vec<_> = payments.collect();
    for payment in payments {
        let told = payment.await.unwrap().unwrap().into_inner();
        assert_eq!(told.available_nanos, before + DOLLAR);
    }
    assert_eq!(
        balance(&channel, &user).await.available_nanos,
        before + DOLLAR
    );
    server.stop().await.without_panic();
}

#[tokio::test]
async fn who_may_not_is_told_so_and_not_of_money() {
    let example = Demo::of("grpc");
    let poor = ["generate-key", "--role", "viewer", "--balance", "0"];
    let viewer = example.command(&poor).await;
    let server = example.start(&[]).await;
    let channel = connect(&server).await;
    let refused = CompletionClient::new(channel.clone())
        .complete(with_key(prompt("a b"), &viewer))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert_eq!(reason(&refused), "NOT_PERMITTED");
    let top_up = with_key(TopUpRequest::default(), &viewer);
    let refused = AdminClient::new(channel).top_up(top_up).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
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

//! What calls cost, and who hasn't got that.

use std::time::Duration;

use tonic::{Code, metadata::MetadataValue};
use tonic_types::StatusExt;

use super::{
    DOLLAR, balance, connect,
    pb::{
        bank::{TopUpRequest, admin_client::AdminClient},
        demo::completion_client::CompletionClient,
    },
    prompt, reason,
    support::Demo,
    with_key,
};

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

/// The answer that was charged is given again, a stream in one piece; another request isn't it.
#[tokio::test]
async fn a_retry_is_charged_once_and_gets_the_same_answer() {
    let example = Demo::of("grpc");
    let key = example.key("operator").await;
    let server = example.start(&[]).await;
    let channel = connect(&server).await;
    let mut completion = CompletionClient::new(channel.clone());
    let named = |text: &str, name: &'static str| {
        let mut request = with_key(prompt(text), &key);
        let metadata = request.metadata_mut();
        metadata.insert("idempotency-key", MetadataValue::from_static(name));
        request
    };
    for replayed in [None, Some("true")] {
        let answer = completion.complete(named("hi", "a")).await.unwrap();
        let mark = answer.metadata().get("idempotency-replayed");
        assert_eq!(mark.map(|mark| mark.to_str().unwrap()), replayed);
        assert_eq!(answer.into_inner().text, "hi");
    }
    let mut left = 10 * DOLLAR - 2_000_000;
    assert_eq!(balance(&channel, &key).await.available_nanos, left);
    let other = completion.complete(named("ho", "a")).await.unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument);
    assert_eq!(reason(&other), "UNPROCESSABLE");

    for _ in 0..2 {
        let stream = completion.complete_stream(named("one two three", "b"));
        let mut stream = stream.await.unwrap().into_inner();
        let mut said = Vec::new();
        while let Some(word) = stream.message().await.unwrap() {
            said.push(word.text);
        }
        assert_eq!(said, ["one", "two", "three"]);
    }
    left -= 3 * 100_000;
    assert_eq!(balance(&channel, &key).await.available_nanos, left);

    // What failed was free, so its name is too.
    for (text, code) in [("!fail", Some(Code::Internal)), ("good", None)] {
        let answer = completion.complete(named(text, "c")).await;
        assert_eq!(answer.err().map(|refused| refused.code()), code);
    }
    server.stop().await.without_panic();

    let server = example.start(&[]).await;
    let mut completion = CompletionClient::new(connect(&server).await);
    let forgotten = completion.complete(named("hi", "a")).await.unwrap_err();
    assert_eq!(
        forgotten.code(),
        Code::AlreadyExists,
        "its answer was in memory"
    );
    server.stop().await.without_panic();
}

/// The limit is tonic's, 4 MiB, and so are the words; the reason is always there.
#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_free() {
    let example = Demo::of("grpc");
    let key = example.key("operator").await;
    let server = example.start(&[]).await;
    let channel = connect(&server).await;
    let mut completion = CompletionClient::new(channel.clone());
    let large = "x".repeat(4 << 20);
    let one = completion.complete(with_key(prompt(&large), &key)).await;
    let stream = completion.complete_stream(with_key(prompt(&large), &key));
    for refused in [one.map(drop), stream.await.map(drop)] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
        assert_eq!(reason(&refused), "OUT_OF_RANGE");
    }
    let balance = balance(&channel, &key).await;
    assert_eq!(
        (balance.available_nanos, balance.held_nanos),
        (10 * DOLLAR, 0)
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

//! Estimates, and what they are corrected to.

use super::*;

/// A handler that counts tokens while its answer streams, and fails where it is told to.
async fn counting(
    request: Request<()>,
) -> Result<Response<impl http_body::Body<Data = bytes::Bytes, Error = Infallible>>, Infallible> {
    let charge = request.extensions().get::<Charge>().unwrap().clone();
    charge.add_input_tokens(0);
    let status = request
        .uri()
        .path()
        .trim_start_matches('/')
        .parse()
        .unwrap_or(200);
    let pieces = tokio_stream::iter(0..3).map(move |_| {
        if status < 400 {
            charge.add_output_tokens(20);
        }
        Ok(Frame::data(bytes::Bytes::from_static(b"word ")))
    });
    let mut response = Response::new(StreamBody::new(pieces));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(response)
}

#[tokio::test]
async fn tokens_are_estimated_and_then_corrected() {
    let layer = RateLimitLayer::global(Quota::per_hour(100)).tokens(|_| 30);
    let limits = layer.limits();
    let service = layer.layer(service_fn(counting));
    let left = async || {
        let request = Request::new(());
        let head = RequestHead::of(&request);
        limits.peek(&head).await.unwrap().remaining()
    };
    let call = async |path| {
        service
            .clone()
            .oneshot(Request::get(path).body(()).unwrap())
            .await
            .unwrap()
    };
    let answer = call("/").await;
    assert_eq!(left().await, 70, "the estimate, while it is under way");
    answer.into_body().collect().await.unwrap();
    assert_eq!(left().await, 40, "sixty were written");
    drop(call("/500").await);
    assert_eq!(left().await, 40, "a failure costs nothing");
    let mut answer = call("/").await.into_body();
    answer.frame().await.unwrap().unwrap();
    drop(answer);
    assert_eq!(left().await, 20, "who leaves pays for what was written");
    assert_eq!(call("/").await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(left().await, 20, "a refusal corrects nothing");
}

/// What is left of 100 after a call, of which 30 were taken, is over.
async fn left_after<S, B>(
    wrap: impl FnOnce(&RateLimitLayer) -> S,
    drive: impl AsyncFnOnce(S),
) -> u32
where
    S: tower::Service<Request<()>, Response = Response<B>>,
{
    let layer = RateLimitLayer::global(Quota::per_hour(100)).tokens(|_| 30);
    drive(wrap(&layer)).await;
    let request = Request::new(());
    let peeked = layer.limits();
    let left = peeked.peek(&RequestHead::of(&request)).await;
    left.unwrap().remaining()
}

#[tokio::test]
async fn who_hangs_up_before_the_head_has_had_it_worked_on() {
    let never = service_fn(async |_: Request<()>| {
        std::future::pending::<Result<Answer, Infallible>>().await
    });
    let left = left_after(
        |layer| layer.layer(never),
        async |service| {
            let mut answer = Box::pin(service.oneshot(Request::new(())));
            assert!(futures_util::poll!(answer.as_mut()).is_pending());
        },
    );
    assert_eq!(left.await, 70);
}

#[tokio::test]
async fn an_inner_error_or_a_panic_gives_the_estimate_back() {
    let fails = service_fn(async |_: Request<()>| Err::<Answer, _>("down"));
    let left = left_after(
        |layer| layer.layer(fails),
        async |service| {
            assert!(service.oneshot(Request::new(())).await.is_err());
        },
    );
    assert_eq!(left.await, 100);
    let panics = service_fn(async |request: Request<()>| {
        assert_ne!(request.uri().path(), "/", "here");
        Ok::<Answer, Infallible>(Response::new(String::new()))
    });
    let left = left_after(
        |layer| layer.layer(panics),
        async |service| {
            let call = tokio::spawn(service.oneshot(Request::new(())));
            assert!(call.await.unwrap_err().is_panic());
        },
    );
    assert_eq!(left.await, 100);
}

/// Of gRPC, whose failures have the status 200: in the head, or in the trailers.
#[tokio::test]
async fn a_grpc_call_that_fails_gives_the_estimate_back() {
    for (head, message, trailer, expected) in [
        ("7", "", None, 100),
        ("0", "", None, 70),
        ("", "", Some("13"), 100),
        ("", "message", Some("13"), 70),
        ("", "message", Some("0"), 70),
    ] {
        let answers = service_fn(async |_: Request<()>| {
            let mut frames = Vec::new();
            if !message.is_empty() {
                frames.push(Ok::<_, Infallible>(Frame::data(bytes::Bytes::from(
                    message,
                ))));
            }
            if let Some(status) = trailer {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                frames.push(Ok(Frame::trailers(trailers)));
            }
            let mut response = Response::new(StreamBody::new(tokio_stream::iter(frames)));
            let headers = response.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            if !head.is_empty() {
                headers.insert("grpc-status", head.parse().unwrap());
            }
            Ok::<_, Infallible>(response)
        });
        let left = left_after(
            |layer| layer.layer(answers),
            async |service| {
                let answer = service.oneshot(Request::new(())).await.unwrap();
                answer.into_body().collect().await.unwrap();
            },
        );
        assert_eq!(left.await, expected, "{head} {message} {trailer:?}");
    }
}

/// However little the client says that it will use.
#[tokio::test]
async fn an_estimate_of_nothing_is_not_admitted_where_nothing_is_left() {
    let layer = RateLimitLayer::global(Quota::per_hour(50)).tokens(|_| 0);
    let service = layer.layer(service_fn(counting));
    let answer = service.clone().oneshot(Request::new(())).await.unwrap();
    answer.into_body().collect().await.unwrap();
    let refused = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
}

/// The draft has no word for tokens.
#[tokio::test]
async fn tokens_are_not_told_as_requests() {
    let layer = || RateLimitLayer::global(Quota::per_hour(100)).tokens(|_| 30);
    let own = layer().add_headers(RateHeaderDialect::Draft);
    let own = own.add_headers(RateHeaderDialect::OpenAiTokens);
    for layer in [layer(), own] {
        let service = layer.layer(service_fn(counting));
        let answer = service.oneshot(Request::new(())).await.unwrap();
        let headers = answer.headers();
        assert_eq!(headers["x-ratelimit-remaining-tokens"], "70");
        assert!(!headers.contains_key("ratelimit") && !headers.contains_key("ratelimit-policy"));
    }
    let inner = layer();
    let outer = RateLimitLayer::global(Quota::per_hour(9));
    let service = outer.layer(inner.layer(service_fn(counting)));
    let answer = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(answer.headers()["ratelimit-policy"], "\"hour\";q=9;w=3600");
}

/// What is left of 100 after 30 were taken for an answer of this body, of which so many bytes were
/// read.
async fn left_of_body(media_type: &'static str, body: &'static str, read: usize) -> u32 {
    let answers = service_fn(async |_: Request<()>| {
        let pieces = body.as_bytes().chunks(7);
        let frames =
            pieces.map(|piece| Ok::<_, Infallible>(Frame::data(bytes::Bytes::from_static(piece))));
        let response = Response::builder().header("content-type", media_type);
        Ok::<_, Infallible>(
            response
                .body(StreamBody::new(tokio_stream::iter(frames)))
                .unwrap(),
        )
    });
    left_after(
        |layer| layer.layer(answers),
        async |service| {
            let mut answer = service.oneshot(Request::new(())).await.unwrap().into_body();
            let mut seen = 0;
            while seen < read
                && let Some(frame) = answer.frame().await
            {
                seen += frame.unwrap().into_data().unwrap().len();
            }
        },
    )
    .await
}

#[tokio::test]
async fn what_an_answer_says_that_it_used_is_what_is_counted() {
    const JSON: &str = r#"{"choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":12,"completion_tokens":5}}"#;
    const OPEN_AI: &str = r#"data: {"choices":[{"delta":{"content":"hello there"}}]}

data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":5}}

data: [DONE]

"#;
    const BEGINS: &str = r#"event: message_start
data: {"type":"message_start","message":{"usage":{"input_tokens":40,"output_tokens":1}}}

"#;
    let all = usize::MAX;
    assert_eq!(left_of_body("application/json", JSON, all).await, 83);
    assert_eq!(left_of_body("text/event-stream", OPEN_AI, all).await, 83);
    assert_eq!(
        left_of_body("text/plain", JSON, all).await,
        70,
        "no usage there"
    );
    assert_eq!(
        left_of_body("application/json", r#"{"ok":true}"#, all).await,
        70
    );
    assert_eq!(
        left_of_body("application/json", JSON, 20).await,
        70,
        "who leaves early"
    );
    assert_eq!(left_of_body("text/event-stream", OPEN_AI, 20).await, 70);
    // The count of a first event is that of the whole only if nothing follows.
    const FIRST: &str = r#"data: {"choices":[{"delta":{"content":"he"}}],"usage":{"prompt_tokens":12,"completion_tokens":1}}

"#;
    const NEXT: &str = r#"data: {"choices":[{"delta":{"content":"llo, and this is a sentence"}}]}

data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":9}}

"#;
    let stream = [FIRST, NEXT].concat().leak();
    let after_text = stream.len() - 78;
    assert_eq!(
        left_of_body("text/event-stream", stream, FIRST.len()).await,
        87
    );
    assert_eq!(
        left_of_body("text/event-stream", stream, after_text).await,
        70
    );
    assert_eq!(left_of_body("text/event-stream", stream, all).await, 79);
    // It is known to have used more than was estimated, if not how much.
    assert_eq!(
        left_of_body("text/event-stream", BEGINS, BEGINS.len()).await,
        59
    );
}

/// Counted when it began: no more is known.
#[tokio::test]
async fn what_was_read_is_not_all_that_a_call_uses() {
    let reads = service_fn(async |request: Request<()>| {
        request
            .extensions()
            .get::<Charge>()
            .unwrap()
            .add_input_tokens(3);
        std::future::pending::<Result<Answer, Infallible>>().await
    });
    let left = left_after(
        |layer| layer.layer(reads),
        async |service| {
            let mut answer = Box::pin(service.oneshot(Request::new(())));
            assert!(futures_util::poll!(answer.as_mut()).is_pending());
        },
    );
    assert_eq!(left.await, 70);
}

const KINDS: [CountedTokens; 5] = [
    CountedTokens::All,
    CountedTokens::Uncached,
    CountedTokens::Input,
    CountedTokens::UncachedInput,
    CountedTokens::Output,
];

/// What each kind has counted of a call whose estimate was 300: the answer says this in events, of
/// which so many bytes are read, and the handler counts that.
async fn counted_by_kind(body: &'static str, read: usize, count: fn(&Charge)) -> [u32; 5] {
    let answers = service_fn(async |request: Request<()>| {
        count(request.extensions().get::<Charge>().unwrap());
        let pieces = body.as_bytes().chunks(7).map(bytes::Bytes::from_static);
        let frames = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
        let response = Response::builder().header("content-type", "text/event-stream");
        let body = StreamBody::new(tokio_stream::iter(frames));
        Ok::<_, Infallible>(response.body(body).unwrap())
    });
    let mut counted = [0; 5];
    for (kind, counted) in KINDS.into_iter().zip(&mut counted) {
        let layer = RateLimitLayer::global(Quota::per_hour(10_000));
        let layer = layer.counted_tokens(kind).tokens(|_| 300);
        let limits = layer.limits();
        let answer = layer.layer(answers).oneshot(Request::new(())).await;
        let (mut answer, mut seen) = (answer.unwrap().into_body(), 0);
        while seen < read
            && let Some(frame) = answer.frame().await
        {
            seen += frame.unwrap().into_data().unwrap().len();
        }
        drop(answer);
        let request = Request::new(());
        let left = limits.peek(&RequestHead::of(&request)).await.unwrap();
        *counted = 10_000 - left.remaining();
    }
    counted
}

const CACHED: &str = r#"event: message_start
data: {"type":"message_start","message":{"usage":{"input_tokens":20,"cache_read_input_tokens":900,"cache_creation_input_tokens":80,"output_tokens":1}}}

event: message_delta
data: {"type":"message_delta","usage":{"output_tokens":50}}

event: message_stop
data: {"type":"message_stop"}

"#;

#[tokio::test]
async fn a_limit_may_count_a_part_of_the_tokens() {
    let nothing: fn(&Charge) = |_| {};
    let all = usize::MAX;
    assert_eq!(
        counted_by_kind(CACHED, all, nothing).await,
        [1_050, 150, 1_000, 100, 50]
    );
    assert_eq!(
        counted_by_kind("data: {}\n\n", all, nothing).await,
        [300; 5],
        "nothing is known"
    );
    let handler: fn(&Charge) = |charge| {
        charge.add_input_tokens(500);
        charge.add_cached_tokens(400);
        charge.add_output_tokens(7);
    };
    assert_eq!(
        counted_by_kind(CACHED, all, handler).await,
        [507, 107, 500, 100, 7]
    );
}

/// What isn't told may have been any: the estimate stays, or what is known if that is more.
#[tokio::test]
async fn a_count_that_nobody_names_is_not_zero() {
    const INPUT: &str = "data: {\"usage\":{\"prompt_tokens\":500}}\n\ndata: [DONE]\n\n";
    const TOTAL: &str = "data: {\"usage\":{\"total_tokens\":500}}\n\ndata: [DONE]\n\n";
    const REST: &str =
        "data: {\"usage\":{\"prompt_tokens\":9,\"total_tokens\":9}}\n\ndata: [DONE]\n\n";
    const PLAIN: &str = "data: {\"usage\":{\"prompt_tokens\":500,\"completion_tokens\":5}}\n\n\
                         data: [DONE]\n\n";
    const NONE: &str = "data: {}\n\n";
    let all = usize::MAX;
    let nothing: fn(&Charge) = |_| {};
    let output: fn(&Charge) = |charge| charge.add_output_tokens(30);
    let input: fn(&Charge) = |charge| charge.add_input_tokens(500);
    let begun: fn(&Charge) = |charge| charge.add_output_tokens(0);
    let cached: fn(&Charge) = |charge| charge.add_cached_tokens(400);
    let audio: fn(&Charge) = |charge| charge.add_audio_output_tokens(40);
    for (body, read, count, expected) in [
        (NONE, all, output, [300, 300, 300, 300, 30]),
        (CACHED, all, output, [1_030, 130, 1_000, 100, 30]),
        (CACHED, 20, output, [300, 300, 300, 300, 30]),
        (NONE, all, input, [500, 500, 500, 500, 300]),
        (CACHED, all, input, [550, 550, 500, 500, 50]),
        (CACHED, 20, begun, [300, 300, 300, 300, 0]),
        (INPUT, all, output, [530, 530, 500, 500, 30]),
        (INPUT, all, nothing, [500, 500, 500, 500, 300]),
        (TOTAL, all, nothing, [500, 500, 500, 500, 300]),
        (TOTAL, all, output, [300, 300, 300, 300, 30]),
        (REST, all, nothing, [9, 9, 9, 9, 0]),
        (PLAIN, all, cached, [505, 105, 500, 100, 5]),
        (NONE, all, cached, [400, 300, 400, 300, 300]),
        (NONE, all, audio, [300; 5]),
    ] {
        let counted = counted_by_kind(body, read, count).await;
        assert_eq!(counted, expected, "{body} {read}");
    }
}

/// What is known then may be less than what was used, so it gives nothing back.
#[tokio::test]
async fn who_leaves_early_pays_the_estimate_of_what_is_counted() {
    let begun = CACHED.find("event: message_delta").unwrap();
    let nothing: fn(&Charge) = |_| {};
    assert_eq!(
        counted_by_kind(CACHED, begun, nothing).await,
        [1_001, 300, 1_000, 300, 300]
    );
}

/// An answer whose input nobody tells is all that a limit on its output needs.
#[tokio::test]
async fn a_limit_on_output_does_not_ask_for_the_input() {
    const NO_INPUT: &str = "data: {\"usage\":{\"completion_tokens\":5}}\n\ndata: [DONE]\n\n";
    let nothing: fn(&Charge) = |_| {};
    assert_eq!(
        counted_by_kind(NO_INPUT, usize::MAX, nothing).await,
        [300, 300, 300, 300, 5]
    );
    let searches: fn(&Charge) = |charge| charge.add_web_searches(1);
    assert_eq!(
        counted_by_kind("data: {}\n\n", usize::MAX, searches).await,
        [300; 5],
        "searches are no tokens"
    );
}

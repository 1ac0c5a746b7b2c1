//! The warm path allocates next to nothing, does no I/O and spawns nothing.
//!
//! There is no runtime in here: a spawn, a timer or a socket would panic. And every answer is there
//! at the first poll, or `call` would panic as well.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "it is a test, and shares its scene with the benches"
)]

#[path = "../benches/scene/mod.rs"]
mod scene;

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, Request};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{Full, StreamBody};
use scene::{Bare, Scene, call, full};
use tollgate::{BodyDigestLayer, RequestShape, RequestedUse};
use tower::{Layer, ServiceExt, service_fn};

type Body = Full<Bytes>;

/// What one call allocates: the median of many, because caches and logs grow now and then.
fn allocations(mut call: impl FnMut()) -> u64 {
    const CALLS: usize = 301;
    for _ in 0..CALLS {
        call();
    }
    let count = |_| allocation_counter::measure(&mut call).count_total;
    let mut counts: Vec<u64> = (0..CALLS).map(count).collect();
    counts.sort_unstable();
    counts[CALLS / 2]
}

fn scene() -> Scene {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(Scene::new())
}

/// What a layer allocates on top of the service behind it.
macro_rules! over_bare {
    ($layer:expr, $request:expr) => {{
        let bare = Bare(full::<Body>);
        let gated = $layer.layer(bare.clone());
        let without = allocations(|| call(&bare, $request));
        allocations(|| call(&gated, $request)) - without
    }};
}

/// One: the principal's place among the request's extensions.
#[test]
fn a_warm_key_and_a_warm_token_allocate_once() {
    let scene = scene();
    assert_eq!(over_bare!(scene.api_key(), scene.with_key()), 1);
    assert_eq!(over_bare!(scene.jwt(), scene.with_token()), 1);
}

/// A policy that finds nothing says so, and the next one is asked.
#[test]
fn what_a_caller_could_have_brought_instead_allocates_nothing() {
    let scene = scene();
    let key_in = |name| scene.api_key().header(HeaderName::from_static(name));
    let only_in = |name| {
        scene
            .api_key()
            .only_in_header(HeaderName::from_static(name))
    };
    let in_cookie = || scene.jwt().cookie("token");
    let with_token = || scene.with_token();
    assert_eq!(
        over_bare!(only_in("x-acme").or(scene.jwt()), with_token()),
        1
    );
    assert_eq!(over_bare!(in_cookie().or(scene.jwt()), with_token()), 1);
    let three = only_in("x-acme").or(in_cookie()).or(scene.jwt());
    assert_eq!(over_bare!(three, with_token()), 1);
    let four = in_cookie()
        .or(only_in("x-acme"))
        .or(only_in("x-old"))
        .or(scene.jwt());
    assert_eq!(over_bare!(four, with_token()), 1);
    let keys = in_cookie().or(only_in("x-acme")).or(key_in("x-api-key"));
    assert_eq!(over_bare!(keys, scene.with_key()), 1);
}

#[test]
fn a_permission_allocates_nothing() {
    let scene = scene();
    assert_eq!(over_bare!(scene.rbac(), scene.known()), 0);
}

/// One for the texts of all header fields together; the map of the fields grows by two, for itself
/// and its index.
#[test]
fn limits_allocate_for_their_header_fields_alone() {
    let scene = scene();
    assert!(over_bare!(scene.one_window(), scene.known()) <= 3);
    assert!(over_bare!(scene.three_windows(), scene.known()) <= 3);
}

#[test]
fn the_whole_stack_allocates_ten_times_at_most() {
    let scene = scene();
    let count = over_bare!(scene.whole(), scene.with_key());
    assert!(count <= 10, "{count}");
}

/// The most that is allocated at once beside the body, while it is read what a request asks for.
fn reading<B>(shape: RequestShape, body: B) -> u64
where
    B: HttpBody<Data = Bytes> + 'static,
    B::Error: std::fmt::Debug,
{
    let layer = BodyDigestLayer::new().bytes_max(4 << 20);
    let layer = layer.read_use("POST", "/chat", shape).unwrap();
    let read = layer.layer(service_fn(|request: Request<_>| {
        let asked = request.extensions().get::<RequestedUse>().cloned();
        async { Ok::<_, Infallible>(asked) }
    }));
    let request = Request::post("/chat").body(body).unwrap();
    let allocated = allocation_counter::measure(|| {
        let answer = pin!(read.oneshot(request));
        let Poll::Ready(asked) = answer.poll(&mut Context::from_waker(Waker::noop())) else {
            unreachable!("all of it is there");
        };
        assert_eq!(asked.unwrap().unwrap().output_max, Some(5));
    });
    allocated.bytes_max
}

const PROMPT: usize = 2 << 20;

/// A request with so large a prompt, of whatever it is made.
fn with_prompt(name: &str, part: &str, ends: [&str; 2]) -> Bytes {
    let prompt = part.repeat(PROMPT / part.len());
    let [begin, end] = ends;
    format!(r#"{{"model":"m","{name}":{begin}{prompt}{end},"max_tokens":5}}"#).into()
}

/// None of the prompt is copied, whatever it is made of.
#[test]
fn of_a_prompt_of_two_mebibytes_nothing_is_kept() {
    let chat = |part| {
        with_prompt(
            "messages",
            part,
            [r#"[{"role":"user","content":""#, r#""}]"#],
        )
    };
    for text in [chat("hello "), chat("\\n"), chat("\\u00e9"), chat("é")] {
        let most = reading(RequestShape::OpenAiChat, Full::new(text));
        assert!(most < 8_192, "{most}");
    }
    for part in ["1,", "\"\",", "[],"] {
        let last = format!("{}]", part.trim_end_matches(','));
        let text = with_prompt("prompt", part, ["[", &last]);
        let most = reading(RequestShape::OpenAiCompletions, Full::new(text));
        assert!(most < 8_192, "{most}");
    }
}

/// A body of several frames is copied together, once.
#[test]
fn of_a_prompt_in_frames_there_is_one_copy() {
    let text = with_prompt("messages", "hello ", [r#"[""#, r#""]"#]);
    let whole = text.len();
    let frames = (0..whole).step_by(65_536).map(move |at| {
        let piece = text.slice(at..whole.min(at + 65_536));
        Ok::<_, Infallible>(Frame::data(piece))
    });
    let most = reading(
        RequestShape::OpenAiChat,
        StreamBody::new(stream::iter(frames)),
    );
    let whole = u64::try_from(whole).unwrap();
    assert!((whole..whole + 16_384).contains(&most), "{most}");
}

/// The measure itself: it sees an allocation.
#[test]
fn an_allocation_is_counted() {
    assert_eq!(
        allocations(|| drop(std::hint::black_box(Box::new(1_u8)))),
        1
    );
    assert_eq!(allocations(|| ()), 0);
}

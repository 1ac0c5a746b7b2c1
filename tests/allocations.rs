//! The warm path allocates next to nothing, does no I/O and spawns nothing.
//!
//! There is no runtime in here: a spawn, a timer or a socket would panic. And every answer is there at the
//! first poll, or `call` would panic as well.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "it is a test, and shares its scene with the benches"
)]

#[path = "../benches/scene/mod.rs"]
mod scene;

use bytes::Bytes;
use http_body_util::Full;
use scene::{Bare, Scene, call, full};
use tower::Layer;

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

#[test]
fn a_permission_allocates_nothing() {
    let scene = scene();
    assert_eq!(over_bare!(scene.rbac(), scene.known()), 0);
}

/// One for the texts of all header fields together; the map of the fields grows by two, for itself and its index.
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

/// The measure itself: it sees an allocation.
#[test]
fn an_allocation_is_counted() {
    assert_eq!(
        allocations(|| drop(std::hint::black_box(Box::new(1_u8)))),
        1
    );
    assert_eq!(allocations(|| ()), 0);
}

//! What each layer costs over a bare service, and the whole stack, beside the sum of the parts that
//! no such stack can do without.
//!
//! `cargo bench --bench stack`; the first table takes ten seconds, criterion the rest.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a bench measures with the system's clock, and ends where it fails"
)]

mod scene;

use criterion::{Criterion, criterion_group, criterion_main};
use scene::{Scene, parts};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn beside_parts(_: &mut Criterion) {
    parts::table(&runtime().block_on(Scene::new()));
}

fn stack(criterion: &mut Criterion) {
    let scene = runtime().block_on(Scene::new());
    let parts = parts::Parts::new(scene.key.expose());
    let mut group = criterion.benchmark_group("stack");
    for (name, mut contestant) in parts::contestants(&scene, &parts) {
        group.bench_function(name, |bencher| bencher.iter(&mut contestant));
    }
    group.finish();
}

criterion_group!(benches, beside_parts, stack);
criterion_main!(benches);

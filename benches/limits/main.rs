//! What a limit costs: in this process by keys and windows; through Redis beside the bare script;
//! with units taken ahead by four processes; and while Redis is killed, comes back, falls silent
//! and speaks again.
//!
//! `cargo bench --features redis,test-util --bench limits`, with one word or several after `--` for
//! a part: `memory`, `redis`, `leases`, `outage`.
#![allow(missing_docs, reason = "a program that prints a table")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a bench measures with the system's clock, and ends where it fails"
)]

mod leases;
mod memory;
mod outage;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../../tests/support/redis.rs"]
mod redis_server;
mod throughput;

use redis_server::RedisServer;
use tollgate::store::RateKey;

fn key(number: usize) -> RateKey {
    RateKey::new(&"bench".into(), &number.to_be_bytes())
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Some(work) = leases::work() {
        runtime.block_on(work);
        return;
    }
    let parts: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|word| word == part);
    if wanted("memory") {
        memory::by_keys_and_windows();
        memory::given_back();
    }
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    if wanted("redis") {
        runtime.block_on(throughput::beside_the_bare_script(&server));
    }
    if wanted("leases") {
        leases::of_four_processes(&server);
    }
    if wanted("outage") {
        runtime.block_on(outage::trace(&mut server));
    }
}

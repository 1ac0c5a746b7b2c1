//! The targets of `fuzz/` on their corpus, and on what becomes of it when bytes are lost or turned:
//! a taste of what cargo-fuzz does, on every run of the tests.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "every line here is a test, and a test that panics is one that fails"
)]

use std::{fs, path::Path};

use proptest::prelude::*;

#[allow(unreachable_pub, reason = "they are public where they are at home")]
#[path = "../fuzz/src/targets.rs"]
mod targets;

/// What an attacker would put somewhere.
const SPICE: [u8; 8] = [0, b'\n', b'"', b'%', b'.', b'/', b'{', 0xff];

fn run(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut tried = 0;
    for file in fs::read_dir(folder.join(name)).unwrap() {
        let whole = fs::read(file.unwrap().path()).unwrap();
        target(&whole);
        for at in 0..whole.len() {
            target(&whole[..at]);
            let mut turned = whole.clone();
            turned[at] = SPICE[at % SPICE.len()];
            target(&turned);
            turned.remove(at);
            target(&turned);
            tried += 1;
        }
    }
    assert!(tried > 0, "there is a corpus");
}

#[test]
fn keys() {
    run("key", targets::key);
}

#[test]
fn tokens() {
    run("token", targets::token);
}

#[test]
fn headers() {
    run("headers", targets::headers);
}

#[test]
fn usage() {
    run("usage", targets::usage);
}

#[test]
fn left_streams() {
    run("left", targets::left::left);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    })]

    #[test]
    fn any_left_streams(data in prop::collection::vec(any::<u8>(), 8..120)) {
        targets::left::left(&data);
    }
}

#[test]
fn requests() {
    run("request", targets::request::request);
}

#[test]
fn paths() {
    run("path", targets::path);
}

//! What the example on plain hyper stands on, as a package of its own that names nothing more than
//! it needs.

#![expect(
    clippy::unwrap_used,
    reason = "every line here is a test, and a test that panics is one that fails"
)]

use std::{collections::BTreeSet, fs, path::Path};

use toml::{Table, Value};

/// Beside the other examples it shares their development dependencies, a framework among them.
#[test]
fn no_framework_is_in_the_tree_of_the_hyper_example() {
    let lock = table("tests/hyper-alone/Cargo.lock");
    let mut tree = BTreeSet::new();
    let mut waiting = vec!["hyper-alone"];
    while let Some(name) = waiting.pop() {
        if tree.insert(name) {
            waiting.extend(dependencies(&lock, name));
        }
    }
    for expected in ["tollgate", "hyper", "rusqlite"] {
        assert!(tree.contains(expected), "{expected} is in {tree:?}");
    }
    let frameworks: Vec<_> = tree
        .iter()
        .filter(|name| name.starts_with("axum") || name.starts_with("tonic"))
        .collect();
    assert!(frameworks.is_empty(), "{frameworks:?}");

    // A lock that is older than the manifest would say nothing.
    let manifest = table("Cargo.toml");
    for (name, wanted) in manifest["dependencies"].as_table().unwrap() {
        let is_optional = wanted.get("optional").and_then(Value::as_bool) == Some(true);
        assert!(
            is_optional || tree.contains(name.as_str()),
            "{name}: cargo update --workspace --manifest-path tests/hyper-alone/Cargo.toml"
        );
    }
}

fn table(path: &str) -> Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(path).unwrap().parse().unwrap()
}

/// The names of what a package needs on whatever platform: of several versions, of all of them.
fn dependencies<'a>(lock: &'a Table, name: &str) -> Vec<&'a str> {
    let packages = lock["package"].as_array().unwrap();
    let named = packages
        .iter()
        .filter(|package| package["name"].as_str() == Some(name));
    named
        .filter_map(|package| package.get("dependencies")?.as_array())
        .flatten()
        // A name, and a version where there are several.
        .filter_map(|dependency| dependency.as_str()?.split(' ').next())
        .collect()
}

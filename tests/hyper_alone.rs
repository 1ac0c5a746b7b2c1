//! What the example on plain hyper stands on, as a package of its own that names nothing more than it needs.

use std::{env, path::Path, process::Command};

/// Beside the other examples it shares their development dependencies, a framework among them.
#[test]
fn no_framework_is_in_the_tree_of_the_hyper_example() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hyper-alone/Cargo.toml");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let told = Command::new(cargo)
        .args(["tree", "--locked", "--prefix", "none", "--format", "{p}"])
        .args([
            "--edges",
            "normal,build",
            "--target",
            "all",
            "--manifest-path",
        ])
        .arg(manifest)
        .output()
        .unwrap();
    let problem = String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{problem}");
    let tree = String::from_utf8(told.stdout).unwrap();
    let names: Vec<_> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    for expected in ["tollgate", "hyper", "rusqlite"] {
        assert!(names.contains(&expected), "{expected} is in {names:?}");
    }
    let frameworks: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("axum") || name.starts_with("tonic"))
        .collect();
    assert!(frameworks.is_empty(), "{frameworks:?}");
}

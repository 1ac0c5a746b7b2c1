//! The house keeps its floors: a lower one never names a higher one, rooms don't import each other,
//! engines don't either, and there is no import cycle.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "it is a test, and counts brackets"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which floor a module of the crate's root stands on.
fn floor(module: &str) -> Option<u8> {
    Some(match module {
        "domain" | "log" | "metric" | "recent" | "repeats" | "sync" => 0,
        "store" | "cache" | "change" | "trail" => 1,
        "conformance" | "keyring" | "login" | "token" | "wire" => 2,
        "guard" => 3,
        "api_key" | "audit" | "authenticate" | "deadline" | "denials" | "drain" | "ip_allow"
        | "jwt" | "rate_limit" | "rbac" | "request_id" | "session_cookie" | "shutdown"
        | "spending_limit" | "stall" => 4,
        "axum" | "builder" | "fallback" | "tonic" => 5,
        _ => return None,
    })
}

/// The rooms: one layer each.
fn is_room(module: &str) -> bool {
    floor(module) == Some(4)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules of the crate's root that a source names, comments left out.
fn named_modules(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => {
                names.insert(leading_name(rest));
            }
            Some(group) => names.extend(group_names(group)),
        }
    }
    names
}

fn leading_name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The first names of a `use` group: `a::{b, c}, d` names `a` and `d`.
fn group_names(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut names) = (0_i32, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                names.push(leading_name(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.into_iter().filter(|name| !name.is_empty()).collect()
}

/// Module of the root → modules of the root that it names, with the file that does.
fn imports() -> BTreeMap<String, BTreeMap<String, PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut imports: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let first = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let module = first.trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let named = named_modules(&fs::read_to_string(&file).unwrap());
        let known = imports.entry(module.clone()).or_default();
        for name in named.into_iter().filter(|name| *name != module) {
            known.insert(name, relative.to_owned());
        }
    }
    imports
}

#[test]
fn a_lower_floor_never_names_a_higher_one() {
    for (module, named) in imports() {
        let own = floor(&module).unwrap_or_else(|| panic!("{module} stands on no floor"));
        for (name, file) in named {
            let file = file.display();
            let other = floor(&name)
                .unwrap_or_else(|| panic!("{file} names crate::{name}: name it by its module"));
            assert!(
                other <= own,
                "{file} (floor {own}) names {name} (floor {other})"
            );
            let two_rooms = is_room(&module) && is_room(&name);
            assert!(
                !two_rooms,
                "{file}: rooms don't import each other, but {module} names {name}"
            );
        }
    }
}

#[test]
fn there_is_no_import_cycle() {
    let imports = imports();
    let mut settled = BTreeSet::new();
    while settled.len() < imports.len() {
        let free = imports.iter().find(|(module, named)| {
            // What isn't here is shared with the suites under `tests`, and imports nothing.
            let is_free = |name: &String| settled.contains(name) || !imports.contains_key(name);
            !settled.contains(*module) && named.keys().all(is_free)
        });
        let (module, _) = free.unwrap_or_else(|| {
            panic!(
                "an import cycle among {:?}",
                imports.keys().filter(|m| !settled.contains(*m))
            )
        });
        settled.insert(module.clone());
    }
}

#[test]
fn engines_know_the_domain_and_the_traits_only() {
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    for engine in fs::read_dir(store)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if !engine.is_dir() {
            continue;
        }
        let own = engine.file_name().unwrap().to_str().unwrap().to_owned();
        let mut files = Vec::new();
        sources(&engine, &mut files);
        for file in files {
            let source = fs::read_to_string(&file).unwrap();
            for other in ["file", "memory", "sqlite", "postgres", "redis"] {
                let names = [
                    format!("store::{other}::"),
                    format!("super::super::{other}"),
                ];
                let named = other != own && names.iter().any(|name| source.contains(name.as_str()));
                assert!(!named, "{} names the engine {other}", file.display());
            }
            let named = named_modules(&source);
            let strange = named.iter().find(|name| {
                !matches!(
                    name.as_str(),
                    "domain" | "log" | "metric" | "recent" | "repeats" | "store" | "sync"
                )
            });
            assert!(strange.is_none(), "{} names {strange:?}", file.display());
        }
    }
}

/// What a server's own crate calls a thing is asked in one place: code that names axum or tonic
/// elsewhere wouldn't see what the others see. Tests may use either, and documentation speak of
/// them.
#[test]
fn only_wire_knows_the_servers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let parts: Vec<_> = relative.iter().map(|part| part.to_str().unwrap()).collect();
        let is_at_home =
            ["wire", "axum", "tonic", "axum.rs", "tonic.rs", "lib.rs"].contains(&parts[0]);
        let is_test = parts
            .iter()
            .any(|part| part.trim_end_matches(".rs") == "tests");
        if is_at_home || is_test {
            continue;
        }
        for line in fs::read_to_string(&file).unwrap().lines() {
            let names = ["axum::", "tonic::"].iter().any(|name| {
                let mut found = line.match_indices(name);
                found.any(|(at, _)| !line[..at].ends_with("crate::"))
            });
            let is_comment = line.trim_start().starts_with("//");
            assert!(is_comment || !names, "{}: {line}", relative.display());
        }
    }
}

#[test]
fn every_file_can_be_read_in_one_sitting() {
    let mut files = Vec::new();
    for folder in ["src", "examples"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        if folder.exists() {
            sources(&folder, &mut files);
        }
    }
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 520, "{} has {lines} lines", file.display());
    }
}

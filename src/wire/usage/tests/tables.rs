//! The two tables of what is where in an event: where counts are read (`section.rs`), and what is
//! none of the output (`envelope.rs`).

use super::{
    envelope::{Member, Place},
    section::{Section, place_of_tier},
};

/// Every name that either table has.
fn names() -> Vec<&'static str> {
    let sources = [
        include_str!("../section.rs"),
        include_str!("../envelope.rs"),
    ];
    let mut names: Vec<_> = sources
        .iter()
        .flat_map(|source| source.split('"').skip(1).step_by(2))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Compares them here and in whatever both lead to; returns the places that have counts.
fn compare(section: Section, place: Place, path: &str) -> Vec<String> {
    let mut counted = Vec::new();
    for name in names() {
        let (key, path) = (name.as_bytes(), format!("{path}.{name}"));
        let member = place.member(key);
        // Undecided is what an event's type says is no output.
        let wraps = |wrapping| member == wrapping || member == Member::Undecided;
        for is_object in [true, false] {
            let inner = match is_object {
                true => section.object(key),
                false => section.list(key),
            };
            match (inner, place.inner(key, is_object)) {
                (Section::Other, _) => {}
                (inner, Some(leads_to)) => counted.extend(compare(inner, leads_to, &path)),
                (inner, None) => {
                    assert!(
                        wraps(Member::Nested),
                        "{path} is read, and counts as output"
                    );
                    if matches!(inner, Section::Usage | Section::UsageMetadata) {
                        counted.push(path.clone());
                    }
                }
            }
        }
        if place_of_tier(section, key).is_some() {
            assert!(wraps(Member::Text), "{path} is read, and counts as output");
        }
        // A part of a list is only read as Gemini's.
        if member == Member::Nested && section != Section::Part && name.starts_with("usage") {
            let inner = section.object(key);
            assert_ne!(inner, Section::Other, "{path} isn't read, and is no output");
        }
    }
    counted
}

#[test]
fn what_is_read_is_no_output_and_the_other_way_round() {
    let in_events = [
        "event.delta.usage",
        "event.message.usage",
        "event.response.usage",
        "event.response.usageMetadata",
        "event.usage",
        "event.usageMetadata",
    ];
    assert_eq!(compare(Section::Root, Place::Event, "event"), in_events);
    let in_parts = compare(Section::Part, Place::Event, "part");
    assert_eq!(in_parts, ["part.usageMetadata"]);
}

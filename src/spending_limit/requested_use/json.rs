//! The members of JSON objects, read so that no other parser reads more from them.

use std::{borrow::Cow, fmt};

use http::HeaderMap;
use serde::{
    Deserialize, Deserializer as _,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    domain::{
        denial::{Denial, DenialKind},
        json::is_reserved,
    },
    wire::is_encoded,
};

/// A refusal with 400; its text is for the client.
pub(super) fn malformed(why: impl Into<Cow<'static, str>>) -> Denial {
    let why = why.into();
    Denial::new(DenialKind::Malformed)
        .with_message(why.clone())
        .because(why)
}

/// What is compressed, or otherwise encoded, isn't JSON yet.
pub(super) fn refuse_encoded(headers: &HeaderMap) -> Result<(), Denial> {
    match is_encoded(headers) {
        true => Err(malformed("The body must not be compressed")),
        false => Ok(()),
    }
}

/// A refusal because of a member, which the table knows.
pub(super) fn wrong(member: &str, must: &str) -> Denial {
    malformed(format!("{member}: must {must}"))
}

/// Shows the members of a JSON object that `known` lists, each at most once.
///
/// # Errors
/// If `json` isn't an object, if a listed member is there twice, or if a member's name differs from
/// a listed one only in case: parsers disagree on which of two counts, and some (Go's) on case. And
/// if a member has the name by which serde_json makes an object of a text: a handler would read the
/// members that are in it.
pub(super) fn read_members<'j, T: Copy>(
    json: &'j [u8],
    known: &'static [(&'static str, T)],
    mut look: impl FnMut(&'static str, T, &'j RawValue) -> Result<(), Denial>,
) -> Result<(), Denial> {
    let (mut refusal, mut seen) = (None, Vec::new());
    let mut note = |name: &str, value: &'j RawValue| {
        if is_reserved(name) {
            return Err(malformed("The body has a member of a reserved name"));
        }
        let Some((listed, role)) = known.iter().find(|(listed, _)| is_alike(name, listed)) else {
            return Ok(());
        };
        if name != *listed {
            return Err(wrong(listed, "be spelled so"));
        }
        if seen.contains(listed) {
            return Err(wrong(listed, "not be there twice"));
        }
        seen.push(*listed);
        look(listed, *role, value)
    };
    let mut json = serde_json::Deserializer::from_slice(json);
    let members = Members(|name: &str, value| {
        let noted = note(name, value);
        noted.map_err(|denial| refusal = Some(denial)).is_ok()
    });
    let read = json.deserialize_map(members).and_then(|()| json.end());
    match (refusal, read) {
        (Some(refusal), _) => Err(refusal),
        (None, Err(error)) if error.is_data() => Err(malformed("The body must be a JSON object")),
        (None, Err(_)) => Err(malformed("The body is not valid JSON")),
        (None, Ok(())) => Ok(()),
    }
}

/// Shows each member to a function, until that returns false.
struct Members<F>(F);

/// A name; it is copied only if it has escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de, F: FnMut(&str, &'de RawValue) -> bool> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            let value = map.next_value()?;
            if !(self.0)(&name, value) {
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// Whether a parser that ignores case, as Go's does by Unicode's simple folding, may take one for
/// the other. `listed` is ASCII; two letters beyond it fold to ASCII ones.
fn is_alike(name: &str, listed: &str) -> bool {
    let folded = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => letter.to_ascii_lowercase(),
    };
    name.chars().map(folded).eq(listed.chars().map(folded))
}

/// A whole number; `None` for null.
///
/// # Errors
/// If it is anything else, or above what a `u64` holds. `1e3`, `1.0` and `"1"` are refused: some
/// parsers read them as numbers, others as nothing.
pub(super) fn read_number(member: &str, value: &RawValue) -> Result<Option<u64>, Denial> {
    let text = value.get();
    if text == "null" {
        return Ok(None);
    }
    // `u64` would also take a plus sign, which JSON doesn't have.
    text.parse().map(Some).map_err(|_| {
        let must = "be a whole number that is not negative";
        wrong(member, must)
    })
}

/// A string; `None` for null.
pub(super) fn read_text(
    member: &str,
    value: &RawValue,
    bytes_max: usize,
) -> Result<Option<String>, Denial> {
    let too_long = || wrong(member, &format!("have at most {bytes_max} bytes"));
    // The longest escape of a byte is `\u0041`; a longer text isn't copied to find its length.
    let raw_max = bytes_max.saturating_mul(6).saturating_add(2);
    if value.get().starts_with('"') && value.get().len() > raw_max {
        return Err(too_long());
    }
    let text = serde_json::from_str::<Option<String>>(value.get());
    let text = text.map_err(|_| wrong(member, "be a string"))?;
    if text.as_ref().is_some_and(|text| text.len() > bytes_max) {
        return Err(too_long());
    }
    Ok(text)
}

/// How many prompts there are: one that is a text or a list of tokens, or several of them.
pub(super) fn count_prompts(member: &str, value: &RawValue) -> Result<u64, Denial> {
    let wrong = || wrong(member, "be a text, a list of tokens, or a list of these");
    match value.get() {
        "null" => Ok(1),
        text if text.starts_with('"') => Ok(1),
        list if list.starts_with('[') => {
            let mut list = serde_json::Deserializer::from_str(list);
            list.deserialize_seq(Prompts).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}

/// Counts the prompts of a list, or takes it for a single one of tokens. It keeps none of them: a
/// list of tokens has an element for every two bytes.
struct Prompts;

impl<'de> Visitor<'de> for Prompts {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("prompts or tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<u64, A::Error> {
        let (mut prompts, mut has_tokens) = (0_u64, false);
        while let Some(part) = list.next_element::<&RawValue>()? {
            if part.get().starts_with(['"', '[']) {
                prompts = prompts.saturating_add(1);
            } else if part.get().parse::<u64>().is_ok() {
                has_tokens = true;
            } else {
                return Err(A::Error::custom("neither a prompt nor a token"));
            }
        }
        if has_tokens && prompts > 0 {
            return Err(A::Error::custom("prompts and tokens"));
        }
        Ok(prompts.max(1))
    }
}

//! Refuses JSON in JSON, see [`is_reserved`].

use memchr::memmem;
use serde::de::Error;

use crate::domain::json::is_reserved;

/// Fails if `json` has a member with the reserved name, however it is escaped. Examines only names,
/// and nothing at all if none can be reserved; whether the text is JSON is left to the parser.
pub(super) fn refuse(json: &[u8]) -> Result<(), serde_json::Error> {
    // Characters are written literally, or as `\u` escapes.
    let may_have = [&b"$serde_json"[..], b"\\u"];
    if may_have
        .iter()
        .all(|text| memmem::find(json, text).is_none())
    {
        return Ok(());
    }
    if Names(json).any(is_reserved_however_spelled) {
        return Err(serde_json::Error::custom("a reserved name"));
    }
    Ok(())
}

fn is_reserved_however_spelled(name: &[u8]) -> bool {
    if !name.contains(&b'\\') {
        return std::str::from_utf8(name).is_ok_and(is_reserved);
    }
    let quoted = [b"\"", name, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).is_ok_and(|name| is_reserved(&name))
}

/// The names of all members at any depth, unescaped: each string that is followed by a colon.
struct Names<'a>(&'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let start = memchr::memchr(b'"', self.0)?;
            let (_, text) = self.0.split_at_checked(start.checked_add(1)?)?;
            let end = end_of(text)?;
            let (text, rest) = text.split_at_checked(end)?;
            self.0 = rest.get(1..)?;
            if self.0.trim_ascii_start().first() == Some(&b':') {
                return Some(text);
            }
        }
    }
}

/// The end of a string: the first quotation mark that isn't escaped.
fn end_of(text: &[u8]) -> Option<usize> {
    let mut marks = memchr::memchr2_iter(b'"', b'\\', text);
    let mut escaped = None;
    marks.find(|at| {
        if escaped == Some(*at) {
            return false;
        }
        let is_end = text.get(*at) == Some(&b'"');
        escaped = at.checked_add(1).filter(|_| !is_end);
        is_end
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_texts_are_not() {
        let json = br#"{"a":"b","c\"d" : ["e","f\\",{"g\u0041":{"":1}}], "h:":"\\","i":"\\\":"} "#;
        let names: Vec<_> = Names(json).map(String::from_utf8_lossy).collect();
        assert_eq!(names, ["a", "c\\\"d", "g\\u0041", "", "h:", "i"]);
        for broken in [&b"\""[..], b"\"\\", b"\"a\"", b"", b"\"a\\\":1"] {
            assert_eq!(Names(broken).count(), 0);
        }
    }

    #[test]
    fn what_a_reader_would_skip_is_nothing_to_refuse() {
        let deep = format!(
            "{{\"a\":\"\\u00e9\",\"b\":{}{}}}",
            "[".repeat(999),
            "]".repeat(999)
        );
        for json in [r#"{"a":"\ud83d"}"#, r#"{"a":"\u0041","b":1e999}"#, &deep] {
            assert!(refuse(json.as_bytes()).is_ok(), "{json}");
        }
        let spelled = r#"{"a":[{"$serde\u005fjson::private::RawValue" : "1"}]}"#;
        assert!(refuse(spelled.as_bytes()).is_err());
    }
}

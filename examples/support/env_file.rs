//! Reads a `.env` file as Node's `dotenv` does, so that a service reads the same from it as the
//! application beside it.

use std::collections::HashMap;

/// The settings in a file. Of two lines with one name the last counts; lines that aren't
/// assignments are skipped.
pub(crate) fn parse(text: &str) -> HashMap<String, String> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut rest = text.trim_start_matches('\u{feff}');
    let mut settings = HashMap::new();
    while !rest.is_empty() {
        let behind = match assignment(rest) {
            Some((name, value)) => {
                let (value, behind) = quoted(value).unwrap_or_else(|| unquoted(value));
                settings.insert(name.to_owned(), value);
                behind
            }
            None => rest,
        };
        rest = behind.split_once('\n').map_or("", |(_, next)| next);
    }
    settings
}

/// `NAME=`, `export NAME=` or `NAME: ` at the beginning, and what follows.
fn assignment(text: &str) -> Option<(&str, &str)> {
    let line = text.trim_start_matches(BLANKS);
    let exported = line.strip_prefix("export");
    let exported = exported.filter(|line| line.starts_with(BLANKS));
    let line = exported.map_or(line, |line| line.trim_start_matches(BLANKS));
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let end = line.find(|c| !of_name(c))?;
    let (name, behind) = line.split_at(end);
    let value = match behind.trim_start_matches(BLANKS).strip_prefix('=') {
        Some(value) => value,
        None => behind
            .strip_prefix(':')
            .filter(|value| value.starts_with(BLANKS))?,
    };
    (!name.is_empty()).then_some((name, value))
}

const BLANKS: [char; 2] = [' ', '\t'];

/// A quoted value, possibly over several lines; `None` if the quotes aren't closed, or something
/// else follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start_matches(BLANKS);
    let quote = text.chars().next().filter(|c| QUOTES.contains(c))?;
    let inner = text.strip_prefix(quote)?;
    let mut ends = inner.match_indices(quote).map(|(at, _)| at);
    let end = ends.find(|&at| !inner.split_at(at).0.ends_with('\\'))?;
    let (value, behind) = inner.split_at(end);
    let behind = behind.strip_prefix(quote)?;
    let after = behind.trim_start_matches(BLANKS);
    let is_over = after.is_empty() || after.starts_with(['\n', '#']);
    is_over.then(|| (spoken(value, quote), behind))
}

const QUOTES: [char; 3] = ['\'', '"', '`'];

/// A value to the end of the line, or to a comment.
fn unquoted(text: &str) -> (String, &str) {
    let (value, behind) = text.split_at(text.find(['\n', '#']).unwrap_or(text.len()));
    let value = value.trim();
    let quote = value.chars().next().filter(|c| QUOTES.contains(c));
    let inner = quote.and_then(|quote| {
        let inner = value.strip_prefix(quote)?.strip_suffix(quote)?;
        Some(spoken(inner, quote))
    });
    (inner.unwrap_or_else(|| value.to_owned()), behind)
}

/// Line ends are only escaped within double quotes.
fn spoken(value: &str, quote: char) -> String {
    if quote == '"' {
        value.replace("\\n", "\n").replace("\\r", "\r")
    } else {
        value.to_owned()
    }
}

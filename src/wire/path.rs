//! Which paths are unambiguous, and the parameters in them.

/// Whether a path means the same to every router on the way (RFC 3986, 6.2.2).
///
/// Refused rather than repaired: empty segments, `.` and `..` segments, `\`, control characters,
/// and escapes that are broken, that hide `/`, `\`, `.` or a control character, or that encode an
/// unreserved character.
pub(crate) fn is_normal_path(path: &str) -> bool {
    is_plain(path) || is_normal(path)
}

/// The segment of `path` at `{name}` in `pattern`; `None` if they don't match.
pub(crate) fn parameter_of<'p>(pattern: &str, path: &'p str, name: &str) -> Option<&'p str> {
    let mut found = None;
    let (mut wanted, mut written) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), written.next()) {
            (Some(wanted), Some(written)) => match inside_braces(wanted) {
                Some(parameter) if parameter.starts_with('*') => return found,
                Some(parameter) if parameter == name => found = Some(written),
                Some(_) => {}
                None if wanted == written => {}
                None => return None,
            },
            (None, None) => return found,
            _ => return None,
        }
    }
}

fn inside_braces(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// Bytes that are unambiguous anywhere in a path.
static ORDINARY: [bool; 256] = ordinary();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "run by the compiler"
)]
const fn ordinary() -> [bool; 256] {
    let mut all = [false; 256];
    let mut byte: u8 = 0;
    while byte < 0x7f {
        all[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_');
        byte += 1;
    }
    all
}

/// Most paths consist only of these, which one branch-free pass detects.
#[expect(clippy::indexing_slicing, reason = "every byte has its place")]
fn is_plain(path: &str) -> bool {
    let mut previous = 0;
    let plain = path.bytes().fold(true, |plain, byte| {
        let doubled = (byte == b'/') & (previous == b'/');
        previous = byte;
        plain & ORDINARY[usize::from(byte)] & !doubled
    });
    plain & path.starts_with('/')
}

fn is_normal(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        if (segment.is_empty() && !last) || !is_normal_segment(segment) {
            return false;
        }
    }
    true
}

fn is_normal_segment(segment: &str) -> bool {
    if matches!(segment, "." | "..") {
        return false;
    }
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) else {
                    return false;
                };
                if !is_rightly_escaped((high << 4) | low) {
                    return false;
                }
            }
            b'\\' | 0..=0x20 | 0x7f => return false,
            _ => {}
        }
    }
    true
}

fn hex(digit: Option<u8>) -> Option<u8> {
    let value = char::from(digit?).to_digit(16)?;
    u8::try_from(value).ok()
}

fn is_rightly_escaped(byte: u8) -> bool {
    let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.');
    !unreserved && !matches!(byte, b'/' | b'\\' | 0..=0x1f | 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_two_readings_are_refused() {
        for path in [
            "",
            "*",
            "admin",
            "//admin",
            "/a//b",
            "/public/../admin",
            "/./a",
            "/a/.",
            "/a/..",
            "/%2e%2e/a",
            "/%2E/a",
            "/%61dmin",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0d",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a b",
            "/a\tb",
            "/a%7e",
            "/%2e.",
        ] {
            assert!(!is_normal_path(path), "{path}");
        }
    }

    #[test]
    fn ordinary_paths_are_not() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/b-c_d~e.f",
            "/caf%C3%A9",
            "/a%20b",
            "/a;x=1",
            "/...",
            "/a,b",
        ] {
            assert!(is_normal_path(path), "{path}");
        }
    }
}

//! Reads one cookie of a request, in one piece or in several.

use std::borrow::Cow;

use http::{HeaderMap, header::COOKIE};

/// The longest value that is accepted, in bytes.
const LENGTH_MAX: usize = 16 * 1_024;
/// The maximum number of pieces of a cookie.
const CHUNKS_MAX: usize = 16;

/// A cookie as received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CookieValue<'a> {
    /// There is no cookie of these names, or none that says anything.
    Absent,
    /// It appears twice, pieces are missing, or its value can't be valid.
    Unreadable,
    /// Its value.
    Text(Cow<'a, str>),
}

/// Reads the cookie that has the first of `names` that any cookie has: whole, or in pieces
/// `NAME.0`, `NAME.1`, … which are joined by number. Cookies of the names after it aren't looked
/// at, and one without a value is none. Several of one name are refused even if they are equal,
/// because different readers may pick different ones.
///
/// Values are base64url and dots, as in a compact JWE or JWS; any other value isn't one of our
/// cookies.
pub(crate) fn read<'a>(headers: &'a HeaderMap, names: &[Box<str>]) -> CookieValue<'a> {
    read_named(headers, names).1
}

/// Like [`read`], with the name that the cookie has; an empty one if it is absent.
pub(crate) fn read_named<'a, 'n>(
    headers: &'a HeaderMap,
    names: &'n [Box<str>],
) -> (&'n str, CookieValue<'a>) {
    let mut best = usize::MAX;
    let mut pieces: Vec<Piece<'a>> = Vec::new();
    let mut is_readable = true;
    // HTTP/2 may send each pair as a separate line (RFC 9113, 8.2.3).
    for line in headers.get_all(COOKIE) {
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let Some((name, piece)) = own(pair.trim_ascii(), names) else {
                continue;
            };
            if name < best {
                (best, is_readable) = (name, true);
                pieces.clear();
            }
            match piece {
                _ if name > best => {}
                Some(piece) if pieces.len() < CHUNKS_MAX => pieces.push(piece),
                _ => is_readable = false,
            }
        }
    }
    let value = if is_readable {
        join(pieces)
    } else {
        CookieValue::Unreadable
    };
    (names.get(best).map_or("", AsRef::as_ref), value)
}

struct Piece<'a> {
    /// `None` if it is the whole cookie.
    number: Option<usize>,
    value: &'a str,
}

/// The index of a cookie's name, and what it says, if that can be read; `None` for other cookies,
/// and for one that says nothing: so a cookie is deleted, or emptied when a session ends.
fn own<'a>(pair: &'a [u8], names: &[Box<str>]) -> Option<(usize, Option<Piece<'a>>)> {
    let mut halves = pair.splitn(2, |byte| *byte == b'=');
    let (name, value) = (halves.next()?.trim_ascii(), halves.next()?.trim_ascii());
    let (name, suffix) = names.iter().enumerate().find_map(|(index, own)| {
        let rest = name.strip_prefix(own.as_bytes())?;
        match rest.strip_prefix(b".") {
            None => rest.is_empty().then_some((index, None)),
            // `NAME.sig`, say, is a different cookie, possibly of another application.
            Some(number) => {
                let is_number = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
                is_number.then_some((index, Some(number)))
            }
        }
    })?;
    if matches!(value, b"" | b"\"\"") {
        return None;
    }
    Some((name, piece(suffix, value)))
}

/// `None` for one that can't be ours.
fn piece<'a>(suffix: Option<&[u8]>, value: &'a [u8]) -> Option<Piece<'a>> {
    let number = match suffix {
        None => None,
        Some(digits) => Some(number(digits)?),
    };
    let speakable = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if value.len() > LENGTH_MAX || !value.iter().all(speakable) {
        return None;
    }
    let value = std::str::from_utf8(value).ok()?;
    Some(Piece { number, value })
}

/// A number in the canonical form: `0`, `12`; not `01`, `+1`, `x`.
fn number(digits: &[u8]) -> Option<usize> {
    let number = std::str::from_utf8(digits).ok()?.parse::<usize>().ok()?;
    (number < CHUNKS_MAX && number.to_string().as_bytes() == digits).then_some(number)
}

fn join(mut pieces: Vec<Piece<'_>>) -> CookieValue<'_> {
    pieces.sort_by_key(|piece| piece.number);
    match pieces.as_slice() {
        [] => CookieValue::Absent,
        [
            Piece {
                number: None,
                value,
                ..
            },
        ] => CookieValue::Text(Cow::Borrowed(value)),
        several => {
            let mut whole = String::new();
            for (place, piece) in several.iter().enumerate() {
                if piece.number != Some(place) {
                    return CookieValue::Unreadable;
                }
                whole.push_str(piece.value);
            }
            if whole.len() > LENGTH_MAX {
                return CookieValue::Unreadable;
            }
            CookieValue::Text(Cow::Owned(whole))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&[u8]]) -> Result<Option<String>, ()> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, http::HeaderValue::from_bytes(line).unwrap());
        }
        match super::read(&headers, &["__Secure-s".into(), "s".into()]) {
            CookieValue::Absent => Ok(None),
            CookieValue::Unreadable => Err(()),
            CookieValue::Text(text) => Ok(Some(text.into_owned())),
        }
    }

    fn text(text: &str) -> Result<Option<String>, ()> {
        Ok(Some(text.to_owned()))
    }

    #[test]
    fn one_cookie_is_found_among_others() {
        assert_eq!(read(&[b"a=1; s=x.y-_9; b=\xff\"2,"]), text("x.y-_9"));
        assert_eq!(read(&[b"a=1", b"__Secure-s=x"]), text("x"));
        for none in [
            b"a=1".as_slice(),
            b"sx=1; xs=2; S=3; s",
            b"s.x=a; s.sig=\xff; s.=1; s.+0=2; s.0x=3",
            b"",
        ] {
            assert_eq!(read(&[none]), Ok(None));
        }
        assert_eq!(read(&[b"s.sig=b; s=x; s.id=1"]), text("x"));
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn of_two_names_the_first_is_read_and_the_other_is_not_looked_at() {
        for both in [
            "s=a; __Secure-s=b",
            "__Secure-s=b; s=a",
            "s=a; s=a; __Secure-s=b",
            "__Secure-s=b; s=a c; s.16=x",
            "s.0=a; s.1=a; __Secure-s.0=b",
            "__Secure-s.0=b; s.0=a; s.1=a",
        ] {
            assert_eq!(read(&[both.as_bytes()]), text("b"), "{both}");
        }
        assert_eq!(read(&[b"s=a", b"__Secure-s=b"]), text("b"));
        let many: String = (0..40).map(|n| format!("s.{n}=p; ")).collect();
        assert_eq!(
            read(&[many.as_bytes(), b"__Secure-s=b", many.as_bytes()]),
            text("b")
        );
    }

    #[test]
    fn a_cookie_without_a_value_is_none() {
        for none in [
            "s=",
            "s=\"\"",
            "s= ; __Secure-s=",
            "s.0=; s.1=",
            "s=; s=; s.0=",
        ] {
            assert_eq!(read(&[none.as_bytes()]), Ok(None), "{none}");
        }
        assert_eq!(read(&[b"__Secure-s=; s=a"]), text("a"));
        assert_eq!(read(&[b"s=; s=a; s.0="]), text("a"));
        assert_eq!(read(&[b"s.0=a; s.1=b; s.2="]), text("ab"));
    }

    #[test]
    fn pieces_are_put_together_by_their_numbers() {
        assert_eq!(read(&[b"s.0=a; s.1=b; s.2=c"]), text("abc"));
        assert_eq!(read(&[b"s.1=b", b"s.2=c; s.0=a"]), text("abc"));
        let eleven: String = (0..11).map(|n| format!("s.{n}=p{n}; ")).collect();
        assert_eq!(
            read(&[eleven.as_bytes()]),
            text("p0p1p2p3p4p5p6p7p8p9p10"),
            "10 comes after 9"
        );
    }

    #[test]
    fn what_may_be_read_in_two_ways_is_not_read() {
        let many: String = (0..17).map(|n| format!("s.{n}=p; ")).collect();
        let long = format!("s={}", "a".repeat(LENGTH_MAX + 1));
        let half = "a".repeat(LENGTH_MAX / 2 + 1);
        let long_in_two = format!("s.0={half}; s.1={half}");
        for line in [
            "s=a; s=a",
            "s=a; s.0=a",
            "s.0=a; s.0=b",
            "s.0=a; s.2=b",
            "s.1=a",
            "s.00=a",
            "s.16=a",
            "s=\"a\"",
            "s=a b",
            "s=a%2Eb",
            "s=a=b",
            "s=a; __Secure-s=a; __Secure-s=a",
            "s=a; __Secure-s.1=b",
            "s=a; __Secure-s=b c",
            "s.0=; s.1=b",
            &many,
            &long,
            &long_in_two,
        ] {
            assert_eq!(read(&[line.as_bytes()]), Err(()), "{line}");
        }
        assert_eq!(read(&[b"s=a", b"s=a"]), Err(()));
    }
}

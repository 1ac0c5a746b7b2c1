//! Whether a body is compressed.

use http::{HeaderMap, header::CONTENT_ENCODING};

/// Whether a body with these headers is compressed or otherwise encoded (RFC 9110, 8.4): its
/// decoded form then differs from what goes over the connection, and may be a thousand times as
/// long.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    codings.any(|coding| {
        let coding = coding.trim_ascii();
        !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_coded_in_any_line_is_encoded() {
        let is = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_ENCODING, line.parse().unwrap());
            }
            is_encoded(&headers)
        };
        for plain in [
            &[][..],
            &[""],
            &["identity"],
            &["Identity , identity"],
            &["identity", ""],
        ] {
            assert!(!is(plain), "{plain:?}");
        }
        for encoded in [
            &["gzip"][..],
            &["identity, br"],
            &["identity", "zstd"],
            &["x-other"],
        ] {
            assert!(is(encoded), "{encoded:?}");
        }
    }
}

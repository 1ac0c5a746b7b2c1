//! Masks secrets in texts from outside, so that they can be logged.

use std::borrow::Cow;

/// The length in characters from which a part with a digit is taken for a secret. Our own keys are
/// at least that long, and common ids (ObjectId, ULID, KSUID) are shorter.
const SHORT_MIN: usize = 30;
/// The same for a part without a digit. Names of services and methods are shorter.
const LONG_MIN: usize = 40;
/// How much of a secret stays visible, so that it can be recognised: the start that all keys share,
/// and a few characters, as in a preview.
const SHOWN: usize = 8;
const MASK: &str = "***";

/// The text with secrets masked: of each slash-separated segment that contains something like a
/// secret (a key, a token, a digest), eight characters stay. So a key that is put into a path, or
/// used in place of an id, appears in no log. UUIDs count as ids, also with a name in front.
///
/// Slashes are kept, so that a path still shows its route.
pub(crate) fn masked(text: &str) -> Cow<'_, str> {
    mask(text, is_secret)
}

/// The same for a text that is supposed to be an id: a purely hexadecimal digest is allowed.
pub(crate) fn masked_id(text: &str) -> Cow<'_, str> {
    let is_digest = |segment: &str| segment.bytes().all(|byte| byte.is_ascii_hexdigit());
    mask(text, |segment| is_secret(segment) && !is_digest(segment))
}

fn mask(text: &str, is_secret: impl Fn(&str) -> bool) -> Cow<'_, str> {
    if !text.split('/').any(&is_secret) {
        return Cow::Borrowed(text);
    }
    let segments = text.split('/').map(|segment| {
        if is_secret(segment) {
            let shown = segment.floor_char_boundary(SHOWN);
            let shown = segment.get(..shown).unwrap_or_default();
            Cow::Owned(format!("{shown}{MASK}"))
        } else {
            Cow::Borrowed(segment)
        }
    });
    let segments: Vec<_> = segments.collect();
    Cow::Owned(segments.join("/"))
}

fn is_secret(segment: &str) -> bool {
    segment.len() >= SHORT_MIN && segment.split(is_separator).any(is_secret_part)
}

/// Whether a character separates parts: keys and tokens have none of these within a part. `%`
/// belongs to a part, because escapes do: `%61` is an `a`.
fn is_separator(character: char) -> bool {
    !(character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '%'))
}

fn is_secret_part(part: &str) -> bool {
    let has_digit = || part.bytes().any(|byte| byte.is_ascii_digit());
    let is_long = part.len() >= LONG_MIN || (part.len() >= SHORT_MIN && has_digit());
    is_long && !is_named_uuid(part)
}

/// A name and a UUID, like `user-` and a UUID: an id.
fn is_named_uuid(part: &str) -> bool {
    let Some((name, id)) = part
        .len()
        .checked_sub(36)
        .and_then(|at| part.split_at_checked(at))
    else {
        return false;
    };
    is_uuid(id) && !is_secret_part(name)
}

fn is_uuid(part: &str) -> bool {
    let groups = part.split('-').map(|group| {
        let is_hex = group.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then_some(group.len())
    });
    groups.eq([8, 4, 4, 4, 12].map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_secret_eight_characters_stay() {
        for (path, shown) in [
            (
                "/api/keys/ps_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6/revoke",
                "/api/keys/ps_live_***/revoke",
            ),
            (
                "/api/v1/documents/hai_aBcDeFgHiJkLmNoPqRsTuVwXyZ-_aBcDeFgHiJkLmNoPqRs",
                "/api/v1/documents/hai_aBcD***",
            ),
            (
                "/a/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4iLCJleHAiOjE3fQ.c2ln",
                "/a/eyJhbGci***",
            ),
            ("/%70s_live_a1b2c3d4e5f6g7h8i9j0k1", "/%70s_liv***"),
            (
                "/a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5-0c1e9bd8-6f64-4ec7-9b2f-7c62d5a5cbb1",
                "/a1b2c3d4***",
            ),
            ("/key=ps_live_a1b2c3d4e5f6g7h8i9j0k1", "/key=ps_l***"),
            ("éééééps_live_a1b2c3d4e5f6g7h8i9j0k1", "éééé***"),
        ] {
            assert_eq!(masked(path), shown);
        }
    }

    #[test]
    fn what_names_something_stays_as_it_is() {
        for path in [
            "",
            "/",
            "/api/v1/users/0c1e9bd8-6f64-4ec7-9b2f-7c62d5a5cbb1",
            "/api/keys/key-0c1e9bd8-6f64-4ec7-9b2f-7c62d5a5cbb1/revoke",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "/bank.v1.TransactionReconciliationService/Transfer",
            "/documents/507f1f77bcf86cd799439011",
            "/events/01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "/v1/models/gpt-4o-mini-2024-07-18",
            "ann.lastname-of-many-letters@subdomain.example.org",
            "/caf%C3%A9",
        ] {
            assert!(matches!(masked(path), Cow::Borrowed(same) if same == path));
        }
    }

    #[test]
    fn a_digest_may_be_an_id_and_a_key_is_none() {
        let digest = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c";
        assert_eq!(masked_id(digest), digest);
        assert_eq!(masked(digest), "b5bb9d80***");
        assert_eq!(masked_id("ps_live_b5bb9d8014a0f9b1d61e21e7"), "ps_live_***");
    }

    #[test]
    fn no_key_of_ours_is_too_short_to_be_seen() {
        use crate::domain::key::{Alphabet, KeyFormat};
        for alphabet in [
            Alphabet::Base64Url,
            Alphabet::Base62,
            Alphabet::LowerAlphanumeric,
        ] {
            let format = KeyFormat::builder("k").alphabet(alphabet).length(43);
            let format = format.build().unwrap();
            for _ in 0..200 {
                let key = format.generate(None).unwrap();
                assert!(!masked(key.expose()).contains(&key.expose()[8..]));
            }
        }
    }
}

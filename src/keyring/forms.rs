//! Which texts may be keys, as far as can be told without a look-up.

use crate::domain::key::{ForeignFormat, KeyFormat, is_speakable};

/// The longest key that is hashed, in bytes.
const LENGTH_MAX: usize = 512;

/// What a text may be, judged by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Not a key: it is refused without a look-up.
    Malformed,
    /// A random key of a known format, or of any if none is known.
    Key,
    /// A chosen secret: it is compared by Argon2id if it isn't found as a random key.
    Chosen,
}

/// The formats that a resolver knows, and whether it accepts texts of none.
#[derive(Clone, Debug, Default)]
pub(super) struct Forms {
    own: Vec<KeyFormat>,
    foreign: Vec<ForeignFormat>,
    takes_chosen: bool,
}

impl Forms {
    pub(super) fn add(&mut self, format: KeyFormat) {
        self.own.push(format);
    }

    pub(super) fn add_foreign(&mut self, format: ForeignFormat) {
        self.foreign.push(format);
    }

    /// Also accepts chosen secrets.
    pub(super) fn accept_chosen(&mut self) {
        self.takes_chosen = true;
    }

    /// A text with the prefix of a format and a wrong checksum is malformed, and not tried as a key
    /// of another kind: a flood of wrong checksums reaches neither the store nor Argon2id. So is a
    /// text that no header can carry.
    pub(super) fn of(&self, text: &str) -> Form {
        let is_whole = || {
            self.own.iter().any(|format| format.parse(text).is_ok())
                || self.foreign.iter().any(|format| format.matches(text))
        };
        if text.len() > LENGTH_MAX {
            Form::Malformed
        } else if is_whole() {
            Form::Key
        } else if !self.accepts_any() || self.begin(text) || !text.bytes().all(is_speakable) {
            Form::Malformed
        } else if self.takes_chosen {
            Form::Chosen
        } else {
            Form::Key
        }
    }

    /// Whether a text is meant as a key. If any text may be a key, a signed token is left to other
    /// layers, unless a format says otherwise.
    pub(super) fn claim(&self, text: &str) -> bool {
        self.begin(text) || (self.accepts_any() && !is_signed_token(text))
    }

    fn accepts_any(&self) -> bool {
        (self.own.is_empty() && self.foreign.is_empty()) || self.takes_chosen
    }

    fn begin(&self, text: &str) -> bool {
        self.own.iter().any(|format| format.claims(text))
            || self.foreign.iter().any(|format| format.claims(text))
    }
}

/// Whether a text has the form of a JWS (RFC 7515, 7.1): three segments of base64url, the first of
/// which is a JSON object.
fn is_signed_token(text: &str) -> bool {
    let spells = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.starts_with("eyJ")
        && text.bytes().all(spells)
        && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::key::Alphabet;

    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.e30.AAAA";

    #[test]
    fn without_a_format_a_text_is_a_key_that_a_header_carries() {
        let any = Forms::default();
        for text in ["k", "nobody's-key", TOKEN, &"k".repeat(512)] {
            assert_eq!(any.of(text), Form::Key, "{text}");
        }
        for text in ["a b", "a\0b", "a,b", "\"a\"", "a;b", "é", &"k".repeat(513)] {
            assert_eq!(any.of(text), Form::Malformed, "{text}");
        }
    }

    #[test]
    fn with_formats_it_is_one_of_them_or_a_chosen_one_or_none() {
        let mut forms = Forms::default();
        let format = KeyFormat::builder("acme").build().unwrap();
        let key = format.generate(None).unwrap();
        let wrong = format!("{}!", key.expose());
        forms.add(format);
        forms.add_foreign(ForeignFormat::uuid());
        let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        for chosen in [false, true] {
            for text in [key.expose(), uuid] {
                assert_eq!(forms.of(text), Form::Key, "{text}");
                assert!(forms.claim(text));
            }
            assert_eq!(forms.of(&wrong), Form::Malformed);
            assert!(forms.claim(&wrong), "it means to be one");
            let expected = if chosen {
                Form::Chosen
            } else {
                Form::Malformed
            };
            assert_eq!(forms.of("team-7hunter22"), expected);
            assert_eq!(forms.claim("team-7hunter22"), chosen);
            assert!(!forms.claim(TOKEN));
            forms.accept_chosen();
        }
    }

    #[test]
    fn a_signed_token_is_claimed_by_a_format_alone() {
        let mut forms = Forms::default();
        for text in [TOKEN, "eyJhbGciOiJub25lIn0.e30."] {
            assert!(!forms.claim(text), "{text}");
        }
        // None of them is one.
        for text in [
            "eyJhbGciOiJIUzI1NiJ9.e30",
            "eyJhbGciOiJIUzI1NiJ9.e30.AAAA.AAAA",
            "eyJhbGciOiJIUzI1NiJ9.e30.AA==",
            "a.b.c",
        ] {
            assert!(forms.claim(text), "{text}");
        }
        let alike = ForeignFormat::builder(Alphabet::Base64Url, 20..=40).prefix("eyJ");
        forms.add_foreign(alike.add_characters(".").build().unwrap());
        assert!(forms.claim(TOKEN));
    }
}

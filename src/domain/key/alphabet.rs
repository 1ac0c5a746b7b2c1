//! The characters that keys are made of.

/// The characters of a key's random part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Alphabet {
    /// `0-9a-f`: 4 bits a character.
    Hex,
    /// `0-9a-z`: 5.17 bits a character.
    LowerAlphanumeric,
    /// `0-9A-Za-z`: 5.95 bits a character.
    Base62,
    /// `A-Za-z0-9-_`: 6 bits a character.
    Base64Url,
}

impl Alphabet {
    pub(super) const fn characters(self) -> &'static [u8] {
        match self {
            Self::Hex => b"0123456789abcdef",
            Self::LowerAlphanumeric => b"0123456789abcdefghijklmnopqrstuvwxyz",
            Self::Base62 => b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            Self::Base64Url => b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
        }
    }

    pub(super) const fn contains(self, byte: u8) -> bool {
        match self {
            Self::Hex => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            Self::LowerAlphanumeric => byte.is_ascii_digit() || byte.is_ascii_lowercase(),
            Self::Base62 => byte.is_ascii_alphanumeric(),
            Self::Base64Url => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
        }
    }

    /// The last six digits of `number`, written in base N with these characters.
    pub(super) fn spell(self, number: u32) -> [u8; 6] {
        // With a base known at compile time, the compiler replaces the division.
        fn digits<const BASE: u32>(number: u32, characters: &[u8]) -> [u8; 6] {
            let (mut rest, mut digits) = (number, [0; 6]);
            for place in digits.iter_mut().rev() {
                let index = usize::try_from(rest.checked_rem(BASE).unwrap_or(0)).unwrap_or(0);
                *place = characters.get(index).copied().unwrap_or(b'0');
                rest = rest.checked_div(BASE).unwrap_or(0);
            }
            digits
        }
        let characters = self.characters();
        match self {
            Self::Hex => digits::<16>(number, characters),
            Self::LowerAlphanumeric => digits::<36>(number, characters),
            Self::Base62 => digits::<62>(number, characters),
            Self::Base64Url => digits::<64>(number, characters),
        }
    }

    /// Whether a text consists of these characters only. Branch-free, so that it vectorizes.
    pub(super) fn spells(self, text: &str) -> bool {
        fn all(text: &str, fits: impl Fn(u8) -> bool) -> bool {
            text.bytes().fold(true, |all, byte| all & fits(byte))
        }
        match self {
            Self::Hex => all(text, |byte| {
                byte.is_ascii_digit() | (b'a'..=b'f').contains(&byte)
            }),
            Self::LowerAlphanumeric => all(text, |byte| {
                byte.is_ascii_digit() | byte.is_ascii_lowercase()
            }),
            Self::Base62 => all(text, |byte| byte.is_ascii_alphanumeric()),
            Self::Base64Url => all(text, |byte| {
                byte.is_ascii_alphanumeric() | (byte == b'-') | (byte == b'_')
            }),
        }
    }

    /// The characters as a class of a regular expression.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Hex => "0-9a-f",
            Self::LowerAlphanumeric => "0-9a-z",
            Self::Base62 => "0-9A-Za-z",
            Self::Base64Url => "0-9A-Za-z_-",
        }
    }

    /// Thousandths of a bit per character, rounded down.
    pub(super) const fn millibits(self) -> u32 {
        match self {
            Self::Hex => 4_000,
            Self::LowerAlphanumeric => 5_169,
            Self::Base62 => 5_954,
            Self::Base64Url => 6_000,
        }
    }
}

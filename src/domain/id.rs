//! Names of accounts and budgets: cheap to clone, bounded in length, and storable in every engine.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest account or budget name, in bytes.
const LENGTH_MAX: usize = 255;

/// A name was empty, longer than 255 bytes, or contained a NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an identifier has 1 to {LENGTH_MAX} bytes, and no NUL")]
pub struct InvalidId;

fn check(name: &str) -> Result<(), InvalidId> {
    if name.is_empty() || name.len() > LENGTH_MAX || has_nul(name) {
        return Err(InvalidId);
    }
    Ok(())
}

/// PostgreSQL can't store a NUL in text. What one store can't keep, no store accepts.
pub(crate) fn has_nul(text: &str) -> bool {
    text.contains('\0')
}

/// Whether a character is a control character, is invisible, or changes the direction of writing
/// (Unicode's `Bidi_Control`). Joiners are neither: several scripts need them.
pub(crate) fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

macro_rules! shared_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Makes a name of 1 to 255 bytes, none of which is NUL.
            ///
            /// # Errors
            /// [`InvalidId`] if it is empty, longer, or contains a NUL.
            pub fn new(name: &str) -> Result<Self, InvalidId> {
                check(name)?;
                Ok(Self(Arc::from(name)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        #[allow(dead_code, reason = "not every name is shared")]
        impl $name {
            /// The text, to be shared.
            pub(crate) fn shared(&self) -> &Arc<str> {
                &self.0
            }
        }

        /// Shares the text.
        impl TryFrom<Arc<str>> for $name {
            type Error = InvalidId;

            fn try_from(name: Arc<str>) -> Result<Self, InvalidId> {
                check(&name)?;
                Ok(Self(name))
            }
        }

        /// Shares the text.
        impl From<&$name> for Arc<str> {
            fn from(name: &$name) -> Self {
                Self::clone(&name.0)
            }
        }

        /// Shares the text.
        impl From<&Self> for $name {
            fn from(name: &Self) -> Self {
                name.clone()
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(name: String) -> Result<Self, InvalidId> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.as_str())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

shared_name! {
    /// The account whose balance is spent. Usually a user or a tenant.
    AccountId
}

shared_name! {
    /// Something with its own spending limits within an account: usually an API key together with
    /// all keys it was rotated into.
    BudgetId
}

shared_name! {
    /// The public name of an API key. Not a secret: it appears in lists, logs and URLs.
    KeyId
}

shared_name! {
    /// The public name of a user.
    UserId
}

shared_name! {
    /// The public name of one login of one user.
    SessionId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_something_that_every_store_can_keep() {
        for fits in ["a", "\u{1}", "user-ä", &"n".repeat(255)] {
            assert!(KeyId::new(fits).is_ok(), "{fits}");
        }
        for unfit in ["", "\0", "a\0b", &"n".repeat(256)] {
            assert_eq!(AccountId::new(unfit), Err(InvalidId), "{unfit}");
            assert_eq!(
                UserId::try_from(Arc::from(unfit)),
                Err(InvalidId),
                "{unfit}"
            );
        }
    }
}

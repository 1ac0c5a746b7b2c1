//! The keys of a JWK set that verify nothing, and why.

use std::fmt;

use super::KeyError;

/// How many keys a warning names.
const NAMED_MAX: usize = 8;
/// How much of a name it repeats, in characters.
const NAME_LENGTH_MAX: usize = 64;

/// Keys that are meant for us but can't be used. Nothing of a key is kept but its place in the set
/// and its name.
#[derive(Default)]
pub(super) struct LeftOut {
    first: Vec<(usize, Option<Box<str>>, KeyError)>,
    count: usize,
}

impl LeftOut {
    /// A key that is left out; `at` is its place in the set, from 0.
    pub(super) fn add(&mut self, at: usize, kid: Option<&str>, reason: KeyError) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < NAMED_MAX {
            let kid = kid.map(|kid| kid.chars().take(NAME_LENGTH_MAX).collect());
            self.first.push((at, kid, reason));
        }
    }

    /// Why the first one can't be used.
    pub(super) fn reason(&self) -> Option<KeyError> {
        self.first.first().map(|(.., reason)| *reason)
    }

    /// One line for all of them.
    pub(super) fn warn(&self) {
        if self.count > 0 {
            tracing::warn!(
                target: "tollgate", count = self.count, keys = %self,
                "leaving out keys of a JWK set; the others are used",
            );
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, kid, reason) in &self.first {
            write!(f, "#{at}")?;
            // A name is the provider's text: escaped, it begins no line of its own.
            if let Some(kid) = kid {
                write!(f, " (kid {kid:?})")?;
            }
            write!(f, ": {reason}; ")?;
        }
        match self.count.saturating_sub(self.first.len()) {
            0 => Ok(()),
            more => write!(f, "and {more} more"),
        }
    }
}

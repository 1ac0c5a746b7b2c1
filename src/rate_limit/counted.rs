//! Which tokens a limit is about.

use crate::domain::charge::{Missing, Tokens};

/// The tokens that count towards a limit
/// ([`RateLimitLayer::counted_tokens`](super::RateLimitLayer::counted_tokens)). Providers differ:
/// OpenAI's limits count all of them; Anthropic has one limit for input, without what is read from
/// a cache, and another for output.
///
/// Cached input is what was read from a cache. What is written to one is input like any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CountedTokens {
    /// Input and output.
    #[default]
    All,
    /// Output, and input that wasn't read from a cache.
    Uncached,
    /// Input.
    Input,
    /// Input that wasn't read from a cache.
    UncachedInput,
    /// Output.
    Output,
}

impl CountedTokens {
    /// How many of a call's tokens count.
    pub(super) fn of(self, tokens: &Tokens) -> u64 {
        let uncached = tokens.input.saturating_sub(tokens.cached);
        match self {
            Self::All => tokens.input.saturating_add(tokens.output),
            Self::Uncached => uncached.saturating_add(tokens.output),
            Self::Input => tokens.input,
            Self::UncachedInput => uncached,
            Self::Output => tokens.output,
        }
    }

    /// Whether these counts tell them: a whole that nothing named may have been any.
    pub(super) fn is_told_by(self, tokens: &Tokens) -> bool {
        match tokens.missing {
            Missing::Nothing => true,
            Missing::Input => self == Self::Output,
            Missing::Output => matches!(self, Self::Input | Self::UncachedInput),
            Missing::Division => matches!(self, Self::All | Self::Uncached),
            Missing::Both => false,
        }
    }
}

//! What is charged if a call fails or ends early.

/// What a call costs that ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Charging {
    /// Nothing.
    Nothing,
    /// What had been counted by then. If nothing had: before there was an answer, nothing; and
    /// after that the hold, for a token price at most as if every byte of what the model wrote had
    /// been a token. An incomplete count (say, only the input, from a stream's first event or from
    /// the handler) is the minimum in that estimate. If it names no input, or an input of zero,
    /// that is taken for as much as was held for; of web searches, only those that were counted are
    /// charged.
    ///
    /// What a model wrote is known of server-sent events (and of Gemini's lists) whose usage is
    /// read from the [body](crate::CostSource::Body): of OpenAI, Anthropic, Gemini, Cohere and what
    /// is compatible it is the texts, thoughts that are shown, and calls of tools with their names
    /// and ids. Of what isn't known to wrap these, all bytes count; and each event with data is a
    /// token at least. Of other bodies, all bytes count; of a compressed one, whose bytes may be
    /// fewer than its tokens, all output that was held for.
    ///
    /// Output that is never shown is bounded by nothing that was sent: the reasoning of many
    /// models, text held back in case a stop sequence follows, rejected predictions, images sent by
    /// their address. Where it matters, charge [`Hold`](Self::Hold).
    Counted,
    /// The full hold.
    Hold,
}

/// What a call costs if its usage was not reported. Its usage row is marked
/// ([`usage_is_missing`](crate::usage::Settlement::usage_is_missing)). A reported usage of zero is
/// not missing, and costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissingUsage {
    /// The full hold: no free ride if a handler forgets to count. For a price by model whose answer
    /// names the model, at most what that model's price would have held.
    ChargeHold,
    /// Nothing.
    ChargeNothing,
}

/// All terms together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) failed: Charging,
    /// Like `failed` by default.
    pub(super) broken: Option<Charging>,
    pub(super) disconnected: Charging,
    /// Like `disconnected` by default.
    pub(super) unanswered: Option<Charging>,
    pub(super) missing: MissingUsage,
    pub(super) headers: CostHeaders,
    pub(super) lifetime: std::time::Duration,
    pub(super) expiry: crate::domain::usage::Expiry,
}

/// Whether cost headers are sent to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CostHeaders {
    Off,
    On,
}

//! What is charged when a call doesn't end well.

/// What a call costs that ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Charging {
    /// Nothing.
    Nothing,
    /// What had been counted by then. Where nothing had, the hold; of a token price no more than if every
    /// byte that went out had been a token. A count that hadn't come to its end (a stream's first event told what
    /// was read, a handler counted its input) is taken for no less than that.
    Counted,
    /// All that was held.
    Hold,
}

/// What a call costs of which nobody told what it used: its usage row says that
/// ([`usage_is_missing`](crate::usage::Settlement::usage_is_missing)). Usage of zero is told, and costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissingUsage {
    /// All that was held: no free ride by a handler that forgets to count. Of a price by models, where the answer
    /// names one, no more than was to be held for that.
    ChargeHold,
    /// Nothing.
    ChargeNothing,
}

/// All of it together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) failed: Charging,
    /// As `failed` unless set.
    pub(super) broken: Option<Charging>,
    pub(super) disconnected: Charging,
    pub(super) missing: MissingUsage,
    pub(super) headers: CostHeaders,
    pub(super) lifetime: std::time::Duration,
    pub(super) expiry: crate::domain::usage::Expiry,
}

/// Whether clients are told what they pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CostHeaders {
    Off,
    On,
}

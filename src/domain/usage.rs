//! Holds, settlements, and the log of what was used and paid.

use std::{fmt, sync::Arc, time::Duration};

use super::{AccountId, BudgetId, KeyId, budget::Windows, clock::Timestamp, money::Money};

/// The name of a hold: which instance of the store granted it, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId {
    /// A random number, drawn when the granting store was opened, or when it found that it had been
    /// taken for dead.
    pub instance: u64,
    /// Counts the holds of that instance.
    pub number: u64,
}

impl fmt::Debug for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HoldId({self})")
    }
}

impl fmt::Display for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.instance, self.number)
    }
}

/// Who called what: what is known of a request before it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The request's id, as in its `x-request-id`.
    pub request_id: Arc<str>,
    /// Whose money.
    pub account: AccountId,
    /// The key that called.
    pub key: Option<KeyId>,
    /// Method and path pattern: `POST /v1/chat/completions`.
    pub route: Arc<str>,
    /// When the request came.
    pub started_at: Timestamp,
}

/// A wish to set money aside for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRequest {
    /// For which call.
    pub call: Call,
    /// Which budgets must hold besides the account's balance.
    pub budgets: Arc<[BudgetId]>,
    /// How much: at least what the call will cost.
    pub amount: Money,
    /// How long the call may take before the hold is resolved without it.
    pub lifetime: Duration,
}

/// Money that is set aside for a call. It has no `Clone`: it is settled once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a hold that isn't settled stays until it expires"]
pub struct Hold {
    /// Its name.
    pub id: HoldId,
    /// For which call.
    pub call: Call,
    /// Which budgets count it.
    pub budgets: Arc<[BudgetId]>,
    /// How much.
    pub amount: Money,
    /// In which windows it counts.
    pub windows: Windows,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Answered to the end.
    Completed,
    /// The handler failed: an error, a panic, or a status that isn't charged.
    Failed,
    /// The client left before the end.
    Disconnected,
    /// The process died, or the hold outlived its time: resolved by the ledger.
    Abandoned,
}

impl Outcome {
    /// A stable name, in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Disconnected => "disconnected",
            Self::Abandoned => "abandoned",
        }
    }

    /// The outcome of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Completed,
            Self::Failed,
            Self::Disconnected,
            Self::Abandoned,
        ]
        .into_iter()
        .find(|outcome| outcome.as_str() == name)
    }
}

/// What a call really cost, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What is charged; less than held, equal, or more.
    pub charged: Money,
    /// How the call ended.
    pub outcome: Outcome,
    /// The answer's HTTP status; `None` when there was no answer.
    pub status: Option<u16>,
    /// From the request's arrival to the end of its answer.
    pub latency: Duration,
    /// Tokens read, where that is what is paid for.
    pub input_tokens: Option<u64>,
    /// Tokens written, where that is what is paid for.
    pub output_tokens: Option<u64>,
}

/// One row of the usage log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageEntry {
    /// Its place in the log; later rows have larger ones.
    pub position: u64,
    /// Which call.
    pub call: Call,
    /// What had been set aside.
    pub held: Money,
    /// How it ended.
    pub settlement: Settlement,
    /// When that was written down.
    pub settled_at: Timestamp,
}

/// Money that is paid in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Into which account.
    pub account: AccountId,
    /// How much, above zero.
    pub amount: Money,
    /// Names the payment: the same reference again is the same payment, and is counted once.
    pub reference: String,
}

/// One movement of money in an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its place in the log; later ones have larger ones.
    pub position: u64,
    /// When.
    pub at: Timestamp,
    /// How much: above zero paid in, below zero charged.
    pub amount: Money,
    /// The payment's reference, or the id of the request that was charged.
    pub reference: String,
    /// The route that was charged; `None` for a payment.
    pub route: Option<String>,
}

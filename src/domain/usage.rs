//! Holds, settlements, and the log of what was used and paid.

mod row;

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    AccountId, KeyId, RequestId,
    books::{Grant, Left},
    budget::{Budgets, Windows},
    clock::Timestamp,
    money::Money,
};

/// The name of a hold: which instance of the store granted it, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId {
    /// A random number, drawn when the granting store was opened, or when it found that it had been
    /// taken for dead.
    pub instance: u64,
    /// None of that instance had it before.
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
    pub request_id: RequestId,
    /// Whose money.
    pub account: AccountId,
    /// Who called: the [`Principal`](crate::Principal)'s subject.
    pub principal: Arc<str>,
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
    pub budgets: Budgets,
    /// How much: at least what the call will cost.
    pub amount: Money,
    /// How long the call may take before the hold is resolved without it; less than [`Hold::LIFETIME_MIN`] counts as that.
    pub lifetime: Duration,
    /// How it is resolved then.
    pub expiry: Expiry,
    /// The client's own name for the call, by which a repetition is known.
    pub idempotency: Option<Idempotency>,
}

/// What becomes of a hold that nobody settles: its process died, or it outlived its lifetime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Expiry {
    /// It is given back: the call was never answered in full.
    #[default]
    Release,
    /// It is charged: what was begun has cost its operator something.
    Charge,
}

impl Expiry {
    /// What is charged of a hold of `amount`.
    #[must_use]
    pub fn charged(self, amount: Money) -> Money {
        match self {
            Self::Release => Money::ZERO,
            Self::Charge => amount,
        }
    }
}

/// By what a repeated call is known. The first call that uses a key of an account holds money; while it
/// is under way, and after it was charged, others with the key are refused. Where it cost nothing, the key is free again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's name for the call: 1 to 255 bytes.
    pub key: Arc<str>,
    /// Of all that must be the same in a repetition.
    pub fingerprint: [u8; 32],
    /// How long the key is remembered, at least, from the hold on.
    pub keep_for: Duration,
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
    pub budgets: Budgets,
    /// How much.
    pub amount: Money,
    /// In which windows it counts.
    pub windows: Windows,
    /// What could still be set aside when it was granted.
    pub left: Left,
    /// What becomes of it if nobody settles it.
    pub expiry: Expiry,
    /// The client's name for the call.
    pub idempotency_key: Option<Arc<str>>,
}

impl Hold {
    /// The lifetime of a hold that ends with its call and not by the clock: a century.
    ///
    /// A call that is under way owns its hold and settles it whatever happens, so only a process that died leaves one
    /// behind, and its ledger finds that out by itself. With an end of its own a hold would be given back under a call that
    /// is merely slow, and that call would be served for nothing.
    pub const AS_LONG_AS_ITS_CALL: Duration = Duration::from_secs(100 * 366 * 86_400);

    /// The shortest lifetime that a hold has: less than any call takes. With none at all every hold would be over before its
    /// call is settled, and every call free.
    pub const LIFETIME_MIN: Duration = Duration::from_secs(1);

    /// When a hold is over that is to live for `lifetime` from now on, by the monotonic clock; `None`: with its call, and
    /// then nobody looks at the clock.
    pub(crate) fn end_after(
        lifetime: Duration,
        now: impl FnOnce() -> Duration,
    ) -> Option<Duration> {
        let is_limited = lifetime < Self::AS_LONG_AS_ITS_CALL;
        is_limited.then(|| now().saturating_add(lifetime.max(Self::LIFETIME_MIN)))
    }

    /// What was granted for `request`.
    pub fn granted(id: HoldId, request: HoldRequest, grant: Grant) -> Self {
        Self {
            id,
            call: request.call,
            budgets: request.budgets,
            amount: request.amount,
            windows: grant.windows,
            left: grant.left,
            expiry: request.expiry,
            idempotency_key: request.idempotency.map(|idempotency| idempotency.key),
        }
    }
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
    /// Those of the tokens read that came from a cache.
    pub cached_tokens: Option<u64>,
    /// Those of the tokens read that were written to a cache.
    pub cache_write_tokens: Option<u64>,
    /// Tokens written, where that is what is paid for.
    pub output_tokens: Option<u64>,
    /// Bytes of the answer, where that is what is paid for.
    pub bytes: Option<u64>,
    /// The model that answered, where it is known.
    pub model: Option<Arc<str>>,
    /// Nobody told what it used, where that is what is paid for: what is charged is what was held, or what can have gone out
    /// by then.
    pub usage_is_missing: bool,
}

impl Settlement {
    /// A charge and an outcome, and nothing else known of the call.
    #[must_use]
    pub fn new(charged: Money, outcome: Outcome) -> Self {
        Self {
            charged,
            outcome,
            status: None,
            latency: Duration::ZERO,
            input_tokens: None,
            cached_tokens: None,
            cache_write_tokens: None,
            output_tokens: None,
            bytes: None,
            model: None,
            usage_is_missing: false,
        }
    }

    /// The latency as the log tells it.
    pub(crate) fn latency_ms(&self) -> u64 {
        u64::try_from(self.latency.as_millis()).unwrap_or(u64::MAX)
    }

    /// Of a hold that nobody settled within `age`.
    #[must_use]
    pub(crate) fn abandoned(hold: Money, expiry: Expiry, age: jiff::SignedDuration) -> Self {
        Self {
            latency: age.try_into().unwrap_or_default(),
            ..Self::new(expiry.charged(hold), Outcome::Abandoned)
        }
    }
}

/// One row of the usage log. Serialized it is flat, with the names of a [`UsageExport`](crate::UsageExport).
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

/// The longest reference of a payment or a correction, in bytes.
const REFERENCE_LENGTH_MAX: usize = 255;

/// Whether a payment or a correction can have such a reference: one that is empty names nothing, and the second
/// without a name would be taken for the first. It has 1 to 255 bytes.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    (1..=REFERENCE_LENGTH_MAX).contains(&text.len())
}

/// Money that is paid in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Into which account.
    pub account: AccountId,
    /// How much, above zero.
    pub amount: Money,
    /// Names the payment, with 1 to 255 bytes: the same reference again is the same payment, and is counted once.
    /// References are those of all accounts.
    pub reference: String,
}

/// A correction of what was paid in: a refund, a chargeback, a gift.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// Of which account.
    pub account: AccountId,
    /// How much: above zero for the account, below zero against it.
    pub amount: Money,
    /// Names the correction, with 1 to 255 bytes: the same reference again is the same correction. Payments and
    /// corrections share their references.
    pub reference: String,
}

/// One movement of money in an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transaction {
    /// Its place in the log; later ones have larger ones.
    pub position: u64,
    /// When.
    pub at: Timestamp,
    /// How much: above zero paid in, below zero charged or corrected.
    pub amount: Money,
    /// The payment's or the correction's reference, or the id of the request that was charged.
    pub reference: String,
    /// The route that was charged; `None` for a payment or a correction.
    pub route: Option<String>,
}

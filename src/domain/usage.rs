//! Holds, settlements, and the log of usage and payments.

mod details;
mod payment;
mod row;
mod tags;

use std::{fmt, sync::Arc, time::Duration};

pub(crate) use self::payment::PaymentMeaning;
pub use self::{
    details::UsageDetails,
    payment::{Adjustment, Credit, RefundedCall, Transaction, is_reference},
    tags::{InvalidTag, Tags},
};

use super::{
    AccountId, BudgetId, KeyId, RequestId,
    books::{Grant, Left},
    budget::{Budgets, Windows},
    clock::Timestamp,
    money::Money,
};

/// Identifies a hold: the store instance that granted it, and a number unique to that instance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId {
    /// A random number, drawn when the granting store was opened, or when it found out that it had
    /// been presumed dead.
    pub instance: u64,
    /// Never reused by that instance.
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

/// Who called what: what is known about a request before it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The request's id, as in its `x-request-id`.
    pub request_id: RequestId,
    /// The account that pays.
    pub account: AccountId,
    /// The caller: the [`Principal`](crate::Principal)'s subject.
    pub principal: Arc<str>,
    /// The key that was used.
    pub key: Option<KeyId>,
    /// Method and path pattern: `POST /v1/chat/completions`.
    pub route: Arc<str>,
    /// When the request arrived.
    pub started_at: Timestamp,
}

/// A request to set money aside for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRequest {
    /// For which call.
    pub call: Call,
    /// The budgets that must cover the call besides the account's balance.
    pub budgets: Budgets,
    /// How much: at least what the call will cost.
    pub amount: Money,
    /// How long the call may take before the hold is resolved without it; raised to at least
    /// [`Hold::LIFETIME_MIN`].
    pub lifetime: Duration,
    /// How it is resolved in that case.
    pub expiry: Expiry,
    /// The client's own name for the call, by which repetitions are recognised.
    pub idempotency: Option<Idempotency>,
}

/// What happens to a hold that is never settled, because its process died or it outlived its
/// lifetime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Expiry {
    /// It is released: the call was never fully answered.
    #[default]
    Release,
    /// It is charged: work that was started has cost the operator something.
    Charge,
}

impl Expiry {
    /// What is charged for a hold of `amount`.
    #[must_use]
    pub fn charged(self, amount: Money) -> Money {
        match self {
            Self::Release => Money::ZERO,
            Self::Charge => amount,
        }
    }
}

/// How a repeated call is recognised. The first call that uses an account's key holds money; while
/// it is under way, and after it was charged, other calls with the key are refused. If it cost
/// nothing, the key is free again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's name for the call: 1 to 255 bytes.
    pub key: Arc<str>,
    /// Covers everything that must be the same in a repetition.
    pub fingerprint: [u8; 32],
    /// The minimum time for which the key is remembered, counted from the hold.
    pub keep_for: Duration,
}

/// Money that is set aside for a call. It has no `Clone`, so that it is settled once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a hold that isn't settled stays until it expires"]
pub struct Hold {
    /// Its name.
    pub id: HoldId,
    /// For which call.
    pub call: Call,
    /// The budgets that it counts against.
    pub budgets: Budgets,
    /// How much.
    pub amount: Money,
    /// The windows in which it counts.
    pub windows: Windows,
    /// What could still be set aside when it was granted.
    pub left: Left,
    /// What happens to it if it is never settled.
    pub expiry: Expiry,
    /// The client's name for the call.
    pub idempotency_key: Option<Arc<str>>,
}

impl Hold {
    /// The lifetime of a hold that ends with its call rather than by time: a century.
    ///
    /// A call under way owns its hold and always settles it, so only a dead process leaves a hold
    /// behind, and its ledger detects that on its own. With a shorter lifetime, a hold would be
    /// released while a slow call still runs, and that call would be free.
    pub const AS_LONG_AS_ITS_CALL: Duration = Duration::from_secs(100 * 366 * 86_400);

    /// The shortest lifetime of a hold; shorter ones are raised to it. With a lifetime of zero
    /// every hold would expire before its call is settled, and every call would be free.
    pub const LIFETIME_MIN: Duration = Duration::from_secs(1);

    /// When a hold with this `lifetime` expires, by the monotonic clock. `None` if it ends with its
    /// call; then the clock is not read.
    pub(crate) fn end_after(
        lifetime: Duration,
        now: impl FnOnce() -> Duration,
    ) -> Option<Duration> {
        let is_limited = lifetime < Self::AS_LONG_AS_ITS_CALL;
        is_limited.then(|| now().saturating_add(lifetime.max(Self::LIFETIME_MIN)))
    }

    /// The hold that was granted for `request`.
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
    /// Answered completely.
    Completed,
    /// The handler failed: an error, a panic, or a status that isn't charged.
    Failed,
    /// The client left before the end.
    Disconnected,
    /// The process died, or the hold outlived its lifetime: resolved by the ledger. If the process
    /// was alive after all and the call is settled within a day, a second row says how it ended and
    /// what was still charged.
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
    /// The answer's HTTP status; `None` if there was no answer.
    pub status: Option<u16>,
    /// From the request's arrival to the end of its answer.
    pub latency: Duration,
    /// Input tokens, if tokens are billed.
    pub input_tokens: Option<u64>,
    /// Input tokens that came from a cache.
    pub cached_tokens: Option<u64>,
    /// Input tokens that were written to a cache.
    pub cache_write_tokens: Option<u64>,
    /// Output tokens, if tokens are billed.
    pub output_tokens: Option<u64>,
    /// Bytes of the answer, if bytes are billed.
    pub bytes: Option<u64>,
    /// The model that answered, if known.
    pub model: Option<Arc<str>>,
    /// The usage that is billed was not reported. What is charged is then the hold, or what can
    /// have been sent by then.
    pub usage_is_missing: bool,
    /// Kinds of tokens, searches, a tier, tags and budgets, if there were any.
    pub details: Option<Box<UsageDetails>>,
}

impl Settlement {
    /// A charge and an outcome; everything else is unknown.
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
            details: None,
        }
    }

    /// The latency as the log records it.
    pub(crate) fn latency_ms(&self) -> u64 {
        u64::try_from(self.latency.as_millis()).unwrap_or(u64::MAX)
    }

    /// The settlement of a hold that was still open at `age`. It notes the budgets, each once and
    /// in order: whoever could have noted them is gone.
    #[must_use]
    pub(crate) fn abandoned(
        hold: Money,
        expiry: Expiry,
        age: jiff::SignedDuration,
        budgets: &[BudgetId],
    ) -> Self {
        let mut budgets = budgets.to_vec();
        budgets.sort_unstable();
        budgets.dedup();
        Self {
            latency: age.try_into().unwrap_or_default(),
            details: UsageDetails::with_notes(None, Tags::new(), &budgets),
            ..Self::new(expiry.charged(hold), Outcome::Abandoned)
        }
    }
}

/// One row of the usage log. Its serialized form is flat, with the field names of a
/// [`UsageExport`](crate::UsageExport).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageEntry {
    /// Its position in the log; later rows have larger ones.
    pub position: u64,
    /// Which call.
    pub call: Call,
    /// What had been set aside.
    pub held: Money,
    /// How it ended.
    pub settlement: Settlement,
    /// When the settlement was recorded.
    pub settled_at: Timestamp,
}

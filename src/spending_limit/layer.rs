//! The layer, and what can be set.

use std::{sync::Arc, time::Duration};

use super::{
    IdempotencyKeys, PriceTable, SpendingLimitPolicy,
    idempotency::Answers,
    policy::{Payer, Shared},
    terms::{Charging, CostHeaders, MissingUsage, Terms},
};
use crate::{
    domain::{
        AccountId, BudgetId, InvalidId,
        clock::{Clock, SystemClock},
        principal::Principal,
        usage::{Expiry, Hold},
    },
    guard::{self, Gate},
    store::Ledger,
};

/// Charges for each request. See the [module](super).
///
/// # What a client can bring about
/// - It leaves while its answer streams: [`disconnected_calls`](Self::disconnected_calls).
/// - It breaks off its own request's body under a handler that reads it while it answers, so that the handler's stream
///   ends with an error after some of it was delivered. Unless set, that costs nothing, like any failure. Where handlers
///   stream while they read, set [`broken_streams`](Self::broken_streams) to [`Charging::Counted`]. In gRPC a message that
///   can't be read does the same: the stream ends with a status other than OK in its trailers.
/// - It asks for an upgrade (101, or an answer to CONNECT). What goes over the connection then is no body, and isn't seen here:
///   the call is settled at the head of its answer, by what was told or counted until then. Put no price by tokens or
///   bytes on such a route; a flat one, or a limit on connections, holds.
#[derive(Clone, Debug)]
pub struct SpendingLimitLayer {
    gate: Gate<SpendingLimitPolicy>,
}

guard::layer!(SpendingLimitLayer, SpendingLimitPolicy);

impl SpendingLimitLayer {
    /// Charges the caller's account in `ledger` by `prices`.
    #[must_use]
    pub fn new(ledger: impl Ledger, prices: PriceTable) -> Self {
        Self {
            gate: Gate::new(SpendingLimitPolicy {
                shared: Arc::new(Shared {
                    ledger: Arc::new(ledger),
                    clock: SystemClock::shared(),
                    terms: Terms {
                        failed: Charging::Nothing,
                        broken: None,
                        disconnected: Charging::Counted,
                        missing: MissingUsage::ChargeHold,
                        headers: CostHeaders::Off,
                        lifetime: Hold::AS_LONG_AS_ITS_CALL,
                        expiry: Expiry::Release,
                    },
                    upgrade_told: Arc::default(),
                    missed: Arc::default(),
                }),
                prices,
                answers: None,
                payer: Payer::default(),
            }),
        }
    }

    /// How long a call may go on without a sign of life before its hold is resolved without it; as long as
    /// it likes unless set. A body whose frames go out keeps its hold. What a call costs that comes after
    /// its hold was resolved is not charged any more: set it with [`Expiry::Charge`], and longer than any
    /// request may take. Less than a second ([`Hold::LIFETIME_MIN`]) counts as a second.
    #[must_use]
    pub fn hold_lifetime(self, lifetime: Duration) -> Self {
        self.terms(|terms| terms.lifetime = lifetime.max(Hold::LIFETIME_MIN))
    }

    /// What becomes of a hold that nobody settles, because its process died or its lifetime is over; it is
    /// given back unless set.
    #[must_use]
    pub fn expired_holds(self, expiry: Expiry) -> Self {
        self.terms(|terms| terms.expiry = expiry)
    }

    /// What a call costs that the handler or its body ended with an error or a panic; nothing unless set.
    /// An answer of 400 or above costs nothing in any case.
    #[must_use]
    pub fn failed_calls(self, charging: Charging) -> Self {
        self.terms(|terms| terms.failed = charging)
    }

    /// What a call costs whose answer ends with an error, a panic, or a failure in gRPC's trailers after some of its body had gone out;
    /// the same as [`failed_calls`](Self::failed_calls) unless set. A client whose own body is read meanwhile can bring that about
    /// by breaking it off, and would have what was delivered for nothing.
    #[must_use]
    pub fn broken_streams(self, charging: Charging) -> Self {
        self.terms(|terms| terms.broken = Some(charging))
    }

    /// What a call costs that its client left, or a timeout further out cut off; what was counted unless set.
    #[must_use]
    pub fn disconnected_calls(self, charging: Charging) -> Self {
        self.terms(|terms| terms.disconnected = charging)
    }

    /// What a call costs of which nobody told what it used; the hold unless set. Its usage row says so, and the log
    /// of the first of each route.
    #[must_use]
    pub fn missing_usage(self, missing: MissingUsage) -> Self {
        self.terms(|terms| terms.missing = missing)
    }

    /// Tells clients what they pay, in dollars: `x-cost-held`, `x-cost` where it is known before the body,
    /// `x-balance-remaining` and `x-budget-remaining` just after the hold.
    #[must_use]
    pub fn cost_headers(self) -> Self {
        self.terms(|terms| terms.headers = CostHeaders::On)
    }

    /// Honours `Idempotency-Key`: a client's retry is charged once. Free routes pass it by.
    #[must_use]
    pub fn idempotency_keys(self, keys: IdempotencyKeys) -> Self {
        let answers = Some(Answers::new(keys));
        Self {
            gate: self.gate.map_policy(|policy| policy.answers = answers),
        }
    }

    /// Whose money a caller spends, where that isn't the principal's own account: its tenant's. A name
    /// that can be none is refused (403).
    #[must_use]
    pub fn account(
        self,
        of: impl Fn(&Principal) -> Result<AccountId, InvalidId> + Send + Sync + 'static,
    ) -> Self {
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.payer.account = Some(Arc::new(of))),
        }
    }

    /// Another budget of the account that calls must fit in, besides the principal's own (its key's): its
    /// team's. All are held in one step, or none. A name that can be none is refused (403).
    ///
    /// ```
    /// use tollgate::{PriceTable, SpendingLimitLayer, store::{BudgetId, MemoryStore}};
    ///
    /// let layer = SpendingLimitLayer::new(MemoryStore::new(), PriceTable::new())
    ///     // A key's metadata are its principal's attributes.
    ///     .add_budget(|caller| {
    ///         let team = caller.attribute("team");
    ///         team.map(|team| BudgetId::new(&format!("team:{team}"))).transpose()
    ///     });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn add_budget(
        self,
        of: impl Fn(&Principal) -> Result<Option<BudgetId>, InvalidId> + Send + Sync + 'static,
    ) -> Self {
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.payer.budgets.push(Arc::new(of))),
        }
    }

    /// Another source of time.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self {
            gate: self
                .gate
                .map_policy(|policy| Arc::make_mut(&mut policy.shared).clock = clock),
        }
    }

    fn terms(self, change: impl FnOnce(&mut Terms)) -> Self {
        Self {
            gate: self
                .gate
                .map_policy(|policy| change(&mut Arc::make_mut(&mut policy.shared).terms)),
        }
    }

    pub(crate) fn into_gate(self) -> Gate<SpendingLimitPolicy> {
        self.gate
    }
}

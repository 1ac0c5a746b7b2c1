//! The layer and its settings.

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
        usage::{Expiry, Hold, Tags},
    },
    guard::{self, Gate},
    store::Ledger,
    wire::RequestHead,
};

/// Charges for each request. See the [module](super).
///
/// # What a client can bring about
/// - It can disconnect while its answer streams: see
///   [`disconnected_calls`](Self::disconnected_calls).
/// - It can disconnect before there is an answer. By default that costs what the handler had
///   counted or set by then: nothing, for most. A provider that bills what its client no longer
///   waits for is paid by nobody then. If yours does, set
///   [`unanswered_calls`](Self::unanswered_calls) to [`Charging::Hold`]. A handler that counts
///   **all** of its call's tokens itself may report the input before it asks the provider
///   ([`Charge::add_input_tokens`](crate::Charge::add_input_tokens)). Where tokens are read from
///   the answer it must not: its count replaces what is read, so that the output would be free.
/// - It can break off its request's body while a handler reads it and streams the answer, so that
///   the handler's stream ends with an error after part of it was delivered. By default that costs
///   nothing, like any failure. If handlers stream while they read, set
///   [`broken_streams`](Self::broken_streams) to [`Charging::Counted`]. In gRPC a message that
///   can't be read has the same effect: the stream ends with a status other than OK in its
///   trailers.
/// - It can ask for an upgrade (101, or an answer to CONNECT). What goes over the connection then
///   is not a body, and isn't seen here: the call is settled at the head of its answer, by what was
///   reported or counted until then. Don't price such a route by tokens or bytes; use a flat price,
///   or limit the number of connections.
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
                        unanswered: None,
                        missing: MissingUsage::ChargeHold,
                        headers: CostHeaders::Off,
                        lifetime: Hold::AS_LONG_AS_ITS_CALL,
                        expiry: Expiry::Release,
                    },
                    upgrade_warned: Arc::default(),
                    missing_log: Arc::default(),
                    overrun_log: Arc::default(),
                }),
                prices,
                answers: None,
                payer: Payer::default(),
            }),
        }
    }

    /// How long a call may go on without a sign of life before its hold is resolved without it;
    /// unlimited by default. A body that keeps sending frames keeps its hold. A cost that is
    /// reported after the hold was resolved is not charged any more, so combine this with
    /// [`Expiry::Charge`], and make it longer than any request takes. Less than a second
    /// ([`Hold::LIFETIME_MIN`]) counts as a second.
    #[must_use]
    pub fn hold_lifetime(self, lifetime: Duration) -> Self {
        self.terms(|terms| terms.lifetime = lifetime.max(Hold::LIFETIME_MIN))
    }

    /// What happens to a hold that is never settled, because its process died or its lifetime is
    /// over; released by default.
    #[must_use]
    pub fn expired_holds(self, expiry: Expiry) -> Self {
        self.terms(|terms| terms.expiry = expiry)
    }

    /// What a call costs if the handler or its body ended with an error or a panic; nothing by
    /// default. An answer of 400 or above never costs anything. Where the cost is read from the
    /// [body](crate::CostSource::Body), an answer that is an `error`, or whose first event is one,
    /// has failed too, unless it counts what all of it used.
    #[must_use]
    pub fn failed_calls(self, charging: Charging) -> Self {
        self.terms(|terms| terms.failed = charging)
    }

    /// What a call costs if its answer ends with an error, a panic, or a failure in gRPC trailers
    /// after part of its body was sent; by default the same as
    /// [`failed_calls`](Self::failed_calls). If its own body is read meanwhile, a client can cause
    /// this by breaking that off, and would get what was delivered for free.
    ///
    /// Unless set, an `error` in the last event, after others, costs what was counted by then
    /// ([`Charging::Counted`]): the body itself ended well, and the answer may have been nearly
    /// whole.
    #[must_use]
    pub fn broken_streams(self, charging: Charging) -> Self {
        self.terms(|terms| terms.broken = Some(charging))
    }

    /// What a call costs if its client disconnected, or a timeout further out cut it off; what was
    /// counted by default, or for a token price a token for each byte that the model wrote. If a
    /// model reasons without showing it, choose [`Charging::Hold`]: it may have written more than
    /// can be seen.
    #[must_use]
    pub fn disconnected_calls(self, charging: Charging) -> Self {
        self.terms(|terms| terms.disconnected = charging)
    }

    /// What a call costs if its client disconnected before there was an answer, or a timeout
    /// further out cut it off; by default the same as
    /// [`disconnected_calls`](Self::disconnected_calls).
    #[must_use]
    pub fn unanswered_calls(self, charging: Charging) -> Self {
        self.terms(|terms| terms.unanswered = Some(charging))
    }

    /// What a call costs if its usage was not reported; the hold by default. The call's usage row
    /// is marked, and the first such call of each route is logged.
    #[must_use]
    pub fn missing_usage(self, missing: MissingUsage) -> Self {
        self.terms(|terms| terms.missing = missing)
    }

    /// Sends cost headers to clients, in dollars: `x-cost-held`, `x-cost` if it is known before the
    /// body, and `x-balance-remaining` and `x-budget-remaining` as of right after the hold. An
    /// answer that is [repeated](Self::idempotency_keys) has the first two, of the call that was
    /// paid for, and always its cost.
    #[must_use]
    pub fn cost_headers(self) -> Self {
        self.terms(|terms| terms.headers = CostHeaders::On)
    }

    /// Honours `Idempotency-Key`: a client's retry is charged once. Free routes ignore the header.
    #[must_use]
    pub fn idempotency_keys(self, keys: IdempotencyKeys) -> Self {
        let answers = Some(Answers::new(keys));
        Self {
            gate: self.gate.map_policy(|policy| policy.answers = answers),
        }
    }

    /// Which account pays for a caller, if not the principal's own: say its tenant's. A name that
    /// is not a valid id is refused (403).
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

    /// Adds a budget of the account that must cover a call besides the principal's own (its key's):
    /// say its team's. All are held in one step, or none. A name that is not a valid id is refused
    /// (403).
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
        self.add_budget_by(move |_, principal| of(principal))
    }

    /// Like [`add_budget`](Self::add_budget), for a budget that the request chooses together with
    /// its caller: say by a header that names a project. Its limits are those that
    /// [`set_limits`](Ledger::set_limits) gave the account's budget of that name; a name without
    /// limits limits nothing, and its spending is counted all the same. So name only what the
    /// caller may use and what has limits, and refuse the rest: an [`InvalidId`] is answered with
    /// 403. Names that clients make up would also fill the ledger.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::convert::Infallible;
    /// use http::{Request, Response};
    /// use tollgate::{
    ///     CredentialKind, Price, PriceTable, Principal, SpendingLimitLayer, budget::SpendingLimits,
    ///     store::{AccountId, BudgetId, InvalidId, Ledger, MemoryStore}, usage::Credit,
    /// };
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let (store, ann) = (MemoryStore::new(), AccountId::new("ann")?);
    /// store.credit(Credit { account: ann.clone(), amount: "1.00".parse()?, reference: "first".into() }).await?;
    /// let two_cents = SpendingLimits { daily: Some("0.02".parse()?), ..SpendingLimits::default() };
    /// store.set_limits(&ann, &BudgetId::new("project:alpha")?, two_cents).await?;
    ///
    /// let prices = PriceTable::new().route("GET", "/answer", Price::flat("0.02".parse()?))?;
    /// let layer = SpendingLimitLayer::new(store, prices).add_budget_by(|head, caller| {
    ///     let project = head.headers.get("x-project").and_then(|name| name.to_str().ok());
    ///     let Some(project) = project else { return Ok(None) };
    ///     match (caller.subject(), project) {
    ///         ("ann", "alpha" | "beta") => BudgetId::new(&format!("project:{project}")).map(Some),
    ///         _ => Err(InvalidId),
    ///     }
    /// });
    /// let answer = service_fn(async |_| Ok::<_, Infallible>(Response::new("42".to_owned())));
    /// let service = layer.layer(answer);
    /// let ask = async |project: &str| {
    ///     let mut request = Request::get("/answer").header("x-project", project).body(()).unwrap();
    ///     request.extensions_mut().insert(Principal::builder("ann", CredentialKind::ApiKey).build());
    ///     service.clone().oneshot(request).await.unwrap().status()
    /// };
    /// assert_eq!(ask("alpha").await, 200);
    /// assert_eq!(ask("alpha").await, 402);
    /// assert_eq!(ask("beta").await, 200);
    /// assert_eq!(ask("someone-elses").await, 403);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn add_budget_by(
        self,
        of: impl Fn(&RequestHead<'_>, &Principal) -> Result<Option<BudgetId>, InvalidId>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.payer.budgets.push(Arc::new(of))),
        }
    }

    /// Notes [tags](Tags) in the usage rows of calls, by the request's head and its caller: the
    /// customer or the feature that a call is for. The handler may add others
    /// ([`Charge::tag`](crate::Charge::tag)), which come first where there are more than a row
    /// keeps. They decide nothing. Where they come from the client, check them: they are stored as
    /// they are, within their bounds.
    ///
    /// ```
    /// use tollgate::{PriceTable, SpendingLimitLayer, store::MemoryStore, usage::Tags};
    ///
    /// let layer = SpendingLimitLayer::new(MemoryStore::new(), PriceTable::new())
    ///     .tags(|_, caller| match caller.attribute("customer") {
    ///         Some(customer) => Tags::new().with("customer", customer),
    ///         None => Tags::new(),
    ///     });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn tags(
        self,
        of: impl Fn(&RequestHead<'_>, &Principal) -> Tags + Send + Sync + 'static,
    ) -> Self {
        Self {
            gate: self
                .gate
                .map_policy(|policy| policy.payer.tags = Some(Arc::new(of))),
        }
    }

    /// Sets another source of time.
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

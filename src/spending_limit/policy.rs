//! Before the request: find the price, hold the money.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    Charge, Price, PriceTable, SpendingPermit,
    open_hold::{OpenCall, Reservation},
    price::{Priced, PricedRoute},
};
use crate::{
    domain::{
        books::HoldRefusal,
        clock::{Clock, SystemClock},
        denial::{Denial, DenialKind},
        money::Money,
        principal::Principal,
        usage::{Call, Expiry, Hold, HoldRequest},
    },
    guard::{self, Decision, Gate, Policy, Verdict},
    store::{Ledger, StoreError},
    wire::{RequestHead, RequestId},
};

/// Charges for each request. See the [module](super).
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
                ledger: Arc::new(ledger),
                prices,
                lifetime: Duration::from_secs(3_600),
                clock: SystemClock::shared(),
            }),
        }
    }

    /// How long a call may take before its hold is given back without it; an hour unless set.
    #[must_use]
    pub fn hold_lifetime(self, lifetime: Duration) -> Self {
        Self {
            gate: self.gate.map_policy(|policy| policy.lifetime = lifetime),
        }
    }

    /// Another source of time.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self {
            gate: self.gate.map_policy(|policy| policy.clock = clock),
        }
    }

    pub(crate) fn into_policy(self) -> SpendingLimitPolicy {
        self.gate.policy().clone()
    }
}

/// The decision of a [`SpendingLimitLayer`].
#[derive(Clone)]
pub struct SpendingLimitPolicy {
    ledger: Arc<dyn Ledger>,
    prices: PriceTable,
    lifetime: Duration,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for SpendingLimitPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpendingLimitPolicy")
            .field("prices", &self.prices)
            .finish_non_exhaustive()
    }
}

impl Policy for SpendingLimitPolicy {
    type Permit = SpendingPermit;

    fn name(&self) -> &'static str {
        "spending_limit"
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<SpendingPermit> {
        match self.prepare(head) {
            Err(denial) => Decision::Ready(Verdict::Refuse(denial)),
            Ok((call, route)) if route.price.is_free() => {
                let open = self.open(call, Reservation::Free, route.price);
                Decision::Ready(Verdict::Admit(SpendingPermit::new(open)))
            }
            Ok((call, route)) => self.hold(call, route, head),
        }
    }
}

impl SpendingLimitPolicy {
    fn prepare(&self, head: &RequestHead<'_>) -> Result<(OpenCall, &PricedRoute), Denial> {
        let route = match self.prices.find(head) {
            Priced::Route(route) => route,
            Priced::OtherMethods => {
                return Err(
                    Denial::new(DenialKind::MethodNotAllowed).because("no price for the method")
                );
            }
            Priced::Unknown => {
                return Err(Denial::new(DenialKind::NotFound).because("no price for the path"));
            }
        };
        let principal = head.extensions.get::<Principal>().ok_or_else(|| {
            Denial::new(DenialKind::CredentialMissing)
                .because("no principal: the layer must stand inside an authenticating one")
        })?;
        let account = principal.require_account()?;
        let request_id = match head.request_id() {
            Some(id) => Arc::clone(id.shared()),
            None => Arc::clone(RequestId::generate().shared()),
        };
        let call = Call {
            request_id,
            account: account.clone(),
            principal: Arc::clone(principal.shared_subject()),
            key: principal.key().cloned(),
            route: Arc::clone(&route.name),
            started_at: self.clock.now(),
        };
        let budgets = Arc::clone(principal.budgets());
        Ok((
            OpenCall {
                call,
                budgets,
                started: self.clock.elapsed(),
            },
            route,
        ))
    }

    fn hold(
        &self,
        open: OpenCall,
        route: &PricedRoute,
        head: &RequestHead<'_>,
    ) -> Decision<SpendingPermit> {
        let price = route.price;
        let Some(amount) = price.hold(head.headers) else {
            let denial =
                Denial::new(DenialKind::TooLarge).because("no amount could cover the request");
            return Decision::Ready(Verdict::Refuse(denial));
        };
        let request = HoldRequest {
            call: open.call.clone(),
            budgets: Arc::clone(&open.budgets),
            amount,
            lifetime: self.lifetime,
            expiry: Expiry::default(),
            idempotency: None,
        };
        let policy = self.clone();
        match self.ledger.hold(request).into_ready() {
            Ok(answer) => Decision::Ready(policy.judge(answer, open, price, amount)),
            Err(pending) => Decision::pending(async move {
                let answer = pending.await;
                policy.judge(answer, open, price, amount)
            }),
        }
    }

    fn judge(
        &self,
        answer: Result<Result<Hold, HoldRefusal>, StoreError>,
        open: OpenCall,
        price: Price,
        amount: Money,
    ) -> Verdict<SpendingPermit> {
        match answer {
            Ok(Ok(hold)) => {
                let open = self.open(open, Reservation::Held(hold), price);
                Verdict::Admit(SpendingPermit::new(open))
            }
            Ok(Err(refusal)) => {
                let kind = match refusal {
                    HoldRefusal::LimitReached(_) => DenialKind::SpendingLimitReached,
                    _ => DenialKind::InsufficientCredits,
                };
                let denial = Denial::new(kind).price(amount).because(refusal.to_string());
                Verdict::Refuse(denial)
            }
            Err(error) => Verdict::Refuse(
                Denial::new(DenialKind::Unavailable).because(format!("the ledger failed: {error}")),
            ),
        }
    }

    fn open(
        &self,
        open: OpenCall,
        reservation: Reservation,
        price: Price,
    ) -> super::open_hold::OpenHold {
        super::open_hold::OpenHold::new(
            open,
            reservation,
            price,
            Charge::new(),
            Arc::clone(&self.ledger),
            Arc::clone(&self.clock),
        )
    }
}

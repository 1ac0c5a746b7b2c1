//! Before the request: find the price, hold the money.

use std::{fmt, sync::Arc};

use super::{
    Charge, Price, PriceTable, SpendingPermit,
    idempotency::{self, Answers},
    open_hold::{OpenCall, OpenHold, Reservation, Seen, half},
    table::Priced,
    terms::Terms,
};
use crate::{
    domain::{
        AccountId, BudgetId, InvalidId,
        books::HoldRefusal,
        clock::Clock,
        denial::{Denial, DenialKind},
        money::Money,
        principal::Principal,
        usage::{Call, Hold, HoldRequest, Idempotency},
    },
    guard::{Decision, Policy, Verdict},
    store::{Ledger, StoreError},
    wire::{RequestHead, RequestId},
};

/// The decision of a [`SpendingLimitLayer`](super::SpendingLimitLayer).
#[derive(Clone)]
pub struct SpendingLimitPolicy {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) prices: PriceTable,
    pub(super) terms: Terms,
    pub(super) answers: Option<Answers>,
    pub(super) payer: Payer,
    pub(super) clock: Arc<dyn Clock>,
}

type AccountOf = dyn Fn(&Principal) -> Result<AccountId, InvalidId> + Send + Sync;
type BudgetOf = dyn Fn(&Principal) -> Result<Option<BudgetId>, InvalidId> + Send + Sync;

/// Who pays, where that isn't the principal alone.
#[derive(Clone, Default)]
pub(super) struct Payer {
    pub(super) account: Option<Arc<AccountOf>>,
    pub(super) budgets: Vec<Arc<BudgetOf>>,
}

impl Payer {
    fn account(&self, principal: &Principal) -> Result<AccountId, Denial> {
        match &self.account {
            None => principal.require_account().cloned(),
            Some(of) => of(principal).map_err(|_| nameless()),
        }
    }

    fn budgets(&self, principal: &Principal) -> Result<Arc<[BudgetId]>, Denial> {
        if self.budgets.is_empty() {
            return Ok(Arc::clone(principal.budgets()));
        }
        let mut budgets = principal.budgets().to_vec();
        for of in &self.budgets {
            budgets.extend(of(principal).map_err(|_| nameless())?);
        }
        Ok(budgets.into())
    }
}

fn nameless() -> Denial {
    Denial::new(DenialKind::NotPermitted).because("the caller's account or budget has no name")
}

impl fmt::Debug for SpendingLimitPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpendingLimitPolicy")
            .field("prices", &self.prices)
            .field("terms", &self.terms)
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
            Ok(wish) if wish.price.is_free() => {
                let open = self.open(wish, Reservation::Free);
                Decision::Ready(Verdict::Admit(SpendingPermit::new(open)))
            }
            Ok(wish) => self.hold(wish),
        }
    }
}

/// A request that may be served if it is paid for.
struct Wish {
    open: OpenCall,
    price: Price,
    amount: Money,
    idempotency: Option<Idempotency>,
}

impl SpendingLimitPolicy {
    fn prepare(&self, head: &RequestHead<'_>) -> Result<Wish, Denial> {
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
        let price = route.price(head).ok_or_else(|| {
            Denial::new(DenialKind::Internal).because("the price is negative, or of no models")
        })?;
        let amount = price.hold(head.headers).ok_or_else(|| {
            Denial::new(DenialKind::TooLarge).because("no amount could cover the request")
        })?;
        let idempotency = match &self.answers {
            Some(answers) if !price.is_free() => answers.read(head, principal)?,
            _ => None,
        };
        let account = self.payer.account(principal)?;
        let request_id = match head.request_id() {
            Some(id) => Arc::clone(id.shared()),
            None => Arc::clone(RequestId::generate().shared()),
        };
        let call = Call {
            request_id,
            account,
            principal: Arc::clone(principal.shared_subject()),
            key: principal.key().cloned(),
            route: Arc::clone(&route.name),
            started_at: self.clock.now(),
        };
        Ok(Wish {
            open: OpenCall {
                call,
                budgets: self.payer.budgets(principal)?,
                started: self.clock.elapsed(),
            },
            price,
            amount,
            idempotency,
        })
    }

    fn hold(&self, wish: Wish) -> Decision<SpendingPermit> {
        let request = HoldRequest {
            call: wish.open.call.clone(),
            budgets: Arc::clone(&wish.open.budgets),
            amount: wish.amount,
            lifetime: self.terms.lifetime,
            expiry: self.terms.expiry,
            idempotency: wish.idempotency.clone(),
        };
        match self.ledger.hold(request).into_ready() {
            Ok(answer) => Decision::Ready(self.judge(answer, wish)),
            Err(pending) => {
                let policy = self.clone();
                Decision::pending(async move { policy.judge(pending.await, wish) })
            }
        }
    }

    fn judge(
        &self,
        answer: Result<Result<Hold, HoldRefusal>, StoreError>,
        wish: Wish,
    ) -> Verdict<SpendingPermit> {
        match answer {
            Ok(Ok(hold)) => {
                let open = self.open(wish, Reservation::Held(hold));
                Verdict::Admit(SpendingPermit::new(open))
            }
            Ok(Err(refusal)) => self.refused(refusal, wish),
            Err(error) => Verdict::Refuse(
                Denial::new(DenialKind::Unavailable).because(format!("the ledger failed: {error}")),
            ),
        }
    }

    fn refused(&self, refusal: HoldRefusal, wish: Wish) -> Verdict<SpendingPermit> {
        if refusal == HoldRefusal::AlreadySettled
            && let (Some(answers), Some(idempotency)) = (&self.answers, &wish.idempotency)
            && let Some(answer) = answers.find(wish.open.call.account, idempotency)
        {
            return Verdict::Answer(Box::new(answer));
        }
        if let Some(denial) = idempotency::denial(refusal) {
            return Verdict::Refuse(denial);
        }
        let kind = match refusal {
            HoldRefusal::LimitReached(_) => DenialKind::SpendingLimitReached,
            _ => DenialKind::InsufficientCredits,
        };
        let denial = Denial::new(kind)
            .price(wish.amount)
            .because(refusal.to_string());
        Verdict::Refuse(denial)
    }

    fn open(&self, wish: Wish, reservation: Reservation) -> OpenHold {
        let recording = match (&self.answers, wish.idempotency) {
            (Some(answers), Some(idempotency)) => {
                let account = wish.open.call.account.clone();
                Some(Box::new(answers.recording(account, idempotency)))
            }
            _ => None,
        };
        let extend_at = wish.open.started.saturating_add(half(self.terms.lifetime));
        OpenHold {
            open: Some((wish.open, reservation)),
            price: wish.price,
            charge: Charge::new(),
            terms: self.terms,
            seen: Seen::default(),
            recording,
            extend_at,
            ledger: Arc::clone(&self.ledger),
            clock: Arc::clone(&self.clock),
        }
    }
}

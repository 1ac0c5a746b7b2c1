//! Before the request: find the price, hold the money.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use http::Extensions;

use super::{
    Charge, Price, PriceTable, SpendingPermit, body_digest,
    idempotency::{self, Answers},
    missing::MissingUsageLog,
    open_hold::{Noted, OpenHold, Reservation},
    overrun::OverrunLog,
    price::{Demand, RequestLength},
    requested_use::{self, RequestedUse},
    table::Priced,
    terms::Terms,
};
use crate::{
    domain::{
        AccountId, BudgetId, InvalidId, RequestId,
        books::HoldRefusal,
        budget::Budgets,
        clock::{Clock, Timestamp},
        credential::CredentialKind,
        denial::{Denial, DenialKind},
        money::Money,
        principal::Principal,
        usage::{Call, Hold, HoldRequest, Idempotency, Tags},
    },
    guard::{Decision, Policy, Verdict},
    store::{Ledger, StoreError},
    wire::RequestHead,
};

/// `Retry-After` for an account whose calls under way leave no place or no money for another: one
/// of them may end at any moment.
const ONE_CALL: Duration = Duration::from_secs(1);

/// The decision of a [`SpendingLimitLayer`](super::SpendingLimitLayer).
#[derive(Clone)]
pub struct SpendingLimitPolicy {
    pub(super) shared: Arc<Shared>,
    pub(super) prices: PriceTable,
    pub(super) answers: Option<Answers>,
    pub(super) payer: Payer,
}

/// What every call needs until it ends.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) terms: Terms,
    /// Whether the warning about upgrades has been logged.
    pub(super) upgrade_warned: Arc<AtomicBool>,
    pub(super) missing_log: Arc<MissingUsageLog>,
    pub(super) overrun_log: Arc<OverrunLog>,
}

type AccountOf = dyn Fn(&Principal) -> Result<AccountId, InvalidId> + Send + Sync;
type BudgetOf =
    dyn Fn(&RequestHead<'_>, &Principal) -> Result<Option<BudgetId>, InvalidId> + Send + Sync;

type TagsOf = dyn Fn(&RequestHead<'_>, &Principal) -> Tags + Send + Sync;

/// Who pays, if that isn't just the principal, and for what.
#[derive(Clone, Default)]
pub(super) struct Payer {
    pub(super) account: Option<Arc<AccountOf>>,
    pub(super) budgets: Vec<Arc<BudgetOf>>,
    pub(super) tags: Option<Arc<TagsOf>>,
}

impl Payer {
    fn account(&self, principal: &Principal) -> Result<AccountId, Denial> {
        match &self.account {
            None => principal.require_account().cloned(),
            Some(of) => of(principal).map_err(|_| invalid_id()),
        }
    }

    fn budgets(&self, head: &RequestHead<'_>, principal: &Principal) -> Result<Budgets, Denial> {
        if self.budgets.is_empty() {
            return Ok(principal.shared_budgets());
        }
        let mut budgets = principal.budgets().to_vec();
        for of in &self.budgets {
            budgets.extend(of(head, principal).map_err(|_| invalid_id())?);
        }
        Ok(budgets.into())
    }

    fn tags(&self, head: &RequestHead<'_>, principal: &Principal) -> Tags {
        let of = self.tags.as_ref();
        of.map_or_else(Tags::new, |of| of(head, principal))
    }
}

/// Whether the call counts in more than its key's own budget.
fn noted(budgets: &Budgets, principal: &Principal) -> Noted {
    match budgets.as_slice() {
        [] => Noted::No,
        [only] if principal.lineage() == Some(only) => Noted::No,
        _ => Noted::Yes,
    }
}

fn invalid_id() -> Denial {
    Denial::new(DenialKind::NotPermitted).because("the caller's account or budget has no name")
}

impl fmt::Debug for SpendingLimitPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpendingLimitPolicy")
            .field("prices", &self.prices)
            .field("terms", &self.shared.terms)
            .finish_non_exhaustive()
    }
}

impl Policy for SpendingLimitPolicy {
    type Permit = SpendingPermit;

    fn name(&self) -> &'static str {
        "spending_limit"
    }

    fn mark_unadmitted(&self, extensions: &mut Extensions) {
        extensions.get_or_insert_with(Charge::new);
    }

    fn decide(&self, head: &RequestHead<'_>) -> Decision<SpendingPermit> {
        match self.prepare(head) {
            Err(denial) => Decision::Ready(Verdict::Refuse(denial)),
            Ok(Prepared { call, intent, .. }) if intent.open.price.is_free() => {
                let permit = self.open(intent, Reservation::Free(call));
                Decision::Ready(Verdict::Admit(permit))
            }
            Ok(prepared) => self.hold(prepared),
        }
    }
}

/// A call, and the budgets that must cover it.
struct Prepared {
    call: Call,
    budgets: Budgets,
    intent: HoldIntent,
}

/// What is still needed after the ledger has taken over the call.
struct HoldIntent {
    amount: Money,
    /// When the call began.
    at: Timestamp,
    /// The kind of credential that the caller used.
    credential: CredentialKind,
    /// The client's own name for the call, and the account it belongs to.
    named: Option<(AccountId, Idempotency)>,
    /// The call's final state, already in place; nothing is set aside yet.
    open: Box<OpenHold>,
}

/// What is known of a request that the price depends on.
fn demand<'a>(price: &Price, head: &RequestHead<'a>) -> Result<Demand<'a>, Denial> {
    if price.is_free() {
        return Ok(Demand::default());
    }
    // A body that can't be read is refused before money is held for it, whatever the price.
    let read = body_digest::read(head.extensions)?;
    if !price.is_by_request() {
        return Ok(Demand::default());
    }
    let demand = Demand {
        length: RequestLength::of(head.headers, read.map(|read| read.bytes)),
        asked: head.extensions.get::<RequestedUse>(),
    };
    price.admits(&demand)?;
    Ok(demand)
}

fn unpayable(demand: &Demand<'_>) -> Denial {
    let denial = match demand.asked {
        Some(_) => Denial::new(DenialKind::Malformed)
            .with_message("The request asks for more than any amount could pay"),
        None => Denial::new(DenialKind::TooLarge),
    };
    denial.because("no amount could cover the request")
}

impl SpendingLimitPolicy {
    fn prepare(&self, head: &RequestHead<'_>) -> Result<Prepared, Denial> {
        let route = match self.prices.find(head) {
            Priced::Route(route) => route,
            Priced::OtherMethods(methods) => {
                let denial = Denial::new(DenialKind::MethodNotAllowed);
                let denial = denial.because("no price for the method");
                return Err(denial.allowing(methods.names()));
            }
            Priced::Unknown => {
                return Err(Denial::new(DenialKind::NotFound).because("no price for the path"));
            }
        };
        let principal = head.extensions.get::<Principal>().ok_or_else(|| {
            Denial::new(DenialKind::CredentialMissing)
                .because("no principal: the layer must stand inside an authenticating one")
        })?;
        // Before any closure chooses a price or a budget by it.
        requested_use::require_readable(head.extensions)?;
        let price = route.price(head).ok_or_else(|| {
            Denial::new(DenialKind::Internal)
                .because("the price is negative, or has invalid model names or tiers")
        })?;
        let demand = demand(&price, head)?;
        let amount = price.hold(demand).ok_or_else(|| unpayable(&demand))?;
        let idempotency = match &self.answers {
            Some(answers) if !price.is_free() => answers.read(head, principal)?,
            _ => None,
        };
        let account = self.payer.account(principal)?;
        let named = idempotency.map(|idempotency| (account.clone(), idempotency));
        let request_id = match head.request_id() {
            Some(id) => id.clone(),
            None => RequestId::generate(),
        };
        let call = Call {
            request_id,
            account,
            principal: Arc::clone(principal.shared_subject()),
            key: principal.key().cloned(),
            route: Arc::clone(&route.name),
            started_at: self.shared.clock.now(),
        };
        let budgets = self.payer.budgets(head, principal)?;
        let mut open = OpenHold::unreserved(price, demand, Arc::clone(&self.shared));
        open.tags = self.payer.tags(head, principal);
        open.budgets = noted(&budgets, principal);
        let intent = HoldIntent {
            amount,
            at: call.started_at,
            credential: principal.credential(),
            named,
            open: Box::new(open),
        };
        Ok(Prepared {
            call,
            budgets,
            intent,
        })
    }

    fn hold(&self, prepared: Prepared) -> Decision<SpendingPermit> {
        let Prepared {
            call,
            budgets,
            intent,
        } = prepared;
        let named = intent.named.as_ref();
        let request = HoldRequest {
            call,
            budgets,
            amount: intent.amount,
            lifetime: self.shared.terms.lifetime,
            expiry: self.shared.terms.expiry,
            idempotency: named.map(|(_, idempotency)| idempotency.clone()),
        };
        match self.shared.ledger.hold(request).into_ready() {
            Ok(answer) => Decision::Ready(self.verdict(answer, intent)),
            Err(pending) => {
                let policy = self.clone();
                Decision::pending(async move { policy.verdict(pending.await, intent) })
            }
        }
    }

    fn verdict(
        &self,
        answer: Result<Result<Hold, HoldRefusal>, StoreError>,
        intent: HoldIntent,
    ) -> Verdict<SpendingPermit> {
        match answer {
            Ok(Ok(hold)) => Verdict::Admit(self.open(intent, Reservation::Held(hold))),
            Ok(Err(refusal)) => self.refused(refusal, &intent),
            Err(error) => Verdict::Refuse(
                Denial::new(DenialKind::Unavailable).because(format!("the ledger failed: {error}")),
            ),
        }
    }

    fn refused(&self, refusal: HoldRefusal, intent: &HoldIntent) -> Verdict<SpendingPermit> {
        if refusal == HoldRefusal::AlreadySettled
            && let (Some(answers), Some((account, idempotency))) = (&self.answers, &intent.named)
            && let Some(answer) =
                answers.find(account.clone(), idempotency, self.shared.clock.elapsed())
        {
            return Verdict::Answer(Box::new(answer));
        }
        if let Some(denial) = idempotency::denial(refusal) {
            return Verdict::Refuse(denial);
        }
        if refusal == HoldRefusal::TooManyOpen {
            let denial = Denial::new(DenialKind::RateLimited).because(refusal.to_string());
            return Verdict::Refuse(denial.retry_after(ONE_CALL));
        }
        let (kind, wait) = match refusal {
            HoldRefusal::LimitReached(_) => (DenialKind::SpendingLimitReached, None),
            HoldRefusal::OnlyHeld { limit: Some(_) } => {
                (DenialKind::SpendingLimitReached, Some(ONE_CALL))
            }
            HoldRefusal::OnlyHeld { limit: None } => {
                (DenialKind::InsufficientCredits, Some(ONE_CALL))
            }
            HoldRefusal::RollingLimitReached { wait } => (DenialKind::SpendingLimitReached, wait),
            _ => (DenialKind::InsufficientCredits, None),
        };
        let denial = Denial::new(kind)
            .of_credential(intent.credential)
            .because(refusal.to_string());
        // What is held for a price by use is the most that it can come to.
        let denial = if intent.open.price.is_by_use() {
            denial.price_at_most(intent.amount)
        } else {
            denial.price(intent.amount)
        };
        let denial = match refusal {
            HoldRefusal::OnlyHeld { .. } => denial.passing(),
            _ => denial,
        };
        let end = match refusal {
            HoldRefusal::LimitReached(window) => self.shared.ledger.window_end(window, intent.at),
            _ => None,
        };
        // Not as `Retry-After`: a client that obeys it would hang for hours, and money paid in or a
        // raised limit helps at once.
        let denial = match end {
            Some(end) => denial.limit_ending_at(end),
            None => denial,
        };
        Verdict::Refuse(match wait {
            Some(wait) => denial.retry_after(wait),
            None => denial,
        })
    }

    fn open(&self, intent: HoldIntent, reservation: Reservation) -> SpendingPermit {
        let HoldIntent {
            named, mut open, ..
        } = intent;
        open.open = Some(reservation);
        if let (Some(answers), Some((account, idempotency))) = (&self.answers, named) {
            let recording = answers.recording(account, idempotency, open.started);
            open.recording = Some(Box::new(recording));
        }
        SpendingPermit::new(open)
    }
}

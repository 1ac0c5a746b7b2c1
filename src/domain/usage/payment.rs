//! Payments into an account, corrections of them, and what moved.

use serde::Serialize;

use super::UsageEntry;
use crate::domain::{
    AccountId, BudgetId, RequestId, budget::Budgets, clock::Timestamp, money::Money,
};

/// The longest reference of a payment or a correction, in bytes.
const REFERENCE_LENGTH_MAX: usize = 255;

/// Whether a text can be the reference of a payment or a correction: 1 to 255 bytes. An empty one
/// names nothing, and a second one without a name would be taken for the first.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    (1..=REFERENCE_LENGTH_MAX).contains(&text.len())
}

/// A payment into an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credit {
    /// The account.
    pub account: AccountId,
    /// How much, above zero.
    pub amount: Money,
    /// Names the payment, in 1 to 255 bytes: the same reference again is the same payment, and is
    /// counted once. References are unique across all accounts.
    pub reference: String,
}

/// A correction of what was paid in: a refund, a chargeback, a gift.
///
/// It changes the balance alone, unless it names [budgets](Self::in_budget): then it is a refund,
/// and also lowers what they have spent, so that their limits leave room for it again. A budget is
/// never left with less than nothing spent.
///
/// ```
/// use tollgate::{
///     money::Money,
///     store::{AccountId, BudgetId, Ledger, MemoryStore, Page},
///     usage::Adjustment,
/// };
/// # use tollgate::{RequestId, clock::{Clock, SystemClock}, usage::{Call, Credit, Expiry, Hold, HoldRequest, Outcome, Settlement}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let ledger = MemoryStore::new();
/// # let (account, team) = (AccountId::new("ann")?, BudgetId::new("team:blue")?);
/// # let one: Money = "1".parse()?;
/// # ledger.credit(Credit { account: account.clone(), amount: one, reference: "first".into() }).await?;
/// # let hold = ledger.hold(HoldRequest {
/// #     call: Call {
/// #         request_id: RequestId::generate(), account: account.clone(), principal: "ann".into(), key: None,
/// #         route: "POST /jobs".into(), started_at: SystemClock::shared().now(),
/// #     },
/// #     budgets: team.clone().into(), amount: one, lifetime: Hold::AS_LONG_AS_ITS_CALL, expiry: Expiry::Release,
/// #     idempotency: None,
/// # }).await?.expect("it fits");
/// # ledger.settle(hold, Settlement::new(one, Outcome::Completed)).await?;
/// // A job failed after its call was charged.
/// let calls = ledger.usage(&account, Page::first(1)).await?;
/// let refund = Adjustment::new(account.clone(), "0.40".parse()?, "refund-of-job-7")
///     .in_budget(team.clone())
///     .of_call(&calls.items[0]);
/// ledger.adjust(refund).await?;
/// assert_eq!(ledger.balance(&account).await?.available(), "0.40".parse()?);
/// assert_eq!(ledger.budget(&account, &team).await?.total.settled, "0.60".parse()?);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it changes nothing until a ledger has it"]
pub struct Adjustment {
    /// The account.
    pub account: AccountId,
    /// How much: positive in the account's favour, negative against it. A refund is above zero.
    pub amount: Money,
    /// Names the correction, in 1 to 255 bytes: the same reference again is the same correction,
    /// and is booked once; with another amount, call or set of budgets it is refused. Payments and
    /// corrections share one set of references.
    pub reference: String,
    /// The budgets of the account to which it is given back; usually none. Without a
    /// [call](Self::of_call) it lowers what they have spent in the day and the month that are
    /// current, in all, and in a rolling window the oldest charges.
    pub budgets: Budgets,
    /// The call that it gives back, wholly or in part.
    pub call: Option<RefundedCall>,
}

/// The call of which something is given back, by its row in the usage log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefundedCall {
    /// The row's [position](UsageEntry::position).
    pub position: u64,
    /// The request's id, which must be that of the row.
    pub request_id: RequestId,
}

impl Adjustment {
    /// A correction of the balance alone.
    pub fn new(account: AccountId, amount: Money, reference: impl Into<String>) -> Self {
        Self {
            account,
            amount,
            reference: reference.into(),
            budgets: Budgets::default(),
            call: None,
        }
    }

    /// Gives it back to a budget of the account too: to its team's, or to its key's, which is named
    /// by the key's [lineage](crate::key::KeyRecord::lineage); at most 64 budgets. What a budget
    /// was given back by mistake can't be charged to it again.
    pub fn in_budget(mut self, budget: BudgetId) -> Self {
        let mut budgets = self.budgets.to_vec();
        if !budgets.contains(&budget) {
            budgets.push(budget);
        }
        self.budgets = budgets.into();
        self
    }

    /// Gives back what this call was charged, or part of it; [`UsageEntry::refund`] also names the
    /// budgets that the row tells of. It then counts in the windows in which
    /// the call did: a refund in the month after leaves that month's limit as it is. All refunds of
    /// one call give back at most what it was charged. Which budgets it counted in, the
    /// [budgets](Self::in_budget) must say; the row names them
    /// ([`UsageDetails::budgets`](super::UsageDetails::budgets)) where it was more than its key's.
    ///
    /// Wait a day with a call that its ledger resolved ([`Outcome::Abandoned`](super::Outcome)). If
    /// its process was alive, it is charged later only for what it cost beyond what was charged
    /// then, whether or not that was given back.
    pub fn of_call(mut self, row: &UsageEntry) -> Self {
        self.call = Some(RefundedCall {
            position: row.position,
            request_id: row.call.request_id.clone(),
        });
        self
    }

    /// Whether it gives back what was spent, rather than correct what was paid in.
    pub(crate) fn is_refund(&self) -> bool {
        self.call.is_some() || !self.budgets.is_empty()
    }

    /// The position of the call that it gives back.
    pub(crate) fn position(&self) -> Option<u64> {
        self.call.as_ref().map(|call| call.position)
    }

    /// The budgets as one text, a JSON list in order without repetitions; empty without any.
    pub(crate) fn budget_names(&self) -> String {
        let mut names: Vec<&str> = self.budgets.iter().map(BudgetId::as_str).collect();
        if names.is_empty() {
            return String::new();
        }
        names.sort_unstable();
        names.dedup();
        serde_json::Value::from(names).to_string()
    }
}

/// What a reference stands for.
#[derive(Clone, Debug)]
pub(crate) struct PaymentMeaning {
    /// Whose money was moved.
    pub(crate) account: AccountId,
    /// How much.
    pub(crate) amount: Money,
    /// The position of the call that was given back.
    pub(crate) call: Option<u64>,
    /// As [`Adjustment::budget_names`] tells them. `None` in a row from before they were stored.
    pub(crate) budgets: Option<String>,
}

impl PaymentMeaning {
    pub(crate) fn of(change: &Adjustment) -> Self {
        Self {
            account: change.account.clone(),
            amount: change.amount,
            call: change.position(),
            budgets: Some(change.budget_names()),
        }
    }

    /// Whether this is the same movement of money again.
    pub(crate) fn is_of(&self, change: &Adjustment) -> bool {
        let budgets = self.budgets.as_ref();
        self.account == change.account
            && self.amount == change.amount
            && self.call == change.position()
            && budgets.is_none_or(|budgets| *budgets == change.budget_names())
    }
}

impl UsageEntry {
    /// Gives back `amount` of what this call was charged, in the windows in which that counted, and
    /// to the budgets that the row [notes](super::UsageDetails::budgets); where it notes none, to
    /// the one that is named like its key.
    ///
    /// A key that was made by a rotation counts in the budget of its first one. A row doesn't tell
    /// that one if it is the only one: name it, by [`in_budget`](Adjustment::in_budget) with the
    /// key's [lineage](crate::key::KeyRecord::lineage), wherever keys are rotated. For a key that
    /// never was, that is the same budget, and counts once.
    ///
    /// ```
    /// # use tollgate::{money::Money, store::{AccountId, Ledger, MemoryStore, StoreError}};
    /// # use tollgate::key::KeyRecord;
    /// /// Gives a call back, by the position of its row.
    /// async fn give_back(
    ///     ledger: &MemoryStore, account: &AccountId, position: u64, key: Option<KeyRecord>,
    /// ) -> Result<bool, StoreError> {
    ///     let Some(row) = ledger.usage_at(account, position).await? else {
    ///         return Ok(false); // Its row was pruned.
    ///     };
    ///     let mut refund = row.refund(row.settlement.charged, format!("refund-of-{position}"));
    ///     if let Some(key) = key {
    ///         refund = refund.in_budget(key.lineage);
    ///     }
    ///     ledger.adjust(refund).await?;
    ///     Ok(true)
    /// }
    /// ```
    pub fn refund(&self, amount: Money, reference: impl Into<String>) -> Adjustment {
        let refund = Adjustment::new(self.call.account.clone(), amount, reference).of_call(self);
        let noted = self.settlement.details.as_deref();
        let noted = noted.map_or(&[][..], |details| &details.budgets);
        let key = self.call.key.as_ref().filter(|_| noted.is_empty());
        let own = key.and_then(|key| BudgetId::new(key.as_str()).ok());
        let all = noted.iter().cloned().chain(own);
        all.fold(refund, Adjustment::in_budget)
    }
}

impl From<Credit> for Adjustment {
    fn from(credit: Credit) -> Self {
        Self::new(credit.account, credit.amount, credit.reference)
    }
}

/// One movement of money in an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transaction {
    /// Its position in the log; later ones have larger ones.
    pub position: u64,
    /// When.
    pub at: Timestamp,
    /// How much: positive if paid in, negative if charged or corrected.
    pub amount: Money,
    /// The payment's or the correction's reference, or the id of the request that was charged.
    pub reference: String,
    /// The route that was charged; `None` for a payment or a correction.
    pub route: Option<String>,
    /// The id of the request that this gives back; `None` for everything else, and absent when
    /// serialized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refunded: Option<String>,
}

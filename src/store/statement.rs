//! What happened to an account's money in a period.

use serde::Serialize;

use super::{AccountId, Ledger, Page, StoreError, StoreErrorKind};
use crate::domain::{clock::Timestamp, money::Money, usage::Transaction};

/// Movements that are asked for at once.
const PAGE: u16 = 1_000;

/// Movements that are looked at, at most.
const MOVEMENTS_MAX: usize = 1_000_000;

/// How often the newest movement and the balance are read until they are of one moment.
const ATTEMPTS: u32 = 32;

/// The money of an account over a period: what there was, what came, what went, and what there is.
///
/// `opening` + `paid_in` − `taken_back` − `charged` = `closing`, to the nano-dollar. A movement counts where it stands in
/// the log: the period begins after the last movement from before `from`, and ends before the first from `to` on. What
/// is held, and the credit line, are no movements.
///
/// ```
/// use tollgate::{
///     clock::Timestamp,
///     money::Money,
///     store::{AccountId, Ledger, MemoryStore, Statement},
///     usage::Credit,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let account = AccountId::new("user-7")?;
/// let payment = Credit {
///     account: account.clone(),
///     amount: Money::from_nanos(5_000_000_000),
///     reference: "payment-1".to_owned(),
/// };
/// store.credit(payment).await?;
/// let all = Statement::read(&store, &account, Timestamp::UNIX_EPOCH, Timestamp::MAX).await?;
/// assert_eq!((all.opening.to_string(), all.closing.to_string()), ("$0.0000".into(), "$5.0000".into()));
/// assert!(all.is_whole);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Statement {
    /// Whose money.
    pub account: AccountId,
    /// When it begins.
    pub from: Timestamp,
    /// When it ends; that moment is no part of it.
    pub to: Timestamp,
    /// `false`: the log has forgotten charges from the beginning of the period, so the statement begins later than was
    /// asked for, with the oldest charge that is remembered. What it says is right all the same.
    pub is_whole: bool,
    /// What there was at the beginning: all that was paid in before, less all charges and corrections.
    pub opening: Money,
    /// Payments and corrections for the account.
    pub paid_in: Money,
    /// Corrections against it.
    pub taken_back: Money,
    /// What calls cost.
    pub charged: Money,
    /// What there was at the end.
    pub closing: Money,
}

impl Statement {
    /// Reads the statement of an account from `from` on, until before `to`.
    ///
    /// # Errors
    /// `Refused` when the period ends before it begins, or more than a million movements lie behind its
    /// beginning; `NotFound` when the log has forgotten the period; `Busy` when the account moved each time that it was
    /// looked at; and whatever the ledger fails with.
    pub async fn read(
        ledger: &(impl Ledger + ?Sized),
        account: &AccountId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Self, StoreError> {
        if from > to {
            let text = "the period ends before it begins";
            return Err(StoreError::new(StoreErrorKind::Refused, text));
        }
        let (total, mut page) = snapshot(ledger, account).await?;
        let mut walk = Walk::new(from, to);
        loop {
            for moved in &page.items {
                walk.pass(moved)?;
            }
            match page.next_cursor {
                Some(cursor) if !walk.is_done => {
                    let next = Page::first(PAGE).after(cursor);
                    page = ledger.transactions(account, next).await?;
                }
                _ => break,
            }
        }
        walk.statement(account, total)
    }
}

/// What there is, and the newest movements, of one moment: nothing moved between.
async fn snapshot(
    ledger: &(impl Ledger + ?Sized),
    account: &AccountId,
) -> Result<(i128, super::Paged<Transaction>), StoreError> {
    for _ in 0..ATTEMPTS {
        let page = ledger.transactions(account, Page::first(PAGE)).await?;
        let balance = ledger.balance(account).await?;
        let after = ledger.transactions(account, Page::first(1)).await?;
        let newest = |items: &[Transaction]| items.first().map(|moved| moved.position);
        if newest(&page.items) == newest(&after.items) {
            let deposited = i128::from(balance.deposited.nanos());
            let total = deposited.saturating_sub(i128::from(balance.settled.nanos()));
            return Ok((total, page));
        }
    }
    let text = "the account moves too fast for a statement";
    Err(StoreError::new(StoreErrorKind::Busy, text))
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    after: i128,
    paid_in: i128,
    taken_back: i128,
    charged: i128,
    before: i128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    After,
    Within,
    Before,
}

/// The log from its newest movement backwards.
struct Walk {
    from: Timestamp,
    to: Timestamp,
    place: Place,
    sums: Sums,
    passed: usize,
    /// The oldest charge that was passed, and the sums down to it: whatever is forgotten is older.
    sure: Option<(Timestamp, Place, Sums)>,
    /// A charge from before the period was passed: nothing of the period is forgotten.
    is_done: bool,
}

impl Walk {
    fn new(from: Timestamp, to: Timestamp) -> Self {
        Self {
            from,
            to,
            place: Place::After,
            sums: Sums::default(),
            passed: 0,
            sure: None,
            is_done: false,
        }
    }

    fn pass(&mut self, moved: &Transaction) -> Result<(), StoreError> {
        self.passed = self.passed.saturating_add(1);
        if self.passed > MOVEMENTS_MAX {
            let text = "too many movements for one statement";
            return Err(StoreError::new(StoreErrorKind::Refused, text));
        }
        let own = if moved.at < self.from {
            Place::Before
        } else if moved.at < self.to {
            Place::Within
        } else {
            Place::After
        };
        // Never back: of two moments that a clock which was set back has mixed, the log's order counts.
        self.place = self.place.max(own);
        let amount = i128::from(moved.amount.nanos());
        let is_charge = moved.route.is_some();
        let sums = &mut self.sums;
        let (sum, amount) = match self.place {
            Place::After => (&mut sums.after, amount),
            Place::Before => (&mut sums.before, amount),
            Place::Within if is_charge => (&mut sums.charged, amount.saturating_neg()),
            Place::Within if amount < 0 => (&mut sums.taken_back, amount.saturating_neg()),
            Place::Within => (&mut sums.paid_in, amount),
        };
        *sum = sum.saturating_add(amount);
        if is_charge {
            self.sure = Some((moved.at, self.place, self.sums));
            self.is_done |= self.place == Place::Before;
        }
        Ok(())
    }

    fn statement(self, account: &AccountId, total: i128) -> Result<Statement, StoreError> {
        let listed = self.sums.net().saturating_add(self.sums.after);
        let is_whole = self.is_done || listed.saturating_add(self.sums.before) == total;
        let (from, sums) = match self.sure {
            _ if is_whole => (self.from, self.sums),
            Some((at, Place::Within, sums)) => (at, sums),
            _ => {
                let text = "the log has forgotten the period";
                return Err(StoreError::new(StoreErrorKind::NotFound, text));
            }
        };
        let closing = total.saturating_sub(sums.after);
        Ok(Statement {
            account: account.clone(),
            from,
            to: self.to,
            is_whole,
            opening: money(closing.saturating_sub(sums.net()))?,
            paid_in: money(sums.paid_in)?,
            taken_back: money(sums.taken_back)?,
            charged: money(sums.charged)?,
            closing: money(closing)?,
        })
    }
}

impl Sums {
    /// By how much the period changed what there is.
    fn net(&self) -> i128 {
        self.paid_in
            .saturating_sub(self.taken_back)
            .saturating_sub(self.charged)
    }
}

fn money(nanos: i128) -> Result<Money, StoreError> {
    let nanos = i64::try_from(nanos);
    let nanos = nanos.map_err(|_| StoreError::internal("more money than an account holds"))?;
    Ok(Money::from_nanos(nanos))
}

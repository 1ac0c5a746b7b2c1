//! What happened to an account's money in a period.

use serde::Serialize;

use super::{AccountId, Ledger, Page, StoreError, StoreErrorKind};
use crate::domain::{books::Snapshot, clock::Timestamp, money::Money, usage::Transaction};

/// Movements requested at once.
const PAGE: u16 = 1_000;

/// Movements examined at most.
const MOVEMENTS_MAX: usize = 1_000_000;

/// An account's money over a period: the opening balance, what came in, what went out, and the
/// closing balance.
///
/// `opening` + `paid_in` − `taken_back` − `charged` = `closing`, to the nano-dollar. Movements
/// count by their order in the log: the period begins after the last movement before `from`, and
/// ends before the first one at or after `to`. Held money and the credit line are not movements.
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
    /// The account.
    pub account: AccountId,
    /// When the period begins.
    pub from: Timestamp,
    /// When the period ends, exclusive.
    pub to: Timestamp,
    /// `false` if the log no longer has the charges from the beginning of the period: then the
    /// statement begins later than requested, with the oldest charge still in the log. What it says
    /// is correct nevertheless.
    pub is_whole: bool,
    /// The balance at the beginning: everything paid in before, less all charges and corrections.
    pub opening: Money,
    /// Payments, and corrections in the account's favor.
    pub paid_in: Money,
    /// Corrections against the account.
    pub taken_back: Money,
    /// What calls cost.
    pub charged: Money,
    /// The balance at the end.
    pub closing: Money,
}

impl Statement {
    /// Reads the statement of an account from `from` until before `to`.
    ///
    /// # Errors
    /// `Refused` when the period ends before it begins, or more than a million movements follow its
    /// beginning; `NotFound` when the log no longer has the period; and whatever the ledger fails
    /// with.
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
        let Snapshot { balance, position } = ledger.snapshot(account).await?;
        let total = i128::from(balance.deposited.nanos())
            .saturating_sub(i128::from(balance.settled.nanos()));
        let mut walk = Walk::new(from, to);
        let mut page = ledger.transactions(account, Page::first(PAGE)).await?;
        loop {
            // What came after the balance was read isn't in it.
            let included = |moved: &&Transaction| Some(moved.position) <= position;
            for moved in page.items.iter().filter(included) {
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

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    after: i128,
    paid_in: i128,
    taken_back: i128,
    charged: i128,
    before: i128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    After,
    Within,
    Before,
}

/// Walks the log backwards from its newest movement.
struct Walk {
    from: Timestamp,
    to: Timestamp,
    section: Section,
    sums: Sums,
    passed: usize,
    /// The oldest charge seen, and the sums down to it: anything missing from the log is older.
    verified: Option<(Timestamp, Section, Sums)>,
    /// A charge from before the period was seen, so nothing of the period is missing.
    is_done: bool,
}

impl Walk {
    fn new(from: Timestamp, to: Timestamp) -> Self {
        Self {
            from,
            to,
            section: Section::After,
            sums: Sums::default(),
            passed: 0,
            verified: None,
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
            Section::Before
        } else if moved.at < self.to {
            Section::Within
        } else {
            Section::After
        };
        // Never back: where a clock that was set back has mixed up the times, the order of the log
        // counts.
        self.section = self.section.max(own);
        let amount = i128::from(moved.amount.nanos());
        let is_charge = moved.route.is_some();
        let sums = &mut self.sums;
        let (sum, amount) = match self.section {
            Section::After => (&mut sums.after, amount),
            Section::Before => (&mut sums.before, amount),
            Section::Within if is_charge => (&mut sums.charged, amount.saturating_neg()),
            Section::Within if amount < 0 => (&mut sums.taken_back, amount.saturating_neg()),
            Section::Within => (&mut sums.paid_in, amount),
        };
        *sum = sum.saturating_add(amount);
        if is_charge {
            self.verified = Some((moved.at, self.section, self.sums));
            self.is_done |= self.section == Section::Before;
        }
        Ok(())
    }

    fn statement(self, account: &AccountId, total: i128) -> Result<Statement, StoreError> {
        let listed = self.sums.net().saturating_add(self.sums.after);
        let is_whole = self.is_done || listed.saturating_add(self.sums.before) == total;
        let (from, sums) = match self.verified {
            _ if is_whole => (self.from, self.sums),
            Some((at, Section::Within, sums)) => (at, sums),
            _ => {
                let text = "the log no longer has the period";
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
    /// By how much the period changed the balance.
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

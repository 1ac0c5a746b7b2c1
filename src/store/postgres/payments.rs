//! Payments and corrections of a batch.

use hashbrown::HashMap;
use sqlx::{Row, postgres::PgConnection};

use super::{
    batch::UnitOfWork,
    command::Command,
    convert::{Failure, Moment, count, moment, money, name, uncount},
};
use crate::{
    domain::{
        AccountId, RequestId,
        books::{self, Balance, ChargedCall},
        budget::Calendar,
        clock::Timestamp,
        money::Money,
        usage::{Adjustment, PaymentMeaning, RefundedCall, UsageDetails},
    },
    store::StoreError,
};

const PAYMENTS: &str = "SELECT reference, account.id, amount, refunded, budgets FROM credit
     JOIN account ON number = account WHERE reference = ANY($1)";

/// The lock of their account covers what was given back of them.
const CALLS: &str = "SELECT id, usage.position, request_id, charged, started_at, settled_at,
     (SELECT coalesce(sum(amount), 0)::bigint FROM credit WHERE refunded = usage.position), details
     FROM unnest($1::text[], $2::bigint[]) AS wanted (id, position)
     JOIN account USING (id)
     JOIN usage ON usage.position = wanted.position AND usage.account = account.number";

/// In the order of the references, so that transactions never deadlock. A row that another process
/// is inserting at the same time is waited for, and then missing from the count.
const PAY: &str = "INSERT INTO credit
         (account, reference, amount, paid_at, refunded, request_id, budgets)
     SELECT account, reference, amount, $4, refunded, request_id, budgets
     FROM unnest($1::bigint[], $2::text[], $3::bigint[], $5::bigint[], $6::text[], $7::text[])
         AS paid (account, reference, amount, refunded, request_id, budgets)
     ORDER BY reference ON CONFLICT (reference) DO NOTHING";

/// What the batch must know of earlier payments, and those that it makes.
#[derive(Default)]
pub(super) struct Payments {
    by_reference: HashMap<String, PaymentMeaning>,
    /// Calls of which something is given back, by account and position.
    calls: HashMap<(AccountId, u64), (RequestId, ChargedCall)>,
    /// New ones: the command, and the row of its account.
    paid: Vec<(usize, i64)>,
}

impl UnitOfWork {
    /// Moves money into or out of an account, once per reference.
    pub(super) fn pay(
        &mut self,
        index: usize,
        change: &Adjustment,
        rule: fn(&mut Balance, Money) -> Option<()>,
    ) -> Result<Result<Balance, StoreError>, Failure> {
        if let Err(refusal) = books::check(change, rule) {
            return Ok(Err(refusal.into()));
        }
        let (id, now) = (&change.account, self.moment);
        if let Some(earlier) = self.payments.by_reference.get(&change.reference) {
            if !earlier.is_of(change) {
                return Ok(Err(StoreError::reference_taken()));
            }
            return Ok(Ok(self.account(id)?.balance));
        }
        let call = match &change.call {
            None => None,
            Some(call) => match self.payments.charged(id, call) {
                None => return Ok(Err(StoreError::unknown_call())),
                found => found.copied(),
            },
        };
        let account = self.account(id)?;
        if let Err(refusal) = books::pay(account, change, rule, call.as_ref(), now) {
            return Ok(Err(refusal.into()));
        }
        let (balance, number) = (account.balance, self.number(id)?);
        let payments = &mut self.payments;
        if let Some(call) = &change.call
            && let Some(charged) = payments.charged(id, call)
        {
            charged.refunded = charged.refunded.saturating_add(change.amount);
        }
        let reference = change.reference.clone();
        let meaning = PaymentMeaning::of(change);
        payments.by_reference.insert(reference, meaning);
        payments.paid.push((index, number));
        Ok(Ok(balance))
    }
}

impl Payments {
    /// Those with a reference of the batch, and the calls that it gives back.
    pub(super) async fn load(
        connection: &mut PgConnection,
        batch: &[Command],
        calendar: &Calendar,
    ) -> Result<Self, Failure> {
        let mut payments = Self::default();
        let changes = || {
            batch.iter().filter_map(|command| match command {
                Command::Pay { change, .. } => Some(change),
                _ => None,
            })
        };
        let references: Vec<&str> = changes().map(|change| change.reference.as_str()).collect();
        if references.is_empty() {
            return Ok(payments);
        }
        let rows = sqlx::query(PAYMENTS)
            .bind(references)
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            let call = row.try_get::<Option<i64>, _>(3)?.map(uncount).transpose()?;
            let meaning = PaymentMeaning {
                account: name(row, 1)?,
                amount: money(row, 2)?,
                call,
                budgets: row.try_get(4)?,
            };
            payments.by_reference.insert(row.try_get(0)?, meaning);
        }
        let calls = changes().filter_map(|change| {
            let position = change.position()?;
            Some((change.account.as_str(), count(position)))
        });
        let (accounts, positions): (Vec<&str>, Vec<i64>) = calls.unzip();
        if accounts.is_empty() {
            return Ok(payments);
        }
        let rows = sqlx::query(CALLS)
            .bind(accounts)
            .bind(positions)
            .fetch_all(connection)
            .await?;
        for row in &rows {
            let details = row.try_get::<Option<&str>, _>(7)?;
            let details = details.and_then(UsageDetails::from_text);
            let call = ChargedCall {
                charged: money(row, 3)?,
                refunded: money(row, 6)?,
                windows: UsageDetails::windows_of(details.as_deref(), moment(row, 4)?, calendar),
                second: moment(row, 5)?.as_second(),
            };
            let place = (name(row, 0)?, uncount(row.try_get(1)?)?);
            let request_id = row.try_get::<String, _>(2)?.into();
            payments.calls.insert(place, (request_id, call));
        }
        Ok(payments)
    }

    fn charged(&mut self, id: &AccountId, call: &RefundedCall) -> Option<&mut ChargedCall> {
        let found = self.calls.get_mut(&(id.clone(), call.position));
        let found = found.filter(|(request_id, _)| *request_id == call.request_id);
        found.map(|(_, charged)| charged)
    }

    /// Stores what is new. If another process took a reference meanwhile, the whole transaction
    /// must be repeated.
    pub(super) async fn write_back(
        &self,
        connection: &mut PgConnection,
        batch: &[Command],
        now: Timestamp,
    ) -> Result<(), Failure> {
        let (mut accounts, mut references, mut amounts) = (Vec::new(), Vec::new(), Vec::new());
        let (mut refunded, mut request_ids, mut budgets) = (Vec::new(), Vec::new(), Vec::new());
        for (index, account) in &self.paid {
            if let Some(Command::Pay { change, .. }) = batch.get(*index) {
                accounts.push(*account);
                references.push(change.reference.as_str());
                amounts.push(change.amount.nanos());
                refunded.push(change.position().map(count));
                request_ids.push(change.call.as_ref().map(|call| &*call.request_id));
                budgets.push(change.budget_names());
            }
        }
        if accounts.is_empty() {
            return Ok(());
        }
        let wanted = u64::try_from(accounts.len()).unwrap_or(u64::MAX);
        let written = sqlx::query(PAY)
            .bind(accounts)
            .bind(references)
            .bind(amounts)
            .bind(Moment(now))
            .bind(refunded)
            .bind(request_ids)
            .bind(budgets)
            .execute(connection)
            .await?
            .rows_affected();
        if written == wanted {
            Ok(())
        } else {
            Err(Failure::conflict())
        }
    }
}

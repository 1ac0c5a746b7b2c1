//! Payments and corrections, inside a transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    accounts::load,
    batch::UnitOfWork,
    convert::{Failure, count, micros, moment, money},
    listing::details,
};
use crate::{
    domain::{
        books::{self, Balance, ChargedCall},
        budget::Calendar,
        money::Money,
        usage::{Adjustment, RefundedCall, UsageDetails, is_reference},
    },
    store::StoreError,
};

impl UnitOfWork<'_> {
    /// Moves money into or out of an account, once per reference.
    pub(super) fn pay(
        &mut self,
        change: &Adjustment,
        rule: fn(&mut Balance, Money) -> Option<()>,
    ) -> Result<Result<Balance, StoreError>, Failure> {
        let (id, reference) = (&change.account, change.reference.as_str());
        if !is_reference(reference) {
            return Ok(Err(StoreError::no_reference()));
        }
        if let Err(refusal) = books::check(change, rule) {
            return Ok(Err(refusal.into()));
        }
        let (position, budgets) = (change.position().map(count), change.budget_names());
        let earlier = self
            .connection
            .prepare_cached(
                "SELECT account.id, amount, refunded, budgets FROM credit
                 JOIN account ON number = account WHERE reference = ?",
            )?
            .query_row([reference], |row| {
                let place = (row.get::<_, String>(0)?, row.get(2)?);
                Ok((place, row.get(1)?, row.get::<_, Option<String>>(3)?))
            })
            .optional()?;
        let account = load(
            &mut self.accounts,
            &mut self.statements,
            id,
            &change.budgets,
        )?;
        if let Some(((earlier_id, earlier_position), earlier_amount, earlier_budgets)) = earlier {
            let is_same = earlier_id == id.as_str()
                && change.amount == Money::from_nanos(earlier_amount)
                && position == earlier_position
                && earlier_budgets.is_none_or(|earlier| earlier == budgets);
            let balance = account.row.balance;
            return Ok(is_same
                .then_some(balance)
                .ok_or_else(StoreError::reference_taken));
        }
        let find = |call| {
            charged(
                self.connection,
                &self.settings.calendar,
                account.number,
                call,
            )
        };
        let call = match change.call.as_ref().map(find).transpose()? {
            None => None,
            Some(None) => return Ok(Err(StoreError::unknown_call())),
            Some(found) => found,
        };
        if let Err(refusal) = books::pay(account, change, rule, call.as_ref(), self.moment) {
            return Ok(Err(refusal.into()));
        }
        let number = account.stored_number(&mut self.statements, id)?;
        self.connection
            .prepare_cached(
                "INSERT INTO credit (position, account, previous_charge, reference, amount, paid_at,
                 refunded, request_id, budgets) VALUES (?,?,?,?,?,?,?,?,?)",
            )?
            .execute(params![
                self.log.position(&mut self.statements)?,
                number,
                account.row.latest_charge,
                reference,
                change.amount.nanos(),
                micros(self.now),
                position,
                change.call.as_ref().map(|call| &*call.request_id),
                budgets,
            ])?;
        Ok(Ok(account.row.balance))
    }
}

/// A call of which something is given back, if the log has it.
fn charged(
    connection: &Connection,
    calendar: &Calendar,
    owner: Option<i64>,
    call: &RefundedCall,
) -> Result<Option<ChargedCall>, Failure> {
    let found = connection
        .prepare_cached(
            "SELECT charged, started_at, settled_at,
             (SELECT coalesce(sum(amount), 0) FROM credit WHERE refunded = usage.position),
             details FROM usage WHERE position = ? AND account = ? AND request_id = ?",
        )?
        .query_row(
            params![count(call.position), owner, &*call.request_id],
            |row| {
                let times: (i64, i64) = (row.get(1)?, row.get(2)?);
                Ok((money(row, 0), money(row, 3), times, details(row, 4)))
            },
        )
        .optional()?;
    let Some((charged, refunded, (started_at, settled_at), details)) = found else {
        return Ok(None);
    };
    let started_at = moment(started_at)?;
    Ok(Some(ChargedCall {
        charged: charged?,
        refunded: refunded?,
        windows: UsageDetails::windows_of(details?.as_deref(), started_at, calendar),
        second: moment(settled_at)?.as_second(),
    }))
}

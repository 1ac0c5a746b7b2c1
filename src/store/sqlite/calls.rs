//! Holds and settlements, payments and limits, inside a transaction.

use rusqlite::{OptionalExtension, params};

use super::{
    batch::{Account, Desk, Log, Statements, load},
    convert::{Failure, count, micros},
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{self, Balance, Books, Budget, HoldRefusal},
        budget::{SpendingLimits, Windows},
        clock::Timestamp,
        money::Money,
        usage::{Call, Credit, Hold, HoldId, HoldRequest, Settlement},
    },
    store::{StoreError, StoreErrorKind},
};

impl Desk<'_> {
    pub(super) fn hold(
        &mut self,
        request: &HoldRequest,
    ) -> Result<Result<(HoldId, Windows), HoldRefusal>, Failure> {
        let call = &request.call;
        let account = load(
            &mut self.accounts,
            &mut self.statements,
            &call.account,
            &request.budgets,
        )?;
        let stamp = match books::hold(account, &request.budgets, request.amount, self.windows) {
            Ok(stamp) => stamp,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let number = account.stored_number(&mut self.statements, &call.account)?;
        let id = self.house.next_hold();
        let ends = self.elapsed.saturating_add(request.lifetime);
        self.statements.insert_hold.execute(params![
            id.instance.cast_signed(),
            id.number.cast_signed(),
            i64::try_from(ends.as_micros()).unwrap_or(i64::MAX),
            number,
            request.amount.nanos(),
            stamp.day,
            stamp.month,
            pack(&request.budgets)?,
            &*call.request_id,
            call.key.as_ref().map(|key| key.as_str()),
            &*call.route,
            micros(call.started_at),
        ])?;
        self.tally.opened = self.tally.opened.saturating_add(1);
        Ok(Ok((id, stamp)))
    }

    /// Ends a hold, if it is still there.
    pub(super) fn settle(&mut self, hold: &Hold, settlement: &Settlement) -> Result<bool, Failure> {
        let deleted = self
            .statements
            .delete_hold
            .execute([hold.id.instance.cast_signed(), hold.id.number.cast_signed()])?;
        if deleted == 0 {
            return Ok(false);
        }
        if hold.id.instance == self.house.instance() {
            self.tally.ended = self.tally.ended.saturating_add(1);
        }
        let account = load(
            &mut self.accounts,
            &mut self.statements,
            &hold.call.account,
            &hold.budgets,
        )?;
        let charged = settlement.charged.max(Money::ZERO);
        books::settle(account, &hold.budgets, hold.windows, hold.amount, charged);
        let row = UsageRow {
            call: &hold.call,
            held: hold.amount,
            charged,
            settlement,
            settled_at: self.now,
        };
        row.append(account, &mut self.log, &mut self.statements)?;
        Ok(true)
    }

    /// Logs a call that cost nothing.
    pub(super) fn record(&mut self, call: &Call, settlement: &Settlement) -> Result<(), Failure> {
        let account = load(&mut self.accounts, &mut self.statements, &call.account, &[])?;
        let row = UsageRow {
            call,
            held: Money::ZERO,
            charged: Money::ZERO,
            settlement,
            settled_at: self.now,
        };
        row.append(account, &mut self.log, &mut self.statements)
    }

    pub(super) fn credit(
        &mut self,
        credit: &Credit,
    ) -> Result<Result<Balance, StoreError>, Failure> {
        let refused = || StoreError::new(StoreErrorKind::Refused, "amount out of range");
        if credit.amount <= Money::ZERO {
            return Ok(Err(refused()));
        }
        let earlier = self
            .connection
            .prepare_cached(
                "SELECT account.id, amount FROM credit JOIN account ON number = account
                 WHERE reference = ?",
            )?
            .query_row([&credit.reference], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
            })
            .optional()?;
        let account = load(
            &mut self.accounts,
            &mut self.statements,
            &credit.account,
            &[],
        )?;
        if let Some((id, amount)) = earlier {
            if id != credit.account.as_str() || amount != credit.amount.nanos() {
                let text = "the reference was used for another payment";
                return Ok(Err(StoreError::new(StoreErrorKind::Conflict, text)));
            }
            return Ok(Ok(account.row.balance));
        }
        if books::credit(account.balance(), credit.amount).is_none() {
            return Ok(Err(refused()));
        }
        let number = account.stored_number(&mut self.statements, &credit.account)?;
        self.connection
            .prepare_cached(
                "INSERT INTO credit (position, account, previous_charge, reference, amount, paid_at)
                 VALUES (?,?,?,?,?,?)",
            )?
            .execute(params![
                self.log.position(&mut self.statements)?,
                number,
                account.row.latest_charge,
                credit.reference,
                credit.amount.nanos(),
                micros(self.now),
            ])?;
        Ok(Ok(account.row.balance))
    }

    pub(super) fn set_limits(
        &mut self,
        id: &AccountId,
        budget: &BudgetId,
        limits: SpendingLimits,
    ) -> Result<Budget, Failure> {
        let only = std::slice::from_ref(budget);
        let account = load(&mut self.accounts, &mut self.statements, id, only)?;
        account.stored_number(&mut self.statements, id)?;
        let budget = account.budget(budget);
        *budget = budget.rolled(self.windows);
        budget.limits = limits;
        Ok(*budget)
    }
}

/// A row to be.
pub(super) struct UsageRow<'a> {
    pub(super) call: &'a Call,
    pub(super) held: Money,
    pub(super) charged: Money,
    pub(super) settlement: &'a Settlement,
    pub(super) settled_at: Timestamp,
}

impl UsageRow<'_> {
    pub(super) fn append(
        &self,
        account: &mut Account,
        log: &mut Log,
        statements: &mut Statements<'_>,
    ) -> Result<(), Failure> {
        let number = account.stored_number(statements, &self.call.account)?;
        let position = log.position(statements)?;
        let settlement = self.settlement;
        statements.insert_usage.execute(params![
            position,
            number,
            account.row.latest_usage,
            account.row.latest_charge,
            &*self.call.request_id,
            self.call.key.as_ref().map(|key| key.as_str()),
            &*self.call.route,
            micros(self.call.started_at),
            micros(self.settled_at),
            self.held.nanos(),
            self.charged.nanos(),
            settlement.outcome.as_str(),
            settlement.status,
            i64::try_from(settlement.latency.as_micros()).unwrap_or(i64::MAX),
            settlement.input_tokens.map(count),
            settlement.output_tokens.map(count),
        ])?;
        account.row.latest_usage = Some(position);
        if !self.charged.is_zero() {
            account.row.latest_charge = Some(position);
        }
        Ok(())
    }
}

/// The names of a hold's budgets, each behind a byte with its length: a name has at most 255.
fn pack(budgets: &[BudgetId]) -> Result<Vec<u8>, Failure> {
    let mut packed = Vec::new();
    for budget in budgets {
        let name = budget.as_str().as_bytes();
        let length = u8::try_from(name.len());
        packed.push(length.map_err(|_| StoreError::internal("a budget's name is too long"))?);
        packed.extend_from_slice(name);
    }
    Ok(packed)
}

/// What [`pack`] packed.
pub(super) fn unpack(mut packed: &[u8]) -> Result<Vec<BudgetId>, Failure> {
    let corrupt = || Failure::corrupt("a hold's budgets");
    let mut budgets = Vec::new();
    while let Some((length, rest)) = packed.split_first() {
        let (name, rest) = rest
            .split_at_checked(usize::from(*length))
            .ok_or_else(corrupt)?;
        let name = std::str::from_utf8(name).map_err(|_| corrupt())?;
        budgets.push(BudgetId::new(name).map_err(|_| corrupt())?);
        packed = rest;
    }
    Ok(budgets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again_and_half_of_it_does_not() {
        let budgets = [BudgetId::new("key-1"), BudgetId::new(&"é".repeat(127))].map(Result::unwrap);
        let packed = pack(&budgets).unwrap();
        assert_eq!(unpack(&packed).unwrap(), budgets);
        assert_eq!(unpack(&[]).unwrap(), []);
        assert!(unpack(&packed[..packed.len() - 1]).is_err());
    }
}

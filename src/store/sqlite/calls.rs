//! Holds and settlements, payments and limits, inside a transaction.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::{
    batch::{Account, Desk, Log, Statements, load},
    convert::{Failure, count, micros},
    once,
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{self, Balance, Books, Budget, Grant, HoldRefusal},
        budget::SpendingLimits,
        clock::Timestamp,
        money::Money,
        usage::{Call, Expiry, Hold, HoldId, HoldRequest, Settlement, is_reference},
    },
    store::StoreError,
};

impl Desk<'_> {
    pub(super) fn hold(
        &mut self,
        request: &HoldRequest,
    ) -> Result<Result<(HoldId, Grant), HoldRefusal>, Failure> {
        let call = &request.call;
        let account = load(
            &mut self.accounts,
            &mut self.statements,
            &call.account,
            &request.budgets,
        )?;
        if let (Some(wish), Some(number)) = (&request.idempotency, account.number)
            && let Some(refusal) = once::refuses(self.connection, number, wish, self.now)?
        {
            return Ok(Err(refusal));
        }
        let open = self.house.open_of(&call.account, self.tally.is_anew);
        if open.saturating_add_signed(account.opened) >= self.settings.open_holds_per_account_max {
            return Ok(Err(HoldRefusal::TooManyOpen));
        }
        let grant = match books::hold(account, &request.budgets, request.amount, self.moment) {
            Ok(grant) => grant,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let number = account.stored_number(&mut self.statements, &call.account)?;
        if let Some(wish) = &request.idempotency {
            once::begin(self.connection, number, wish, self.now)?;
        }
        let id = self.house.next_hold();
        let ends = self.elapsed.saturating_add(request.lifetime);
        self.statements.insert_hold.execute(params![
            id.instance.cast_signed(),
            id.number.cast_signed(),
            i64::try_from(ends.as_micros()).unwrap_or(i64::MAX),
            number,
            request.amount.nanos(),
            grant.windows.day,
            grant.windows.month,
            pack(&request.budgets)?,
            &*call.request_id,
            call.key.as_ref().map(|key| key.as_str()),
            &*call.route,
            micros(call.started_at),
            principal(call),
            request.expiry == Expiry::Charge,
            request.idempotency.as_ref().map(|wish| &*wish.key),
        ])?;
        account.opened = account.opened.saturating_add(1);
        self.tally.opened = self.tally.opened.saturating_add(1);
        Ok(Ok((id, grant)))
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
        let account = load(
            &mut self.accounts,
            &mut self.statements,
            &hold.call.account,
            &hold.budgets,
        )?;
        if hold.id.instance == self.house.instance() {
            self.tally.ended = self.tally.ended.saturating_add(1);
            account.opened = account.opened.saturating_sub(1);
        }
        let settled = books::settle(
            account,
            &hold.call.account,
            &hold.budgets,
            hold.windows,
            hold.amount,
            settlement.charged,
            self.moment.second,
        );
        self.alerts.extend(settled.alerts);
        if let (Some(key), Some(number)) = (&hold.idempotency_key, account.number) {
            once::end(self.connection, number, key, !settled.charged.is_zero())?;
        }
        let row = UsageRow {
            call: &hold.call,
            held: hold.amount,
            charged: settled.charged,
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

    /// Lets a hold live for `lifetime` from now on, if it is still there.
    pub(super) fn extend(&mut self, hold: HoldId, lifetime: Duration) -> Result<bool, Failure> {
        let ends = self.elapsed.saturating_add(lifetime);
        let extended = self
            .connection
            .prepare_cached("UPDATE hold SET ends = ? WHERE instance = ? AND number = ?")?
            .execute(params![
                i64::try_from(ends.as_micros()).unwrap_or(i64::MAX),
                hold.instance.cast_signed(),
                hold.number.cast_signed(),
            ])?;
        Ok(extended > 0)
    }

    /// Moves money into or out of an account, once for each reference.
    pub(super) fn pay(
        &mut self,
        id: &AccountId,
        amount: Money,
        reference: &str,
        rule: fn(&mut Balance, Money) -> Option<()>,
    ) -> Result<Result<Balance, StoreError>, Failure> {
        if !is_reference(reference) {
            return Ok(Err(StoreError::no_reference()));
        }
        let earlier = self
            .connection
            .prepare_cached(
                "SELECT account.id, amount FROM credit JOIN account ON number = account
                 WHERE reference = ?",
            )?
            .query_row([reference], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
            })
            .optional()?;
        let account = load(&mut self.accounts, &mut self.statements, id, &[])?;
        if let Some((earlier_id, earlier_amount)) = earlier {
            if earlier_id != id.as_str() || earlier_amount != amount.nanos() {
                return Ok(Err(StoreError::reference_taken()));
            }
            return Ok(Ok(account.row.balance));
        }
        if rule(account.balance(), amount).is_none() {
            return Ok(Err(StoreError::amount_out_of_range()));
        }
        let number = account.stored_number(&mut self.statements, id)?;
        self.connection
            .prepare_cached(
                "INSERT INTO credit (position, account, previous_charge, reference, amount, paid_at)
                 VALUES (?,?,?,?,?,?)",
            )?
            .execute(params![
                self.log.position(&mut self.statements)?,
                number,
                account.row.latest_charge,
                reference,
                amount.nanos(),
                micros(self.now),
            ])?;
        Ok(Ok(account.row.balance))
    }

    pub(super) fn set_credit_line(
        &mut self,
        id: &AccountId,
        line: Money,
    ) -> Result<Balance, Failure> {
        let account = load(&mut self.accounts, &mut self.statements, id, &[])?;
        account.stored_number(&mut self.statements, id)?;
        account.balance().credit_line = line;
        Ok(account.row.balance)
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
        budget.set_limits(limits, self.moment);
        Ok(budget.clone())
    }
}

/// Who called, as stored.
fn principal(call: &Call) -> Option<&str> {
    (*call.principal != *call.account.as_str()).then_some(&*call.principal)
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
            principal(self.call),
            settlement.model.as_deref(),
            settlement.bytes.map(count),
        ])?;
        account.row.latest_usage = Some(position);
        if !self.charged.is_zero() {
            account.row.latest_charge = Some(position);
        }
        Ok(())
    }
}

/// The names of a hold's budgets, each behind a byte with its length: a name has at most 255.
pub(super) fn pack(budgets: &[BudgetId]) -> Result<Vec<u8>, Failure> {
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

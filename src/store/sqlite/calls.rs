//! Holds and settlements, and limits, inside a transaction.

use std::time::Duration;

use rusqlite::params;

use super::{
    accounts::{Account, load},
    batch::{Log, PLAIN_USAGE, Statements, UnitOfWork},
    convert::{Failure, count, micros},
    holds::principal,
    maintenance::OpenHold,
    once,
};
use crate::domain::{
    AccountId, BudgetId,
    books::{self, Balance, Books, Budget, Grant, HoldRefusal},
    budget::{SpendingLimits, Windows},
    clock::Timestamp,
    money::Money,
    usage::{Call, Hold, HoldId, HoldRequest, Outcome, Settlement, UsageDetails},
};

impl UnitOfWork<'_> {
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
        let open = account.number.map_or(0, |number| {
            let is_anew = self.tally.is_anew;
            self.maintenance.open_of(number, is_anew)
        });
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
        let id = HoldId {
            instance: self.maintenance.instance(),
            number: self.log.hold_number(&mut self.statements)?.cast_unsigned(),
        };
        self.bundles.open(id, number, request, &grant)?;
        account.opened = account.opened.saturating_add(1);
        let ends = Hold::end_after(request.lifetime, || self.elapsed);
        let opened = OpenHold {
            ends: ends.unwrap_or(Duration::MAX),
            account: number,
        };
        self.tally.opened.push((id, opened));
        Ok(Ok((id, grant)))
    }

    /// Ends a hold, or charges it late; `false`: it was settled before.
    pub(super) fn settle(&mut self, hold: &Hold, settlement: &Settlement) -> Result<bool, Failure> {
        if !self.bundles.end(hold.id)? {
            return self.settle_late(hold, settlement);
        }
        self.end(hold, settlement)?;
        Ok(true)
    }

    /// Ends a hold that was there; returns what was charged.
    pub(super) fn end(&mut self, hold: &Hold, settlement: &Settlement) -> Result<Money, Failure> {
        self.book(hold, Some(hold.amount), settlement.charged, settlement)
    }

    /// Charges a call, in the books and in the log. `held` is given back; `None`: its hold was
    /// resolved before.
    pub(super) fn book(
        &mut self,
        hold: &Hold,
        held: Option<Money>,
        charged: Money,
        settlement: &Settlement,
    ) -> Result<Money, Failure> {
        let account = load(
            &mut self.accounts,
            &mut self.statements,
            &hold.call.account,
            &hold.budgets,
        )?;
        if held.is_some() && hold.id.instance == self.maintenance.instance() {
            self.tally.ended.push(hold.id);
            account.opened = account.opened.saturating_sub(1);
        }
        let given_back = held.unwrap_or_default();
        let calendar = &self.settings.calendar;
        let settled = books::settle(
            account,
            &hold.call.account,
            &hold.budgets,
            hold.windows,
            given_back,
            charged,
            self.moment.second,
        );
        self.alerts.extend(settled.alerts);
        if let (Some(_), Some(key), Some(number)) = (held, &hold.idempotency_key, account.number) {
            once::end(self.connection, number, key, !settled.charged.is_zero())?;
        }
        let row = UsageRow {
            call: &hold.call,
            held: given_back,
            charged: settled.charged,
            settlement,
            settled_at: self.now,
            windows: calendar.other_windows(hold.call.started_at, hold.windows),
        };
        row.append(account, &mut self.log, &mut self.statements)?;
        Ok(settled.charged)
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
            windows: None,
        };
        row.append(account, &mut self.log, &mut self.statements)
    }

    /// Lets a hold of this instance live for `lifetime` from now on; returns whether it was still
    /// there.
    pub(super) fn extend(&mut self, hold: HoldId, lifetime: Duration) -> Result<bool, Failure> {
        let ends = Hold::end_after(lifetime, || self.elapsed).unwrap_or(Duration::MAX);
        Ok(self.bundles.is_open(hold)? && self.maintenance.extend(hold, ends))
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

/// A usage row to be written.
pub(super) struct UsageRow<'a> {
    pub(super) call: &'a Call,
    pub(super) held: Money,
    pub(super) charged: Money,
    pub(super) settlement: &'a Settlement,
    pub(super) settled_at: Timestamp,
    /// Where the charge counted, if that is to be noted.
    pub(super) windows: Option<Windows>,
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
        let columns = params![
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
            settlement.status,
            i64::try_from(settlement.latency.as_micros()).unwrap_or(i64::MAX),
            settlement.input_tokens.map(count),
            settlement.output_tokens.map(count),
            principal(self.call),
            settlement.outcome.as_str(),
            settlement.model.as_deref(),
            settlement.bytes.map(count),
            settlement.cached_tokens.map(count),
            settlement.cache_write_tokens.map(count),
            settlement.usage_is_missing.then_some(true),
            UsageDetails::text_of(settlement.details.as_deref(), self.windows),
        ];
        match columns.first_chunk::<PLAIN_USAGE>() {
            Some(plain) if self.is_plain() => statements.insert_plain_usage.execute(plain)?,
            _ => statements.insert_usage.execute(columns)?,
        };
        account.row.latest_usage = Some(position);
        if !self.charged.is_zero() {
            account.row.latest_charge = Some(position);
        }
        Ok(())
    }

    /// Whether the call completed and leaves the columns after the [plain](PLAIN_USAGE) ones empty.
    fn is_plain(&self) -> bool {
        let settlement = self.settlement;
        settlement.outcome == Outcome::Completed
            && settlement.model.is_none()
            && settlement.bytes.is_none()
            && settlement.cached_tokens.is_none()
            && settlement.cache_write_tokens.is_none()
            && !settlement.usage_is_missing
            && settlement.details.is_none()
            && self.windows.is_none()
    }
}

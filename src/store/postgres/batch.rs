//! The working set of one transaction: each account and budget that it touches is locked and loaded
//! once, and written back once. In between, the rules are the domain's and need no database.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};

use super::{
    command::Command, convert::Failure, idempotency::IdempotencyKeys, instance::Instance,
    late::Late, leases::Leases, payments::Payments,
};
use crate::domain::{
    AccountId, BudgetId,
    books::{self, Balance, Books, Budget, Grant, HoldRefusal},
    budget::{Moment, SpendingAlert, Windows},
    clock::Timestamp,
    money::Money,
    usage::{Hold, HoldId, HoldRequest, Settlement},
};

/// An account as it stands within the transaction.
#[derive(Default)]
pub(super) struct Account {
    /// Its row; `None` if there is none.
    pub(super) number: Option<i64>,
    pub(super) balance: Balance,
    pub(super) stored: Balance,
    /// Its open holds of this instance, except those that the batch ends.
    pub(super) open: usize,
    pub(super) budgets: HashMap<BudgetId, LoadedBudget>,
}

#[derive(Default)]
pub(super) struct LoadedBudget {
    pub(super) budget: Budget,
    pub(super) stored: Option<Budget>,
}

impl Books for Account {
    fn balance(&mut self) -> &mut Balance {
        &mut self.balance
    }

    /// Every budget is loaded before the domain sees the books, so this creates only budgets that
    /// have no row.
    fn budget(&mut self, id: &BudgetId) -> &mut Budget {
        &mut self.budgets.entry_ref(id).or_default().budget
    }
}

/// A new row of `hold`; `command` is its index in the batch.
pub(super) struct Opened {
    pub(super) command: usize,
    pub(super) id: HoldId,
    pub(super) ends_micros: i64,
    pub(super) account: i64,
    pub(super) windows: Windows,
}

/// A new row of `usage`.
pub(super) struct Logged {
    pub(super) command: usize,
    /// Which of the command's calls.
    pub(super) row: usize,
    pub(super) account: i64,
    pub(super) held: Money,
    pub(super) charged: Money,
    /// The windows in which it is charged; none for a call without a hold.
    pub(super) windows: Option<Windows>,
}

/// The end of a hold's lifetime as stored in its row, on its process's monotonic clock.
pub(super) fn end_micros(now: Duration, lifetime: Duration) -> i64 {
    let ends = Hold::end_after(lifetime, || now);
    let micros = ends.and_then(|ends| i64::try_from(ends.as_micros()).ok());
    micros.unwrap_or(i64::MAX)
}

pub(super) struct UnitOfWork {
    pub(super) accounts: HashMap<AccountId, Account>,
    /// Holds that this transaction deleted and whose settlement is not booked yet.
    pub(super) ended: HashSet<HoldId>,
    /// Holds that were resolved before and are settled now, or are resolved now.
    pub(super) late: Late,
    pub(super) payments: Payments,
    pub(super) opened: Vec<Opened>,
    pub(super) logged: Vec<Logged>,
    pub(super) keys: IdempotencyKeys,
    pub(super) leases: Leases,
    /// Holds whose lifetime was extended.
    pub(super) extended: HashSet<HoldId>,
    /// Sent out once this is committed.
    pub(super) alerts: Vec<SpendingAlert>,
    /// Open holds allowed per account.
    pub(super) open_max: usize,
    /// The time of the transaction.
    pub(super) now: Timestamp,
    pub(super) elapsed: Duration,
    /// The same, as budgets see it.
    pub(super) moment: Moment,
}

impl UnitOfWork {
    /// Books the whole batch, starting with settlements because they free money.
    pub(super) fn book(
        &mut self,
        instance: &Instance,
        batch: &mut [Command],
    ) -> Result<(), Failure> {
        self.settle_all(batch)?;
        for (index, command) in batch.iter_mut().enumerate() {
            match command {
                Command::Hold {
                    request,
                    granted,
                    reply,
                    ..
                } => {
                    // If the caller still waits now, it also did when the budgets were loaded.
                    *granted = match reply.is_closed() {
                        true => None,
                        false => Some(self.hold(instance, index, request)?),
                    };
                }
                Command::Record { call, .. } => {
                    let account = self.number(&call.account)?;
                    self.logged.push(Logged {
                        command: index,
                        row: 0,
                        account,
                        held: Money::ZERO,
                        charged: Money::ZERO,
                        windows: None,
                    });
                }
                Command::Lease { step, answer, .. } => {
                    *answer = Some(self.lease(instance, index, step)?);
                }
                Command::EndLease { lease, .. } => self.end_lease(index, lease)?,
                Command::Extend { hold, answer, .. } => {
                    *answer = Some(self.extended.contains(hold));
                }
                Command::Pay {
                    change,
                    rule,
                    answer,
                    ..
                } => *answer = Some(self.pay(index, change, *rule)?),
                Command::SetCreditLine {
                    account,
                    line,
                    answer,
                    ..
                } => {
                    let account = self.account(account)?;
                    account.balance.credit_line = *line;
                    *answer = Some(account.balance);
                }
                Command::SetLimits {
                    account,
                    budget,
                    limits,
                    answer,
                    ..
                } => {
                    let now = self.moment;
                    let budget = self.account(account)?.budget(budget);
                    budget.set_limits(limits.clone(), now);
                    *answer = Some(budget.clone());
                }
                Command::Settle { .. } | Command::Flush(_) | Command::Close => {}
            }
        }
        Ok(())
    }

    fn settle_all(&mut self, batch: &[Command]) -> Result<(), Failure> {
        for (index, command) in batch.iter().enumerate() {
            if let Command::Settle {
                hold, settlement, ..
            } = command
            {
                let is_done = match (self.ended.remove(&hold.id), command.is_resolution()) {
                    (true, true) => {
                        self.resolve(index, hold, settlement)?;
                        true
                    }
                    (true, false) => {
                        self.end(index, hold, settlement)?;
                        true
                    }
                    // Two processes clear up after the same one, and the other was faster.
                    (false, true) => true,
                    (false, false) => self.settle_late(index, hold, settlement)?,
                };
                if !is_done {
                    tracing::warn!(
                        target: "tollgate::ledger",
                        hold = %hold.id,
                        request_id = %hold.call.request_id,
                        "settled too late: the hold was resolved before"
                    );
                }
            }
        }
        Ok(())
    }

    pub(super) fn account(&mut self, id: &AccountId) -> Result<&mut Account, Failure> {
        let missing = || Failure::corrupt("an account that was not loaded");
        self.accounts.get_mut(id).ok_or_else(missing)
    }

    pub(super) fn number(&mut self, id: &AccountId) -> Result<i64, Failure> {
        let missing = || Failure::corrupt("an account without a row");
        self.account(id)?.number.ok_or_else(missing)
    }

    fn hold(
        &mut self,
        instance: &Instance,
        index: usize,
        request: &HoldRequest,
    ) -> Result<Result<(HoldId, Grant), HoldRefusal>, Failure> {
        let (moment, elapsed, now) = (self.moment, self.elapsed, self.now);
        let number = self.account(&request.call.account)?.number;
        if let (Some(wish), Some(number)) = (&request.idempotency, number)
            && let Some(refusal) = self.keys.refuses(number, wish, now)
        {
            return Ok(Err(refusal));
        }
        let open_max = self.open_max;
        let account = self.account(&request.call.account)?;
        if account.open >= open_max {
            return Ok(Err(HoldRefusal::TooManyOpen));
        }
        let grant = match books::hold(account, &request.budgets, request.amount, moment) {
            Ok(grant) => grant,
            Err(refusal) => return Ok(Err(refusal)),
        };
        account.open = account.open.saturating_add(1);
        let number = self.number(&request.call.account)?;
        if let Some(wish) = &request.idempotency {
            self.keys.begin(number, wish, now);
        }
        let id = instance.next_hold();
        self.opened.push(Opened {
            command: index,
            id,
            ends_micros: end_micros(elapsed, request.lifetime),
            account: number,
            windows: grant.windows,
        });
        Ok(Ok((id, grant)))
    }

    /// Ends a hold that was there; returns what was charged.
    pub(super) fn end(
        &mut self,
        index: usize,
        hold: &Hold,
        settlement: &Settlement,
    ) -> Result<Money, Failure> {
        let charged = self.charge(index, hold, hold.amount, settlement.charged)?;
        if let Some(key) = &hold.idempotency_key {
            let number = self.number(&hold.call.account)?;
            self.keys.end(number, key, !charged.is_zero());
        }
        Ok(charged)
    }

    /// Gives back what is `held` yet and charges a call, in the books and in the log.
    pub(super) fn charge(
        &mut self,
        index: usize,
        hold: &Hold,
        held: Money,
        charged: Money,
    ) -> Result<Money, Failure> {
        let owner = &hold.call.account;
        let (number, second) = (self.number(owner)?, self.moment.second);
        let account = self.account(owner)?;
        let settled = books::settle(
            account,
            owner,
            &hold.budgets,
            hold.windows,
            held,
            charged,
            second,
        );
        self.alerts.extend(settled.alerts);
        self.logged.push(Logged {
            command: index,
            row: 0,
            account: number,
            held,
            charged: settled.charged,
            windows: Some(hold.windows),
        });
        Ok(settled.charged)
    }
}

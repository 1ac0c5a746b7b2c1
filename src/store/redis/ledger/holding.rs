//! Holds: how they are opened and ended, and what happens to those whose outcome is unknown.

use std::{fmt, sync::Arc};

use super::{
    codec::{self, HoldAnswer, corrupt},
    redis_call::{HOLD, INSTANCE, RECORD, RedisCall, SETTLE},
    registry::{Full, HoldLimits},
    shared::{Failure, Shared, closed, random},
};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{Grant, HoldRefusal},
        clock::Timestamp,
        money::Money,
        usage::{Call, Hold, HoldId, HoldRequest, Outcome, Settlement},
    },
    repeats::LogLine,
    store::{StoreError, StoreErrorKind, redis::connections::Resend},
};

/// How often a hold is tried by a process that finds itself declared dead.
const IDENTITIES_MAX: u32 = 3;

/// A hold being opened. If this is dropped before the outcome is known, the hold is given back.
struct Attempt {
    shared: Arc<Shared>,
    account: AccountId,
    id: HoldId,
    fate: Fate,
}

enum Fate {
    /// The server never received it, or refused it.
    Nothing,
    /// It may be open.
    Unknown,
    /// It is open, and its caller has it.
    Open,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        match self.fate {
            Fate::Nothing => self.shared.registry.release(&self.account, self.id),
            Fate::Unknown => self.shared.give_back(&self.account, self.id),
            Fate::Open => {}
        }
    }
}

/// Why a hold was not opened.
enum HoldFailure {
    Failed(Failure),
    /// This instance was declared dead.
    Fenced(u64),
}

impl From<Failure> for HoldFailure {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<StoreError> for HoldFailure {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl Shared {
    pub(super) async fn hold(
        self: &Arc<Self>,
        request: HoldRequest,
    ) -> Result<Result<Hold, HoldRefusal>, Failure> {
        let call = codec::write_call(&request.call)?;
        for _ in 0..IDENTITIES_MAX {
            if self.is_closed() {
                return Err(closed().into());
            }
            match self.try_hold(&request, &call).await {
                Ok(Ok((id, grant))) => return Ok(Ok(Hold::granted(id, request, grant))),
                Ok(Err(refusal)) => return Ok(Err(refusal)),
                Err(HoldFailure::Failed(failure)) => return Err(failure),
                Err(HoldFailure::Fenced(instance)) => self.become_new_instance(instance).await?,
            }
        }
        let text = "this process keeps being declared dead";
        Err(StoreError::new(StoreErrorKind::Unavailable, text).into())
    }

    async fn try_hold(
        self: &Arc<Self>,
        request: &HoldRequest,
        call: &str,
    ) -> Result<Result<(HoldId, Grant), HoldRefusal>, HoldFailure> {
        let account = &request.call.account;
        let now = self.settings.clock.elapsed();
        let most = HoldLimits {
            of_all: self.settings.open_holds_max,
            of_account: self.settings.open_holds_per_account_max,
        };
        let reserved = match self.registry.reserve(account, most, now) {
            Ok(reserved) => reserved,
            Err(Full::Account) => return Ok(Err(HoldRefusal::TooManyOpen)),
            Err(Full::All) => {
                let text = "too many holds are open";
                return Err(StoreError::new(StoreErrorKind::Busy, text).into());
            }
        };
        let id = reserved.id;
        let mut attempt = Attempt {
            shared: Arc::clone(self),
            account: account.clone(),
            id,
            fate: Fate::Nothing,
        };
        if !reserved.is_entered {
            self.enter(std::slice::from_ref(account), id.instance)
                .await?;
        }
        let command = self.hold_call(id, request, call);
        attempt.fate = Fate::Unknown;
        let answer = self.ask(self.shard(account.as_str()), &command).await;
        let answer: Vec<String> = answer.inspect_err(|failure| {
            if !failure.was_sent {
                attempt.fate = Fate::Nothing;
            }
        })?;
        let answer = codec::hold_answer(&answer)?;
        attempt.fate = Fate::Nothing;
        match answer {
            HoldAnswer::Refused(refusal) => Ok(Err(refusal)),
            HoldAnswer::Fenced => Err(HoldFailure::Fenced(id.instance)),
            HoldAnswer::GivenUp => Err(corrupt("new hold").into()),
            HoldAnswer::Granted(grant) => {
                attempt.fate = Fate::Open;
                let ends = self.end_after(request.lifetime);
                self.registry.extend(account, id, ends);
                Ok(Ok((id, grant)))
            }
        }
    }

    pub(super) fn hold_call(&self, id: HoldId, request: &HoldRequest, call: &str) -> RedisCall {
        let now = self.settings.clock.now();
        let windows = self.settings.calendar.windows(now);
        let names = self.names.account(&request.call.account);
        // Not safe to resend over a new connection: that may lead to another server, which doesn't
        // know yet that this process may have open holds there.
        let mut command = RedisCall::script(&HOLD, &names.to_hold(id.instance))
            .resend(Resend::SameServer)
            .arg(Self::number(id))
            .arg(request.amount.nanos())
            .arg(windows.day)
            .arg(windows.month)
            .arg(codec::expiry(request.expiry))
            .arg(call);
        command = match &request.idempotency {
            None => command.arg("").arg("").arg(0).arg(0),
            Some(wish) => {
                let ends = now.saturating_add(wish.keep_for).unwrap_or(Timestamp::MAX);
                command
                    .arg(&*wish.key)
                    .arg(Hex(&wish.fingerprint).to_string())
                    .arg(now.as_millisecond())
                    .arg(ends.as_millisecond())
            }
        };
        command = command.arg(now.as_second());
        let mut named: Vec<&BudgetId> = Vec::with_capacity(request.budgets.len());
        for budget in &*request.budgets {
            if !named.contains(&budget) {
                named.push(budget);
                command = command.arg(budget.as_str());
            }
        }
        command
    }

    /// Registers this process for accounts before it opens holds there.
    async fn enter(
        self: &Arc<Self>,
        accounts: &[AccountId],
        instance: u64,
    ) -> Result<(), HoldFailure> {
        let _gate = self.gate.read().await;
        let command = self.instance_call("enter", instance);
        let names: Vec<&str> = accounts.iter().map(AccountId::as_str).collect();
        let known: i64 = self
            .ask(self.instances_shard(), &command.arg(names))
            .await?;
        if known == 0 {
            return Err(HoldFailure::Fenced(instance));
        }
        for account in accounts {
            self.registry.enter(account, instance);
        }
        Ok(())
    }

    /// The server may have lost its latest writes: registers this process again for every account
    /// where it has open holds.
    pub(super) async fn reregister(self: &Arc<Self>) -> Result<(), Failure> {
        let instance = self.registry.instance();
        for some in self.registry.forget_entered().chunks(500) {
            match self.enter(some, instance).await {
                Ok(()) => {}
                Err(HoldFailure::Failed(failure)) => return Err(failure),
                Err(HoldFailure::Fenced(instance)) => {
                    return self.become_new_instance(instance).await;
                }
            }
        }
        Ok(())
    }

    pub(super) fn instances_shard(&self) -> u8 {
        self.shard("instances")
    }

    pub(super) fn instance_call(&self, what: &str, instance: u64) -> RedisCall {
        let names = &self.names;
        let keys = [names.beats(), names.dead(), names.accounts_of(instance)];
        let command = RedisCall::script(&INSTANCE, &keys);
        command.arg(what).arg(format!("{instance:016x}"))
    }

    /// This process was declared dead as `instance`: it continues as a new one. Its open holds are
    /// for others to resolve.
    pub(super) async fn become_new_instance(
        self: &Arc<Self>,
        instance: u64,
    ) -> Result<(), Failure> {
        let _registering = self.registering.lock().await;
        if self.registry.instance() != instance {
            return Ok(());
        }
        let next = random()?;
        self.register(next).await?;
        self.registry.reset(next);
        tracing::warn!(
            target: "tollgate::redis",
            "this process was declared dead: its open holds are being resolved"
        );
        Ok(())
    }

    /// Registers an instance.
    pub(super) async fn register(self: &Arc<Self>, instance: u64) -> Result<(), Failure> {
        let command = RedisCall::command("HSETNX").arg(self.names.beats());
        let command = command.arg(format!("{instance:016x}")).arg(0);
        self.ask::<i64>(self.instances_shard(), &command).await?;
        Ok(())
    }

    /// Ends a hold, however long that takes.
    pub(super) async fn settle(
        self: &Arc<Self>,
        hold: &Hold,
        settlement: &Settlement,
    ) -> Result<(), Failure> {
        let account = &hold.call.account;
        let calendar = &self.settings.calendar;
        let noted = calendar.other_windows(hold.call.started_at, hold.windows);
        let written = codec::write_settlement(settlement, noted)?;
        let ended = self
            .end(account, hold.id, settlement.charged, &written, false)
            .await;
        match ended {
            Ok(true) => {}
            Ok(false) => tracing::warn!(
                target: "tollgate::ledger",
                hold = %hold.id,
                request_id = %hold.call.request_id,
                "settled too late: the hold was resolved before"
            ),
            Err(failure) => {
                tracing::error!(
                    target: "tollgate::ledger",
                    error = %failure.error,
                    hold = %hold.id,
                    request_id = %hold.call.request_id,
                    "a settlement could not be written"
                );
                return Err(failure);
            }
        }
        Ok(())
    }

    pub(super) fn settle_call(
        &self,
        account: &AccountId,
        id: HoldId,
        charged: Money,
        settlement: &str,
        is_given_up: bool,
    ) -> RedisCall {
        let keys = self.names.account(account).to_settle(id.instance);
        let now = self.settings.clock.now();
        RedisCall::script(&SETTLE, &keys)
            .arg(Self::number(id))
            .arg(charged.nanos())
            .arg(settlement)
            .arg(now.to_string())
            .arg(self.settings.usage_rows_max)
            .arg(u8::from(is_given_up))
            .arg(now.as_second())
            .arg(now.as_millisecond())
    }

    /// `false` if others ended it, or there was no such hold.
    async fn end(
        self: &Arc<Self>,
        account: &AccountId,
        id: HoldId,
        charged: Money,
        settlement: &str,
        is_given_up: bool,
    ) -> Result<bool, Failure> {
        let command = |again| {
            let command = self.settle_call(account, id, charged, settlement, is_given_up);
            command.resend(once_unless(again))
        };
        let outcome = self
            .call_until_answered(self.shard(account.as_str()), command)
            .await;
        self.registry.release(account, id);
        let (answer, again): (Vec<String>, bool) = outcome?;
        match answer.split_first() {
            Some((word, passed)) if word == "settled" => {
                self.settings.alerts.tell(codec::alerts(account, passed)?);
                Ok(true)
            }
            Some((word, _)) if word == "resolved" => Ok(false),
            // After a resend, it may have been this very settlement that ended the hold.
            Some((word, _)) if word == "gone" => Ok(again || is_given_up),
            _ => Err(corrupt("answer").into()),
        }
    }

    /// Gives back a hold whose outcome is unknown, and makes sure that it can't be opened any more.
    pub(super) fn give_back(self: &Arc<Self>, account: &AccountId, id: HoldId) {
        let (shared, account) = (Arc::clone(self), account.clone());
        let ticket = self.in_flight.ticket();
        self.runtime.spawn(async move {
            let settlement = Settlement::new(Money::ZERO, Outcome::Disconnected);
            let given_back = match codec::write_settlement(&settlement, None) {
                Ok(written) => shared.end(&account, id, Money::ZERO, &written, true).await,
                Err(error) => Err(error.into()),
            };
            let now = shared.settings.clock.elapsed();
            if let Err(Failure { error, .. }) = given_back
                && let Some(LogLine { left_out }) = shared.unreturned.failed(&error, now)
            {
                tracing::error!(target: "tollgate::ledger", %error, left_out, hold = %id, "a hold could not be given back");
            }
            drop(ticket);
        });
    }

    /// Writes a row for a call without a hold, however long that takes.
    pub(super) async fn record(
        self: &Arc<Self>,
        call: &Call,
        settlement: &Settlement,
    ) -> Result<(), Failure> {
        let name = self.registry.next_id().to_string();
        let command = self.record_call(call, settlement, &name)?;
        let shard = self.shard(call.account.as_str());
        self.call_until_answered::<i64>(shard, command).await?;
        Ok(())
    }

    pub(super) fn record_call(
        &self,
        call: &Call,
        settlement: &Settlement,
        name: &str,
    ) -> Result<impl Fn(bool) -> RedisCall, StoreError> {
        let names = self.names.account(&call.account);
        let keys = [names.books(), names.usage()];
        let written_call = codec::write_call(call)?;
        let written = codec::write_settlement(settlement, None)?;
        Ok(move |again| {
            RedisCall::script(&RECORD, &keys)
                .resend(once_unless(again))
                .arg(&written_call)
                .arg(&written)
                .arg(self.settings.clock.now().to_string())
                .arg(self.settings.usage_rows_max)
                .arg(name)
                .arg(u8::from(again))
        })
    }
}

/// A script that tolerates duplicates may be resent.
const fn once_unless(again: bool) -> Resend {
    if again { Resend::Safe } else { Resend::Never }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

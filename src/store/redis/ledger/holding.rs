//! Holds: how they are opened, how they end, and what is done about those whose fate is unknown.

use std::{fmt, sync::Arc};

use super::{
    codec::{self, HoldAnswer, corrupt},
    question::{HOLD, INSTANCE, Question, RECORD, SETTLE},
    registry::{Full, Most},
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
    store::{StoreError, StoreErrorKind, redis::connections::Repeat},
};

/// How often a hold is tried by a process that finds that it was taken for dead.
const LIVES: u32 = 3;

/// A hold on its way. Dropped before it is known what became of it, it is given back.
struct Attempt {
    shared: Arc<Shared>,
    account: AccountId,
    id: HoldId,
    fate: Fate,
}

enum Fate {
    /// The server never heard of it, or refused it.
    Nothing,
    /// It may be open.
    Unknown,
    /// It is open, and somebody has it.
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
enum Miss {
    Failed(Failure),
    /// This instance was taken for dead.
    Fenced(u64),
}

impl From<Failure> for Miss {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<StoreError> for Miss {
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
        for _ in 0..LIVES {
            if self.is_closed() {
                return Err(closed().into());
            }
            match self.try_hold(&request, &call).await {
                Ok(Ok((id, grant))) => return Ok(Ok(Hold::granted(id, request, grant))),
                Ok(Err(refusal)) => return Ok(Err(refusal)),
                Err(Miss::Failed(failure)) => return Err(failure),
                Err(Miss::Fenced(instance)) => self.begin_anew(instance).await?,
            }
        }
        let text = "taken for dead again and again";
        Err(StoreError::new(StoreErrorKind::Unavailable, text).into())
    }

    async fn try_hold(
        self: &Arc<Self>,
        request: &HoldRequest,
        call: &str,
    ) -> Result<Result<(HoldId, Grant), HoldRefusal>, Miss> {
        let account = &request.call.account;
        let now = self.settings.clock.elapsed();
        let most = Most {
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
        let question = self.ask_to_hold(id, request, call);
        attempt.fate = Fate::Unknown;
        let answer = self.ask(self.way(account.as_str()), &question).await;
        let answer: Vec<String> = answer.inspect_err(|failure| {
            if !failure.was_sent {
                attempt.fate = Fate::Nothing;
            }
        })?;
        let answer = codec::hold_answer(&answer)?;
        attempt.fate = Fate::Nothing;
        match answer {
            HoldAnswer::Refused(refusal) => Ok(Err(refusal)),
            HoldAnswer::Fenced => Err(Miss::Fenced(id.instance)),
            HoldAnswer::GivenUp => Err(corrupt("new hold").into()),
            HoldAnswer::Granted(grant) => {
                attempt.fate = Fate::Open;
                let ends = self.end_after(request.lifetime);
                self.registry.extend(account, id, ends);
                Ok(Ok((id, grant)))
            }
        }
    }

    pub(super) fn ask_to_hold(&self, id: HoldId, request: &HoldRequest, call: &str) -> Question {
        let now = self.settings.clock.now();
        let windows = self.settings.calendar.windows(now);
        let names = self.names.account(&request.call.account);
        // Where it went over a connection that broke, another server may be asked now, which doesn't know yet that
        // this process may have open holds there.
        let mut question = Question::script(&HOLD, &names.to_hold(id.instance))
            .repeat(Repeat::SameServer)
            .arg(Self::number(id))
            .arg(request.amount.nanos())
            .arg(windows.day)
            .arg(windows.month)
            .arg(codec::expiry(request.expiry))
            .arg(call);
        question = match &request.idempotency {
            None => question.arg("").arg("").arg(0).arg(0),
            Some(wish) => {
                let ends = now.saturating_add(wish.keep_for).unwrap_or(Timestamp::MAX);
                question
                    .arg(&*wish.key)
                    .arg(Hex(&wish.fingerprint).to_string())
                    .arg(now.as_millisecond())
                    .arg(ends.as_millisecond())
            }
        };
        question = question.arg(now.as_second());
        let mut named: Vec<&BudgetId> = Vec::with_capacity(request.budgets.len());
        for budget in &*request.budgets {
            if !named.contains(&budget) {
                named.push(budget);
                question = question.arg(budget.as_str());
            }
        }
        question
    }

    /// Lets the others know where this process has open holds, before it has.
    async fn enter(self: &Arc<Self>, accounts: &[AccountId], instance: u64) -> Result<(), Miss> {
        let _gate = self.gate.read().await;
        let question = self.instance_question("enter", instance);
        let names: Vec<&str> = accounts.iter().map(AccountId::as_str).collect();
        let known: i64 = self
            .ask(self.maintenance_way(), &question.arg(names))
            .await?;
        if known == 0 {
            return Err(Miss::Fenced(instance));
        }
        for account in accounts {
            self.registry.enter(account, instance);
        }
        Ok(())
    }

    /// The server may have lost what it was told last: says once more where this process has open holds.
    pub(super) async fn enter_all(self: &Arc<Self>) -> Result<(), Failure> {
        let instance = self.registry.instance();
        for some in self.registry.doubt().chunks(500) {
            match self.enter(some, instance).await {
                Ok(()) => {}
                Err(Miss::Failed(failure)) => return Err(failure),
                Err(Miss::Fenced(instance)) => return self.begin_anew(instance).await,
            }
        }
        Ok(())
    }

    pub(super) fn maintenance_way(&self) -> u8 {
        self.way("instances")
    }

    pub(super) fn instance_question(&self, what: &str, instance: u64) -> Question {
        let names = &self.names;
        let keys = [names.beats(), names.dead(), names.accounts_of(instance)];
        let question = Question::script(&INSTANCE, &keys);
        question.arg(what).arg(format!("{instance:016x}"))
    }

    /// This process was taken for dead as `instance`: it goes on as another one. Its open holds are others' to
    /// resolve.
    pub(super) async fn begin_anew(self: &Arc<Self>, instance: u64) -> Result<(), Failure> {
        let _registering = self.registering.lock().await;
        if self.registry.instance() != instance {
            return Ok(());
        }
        let next = random()?;
        self.register(next).await?;
        self.registry.begin_anew(next);
        tracing::warn!(
            target: "tollgate::redis",
            "this process was taken for dead: what it held is given back"
        );
        Ok(())
    }

    /// Makes an instance known.
    pub(super) async fn register(self: &Arc<Self>, instance: u64) -> Result<(), Failure> {
        let question = Question::command("HSETNX").arg(self.names.beats());
        let question = question.arg(format!("{instance:016x}")).arg(0);
        self.ask::<i64>(self.maintenance_way(), &question).await?;
        Ok(())
    }

    /// Ends a hold, however long that takes.
    pub(super) async fn settle(
        self: &Arc<Self>,
        hold: &Hold,
        settlement: &Settlement,
    ) -> Result<(), Failure> {
        let account = &hold.call.account;
        let written = codec::write_settlement(settlement)?;
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

    pub(super) fn ask_to_end(
        &self,
        account: &AccountId,
        id: HoldId,
        charged: Money,
        settlement: &str,
        is_given_up: bool,
    ) -> Question {
        let keys = self.names.account(account).to_settle(id.instance);
        let now = self.settings.clock.now();
        Question::script(&SETTLE, &keys)
            .arg(Self::number(id))
            .arg(charged.nanos())
            .arg(settlement)
            .arg(now.to_string())
            .arg(self.settings.usage_rows_max)
            .arg(u8::from(is_given_up))
            .arg(now.as_second())
    }

    /// `false`: others have ended it, or there was no such hold.
    async fn end(
        self: &Arc<Self>,
        account: &AccountId,
        id: HoldId,
        charged: Money,
        settlement: &str,
        is_given_up: bool,
    ) -> Result<bool, Failure> {
        let question = |again| {
            let question = self.ask_to_end(account, id, charged, settlement, is_given_up);
            question.repeat(once_unless(again))
        };
        let insisted = self.insist(self.way(account.as_str()), question).await;
        self.registry.release(account, id);
        let (answer, again): (Vec<String>, bool) = insisted?;
        match answer.split_first() {
            Some((word, passed)) if word == "settled" => {
                self.settings.alerts.tell(codec::alerts(account, passed)?);
                Ok(true)
            }
            Some((word, _)) if word == "resolved" => Ok(false),
            // Asked again, it may have been this very settlement that ended it.
            Some((word, _)) if word == "gone" => Ok(again || is_given_up),
            _ => Err(corrupt("answer").into()),
        }
    }

    /// Gives a hold back of which nobody knows whether it was opened, and sees to it that it isn't any more.
    pub(super) fn give_back(self: &Arc<Self>, account: &AccountId, id: HoldId) {
        let (shared, account) = (Arc::clone(self), account.clone());
        let ticket = self.in_flight.ticket();
        self.runtime.spawn(async move {
            let settlement = Settlement::new(Money::ZERO, Outcome::Disconnected);
            let given_back = match codec::write_settlement(&settlement) {
                Ok(written) => shared.end(&account, id, Money::ZERO, &written, true).await,
                Err(error) => Err(error.into()),
            };
            if let Err(Failure { error, .. }) = given_back {
                tracing::error!(target: "tollgate::ledger", %error, hold = %id, "can't give a hold back");
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
        let question = self.ask_to_record(call, settlement, &name)?;
        let way = self.way(call.account.as_str());
        self.insist::<i64>(way, question).await?;
        Ok(())
    }

    pub(super) fn ask_to_record(
        &self,
        call: &Call,
        settlement: &Settlement,
        name: &str,
    ) -> Result<impl Fn(bool) -> Question, StoreError> {
        let names = self.names.account(&call.account);
        let keys = [names.books(), names.usage()];
        let written_call = codec::write_call(call)?;
        let written = codec::write_settlement(settlement)?;
        Ok(move |again| {
            Question::script(&RECORD, &keys)
                .repeat(once_unless(again))
                .arg(&written_call)
                .arg(&written)
                .arg(self.settings.clock.now().to_string())
                .arg(self.settings.usage_rows_max)
                .arg(name)
                .arg(u8::from(again))
        })
    }
}

/// What knows that it may have been heard before may be heard twice.
const fn once_unless(again: bool) -> Repeat {
    if again { Repeat::Safe } else { Repeat::Never }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

//! What is done at intervals: saying that this process lives, and clearing up after those who don't.
//!
//! An instance is an open ledger. It counts on in `beats` every two seconds. Whoever sees the same count for longer
//! than the recovery time, on a monotonic clock of its own, takes the instance for dead, strikes it off the list and
//! resolves what it held, account by account. In each account that begins with a mark, by which the dead one opens
//! nothing there any more: so a process that was only stopped can't leave a hold behind that nobody looks for.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hashbrown::HashMap;
use tokio::time::timeout;

use super::{
    codec::{self, corrupt},
    question::{ABANDON, Question},
    registry::{HoldRegistry, Overdue},
    shared::{Failure, Shared},
};
use crate::{
    domain::{AccountId, usage::HoldId},
    store::{StoreError, failure_detector::FailureDetector},
};

const BEAT_EVERY: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const TIDY_EVERY: Duration = Duration::from_secs(15);

/// How often it looks whether something is due.
const IDLE: Duration = Duration::from_millis(250);

/// Holds resolved in one call of a script: others wait meanwhile.
const STEP: usize = 200;

/// Accounts of a dead instance that are looked at in one turn, and accounts that are left in one.
const ACCOUNTS: usize = 100;

/// Turns in which a closing ledger resolves what is still open: more than there can be.
const LEAVING_TURNS: u32 = 100_000;

#[derive(Debug, Default)]
pub(super) struct Maintenance {
    beat_due: Duration,
    /// When this process last said that it lives, as far as it was heard.
    beaten_at: Option<Duration>,
    sweep_due: Duration,
    tidy_due: Duration,
    failure_detector: FailureDetector<u64>,
}

/// Runs the maintenance until the ledger is closed.
pub(super) async fn keep(shared: Arc<Shared>) {
    while !shared.is_closed() {
        if timeout(IDLE, shared.closing.notified()).await.is_ok() {
            break;
        }
        let turned = shared.maintenance.lock().await.turn(&shared).await;
        if let Err(Failure { error, .. }) = turned {
            tracing::debug!(target: "tollgate::redis", %error, "maintenance failed");
        }
    }
    if let Err(Failure { error, .. }) = leave(&shared).await {
        tracing::error!(target: "tollgate::redis", %error, "closed badly");
    }
}

/// Ends in order: nothing on its way, no open holds, not on the list. What can't be written in time is tried on, and
/// what is held is not given back: a settlement that waits must find its hold. Once it has ended well it does nothing.
pub(super) async fn leave(shared: &Arc<Shared>) -> Result<(), Failure> {
    let mut maintenance = shared.maintenance.lock().await;
    if shared.has_left() {
        return Ok(());
    }
    shared.closed.store(true, Ordering::Release);
    let deadline = shared.settings.deadline.saturating_mul(3);
    let waited = timeout(deadline, shared.in_flight.wait()).await;
    waited.map_err(|_| Failure::slow())?;
    let instance = shared.registry.instance();
    shared.remove(instance, "").await?;
    for _ in 0..LEAVING_TURNS {
        if maintenance.resolve_dead(shared, instance).await? {
            break;
        }
    }
    shared.note_left();
    shared.closing.notify_one();
    Ok(())
}

/// Holds that are being resolved. When this is dropped, be it because whoever waited for that was cut off, those that are
/// not resolved are put back.
struct BeingResolved<'a> {
    registry: &'a HoldRegistry,
    all: Vec<Overdue>,
    since: Duration,
}

impl Drop for BeingResolved<'_> {
    fn drop(&mut self) {
        for overdue in &self.all {
            self.registry.put_back(overdue, self.since);
        }
    }
}

impl Maintenance {
    /// Does what is due.
    pub(super) async fn turn(&mut self, shared: &Arc<Shared>) -> Result<(), Failure> {
        let elapsed = shared.settings.clock.elapsed();
        if elapsed >= self.beat_due {
            // Whatever comes of it, not again at once.
            self.beat_due = elapsed.saturating_add(SWEEP_EVERY);
            beat(shared).await?;
            self.beaten_at = Some(elapsed);
            self.beat_due = elapsed.saturating_add(BEAT_EVERY);
        }
        if elapsed >= self.sweep_due {
            self.sweep_due = elapsed.saturating_add(SWEEP_EVERY);
            self.resolve_overdue(shared, elapsed).await?;
            if self.is_heard(elapsed) {
                self.remove_the_dead(shared).await?;
            } else {
                // The others may be kept from saying that they live, as this process is.
                self.failure_detector = FailureDetector::default();
            }
            let dead = Question::command("SMEMBERS").arg(shared.names.dead());
            let dead: Vec<String> = shared.ask(shared.maintenance_way(), &dead).await?;
            for instance in dead {
                if !self.resolve_dead(shared, number(&instance)?).await? {
                    // There is more.
                    self.sweep_due = elapsed;
                }
            }
        }
        if elapsed >= self.tidy_due {
            self.tidy_due = elapsed.saturating_add(TIDY_EVERY);
            leave_idle_accounts(shared, elapsed).await?;
        }
        Ok(())
    }

    /// Whether it said lately that it lives.
    fn is_heard(&self, elapsed: Duration) -> bool {
        let since = |beaten_at| elapsed.saturating_sub(beaten_at);
        self.beaten_at
            .is_some_and(|beaten_at| since(beaten_at) < BEAT_EVERY)
    }

    /// Resolves what outlived its lifetime.
    async fn resolve_overdue(
        &self,
        shared: &Arc<Shared>,
        elapsed: Duration,
    ) -> Result<(), Failure> {
        let mut failed = Ok(());
        let taken = BeingResolved {
            registry: &shared.registry,
            all: shared.registry.take_overdue(elapsed),
            since: elapsed,
        };
        for overdue in &taken.all {
            for numbers in overdue.numbers.chunks(STEP) {
                let some = Overdue {
                    account: overdue.account.clone(),
                    instance: overdue.instance,
                    numbers: numbers.to_vec(),
                };
                match abandon(shared, &some.account, some.instance, numbers).await {
                    Ok(_) => shared.registry.resolved(&some),
                    Err(failure) => failed = Err(failure),
                }
            }
        }
        failed
    }

    /// Takes those for dead who have said nothing for too long.
    async fn remove_the_dead(&mut self, shared: &Arc<Shared>) -> Result<(), Failure> {
        let clock = &shared.settings.clock;
        let beats = Question::command("HGETALL").arg(shared.names.beats());
        let asked = clock.elapsed();
        let beats: Vec<(String, i64)> = shared.ask(shared.maintenance_way(), &beats).await?;
        let looked = (asked, clock.elapsed());
        let mut others: HashMap<u64, i64> = HashMap::with_capacity(beats.len());
        for (instance, beats) in beats {
            others.insert(number(&instance)?, beats);
        }
        others.remove(&shared.registry.instance());
        let dead = self
            .failure_detector
            .look(&others, looked, shared.settings.recover_after);
        for (instance, beats) in dead {
            shared.remove(instance, &beats.to_string()).await?;
        }
        Ok(())
    }

    /// Resolves what a dead instance held, in some of its accounts; `false`: there are more.
    async fn resolve_dead(&mut self, shared: &Arc<Shared>, instance: u64) -> Result<bool, Failure> {
        let way = shared.maintenance_way();
        let accounts = Question::command("SRANDMEMBER")
            .arg(shared.names.accounts_of(instance))
            .arg(ACCOUNTS);
        let accounts: Vec<String> = shared.ask(way, &accounts).await?;
        let count = accounts.len();
        let mut done: Vec<String> = Vec::with_capacity(count);
        for name in accounts {
            let Ok(account) = AccountId::new(&name) else {
                // An older version took names with a NUL. Nobody can name it any more, nor ask for what is held there.
                tracing::warn!(
                    target: "tollgate::redis",
                    account = ?name,
                    "can't resolve holds of what is no account: its money stays held"
                );
                done.push(name);
                continue;
            };
            match abandon_all(shared, &account, instance).await {
                Ok(()) => done.push(name),
                Err(failure) if failure.is_passing => return Err(failure),
                // One that can't be resolved must not stop everybody's maintenance.
                Err(Failure { error, .. }) => {
                    tracing::error!(target: "tollgate::redis", %error, %account, "can't resolve holds");
                }
            }
        }
        if !done.is_empty() {
            let question = shared.instance_question("leave", instance).arg(done);
            shared.ask::<i64>(way, &question).await?;
        }
        if count < ACCOUNTS {
            let question = shared.instance_question("forget", instance);
            shared.ask::<i64>(way, &question).await?;
        }
        Ok(count < ACCOUNTS)
    }
}

impl Shared {
    /// Strikes an instance off the list if it has said no more than that.
    async fn remove(self: &Arc<Self>, instance: u64, beats: &str) -> Result<(), Failure> {
        let question = self.instance_question("remove", instance).arg(beats);
        self.ask::<i64>(self.maintenance_way(), &question).await?;
        Ok(())
    }
}

/// Says that this process lives, and where it has open holds, when that may be forgotten.
async fn beat(shared: &Arc<Shared>) -> Result<(), Failure> {
    let instance = shared.registry.instance();
    let question = shared.instance_question("beat", instance);
    let is_known: i64 = shared.ask(shared.maintenance_way(), &question).await?;
    if is_known == 0 {
        shared.begin_anew(instance).await?;
    }
    if shared.take_doubt() {
        let doubt = Doubt(Some(shared));
        shared.enter_all().await?;
        doubt.end();
    }
    Ok(())
}

/// That the server may not know where this process has open holds. Dropped before that has ended, be it because whoever
/// waited for it was cut off, it is for the next sign of life to see to.
struct Doubt<'a>(Option<&'a Shared>);

impl Doubt<'_> {
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.put_doubt_back();
        }
    }
}

/// Resolves all that a dead instance has open in an account.
async fn abandon_all(
    shared: &Arc<Shared>,
    account: &AccountId,
    instance: u64,
) -> Result<(), Failure> {
    while abandon(shared, account, instance, &[]).await? {}
    Ok(())
}

/// Resolves these holds of an instance; without any, some of those that it has open, and it opens no more.
/// Returns whether there are more.
async fn abandon(
    shared: &Arc<Shared>,
    account: &AccountId,
    instance: u64,
    numbers: &[u64],
) -> Result<bool, Failure> {
    let keys = shared.names.account(account).to_settle(instance);
    let now = shared.settings.clock.now();
    let mut question = Question::script(&ABANDON, &keys)
        .arg(u8::from(numbers.is_empty()))
        .arg(now.to_string())
        .arg(shared.settings.usage_rows_max)
        .arg(STEP)
        .arg(now.as_second());
    for number in numbers {
        let id = HoldId {
            instance,
            number: *number,
        };
        question = question.arg(Shared::number(id));
    }
    let way = shared.way(account.as_str());
    let answer: Vec<String> = shared.ask(way, &question).await?;
    let [count, open, passed @ ..] = answer.as_slice() else {
        return Err(corrupt("answer").into());
    };
    if count != "0" {
        tracing::warn!(
            target: "tollgate::redis",
            holds = count,
            %account,
            "resolved holds that nobody settled"
        );
    }
    let alerts = codec::alerts(account, passed)?;
    shared.settings.alerts.tell(alerts);
    Ok(open != "0")
}

/// Where nothing was open for long nobody needs to look when this process is dead.
pub(super) async fn leave_idle_accounts(
    shared: &Arc<Shared>,
    elapsed: Duration,
) -> Result<(), Failure> {
    // Who enters one of them waits until it is left, so that the order is sure.
    let _gate = shared.gate.write().await;
    let idle = shared.registry.take_idle(elapsed, ACCOUNTS);
    if idle.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = idle.iter().map(AccountId::as_str).collect();
    let question = shared.instance_question("leave", shared.registry.instance());
    let question = question.arg(names);
    // What was sent and not answered may come late, when one of them is entered again.
    let doubt = Doubt(Some(shared));
    shared
        .ask::<i64>(shared.maintenance_way(), &question)
        .await?;
    doubt.end();
    Ok(())
}

fn number(instance: &str) -> Result<u64, StoreError> {
    u64::from_str_radix(instance, 16).map_err(|_| corrupt("instance"))
}

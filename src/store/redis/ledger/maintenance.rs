//! Periodic work: sending heartbeats, and cleaning up after dead instances.
//!
//! An instance is an open ledger. Its counter in `beats` goes up every two seconds. Any process
//! that sees the same count for longer than the recovery time, on its own monotonic clock, declares
//! the instance dead, removes it from the list and resolves what it held, account by account. In
//! each account this starts with a mark that stops the dead instance from opening anything more: so
//! a process that was only paused can't leave a hold behind that nobody looks for.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hashbrown::HashMap;
use tokio::time::timeout;

use super::{
    codec::{self, corrupt},
    redis_call::{ABANDON, RedisCall},
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

/// How often it checks whether something is due.
const IDLE: Duration = Duration::from_millis(250);

/// Holds resolved in one script call; others wait meanwhile.
const STEP: usize = 200;

/// Accounts of a dead instance resolved in one run, and idle accounts left in one run.
const ACCOUNTS: usize = 100;

/// Runs in which a closing ledger resolves its open holds: more than can be needed.
const CLOSING_RUNS: u32 = 100_000;

#[derive(Debug, Default)]
pub(super) struct Maintenance {
    beat_due: Duration,
    /// When this process's last acknowledged heartbeat was sent.
    beaten_at: Option<Duration>,
    sweep_due: Duration,
    tidy_due: Duration,
    failure_detector: FailureDetector<u64>,
}

/// Runs the maintenance until the ledger is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    while !shared.is_closed() {
        if timeout(IDLE, shared.closing.notified()).await.is_ok() {
            break;
        }
        let turned = shared.maintenance.lock().await.run_due(&shared).await;
        if let Err(Failure { error, .. }) = turned {
            tracing::debug!(target: "tollgate::redis", %error, "maintenance failed");
        }
    }
    if let Err(Failure { error, .. }) = shut_down(&shared).await {
        tracing::error!(target: "tollgate::redis", %error, "the ledger was not closed cleanly");
    }
}

/// Closes in order: calls in progress, open holds, the entry in the list. What can't be written in
/// time keeps being retried, and holds are not released meanwhile: a waiting settlement must find
/// its hold. After a clean close this does nothing.
pub(super) async fn shut_down(shared: &Arc<Shared>) -> Result<(), Failure> {
    let mut maintenance = shared.maintenance.lock().await;
    if shared.has_shut_down() {
        return Ok(());
    }
    shared.closed.store(true, Ordering::Release);
    let deadline = shared.settings.deadline.saturating_mul(3);
    let waited = timeout(deadline, shared.in_flight.wait()).await;
    waited.map_err(|_| Failure::slow())?;
    let instance = shared.registry.instance();
    shared.remove(instance, "").await?;
    for _ in 0..CLOSING_RUNS {
        if maintenance.resolve_dead(shared, instance).await? {
            break;
        }
    }
    shared.note_shut_down();
    shared.closing.notify_one();
    Ok(())
}

/// Holds being resolved. When this is dropped, even because the work was cancelled, the unresolved
/// ones are put back.
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
    pub(super) async fn run_due(&mut self, shared: &Arc<Shared>) -> Result<(), Failure> {
        let elapsed = shared.settings.clock.elapsed();
        if elapsed >= self.beat_due {
            // Even after a failure, not again immediately.
            self.beat_due = elapsed.saturating_add(SWEEP_EVERY);
            beat(shared).await?;
            self.beaten_at = Some(elapsed);
            self.beat_due = elapsed.saturating_add(BEAT_EVERY);
        }
        if elapsed >= self.sweep_due {
            self.sweep_due = elapsed.saturating_add(SWEEP_EVERY);
            self.resolve_overdue(shared, elapsed).await?;
            if self.was_beat_acknowledged(elapsed) {
                self.remove_the_dead(shared).await?;
            } else {
                // Others may be unable to send heartbeats for the same reason as this process.
                self.failure_detector = FailureDetector::default();
            }
            let dead = RedisCall::command("SMEMBERS").arg(shared.names.dead());
            let dead: Vec<String> = shared.ask(shared.instances_shard(), &dead).await?;
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

    /// Whether a heartbeat was acknowledged recently.
    fn was_beat_acknowledged(&self, elapsed: Duration) -> bool {
        let since = |beaten_at| elapsed.saturating_sub(beaten_at);
        self.beaten_at
            .is_some_and(|beaten_at| since(beaten_at) < BEAT_EVERY)
    }

    /// Resolves expired holds.
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

    /// Declares instances dead that have been silent for too long.
    async fn remove_the_dead(&mut self, shared: &Arc<Shared>) -> Result<(), Failure> {
        let clock = &shared.settings.clock;
        let beats = RedisCall::command("HGETALL").arg(shared.names.beats());
        let asked = clock.elapsed();
        let beats: Vec<(String, i64)> = shared.ask(shared.instances_shard(), &beats).await?;
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

    /// Resolves what a dead instance held, in some of its accounts; `false` if there are more.
    async fn resolve_dead(&mut self, shared: &Arc<Shared>, instance: u64) -> Result<bool, Failure> {
        let shard = shared.instances_shard();
        let accounts = RedisCall::command("SRANDMEMBER")
            .arg(shared.names.accounts_of(instance))
            .arg(ACCOUNTS);
        let accounts: Vec<String> = shared.ask(shard, &accounts).await?;
        let count = accounts.len();
        let mut done: Vec<String> = Vec::with_capacity(count);
        for name in accounts {
            let Ok(account) = AccountId::new(&name) else {
                // An older version took names with a NUL. Nobody can name it any more, nor ask for
                // what is held there.
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
                Err(failure) if failure.is_transient => return Err(failure),
                // One account that can't be resolved must not stop all maintenance.
                Err(Failure { error, .. }) => {
                    tracing::error!(target: "tollgate::redis", %error, %account, "the holds of an account can't be resolved");
                }
            }
        }
        if !done.is_empty() {
            let command = shared.instance_call("leave", instance).arg(done);
            shared.ask::<i64>(shard, &command).await?;
        }
        if count < ACCOUNTS {
            let command = shared.instance_call("forget", instance);
            shared.ask::<i64>(shard, &command).await?;
        }
        Ok(count < ACCOUNTS)
    }
}

impl Shared {
    /// Removes an instance from the list unless it has sent a newer heartbeat.
    async fn remove(self: &Arc<Self>, instance: u64, beats: &str) -> Result<(), Failure> {
        let command = self.instance_call("remove", instance).arg(beats);
        self.ask::<i64>(self.instances_shard(), &command).await?;
        Ok(())
    }
}

/// Sends a heartbeat, and registers the accounts with open holds again if the server may have
/// forgotten them.
async fn beat(shared: &Arc<Shared>) -> Result<(), Failure> {
    let instance = shared.registry.instance();
    let command = shared.instance_call("beat", instance);
    let is_known: i64 = shared.ask(shared.instances_shard(), &command).await?;
    if is_known == 0 {
        shared.become_new_instance(instance).await?;
    }
    if shared.take_reregistration_request() {
        let reregistration = Reregistration(Some(shared));
        shared.reregister().await?;
        reregistration.done();
    }
    Ok(())
}

/// Marks that the server may not know where this process has open holds. If this is dropped early,
/// even because the work was cancelled, the next heartbeat takes care of it.
struct Reregistration<'a>(Option<&'a Shared>);

impl Reregistration<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Reregistration<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.request_reregistration();
        }
    }
}

/// Resolves everything that a dead instance has open in an account.
async fn abandon_all(
    shared: &Arc<Shared>,
    account: &AccountId,
    instance: u64,
) -> Result<(), Failure> {
    while abandon(shared, account, instance, &[]).await? {}
    Ok(())
}

/// Resolves these holds of an instance. With no numbers, resolves some of its open ones and stops
/// it from opening more. Returns whether there are more.
async fn abandon(
    shared: &Arc<Shared>,
    account: &AccountId,
    instance: u64,
    numbers: &[u64],
) -> Result<bool, Failure> {
    let keys = shared.names.account(account).to_settle(instance);
    let now = shared.settings.clock.now();
    let mut command = RedisCall::script(&ABANDON, &keys)
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
        command = command.arg(Shared::number(id));
    }
    let shard = shared.shard(account.as_str());
    let answer: Vec<String> = shared.ask(shard, &command).await?;
    let [count, open, passed @ ..] = answer.as_slice() else {
        return Err(corrupt("answer").into());
    };
    if count != "0" {
        tracing::warn!(
            target: "tollgate::redis",
            holds = count,
            %account,
            "resolved holds that were never settled"
        );
    }
    let alerts = codec::alerts(account, passed)?;
    shared.settings.alerts.tell(alerts);
    Ok(open != "0")
}

/// Unregisters this process from accounts where it had nothing open for a while, so that nobody
/// needs to look there after its death.
pub(super) async fn leave_idle_accounts(
    shared: &Arc<Shared>,
    elapsed: Duration,
) -> Result<(), Failure> {
    // Registering for one of these accounts waits until this is done, so that the order is certain.
    let _gate = shared.gate.write().await;
    let idle = shared.registry.take_idle(elapsed, ACCOUNTS);
    if idle.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = idle.iter().map(AccountId::as_str).collect();
    let command = shared.instance_call("leave", shared.registry.instance());
    let command = command.arg(names);
    // A request without an answer may take effect late, after an account was registered again.
    let reregistration = Reregistration(Some(shared));
    shared
        .ask::<i64>(shared.instances_shard(), &command)
        .await?;
    reregistration.done();
    Ok(())
}

fn number(instance: &str) -> Result<u64, StoreError> {
    u64::from_str_radix(instance, 16).map_err(|_| corrupt("instance"))
}

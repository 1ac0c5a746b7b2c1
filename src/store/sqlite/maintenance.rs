//! The writer's other work: it sends heartbeats, and cleans up after dead instances.
//!
//! An instance is an open store. Its row in `instance` is refreshed every two seconds. An instance
//! that sees another's row unchanged for longer than the recovery time, by its own monotonic clock,
//! suspects it and leaves the lock to others for a moment. If the row is still unchanged then, it
//! declares the other dead and deletes the row; holds of an instance without a row are given back.
//! So neither a changed clock nor a sleeping machine gives back holds in use. A process that was
//! only stopped finds its row gone and continues as a new instance. Its late settlements of holds
//! that were given back are charged, once, for a day.

mod giving_back;

use std::time::Duration;

use hashbrown::{HashMap, hash_map::Entry};

use super::{
    batch::{Tally, UnitOfWork},
    convert::{Failure, micros},
    late, once,
};
use crate::{
    domain::{clock::Timestamp, usage::HoldId},
    store::{StoreError, failure_detector::FailureDetector, settling::Settling},
};

const BEAT_EVERY: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Holds resolved, or rows pruned, in one transaction, while everything else waits.
const STEP: i64 = 1_000;
const STEP_HOLDS: usize = 1_000;

/// What is known of an open hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenHold {
    /// When it expires, by this process's clock.
    pub(super) ends: Duration,
    /// The row of its account.
    pub(super) account: i64,
}

pub(super) struct Maintenance {
    instance: u64,
    /// The instance's open holds, as committed.
    open: HashMap<u64, OpenHold>,
    /// How many of them each account has, by its row; accounts without any have no entry.
    open_of: HashMap<i64, usize>,
    beat_due: Duration,
    sweep_due: Duration,
    /// A heartbeat in this transaction, by both clocks; it counts once committed.
    beat: Option<(Duration, Timestamp)>,
    failure_detector: FailureDetector<i64>,
    /// Instances that have been silent for too long, with the last reading of each.
    suspects: HashMap<i64, i64>,
    /// Holds that can't be resolved, and instances that only have such, with the time until which
    /// they are skipped.
    put_off: HashMap<HoldId, Duration>,
    stuck: HashMap<u64, Duration>,
}

impl Maintenance {
    pub(super) fn new() -> Self {
        Self {
            instance: 0,
            open: HashMap::new(),
            open_of: HashMap::new(),
            beat_due: Duration::ZERO,
            sweep_due: Duration::ZERO,
            beat: None,
            failure_detector: FailureDetector::default(),
            suspects: HashMap::new(),
            put_off: HashMap::new(),
            stuck: HashMap::new(),
        }
    }

    pub(super) fn instance(&self) -> u64 {
        self.instance
    }

    /// How many of its holds are open, as committed.
    fn open(&self) -> usize {
        self.open.len()
    }

    /// Records when a hold expires; returns whether it is one of this instance's.
    pub(super) fn extend(&mut self, id: HoldId, ends: Duration) -> bool {
        let known = (id.instance == self.instance).then(|| self.open.get_mut(&id.number));
        known.flatten().map(|known| known.ends = ends).is_some()
    }

    /// Records which holds a committed transaction opened and ended.
    pub(super) fn note(&mut self, tally: &Tally) {
        if tally.is_anew {
            // Nothing counted so far belongs to this instance any more.
            self.open.clear();
            self.open_of.clear();
        }
        for id in &tally.ended {
            if id.instance == self.instance {
                self.open.remove(&id.number);
            }
        }
        for number in &tally.vanished {
            if let Some(vanished) = self.open.remove(number) {
                self.count(vanished.account, -1);
            }
        }
        let opened = tally.opened.iter();
        self.open
            .extend(opened.map(|(id, hold)| (id.number, *hold)));
    }

    /// Some of the holds that should have ended by `elapsed`, except those whose settlement or
    /// extension is waiting: it may only have had to wait for the disk.
    fn overdue(&self, elapsed: Duration, settling: &Settling) -> Vec<HoldId> {
        let overdue = self.open.iter().filter(|(_, hold)| hold.ends <= elapsed);
        let ids = overdue.map(|(number, _)| HoldId {
            instance: self.instance,
            number: *number,
        });
        let ids = ids.filter(|id| !settling.contains(*id) && !self.put_off.contains_key(id));
        ids.take(STEP_HOLDS).collect()
    }

    /// The open holds of an account, as committed; an instance that `is_anew` in this transaction
    /// has none.
    pub(super) fn open_of(&self, account: i64, is_anew: bool) -> usize {
        let known = (!is_anew).then(|| self.open_of.get(&account));
        known.flatten().copied().unwrap_or_default()
    }

    /// Records what a committed transaction opened and ended.
    pub(super) fn count(&mut self, account: i64, opened: isize) {
        match self.open_of.entry(account) {
            Entry::Occupied(mut open) => {
                *open.get_mut() = open.get().saturating_add_signed(opened);
                if *open.get() == 0 {
                    open.remove();
                }
            }
            Entry::Vacant(none) => {
                if let Ok(opened @ 1..) = usize::try_from(opened) {
                    none.insert(opened);
                }
            }
        }
    }

    /// Whether an instance is suspected that may only be waiting for the lock.
    pub(super) fn suspects_somebody(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Whether no other process is known to have the file open.
    pub(super) fn is_alone(&self) -> bool {
        self.failure_detector.is_alone()
    }

    /// Whether work is due, even without calls.
    pub(super) fn is_due(&self, elapsed: Duration) -> bool {
        elapsed >= self.beat_due.min(self.sweep_due)
    }
}

impl UnitOfWork<'_> {
    /// Sends the heartbeat, and cleans up when due.
    pub(super) fn maintain(&mut self) -> Result<(), Failure> {
        let instance = self.maintenance.instance.cast_signed();
        let known = if self.elapsed >= self.maintenance.beat_due {
            let mut beat = self
                .connection
                .prepare_cached("UPDATE instance SET seen_at = ? WHERE id = ?")?;
            beat.execute([micros(self.now), instance])? > 0
        } else {
            let mut look = self
                .connection
                .prepare_cached("SELECT 1 FROM instance WHERE id = ?")?;
            look.exists([instance])?
        };
        if !known {
            self.register()?;
        }
        if self.elapsed >= self.maintenance.beat_due || !known {
            self.maintenance.beat_due = self.elapsed.saturating_add(BEAT_EVERY);
            self.maintenance.beat = Some((self.elapsed, self.now));
        }
        if self.elapsed >= self.maintenance.sweep_due {
            let all_done = self.sweep()?;
            self.maintenance.sweep_due = if all_done && !self.maintenance.suspects_somebody() {
                self.elapsed.saturating_add(SWEEP_EVERY)
            } else {
                Duration::ZERO
            };
        }
        Ok(())
    }

    /// The transaction is committed, and so is its heartbeat.
    pub(super) fn maintenance_is_committed(&mut self) {
        if let Some((elapsed, now)) = self.maintenance.beat.take() {
            let tenure = &self.settings.tenure;
            tenure.confirm(self.maintenance.instance, elapsed, now);
        }
    }

    /// After a rolled back transaction, everything is due again.
    pub(super) fn maintenance_is_undone(&mut self) {
        self.maintenance.beat_due = Duration::ZERO;
        self.maintenance.beat = None;
        self.maintenance.sweep_due = Duration::ZERO;
        self.maintenance.suspects.clear();
    }

    fn register(&mut self) -> Result<(), Failure> {
        if self.maintenance.open() > 0 {
            tracing::warn!(
                target: "tollgate::sqlite",
                holds = self.maintenance.open(),
                "this process was taken for dead: its open holds are resolved"
            );
        }
        let unavailable = |_| StoreError::internal("no random numbers");
        self.maintenance.instance = getrandom::u64().map_err(unavailable)?;
        let ended = self.tally.ended.len();
        self.tally.lost = self.maintenance.open().saturating_sub(ended);
        self.tally.is_anew = true;
        for account in self.accounts.values_mut() {
            account.opened = 0;
        }
        self.connection
            .prepare_cached("INSERT INTO instance (id, seen_at) VALUES (?, ?)")?
            .execute([self.maintenance.instance.cast_signed(), micros(self.now)])?;
        Ok(())
    }

    /// `false`: there is more to do.
    fn sweep(&mut self) -> Result<bool, Failure> {
        let now = self.elapsed;
        self.maintenance.put_off.retain(|_, until| *until > now);
        self.maintenance.stuck.retain(|_, until| *until > now);
        let mut all_done = self.resolve_overdue()?;
        self.remove_the_dead()?;
        for orphaned in self.orphaned_instances()? {
            all_done &= self.resolve_all_of(orphaned)?;
        }
        all_done &= self.resolve_leases()?;
        all_done &= self.forget_leases()?;
        all_done &= self.prune_audit()?;
        all_done &= late::forget_old(self.connection, self.now, STEP)?;
        let forgotten = once::forget_old(self.connection, self.now, STEP)?;
        Ok(self.prune()? && forgotten && all_done)
    }

    /// Deletes the rows of instances that have been silent for too long, at the second look, before
    /// which the lock was free for a while. An instance that this process, or another, had kept
    /// from writing has written by then.
    fn remove_the_dead(&mut self) -> Result<(), Failure> {
        let own = self.maintenance.instance.cast_signed();
        let mut look = self
            .connection
            .prepare_cached("SELECT id, seen_at FROM instance WHERE id <> ?")?;
        let others = look
            .query_map([own], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<HashMap<i64, i64>, _>>()?;
        // No one can send a heartbeat while this transaction runs.
        let looked = (self.elapsed, self.elapsed);
        let recover_after = self.settings.recover_after;
        let silent = self
            .maintenance
            .failure_detector
            .look(&others, looked, recover_after);
        let suspects = std::mem::take(&mut self.maintenance.suspects);
        let mut remove = self
            .connection
            .prepare_cached("DELETE FROM instance WHERE id = ?")?;
        for (id, reading) in silent {
            if suspects.get(&id) == Some(&reading) {
                remove.execute([id])?;
            } else {
                self.maintenance.suspects.insert(id, reading);
            }
        }
        Ok(())
    }

    /// The instances that have holds and no row.
    fn orphaned_instances(&self) -> Result<Vec<u64>, Failure> {
        // Nearly all holds are this instance's own, which the index skips.
        let mut look = self.connection.prepare_cached(
            "SELECT instance FROM bundle WHERE instance < ?1 AND instance NOT IN (SELECT id FROM instance)
             UNION
             SELECT instance FROM bundle WHERE instance > ?1 AND instance NOT IN (SELECT id FROM instance)",
        )?;
        let own = self.maintenance.instance.cast_signed();
        let orphaned = look.query_map([own], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))?;
        Ok(orphaned.collect::<Result<_, _>>()?)
    }

    /// Deletes the oldest rows of the usage log if it is too long or too old; `false`: there are
    /// more.
    fn prune(&mut self) -> Result<bool, Failure> {
        let first: Option<i64> = self
            .connection
            .prepare_cached("SELECT min(position) FROM usage")?
            .query_row([], |row| row.get(0))?;
        let Some(first) = first else { return Ok(true) };
        let step_end = first.saturating_add(STEP);
        let next: i64 = self
            .connection
            .prepare_cached("SELECT max(position) + 1 FROM usage")?
            .query_row([], |row| row.get(0))?;
        let too_long = next.saturating_sub(self.settings.usage_rows_max);
        let oldest = self
            .now
            .saturating_sub(self.settings.usage_age_max)
            .map_or(i64::MIN, micros);
        let young: Option<i64> = self
            .connection
            .prepare_cached(
                "SELECT min(position) FROM usage WHERE position < ? AND settled_at >= ?",
            )?
            .query_row([step_end, oldest], |row| row.get(0))?;
        let end = young.unwrap_or(step_end).max(too_long).min(step_end);
        if end <= first {
            return Ok(true);
        }
        self.connection
            .prepare_cached("DELETE FROM usage WHERE position < ?")?
            .execute([end])?;
        Ok(end < step_end)
    }

    /// Resolves this instance's open holds and deletes its row: an orderly end.
    pub(super) fn leave(&mut self) -> Result<bool, Failure> {
        let own = self.maintenance.instance.cast_signed();
        let all_done = self.resolve_all_of(self.maintenance.instance)?;
        if all_done {
            self.connection
                .prepare_cached("DELETE FROM instance WHERE id = ?")?
                .execute([own])?;
            self.resolve_leases()?;
        }
        Ok(all_done)
    }
}

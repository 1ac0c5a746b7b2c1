//! Charges that can't be written for a lasting reason: a damaged page, an unreadable row.
//!
//! Each belongs to a call that was answered, and only this process knows of it. So it is logged
//! with everything needed to write it by hand, and its hold stays open, so that limits act as if it
//! were charged. It is retried now and then, alone, so that it blocks nothing else, until it is
//! written or the store is closed. While the file itself is damaged, no holds or leases are
//! granted.

use std::{
    mem,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{
    super::{
        command::{Command, Reply},
        convert::Failure,
    },
    Joining, Writer,
};
use crate::{
    domain::usage::{Call, Settlement},
    store::{StoreError, StoreErrorKind},
};

/// How often they are retried, how many at once, and after how many failures in a row an attempt
/// stops.
const AGAIN_EVERY: Duration = Duration::from_secs(5);
const AT_ONCE_MAX: usize = 256;
const FAILURES_MAX: u32 = 8;

/// Whether the file is damaged, as far as charges (settlements and lease reports) have shown.
#[derive(Debug, Default)]
pub(in crate::store::sqlite) struct Damage(AtomicBool);

impl Damage {
    /// # Errors
    /// `Unavailable`, while there is damage.
    pub(in crate::store::sqlite) fn refuses(&self) -> Result<(), StoreError> {
        if self.0.load(Ordering::Relaxed) {
            let text = "the database is damaged: calls that were answered can't be charged";
            return Err(StoreError::new(StoreErrorKind::Unavailable, text));
        }
        Ok(())
    }
}

/// The outcome of a retry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    NoDamage,
    Damage,
}

impl Writer<'_> {
    /// Keeps a settlement, or a row without a hold. Its caller is told that it isn't written.
    pub(super) fn set_apart(&mut self, mut command: Command, failure: &Failure) {
        let error = &failure.0;
        if failure.is_damage() {
            self.unit.settings.damage.0.store(true, Ordering::Relaxed);
        }
        match &mut command {
            Command::Settle(it) => tell(&it.hold.call, &it.settlement, it.reply.take(), error),
            Command::Record(it) => tell(&it.call, &it.settlement, it.reply.take(), error),
            _ => return self.fail_one(command, error),
        }
        self.apart.push_back(command);
        self.unwritten.report(self.apart.len());
    }

    /// A lease's step failed. Its node keeps the report, and sends it again.
    pub(super) fn note_damage(&mut self, failure: &Failure) {
        if !failure.is_damage() {
            return;
        }
        self.unit.settings.damage.0.store(true, Ordering::Relaxed);
        if self.apart.is_empty() {
            let now = self.unit.settings.clock.elapsed();
            self.apart_due = now.saturating_add(AGAIN_EVERY);
        }
    }

    /// # Errors
    /// `Internal`, if something can't be written.
    pub(super) fn all_is_written(&self) -> Result<(), StoreError> {
        if self.apart.is_empty() {
            return Ok(());
        }
        let text = "calls that were answered can't be charged";
        Err(StoreError::internal(text))
    }

    /// Retries what was set apart, when due.
    pub(super) fn try_apart(&mut self) {
        let now = self.unit.settings.clock.elapsed();
        if now < self.apart_due {
            return;
        }
        if self.apart.is_empty() {
            let damage = &self.unit.settings.damage.0;
            if damage.load(Ordering::Relaxed) {
                // A lease met the damage. Its step is resent until it is accepted, and so shows
                // whether the damage persists.
                damage.store(false, Ordering::Relaxed);
            }
            return;
        }
        self.apart_due = now.saturating_add(AGAIN_EVERY);
        self.try_some_apart(AT_ONCE_MAX, FAILURES_MAX);
    }

    /// Tries each of them for the last time.
    pub(super) fn try_all_apart(&mut self) {
        if !self.apart.is_empty() {
            self.try_some_apart(usize::MAX, u32::MAX);
        }
    }

    fn try_some_apart(&mut self, most: usize, failures_max: u32) {
        let are_all = self.apart.len() <= most;
        let found = self.try_each_apart(most, failures_max);
        // What remains for another reason is no sign of damage, and damage that wasn't looked for
        // may persist.
        if found == Some(Found::NoDamage) && are_all {
            self.unit.settings.damage.0.store(false, Ordering::Relaxed);
        }
        if self.apart.is_empty() {
            tracing::info!(target: "tollgate::sqlite", "what couldn't be written is written");
        }
        self.unwritten.report(self.apart.len());
    }

    /// The outcome; `None` if it stopped before all were tried.
    fn try_each_apart(&mut self, most: usize, failures_max: u32) -> Option<Found> {
        let (mut in_a_row, mut found) = (0_u32, Found::NoDamage);
        for _ in 0..self.apart.len().min(most) {
            let command = self.apart.pop_front()?;
            self.answers.finish();
            let mut alone = vec![command];
            match self.transaction(&mut alone, Joining::Nobody) {
                Ok(()) => {
                    in_a_row = 0;
                    self.succeed(&mut alone);
                }
                Err(failure) => {
                    self.unit.roll_back();
                    self.unit.maintenance_is_undone();
                    self.apart.extend(alone);
                    if failure.is_damage() {
                        found = Found::Damage;
                    }
                    in_a_row = in_a_row.saturating_add(1);
                    // A full or locked disk refuses the others too.
                    if in_a_row >= failures_max || failure.is_passing() {
                        return None;
                    }
                }
            }
        }
        Some(found)
    }

    /// The writer ends: what can't be written is given up, and each is logged again.
    pub(super) fn give_up_apart(&mut self) {
        let closed = StoreError::new(
            StoreErrorKind::Unavailable,
            "the store was closed before this could be written",
        );
        for command in mem::take(&mut self.apart) {
            match &command {
                Command::Settle(it) => tell(&it.hold.call, &it.settlement, None, &closed),
                Command::Record(it) => tell(&it.call, &it.settlement, None, &closed),
                _ => {}
            }
            self.fail_one(command, &closed);
        }
        self.unwritten.report(0);
    }
}

fn tell(call: &Call, settlement: &Settlement, reply: Option<Reply<()>>, error: &StoreError) {
    tracing::error!(
        target: "tollgate::sqlite",
        %error,
        account = %call.account,
        request_id = %call.request_id,
        route = %call.route,
        charged = %settlement.charged,
        "a call that was answered can't be charged: its money stays held, and it is tried again"
    );
    // The caller may have gone.
    let _ = reply.map(|reply| reply.send(Err(error.clone())));
}

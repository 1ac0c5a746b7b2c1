//! The commands of a failed transaction: kept, set apart, or answered with the reason.

use std::sync::atomic::Ordering;

use hashbrown::HashSet;

use super::{
    super::{command::Command, convert::Failure},
    Writer,
};
use crate::{
    repeats::LogLine,
    store::{StoreError, gauge::Gauge},
};

impl Writer<'_> {
    pub(super) fn fail(&mut self, batch: &mut Vec<Command>, failure: &Failure) {
        let error = &failure.0;
        let now = self.unit.settings.clock.elapsed();
        if let Some(LogLine { left_out }) = self.told.failed(error, failure.is_passing(), now) {
            tracing::error!(target: "tollgate::sqlite", %error, left_out, commands = batch.len(), "can't write");
        }
        for command in batch.drain(..) {
            let is_charge = matches!(command, Command::Settle(_) | Command::Record(_));
            let keep = is_charge || matches!(command, Command::Audit(_) | Command::Extend { .. });
            if keep && failure.is_passing() {
                self.again.push(command);
            } else if is_charge {
                self.set_apart(command, failure);
            } else {
                match command {
                    Command::Hold(_) => Gauge::leave(&self.gauge.open_holds, 1),
                    Command::Lease(_) => self.note_damage(failure),
                    _ => {}
                }
                self.fail_one(command, error);
            }
        }
        self.forget_older_extensions(error);
    }

    /// A call asks again while its extension waits, and one per hold is enough: it counts from when
    /// it is written.
    fn forget_older_extensions(&mut self, error: &StoreError) {
        let mut newest = HashSet::new();
        let is_older = |command: &mut Command| match command {
            Command::Extend { hold, .. } => !newest.insert(*hold),
            _ => false,
        };
        self.again.reverse();
        let older: Vec<Command> = self.again.extract_if(.., is_older).collect();
        self.again.reverse();
        for command in older {
            self.fail_one(command, error);
        }
    }

    pub(super) fn fail_one(&self, command: Command, error: &StoreError) {
        match command {
            Command::Audit(_) => {
                Gauge::leave(&self.gauge.events, 1);
                self.gauge.events_lost.fetch_add(1, Ordering::Relaxed);
            }
            Command::Record(_) => Gauge::leave(&self.gauge.records, 1),
            _ => {}
        }
        command.fail(error);
    }
}

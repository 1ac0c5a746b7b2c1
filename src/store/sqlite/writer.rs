//! The single writer thread: group commit.
//!
//! It takes waiting commands, up to a bound, runs them in one transaction, adds what came
//! meanwhile, commits, and only then answers. The disk flush is the main cost, so it is shared by
//! as many commands as possible without making any of them wait for it.

mod apart;
mod closing;
mod refused;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, mpsc::Receiver},
    time::Duration,
};

use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::{
    Settings,
    answers::Answers,
    batch::UnitOfWork,
    command::Command,
    convert::{Failure, micros},
    line::Line,
    maintenance::Maintenance,
    open,
};
use crate::{
    repeats::{LogLine, RepeatsOfWriter},
    store::{StoreError, gauge::Gauge, unwritten::Unwritten},
};

pub(super) use apart::Damage;

/// Commands in one transaction, not counting retries.
const BATCH_MAX: usize = 1_024;

/// How often an idle writer checks whether maintenance is due.
const IDLE: Duration = Duration::from_millis(250);

/// How long it waits before it retries what the disk refused.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// How long the lock is left to others before an instance is declared dead that may only have
/// waited for it. A writer tries every 2 ms; where SQLite's own handler waits, every 100 ms.
const SUSPICION: Duration = Duration::from_millis(400);

/// How long it writes without a pause while others have the file open, and the pause in which they
/// get the lock: SQLite has no queue for it, so the process that has it nearly always gets it
/// again.
const RESTLESS: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_millis(5);

/// How many refusals in a row a closing writer accepts before it gives up what it can't write.
const CLOSING_ATTEMPTS: u32 = 20;

pub(super) struct Writer<'c> {
    unit: UnitOfWork<'c>,
    line: Line,
    answers: Arc<Answers>,
    gauge: Arc<Gauge>,
    /// Settlements that the disk refused, and extensions, one per hold. They go first in the next
    /// transaction.
    again: Vec<Command>,
    /// Settlements that can't be written, and when they are retried.
    apart: VecDeque<Command>,
    unwritten: Unwritten,
    apart_due: Duration,
    /// Whether the last transaction could write nothing.
    is_refused: bool,
    /// What the log has of commands that couldn't be written.
    told: RepeatsOfWriter,
    /// How many callers were answered last.
    answered: usize,
    /// When it last left the lock alone.
    rested_at: Duration,
}

/// Whether more commands may join the current transaction.
#[derive(Clone, Copy)]
enum Joining {
    /// Until it has this many commands.
    Until(usize),
    Nobody,
}

/// The thread's work, from opening the file to the end.
pub(super) fn run(
    settings: &Arc<Settings>,
    queue: Receiver<Command>,
    answers: Arc<Answers>,
    gauge: Arc<Gauge>,
    ready: oneshot::Sender<Result<(), StoreError>>,
) {
    let connection = match open::open_writer(&settings.path) {
        Ok(connection) => connection,
        Err(failure) => {
            let _ = ready.send(Err(failure.0));
            return;
        }
    };
    match Writer::new(&connection, settings, queue, answers, gauge) {
        Ok(mut writer) => {
            writer.answers.of_this_writer();
            // The task that opened the store may have gone.
            if ready.send(Ok(())).is_ok() {
                writer.serve();
            }
            writer.leave();
        }
        Err(failure) => {
            let _ = ready.send(Err(failure.0));
        }
    }
}

/// However it ends, what is committed is answered.
impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.answers.finish();
    }
}

impl<'c> Writer<'c> {
    fn new(
        connection: &'c Connection,
        settings: &Arc<Settings>,
        queue: Receiver<Command>,
        answers: Arc<Answers>,
        gauge: Arc<Gauge>,
    ) -> Result<Self, Failure> {
        let unit = UnitOfWork::new(connection, Arc::clone(settings), Maintenance::new())?;
        let mut writer = Self {
            unit,
            line: Line::new(queue, Arc::clone(&gauge), Arc::clone(&settings.clock)),
            answers,
            gauge,
            again: Vec::new(),
            apart: VecDeque::new(),
            unwritten: Unwritten::begin(),
            apart_due: Duration::ZERO,
            is_refused: false,
            told: RepeatsOfWriter::new(),
            answered: 0,
            rested_at: Duration::ZERO,
        };
        // The first transaction registers the instance, and resolves orphaned holds.
        let first = writer.transaction(&mut Vec::new(), Joining::Nobody);
        if first.is_err() {
            writer.unit.roll_back();
        }
        first.map(|()| writer)
    }

    fn serve(&mut self) {
        self.write_until_closed();
        self.answers.finish();
    }

    fn write_until_closed(&mut self) {
        let mut batch = Vec::new();
        let mut attempts = CLOSING_ATTEMPTS;
        loop {
            self.try_apart();
            let limit = self.fill(&mut batch);
            self.is_refused = !self.turn(&mut batch, Joining::Until(limit));
            if !self.line.is_closing() {
                continue;
            }
            // Callers that gave up a hold meanwhile have its end sent now, before the last look at
            // the queue.
            self.answers.finish();
            // Everything left, including the last use of keys, which nobody waits for.
            attempts = if self.is_refused {
                attempts.saturating_sub(1)
            } else {
                CLOSING_ATTEMPTS
            };
            if attempts == 0 {
                return;
            }
            if self.again.is_empty() {
                // What was sent before closing was requested is in the queue by now.
                self.line.take(&mut batch, 1);
                if batch.is_empty() && self.line.touched().is_empty() {
                    return;
                }
            }
        }
    }

    /// Waits for the first command, and takes what else is there. Returns how many the transaction
    /// may have.
    fn fill(&mut self, batch: &mut Vec<Command>) -> usize {
        if self.is_refused && (!self.again.is_empty() || self.line.is_closing()) {
            self.answers.finish();
            std::thread::sleep(RETRY_AFTER);
        }
        if !self.again.is_empty() {
            let part = self.again.len().min(BATCH_MAX);
            batch.extend(self.again.drain(..part));
        }
        let limit = batch.len().saturating_add(BATCH_MAX);
        if batch.is_empty() {
            self.line.take(batch, limit);
        }
        if batch.is_empty() {
            self.answers.finish();
            let is_closing = self.line.is_closing();
            let patience = if is_closing { Duration::ZERO } else { IDLE };
            let asked = self.unit.settings.clock.elapsed();
            self.line.wait(patience, batch);
            let elapsed = self.unit.settings.clock.elapsed();
            if elapsed.saturating_sub(asked) >= REST {
                self.rested_at = elapsed;
            }
        }
        self.line.take(batch, limit);
        limit
    }

    /// Runs a batch to its end: each command is answered, or kept for a retry. `false`: there was
    /// something to write, and none of it could be written.
    fn turn(&mut self, batch: &mut Vec<Command>, joining: Joining) -> bool {
        let idle = batch.is_empty() && self.line.touched().is_empty();
        if idle
            && !self
                .unit
                .maintenance
                .is_due(self.unit.settings.clock.elapsed())
        {
            return true;
        }
        match self.transaction(batch, joining) {
            Ok(()) => {
                if let Some(LogLine { left_out }) = self.told.succeeded() {
                    tracing::info!(target: "tollgate::sqlite", left_out, "can write again");
                }
                self.answered = batch.len();
                self.succeed(batch);
                true
            }
            Err(failure) => {
                // The transaction may have taken a while.
                self.answers.finish();
                self.unit.roll_back();
                self.unit.maintenance_is_undone();
                if batch.len() > 1 && !failure.is_passing() {
                    // One of them can't be done at all: run each alone, so that it fails alone.
                    let mut has_written = false;
                    for command in mem::take(batch) {
                        has_written |= self.turn(&mut vec![command], Joining::Nobody);
                    }
                    has_written
                } else {
                    self.fail(batch, &failure);
                    false
                }
            }
        }
    }

    /// Leaves the lock to others, if one may be waiting for it in vain.
    fn give_way(&mut self) {
        let rest = if self.unit.maintenance.suspects_somebody() {
            SUSPICION
        } else if self.unit.maintenance.is_alone() {
            return;
        } else {
            REST
        };
        // Another process may keep the lock for long.
        self.answers.finish();
        let clock = &self.unit.settings.clock;
        if rest == SUSPICION || clock.elapsed().saturating_sub(self.rested_at) >= RESTLESS {
            std::thread::sleep(rest);
            self.rested_at = clock.elapsed();
        }
    }

    fn transaction(&mut self, batch: &mut Vec<Command>, joining: Joining) -> Result<(), Failure> {
        self.give_way();
        self.unit.begin()?;
        for command in &mut *batch {
            // Settlements and extensions go first; otherwise a hold could be resolved that only had
            // to wait for the disk.
            if command.is_of_a_hold() {
                command.run(&mut self.unit)?;
            }
        }
        self.unit.maintain()?;
        for command in &mut *batch {
            if !command.is_of_a_hold() {
                command.run(&mut self.unit)?;
            }
        }
        if let Joining::Until(limit) = joining {
            self.run_late(batch, limit)?;
        }
        self.touch()?;
        self.answers.finish();
        self.unit.commit()?;
        self.unit.maintenance_is_committed();
        let alerts = mem::take(&mut self.unit.alerts);
        self.unit.settings.alerts.tell(alerts);
        self.line.forget_touched();
        self.count_holds();
        Ok(())
    }

    /// Runs commands that arrive while the transaction is open.
    fn run_late(&mut self, batch: &mut Vec<Command>, limit: usize) -> Result<(), Failure> {
        let mut done = batch.len();
        let answers = &self.answers;
        while self
            .line
            .take_late(batch, limit, self.answered, || answers.help())
        {
            self.unit.look_at_the_clock();
            for command in batch.iter_mut().skip(done) {
                command.run(&mut self.unit)?;
            }
            done = batch.len();
        }
        Ok(())
    }

    fn touch(&mut self) -> Result<(), Failure> {
        if self.line.touched().is_empty() {
            return Ok(());
        }
        let mut touch = self.unit.connection.prepare_cached(
            "UPDATE api_key SET last_used_at = ?1 WHERE id = ?2
             AND (last_used_at IS NULL OR last_used_at < ?1)",
        )?;
        for (key, at) in self.line.touched() {
            touch.execute(params![micros(*at), key.as_str()])?;
        }
        Ok(())
    }

    fn count_holds(&mut self) {
        let tally = mem::take(&mut self.unit.tally);
        self.unit.maintenance.note(&tally);
        for account in self.unit.accounts.values() {
            if let Some(number) = account.number
                && account.opened != 0
            {
                self.unit.maintenance.count(number, account.opened);
            }
        }
        let gone = tally.lost.saturating_add(tally.ended.len());
        let gone = gone.saturating_add(tally.vanished.len());
        Gauge::leave(&self.gauge.open_holds, gone);
    }

    /// After the commit: answers everyone in the batch.
    fn succeed(&self, batch: &mut Vec<Command>) {
        let is_call = |command: &mut Command| {
            matches!(
                command,
                Command::Hold(_) | Command::Settle(_) | Command::Record(_)
            )
        };
        self.answers.give(batch.extract_if(.., is_call));
        for command in batch.drain(..) {
            match command {
                Command::Flush(reply) => {
                    let _ = reply.send(self.all_is_written());
                }
                Command::Audit(_) => Gauge::leave(&self.gauge.events, 1),
                Command::Job(job) | Command::Lease(job) | Command::Extend { job, .. } => {
                    job.finish(Ok(()));
                }
                _ => {}
            }
        }
    }
}

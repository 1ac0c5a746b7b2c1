//! The queue of commands for the writer.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::Duration,
};

use hashbrown::HashMap;

use super::command::Command;
use crate::{
    domain::{
        KeyId,
        clock::{Clock, Timestamp},
    },
    store::gauge::Gauge,
};

/// For how long, and for how many yields, a transaction stays open for expected commands: a
/// fraction of what a disk flush takes.
const LINGER: Duration = Duration::from_micros(50);
const TURNS_MAX: u32 = 64;

/// The writer's end of the channel. It has no bound of its own: see [`Gauge`].
pub(super) struct Line {
    queue: Receiver<Command>,
    gauge: Arc<Gauge>,
    clock: Arc<dyn Clock>,
    /// Keys that were used, and when last.
    touched: HashMap<KeyId, Timestamp>,
    is_closing: bool,
}

impl Line {
    pub(super) fn new(queue: Receiver<Command>, gauge: Arc<Gauge>, clock: Arc<dyn Clock>) -> Self {
        Self {
            queue,
            gauge,
            clock,
            touched: HashMap::new(),
            is_closing: false,
        }
    }

    /// Whether closing was requested, or all senders are gone.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    pub(super) fn touched(&self) -> &HashMap<KeyId, Timestamp> {
        &self.touched
    }

    pub(super) fn forget_touched(&mut self) {
        self.touched.clear();
    }

    /// Waits up to `patience` for a command.
    pub(super) fn wait(&mut self, patience: Duration, batch: &mut Vec<Command>) {
        match self.queue.recv_timeout(patience) {
            Ok(command) => self.admit(command, batch),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.is_closing = true,
        }
    }

    /// Takes waiting commands, until `batch` has `limit`.
    pub(super) fn take(&mut self, batch: &mut Vec<Command>, limit: usize) {
        while batch.len() < limit {
            match self.queue.try_recv() {
                Ok(command) => self.admit(command, batch),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.is_closing = true;
                    return;
                }
            }
        }
    }

    /// Takes what came since, as [`take`](Self::take) does; `false`: nothing did. Callers that were
    /// answered together often come back together. So while `batch` has fewer than `expected`, this
    /// lingers briefly before it returns `false`, and runs `meanwhile`.
    pub(super) fn take_late(
        &mut self,
        batch: &mut Vec<Command>,
        limit: usize,
        expected: usize,
        meanwhile: impl Fn(),
    ) -> bool {
        let before = batch.len();
        self.take(batch, limit);
        if batch.len() == before && before < expected.min(limit) {
            let end = self.clock.elapsed().saturating_add(LINGER);
            for _ in 0..TURNS_MAX {
                meanwhile();
                std::thread::yield_now();
                self.take(batch, limit);
                if batch.len() > before || self.clock.elapsed() >= end {
                    break;
                }
            }
        }
        batch.len() > before
    }

    fn admit(&mut self, command: Command, batch: &mut Vec<Command>) {
        match &command {
            Command::Close => {
                self.is_closing = true;
                return;
            }
            Command::Hold(_) | Command::Touch { .. } | Command::Job(_) | Command::Lease(_) => {
                Gauge::leave(&self.gauge.queued, 1);
            }
            Command::Record(_)
            | Command::Settle(_)
            | Command::Extend { .. }
            | Command::Audit(_)
            | Command::Flush(_) => {}
        }
        if let Command::Touch { key, at } = command {
            let latest = self.touched.entry(key).or_insert(at);
            *latest = at.max(*latest);
        } else {
            batch.push(command);
        }
    }
}

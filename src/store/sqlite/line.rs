//! Where commands wait to be written.

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
    domain::{KeyId, clock::Timestamp},
    store::gauge::Gauge,
};

/// The writer's end of the channel. It has no bound of its own: see [`Gauge`].
pub(super) struct Line {
    queue: Receiver<Command>,
    gauge: Arc<Gauge>,
    /// Keys that were used, and when last.
    touched: HashMap<KeyId, Timestamp>,
    is_closing: bool,
}

impl Line {
    pub(super) fn new(queue: Receiver<Command>, gauge: Arc<Gauge>) -> Self {
        Self {
            queue,
            gauge,
            touched: HashMap::new(),
            is_closing: false,
        }
    }

    /// Whether the end was asked for, or nobody can ask for anything any more.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    pub(super) fn touched(&self) -> &HashMap<KeyId, Timestamp> {
        &self.touched
    }

    pub(super) fn forget_touched(&mut self) {
        self.touched.clear();
    }

    /// Waits for somebody to come, for `patience` at most.
    pub(super) fn wait(&mut self, patience: Duration, batch: &mut Vec<Command>) {
        match self.queue.recv_timeout(patience) {
            Ok(command) => self.admit(command, batch),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.is_closing = true,
        }
    }

    /// Takes who is there, until `batch` has `limit` commands.
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

    fn admit(&mut self, command: Command, batch: &mut Vec<Command>) {
        match &command {
            Command::Close => {
                self.is_closing = true;
                return;
            }
            Command::Hold { .. } | Command::Touch { .. } | Command::Job(_) => {
                Gauge::leave(&self.gauge.queued, 1);
            }
            Command::Record { .. } => Gauge::leave(&self.gauge.records, 1),
            Command::Settle { .. } | Command::Extend(_) | Command::Audit(_) | Command::Flush(_) => {
            }
        }
        if let Command::Touch { key, at } = command {
            let latest = self.touched.entry(key).or_insert(at);
            *latest = at.max(*latest);
        } else {
            batch.push(command);
        }
    }
}

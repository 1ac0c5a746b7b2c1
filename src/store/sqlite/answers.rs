//! How the writer's answers reach the callers.
//!
//! Answering means waking a task and freeing what its caller allocated. With some hundred calls
//! this took the writer a sixth of its time, in which nothing was written. So the writer answers
//! two of a transaction's calls. Each caller woken at the end of its call answers some others
//! before it continues, on a thread that would be idle until they go on. (Callers that are woken
//! with a hold don't: their handlers may compute, and a task woken from a task may have to wait for
//! that one.) No answer depends on a task that is woken but doesn't run: the writer answers the
//! rest itself as soon as it has nothing to write or waits for the file's lock, and always before
//! the next commit.

use std::{
    cell::OnceCell,
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
        mpsc::Sender,
    },
};

use super::command::{Command, Granted, HoldCommand, RecordCommand, SettleCommand};
use crate::{
    domain::usage::Hold,
    store::{StoreError, gauge::Gauge},
    sync::lock,
};

/// How many of a transaction's calls the writer answers itself: it wakes as many threads as may be
/// asleep.
const WOKEN: usize = 2;

/// How many others each woken caller answers.
const SHARE: usize = 4;

thread_local! {
    static OF_THIS_WRITER: OnceCell<Arc<Answers>> = const { OnceCell::new() };
}

/// Answers everyone whom this thread's writer has yet to answer. It is a plain function because
/// SQLite's busy handler, which calls it while another process has the lock, takes no closure.
pub(super) fn finish_of_this_writer() {
    OF_THIS_WRITER.with(|answers| {
        if let Some(answers) = answers.get() {
            answers.finish();
        }
    });
}

/// Calls that are committed and not yet answered.
pub(super) struct Answers {
    waiting: Mutex<VecDeque<Command>>,
    /// Their approximate number: a caller woken when all are answered needn't take the lock.
    count: AtomicUsize,
    writer: Sender<Command>,
    gauge: Arc<Gauge>,
}

impl Answers {
    pub(super) fn new(writer: Sender<Command>, gauge: Arc<Gauge>) -> Self {
        Self {
            waiting: Mutex::default(),
            count: AtomicUsize::new(0),
            writer,
            gauge,
        }
    }

    /// Registers these as the answers of the writer that runs on this thread.
    pub(super) fn of_this_writer(self: &Arc<Self>) {
        OF_THIS_WRITER.with(|answers| {
            answers.get_or_init(|| Arc::clone(self));
        });
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Command>> {
        lock(&self.waiting)
    }

    /// Queues committed holds, settlements and rows without a hold to be answered.
    pub(super) fn give(&self, commands: impl Iterator<Item = Command>) {
        {
            let mut waiting = self.waiting();
            for command in commands {
                // Callers that help are woken first.
                match command {
                    Command::Hold(_) => waiting.push_back(command),
                    _ => waiting.push_front(command),
                }
            }
            self.count.store(waiting.len(), Ordering::Relaxed);
        }
        self.some(WOKEN);
    }

    /// Answers some of those that wait, on behalf of a caller that was just woken.
    pub(super) fn help(&self) {
        self.some(SHARE);
    }

    /// Answers all.
    pub(super) fn finish(&self) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let all = {
            let mut waiting = self.waiting();
            self.count.store(0, Ordering::Relaxed);
            mem::take(&mut *waiting)
        };
        for command in all {
            self.answer(command);
        }
    }

    /// Answers up to `most` callers. Those that have gone are answered too, which wakes nobody.
    fn some(&self, most: usize) {
        let mut woken = 0_usize;
        while woken < most && self.count.load(Ordering::Relaxed) > 0 {
            let next = {
                let mut waiting = self.waiting();
                let next = waiting.pop_front();
                self.count.store(waiting.len(), Ordering::Relaxed);
                next
            };
            let Some(command) = next else { return };
            if self.answer(command) {
                woken = woken.saturating_add(1);
            }
        }
    }

    /// Returns whether the caller was still there. If not, what was done stays done.
    fn answer(&self, command: Command) -> bool {
        match command {
            Command::Hold(hold) => {
                let HoldCommand {
                    request,
                    granted,
                    reply,
                } = *hold;
                if !matches!(granted, Some(Ok(_))) {
                    Gauge::leave(&self.gauge.open_holds, 1);
                }
                let answer = match granted {
                    None => Err(StoreError::internal("committed without an answer")),
                    Some(Err(refusal)) => Ok(Err(refusal)),
                    Some(Ok((id, grant))) => {
                        let hold = Hold::granted(id, request, grant);
                        Ok(Ok(Granted::new(hold, self.writer.clone())))
                    }
                };
                reply.send(answer).is_ok()
            }
            Command::Settle(settle) => {
                let SettleCommand { reply, .. } = *settle;
                reply.is_some_and(|reply| reply.send(Ok(())).is_ok())
            }
            Command::Record(record) => {
                let RecordCommand { reply, .. } = *record;
                Gauge::leave(&self.gauge.records, 1);
                reply.is_some_and(|reply| reply.send(Ok(())).is_ok())
            }
            _ => false,
        }
    }
}

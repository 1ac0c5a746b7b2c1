//! How the writer's answers get to those who wait.
//!
//! To answer is to wake a task and to let go of what its caller made, and while the writer does that for some hundred calls
//! nobody writes: it was a sixth of its time. So it answers two of a transaction's calls, and whoever is woken at the end of its call answers some of
//! the others before it goes on, in a thread that has nothing to do until they go on. (Not who is woken with a hold: its handler may compute, and a
//! task that is woken from a task may have to wait for that one.) Nobody's answer hangs on one that is woken and doesn't run:
//! whatever is left the writer answers itself, as soon as it has nothing to write or waits for the file's lock, and in any case before
//! it commits again.

use std::{
    cell::OnceCell,
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::Sender,
    },
};

use super::command::{Command, Granted, HoldCommand, RecordCommand, SettleCommand};
use crate::{
    domain::usage::Hold,
    store::{StoreError, gauge::Gauge},
};

/// How many of a transaction's calls the writer answers by itself: as many threads as may sleep are woken.
const WOKEN: usize = 2;

/// How many others whoever is woken answers.
const SHARE: usize = 4;

thread_local! {
    static OF_THIS_WRITER: OnceCell<Arc<Answers>> = const { OnceCell::new() };
}

/// Answers all whom the writer that runs in this thread has to answer: SQLite asks a mere function what to do while another has the
/// lock.
pub(super) fn finish_of_this_writer() {
    OF_THIS_WRITER.with(|answers| {
        if let Some(answers) = answers.get() {
            answers.finish();
        }
    });
}

/// Calls that are committed and not answered.
pub(super) struct Answers {
    waiting: Mutex<VecDeque<Command>>,
    /// How many they are, roughly: who is woken when all are answered looks no further.
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

    /// They are given by the writer that runs in this thread.
    pub(super) fn of_this_writer(self: &Arc<Self>) {
        OF_THIS_WRITER.with(|answers| {
            answers.get_or_init(|| Arc::clone(self));
        });
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Command>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that they are answered: holds, settlements and rows without a hold that are committed.
    pub(super) fn give(&self, commands: impl Iterator<Item = Command>) {
        {
            let mut waiting = self.waiting();
            for command in commands {
                // Those who help are woken first.
                match command {
                    Command::Hold(_) => waiting.push_back(command),
                    _ => waiting.push_front(command),
                }
            }
            self.count.store(waiting.len(), Ordering::Relaxed);
        }
        self.some(WOKEN);
    }

    /// Answers some, where any wait: what whoever was answered does for the others.
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

    /// Answers so many of those who wait. Whoever has gone is answered too, and wakes nobody.
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

    /// Whether somebody heard it. Whoever asked may have gone; what was done stays done.
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

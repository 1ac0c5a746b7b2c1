//! The writer's commands, and their answers.

use std::sync::mpsc::Sender;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{batch::UnitOfWork, convert::Failure};
use crate::{
    domain::{
        KeyId,
        audit::AuditEvent,
        books::{Grant, HoldRefusal},
        clock::Timestamp,
        money::Money,
        usage::{Call, Hold, HoldId, HoldRequest, Outcome, Settlement},
    },
    store::{StoreError, settling::OnItsWay},
};

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Asks for a hold.
pub(super) struct HoldCommand {
    pub(super) request: HoldRequest,
    pub(super) granted: Option<Result<(HoldId, Grant), HoldRefusal>>,
    pub(super) reply: Reply<Result<Granted, HoldRefusal>>,
}

/// Ends a hold.
pub(super) struct SettleCommand {
    pub(super) hold: Hold,
    pub(super) settlement: Settlement,
    /// While it waits to be written its hold isn't overdue. `None`: no call was served under it.
    pub(super) _on_its_way: Option<OnItsWay>,
    pub(super) reply: Option<Reply<()>>,
}

/// Logs a call without a hold.
pub(super) struct RecordCommand {
    pub(super) call: Call,
    pub(super) settlement: Settlement,
    /// `None`: the caller was told that it can't be written.
    pub(super) reply: Option<Reply<()>>,
}

/// Large contents are boxed, and stay in place from the caller to the answer.
pub(super) enum Command {
    Hold(Box<HoldCommand>),
    Settle(Box<SettleCommand>),
    Record(Box<RecordCommand>),
    Touch {
        key: KeyId,
        at: Timestamp,
    },
    Audit(Box<AuditEvent>),
    Job(Box<dyn Job>),
    /// A step of a lease.
    Lease(Box<dyn Job>),
    /// Lets a hold live longer. Never refused.
    Extend {
        hold: HoldId,
        job: Box<dyn Job>,
    },
    Flush(Reply<()>),
    Close,
}

impl Command {
    /// Whether it settles or extends a hold.
    pub(super) fn is_of_a_hold(&self) -> bool {
        matches!(self, Self::Settle(_) | Self::Extend { .. })
    }

    /// Runs it in the current transaction.
    pub(super) fn run(&mut self, unit: &mut UnitOfWork<'_>) -> Result<(), Failure> {
        match self {
            Self::Hold(hold) => {
                // If this isn't the first attempt, the earlier grant was rolled back.
                hold.granted = None;
                // The caller has gone: under heavy load most have.
                if !hold.reply.is_closed() {
                    hold.granted = Some(unit.hold(&hold.request)?);
                }
            }
            Self::Settle(settle) => {
                let hold = &settle.hold;
                if !unit.settle(hold, &settle.settlement)? {
                    tracing::warn!(
                        target: "tollgate::ledger",
                        hold = %hold.id,
                        request_id = %hold.call.request_id,
                        "settled too late: the hold was resolved before"
                    );
                }
            }
            Self::Record(record) => unit.record(&record.call, &record.settlement)?,
            Self::Audit(event) => unit.audit(event)?,
            Self::Job(job) | Self::Lease(job) | Self::Extend { job, .. } => job.run(unit)?,
            Self::Touch { .. } | Self::Flush(_) | Self::Close => {}
        }
        Ok(())
    }

    /// Answers that it was not done.
    pub(super) fn fail(self, error: &StoreError) {
        match self {
            Self::Hold(hold) => {
                let _ = hold.reply.send(Err(error.clone()));
            }
            Self::Settle(settle) => {
                let reply = settle.reply;
                let _ = reply.map(|reply| reply.send(Err(error.clone())));
            }
            Self::Record(record) => {
                let reply = record.reply;
                let _ = reply.map(|reply| reply.send(Err(error.clone())));
            }
            Self::Flush(reply) => {
                let _ = reply.send(Err(error.clone()));
            }
            Self::Job(job) | Self::Lease(job) | Self::Extend { job, .. } => {
                job.finish(Err(error.clone()));
            }
            Self::Audit(_) | Self::Touch { .. } | Self::Close => {}
        }
    }
}

/// A granted hold on its way to the caller. If the caller has gone, it is given back.
pub(super) struct Granted {
    hold: Option<Hold>,
    writer: Sender<Command>,
}

impl Granted {
    pub(super) fn new(hold: Hold, writer: Sender<Command>) -> Self {
        Self {
            hold: Some(hold),
            writer,
        }
    }

    pub(super) fn accept(mut self) -> Option<Hold> {
        self.hold.take()
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        let settlement = Settlement::new(Money::ZERO, Outcome::Disconnected);
        // If the writer has ended, the next one resolves the hold.
        let _ = self.writer.send(Command::Settle(Box::new(SettleCommand {
            hold,
            settlement,
            _on_its_way: None,
            reply: None,
        })));
    }
}

/// Any other change.
pub(super) trait Job: Send {
    /// Runs in the batch's transaction, and again if that was rolled back. An error fails the whole
    /// batch; the job's own error is kept for [`Job::finish`].
    fn run(&mut self, unit: &mut UnitOfWork<'_>) -> Result<(), Failure>;

    /// Answers: `Ok` when it is committed.
    fn finish(self: Box<Self>, committed: Result<(), StoreError>);
}

/// A change that touches no money, in its own savepoint.
pub(super) struct Change<T, F> {
    work: F,
    answer: Option<Result<T, StoreError>>,
    reply: Reply<T>,
}

/// A change in the books. It is either done, or refused before it has changed anything.
pub(super) struct Booking<T, F> {
    work: F,
    answer: Option<Result<T, StoreError>>,
    reply: Reply<T>,
}

impl<T, F> Change<T, F>
where
    F: FnMut(&Connection) -> Result<T, Failure>,
{
    pub(super) fn new(work: F, reply: Reply<T>) -> Self {
        Self {
            work,
            answer: None,
            reply,
        }
    }
}

impl<T, F> Booking<T, F>
where
    F: FnMut(&mut UnitOfWork<'_>) -> Result<Result<T, StoreError>, Failure>,
{
    pub(super) fn new(work: F, reply: Reply<T>) -> Self {
        Self {
            work,
            answer: None,
            reply,
        }
    }
}

fn answer<T>(
    answer: Option<Result<T, StoreError>>,
    reply: Reply<T>,
    committed: Result<(), StoreError>,
) {
    let missing = || Err(StoreError::internal("committed without an answer"));
    let answer = committed.and_then(|()| answer.unwrap_or_else(missing));
    // The caller may have gone; what was done stays done.
    let _ = reply.send(answer);
}

impl<T, F> Job for Change<T, F>
where
    T: Send,
    F: FnMut(&Connection) -> Result<T, Failure> + Send,
{
    fn run(&mut self, unit: &mut UnitOfWork<'_>) -> Result<(), Failure> {
        let connection = unit.connection;
        connection.prepare_cached("SAVEPOINT change")?.execute([])?;
        let outcome = (self.work)(connection);
        // Some failures (a full disk) roll back the whole transaction, and the savepoint with it.
        if connection.is_autocommit() {
            return outcome.and(Err(Failure::corrupt("no transaction")));
        }
        if outcome.is_err() {
            let mut undo = connection.prepare_cached("ROLLBACK TO change")?;
            undo.execute([])?;
        }
        connection.prepare_cached("RELEASE change")?.execute([])?;
        self.answer = Some(outcome.map_err(|failure| failure.0));
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), StoreError>) {
        answer(self.answer, self.reply, committed);
    }
}

impl<T, F> Job for Booking<T, F>
where
    T: Send,
    F: FnMut(&mut UnitOfWork<'_>) -> Result<Result<T, StoreError>, Failure> + Send,
{
    fn run(&mut self, unit: &mut UnitOfWork<'_>) -> Result<(), Failure> {
        self.answer = Some((self.work)(unit)?);
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), StoreError>) {
        answer(self.answer, self.reply, committed);
    }
}

//! What is done at intervals besides saying that this process lives: clearing up after those who don't.
//!
//! An instance is an open store. Its row in `instance` counts on every two seconds. Whoever sees the
//! same count for longer than the recovery time, measured on a monotonic clock of its own, takes the
//! instance for dead and deletes the row; holds of an instance without a row are resolved, as settlements
//! through the lanes, so whoever comes first ends a hold. So neither a clock that is set nor a machine that
//! slept gives holds back that are under way; and a process that was only stopped finds its row gone, begins as a
//! new instance, and its late settlements of holds that were given back change nothing.

mod recovery;
mod tasks;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::JoinHandle,
    time::timeout,
};

use self::{
    recovery::ORPHANED,
    tasks::{Outcomes, forget_old_keys, prune, touch},
};
use super::{
    Shared, Work, answered,
    command::{Command, Reply},
    convert::Failure,
    heartbeat,
};
use crate::{domain::AccountId, store::StoreError};

const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How often it looks whether something is due.
pub(super) const IDLE: Duration = Duration::from_millis(250);

/// How long it waits for the lanes: or one that is held up would keep it from all else.
const PATIENCE: Duration = Duration::from_secs(1);

/// Holds resolved, and rows pruned, in one go: others wait meanwhile.
const STEP: i64 = 1_000;

/// Steps in which a closing store resolves what is still open: more than there can be.
const LEAVING_STEPS: u32 = 10_000;

pub(super) enum Request {
    Flush(Reply<()>),
    Close(Option<Reply<()>>),
}

pub(super) struct Maintenance {
    shared: Arc<Shared>,
    requests: UnboundedReceiver<Request>,
    lanes: Vec<JoinHandle<()>>,
    sweep_due: Duration,
    /// What is on its way to be resolved, and whose it is.
    resolving: Vec<(AccountId, oneshot::Receiver<Result<(), StoreError>>)>,
}

impl Maintenance {
    pub(super) fn new(
        shared: Arc<Shared>,
        requests: UnboundedReceiver<Request>,
        lanes: Vec<JoinHandle<()>>,
    ) -> Self {
        Self {
            shared,
            requests,
            lanes,
            sweep_due: Duration::ZERO,
            resolving: Vec::new(),
        }
    }

    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        let work = async |work: Work| {
            let mut line = work.begin().await?;
            heartbeat::register(&mut line, &work.instance(), &work).await?;
            line.commit().await
        };
        self.shared.in_time(work).await?;
        self.turn(self.shared.settings.deadline).await
    }

    pub(super) async fn run(mut self) {
        loop {
            match timeout(IDLE, self.requests.recv()).await {
                Err(_) => {
                    if let Err(failure) = self.turn(PATIENCE).await {
                        let error = failure.error;
                        tracing::error!(target: "tollgate::postgres", %error, "maintenance failed");
                    }
                }
                Ok(Some(Request::Flush(reply))) => {
                    let _ = reply.send(self.flush().await);
                }
                Ok(Some(Request::Close(reply))) => {
                    let left = self.leave().await;
                    let _ = reply.map(|reply| reply.send(left));
                    return;
                }
                Ok(None) => {
                    let _ = self.leave().await;
                    return;
                }
            }
        }
    }

    /// Does what is due, each thing whatever becomes of the others. What the lanes are asked for is waited for no longer
    /// than `patience`.
    async fn turn(&mut self, patience: Duration) -> Result<(), Failure> {
        let mut outcomes = Outcomes::default();
        let elapsed = self.shared.settings.clock.elapsed();
        outcomes.note(self.shared.heartbeat.lock().await.turn(&self.shared).await)?;
        if elapsed >= self.sweep_due {
            self.sweep_due = elapsed.saturating_add(SWEEP_EVERY);
            outcomes.note(self.shared.in_time(touch).await)?;
            outcomes.note(self.write_events().await)?;
            self.sweep(&mut outcomes, elapsed, patience).await?;
            if outcomes.is_more {
                self.sweep_due = elapsed;
            }
        }
        outcomes.outcome()
    }

    async fn write_events(&self) -> Result<(), Failure> {
        let write = async |work: Work| work.write_events().await;
        self.shared.in_time(write).await
    }

    async fn sweep(
        &mut self,
        outcomes: &mut Outcomes,
        elapsed: Duration,
        patience: Duration,
    ) -> Result<(), Failure> {
        let own = self.shared.instance().id();
        let ended = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
        outcomes.note_part(self.resolve(own, ended, patience).await)?;
        let orphaned = async |work: Work| {
            let mut line = work.read().await?;
            let orphaned = sqlx::query_scalar(ORPHANED).fetch_all(&mut *line).await?;
            Ok(orphaned)
        };
        let orphaned: Vec<i64> = outcomes
            .note(self.shared.in_time(orphaned).await)?
            .unwrap_or_default();
        for instance in orphaned {
            outcomes.note_part(self.resolve(instance, i64::MAX, patience).await)?;
        }
        outcomes.note_part(self.resolve_leases(patience).await)?;
        outcomes.note_part(self.shared.in_time(forget_old_keys).await)?;
        let prune_audit = async |work: Work| work.prune_audit().await;
        outcomes.note_part(self.shared.in_time(prune_audit).await)?;
        outcomes.note_part(self.shared.in_time(prune).await)
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        self.flush_lanes().await?;
        let touched = self.shared.in_time(touch).await;
        touched.map_err(|failure| failure.error)?;
        let written = self.write_events().await;
        written.map_err(|failure| failure.error)?;
        let patience = self.shared.settings.deadline;
        let turned = self.turn(patience).await;
        turned.map_err(|failure| failure.error)
    }

    /// Waits until every lane has done what it was sent before.
    async fn flush_lanes(&self) -> Result<(), StoreError> {
        let answers = self.shared.lanes.iter().map(|lane| {
            let (reply, answer) = oneshot::channel();
            // A lane that has ended drops it, and the answer says so.
            let _ = lane.send(Command::Flush(reply));
            answer
        });
        let answers: Vec<_> = answers.collect();
        for answer in answers {
            answered(answer, self.shared.settings.deadline).await?;
        }
        Ok(())
    }

    /// Ends in order: no open holds, no row of this instance, no tasks.
    async fn leave(&mut self) -> Result<(), StoreError> {
        self.shared.close();
        let mut left = self.flush_lanes().await;
        left = left.and(self.deregister().await.map_err(|failure| failure.error));
        // Where something stays behind, others find it once this process is silent.
        self.shared.heartbeat.lock().await.end();
        self.end_lanes().await;
        if let Err(error) = &left {
            tracing::error!(target: "tollgate::postgres", %error, "closed badly");
        }
        left
    }

    async fn deregister(&mut self) -> Result<(), Failure> {
        for _ in 0..LEAVING_STEPS {
            let patience = self.shared.settings.deadline;
            let own = self.shared.instance().id();
            if self.resolve(own, i64::MAX, patience).await? {
                break;
            }
        }
        self.shared.in_time(touch).await?;
        self.write_events().await?;
        if self
            .shared
            .settling
            .is_any_of(self.shared.instance().id().cast_unsigned())
        {
            // The lanes try it a few times more, and then it is for others to find: not before this process is silent.
            return Err(Failure::slow());
        }
        // Or a beat after that would make this process known again.
        self.shared.heartbeat.lock().await.end();
        let forget = async |work: Work| {
            let mut line = work.begin().await?;
            sqlx::query("DELETE FROM instance WHERE id = $1")
                .bind(work.instance().id())
                .execute(&mut *line)
                .await?;
            line.commit().await
        };
        self.shared.in_time(forget).await?;
        self.resolve_leases(self.shared.settings.deadline).await?;
        Ok(())
    }

    pub(super) async fn end_lanes(&mut self) {
        for lane in &self.shared.lanes {
            let _ = lane.send(Command::Close);
        }
        for lane in self.lanes.drain(..) {
            // One that panicked has said so.
            let _ = lane.await;
        }
    }
}

//! The tasks that write the books: group commit.
//!
//! Each account belongs to one lane. A lane takes what waits, up to a bound, runs it in one
//! transaction, commits, and only then answers. So a busy account costs one update per batch
//! however many calls it has, and only accounts of the same lane wait for another process's lock on
//! it, for no longer than that process's batch takes.
//!
//! A settlement is given up only if its content can't be stored at all. On any other failure it is
//! retried, separately from newer commands, until it is written. Calls of an account that others
//! keep locked are set aside in the same way, so that the rest of the lane doesn't wait for them.

mod locked;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use hashbrown::{HashMap, HashSet};
use sqlx::{Postgres, pool::PoolConnection};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    Shared,
    command::{Command, Reply},
    connection::give_back,
    convert::{Failure, Reason},
};
use crate::{
    domain::AccountId,
    repeats::LogLine,
    store::{StoreError, StoreErrorKind, gauge::Gauge, unwritten::Unwritten},
};

/// Commands per transaction.
const BATCH_MAX: usize = 1_024;

/// How long an idle lane keeps its connection.
const LINGER: Duration = Duration::from_millis(200);

/// The delay before retrying what the database rejected: the first one, and the maximum.
const RETRY_AFTER: Duration = Duration::from_millis(50);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// How often a closing lane retries before it gives up what it can't write.
const CLOSING_ATTEMPTS: u32 = 10;

/// After this many consecutive failures of single accounts that aren't caused by the data, assume
/// that all would fail.
const FAILURES_MAX: u32 = 3;

/// How often one batch may check which accounts are locked.
const LOCK_CHECKS_MAX: u32 = 2;

/// Why a lane waits no longer for a command.
enum Interruption {
    /// A retry is due, or the connection has been idle.
    Due,
    /// Nobody can send any more.
    Closed,
}

/// Where a batch comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Queue,
    Retries,
}

/// Which accounts are checked for the locks of others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Suspects {
    /// All in the batch.
    All,
    /// Those that were locked at the last check.
    Known,
}

pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    queue: UnboundedReceiver<Command>,
    pub(super) sender: UnboundedSender<Command>,
    pub(super) connection: Option<PoolConnection<Postgres>>,
    /// Commands to retry: settlements, which are bounded by the permits for open holds and for rows
    /// without one; extensions, one per hold; and holds that wait for an account's lock.
    retries: VecDeque<Command>,
    retry_at: Instant,
    retry_delay: Duration,
    /// How many charges are among them.
    unwritten: Unwritten,
    /// Accounts that others had locked at the last check.
    locked: HashSet<AccountId>,
    /// Why something is being retried in this round.
    retry_reason: Option<StoreError>,
    flushes: Vec<Reply<()>>,
    closing: bool,
}

impl Lane {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: UnboundedReceiver<Command>,
        sender: UnboundedSender<Command>,
    ) -> Self {
        Self {
            shared,
            queue,
            sender,
            connection: None,
            retries: VecDeque::new(),
            retry_at: Instant::now(),
            retry_delay: RETRY_AFTER,
            unwritten: Unwritten::begin(),
            locked: HashSet::new(),
            retry_reason: None,
            flushes: Vec::new(),
            closing: false,
        }
    }

    /// Runs until the lane is closed and everything is written.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        let mut attempts = CLOSING_ATTEMPTS;
        loop {
            let origin = self.fill(&mut batch).await;
            self.retry_reason = None;
            self.run_batch(&mut batch).await;
            self.count_unwritten();
            self.answer_flushes(origin);
            if !self.closing {
                continue;
            }
            if self.retries.is_empty() {
                // What was sent before the close was requested is in the queue by now.
                match self.queue.try_recv() {
                    Ok(command) => self.admit(command, &mut batch),
                    Err(_) => return,
                }
            } else {
                attempts = attempts.saturating_sub(1);
                if attempts == 0 {
                    self.give_up();
                    return;
                }
            }
        }
    }

    /// Each loop, so that an idle lane costs nothing.
    fn count_unwritten(&mut self) {
        if self.retries.is_empty() && self.unwritten.is_none() {
            return;
        }
        let charges = self.retries.iter().filter(|command| command.is_charge());
        self.unwritten.report(charges.count());
    }

    fn give_up(&mut self) {
        let settlements = self.retries.iter().filter(|command| command.is_charge());
        tracing::error!(
            target: "tollgate::postgres",
            settlements = settlements.count(),
            "closed with unwritten commands that the database kept rejecting"
        );
        let text = "the store was closed before this could be written";
        let closed = StoreError::new(StoreErrorKind::Unavailable, text);
        for command in self.retries.drain(..) {
            command.report_unwritten(&closed);
            command.fail(&closed);
        }
    }

    /// Waits for the first command and takes whatever else is there, or takes what is to be retried
    /// when that is due.
    async fn fill(&mut self, batch: &mut Vec<Command>) -> Origin {
        while batch.is_empty() {
            if !self.retries.is_empty() && (self.closing || self.retry_at <= Instant::now()) {
                sleep_until(self.retry_at).await;
                let part = self.retries.len().min(BATCH_MAX);
                batch.extend(self.retries.drain(..part));
                return Origin::Retries;
            }
            if self.closing {
                return Origin::Queue;
            }
            match self.next().await {
                Ok(command) => self.admit(command, batch),
                Err(Interruption::Closed) => self.closing = true,
                Err(Interruption::Due) => self.release_connection(),
            }
            if !self.flushes.is_empty() {
                break;
            }
        }
        while batch.len() < BATCH_MAX {
            match self.queue.try_recv() {
                Ok(command) => self.admit(command, batch),
                Err(_) => break,
            }
        }
        Origin::Queue
    }

    async fn next(&mut self) -> Result<Command, Interruption> {
        let retry_at = (!self.retries.is_empty()).then_some(self.retry_at);
        let linger = Instant::now().checked_add(LINGER);
        let linger = linger.filter(|_| self.connection.is_some());
        let received = match [retry_at, linger].into_iter().flatten().min() {
            Some(until) => timeout_at(until, self.queue.recv()).await,
            None => Ok(self.queue.recv().await),
        };
        let received = received.map_err(|_| Interruption::Due)?;
        received.ok_or(Interruption::Closed)
    }

    fn admit(&mut self, command: Command, batch: &mut Vec<Command>) {
        match command {
            Command::Close => self.closing = true,
            Command::Flush(reply) => self.flushes.push(reply),
            command => {
                if command.is_queued() {
                    Gauge::leave(&self.shared.gauge.queued, 1);
                }
                batch.push(command);
            }
        }
    }

    /// Answers flushes once everything sent before them is done. For their sake retries are
    /// attempted right away, once.
    fn answer_flushes(&mut self, origin: Origin) {
        if self.flushes.is_empty() {
            return;
        }
        let answer = match &self.retry_reason {
            _ if self.retries.is_empty() => Ok(()),
            Some(error) if origin == Origin::Retries => Err(error.clone()),
            _ => {
                self.retry_at = Instant::now();
                return;
            }
        };
        for reply in self.flushes.drain(..) {
            let _ = reply.send(answer.clone());
        }
    }

    /// Runs a batch to its end: everything in it is answered, or kept for a retry.
    async fn run_batch(&mut self, batch: &mut Vec<Command>) {
        if let Err(failure) = self.set_locked_aside(batch).await {
            return self.fail(batch, &failure);
        }
        let mut outcome = self.attempt(batch).await;
        for _ in 0..LOCK_CHECKS_MAX {
            if !matches!(&outcome, Err(failure) if failure.reason == Reason::Locked) {
                break;
            }
            if let Err(failure) = self.check_locks(batch, Suspects::All).await {
                return self.fail(batch, &failure);
            }
            self.set_aside(batch);
            outcome = self.attempt(batch).await;
        }
        match outcome {
            Ok(()) => {
                if let Some(LogLine { left_out }) = self.shared.unwritten_batches.succeeded() {
                    tracing::info!(target: "tollgate::postgres", left_out, "can write again");
                }
                self.succeed(batch);
            }
            Err(failure) if batch.len() > 1 && !failure.is_transient() => {
                self.one_by_one(batch).await;
            }
            Err(failure) => self.fail(batch, &failure),
        }
    }

    fn succeed(&mut self, batch: &mut Vec<Command>) {
        for command in batch.drain(..) {
            command.succeed(&self.sender);
        }
        if self.retries.is_empty() {
            self.retry_delay = RETRY_AFTER;
        }
    }

    /// One of the commands can't be done: runs each alone, so that only that one fails. After a
    /// failure that isn't final, an account's other commands are not attempted.
    async fn one_by_one(&mut self, batch: &mut Vec<Command>) {
        let mut failed: HashMap<AccountId, Failure> = HashMap::new();
        let mut in_a_row = 0_u32;
        let mut commands = std::mem::take(batch).into_iter();
        while let Some(command) = commands.next() {
            let account = command.account().cloned();
            if let Some(failure) = account.as_ref().and_then(|account| failed.get(account)) {
                let failure = failure.clone();
                self.retry_or_fail(command, &failure, VecDeque::push_back);
                continue;
            }
            let mut alone = vec![command];
            let Err(failure) = self.attempt(&mut alone).await else {
                self.succeed(&mut alone);
                in_a_row = 0;
                continue;
            };
            self.fail(&mut alone, &failure);
            if failure.is_final() {
                continue;
            }
            failed.extend(account.map(|account| (account, failure.clone())));
            in_a_row = in_a_row.saturating_add(1);
            if in_a_row == FAILURES_MAX {
                // Commands that were not attempted come first next time.
                for command in commands.rev() {
                    self.retry_or_fail(command, &failure, VecDeque::push_front);
                }
                return;
            }
        }
    }

    fn fail(&mut self, batch: &mut Vec<Command>, failure: &Failure) {
        let error = &failure.error;
        let now = self.shared.settings.clock.elapsed();
        let told = &self.shared.unwritten_batches;
        if let Some(LogLine { left_out }) = told.failed(error, failure.is_transient(), now) {
            tracing::error!(
                target: "tollgate::postgres",
                %error,
                left_out,
                commands = batch.len(),
                "can't write a batch"
            );
        }
        for command in batch.drain(..) {
            self.retry_or_fail(command, failure, VecDeque::push_back);
        }
        self.schedule_retry();
    }

    fn schedule_retry(&mut self) {
        if self.retries.is_empty() {
            return;
        }
        self.forget_older_extensions();
        let now = Instant::now();
        self.retry_at = now.checked_add(self.retry_delay).unwrap_or(now);
        let longer = self.retry_delay.saturating_mul(2);
        self.retry_delay = longer.min(RETRY_AFTER_MAX);
    }

    /// A caller may extend again while its last extension still waits; only the newest is kept,
    /// since the lifetime counts from when it is written.
    fn forget_older_extensions(&mut self) {
        let mut newest = HashSet::new();
        let mut kept = VecDeque::with_capacity(self.retries.len());
        while let Some(command) = self.retries.pop_back() {
            match command.extending() {
                Some(hold) if !newest.insert(hold) => command.fail(&Failure::slow().error),
                _ => kept.push_front(command),
            }
        }
        self.retries = kept;
    }

    fn retry_or_fail(
        &mut self,
        command: Command,
        failure: &Failure,
        keep: fn(&mut VecDeque<Command>, Command),
    ) {
        if command.must_be_retried() && !failure.is_final() {
            self.retry_reason = Some(failure.error.clone());
            keep(&mut self.retries, command);
        } else {
            command.fail(&failure.error);
        }
    }

    /// Returns the connection to the pool.
    pub(super) fn release_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            give_back(&self.shared, connection);
        }
    }

    /// The lane's connection, kept until it is released.
    pub(super) async fn connect(&mut self) -> Result<PoolConnection<Postgres>, Failure> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let deadline = self.shared.settings.deadline;
        match timeout(deadline, self.shared.pool.acquire()).await {
            Ok(connection) => connection.map_err(Failure::no_connection),
            Err(_) => Err(Failure::no_connection(sqlx::Error::PoolTimedOut)),
        }
    }
}

//! The tasks that write the books: group commit.
//!
//! Each account belongs to one lane. A lane takes what waits, up to a bound, runs it in one transaction, commits,
//! and only then answers. So a hot account costs one update a batch however many calls it has, and who waits for
//! another process's lock on it are the accounts of its lane, for no longer than that process's batch.
//!
//! A settlement is given up only when what it says can't be stored at all. Whatever else is the matter with the database,
//! it is tried again, apart from what comes meanwhile, until it is written. Calls of an account that somebody has locked
//! for long are set aside like that too, so that the others of the lane don't wait for it.

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
    store::{StoreError, StoreErrorKind, gauge::Gauge},
};

/// Commands in one transaction.
const BATCH_MAX: usize = 1_024;

/// How long an idle lane keeps its connection from others.
const LINGER: Duration = Duration::from_millis(200);

/// How long it waits before it tries again what the database refused: at first, and at most.
const RETRY_AFTER: Duration = Duration::from_millis(50);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// How often a closing lane tries, before it gives up what it can't write.
const CLOSING_ATTEMPTS: u32 = 10;

/// So many accounts that fail one after the other, and not for what was to be written, mean that all would.
const FAILURES_MAX: u32 = 3;

/// How often it looks in one turn who is locked.
const LOOKS_MAX: u32 = 2;

/// Accounts that it remembers as locked; beyond that it finds out again.
const LOCKED_MAX: usize = 1_024;

pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    queue: UnboundedReceiver<Command>,
    pub(super) sender: UnboundedSender<Command>,
    pub(super) connection: Option<PoolConnection<Postgres>>,
    /// What is tried again: settlements, of which there are no more than open holds and places for rows without one,
    /// extensions, one a hold, and holds that wait for an account's lock.
    again: VecDeque<Command>,
    again_at: Instant,
    patience: Duration,
    /// Whom others had locked when it last looked.
    locked: HashSet<AccountId>,
    /// Why something was kept in this turn.
    kept: Option<StoreError>,
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
            again: VecDeque::new(),
            again_at: Instant::now(),
            patience: RETRY_AFTER,
            locked: HashSet::new(),
            kept: None,
            flushes: Vec::new(),
            closing: false,
        }
    }

    /// The lane's work, until it is closed and everything is written.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        let mut attempts = CLOSING_ATTEMPTS;
        loop {
            let is_again = self.fill(&mut batch).await;
            self.kept = None;
            self.turn(&mut batch).await;
            self.answer_flushes(is_again);
            if !self.closing {
                continue;
            }
            if self.again.is_empty() {
                // What was sent before the end was asked for is in the queue by now.
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

    fn give_up(&mut self) {
        let settlements = self.again.iter().filter(|command| command.is_charge());
        tracing::error!(
            target: "tollgate::postgres",
            settlements = settlements.count(),
            "closed without having written what the database refused"
        );
        let text = "the store was closed before this could be written";
        let closed = StoreError::new(StoreErrorKind::Unavailable, text);
        for command in self.again.drain(..) {
            command.fail(&closed);
        }
    }

    /// Waits for the first command, and takes what else is there; or what is to be tried again, when it is time for
    /// that. Whether it is that.
    async fn fill(&mut self, batch: &mut Vec<Command>) -> bool {
        while batch.is_empty() {
            if !self.again.is_empty() && (self.closing || self.again_at <= Instant::now()) {
                sleep_until(self.again_at).await;
                let part = self.again.len().min(BATCH_MAX);
                batch.extend(self.again.drain(..part));
                return true;
            }
            if self.closing {
                return false;
            }
            match self.next().await {
                Some(Some(command)) => self.admit(command, batch),
                Some(None) => self.closing = true,
                None => self.let_go(),
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
        false
    }

    /// The next command; nothing when something else is to be done first.
    async fn next(&mut self) -> Option<Option<Command>> {
        let again_at = (!self.again.is_empty()).then_some(self.again_at);
        let linger = Instant::now().checked_add(LINGER);
        let linger = linger.filter(|_| self.connection.is_some());
        match [again_at, linger].into_iter().flatten().min() {
            Some(until) => timeout_at(until, self.queue.recv()).await.ok(),
            None => Some(self.queue.recv().await),
        }
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

    /// Answers those who wait until everything is done that was sent before. What is to be tried again is tried for
    /// them at once, and once.
    fn answer_flushes(&mut self, was_again: bool) {
        if self.flushes.is_empty() {
            return;
        }
        let answer = match &self.kept {
            _ if self.again.is_empty() => Ok(()),
            Some(error) if was_again => Err(error.clone()),
            _ => {
                self.again_at = Instant::now();
                return;
            }
        };
        for reply in self.flushes.drain(..) {
            let _ = reply.send(answer.clone());
        }
    }

    /// Runs a batch to its end: everything in it is answered, or kept to be tried again.
    async fn turn(&mut self, batch: &mut Vec<Command>) {
        if let Err(failure) = self.set_locked_aside(batch).await {
            return self.fail(batch, &failure);
        }
        let mut outcome = self.attempt(batch).await;
        for _ in 0..LOOKS_MAX {
            if !matches!(&outcome, Err(failure) if failure.reason == Reason::Locked) {
                break;
            }
            if let Err(failure) = self.look_for_locks(batch, false).await {
                return self.fail(batch, &failure);
            }
            self.set_aside(batch);
            outcome = self.attempt(batch).await;
        }
        match outcome {
            Ok(()) => self.succeed(batch),
            Err(failure) if batch.len() > 1 && !failure.is_passing() => {
                self.one_by_one(batch).await;
            }
            Err(failure) => self.fail(batch, &failure),
        }
    }

    fn succeed(&mut self, batch: &mut Vec<Command>) {
        for command in batch.drain(..) {
            command.succeed(&self.sender);
        }
        if self.again.is_empty() {
            self.patience = RETRY_AFTER;
        }
    }

    /// One of them can't be done: each alone, so that it fails alone; of an account that can't be written to, one.
    async fn one_by_one(&mut self, batch: &mut Vec<Command>) {
        let mut failed: HashMap<AccountId, Failure> = HashMap::new();
        let mut in_a_row = 0_u32;
        let mut commands = std::mem::take(batch).into_iter();
        while let Some(command) = commands.next() {
            let account = command.account().cloned();
            if let Some(failure) = account.as_ref().and_then(|account| failed.get(account)) {
                let failure = failure.clone();
                self.keep_or_fail(command, &failure, VecDeque::push_back);
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
                // Those that were not tried come first the next time.
                for command in commands.rev() {
                    self.keep_or_fail(command, &failure, VecDeque::push_front);
                }
                return;
            }
        }
    }

    fn fail(&mut self, batch: &mut Vec<Command>, failure: &Failure) {
        let error = &failure.error;
        tracing::error!(target: "tollgate::postgres", %error, commands = batch.len(), "can't write");
        for command in batch.drain(..) {
            self.keep_or_fail(command, failure, VecDeque::push_back);
        }
        self.wait_longer();
    }

    fn wait_longer(&mut self) {
        if self.again.is_empty() {
            return;
        }
        self.forget_older_extensions();
        let now = Instant::now();
        self.again_at = now.checked_add(self.patience).unwrap_or(now);
        let longer = self.patience.saturating_mul(2);
        self.patience = longer.min(RETRY_AFTER_MAX);
    }

    /// A call asks again while its extension waits, and one of a hold is enough: it counts from when it is written.
    fn forget_older_extensions(&mut self) {
        let mut newest = HashSet::new();
        let mut kept = VecDeque::with_capacity(self.again.len());
        while let Some(command) = self.again.pop_back() {
            match command.extending() {
                Some(hold) if !newest.insert(hold) => command.fail(&Failure::slow().error),
                _ => kept.push_front(command),
            }
        }
        self.again = kept;
    }

    fn keep_or_fail(
        &mut self,
        command: Command,
        failure: &Failure,
        keep: fn(&mut VecDeque<Command>, Command),
    ) {
        if command.is_kept() && !failure.is_final() {
            self.kept = Some(failure.error.clone());
            keep(&mut self.again, command);
        } else {
            command.fail(&failure.error);
        }
    }

    /// Of those who were locked, looks who is yet, and sets their calls aside: others don't wait for them.
    async fn set_locked_aside(&mut self, batch: &mut Vec<Command>) -> Result<(), Failure> {
        let mut accounts = batch.iter().filter_map(Command::account);
        if self.locked.is_empty() || !accounts.any(|account| self.locked.contains(account)) {
            return Ok(());
        }
        self.look_for_locks(batch, true).await?;
        self.set_aside(batch);
        Ok(())
    }

    /// Notes whose accounts are locked now, of all, or of those that were when it looked before.
    async fn look_for_locks(&mut self, batch: &[Command], known: bool) -> Result<(), Failure> {
        let accounts = batch.iter().filter_map(Command::account);
        let accounts: HashSet<AccountId> = accounts
            .filter(|account| !known || self.locked.contains(*account))
            .cloned()
            .collect();
        let locked = self.locked_of(&accounts).await?;
        self.locked.retain(|account| !accounts.contains(account));
        if self.locked.len().saturating_add(locked.len()) > LOCKED_MAX {
            self.locked.clear();
        }
        self.locked.extend(locked);
        Ok(())
    }

    /// Takes the calls of locked accounts out of the batch. Settlements, and who asks for a hold, wait; all else fails.
    fn set_aside(&mut self, batch: &mut Vec<Command>) {
        let is_locked = |command: &mut Command| {
            let account = command.account();
            account.is_some_and(|account| self.locked.contains(account))
        };
        let aside: Vec<Command> = batch.extract_if(.., is_locked).collect();
        if aside.is_empty() {
            return;
        }
        let failure = Failure::locked();
        tracing::warn!(
            target: "tollgate::postgres",
            calls = aside.len(),
            "accounts are locked by others: their calls wait"
        );
        for command in aside {
            let waits = matches!(command, Command::Hold { .. }) && command.is_wanted();
            if waits && !self.closing {
                self.kept = Some(failure.error.clone());
                self.again.push_back(command);
            } else {
                self.keep_or_fail(command, &failure, VecDeque::push_back);
            }
        }
        self.wait_longer();
    }

    /// The connection isn't kept from others any more.
    pub(super) fn let_go(&mut self) {
        if let Some(connection) = self.connection.take() {
            give_back(&self.shared, connection);
        }
    }

    /// A connection, which the lane has until it gives it back.
    pub(super) async fn connect(&mut self) -> Result<PoolConnection<Postgres>, Failure> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let deadline = self.shared.settings.deadline;
        match timeout(deadline, self.shared.pool.acquire()).await {
            Ok(connection) => connection.map_err(Failure::away),
            Err(_) => Err(Failure::away(sqlx::Error::PoolTimedOut)),
        }
    }
}

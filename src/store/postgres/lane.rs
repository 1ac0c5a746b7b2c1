//! The tasks that write the books: group commit.
//!
//! Each account belongs to one lane. A lane takes what waits, up to a bound, runs it in one transaction, commits,
//! and only then answers. So a hot account costs one update a batch however many calls it has, and who waits for
//! another process's lock on it are the accounts of its lane, for no longer than that process's batch.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use hashbrown::HashMap;
use sqlx::{AssertSqlSafe, Postgres, pool::PoolConnection, postgres::PgConnection};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    time::{sleep, timeout},
};

use super::{
    Shared,
    batch::Desk,
    command::{Command, Granted, give_back},
    convert::Failure,
    instance::Instance,
    leases::Leases,
    once::Keys,
    statements,
    write::write_back,
};
use crate::{
    domain::{AccountId, usage::Hold},
    store::{StoreError, StoreErrorKind, gauge::Gauge},
};

/// Commands in one transaction.
const BATCH_MAX: usize = 1_024;

/// How often a transaction is done again at once when others were in its way.
const ATTEMPTS: u32 = 5;

/// How long an idle lane keeps its connection from others.
const LINGER: Duration = Duration::from_millis(200);

/// How long it waits before it tries again what the database refused: at first, and at most.
const RETRY_AFTER: Duration = Duration::from_millis(50);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// How often a closing lane tries, before it gives up what it can't write.
const CLOSING_ATTEMPTS: u32 = 10;

pub(super) struct Lane {
    shared: Arc<Shared>,
    queue: UnboundedReceiver<Command>,
    sender: UnboundedSender<Command>,
    connection: Option<PoolConnection<Postgres>>,
    /// Settlements that the database refused. They go first. No more than there are open holds and places
    /// for rows without one.
    again: VecDeque<Command>,
    patience: Duration,
    /// Open holds of this lane's accounts, as committed, and whose they are; none of those that have none.
    open: (i64, HashMap<AccountId, usize>),
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
            patience: RETRY_AFTER,
            open: (0, HashMap::new()),
            closing: false,
        }
    }

    /// The lane's work, until it is closed and everything is written.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        let mut attempts = CLOSING_ATTEMPTS;
        loop {
            self.fill(&mut batch).await;
            self.turn(&mut batch).await;
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
        tracing::error!(
            target: "tollgate::postgres",
            settlements = self.again.len(),
            "closed without having written what the database refused"
        );
        let text = "the store was closed before this could be written";
        let closed = StoreError::new(StoreErrorKind::Unavailable, text);
        for command in self.again.drain(..) {
            command.fail(&closed);
        }
    }

    /// Waits for the first command, and takes what else is there.
    async fn fill(&mut self, batch: &mut Vec<Command>) {
        if !self.again.is_empty() {
            sleep(self.patience).await;
            let part = self.again.len().min(BATCH_MAX);
            batch.extend(self.again.drain(..part));
        }
        if batch.is_empty() && !self.closing {
            let next = match timeout(LINGER, self.queue.recv()).await {
                Ok(next) => next,
                Err(_) => {
                    self.connection = None;
                    self.queue.recv().await
                }
            };
            match next {
                Some(command) => self.admit(command, batch),
                None => self.closing = true,
            }
        }
        while batch.len() < BATCH_MAX {
            match self.queue.try_recv() {
                Ok(command) => self.admit(command, batch),
                Err(_) => return,
            }
        }
    }

    fn admit(&mut self, command: Command, batch: &mut Vec<Command>) {
        match &command {
            Command::Close => {
                self.closing = true;
                return;
            }
            Command::Hold { .. }
            | Command::Pay { .. }
            | Command::Lease { .. }
            | Command::SetCreditLine { .. }
            | Command::SetLimits { .. } => {
                Gauge::leave(&self.shared.gauge.queued, 1);
            }
            Command::Settle { .. }
            | Command::Extend { .. }
            | Command::Record { .. }
            | Command::EndLease { .. }
            | Command::Flush(_) => {}
        }
        batch.push(command);
    }

    /// Runs a batch to its end: everything in it is answered, or kept to be tried again.
    async fn turn(&mut self, batch: &mut Vec<Command>) {
        match self.attempt(batch).await {
            Ok(instance) => self.succeed(batch, instance.as_ref()),
            Err(failure) if batch.len() > 1 && !failure.is_passing() => {
                // One of them can't be done at all: each alone, so that it fails alone.
                for command in std::mem::take(batch) {
                    let mut alone = vec![command];
                    match self.attempt(&mut alone).await {
                        Ok(instance) => self.succeed(&mut alone, instance.as_ref()),
                        Err(failure) => self.fail(&mut alone, &failure),
                    }
                }
            }
            Err(failure) => self.fail(batch, &failure),
        }
    }

    fn fail(&mut self, batch: &mut Vec<Command>, failure: &Failure) {
        let error = &failure.error;
        tracing::error!(target: "tollgate::postgres", %error, commands = batch.len(), "can't write");
        for command in batch.drain(..) {
            let keep = matches!(command, Command::Settle { .. } | Command::Record { .. });
            if keep && failure.is_passing() {
                self.again.push_back(command);
                continue;
            }
            match &command {
                Command::Hold { .. } => Gauge::leave(&self.shared.gauge.open_holds, 1),
                Command::Record { .. } => Gauge::leave(&self.shared.gauge.records, 1),
                _ => {}
            }
            command.fail(error);
        }
        if failure.is_passing() {
            let longer = self.patience.saturating_mul(2);
            self.patience = longer.min(RETRY_AFTER_MAX);
        }
    }

    /// The transaction, a few times where others were in the way. Returns as whom it was done; nobody, when there
    /// was nothing to do.
    async fn attempt(&mut self, batch: &mut [Command]) -> Result<Option<Arc<Instance>>, Failure> {
        if batch.iter().all(|command| command.account().is_none()) {
            return Ok(None);
        }
        let mut outcome = Err(Failure::repeat());
        for _ in 0..ATTEMPTS {
            outcome = self.transaction(batch).await;
            match &outcome {
                Err(failure) if failure.repeat => {}
                _ => break,
            }
        }
        outcome.map(Some)
    }

    async fn transaction(&mut self, batch: &mut [Command]) -> Result<Arc<Instance>, Failure> {
        let deadline = self.shared.settings.deadline;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => timeout(deadline, self.shared.pool.acquire())
                .await
                .map_err(|_| Failure::slow())??,
        };
        let instance = self.shared.instance();
        let mut progress = Progress::default();
        let work = self.work(&mut connection, &instance, batch, &mut progress);
        let failure = match timeout(deadline, work).await {
            Ok(Ok(())) => {
                self.connection = Some(connection);
                self.patience = RETRY_AFTER;
                return Ok(instance);
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::slow(),
        };
        if failure.answered {
            let undo = progress.roll_back(&mut connection);
            if let Ok(Ok(())) = timeout(deadline, undo).await {
                self.connection = Some(connection);
                return Err(failure);
            }
        }
        connection.close_on_drop();
        // An answer is no proof: a backend that is ended between its commit and its answer says so, too.
        if progress.committing {
            self.take_back(batch);
        }
        Err(failure)
    }

    /// The connection was lost on the way of a commit: holds that were granted may be in the database, where
    /// nobody would settle them. A settlement may be there too; tried again, it finds its hold gone.
    fn take_back(&self, batch: &mut [Command]) {
        for command in batch {
            if let Command::Hold {
                request, granted, ..
            } = command
                && let Some(Ok((id, grant))) = granted.take()
            {
                let hold = Hold::granted(id, request.clone(), grant);
                let _ = self.sender.send(give_back(hold));
            }
        }
    }

    async fn work(
        &mut self,
        connection: &mut PgConnection,
        instance: &Arc<Instance>,
        batch: &mut [Command],
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut desk = self
            .open_books(connection, instance, batch, progress)
            .await?;
        desk.book(instance, batch)?;
        write_back(connection, &desk, instance.id(), batch).await?;
        statements::pay(connection, &desk, batch).await?;
        desk.keys.write_back(connection).await?;
        let (leases, now) = (&desk.leases, desk.now);
        leases.write_back(connection, batch, now).await?;
        progress.committing = true;
        sqlx::raw_sql("COMMIT").execute(connection).await?;
        self.count(&mut desk, instance, batch);
        self.shared.settings.alerts.tell(desk.alerts);
        Ok(())
    }

    /// Begins the transaction, locks what the batch needs and loads it.
    async fn open_books(
        &self,
        connection: &mut PgConnection,
        instance: &Arc<Instance>,
        batch: &[Command],
        progress: &mut Progress,
    ) -> Result<Desk, Failure> {
        progress.begun = true;
        if !begin(connection, &self.shared.begin, instance).await? {
            progress.roll_back(connection).await?;
            self.shared.register_anew(connection, instance).await?;
            return Err(Failure::repeat());
        }
        let wanted = batch.iter().filter(|command| command.is_wanted());
        let ids = sorted(wanted.filter_map(Command::account));
        let mut accounts = statements::lock(connection, &ids).await?;
        let needed = batch.iter().filter(|command| command.needs_account());
        let missing = needed.filter_map(Command::account).filter(|id| {
            accounts
                .get(*id)
                .is_some_and(|found| found.number.is_none())
        });
        let missing = sorted(missing);
        if !missing.is_empty() {
            progress.roll_back(connection).await?;
            statements::make_accounts(connection, &missing).await?;
            return Err(Failure::repeat());
        }
        statements::load_budgets(connection, &mut accounts, batch).await?;
        if self.open.0 == instance.id() {
            for (id, account) in &mut accounts {
                account.open = self.open.1.get(id).copied().unwrap_or_default();
            }
        }
        let settings = &self.shared.settings;
        let (now, elapsed) = (settings.clock.now(), settings.clock.elapsed());
        Ok(Desk {
            keys: Keys::load(connection, &accounts, batch).await?,
            accounts,
            ended: statements::end_holds(connection, batch).await?,
            leases: Leases::load(connection, batch).await?,
            payments: statements::payments(connection, batch).await?,
            opened: Vec::new(),
            logged: Vec::new(),
            paid: Vec::new(),
            open_max: settings.open_holds_per_account_max,
            now,
            extended: statements::extend_holds(connection, instance, elapsed, batch).await?,
            alerts: Vec::new(),
            elapsed,
            moment: settings.calendar.moment(now),
        })
    }

    fn count(&mut self, desk: &mut Desk, instance: &Instance, batch: &[Command]) {
        if self.open.0 != instance.id() {
            self.open = (instance.id(), HashMap::new());
        }
        for (id, account) in desk.accounts.drain() {
            if account.open > 0 {
                self.open.1.insert(id, account.open);
            } else {
                self.open.1.remove(&id);
            }
        }
        let lost = instance.opened(desk.opened.len());
        let ended = instance.ended(desk.ended_of(instance, batch));
        Gauge::leave(&self.shared.gauge.open_holds, lost.saturating_add(ended));
    }

    fn succeed(&self, batch: &mut Vec<Command>, instance: Option<&Arc<Instance>>) {
        let missing = || StoreError::internal("committed without an answer");
        let gauge = &self.shared.gauge;
        // Whoever asked may have gone; what was done stays done.
        for command in batch.drain(..) {
            match command {
                Command::Hold {
                    request,
                    granted,
                    reply,
                } => {
                    if instance.is_none() || !matches!(granted, Some(Ok(_))) {
                        Gauge::leave(&gauge.open_holds, 1);
                    }
                    let answer = match granted {
                        None => Err(missing()),
                        Some(Err(refusal)) => Ok(Err(refusal)),
                        Some(Ok((id, grant))) => {
                            let hold = Hold::granted(id, request, grant);
                            Ok(Ok(Granted::new(hold, self.sender.clone())))
                        }
                    };
                    let _ = reply.send(answer);
                }
                Command::Settle { reply, .. } => {
                    let _ = reply.map(|reply| reply.send(Ok(())));
                }
                Command::Record { reply, .. } => {
                    Gauge::leave(&gauge.records, 1);
                    let _ = reply.send(Ok(()));
                }
                Command::Flush(reply) | Command::EndLease { reply, .. } => {
                    let _ = reply.send(Ok(()));
                }
                Command::Lease { answer, reply, .. } => {
                    let _ = reply.send(answer.ok_or_else(missing));
                }
                Command::Extend { answer, reply, .. } => {
                    let _ = reply.send(answer.ok_or_else(missing));
                }
                Command::Pay { answer, reply, .. } => {
                    let _ = reply.send(answer.unwrap_or_else(|| Err(missing())));
                }
                Command::SetCreditLine { answer, reply, .. } => {
                    let _ = reply.send(answer.ok_or_else(missing));
                }
                Command::SetLimits { answer, reply, .. } => {
                    let _ = reply.send(answer.ok_or_else(missing));
                }
                Command::Close => {}
            }
        }
    }
}

/// How far a transaction has come.
#[derive(Default)]
struct Progress {
    begun: bool,
    committing: bool,
}

impl Progress {
    async fn roll_back(&mut self, connection: &mut PgConnection) -> Result<(), Failure> {
        if std::mem::take(&mut self.begun) {
            sqlx::raw_sql("ROLLBACK").execute(connection).await?;
        }
        Ok(())
    }
}

/// Each once, in one order.
fn sorted<'a>(ids: impl Iterator<Item = &'a AccountId>) -> Vec<&'a AccountId> {
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Begins a transaction, and says whether this instance is known to be alive: until the transaction ends it can't
/// be taken for dead. What is committed is on the disk, whatever the server's own setting.
async fn begin(
    connection: &mut PgConnection,
    begin: &str,
    instance: &Instance,
) -> Result<bool, Failure> {
    let known = format!(
        "{begin}; SELECT CASE current_setting('synchronous_commit') WHEN 'off'
             THEN set_config('synchronous_commit', 'on', true) END
         FROM tollgate.instance WHERE id = {} FOR KEY SHARE",
        instance.id()
    );
    let found = sqlx::raw_sql(AssertSqlSafe(known))
        .fetch_all(connection)
        .await?;
    Ok(!found.is_empty())
}

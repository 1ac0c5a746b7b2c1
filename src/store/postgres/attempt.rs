//! A lane's transaction, from begin to commit.

use std::sync::Arc;

use hashbrown::HashSet;
use sqlx::{AssertSqlSafe, postgres::PgConnection};
use tokio::time::timeout;

use super::{
    batch::UnitOfWork,
    command::{Command, give_back},
    connection::discard,
    convert::Failure,
    heartbeat,
    idempotency::IdempotencyKeys,
    instance::{Instance, OpenHold},
    lane::Lane,
    late::Late,
    leases::Leases,
    payments::Payments,
    statements,
    write::write_back,
};
use crate::domain::{AccountId, usage::Hold};

/// How often a transaction is retried immediately when it conflicted with others.
const ATTEMPTS: u32 = 5;

impl Lane {
    /// Runs the transaction, and retries it a few times on conflict.
    pub(super) async fn attempt(&mut self, batch: &mut [Command]) -> Result<(), Failure> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut outcome = Err(Failure::conflict());
        for _ in 0..ATTEMPTS {
            outcome = self.transaction(batch).await;
            match &outcome {
                Err(failure) if failure.is_retryable => {}
                _ => break,
            }
        }
        outcome
    }

    async fn transaction(&mut self, batch: &mut [Command]) -> Result<(), Failure> {
        let deadline = self.shared.settings.deadline;
        let mut connection = self.connect().await?;
        let instance = self.shared.instance();
        let mut progress = Progress::default();
        let work = self.work(&mut connection, &instance, batch, &mut progress);
        let failure = match timeout(deadline, work).await {
            Ok(Ok(())) => {
                self.connection = Some(connection);
                return Ok(());
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::slow(),
        };
        // Treat any error at this point as an unknown outcome: a backend terminated between its
        // commit and its reply reports an error, too.
        if progress.committing {
            self.revoke_grants(batch);
        }
        let is_undone = failure.is_sound && {
            let undo = progress.roll_back(&mut connection);
            matches!(timeout(deadline, undo).await, Ok(Ok(())))
        };
        if is_undone {
            self.connection = Some(connection);
            if !failure.is_retryable {
                // A different connection may do better.
                self.release_connection();
            }
        } else {
            discard(connection);
        }
        Err(failure)
    }

    /// It is unknown whether the commit happened. Granted holds may be in the database, where
    /// nobody would settle them, so they are given back. A settlement may be there too; when
    /// retried, it finds its hold gone.
    fn revoke_grants(&self, batch: &mut [Command]) {
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
        &self,
        connection: &mut PgConnection,
        instance: &Arc<Instance>,
        batch: &mut [Command],
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut unit = self
            .open_books(connection, instance, batch, progress)
            .await?;
        unit.book(instance, batch)?;
        let calendar = &self.shared.settings.calendar;
        write_back(connection, &unit, instance.id(), (batch, calendar)).await?;
        unit.payments
            .write_back(connection, batch, unit.now)
            .await?;
        unit.keys.write_back(connection).await?;
        let (leases, now) = (&unit.leases, unit.now);
        unit.late.write_back(connection, now).await?;
        leases.write_back(connection, batch, now).await?;
        let beat = heartbeat::due(&self.shared, instance);
        progress.committing = true;
        let commit = beat.as_ref().map_or_else(
            || "COMMIT".to_owned(),
            |beat| format!("{}; COMMIT", beat.statement()),
        );
        sqlx::raw_sql(AssertSqlSafe(commit))
            .execute(connection)
            .await?;
        if let Some(beat) = beat {
            beat.written(&self.shared);
        }
        count(&unit, instance, batch);
        self.shared.settings.alerts.tell(unit.alerts);
        Ok(())
    }

    /// Begins the transaction, locks what the batch needs and loads it.
    async fn open_books(
        &self,
        connection: &mut PgConnection,
        instance: &Arc<Instance>,
        batch: &[Command],
        progress: &mut Progress,
    ) -> Result<UnitOfWork, Failure> {
        progress.begun = true;
        if !begin(connection, &self.shared.begin.books, instance).await? {
            progress.roll_back(connection).await?;
            self.shared.reregister(connection, instance).await?;
            return Err(Failure::conflict());
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
            // In a separate transaction, so that no lock on another account is held meanwhile.
            progress.roll_back(connection).await?;
            progress.begun = true;
            begin(connection, &self.shared.begin.books, instance).await?;
            statements::make_accounts(connection, &missing).await?;
            sqlx::raw_sql("COMMIT").execute(connection).await?;
            progress.begun = false;
            return Err(Failure::conflict());
        }
        statements::load_budgets(connection, &mut accounts, batch).await?;
        let ending = batch.iter().filter_map(Command::ending);
        for (id, open) in instance.open_of(accounts.keys(), ending) {
            if let Some(account) = accounts.get_mut(&id) {
                account.open = open;
            }
        }
        let settings = &self.shared.settings;
        let (now, elapsed) = (settings.clock.now(), settings.clock.elapsed());
        let ended = statements::end_holds(connection, batch).await?;
        Ok(UnitOfWork {
            keys: IdempotencyKeys::load(connection, &accounts, batch).await?,
            accounts,
            late: Late::load(connection, batch, &ended).await?,
            ended,
            leases: Leases::load(connection, batch).await?,
            payments: Payments::load(connection, batch, &settings.calendar).await?,
            opened: Vec::new(),
            logged: Vec::new(),
            open_max: settings.open_holds_per_account_max,
            now,
            extended: statements::extend_holds(connection, instance, elapsed, batch).await?,
            alerts: Vec::new(),
            elapsed,
            moment: settings.calendar.moment(now),
        })
    }

    /// Which of the accounts others have locked right now.
    pub(super) async fn locked_among(
        &mut self,
        accounts: &HashSet<AccountId>,
    ) -> Result<HashSet<AccountId>, Failure> {
        let deadline = self.shared.settings.deadline;
        let mut connection = self.connect().await?;
        let (begin, ids) = (
            Arc::clone(&self.shared.begin.books),
            sorted(accounts.iter()),
        );
        let check = async {
            sqlx::raw_sql(AssertSqlSafe(begin))
                .execute(&mut *connection)
                .await?;
            let locked = statements::locked(&mut connection, &ids).await?;
            sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
            Ok(locked)
        };
        let checked = timeout(deadline, check).await;
        let checked = checked.unwrap_or_else(|_| Err(Failure::slow()));
        match checked {
            Ok(_) => self.connection = Some(connection),
            Err(_) => discard(connection),
        }
        checked
    }
}

/// Records what was committed, hold by hold, so that retries count nothing twice.
fn count(unit: &UnitOfWork, instance: &Instance, batch: &mut [Command]) {
    let mut opened = Vec::with_capacity(unit.opened.len());
    for hold in &unit.opened {
        if let Some(Command::Hold {
            request, permit, ..
        }) = batch.get_mut(hold.command)
        {
            let account = request.call.account.clone();
            let _permit = permit.take();
            opened.push((hold.id, OpenHold { account, _permit }));
        }
    }
    instance.opened(opened);
    instance.ended(batch.iter().filter_map(Command::ending));
}

/// How far a transaction has progressed.
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

/// Sorted, without duplicates.
fn sorted<'a>(ids: impl Iterator<Item = &'a AccountId>) -> Vec<&'a AccountId> {
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Begins a transaction, and returns whether this instance is still registered: until the
/// transaction ends it can't be declared dead. What is committed is on disk, whatever the server's
/// own setting.
async fn begin(
    connection: &mut PgConnection,
    begin: &str,
    instance: &Instance,
) -> Result<bool, Failure> {
    let known = format!(
        "{begin}; SELECT CASE current_setting('synchronous_commit') WHEN 'off'
             THEN set_config('synchronous_commit', 'on', true) END
         FROM instance WHERE id = {} FOR KEY SHARE",
        instance.id()
    );
    let found = sqlx::raw_sql(AssertSqlSafe(known))
        .fetch_all(connection)
        .await?;
    Ok(!found.is_empty())
}

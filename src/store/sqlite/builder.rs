//! Settings of a `SqliteStore` and their defaults.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{Answers, Damage, Gauge, Inner, Readers, Settings, SqliteStore, closed, writer};
use crate::{
    domain::{
        budget::{Calendar, SpendingAlert},
        clock::{Clock, SystemClock},
    },
    store::{
        StoreError, StoreErrorKind, Tenure, alerts::Alerts, bounds::not_zero,
        leasing::RECOVER_AFTER_MIN, settling::Settling,
    },
};

const DAY: Duration = Duration::from_secs(86_400);

/// Settings of a [`SqliteStore`].
#[must_use = "a builder does nothing until the store is opened"]
pub struct SqliteStoreBuilder(pub(super) Settings);

impl SqliteStoreBuilder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(Settings {
            path,
            clock: SystemClock::shared(),
            calendar: Calendar::utc(),
            alerts: Alerts::default(),
            usage_rows_max: 10_000_000,
            usage_age_max: DAY.saturating_mul(400),
            audit_rows_max: 1_000_000,
            audit_age_max: DAY.saturating_mul(400),
            recover_after: Duration::from_secs(6),
            queue_max: 8_192,
            open_holds_max: 65_536,
            open_holds_per_account_max: 4_096,
            readers: 2,
            deadline: Duration::from_secs(5),
            tenure: Tenure::default(),
            settling: Settling::default(),
            damage: Damage::default(),
        })
    }

    /// Where the time comes from; the system's clock unless set.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.0.clock = clock;
        self
    }

    /// The days and months of spending limits; UTC unless set.
    pub fn calendar(mut self, calendar: Calendar) -> Self {
        self.0.calendar = calendar;
        self
    }

    /// Called when a [soft limit](crate::budget::SoftLimits) is passed, on the writer's thread,
    /// after the commit. It must not block. A crash in between loses the call. `tracing` has an
    /// event for each in any case.
    pub fn on_alert(mut self, listener: impl Fn(&SpendingAlert) + Send + Sync + 'static) -> Self {
        self.0.alerts = Alerts::to(listener);
        self
    }

    /// How many rows of the usage log are kept, for all accounts together: 10 million unless set,
    /// at least 1. The oldest are deleted in small steps, so there may be some more for a while.
    pub fn usage_rows_max(mut self, rows: u64) -> Self {
        self.0.usage_rows_max = i64::try_from(rows.max(1)).unwrap_or(i64::MAX);
        self
    }

    /// How long rows of the usage log are kept: 400 days unless set. Payments are kept forever.
    pub fn usage_age_max(mut self, age: Duration) -> Self {
        self.0.usage_age_max = age;
        self
    }

    /// How many actions the audit log keeps: 1 million unless set. It keeps as many entries of
    /// known callers besides, and half as many of strangers ([`AuditLog`](crate::store::AuditLog)).
    /// The oldest are deleted in small steps, so there may be some more for a while.
    pub fn audit_rows_max(mut self, entries: u64) -> Self {
        self.0.audit_rows_max = i64::try_from(entries.max(1)).unwrap_or(i64::MAX);
        self
    }

    /// How long entries of the audit log are kept: 400 days unless set.
    pub fn audit_age_max(mut self, age: Duration) -> Self {
        self.0.audit_age_max = age;
        self
    }

    /// After how long a silence another process is declared dead and its open holds are given back:
    /// 6 seconds unless set, at least 5, which is two and a half missed heartbeats.
    pub fn recover_after(mut self, silence: Duration) -> Self {
        self.0.recover_after = silence.max(RECOVER_AFTER_MIN);
        self
    }

    /// How many holds and changes may wait to be written, and as many audit events besides: 8,192
    /// unless set. Beyond that they fail with `Busy`.
    pub fn queue_max(mut self, commands: usize) -> Self {
        self.0.queue_max = commands.max(1);
        self
    }

    /// How many holds of this process may be open: 65,536 unless set. Beyond that new ones fail
    /// with `Busy`. This also bounds the waiting settlements, which are never refused; as many rows
    /// without a hold may wait besides.
    pub fn open_holds_max(mut self, holds: usize) -> Self {
        self.0.open_holds_max = holds.max(1);
        self
    }

    /// How many holds that this process opened may be open for one account: 4,096 unless set, at
    /// least 1. Beyond that the account's new ones are refused with
    /// [`TooManyOpen`](crate::books::HoldRefusal::TooManyOpen), so no account can use up the
    /// [`open_holds_max`](Self::open_holds_max) of all.
    pub fn open_holds_per_account_max(mut self, holds: usize) -> Self {
        self.0.open_holds_per_account_max = holds.max(1);
        self
    }

    /// How many threads do look-ups by name: 2 unless set, at least 1. Half as many more read
    /// lists, so no list delays a look-up. Beyond 512 waiting lists, further ones fail with `Busy`.
    pub fn readers(mut self, threads: usize) -> Self {
        self.0.readers = threads.max(1);
        self
    }

    /// How long a call waits for its answer before it fails with `Unavailable`: 5 seconds unless
    /// set. The request may still be carried out; a settlement always is.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.0.deadline = deadline;
        self
    }

    /// Opens the file.
    ///
    /// # Errors
    /// `Unavailable` when the file can't be opened or written, `Internal` when it is no database of
    /// ours, or one of a newer version, and when a deadline or an age is zero: the text names the
    /// setting.
    pub async fn open(mut self) -> Result<SqliteStore, StoreError> {
        not_zero("deadline", self.0.deadline)?;
        not_zero("usage_age_max", self.0.usage_age_max)?;
        not_zero("audit_age_max", self.0.audit_age_max)?;
        let nowhere = |error: std::io::Error| {
            StoreError::new(
                StoreErrorKind::Unavailable,
                &format!("no such path: {error}"),
            )
        };
        // SQLite gives some relative names a special meaning (`:memory:`).
        self.0.path = std::path::absolute(&self.0.path).map_err(nowhere)?;
        let settings = Arc::new(self.0);
        let gauge = Arc::new(Gauge::default());
        let (sender, queue) = mpsc::channel();
        let answers = Arc::new(Answers::new(sender.clone(), Arc::clone(&gauge)));
        let (ready, opened) = oneshot::channel();
        let thread = {
            let (settings, gauge, answers) = (
                Arc::clone(&settings),
                Arc::clone(&gauge),
                Arc::clone(&answers),
            );
            thread::Builder::new()
                .name("tollgate-write".to_owned())
                .spawn(move || writer::run(&settings, queue, answers, gauge, ready))
        };
        let thread = thread
            .map_err(|_| StoreError::new(StoreErrorKind::Unavailable, "no thread to write"))?;
        opened.await.unwrap_or_else(|_| Err(closed()))?;
        let started = Readers::start(&settings.path, settings.readers, settings.deadline);
        let (readers, mut threads) = match started {
            Ok(started) => started,
            Err(error) => {
                let _ = sender.send(super::Command::Close);
                return Err(error);
            }
        };
        threads.push(thread);
        Ok(SqliteStore(Arc::new(Inner {
            settings,
            writer: sender,
            answers,
            gauge,
            readers,
            threads: Mutex::new(threads),
        })))
    }
}

impl fmt::Debug for SqliteStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStoreBuilder")
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_would_end_at_once_is_refused_and_no_file_is_made() {
        type Set = fn(SqliteStoreBuilder) -> SqliteStoreBuilder;
        let settings: [(&str, Set); 3] = [
            ("deadline", |builder| builder.deadline(Duration::ZERO)),
            ("usage_age_max", |builder| {
                builder.usage_age_max(Duration::ZERO)
            }),
            ("audit_age_max", |builder| {
                builder.audit_age_max(Duration::ZERO)
            }),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.db");
        for (name, set) in settings {
            let error = set(SqliteStore::builder(&path)).open().await;
            let text = error.unwrap_err().to_string();
            assert!(text.contains(name), "{text}");
            assert!(!path.exists());
        }
    }
}

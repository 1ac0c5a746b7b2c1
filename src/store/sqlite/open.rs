//! Creates the file, and opens connections to it.

use std::{fs, io, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use rusqlite_migration::{M, Migrations};

use super::{answers, convert::Failure, schema::STEPS};
use crate::store::{StoreError, StoreErrorKind};

/// How long one statement waits for another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a writer tries to get the lock in that time. SQLite's own handler ends up waiting 100
/// ms, and misses the moments in which a busy writer leaves the lock alone.
const TRY_EVERY: Duration = Duration::from_millis(2);
const TRIES_MAX: i32 = 1_000;

/// How often opening is tried while other processes open the same file.
const OPEN_ATTEMPTS: u32 = 5;

/// Pages in the write-ahead log before they are moved into the file: 16 MiB. More means fewer
/// flushes of the file itself and a longer recovery.
const CHECKPOINT_PAGES: i64 = 4_096;

/// KiB of pages that the writer keeps in memory.
const WRITER_CACHE_KIB: i64 = 65_536;

fn unopenable(path: &Path, error: &io::Error) -> Failure {
    let text = format!("can't open {}: {error}", path.display());
    StoreError::new(StoreErrorKind::Unavailable, &text).into()
}

/// Creates the file and its folder if missing, readable for this user alone. SQLite gives its
/// companion files the same mode.
fn create_file(path: &Path) -> Result<(), Failure> {
    let mut file = fs::OpenOptions::new();
    file.write(true).create(true).truncate(false);
    let mut folder = fs::DirBuilder::new();
    folder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        file.mode(0o600);
        folder.mode(0o700);
    }
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        folder
            .create(parent)
            .map_err(|error| unopenable(path, &error))?;
    }
    file.open(path)
        .map_err(|error| unopenable(path, &error))
        .map(drop)
}

fn connect(path: &Path) -> Result<Connection, Failure> {
    // No SQLITE_OPEN_URI: a path is a path. No mutex: a connection stays with its thread.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn prepare_writer(connection: &mut Connection) -> Result<(), Failure> {
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(()))?;
    connection.pragma_update(None, "cache_size", WRITER_CACHE_KIB.saturating_neg())?;
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    Migrations::new(STEPS.map(M::up).to_vec())
        .to_latest(connection)
        .map_err(|error| match error {
            rusqlite_migration::Error::RusqliteError { err, .. } => Failure::from(err),
            rusqlite_migration::Error::MigrationDefinition(_) => {
                StoreError::internal("the database was made by a newer version of tollgate").into()
            }
            _ => StoreError::internal("the database can't be brought up to date").into(),
        })
}

fn try_again(tries: i32) -> bool {
    // Another process may keep the lock for long; answers to what is committed don't depend on it.
    answers::finish_of_this_writer();
    std::thread::sleep(TRY_EVERY);
    tries < TRIES_MAX
}

/// The connection that writes, with the tables up to date.
pub(super) fn open_writer(path: &Path) -> Result<Connection, Failure> {
    create_file(path)?;
    let mut attempts = OPEN_ATTEMPTS;
    loop {
        let mut connection = connect(path)?;
        match prepare_writer(&mut connection) {
            Ok(()) => {
                connection.busy_handler(Some(try_again))?;
                return Ok(connection);
            }
            // Changing to WAL doesn't always wait for another process doing the same, and a
            // migration that another process ran first fails with any error.
            Err(_) if attempts > 1 => {
                attempts = attempts.saturating_sub(1);
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// A connection that reads. It may write only to the file's shared index, as a reader of a
/// write-ahead log must.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Failure> {
    let connection = connect(path)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

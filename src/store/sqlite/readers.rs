//! Threads that read, so a key look-up never waits behind a write or a list.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{answered, closed, convert::Failure, open};
use crate::{
    store::{StoreError, StoreErrorKind, StoreFuture},
    sync::lock,
};

/// Waiting look-ups, for all threads together.
const LOOKUPS_MAX: usize = 4_096;
/// Waiting lists. One may take some ten milliseconds, and waiting past the deadline is in vain.
const LISTS_MAX: usize = 512;

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// Two queues with threads of their own. A look-up by name is a row or two, and authentication
/// waits for it; a list may be of any length.
pub(super) struct Readers {
    lookups: Line,
    lists: Line,
    deadline: Duration,
}

/// `None` once it is closing.
struct Line(Mutex<Option<SyncSender<Read>>>);

impl Readers {
    /// Opens the connections here, so that errors show at once. There is one listing thread for
    /// every two that look up.
    pub(super) fn start(
        path: &Path,
        count: usize,
        deadline: Duration,
    ) -> Result<(Self, Vec<JoinHandle<()>>), StoreError> {
        let count = count.max(1);
        let (lookups, mut threads) = Line::start(path, "read", count, LOOKUPS_MAX)?;
        let (lists, more) = Line::start(path, "list", count.div_ceil(2), LISTS_MAX)?;
        threads.extend(more);
        let readers = Self {
            lookups,
            lists,
            deadline,
        };
        Ok((readers, threads))
    }

    pub(super) fn end(&self) {
        for line in [&self.lookups, &self.lists] {
            *line.sender() = None;
        }
    }

    /// Looks up one thing by its name.
    pub(super) fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> StoreFuture<T> {
        self.lookups.ask(self.deadline, work)
    }

    /// Reads a page of a list.
    pub(super) fn list<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> StoreFuture<T> {
        self.lists.ask(self.deadline, work)
    }
}

impl Line {
    fn start(
        path: &Path,
        name: &str,
        count: usize,
        waiting_max: usize,
    ) -> Result<(Self, Vec<JoinHandle<()>>), StoreError> {
        let (sender, receiver) = mpsc::sync_channel(waiting_max);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for number in 0..count {
            let connection = open::open_reader(path).map_err(|failure| failure.0)?;
            let receiver = Arc::clone(&receiver);
            let thread = thread::Builder::new()
                .name(format!("tollgate-{name}-{number}"))
                .spawn(move || serve(&connection, &receiver))
                .map_err(|_| StoreError::new(StoreErrorKind::Unavailable, "no thread to read"))?;
            threads.push(thread);
        }
        Ok((Self(Mutex::new(Some(sender))), threads))
    }

    fn sender(&self) -> std::sync::MutexGuard<'_, Option<SyncSender<Read>>> {
        lock(&self.0)
    }

    fn ask<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> StoreFuture<T> {
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            // The caller gave up before this began.
            if !reply.is_closed() {
                let _ = reply.send(work(connection).map_err(|failure| failure.0));
            }
        });
        let sender = self.sender();
        let Some(sender) = sender.as_ref() else {
            return StoreFuture::ready(Err(closed()));
        };
        match sender.try_send(read) {
            Ok(()) => StoreFuture::new(answered(answer, deadline)),
            Err(TrySendError::Full(_)) => {
                let busy = StoreError::new(StoreErrorKind::Busy, "too many reads are waiting");
                StoreFuture::ready(Err(busy))
            }
            Err(TrySendError::Disconnected(_)) => StoreFuture::ready(Err(closed())),
        }
    }
}

fn serve(connection: &Connection, queue: &Mutex<Receiver<Read>>) {
    loop {
        // One thread waits for work, the others for the lock: either way one of them wakes.
        let next = lock(queue).recv();
        match next {
            Ok(read) => read(connection),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_crowd_of_lists_delays_a_look_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.db");
        drop(
            open::open_writer(&path)
                .map_err(|failure| failure.0)
                .unwrap(),
        );
        let (readers, threads) = Readers::start(&path, 2, Duration::from_secs(60)).unwrap();
        let (finish, wait) = mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        let slow = readers.list(move |_| {
            let _ = begun.send(());
            let _ = wait.recv();
            Ok(())
        });
        begins.await.unwrap();
        let waiting: Vec<_> = (0..LISTS_MAX).map(|_| readers.list(|_| Ok(()))).collect();
        let beyond = readers.list(|_| Ok(())).await.unwrap_err();
        assert_eq!(beyond.kind(), StoreErrorKind::Busy);
        for number in 0..1_000 {
            assert_eq!(readers.read(move |_| Ok(number)).await.unwrap(), number);
        }
        drop(finish);
        slow.await.unwrap();
        for list in waiting {
            list.await.unwrap();
        }
        readers.end();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

//! Threads that read, so that looking up a key never waits behind a write.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{answered, closed, convert::Failure, schema};
use crate::store::{StoreError, StoreErrorKind, StoreFuture};

/// Reads that wait, all threads together.
const QUEUE_MAX: usize = 4_096;

type Read = Box<dyn FnOnce(&Connection) + Send>;

pub(super) struct Readers {
    /// `None` once they are to end.
    queue: Mutex<Option<SyncSender<Read>>>,
    deadline: Duration,
}

impl Readers {
    /// Opens the connections here, so that what is wrong with them is known at once.
    pub(super) fn start(
        path: &Path,
        count: usize,
        deadline: Duration,
    ) -> Result<(Self, Vec<JoinHandle<()>>), StoreError> {
        let (sender, receiver) = mpsc::sync_channel(QUEUE_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let connection = schema::open_reader(path).map_err(|failure| failure.0)?;
            let receiver = Arc::clone(&receiver);
            let thread = thread::Builder::new()
                .name(format!("tollgate-read-{number}"))
                .spawn(move || serve(&connection, &receiver))
                .map_err(|_| StoreError::new(StoreErrorKind::Unavailable, "no thread to read"))?;
            threads.push(thread);
        }
        let readers = Self {
            queue: Mutex::new(Some(sender)),
            deadline,
        };
        Ok((readers, threads))
    }

    pub(super) fn end(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        *queue = None;
    }

    pub(super) fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> StoreFuture<T> {
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            // Nobody waits any more for what took too long to begin.
            if !reply.is_closed() {
                let _ = reply.send(work(connection).map_err(|failure| failure.0));
            }
        });
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = queue.as_ref() else {
            return StoreFuture::ready(Err(closed()));
        };
        match sender.try_send(read) {
            Ok(()) => StoreFuture::new(answered(answer, self.deadline)),
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
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(read) => read(connection),
            Err(_) => return,
        }
    }
}

//! The settings of a key file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use tokio::sync::Semaphore;

use super::{FileKeyStore, Inner};
use crate::{
    domain::clock::{Clock, SystemClock},
    repeats::Repeats,
};

/// Changes and reads that may wait for their turn.
const WAITING_MAX: usize = 1_024;

/// Settings of a [`FileKeyStore`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct FileKeyStoreBuilder {
    path: PathBuf,
    check_interval: Duration,
    touch_interval: Duration,
    clock: Arc<dyn Clock>,
}

impl FileKeyStoreBuilder {
    /// How long the contents are trusted before the file is checked again; 250 ms unless set.
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.check_interval = interval;
        self
    }

    /// How long after it a use is written to the file at the latest; a minute unless set. Uses that
    /// come meanwhile are written with it. [`get`](crate::store::KeyStore::get) and
    /// [`list`](crate::store::KeyStore::list) include uses that are not written yet.
    pub fn touch_interval(mut self, interval: Duration) -> Self {
        self.touch_interval = interval;
        self
    }

    /// The source of the time; the system clock unless set.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Builds the store. The file is created with the first key.
    #[must_use]
    pub fn build(self) -> FileKeyStore {
        FileKeyStore(Arc::new(Inner {
            path: self.path,
            check_interval: self.check_interval,
            touch_interval: self.touch_interval,
            clock: self.clock,
            memory: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            queue: Arc::new(Semaphore::new(WAITING_MAX)),
            tidied: Once::new(),
            failures: Repeats::new(),
            unwritten_uses: Repeats::new(),
        }))
    }
}

impl FileKeyStore {
    /// The keys of the file at `path`; neither the file nor its folder need exist yet.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self::builder(path).build()
    }

    /// A builder for a store of the keys of the file at `path`.
    pub fn builder(path: impl AsRef<Path>) -> FileKeyStoreBuilder {
        FileKeyStoreBuilder {
            path: path.as_ref().to_owned(),
            check_interval: Duration::from_millis(250),
            touch_interval: Duration::from_secs(60),
            clock: SystemClock::shared(),
        }
    }
}

//! Keys in one JSON file, for a service on one machine with a few dozen keys, whose file people may
//! read and edit.
//!
//! The file contains only hashes. It is replaced as a whole, synced, with mode 0600. Processes that
//! change it at the same time take turns using a lock file next to it (`NAME.lock`), and each
//! rereads the file before changing it, so that no change is lost. An editor does not take that
//! lock: if the file changed between reading and replacing, the change is applied again to the new
//! contents. Unknown JSON members are kept. A process that dies while it writes leaves a draft
//! (`.NAME.….draft`), which the next process removes before its first change.
//!
//! Look-ups are answered from memory. A look-up checks whether the file has changed, at most once
//! per [`FileKeyStoreBuilder::check_interval`]; listing or reading the keys of an owner always
//! checks. A missing file has no keys; one that can't be read, or isn't JSON (such as an empty
//! one), is a failing store (503), not an empty one.

mod builder;
mod disk;
mod document;
mod uses;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, Once},
    time::Duration,
};

use hashbrown::HashMap;
use tokio::{
    sync::Semaphore,
    task::{self, AbortHandle},
    time::timeout,
};

pub use self::builder::FileKeyStoreBuilder;
use self::{
    disk::{FileLock, Stamp},
    document::Document,
};
use super::{
    KeyId, KeyLookup, KeyStore, Page, Paged, StoreError, StoreErrorKind, StoreFuture,
    held_keys::HeldKeys,
};
use crate::{
    domain::{
        clock::{Clock, Timestamp},
        key::{
            KeyDigest, KeyRecord, KeyUpdate, KeysPerOwner, Rehash, RevokedKey, Rotation,
            RotationOutcome,
        },
    },
    repeats::{LogLine, Repeats},
    sync::lock,
};

/// How long a change may take, including the wait for its turn.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a change is applied again because another program changed the file meanwhile.
const ATTEMPTS_MAX: u32 = 8;
/// A file changed this recently may change again within the same tick of the file system's clock.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Keys in one JSON file. A clone is a reference count.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::{key::KeyFormat, keyring::{KeyResolver, Keyring, NewKey}, store::FileKeyStore};
///
/// # let folder = std::env::temp_dir().join(format!("tollgate-doc-keys-{}", std::process::id()));
/// # let path = folder.join("api-keys.json");
/// let store = FileKeyStore::new(&path);
/// let format = KeyFormat::builder("acme").build()?;
/// let resolver = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
/// let (key, _) = Keyring::new(store, format, resolver).create("user-1", NewKey::default()).await?;
///
/// let content = std::fs::read_to_string(&path)?;
/// assert!(content.contains("\"hash\": \"sha256:") && !content.contains(key.expose()));
/// # std::fs::remove_dir_all(folder).ok();
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FileKeyStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    check_interval: Duration,
    touch_interval: Duration,
    clock: Arc<dyn Clock>,
    memory: Mutex<Memory>,
    /// One operation at a time goes to the disk; a bounded number wait.
    turn: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// Drafts of processes that died are removed once.
    tidied: Once,
    /// What the log has of reading the file, and of writing times of last use.
    failures: Repeats,
    unwritten_uses: Repeats,
}

/// What is known about the file.
#[derive(Default)]
struct Memory {
    content: Option<Content>,
    /// Uses that are not in the file yet; only of keys in the file.
    touched: HashMap<KeyId, Timestamp>,
    /// The one task that writes them. Its runtime may have ended before the task.
    writer: Option<AbortHandle>,
}

#[derive(Clone)]
struct Content {
    document: Result<Arc<Document>, StoreError>,
    /// `None` if there was no file.
    stamp: Option<Stamp>,
    /// When it was read, and when a file with that stamp was first read.
    read_at: Duration,
    stamp_since: Duration,
    checked_at: Duration,
}

impl FileKeyStore {
    /// Answers from memory, or after checking the file if the last check was too long ago.
    fn read<T: Send + Unpin + 'static>(
        &self,
        work: impl FnOnce(&Document) -> T + Send + 'static,
    ) -> StoreFuture<T> {
        if let Some(document) = self.0.cached() {
            return StoreFuture::ready(document.map(|document| work(&document)));
        }
        self.on_disk(move |inner| match inner.cached() {
            // Another caller checked meanwhile.
            Some(document) => document.map(|document| work(&document)),
            None => inner.refresh().map(|document| work(&document)),
        })
    }

    /// Answers after checking the file: for callers about to change a key, which may have been
    /// created elsewhere a moment ago.
    fn read_fresh<T: Send + Unpin + 'static>(
        &self,
        work: impl FnOnce(&Document, &Memory) -> T + Send + 'static,
    ) -> StoreFuture<T> {
        self.on_disk(move |inner| {
            let document = inner.refresh()?;
            Ok(work(&document, &inner.memory()))
        })
    }

    /// The keys of one owner, or of all.
    fn page(&self, owner: Option<String>, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        self.read_fresh(move |document, memory| {
            let mut listed = document.list(owner.as_deref(), &page);
            let keys = listed.items.iter_mut();
            keys.for_each(|key| memory.add_use(key));
            listed
        })
    }

    /// Changes the file under its lock, based on its current contents. `work` may run several
    /// times.
    fn change<T: Send + Unpin + 'static>(
        &self,
        work: impl Fn(&mut Document) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<T> {
        self.on_disk(move |inner| inner.change(work))
    }

    fn on_disk<T: Send + Unpin + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<T> {
        let Ok(slot) = Arc::clone(&self.0.queue).try_acquire_owned() else {
            let text = "too many operations wait for the key file";
            return StoreFuture::ready(Err(StoreError::new(StoreErrorKind::Busy, text)));
        };
        let inner = Arc::clone(&self.0);
        let work = async move {
            let turn = Arc::clone(&inner.turn).acquire_owned().await;
            // Inside the task, so that the turn ends with the work, even if the caller has gone.
            let done = task::spawn_blocking(move || {
                let _held = (slot, turn);
                work(&inner)
            });
            done.await.unwrap_or_else(|_| {
                Err(StoreError::internal(
                    "an operation on the key file was cancelled",
                ))
            })
        };
        StoreFuture::new(async move {
            timeout(DEADLINE, work).await.unwrap_or_else(|_| {
                let text = "the key file did not answer in time";
                Err(StoreError::new(StoreErrorKind::Unavailable, text))
            })
        })
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    /// The contents, if they were checked recently enough.
    fn cached(&self) -> Option<Result<Arc<Document>, StoreError>> {
        let now = self.clock.elapsed();
        let memory = self.memory();
        let content = memory.content.as_ref()?;
        let young = now.saturating_sub(content.checked_at) < self.check_interval;
        young.then(|| content.document.clone())
    }

    /// Checks the file, and reads it if it has changed.
    fn refresh(&self) -> Result<Arc<Document>, StoreError> {
        let known = self.memory().content.clone();
        let now = self.clock.elapsed();
        if let Some(mut known) = known
            && known.document.is_ok()
            && Stamp::of(&self.path).is_ok_and(|stamp| stamp == known.stamp)
            && known.read_at.saturating_sub(known.stamp_since) >= SETTLED_AFTER
        {
            known.checked_at = now;
            let document = known.document.clone();
            self.memory().content = Some(known);
            return document;
        }
        self.load(now)
    }

    /// Reads the file. A failure is remembered too, for one interval, so that other callers don't
    /// read it again.
    fn load(&self, now: Duration) -> Result<Arc<Document>, StoreError> {
        let (document, stamp) = match disk::read(&self.path) {
            Ok(None) => (Ok(Document::default()), None),
            Ok(Some((json, stamp))) => (Document::parse(&json), Some(stamp)),
            Err(error) => (Err(error), None),
        };
        self.report(document.as_ref().err(), now);
        self.remember(document.map(Arc::new), stamp, now)
    }

    fn report(&self, failure: Option<&StoreError>, now: Duration) {
        let path = self.path.display();
        match failure {
            Some(error) => {
                if let Some(LogLine { left_out }) = self.failures.failed(error, now) {
                    tracing::error!(target: "tollgate", %path, %error, left_out, "the key file can't be used");
                }
            }
            None => {
                if let Some(LogLine { left_out }) = self.failures.succeeded() {
                    tracing::info!(target: "tollgate", %path, left_out, "the key file can be used again");
                }
            }
        }
    }

    fn remember(
        &self,
        document: Result<Arc<Document>, StoreError>,
        stamp: Option<Stamp>,
        now: Duration,
    ) -> Result<Arc<Document>, StoreError> {
        let mut memory = self.memory();
        let since = memory
            .content
            .as_ref()
            .filter(|known| known.stamp == stamp && known.document.is_ok())
            .map_or(now, |known| known.stamp_since);
        memory.content = Some(Content {
            document: document.clone(),
            stamp,
            read_at: now,
            stamp_since: since,
            checked_at: now,
        });
        document
    }

    fn change<T>(
        &self,
        work: impl Fn(&mut Document) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let lock = FileLock::take(&self.path)?;
        self.tidied.call_once(|| lock.remove_drafts());
        for _ in 0..ATTEMPTS_MAX {
            let (mut document, read) = match disk::read(&self.path)? {
                None => (Document::default(), None),
                Some((json, stamp)) => (Document::parse(&json)?, Some(stamp)),
            };
            let touched = self.memory().touched.clone();
            for (id, at) in &touched {
                document.touch(id, *at);
            }
            let answer = work(&mut document)?;
            if document.is_changed() {
                if !disk::replace(&self.path, &document.to_json()?, read)? {
                    continue;
                }
                document.set_written();
            }
            self.forget_touches(&touched);
            // Our own processes hold the lock, so none of them changed it between the write and
            // this check.
            let stamp = Stamp::of(&self.path)?;
            let now = self.clock.elapsed();
            self.remember(Ok(Arc::new(document)), stamp, now)?;
            return Ok(answer);
        }
        let text = "another program keeps changing the key file";
        Err(StoreError::new(StoreErrorKind::Busy, text))
    }
}

impl KeyLookup for FileKeyStore {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        let digest = *digest;
        self.read(move |document| document.find(&digest).cloned())
    }

    fn rehash(&self, change: Rehash) -> StoreFuture<bool> {
        self.change(move |document| document.rehash(&change))
    }

    fn recently_used(&self, limit: u16) -> StoreFuture<Vec<KeyRecord>> {
        let now = self.0.clock.now();
        self.read(move |document| document.recently_used(now, limit))
    }

    fn touch(&self, id: &KeyId, at: Timestamp) {
        self.note_use(id, at);
    }

    fn flush_touches(&self) -> StoreFuture<()> {
        let store = self.clone();
        StoreFuture::new(async move { store.flush().await })
    }
}

impl KeyStore for FileKeyStore {
    fn insert(&self, record: KeyRecord, bounds: Option<KeysPerOwner>) -> StoreFuture<()> {
        self.change(move |document| document.insert(record.clone(), bounds))
    }

    fn rotate(
        &self,
        rotation: Rotation,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<RotationOutcome> {
        self.change(move |document| document.rotate(&rotation, bounds))
    }

    fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        self.read_fresh(move |document, memory| {
            let mut found = document.owned(&owner, &id).cloned();
            found.iter_mut().for_each(|key| memory.add_use(key));
            found
        })
    }

    fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        self.page(Some(owner.to_owned()), page)
    }

    fn list_all(&self, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        self.page(None, page)
    }

    fn update(
        &self,
        owner: &str,
        id: &KeyId,
        change: KeyUpdate,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        let now = self.0.clock.now();
        self.change(move |document| document.update(&owner, &id, change.clone(), bounds, now))
    }

    fn revoke_all(&self, owner: &str, at: Timestamp) -> StoreFuture<Vec<RevokedKey>> {
        let owner = owner.to_owned();
        self.change(move |document| Ok(document.revoke_all(&owner, at)))
    }

    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        self.change(move |document| Ok(document.delete(&owner, &id)))
    }
}

impl fmt::Debug for FileKeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKeyStore")
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}

//! Keys in a file, which is read again after it changes.

use std::{
    fmt,
    fs::{File, Metadata},
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicI64, Ordering},
    },
    time::SystemTime,
};

use super::{BYTES_MAX, JwksError};
use crate::{
    domain::clock::Timestamp,
    token::{
        TokenAlgorithm, TokenKeys, VerifyingKeys,
        key::DefaultAlgorithms,
        live::{KeySource, Shared, Source},
    },
};

const LOOK_EVERY_SECS: i64 = 1;

/// A JWK set in a file. Cloning it increments a reference count.
///
/// As long as tokens come, it is checked once a second (one `stat`), and read again after it
/// changes. Replace it by renaming a new file over it, so that it is never read half-written. If it
/// can't be read, or isn't an acceptable set, the keys stay and an error is logged. Within a
/// runtime it is read on its own thread, so a change takes effect shortly after the next request,
/// and a disk that hangs blocks nobody.
#[derive(Clone)]
pub struct JwksFile(Arc<Inner>);

struct Inner {
    path: PathBuf,
    algorithms: DefaultAlgorithms,
    shared: Shared,
    looked_at: AtomicI64,
    state: Mutex<State>,
}

struct State {
    mark: Mark,
    failing: bool,
}

/// What tells that a file has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    modified: Option<SystemTime>,
    length: u64,
    #[cfg(unix)]
    inode: u64,
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(metadata),
        }
    }
}

impl JwksFile {
    /// Reads the file. This blocks on the disk: call it at startup.
    ///
    /// # Errors
    /// [`JwksError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JwksError> {
        Self::read_by(path.as_ref(), DefaultAlgorithms::default())
    }

    /// The algorithm of keys of its type that don't declare one (`alg`), now and after each change.
    /// See [`VerifyingKeys::default_algorithm`]. This reads the file again.
    ///
    /// # Errors
    /// [`JwksError`].
    pub fn default_algorithm(self, algorithm: TokenAlgorithm) -> Result<Self, JwksError> {
        let mut algorithms = self.0.algorithms.clone();
        algorithms.add(algorithm);
        Self::read_by(&self.0.path, algorithms)
    }

    fn read_by(path: &Path, algorithms: DefaultAlgorithms) -> Result<Self, JwksError> {
        let (keys, mark) = read(path, &algorithms)?;
        let shared = Shared::default();
        shared.replace(keys);
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            algorithms,
            shared,
            looked_at: AtomicI64::new(i64::MIN),
            state: Mutex::new(State {
                mark,
                failing: false,
            }),
        })))
    }
}

impl Inner {
    /// Checks the file if that is due; other threads meanwhile use the current keys.
    fn look(self: &Arc<Self>, now: Timestamp) {
        let (second, latest) = (now.as_second(), self.looked_at.load(Ordering::Relaxed));
        let order = (Ordering::Relaxed, Ordering::Relaxed);
        let due = second.abs_diff(latest) >= LOOK_EVERY_SECS.unsigned_abs();
        let looks = due
            && self
                .looked_at
                .compare_exchange(latest, second, order.0, order.1)
                .is_ok();
        if looks {
            self.read_in_background();
        }
    }

    /// On its own thread if others would wait for this one: a disk may hang, and checking a set
    /// takes milliseconds. Not on one of the runtime's blocking threads, which it waits for when it
    /// shuts down.
    fn read_in_background(self: &Arc<Self>) {
        if tokio::runtime::Handle::try_current().is_err() {
            return self.read_again();
        }
        let this = Arc::clone(self);
        let thread = std::thread::Builder::new().name("tollgate-jwks-file".to_owned());
        if let Err(error) = thread.spawn(move || this.read_again()) {
            tracing::error!(target: "tollgate", %error, "could not start a thread to read the key file");
        }
    }

    fn read_again(&self) {
        // If it is locked, this look was a second too early: at most one thread waits for the disk.
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let there = std::fs::metadata(&self.path).map(|metadata| Mark::of(&metadata));
        if there.is_ok_and(|mark| mark == state.mark) && !state.failing {
            return;
        }
        match read(&self.path, &self.algorithms) {
            Ok((keys, mark)) => {
                *state = State {
                    mark,
                    failing: false,
                };
                self.shared.replace(keys);
                tracing::info!(target: "tollgate", path = %self.path.display(), "reloaded keys");
            }
            Err(error) => {
                if !state.failing {
                    tracing::error!(target: "tollgate", %error, "could not reload keys; keeping the previous ones");
                }
                state.failing = true;
            }
        }
    }
}

fn read(path: &Path, algorithms: &DefaultAlgorithms) -> Result<(VerifyingKeys, Mark), JwksError> {
    let failed = |source| JwksError::File {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mark = Mark::of(&file.metadata().map_err(failed)?);
    let mut json = zeroize::Zeroizing::new(Vec::new());
    let one_more = u64::try_from(BYTES_MAX)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    file.take(one_more).read_to_end(&mut json).map_err(failed)?;
    if json.len() > BYTES_MAX {
        return Err(JwksError::TooLarge);
    }
    let keys = VerifyingKeys::from_jwks(&json)?;
    Ok((algorithms.of(keys)?, mark))
}

impl KeySource for JwksFile {
    fn generation(&self, now: Timestamp) -> u64 {
        self.0.look(now);
        self.0.shared.generation()
    }

    fn keys(&self) -> (Option<VerifyingKeys>, u64) {
        self.0.shared.keys()
    }
}

impl From<JwksFile> for TokenKeys {
    fn from(file: JwksFile) -> Self {
        Self(Source::Live(Arc::new(file)))
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JwksFile").field(&self.path).finish()
    }
}

impl fmt::Debug for JwksFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

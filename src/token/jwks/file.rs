//! Keys in a file, which is read again when it has changed.

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

/// A JWK set in a file. A clone is a reference count.
///
/// While tokens come, it is looked at once a second (one `stat`), and read again when it has changed. Replace it by renaming a
/// new one over it, so that it is never seen half-written. A file that can't be read, or holds no acceptable set, changes
/// nothing; an error in the log says so. In a runtime it is read on a thread of its own, so a changed file counts shortly
/// after the next request, and a disk that hangs holds nobody up.
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

/// What a changed file differs by.
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
    /// Reads the file. It blocks on the disk: call it at start.
    ///
    /// # Errors
    /// [`JwksError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JwksError> {
        Self::read_by(path.as_ref(), DefaultAlgorithms::default())
    }

    /// The algorithm of keys of its type that say none (`alg`), now and whenever the file has changed. See
    /// [`VerifyingKeys::default_algorithm`]. It reads the file once more.
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
    /// Whoever finds that it is time looks; the others go on with what is there.
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
            self.read_aside();
        }
    }

    /// On a thread of its own where others would wait for this one: a disk may hang, and a set takes milliseconds to judge.
    /// Not on the runtime's, which waits for its blocking threads when it ends.
    fn read_aside(self: &Arc<Self>) {
        if tokio::runtime::Handle::try_current().is_err() {
            return self.read_again();
        }
        let this = Arc::clone(self);
        let thread = std::thread::Builder::new().name("tollgate-jwks-file".to_owned());
        if let Err(error) = thread.spawn(move || this.read_again()) {
            tracing::error!(target: "tollgate", %error, "no thread to look at the keys with");
        }
    }

    fn read_again(&self) {
        // Whoever finds it taken has looked a second too early: one thread at most waits for the disk.
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
                tracing::info!(target: "tollgate", path = %self.path.display(), "keys were read again");
            }
            Err(error) => {
                if !state.failing {
                    tracing::error!(target: "tollgate", %error, "keys can't be read again: the ones before stay");
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

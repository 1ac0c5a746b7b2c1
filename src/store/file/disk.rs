//! Reads, locks and replaces the file. Everything here blocks.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use crate::store::{StoreError, StoreErrorKind};

/// The longest file that is read, in bytes.
const LENGTH_MAX: u64 = 64 * 1_024 * 1_024;
/// How often to try the lock, and the pause in between: a second in all.
const LOCK_ATTEMPTS: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// How many entries of the folder are looked at for drafts that were left behind.
const ENTRIES_MAX: usize = 65_536;

/// Distinguishes states of the file without reading it. `None` means there is no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    /// On Unix the device, the inode, and when the inode changed: this detects a replaced file of
    /// the same length and time.
    identity: [i64; 4],
}

impl Stamp {
    /// The file's current stamp.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, StoreError> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self::read(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("can't be examined", &error)),
        }
    }

    fn read(metadata: &fs::Metadata) -> Self {
        Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            identity: identity(metadata),
        }
    }
}

#[cfg(unix)]
fn identity(metadata: &fs::Metadata) -> [i64; 4] {
    use std::os::unix::fs::MetadataExt;

    let [device, inode] = [metadata.dev(), metadata.ino()].map(u64::cast_signed);
    [device, inode, metadata.ctime(), metadata.ctime_nsec()]
}

#[cfg(not(unix))]
fn identity(_: &fs::Metadata) -> [i64; 4] {
    [0; 4]
}

/// The file's content, and its stamp when it was opened; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<(Vec<u8>, Stamp)>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("can't be opened", &error)),
    };
    let metadata = file
        .metadata()
        .map_err(|error| failed("can't be examined", &error))?;
    if !metadata.is_file() || metadata.len() > LENGTH_MAX {
        let text = "the key file is not a regular file of at most 64 MiB";
        return Err(StoreError::new(StoreErrorKind::Unavailable, text));
    }
    let mut json = Vec::new();
    file.take(LENGTH_MAX)
        .read_to_end(&mut json)
        .map_err(|error| failed("can't be read", &error))?;
    Ok(Some((json, Stamp::read(&metadata))))
}

/// Keeps other processes from changing the file until it is dropped.
pub(super) struct FileLock {
    #[expect(dead_code, reason = "closing it unlocks")]
    file: File,
    /// The file that is locked.
    target: PathBuf,
}

impl FileLock {
    /// Waits up to a second. The lock is a separate file, since the key file itself gets replaced.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        create_folder(path)?;
        create_folder(&target(path))?;
        // By its real name, now that its folder exists.
        let target = target(path);
        let mut name = target.as_os_str().to_owned();
        name.push(".lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        close_to_others(&mut options);
        let file = options
            .open(PathBuf::from(name))
            .map_err(|error| failed("can't be locked", &error))?;
        for _ in 0..LOCK_ATTEMPTS {
            match file.try_lock() {
                Ok(()) => return Ok(Self { file, target }),
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(error)) => return Err(failed("can't be locked", &error)),
            }
        }
        let text = "another process holds the key file's lock";
        Err(StoreError::new(StoreErrorKind::Busy, text))
    }

    /// Removes the drafts of processes that died while they wrote the file: whoever writes it holds
    /// this lock. Nothing else is removed, and what can't be is left.
    pub(super) fn remove_drafts(&self) {
        let Ok(entries) = fs::read_dir(folder_of(&self.target)) else {
            return;
        };
        let start = draft_start(&self.target);
        let start = start.as_encoded_bytes();
        for entry in entries.take(ENTRIES_MAX).flatten() {
            let name = entry.file_name();
            let number = name.as_encoded_bytes().strip_prefix(start);
            let is_draft = number
                .and_then(|rest| rest.strip_suffix(DRAFT_END.as_bytes()))
                .is_some_and(|number| number.len() == 32 && number.iter().all(is_lower_hex));
            if is_draft && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                let removed = fs::remove_file(entry.path());
                tracing::debug!(target: "tollgate", path = %entry.path().display(), ?removed, "a process left a draft of the key file behind");
            }
        }
    }
}

const DRAFT_END: &str = ".draft";

/// The beginning of the name of every draft of a file. It contains the file's own name, since other
/// key files may lie in the folder.
fn draft_start(target: &Path) -> OsString {
    let mut start = OsString::from(".");
    start.push(target.file_name().unwrap_or_default());
    start.push(".");
    start
}

fn is_lower_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// As many as Linux follows.
const LINKS_MAX: usize = 40;

/// The file behind symbolic links, even if it doesn't exist yet. They stay: what they point to is
/// locked and replaced.
fn target(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        if let Ok(found) = fs::canonicalize(&path) {
            return found;
        }
        match fs::read_link(&path) {
            Ok(next) => path = folder_of(&path).join(next),
            Err(_) => break,
        }
    }
    match (fs::canonicalize(folder_of(&path)), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path,
    }
}

/// Replaces the file if it still has the stamp `read` (`None`: no file); returns whether it had.
/// This is checked last of all: an editor that writes between the check and the rename, a few
/// microseconds, is overwritten.
///
/// The replacement is atomic, on disk when this returns, and readable only by its owner.
pub(super) fn replace(path: &Path, json: &[u8], read: Option<Stamp>) -> Result<bool, StoreError> {
    if u64::try_from(json.len()).is_ok_and(|length| length > LENGTH_MAX) {
        // A file too large to read would invalidate every key.
        let text = "the key file would be larger than 64 MiB";
        return Err(StoreError::new(StoreErrorKind::Refused, text));
    }
    let path = &target(path);
    let mut draft = draft_start(path);
    draft.push(format!("{}{DRAFT_END}", Uuid::new_v4().simple()));
    let draft = folder_of(path).join(draft);
    let unwritten = |error| failed("can't be written", &error);
    let replaced = write(&draft, json).map_err(unwritten).and_then(|()| {
        let same = Stamp::of(path)? == read;
        if same {
            fs::rename(&draft, path).map_err(unwritten)?;
        }
        Ok(same)
    });
    if !matches!(replaced, Ok(true)) {
        let _ = fs::remove_file(&draft);
        return replaced;
    }
    // Makes the new name survive a crash as its content does; a file system that can't do this is
    // no reason to fail.
    if let Ok(folder) = File::open(folder_of(path)) {
        let _ = folder.sync_all();
    }
    Ok(true)
}

fn write(draft: &Path, json: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    close_to_others(&mut options);
    let mut file = options.open(draft)?;
    file.write_all(json)?;
    file.sync_all()
}

fn create_folder(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(folder_of(path)).map_err(|error| failed("has no folder", &error))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn close_to_others(options: &mut OpenOptions) {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
}

#[cfg(not(unix))]
fn close_to_others(_: &mut OpenOptions) {}

fn failed(what: &str, error: &io::Error) -> StoreError {
    let text = format!("the key file {what}: {error}");
    StoreError::new(StoreErrorKind::Unavailable, &text)
}

//! The secret that tokens are signed with, and the file that keeps it.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// RFC 7518 section 3.2: as many bits as SHA-256 has.
pub(super) const SECRET_LENGTH_MIN: usize = 32;

const SECRET_LENGTH_MAX: u64 = 4_096;

/// A secret of 32 to 4,096 bytes for [`TokenIssuer`](super::TokenIssuer) and
/// [`TokenVerifier`](super::TokenVerifier). Redacted in `Debug`, wiped from memory when dropped.
///
/// ```
/// use tollgate::token::SigningSecret;
///
/// let folder = std::env::temp_dir().join(format!("tollgate-doc-{}", std::process::id()));
/// let path = folder.join("jwt.secret");
/// let made = SigningSecret::load_or_create(&path)?;
/// let read = SigningSecret::load_or_create(&path)?;
/// assert_eq!(made.expose(), read.expose());
/// # std::fs::remove_dir_all(folder).ok();
/// # Ok::<(), tollgate::token::SigningSecretError>(())
/// ```
#[derive(Clone)]
pub struct SigningSecret(Zeroizing<Vec<u8>>);

impl SigningSecret {
    /// A secret from raw bytes, which are the key.
    ///
    /// # Errors
    /// [`SigningSecretError::Length`].
    pub fn from_bytes(secret: &[u8]) -> Result<Self, SigningSecretError> {
        let length_max = usize::try_from(SECRET_LENGTH_MAX).unwrap_or(usize::MAX);
        if !(SECRET_LENGTH_MIN..=length_max).contains(&secret.len()) {
            return Err(SigningSecretError::Length);
        }
        Ok(Self(Zeroizing::new(secret.to_vec())))
    }

    /// A new random secret that isn't stored: all tokens become invalid when the process ends.
    ///
    /// # Errors
    /// [`SigningSecretError`], if the system provides no randomness.
    pub fn generate() -> Result<Self, SigningSecretError> {
        Self::from_bytes(random_hex()?.as_bytes())
    }

    /// The secret in the file. If there is no file, it is created with mode 0600 and 256 random
    /// bits in hex.
    ///
    /// Processes that race to create it all get the same secret. White space around the secret is
    /// not part of it. If others may read the file, its mode is changed to 0600. This blocks on the
    /// disk: call it at startup.
    ///
    /// # Errors
    /// [`SigningSecretError`], which names the file and what is wrong with it.
    pub fn load_or_create(path: impl AsRef<Path>) -> Result<Self, SigningSecretError> {
        let path = path.as_ref();
        match Self::load(path) {
            Err(SigningSecretError::File { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                create(path)?;
                Self::load(path)
            }
            outcome => outcome,
        }
    }

    /// The secret, for an issuer or a verifier.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    fn load(path: &Path) -> Result<Self, SigningSecretError> {
        let failed = |error| SigningSecretError::io(path, error);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(SigningSecretError::NotAFile {
                path: path.to_owned(),
            });
        }
        close_to_others(&file, &metadata, path)?;
        let mut content = Zeroizing::new(Vec::new());
        // Reads slightly more than the maximum, to notice that a file is longer.
        file.take(SECRET_LENGTH_MAX.saturating_add(64))
            .read_to_end(&mut content)
            .map_err(failed)?;
        Self::from_bytes(content.trim_ascii()).map_err(|_| SigningSecretError::Content {
            path: path.to_owned(),
        })
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(..)")
    }
}

/// The secret could not be created or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningSecretError {
    /// Too short to sign with, or absurdly long.
    #[error("a signing secret has 32 to 4,096 bytes")]
    Length,
    /// The file holds something else.
    #[error("{}: does not hold a secret of 32 to 4,096 bytes", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
    },
    /// It is a directory, a device or a socket.
    #[error("{}: is not a regular file", path.display())]
    NotAFile {
        /// Which path.
        path: PathBuf,
    },
    /// Others may read the file, and its mode can't be changed.
    #[error("{}: may be read by others, and its mode can't be changed to 0600", path.display())]
    LooseMode {
        /// Which file.
        path: PathBuf,
    },
    /// The file or its folder can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system provided no randomness.
    #[error("the system gave no randomness")]
    NoRandomness,
}

impl SigningSecretError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            source,
        }
    }
}

/// Writes a new secret next to `path` and links it there: completely or not at all, and never over
/// another.
fn create(path: &Path) -> Result<(), SigningSecretError> {
    let failed = |error| SigningSecretError::io(path, error);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let draft = folder.join(format!(".secret-{}", *random_hex()?));
    let written = write_secret(&draft)?.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    });
    let removed = fs::remove_file(&draft);
    written.and(removed).map_err(failed)?;
    // Makes the name as durable as the content; a file system that can't do this is no reason to
    // fail.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

fn write_secret(draft: &Path) -> Result<io::Result<()>, SigningSecretError> {
    let mut line = random_hex()?;
    line.push('\n');
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    Ok(options.open(draft).and_then(|mut file| {
        file.write_all(line.as_bytes())?;
        file.sync_all()
    }))
}

/// 256 random bits.
fn random_hex() -> Result<Zeroizing<String>, SigningSecretError> {
    use std::fmt::Write as _;

    let mut bytes = Zeroizing::new([0_u8; 32]);
    getrandom::fill(bytes.as_mut()).map_err(|_| SigningSecretError::NoRandomness)?;
    let mut hex = Zeroizing::new(String::with_capacity(65));
    for byte in bytes.iter() {
        // Writing to a string doesn't fail.
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
}

#[cfg(unix)]
fn close_to_others(
    file: &File,
    metadata: &fs::Metadata,
    path: &Path,
) -> Result<(), SigningSecretError> {
    use std::os::unix::fs::PermissionsExt;

    if metadata.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(0o600))
        .map_err(|_| SigningSecretError::LooseMode {
            path: path.to_owned(),
        })
}

#[cfg(not(unix))]
#[expect(
    clippy::unnecessary_wraps,
    reason = "it can fail where files have modes"
)]
fn close_to_others(_: &File, _: &fs::Metadata, _: &Path) -> Result<(), SigningSecretError> {
    Ok(())
}

//! The name of one request, for logs and answers.

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use http::HeaderValue;
use smallvec::SmallVec;

/// The longest id that is taken from a caller, in bytes.
const LENGTH_MAX: usize = 128;

/// The id of one request: the caller's, if it was well-formed, or one of ours. It names rows of logs;
/// nothing is decided by it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Takes an id from a header: 1 to 128 letters, digits, `.`, `_`, `:` and `-`.
    #[must_use]
    pub fn from_header(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?;
        let speakable = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        let well_formed = (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(speakable);
        well_formed.then(|| Self(Arc::from(text)))
    }

    /// A new id, unlike any other of this or another process: a random number drawn when the process
    /// began, and a count.
    #[must_use]
    pub fn generate() -> Self {
        static PREFIX: LazyLock<String> = LazyLock::new(|| {
            let mut bytes = [0; 8];
            // Without randomness ids may repeat between processes, which confuses a reader of logs and no one else.
            let _ = getrandom::fill(&mut bytes);
            format!("req-{:016x}-", u64::from_le_bytes(bytes))
        });
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Every request has one made: it is put together on the stack.
        let mut text = SmallVec::<[u8; 48]>::from_slice(PREFIX.as_bytes());
        text.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
        Self(std::str::from_utf8(&text).unwrap_or_default().into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn shared(&self) -> &Arc<str> {
        &self.0
    }

    /// The id as a header's value.
    pub(crate) fn header_value(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", self.0)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

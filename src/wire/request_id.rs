//! Request ids in headers.

use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http::HeaderValue;

use super::number::Text;
use crate::domain::RequestId;

/// The longest id that is accepted from a caller, in bytes.
const LENGTH_MAX: usize = 128;
/// `req-`, 16 hexadecimal digits, `-`, a count.
const OWN_LENGTH_MAX: usize = 48;

impl RequestId {
    /// Parses an id from a header: 1 to 128 letters, digits, `.`, `_`, `:` and `-`.
    #[must_use]
    pub fn from_header(value: &HeaderValue) -> Option<Self> {
        let text = value.as_bytes();
        let speakable = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:-".contains(byte);
        let well_formed = (1..=LENGTH_MAX).contains(&text.len()) && text.iter().all(speakable);
        well_formed.then(|| Self::of_text(Bytes::copy_from_slice(text)))
    }

    /// A new id, unique across processes: a random number drawn when the process started, and a
    /// counter.
    #[must_use]
    pub fn generate() -> Self {
        static PREFIX: LazyLock<String> = LazyLock::new(|| {
            let mut bytes = [0; 8];
            // Without randomness ids may repeat across processes, which only confuses readers of
            // logs.
            let _ = getrandom::fill(&mut bytes);
            format!("req-{:016x}-", u64::from_le_bytes(bytes))
        });
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut text = Text::new([0; OWN_LENGTH_MAX]);
        text.push(PREFIX.as_bytes());
        text.push_number(count);
        Self::of_text(text.into_bytes())
    }

    /// The id as a header's value.
    pub(crate) fn header_value(&self) -> Option<HeaderValue> {
        HeaderValue::from_maybe_shared(self.as_bytes().clone()).ok()
    }
}

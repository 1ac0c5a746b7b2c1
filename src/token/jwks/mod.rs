//! Keys of other issuers: JWK sets from a file, and, with the feature `jwks`, from an address.
//!
//! | source | looked at | when it can't be read |
//! |---|---|---|
//! | [`JwksFile`] | once a second, while tokens come | the keys stay as they were |
//! | `JwksUrl` | as its cache headers say, and for a `kid` that isn't there, once in a cooldown | likewise |
//!
//! A file is read as one's own configuration
//! ([`VerifyingKeys::from_jwks`](super::VerifyingKeys::from_jwks)), an address as somebody else's
//! ([`VerifyingKeys::from_public_jwks`](super::VerifyingKeys::from_public_jwks)), where a key that
//! can't be used is left out with a warning at each read. What makes the whole set unusable leaves
//! the keys as they were. When a set changes, tokens that were verified with the previous one are
//! verified again.

#[cfg(feature = "jwks")]
mod fetch;
mod file;
#[cfg(feature = "jwks")]
mod source;
#[cfg(feature = "jwks")]
mod url;

use std::{borrow::Cow, io, path::PathBuf};

pub use file::JwksFile;
#[cfg(feature = "jwks")]
#[cfg_attr(docsrs, doc(cfg(feature = "jwks")))]
pub use url::{JwksUrl, JwksUrlBuilder};

use super::KeyError;

/// The largest set that is read, in bytes.
const BYTES_MAX: usize = 256 * 1_024;

/// A source has no keys, or is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwksError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More than 256 KiB.
    #[error("the key set is larger than 256 KiB")]
    TooLarge,
    /// The keys can't be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Not an acceptable address: it must be `https`, without user, password or fragment.
    #[error("url: an https address, without user and password")]
    Url,
    /// The address belongs to this machine or a private network.
    #[error("url: an address of a private network")]
    PrivateAddress,
    /// A setting is invalid: which, and why.
    #[error("{0}")]
    Setting(&'static str),
    /// It did not answer, or not with 200, with the reason; redirects are not followed.
    #[error("the key set was not answered: {0}")]
    Answer(Cow<'static, str>),
    /// The provider's configuration is not that of the issuer, which must be equal to the letter
    /// (OpenID Connect Discovery section 4.3).
    #[error("the configuration of the issuer {expected:?} is {}", configuration(found.as_deref()))]
    Discovery {
        /// The issuer that was asked for.
        expected: String,
        /// The issuer that the configuration names, cut to 200 characters; `None`: it isn't a
        /// configuration.
        found: Option<String>,
    },
}

/// What was found in place of an issuer's configuration.
fn configuration(issuer: Option<&str>) -> String {
    issuer.map_or_else(
        || "not one".to_owned(),
        |issuer| format!("that of {issuer:?}"),
    )
}

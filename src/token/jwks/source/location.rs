//! Where the keys are, and how they are brought from there.

use std::{fmt, time::Duration};

use serde::Deserialize;

use super::{FRESH_MAX, FRESH_MIN, Settings};
use crate::token::{VerifyingKeys, jwks::JwksError};

/// The most that is shown of a provider's own name for itself, in characters.
const ISSUER_SHOWN: usize = 200;

/// The location of the keys.
pub(in crate::token::jwks) enum Location {
    Keys(String),
    Provider {
        /// Where its configuration is.
        authority: String,
        /// How that must name it.
        issuer: String,
    },
}

/// Without the query, which may hold a secret.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.address().split('?').next().unwrap_or_default())
    }
}

impl Location {
    pub(in crate::token::jwks) fn address(&self) -> &str {
        let (Self::Keys(address)
        | Self::Provider {
            authority: address, ..
        }) = self;
        address
    }
}

#[derive(Deserialize)]
struct Provider {
    issuer: String,
    jwks_uri: String,
}

impl Settings {
    /// The keys, and how long they are fresh.
    pub(super) async fn download(&self) -> Result<(VerifyingKeys, Duration), JwksError> {
        let url = match &self.place {
            Location::Keys(url) => self.fetcher.check(url)?,
            Location::Provider { authority, issuer } => {
                let configuration = configuration_of(authority);
                let url = self.fetcher.check(&configuration)?;
                let document = self.fetcher.fetch(url).await?;
                let other = |found: Option<&str>| JwksError::Discovery {
                    expected: issuer.clone(),
                    found: found.map(|found| found.chars().take(ISSUER_SHOWN).collect()),
                };
                let provider: Provider =
                    serde_json::from_slice(&document.json).map_err(|_| other(None))?;
                if provider.issuer != *issuer {
                    return Err(other(Some(&provider.issuer)));
                }
                self.fetcher.check(&provider.jwks_uri)?
            }
        };
        let document = self.fetcher.fetch(url).await?;
        let keys = VerifyingKeys::from_public_jwks(&document.json)?;
        let keys = self.algorithms.of(keys)?;
        let fresh = document.max_age.unwrap_or(self.refresh);
        Ok((
            keys,
            fresh
                .clamp(FRESH_MIN, FRESH_MAX)
                .min(self.refresh.max(FRESH_MIN)),
        ))
    }
}

/// OpenID Connect Discovery section 4.1: a trailing slash is removed before the path is appended.
pub(in crate::token::jwks) fn configuration_of(issuer: &str) -> String {
    let issuer = issuer.strip_suffix('/').unwrap_or(issuer);
    format!("{issuer}/.well-known/openid-configuration")
}

//! The settings of a key that is to be created.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::domain::{clock::Timestamp, quota::Quotas};

/// A key to be created. None of its texts may contain a NUL character.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// What its owner calls it: at most 255 bytes.
    pub name: String,
    /// One of the format's environments; `None` if it has none.
    pub environment: Option<String>,
    /// Its roles, at most 64 of at most 64 bytes; duplicates count once.
    pub roles: Vec<String>,
    /// The one resource that it is valid for: at most 255 bytes.
    pub resource: Option<String>,
    /// The networks that it may be used from, at most 64; empty: from anywhere.
    pub networks: Vec<IpNet>,
    /// Its own rate quotas, at most 16, in requests, which replace those of the tier or the layer.
    pub quotas: Option<Quotas>,
    /// When it expires. A moment in the past is accepted.
    pub expires_at: Option<Timestamp>,
    /// The application's own data, which become the attributes of the key's principal: at most 32
    /// entries, of 4,096 bytes together.
    pub metadata: BTreeMap<String, String>,
}

//! The settings of a key that is to be created.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::domain::{clock::Timestamp, quota::Quotas};

/// A key to be made. None of its texts may have a NUL character in it.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// What its owner calls it: at most 255 bytes.
    pub name: String,
    /// One of the format's environments; `None` where it has none.
    pub environment: Option<String>,
    /// Its roles, at most 64 of at most 64 bytes; one that is named twice counts once.
    pub roles: Vec<String>,
    /// The one resource that it is good for: at most 255 bytes.
    pub resource: Option<String>,
    /// The networks that it may be used from, at most 64; empty: from anywhere.
    pub networks: Vec<IpNet>,
    /// Rate quotas of its own, at most 16, in requests, which take the place of those of the tier or
    /// the layer.
    pub quotas: Option<Quotas>,
    /// From when on it is refused as expired. A moment of the past is taken as it is.
    pub expires_at: Option<Timestamp>,
    /// What the application keeps of it, which become the attributes of whoever uses it: at most 32, of 4,096 bytes together.
    pub metadata: BTreeMap<String, String>,
}

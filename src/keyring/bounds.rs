//! What a key may carry. The number of keys in memory is bounded, and this bounds their size: at
//! most about 16 KiB each. Texts that contain NUL are refused here, because PostgreSQL can't store
//! them and a key must not depend on the engine. So are names with other control characters,
//! invisible ones, and those that change the direction of writing: they are shown in lists, logs
//! and terminals.

use std::collections::BTreeMap;

use hashbrown::HashSet;
use ipnet::IpNet;

use super::{KeyringError, NewKey};
use crate::domain::{
    clock::Timestamp, has_nul, is_deceptive, key::KeyUpdate, network, quota::Quotas,
};

/// The longest owner, name and resource, in bytes. OpenID Connect Core 1.0, section 2, has subjects
/// of at most 255.
const TEXT_LENGTH_MAX: usize = 255;
/// As many as a token may list.
const ROLES_MAX: usize = 64;
const ROLE_LENGTH_MAX: usize = 64;
const NETWORKS_MAX: usize = 64;
const QUOTAS_MAX: usize = 16;
const QUOTA_NAME_LENGTH_MAX: usize = 64;
const METADATA_MAX: usize = 32;
/// Names and values together, in bytes.
const METADATA_LENGTH_MAX: usize = 4_096;

/// The settings of a key that can be arbitrarily large; `None` if unset.
#[derive(Default)]
struct Columns<'a> {
    name: Option<&'a str>,
    resource: Option<&'a str>,
    roles: Option<&'a [String]>,
    networks: Option<&'a [IpNet]>,
    quotas: Option<&'a Quotas>,
    metadata: Option<&'a BTreeMap<String, String>>,
}

impl Columns<'_> {
    fn check(&self) -> Result<(), KeyringError> {
        if let Some(column) = self.with_odd_character() {
            return Err(KeyringError::Invalid(column));
        }
        let is_long = |text: &str| text.len() > TEXT_LENGTH_MAX;
        let many_roles = |roles: &[String]| {
            roles.len() > ROLES_MAX || roles.iter().any(|role| role.len() > ROLE_LENGTH_MAX)
        };
        let many_quotas = |quotas: &Quotas| {
            let quotas = quotas.as_slice();
            let is_long = |name: &str| name.len() > QUOTA_NAME_LENGTH_MAX;
            quotas.len() > QUOTAS_MAX || quotas.iter().any(|quota| is_long(quota.name()))
        };
        let much_metadata = |metadata: &BTreeMap<String, String>| {
            let length = |(name, value): (&String, &String)| name.len().saturating_add(value.len());
            metadata.len() > METADATA_MAX
                || metadata.iter().map(length).sum::<usize>() > METADATA_LENGTH_MAX
        };
        let refused = if self.name.is_some_and(is_long) {
            "name: at most 255 bytes"
        } else if self.resource.is_some_and(is_long) {
            "resource: at most 255 bytes"
        } else if self.roles.is_some_and(many_roles) {
            "roles: at most 64, of at most 64 bytes each"
        } else if self.networks.is_some_and(|all| all.len() > NETWORKS_MAX) {
            "networks: at most 64"
        } else if self.quotas.is_some_and(many_quotas) {
            "quotas: at most 16, with names of at most 64 bytes"
        } else if self.metadata.is_some_and(much_metadata) {
            "metadata: at most 32 entries, and 4,096 bytes"
        } else {
            return Ok(());
        };
        Err(KeyringError::Invalid(refused))
    }

    /// The first setting that contains a character that it can't have.
    fn with_odd_character(&self) -> Option<&'static str> {
        let in_metadata = |metadata: &BTreeMap<String, String>| {
            let mut entries = metadata.iter();
            entries.any(|(name, value)| has_nul(name) || has_nul(value))
        };
        let has_control = |name: &str| name.contains(is_deceptive);
        if self.name.is_some_and(has_control) {
            Some("name: a control character or an invisible one is in it")
        } else if self.resource.is_some_and(has_nul) {
            Some("resource: a NUL character is in it")
        } else if (self.roles).is_some_and(|roles| roles.iter().any(|role| has_nul(role))) {
            Some("roles: a NUL character is in one")
        } else if self.metadata.is_some_and(in_metadata) {
            Some("metadata: a NUL character is in it")
        } else {
            None
        }
    }
}

/// Removes duplicate roles, writes networks in the form in which they are compared, and refuses
/// what is too large.
pub(super) fn normalize_new(owner: &str, new: &mut NewKey) -> Result<(), KeyringError> {
    if owner.len() > TEXT_LENGTH_MAX {
        return Err(KeyringError::Invalid("owner: at most 255 bytes"));
    }
    if has_nul(owner) {
        return Err(KeyringError::Invalid("owner: a NUL character is in it"));
    }
    keep_one_of_each(&mut new.roles);
    network::canonical_all(&mut new.networks);
    let columns = Columns {
        name: Some(&new.name),
        resource: new.resource.as_deref(),
        roles: Some(&new.roles),
        networks: Some(&new.networks),
        quotas: new.quotas.as_ref(),
        metadata: Some(&new.metadata),
    };
    columns.check()
}

/// The same for a change that is made `now`.
pub(super) fn normalize_update(change: &mut KeyUpdate, now: Timestamp) -> Result<(), KeyringError> {
    if change.revoked_at.is_some_and(|at| now < at) {
        return Err(KeyringError::Invalid(
            "revoked_at: not in the future (expires_at ends a key later)",
        ));
    }
    if change.disabled_at.flatten().is_some_and(|at| now < at) {
        return Err(KeyringError::Invalid("disabled_at: not in the future"));
    }
    if let Some(roles) = &mut change.roles {
        keep_one_of_each(roles);
    }
    if let Some(networks) = &mut change.networks {
        network::canonical_all(networks);
    }
    let columns = Columns {
        name: change.name.as_deref(),
        resource: change.resource.as_ref().and_then(Option::as_deref),
        roles: change.roles.as_deref(),
        networks: change.networks.as_deref(),
        quotas: change.quotas.as_ref().and_then(Option::as_ref),
        metadata: change.metadata.as_ref(),
    };
    columns.check()
}

fn keep_one_of_each(roles: &mut Vec<String>) {
    let mut seen = HashSet::new();
    roles.retain(|role| {
        let is_new = !seen.contains(role);
        if is_new {
            seen.insert(role.clone());
        }
        is_new
    });
}

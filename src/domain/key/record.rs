//! The record of a key, and updates of it.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Serialize;

use super::{KeyDigest, KeyProof, Rehash, Rotation, RotationOutcome};
use crate::domain::{BudgetId, KeyId, clock::Timestamp, quota::Quotas};

/// A key as stored. Its serialized form is what may be shown: it has neither digest nor proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyRecord {
    /// Its public name.
    pub id: KeyId,
    /// What the key is looked up by: the digest of the whole key or of its start, as `proof` says.
    #[serde(skip)]
    pub digest: KeyDigest,
    /// The scheme of the digest.
    #[serde(skip)]
    pub proof: KeyProof,
    /// The part that may be shown: `ps_live_abcd...xyz9`.
    pub preview: String,
    /// The name that its owner gave it.
    pub name: String,
    /// Its owner: the [`Principal`](crate::Principal)'s subject.
    pub owner: String,
    /// Its environment (`live`, `test`), if the format has any.
    pub environment: Option<String>,
    /// Names in the application's [`RoleSet`](crate::role::RoleSet).
    pub roles: Vec<String>,
    /// The one resource that it is valid for; `None`: not bound to one.
    pub resource: Option<String>,
    /// The networks that it may be used from; empty: any.
    pub networks: Vec<IpNet>,
    /// Its own rate quotas, in requests, which replace those of the tier or the layer.
    pub quotas: Option<Quotas>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked. It is refused whenever this is set, whatever the moment.
    pub revoked_at: Option<Timestamp>,
    /// When it was disabled. It is refused as long as this is set; unlike a revocation, that can be
    /// undone. A revoked key is no longer disabled.
    pub disabled_at: Option<Timestamp>,
    /// When it was last used, accurate to the resolver's touch interval.
    pub last_used_at: Option<Timestamp>,
    /// The key that this one replaced.
    pub rotated_from: Option<KeyId>,
    /// The key that replaced this one. A key is replaced at most once, even if its successor is
    /// deleted.
    pub rotated_to: Option<KeyId>,
    /// What its spending and rate are counted under; kept through rotations.
    pub lineage: BudgetId,
    /// The application's own data about it.
    pub metadata: BTreeMap<String, String>,
}

impl KeyRecord {
    /// A new key of `owner`: active, without roles, restrictions or expiry.
    #[must_use]
    pub fn new(
        id: KeyId,
        lineage: BudgetId,
        digest: KeyDigest,
        owner: &str,
        created_at: Timestamp,
    ) -> Self {
        Self {
            id,
            digest,
            proof: KeyProof::Sha256,
            preview: String::new(),
            name: String::new(),
            owner: owner.to_owned(),
            environment: None,
            roles: Vec::new(),
            resource: None,
            networks: Vec::new(),
            quotas: None,
            created_at,
            expires_at: None,
            revoked_at: None,
            disabled_at: None,
            last_used_at: None,
            rotated_from: None,
            rotated_to: None,
            lineage,
            metadata: BTreeMap::new(),
        }
    }

    /// Applies `change`, by the rules of every store: a revoked key stays revoked as of the first
    /// time, a disabled one stays disabled as of the first time until it is enabled, and a replaced
    /// key lives no longer than it would have. Check [first](Self::is_as_seen) whether the change
    /// may be made.
    pub fn apply(&mut self, change: KeyUpdate) {
        if let Some(name) = change.name {
            self.name = name;
        }
        if let Some(roles) = change.roles {
            self.roles = roles;
        }
        if let Some(networks) = change.networks {
            self.networks = networks;
        }
        if let Some(resource) = change.resource {
            self.resource = resource;
        }
        if let Some(quotas) = change.quotas {
            self.quotas = quotas;
        }
        if let Some(metadata) = change.metadata {
            self.metadata = metadata;
        }
        if let Some(expires_at) = change.expires_at {
            self.expires_at = self.end_within(expires_at);
        }
        self.disabled_at = self.disabled_by(change.disabled_at);
        if let Some(at) = change.revoked_at {
            self.revoke(at);
        }
    }

    /// Revokes it at that moment, unless it already is; returns what was ended. An expired key is
    /// ended too, because a later expiry could revive it.
    pub fn revoke(&mut self, at: Timestamp) -> Option<RevokedKey> {
        if self.revoked_at.is_some() {
            return None;
        }
        self.revoked_at = Some(at);
        self.disabled_at = None;
        Some(RevokedKey {
            id: self.id.clone(),
            digest: self.digest,
        })
    }

    /// A replaced key ends with its overlap at the latest: its successor is valid in its place.
    fn end_within(&self, wanted: Option<Timestamp>) -> Option<Timestamp> {
        match (wanted, self.expires_at) {
            (Some(wanted), Some(own)) if self.rotated_to.is_some() => Some(wanted.min(own)),
            (None, own) if self.rotated_to.is_some() => own,
            (wanted, _) => wanted,
        }
    }

    /// There is nothing to disable or to enable about a key that is revoked.
    fn disabled_by(&self, change: Option<Option<Timestamp>>) -> Option<Timestamp> {
        match change {
            Some(at) if self.revoked_at.is_none() => {
                self.disabled_at.filter(|_| at.is_some()).or(at)
            }
            _ => self.disabled_at,
        }
    }

    /// Whether a change makes it active again at `now`, for which there must be
    /// [room](super::KeysPerOwner::admit_again).
    #[must_use]
    pub fn comes_back(&self, change: &KeyUpdate, now: Timestamp) -> bool {
        let end = match change.expires_at {
            Some(end) => self.end_within(end),
            None => self.expires_at,
        };
        let is_refused = self.revoked_at.or(change.revoked_at).is_some()
            || self.disabled_by(change.disabled_at).is_some();
        !self.is_active(now) && !is_refused && end.is_none_or(|end| now < end)
    }

    /// Replaces digest and proof if it still has the old ones. Returns whether it did.
    pub fn rehash(&mut self, change: &Rehash) -> bool {
        let fits = self.digest == change.from && self.proof == change.from_proof;
        if fits {
            self.digest = change.digest;
            self.proof = change.proof.clone();
        }
        fits
    }

    /// Replaces it by a new key, by the rules of every store; the store makes the step atomic and
    /// durable. The store must write the changed `self` and the returned successor.
    ///
    /// # Errors
    /// The outcome, if nothing is to be written.
    pub fn rotate(&mut self, rotation: &Rotation) -> Result<Self, RotationOutcome> {
        if let Some(by) = &self.rotated_to {
            return Err(RotationOutcome::Superseded { by: by.clone() });
        }
        if !self.is_active(rotation.at) {
            return Err(RotationOutcome::NotActive);
        }
        if !self.is_as_seen(rotation.seen.as_deref()) {
            return Err(RotationOutcome::Changed);
        }
        let successor = Self {
            id: rotation.id.clone(),
            digest: rotation.digest,
            proof: rotation.proof.clone(),
            preview: rotation.preview.clone(),
            created_at: rotation.at,
            expires_at: rotation.end.after(self, rotation.at),
            last_used_at: None,
            rotated_from: Some(self.id.clone()),
            ..self.clone()
        };
        let end = rotation.overlap_ends_at;
        self.expires_at = Some(self.expires_at.map_or(end, |own| own.min(end)));
        self.rotated_to = Some(successor.id.clone());
        Ok(successor)
    }

    /// Whether the settings that decide what it may be used for are still as in `seen`; always true
    /// for `None`. If not, an update fails with
    /// [`Conflict`](crate::store::StoreErrorKind::Conflict).
    #[must_use]
    pub fn is_as_seen(&self, seen: Option<&Self>) -> bool {
        let Some(seen) = seen else {
            return true;
        };
        self.roles == seen.roles
            && self.resource == seen.resource
            && self.networks == seen.networks
            && self.quotas == seen.quotas
            && self.expires_at == seen.expires_at
            && self.metadata == seen.metadata
    }

    /// Whether it is active at `now`: neither revoked nor disabled nor expired.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        let is_refused = self.revoked_at.or(self.disabled_at).is_some();
        !is_refused && self.expires_at.is_none_or(|end| now < end)
    }
}

/// A key that was ended together with others of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedKey {
    /// Its id.
    pub id: KeyId,
    /// The digest by which the store looks it up.
    pub digest: KeyDigest,
}

/// The changes to a key, by column. `None` leaves a column as it is, and it is not rewritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUpdate {
    /// A new name.
    pub name: Option<String>,
    /// New roles.
    pub roles: Option<Vec<String>>,
    /// New networks.
    pub networks: Option<Vec<IpNet>>,
    /// Another resource; `Some(None)`: not bound to one.
    pub resource: Option<Option<String>>,
    /// New rate quotas; `Some(None)`: none of its own.
    pub quotas: Option<Option<Quotas>>,
    /// The application's data about it, replaced as a whole.
    pub metadata: Option<BTreeMap<String, String>>,
    /// A new expiry; `Some(None)`: none. A replaced key lives no longer than it would have.
    pub expires_at: Option<Option<Timestamp>>,
    /// The moment of revocation; ignored if it was already revoked. The key is refused as soon as
    /// this is stored, so [`Keyring::update`] accepts no future moment: use `expires_at` for that.
    ///
    /// [`Keyring::update`]: crate::keyring::Keyring::update
    pub revoked_at: Option<Timestamp>,
    /// The moment at which it is disabled, ignored if it already was; `Some(None)` enables it. What
    /// was said of `revoked_at` about moments of the future is true here too.
    pub disabled_at: Option<Option<Timestamp>>,
    /// The key as the caller read it. The change is made only if the key's settings still equal
    /// these; `None`: unconditionally.
    pub seen: Option<Box<KeyRecord>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_serialized_of_a_key_proves_nothing() {
        let (id, lineage) = (
            KeyId::new("key-1").unwrap(),
            BudgetId::new("key-1").unwrap(),
        );
        let digest = KeyDigest::of("ps_live_1");
        let mut key = KeyRecord::new(id, lineage, digest, "ann", Timestamp::UNIX_EPOCH);
        key.proof = "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaA"
            .parse()
            .unwrap();
        key.networks = vec!["192.0.2.0/24".parse().unwrap()];
        let json = serde_json::to_value(&key).unwrap();
        let mut names: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        names.sort_unstable();
        let shown = [
            "created_at",
            "disabled_at",
            "environment",
            "expires_at",
            "id",
            "last_used_at",
            "lineage",
            "metadata",
            "name",
            "networks",
            "owner",
            "preview",
            "quotas",
            "resource",
            "revoked_at",
            "roles",
            "rotated_from",
            "rotated_to",
        ];
        assert_eq!(names, shown);
        assert_eq!(json["networks"][0], "192.0.2.0/24");
    }
}

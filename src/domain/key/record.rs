//! The record of a key, and updates of it.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Serialize;

use super::{KeyDigest, KeyProof, Rehash, Rotation, RotationOutcome};
use crate::domain::{BudgetId, KeyId, clock::Timestamp, quota::Quotas};

/// A key as stored. Serialized it is what may be shown of it: neither its digest nor its proof is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyRecord {
    /// Its public name.
    pub id: KeyId,
    /// What the key is looked up by: a digest of all of it, or of its start, as `proof` says.
    #[serde(skip)]
    pub digest: KeyDigest,
    /// Of which scheme the digest is.
    #[serde(skip)]
    pub proof: KeyProof,
    /// What may be shown of it: `ps_live_abcd...xyz9`.
    pub preview: String,
    /// What its owner calls it.
    pub name: String,
    /// Whose it is: the [`Principal`](crate::Principal)'s subject.
    pub owner: String,
    /// Its environment (`live`, `test`), where the format has any.
    pub environment: Option<String>,
    /// Names in the application's [`RoleSet`](crate::role::RoleSet).
    pub roles: Vec<String>,
    /// The one resource that it is good for; `None`: not bound to one.
    pub resource: Option<String>,
    /// The networks that it may be used from; empty: from anywhere.
    pub networks: Vec<IpNet>,
    /// Rate quotas of its own, in requests, which take the place of those of the tier or
    /// the layer.
    pub quotas: Option<Quotas>,
    /// Since when.
    pub created_at: Timestamp,
    /// From when on it is refused as expired.
    pub expires_at: Option<Timestamp>,
    /// Since when it is refused as revoked: it is so whenever there is a moment.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to within the resolver's touch interval.
    pub last_used_at: Option<Timestamp>,
    /// The key that this one replaced.
    pub rotated_from: Option<KeyId>,
    /// The key that replaced this one. There is one at most, for good: also when that one is deleted.
    pub rotated_to: Option<KeyId>,
    /// What its spending and its rate are counted under: kept through rotations.
    pub lineage: BudgetId,
    /// What the application keeps of it.
    pub metadata: BTreeMap<String, String>,
}

impl KeyRecord {
    /// A new key of `owner`: active, without roles, bounds or expiry.
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
            last_used_at: None,
            rotated_from: None,
            rotated_to: None,
            lineage,
            metadata: BTreeMap::new(),
        }
    }

    /// Changes what `change` names, by the rules that hold in every store: a key that was revoked stays revoked since then, and one
    /// that was replaced goes on no longer than it would. Whether the change may be made is asked [first](Self::is_as_seen).
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
        if self.revoked_at.is_none() {
            self.revoked_at = change.revoked_at;
        }
    }

    /// Ends it at that moment, unless it was ended before; what was ended then. One that has expired is ended too, since it could go
    /// on with a later end.
    pub fn revoke(&mut self, at: Timestamp) -> Option<RevokedKey> {
        if self.revoked_at.is_some() {
            return None;
        }
        self.revoked_at = Some(at);
        Some(RevokedKey {
            id: self.id.clone(),
            digest: self.digest,
        })
    }

    /// A key that was replaced ends with its overlap at the latest: another is good in its place.
    fn end_within(&self, wanted: Option<Timestamp>) -> Option<Timestamp> {
        match (wanted, self.expires_at) {
            (Some(wanted), Some(own)) if self.rotated_to.is_some() => Some(wanted.min(own)),
            (None, own) if self.rotated_to.is_some() => own,
            (wanted, _) => wanted,
        }
    }

    /// Whether a change makes it good again at `now`, for which there must be [room](super::KeysPerOwner::admit_again).
    #[must_use]
    pub fn comes_back(&self, change: &KeyUpdate, now: Timestamp) -> bool {
        let ends = change.expires_at.map(|end| self.end_within(end));
        let goes_on = ends.is_some_and(|end| end.is_none_or(|end| now < end));
        goes_on && !self.is_active(now) && self.revoked_at.or(change.revoked_at).is_none()
    }

    /// Gives it another digest and proof, if it still has the old ones. Whether it did.
    pub fn rehash(&mut self, change: &Rehash) -> bool {
        let fits = self.digest == change.from && self.proof == change.from_proof;
        if fits {
            self.digest = change.digest;
            self.proof = change.proof.clone();
        }
        fits
    }

    /// Replaces it by a new key, by the rules that hold in every store: a store makes the step atomic and durable. What it
    /// must write has changed in `self`, and the successor, which is returned, must be stored.
    ///
    /// # Errors
    /// The outcome where nothing is to be written.
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

    /// Whether all that may be changed, and says what it is good for, is as it was when somebody looked, if that counts. Where it
    /// isn't, an update fails with [`Conflict`](crate::store::StoreErrorKind::Conflict).
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

    /// Whether it is good at `now`: neither revoked nor expired.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// A key that was ended, with others of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedKey {
    /// Which.
    pub id: KeyId,
    /// What it is looked up by in the store.
    pub digest: KeyDigest,
}

/// What to change of a key, by column; what is `None` stays as it is, and is not rewritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUpdate {
    /// A new name.
    pub name: Option<String>,
    /// New roles.
    pub roles: Option<Vec<String>>,
    /// New networks.
    pub networks: Option<Vec<IpNet>>,
    /// Another resource that it is good for; `Some(None)`: not bound to one.
    pub resource: Option<Option<String>>,
    /// New rate quotas of its own; `Some(None)`: none.
    pub quotas: Option<Option<Quotas>>,
    /// What the application keeps of it, as a whole.
    pub metadata: Option<BTreeMap<String, String>>,
    /// A new expiry; `Some(None)`: none. A key that was replaced goes on no longer than it would.
    pub expires_at: Option<Option<Timestamp>>,
    /// Revoked since that moment, unless it was revoked before. It is refused as soon as this is stored, so [`Keyring::update`]
    /// takes no moment of the future: that is `expires_at`.
    ///
    /// [`Keyring::update`]: crate::keyring::Keyring::update
    pub revoked_at: Option<Timestamp>,
    /// The key as the caller read it. The change is made only if the key's settings still equal these; `None`: in any case.
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

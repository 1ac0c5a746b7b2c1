//! A resolved key: what the cache keeps of a record.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ipnet::IpNet;

use super::{KeyRefusal, interner::StandingInterner};
use crate::{
    cache::{Remembered, Stamp},
    domain::{
        BudgetId, KeyId,
        clock::Clock,
        credential::CredentialKind,
        key::{KeyDigest, KeyRecord},
        network,
        principal::{Identity, IdentityHolder, Principal},
    },
};

/// A key that was found, and its principal. It keeps only what a request needs of the record,
/// because there may be a million of them in memory.
///
/// The order of the fields puts what every hit reads into one or two cache lines.
#[repr(C)]
pub struct ResolvedKey {
    digest: KeyDigest,
    stamp: Stamp,
    /// When its use is to be recorded next, in milliseconds of the clock's `elapsed`.
    touch_at: AtomicU64,
    identity: Identity,
}

impl ResolvedKey {
    /// `digest` is what it is cached under, which may differ from what it is stored by; `touch_at`
    /// is when its use is to be recorded next, by the clock's `elapsed`.
    pub(super) fn new(
        mut record: KeyRecord,
        digest: KeyDigest,
        stamp: Stamp,
        interner: &StandingInterner,
        touch_at: Duration,
    ) -> Self {
        // They may come in any form: from a custom store, or a file.
        network::canonical_all(&mut record.networks);
        let lineage = if record.lineage.as_str() == record.id.as_str() {
            // Until it is rotated, id and lineage share one text.
            BudgetId::try_from(Arc::from(&record.id)).unwrap_or(record.lineage)
        } else {
            record.lineage
        };
        let mut principal = Principal::builder(&record.owner, CredentialKind::ApiKey)
            .key(record.id)
            .lineage(lineage)
            .networks(record.networks)
            .attributes(record.metadata);
        if let Some(quotas) = record.quotas {
            principal = principal.quotas(quotas);
        }
        if let Some(environment) = &record.environment {
            principal = principal.environment(environment);
        }
        if let Some(resource) = &record.resource {
            principal = principal.resource(resource);
        }
        if let Some(end) = record.expires_at {
            principal = principal.expires_at(end);
        }
        if record.revoked_at.is_some() {
            principal = principal.revoked();
        }
        if record.disabled_at.is_some() {
            principal = principal.disabled();
        }
        let principal = record
            .roles
            .iter()
            .fold(principal, |principal, role| principal.role(role));
        Self {
            digest,
            stamp,
            touch_at: AtomicU64::new(millis(touch_at)),
            identity: principal.into_identity(|standing| interner.intern(standing)),
        }
    }

    /// The networks that it may be used from; empty: from anywhere.
    #[must_use]
    pub fn networks(&self) -> &[IpNet] {
        self.identity.networks()
    }

    /// Whether it may be used from `address`, which must be the client's.
    ///
    /// # Errors
    /// [`KeyRefusal::Elsewhere`].
    pub fn check_address(self: &Arc<Self>, address: IpAddr) -> Result<(), KeyRefusal> {
        let (networks, address) = (self.networks(), address.to_canonical());
        if networks.is_empty() || networks.iter().any(|network| network.contains(&address)) {
            return Ok(());
        }
        Err(KeyRefusal::Elsewhere {
            key: Arc::clone(self),
        })
    }

    pub(super) fn id(&self) -> Option<&KeyId> {
        self.identity.key()
    }

    /// Its principal: a reference count.
    #[must_use]
    pub fn principal(self: &Arc<Self>) -> Principal {
        let holder: Arc<Self> = Arc::clone(self);
        Principal::of(holder)
    }

    /// The same, from the last reference.
    pub(crate) fn into_principal(self: Arc<Self>) -> Principal {
        Principal::of(self)
    }

    pub(super) fn judge(self: &Arc<Self>, clock: &dyn Clock) -> Result<(), KeyRefusal> {
        let key = || Arc::clone(self);
        if self.identity.is_revoked() {
            return Err(KeyRefusal::Revoked { key: key() });
        }
        if self.identity.is_disabled() {
            return Err(KeyRefusal::Disabled { key: key() });
        }
        match self.identity.expires_at() {
            Some(at) if at <= clock.now() => Err(KeyRefusal::Expired { at, key: key() }),
            _ => Ok(()),
        }
    }
}

impl ResolvedKey {
    /// Its id if its use is due to be recorded; once per interval across all callers.
    pub(super) fn note_use(&self, now: Duration, interval: Duration) -> Option<&KeyId> {
        let due = self.touch_at.load(Ordering::Relaxed);
        if millis(now) < due {
            return None;
        }
        let next = millis(now.saturating_add(interval));
        let relaxed = Ordering::Relaxed;
        let mine = self.touch_at.compare_exchange(due, next, relaxed, relaxed);
        mine.ok().and_then(|_| self.identity.key())
    }
}

impl IdentityHolder for ResolvedKey {
    fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl Remembered for Arc<ResolvedKey> {
    type Key = KeyDigest;

    fn key(&self) -> &KeyDigest {
        &self.digest
    }

    fn stamp(&self) -> Stamp {
        self.stamp
    }
}

impl fmt::Debug for ResolvedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResolvedKey")
            .field("id", &self.identity.key())
            .finish_non_exhaustive()
    }
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

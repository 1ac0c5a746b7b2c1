//! Creating, changing and revoking keys.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    KeyResolver, KeyringError, NewKey,
    bounds::{normalize_new, normalize_update},
    changes::{act, digests_of, touched_by},
};
use crate::{
    change::Changes,
    domain::{
        BudgetId, KeyId,
        audit::{Act, AuditAction},
        clock::{Clock, SystemClock, Timestamp},
        key::{
            ApiKey, GenerateKeyError, KeyDigest, KeyFormat, KeyRecord, KeyUpdate, KeysPerOwner,
            Rotation, RotationOutcome, SuccessorEnd,
        },
        role::RoleSet,
    },
    store::{ChangeListener, KeyStore, StoreError, StoreErrorKind},
};

/// The longest overlap of a rotation.
const OVERLAP_MAX: Duration = Duration::from_secs(90 * 86_400);
/// The default limit of an owner's active keys.
const KEYS_PER_OWNER_MAX: u32 = 1_000;
/// How long the store may take by default.
const DEADLINE: Duration = Duration::from_secs(5);
/// How many of an owner's ended keys are kept by default: a list of all keys is as long as both
/// limits together.
const ENDED_KEYS_PER_OWNER_MAX: u32 = 100;

/// Creates, lists, changes and revokes the keys of a store. Its resolver sees each change at once.
/// Cloning it increments a few reference counts.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::key::KeyFormat;
/// use tollgate::keyring::{KeyRefusal, KeyResolver, Keyring, NewKey};
/// use tollgate::store::MemoryStore;
///
/// let store = MemoryStore::new();
/// let format = KeyFormat::builder("acme").build()?;
/// let resolver = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
/// let ring = Keyring::new(store, format, resolver.clone());
///
/// let (key, record) = ring.create("user-1", NewKey::default()).await?;
/// let found = resolver.find(key.expose()).await?;
/// assert_eq!(found.principal().subject(), "user-1");
///
/// ring.revoke("user-1", &record.id).await?;
/// assert!(matches!(resolver.find(key.expose()).await, Err(KeyRefusal::Revoked { .. })));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Keyring {
    store: Arc<dyn KeyStore>,
    format: KeyFormat,
    resolver: KeyResolver,
    roles: Option<RoleSet>,
    pub(super) free_attributes: Vec<Box<str>>,
    live_keys_max: u32,
    ended_keys_max: u32,
    pub(super) changes: Changes,
    clock: Arc<dyn Clock>,
}

impl Keyring {
    /// The keys of `store`; new ones have the given `format`.
    #[must_use]
    pub fn new(store: impl KeyStore, format: KeyFormat, resolver: KeyResolver) -> Self {
        Self {
            changes: Changes::new(Arc::clone(&resolver.0), DEADLINE),
            store: Arc::new(store),
            format,
            resolver,
            roles: None,
            free_attributes: Vec::new(),
            live_keys_max: KEYS_PER_OWNER_MAX,
            ended_keys_max: ENDED_KEYS_PER_OWNER_MAX,
            clock: SystemClock::shared(),
        }
    }

    /// Also notifies `listener`, besides the resolver, of the changes made here: this is how other
    /// processes learn of them if the store can't notify them. It is also notified of changes that
    /// may or may not have been made.
    #[must_use]
    pub fn add_listener(mut self, listener: impl ChangeListener) -> Self {
        self.changes.add_listener(listener);
        self
    }

    /// The roles that exist; a key can't have any other.
    #[must_use]
    pub fn with_roles(mut self, roles: RoleSet) -> Self {
        self.roles = Some(roles);
        self
    }

    /// How many active keys an owner may have when another is created; 1,000 unless set. The store
    /// enforces it exactly, however many are created at once.
    ///
    /// Rotations are exempt, because the replaced key remains active only for the overlap; they are
    /// refused only if as many keys are active as are kept in total.
    #[must_use]
    pub fn keys_per_owner_max(mut self, keys: u32) -> Self {
        self.live_keys_max = keys;
        self
    }

    /// How many ended (but not deleted) keys of an owner are kept in addition, for lists to show;
    /// 100 unless set. Beyond that, each new key displaces the oldest that has ended. The audit log
    /// remembers ended keys for longer.
    #[must_use]
    pub fn ended_keys_per_owner_max(mut self, keys: u32) -> Self {
        self.ended_keys_max = keys;
        self
    }

    /// How long the store may take before the answer is 503; 5 s unless set. The change may still
    /// be made, so what it affects is invalidated at that moment, and again once it is made. At
    /// most 1,024 changes are in progress at a time.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.changes.set_deadline(deadline);
        self
    }

    /// Another source of time.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Creates a key. The clear key is returned here and stored nowhere.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn create(
        &self,
        owner: &str,
        mut new: NewKey,
    ) -> Result<(ApiKey, KeyRecord), KeyringError> {
        normalize_new(owner, &mut new)?;
        self.check_roles(&new.roles)?;
        let id = fresh_id()?;
        let lineage = lineage_of(&id)?;
        self.create_as(owner, new, id, lineage).await
    }

    /// Creates a key from settings that were already checked.
    pub(super) async fn create_as(
        &self,
        owner: &str,
        new: NewKey,
        id: KeyId,
        lineage: BudgetId,
    ) -> Result<(ApiKey, KeyRecord), KeyringError> {
        let key = self.format.generate(new.environment.as_deref())?;
        let (digest, proof) = self.resolver.hash(key.expose());
        let mut record = self.record(owner, new, id, lineage, digest);
        record.proof = proof;
        key.preview().clone_into(&mut record.preview);
        let record = self.insert(record).await?;
        Ok((key, record))
    }

    pub(super) fn resolver(&self) -> &KeyResolver {
        &self.resolver
    }

    pub(super) fn store(&self) -> &Arc<dyn KeyStore> {
        &self.store
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn is_free(&self, attribute: &str) -> bool {
        let names = &self.free_attributes;
        names.iter().any(|name| match name.strip_suffix('*') {
            Some(beginning) => attribute.starts_with(beginning),
            None => name.as_ref() == attribute,
        })
    }

    /// Whether a holder of the role `held` also has the role `wanted`.
    pub(super) fn includes(&self, held: &str, wanted: &str) -> bool {
        match &self.roles {
            Some(roles) => roles.includes(held, wanted),
            None => held == wanted,
        }
    }

    pub(super) fn check_environment(&self, name: Option<&str>) -> Result<(), KeyringError> {
        if self.format.has_environment(name) {
            return Ok(());
        }
        Err(GenerateKeyError::UnknownEnvironment.into())
    }

    pub(super) fn check_roles(&self, names: &[String]) -> Result<(), KeyringError> {
        let Some(roles) = &self.roles else {
            return Ok(());
        };
        if names.iter().all(|name| roles.contains(name)) {
            return Ok(());
        }
        Err(KeyringError::Invalid("roles: there is no such role"))
    }

    /// Replaces a key with a new one that has the same settings, as they are at that moment, and
    /// the same spending. The old one remains valid for `overlap` (at most 90 days), or until its
    /// own expiry if that is sooner.
    ///
    /// Its expiry is one of the settings: the new key expires when the old one would have. So no
    /// key can outlive its expiry by rotation, by rotating itself for example. To rotate a key
    /// because it expires soon, set another expiry with [`rotate_to_end`](Self::rotate_to_end).
    ///
    /// A key can be replaced only once: of several concurrent rotations, one creates a key. A
    /// caller that has lost that response rotates the new key, which [`KeyringError::Superseded`]
    /// names, or creates another.
    ///
    /// # Errors
    /// [`KeyringError`]; `NotActive` for a key that is revoked or expired, `Superseded` for one
    /// that was rotated before.
    pub async fn rotate(
        &self,
        owner: &str,
        id: &KeyId,
        overlap: Duration,
    ) -> Result<(ApiKey, KeyRecord), KeyringError> {
        let end = SuccessorEnd::SameMoment;
        self.rotate_to_end(owner, id, overlap, end).await
    }

    /// Like [`rotate`](Self::rotate), but the new key expires as `end` says, so that keys with a
    /// lifetime of 90 days are followed by others with the same.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tollgate::{keyring::{KeyResolver, Keyring, NewKey}, store::MemoryStore};
    /// # let store = MemoryStore::new();
    /// # let format = tollgate::key::KeyFormat::builder("acme").build()?;
    /// # let resolver = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
    /// # let ring = Keyring::new(store, format, resolver);
    /// use std::time::Duration;
    /// use tollgate::{clock::{Clock, SystemClock}, key::SuccessorEnd};
    ///
    /// const DAY: Duration = Duration::from_secs(86_400);
    /// let end = Some(SystemClock::shared().now() + 90 * DAY);
    /// let (_, old) = ring.create("ann", NewKey { expires_at: end, ..NewKey::default() }).await?;
    /// let (_, new) = ring.rotate_to_end("ann", &old.id, DAY, SuccessorEnd::SameLife).await?;
    /// assert!(new.expires_at > old.expires_at);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As for [`rotate`](Self::rotate).
    pub async fn rotate_to_end(
        &self,
        owner: &str,
        id: &KeyId,
        overlap: Duration,
        end: SuccessorEnd,
    ) -> Result<(ApiKey, KeyRecord), KeyringError> {
        check_overlap(overlap)?;
        // Read for its environment, which never changes.
        let old = self.get(owner, id).await?;
        self.replace(&old, overlap, end, None).await
    }

    /// Replaces the key that was read; with `seen`, only if it is still as it was then.
    pub(super) async fn replace(
        &self,
        old: &KeyRecord,
        overlap: Duration,
        end: SuccessorEnd,
        seen: Option<Box<KeyRecord>>,
    ) -> Result<(ApiKey, KeyRecord), KeyringError> {
        let key = self.format.generate(old.environment.as_deref())?;
        let (digest, proof) = self.resolver.hash(key.expose());
        let now = self.now();
        let rotation = Rotation {
            owner: old.owner.clone(),
            replaced: old.id.clone(),
            overlap_ends_at: now.saturating_add(overlap).unwrap_or(Timestamp::MAX),
            end,
            at: now,
            id: fresh_id()?,
            digest,
            proof,
            preview: key.preview().to_owned(),
            seen,
        };
        let act = act(AuditAction::KEY_ROTATE, &rotation.id);
        let may_touch = vec![old.digest, digest];
        let bounds = Some(self.bounds());
        let rotate = move |store: &dyn KeyStore| store.rotate(rotation, bounds);
        let outcome = self.make(act, may_touch, rotate, touched_by).await;
        match outcome.map_err(|error| self.refused(error))? {
            RotationOutcome::Rotated { successor, .. } => Ok((key, *successor)),
            RotationOutcome::Unknown => Err(KeyringError::NotFound),
            RotationOutcome::NotActive => Err(KeyringError::NotActive),
            RotationOutcome::Superseded { by } => Err(KeyringError::Superseded { by }),
            RotationOutcome::Changed => Err(KeyringError::Changed),
        }
    }

    /// Changes settings of a key. An expired key becomes valid again with a later expiry, if its
    /// owner may have another active key ([`keys_per_owner_max`](Self::keys_per_owner_max)); a
    /// revoked key never becomes valid again. To suspend a key, [disable](Self::disable) it. A
    /// rotated key ends with its overlap at the latest, whatever expiry it is given.
    ///
    /// # Errors
    /// [`KeyringError`]; `Invalid` for a key that would be revoked or disabled at a moment of the
    /// future.
    pub async fn update(
        &self,
        owner: &str,
        id: &KeyId,
        mut change: KeyUpdate,
    ) -> Result<KeyRecord, KeyringError> {
        normalize_update(&mut change, self.now())?;
        self.check_roles(change.roles.as_deref().unwrap_or_default())?;
        let old = self.get(owner, id).await?;
        self.change(&old, change).await
    }

    /// Changes the key that was read. Its digest tells what is affected if the outcome of the
    /// change remains unknown.
    pub(super) async fn change(
        &self,
        old: &KeyRecord,
        change: KeyUpdate,
    ) -> Result<KeyRecord, KeyringError> {
        let action = match (change.revoked_at, change.disabled_at) {
            (Some(_), _) => AuditAction::KEY_REVOKE,
            (None, Some(Some(_))) => AuditAction::KEY_DISABLE,
            (None, Some(None)) => AuditAction::KEY_ENABLE,
            (None, None) => AuditAction::KEY_UPDATE,
        };
        self.change_as(act(action, &old.id), old, change).await
    }

    pub(super) async fn change_as(
        &self,
        act: Act,
        old: &KeyRecord,
        change: KeyUpdate,
    ) -> Result<KeyRecord, KeyringError> {
        let bounds = Some(self.bounds());
        let (owner, id) = (old.owner.clone(), old.id.clone());
        let update = move |store: &dyn KeyStore| store.update(&owner, &id, change, bounds);
        let outcome = self.make(act, vec![old.digest], update, digests_of).await;
        let record = outcome.map_err(|error| match error.kind() {
            StoreErrorKind::Conflict => KeyringError::Changed,
            _ => self.refused(error),
        })?;
        record.ok_or(KeyringError::NotFound)
    }

    pub(super) fn record(
        &self,
        owner: &str,
        new: NewKey,
        id: KeyId,
        lineage: BudgetId,
        digest: KeyDigest,
    ) -> KeyRecord {
        let mut record = KeyRecord::new(id, lineage, digest, owner, self.clock.now());
        record.name = new.name;
        record.environment = new.environment;
        record.roles = new.roles;
        record.resource = new.resource;
        record.networks = new.networks;
        record.quotas = new.quotas;
        record.expires_at = new.expires_at;
        record.metadata = new.metadata;
        record
    }

    pub(super) async fn insert(&self, record: KeyRecord) -> Result<KeyRecord, KeyringError> {
        let act = act(AuditAction::KEY_CREATE, &record.id);
        // A request may have asked for it before it existed.
        let digest = record.digest;
        let (new, bounds) = (record.clone(), Some(self.bounds()));
        let insert = move |store: &dyn KeyStore| store.insert(new, bounds);
        let touched = move |(): &()| vec![digest];
        let outcome = self.make(act, vec![digest], insert, touched).await;
        outcome.map_err(|error| self.refused(error))?;
        Ok(record)
    }

    fn bounds(&self) -> KeysPerOwner {
        KeysPerOwner {
            live_max: self.live_keys_max,
            kept_max: self.live_keys_max.saturating_add(self.ended_keys_max),
        }
    }

    fn refused(&self, error: StoreError) -> KeyringError {
        match error.kind() {
            StoreErrorKind::Full => KeyringError::TooMany {
                max: self.live_keys_max,
            },
            _ => error.into(),
        }
    }
}

pub(super) fn check_overlap(overlap: Duration) -> Result<(), KeyringError> {
    if overlap <= OVERLAP_MAX {
        return Ok(());
    }
    Err(KeyringError::Invalid("overlap: at most 90 days"))
}

pub(super) fn fresh_id() -> Result<KeyId, KeyringError> {
    KeyId::new(&format!("key-{}", Uuid::new_v4())).map_err(|_| KeyringError::Invalid("id"))
}

pub(super) fn lineage_of(id: &KeyId) -> Result<BudgetId, KeyringError> {
    BudgetId::new(id.as_str()).map_err(|_| KeyringError::Invalid("id"))
}

//! Making, changing and ending keys.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ipnet::IpNet;
use uuid::Uuid;

use super::{KeyResolver, KeyringError};
use crate::{
    domain::{
        BudgetId, KeyId,
        audit::{Act, AuditAction, AuditOutcome},
        clock::{Clock, SystemClock, Timestamp},
        key::{ApiKey, KeyDigest, KeyFormat, KeyRecord, KeyUpdate, RotationOf},
        page::{Page, Paged},
        principal::Principal,
        quota::Quotas,
        role::RoleSet,
    },
    store::{Audience, Change, ChangeListener, KeyStore, StoreError, StoreErrorKind, StoreFuture},
    trail,
};

/// The longest name of a key, in bytes.
const NAME_LENGTH_MAX: usize = 255;
/// The most networks of a key.
const NETWORKS_MAX: usize = 64;
/// The longest overlap of a rotation.
const OVERLAP_MAX: Duration = Duration::from_secs(90 * 86_400);

/// A key to be made.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// What its owner calls it: at most 255 bytes.
    pub name: String,
    /// One of the format's environments; `None` where it has none.
    pub environment: Option<String>,
    /// Its roles.
    pub roles: Vec<String>,
    /// The one resource that it is good for.
    pub resource: Option<String>,
    /// The networks that it may be used from, at most 64; empty: from anywhere.
    pub networks: Vec<IpNet>,
    /// Rate quotas of its own, which take the place of those of the tier or the layer.
    pub quotas: Option<Quotas>,
    /// From when on it is refused as expired. A moment of the past is taken as it is.
    pub expires_at: Option<Timestamp>,
    /// What the application keeps of it.
    pub metadata: BTreeMap<String, String>,
}

/// Makes, lists, changes and ends the keys of a store. What it changes counts at once for its resolver.
/// A clone is a few reference counts.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tollgate::key::KeyFormat;
/// use tollgate::keyring::{KeyRefusal, KeyResolver, Keyring, NewKey, Resolution};
/// use tollgate::store::MemoryStore;
///
/// let store = MemoryStore::new();
/// let format = KeyFormat::builder("acme").build()?;
/// let resolver = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
/// let ring = Keyring::new(store, format, resolver.clone());
///
/// let (key, record) = ring.create("user-1", NewKey::default()).await?;
/// let Resolution::Pending(found) = resolver.resolve(key.expose()) else { panic!("cold") };
/// assert_eq!(found.await.unwrap().principal().subject(), "user-1");
///
/// ring.revoke("user-1", &record.id).await?;
/// let Resolution::Pending(found) = resolver.resolve(key.expose()) else { panic!("forgotten") };
/// assert!(matches!(found.await, Err(KeyRefusal::Revoked)));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Keyring {
    store: Arc<dyn KeyStore>,
    format: KeyFormat,
    resolver: KeyResolver,
    roles: Option<RoleSet>,
    clock: Arc<dyn Clock>,
    audience: Audience,
}

impl Keyring {
    /// The keys of `store`; new ones look like `format`.
    #[must_use]
    pub fn new(store: impl KeyStore, format: KeyFormat, resolver: KeyResolver) -> Self {
        Self {
            store: Arc::new(store),
            format,
            resolver,
            roles: None,
            clock: SystemClock::shared(),
            audience: Audience::default(),
        }
    }

    /// Tells `listener` too what is changed here, besides the resolver: so other processes hear of it, of a store that can't
    /// tell them. Of a change that may or may not have been made it is told that nobody can say what.
    #[must_use]
    pub fn add_listener(mut self, listener: impl ChangeListener) -> Self {
        self.audience.add(listener);
        self
    }

    /// The roles that exist: a key with another one can't be made.
    #[must_use]
    pub fn with_roles(mut self, roles: RoleSet) -> Self {
        self.roles = Some(roles);
        self
    }

    /// Another source of time.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes a key. The clear one is in the answer, and nowhere else.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn create(
        &self,
        owner: &str,
        new: NewKey,
    ) -> Result<(ApiKey, KeyRecord), KeyringError> {
        self.check_roles(&new.roles)?;
        let id = fresh_id()?;
        let lineage = lineage_of(&id)?;
        let (key, record) = self.make(owner, new, id, lineage)?;
        self.insert(AuditAction::KEY_CREATE, record, None)
            .await
            .map(|record| (key, record))
    }

    /// Makes a key for whom somebody is, with no more rights than they have: each role of the key must
    /// be included by one of the maker's ([`Keyring::with_roles`] says what roles include). A key that
    /// makes a key hands its own bounds on: its resource, networks, end and budget.
    ///
    /// # Errors
    /// [`KeyringError`]; `Escalation` for a role or a resource that the maker doesn't have.
    pub async fn create_for(
        &self,
        maker: &Principal,
        new: NewKey,
    ) -> Result<(ApiKey, KeyRecord), KeyringError> {
        let includes = |held: &str, wanted: &str| match &self.roles {
            Some(roles) => roles.includes(held, wanted),
            None => held == wanted,
        };
        let has = |wanted: &String| maker.roles().any(|held| includes(held, wanted));
        self.check_roles(&new.roles)?;
        if !new.roles.iter().all(has) {
            return Err(KeyringError::Escalation);
        }
        let Some(id) = maker.key() else {
            return self.create(maker.subject(), new).await;
        };
        let own = self.get(maker.subject(), id).await?;
        let lineage = own.lineage.clone();
        let new = within(new, own)?;
        let (key, record) = self.make(maker.subject(), new, fresh_id()?, lineage)?;
        self.insert(AuditAction::KEY_CREATE, record, None)
            .await
            .map(|record| (key, record))
    }

    pub(super) fn resolver(&self) -> &KeyResolver {
        &self.resolver
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

    /// Replaces a key by a new one with the same settings and the same spending; the old one goes on
    /// for `overlap` (at most 90 days), or until its own end if that is earlier.
    ///
    /// # Errors
    /// [`KeyringError`]; `NotActive` for a key that is revoked or expired.
    pub async fn rotate(
        &self,
        owner: &str,
        id: &KeyId,
        overlap: Duration,
    ) -> Result<(ApiKey, KeyRecord), KeyringError> {
        if overlap > OVERLAP_MAX {
            return Err(KeyringError::Invalid("overlap: at most 90 days"));
        }
        let old = self.get(owner, id).await?;
        let now = self.clock.now();
        if !old.is_active(now) {
            return Err(KeyringError::NotActive);
        }
        let overlap_ends_at = now.saturating_add(overlap).unwrap_or(Timestamp::MAX);
        let rotation = RotationOf {
            replaced: old.id.clone(),
            overlap_ends_at,
            at: now,
        };
        let new = NewKey {
            name: old.name,
            environment: old.environment,
            roles: old.roles,
            resource: old.resource,
            networks: old.networks,
            quotas: old.quotas,
            expires_at: old.expires_at,
            metadata: old.metadata,
        };
        let (key, mut record) = self.make(owner, new, fresh_id()?, old.lineage)?;
        record.rotated_from = Some(old.id);
        let rotation = Some((rotation, old.digest));
        let record = self
            .insert(AuditAction::KEY_ROTATE, record, rotation)
            .await?;
        Ok((key, record))
    }

    /// One key of an owner.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn get(&self, owner: &str, id: &KeyId) -> Result<KeyRecord, KeyringError> {
        self.store
            .get(owner, id)
            .await?
            .ok_or(KeyringError::NotFound)
    }

    /// The keys of an owner, newest first.
    ///
    /// # Errors
    /// [`KeyringError::Store`].
    pub async fn list(&self, owner: &str, page: Page) -> Result<Paged<KeyRecord>, KeyringError> {
        Ok(self.store.list(owner, page).await?)
    }

    /// Changes columns of a key.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn update(
        &self,
        owner: &str,
        id: &KeyId,
        change: KeyUpdate,
    ) -> Result<KeyRecord, KeyringError> {
        check_bounds(change.name.as_deref(), change.networks.as_deref())?;
        self.check_roles(change.roles.as_deref().unwrap_or_default())?;
        self.change(AuditAction::KEY_UPDATE, owner, id, change)
            .await
    }

    /// Ends a key now. To end it again changes nothing.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn revoke(&self, owner: &str, id: &KeyId) -> Result<KeyRecord, KeyringError> {
        let change = KeyUpdate {
            revoked_at: Some(self.clock.now()),
            ..KeyUpdate::default()
        };
        self.change(AuditAction::KEY_REVOKE, owner, id, change)
            .await
    }

    /// Ends a key now and forgets it.
    ///
    /// # Errors
    /// [`KeyringError`].
    pub async fn delete(&self, owner: &str, id: &KeyId) -> Result<KeyRecord, KeyringError> {
        let deleted = self.store.delete(owner, id);
        let act = act(AuditAction::KEY_DELETE, id);
        let record = self.finish(act, deleted, digests_of).await?;
        record.ok_or(KeyringError::NotFound)
    }

    async fn change(
        &self,
        action: AuditAction,
        owner: &str,
        id: &KeyId,
        change: KeyUpdate,
    ) -> Result<KeyRecord, KeyringError> {
        let changed = self.store.update(owner, id, change);
        let record = self.finish(act(action, id), changed, digests_of).await?;
        record.ok_or(KeyringError::NotFound)
    }

    fn make(
        &self,
        owner: &str,
        new: NewKey,
        id: KeyId,
        lineage: BudgetId,
    ) -> Result<(ApiKey, KeyRecord), KeyringError> {
        let key = self.format.generate(new.environment.as_deref())?;
        let (digest, proof) = self.resolver.hash(key.expose());
        let mut record = self.record(owner, new, id, lineage, digest)?;
        record.proof = proof;
        key.preview().clone_into(&mut record.preview);
        Ok((key, record))
    }

    pub(super) fn record(
        &self,
        owner: &str,
        new: NewKey,
        id: KeyId,
        lineage: BudgetId,
        digest: KeyDigest,
    ) -> Result<KeyRecord, KeyringError> {
        check_bounds(Some(&new.name), Some(&new.networks))?;
        let mut record = KeyRecord::new(id, lineage, digest, owner, self.clock.now());
        record.name = new.name;
        record.environment = new.environment;
        record.roles = new.roles;
        record.resource = new.resource;
        record.networks = new.networks;
        record.quotas = new.quotas;
        record.expires_at = new.expires_at;
        record.metadata = new.metadata;
        Ok(record)
    }

    pub(super) async fn insert(
        &self,
        action: AuditAction,
        record: KeyRecord,
        rotation: Option<(RotationOf, KeyDigest)>,
    ) -> Result<KeyRecord, KeyringError> {
        let (rotation, replaced) = rotation.unzip();
        // Somebody may have asked for the new key before it was.
        let digests: Vec<_> = replaced.into_iter().chain([record.digest]).collect();
        let inserted = self.store.insert(record.clone(), rotation);
        let act = act(action, &record.id);
        match self.finish(act, inserted, move |()| digests).await {
            Ok(()) => Ok(record),
            Err(error) if error.kind() == StoreErrorKind::NotFound => Err(KeyringError::NotActive),
            Err(error) => Err(error.into()),
        }
    }

    /// Sees a change through in a task of its own, so that the resolver hears of it whoever hangs up
    /// meanwhile, and so is the audit log. A change that may or may not have been made makes the resolver forget everything.
    async fn finish<T: Clone + Send + Unpin + 'static>(
        &self,
        act: Act,
        change: StoreFuture<T>,
        changed: impl FnOnce(T) -> Vec<KeyDigest> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (resolver, audience) = (self.resolver.clone(), self.audience.clone());
        let task = trail::spawn(async move {
            let outcome = change.await;
            match &outcome {
                Ok(answer) => {
                    let digests = changed(answer.clone());
                    for digest in &digests {
                        resolver.invalidate(digest);
                        audience.tell(&Change::Key(*digest));
                    }
                    // None: there was no such key, so nothing was done.
                    if !digests.is_empty() {
                        trail::record(act);
                    }
                }
                Err(error) if may_have_happened(error.kind()) => {
                    resolver.invalidate_all();
                    audience.tell(&Change::Everything);
                    trail::record(act.outcome(AuditOutcome::Failed));
                }
                Err(_) => {}
            }
            outcome
        });
        task.await
            .unwrap_or_else(|_| Err(StoreError::internal("the change was cut off")))
    }
}

fn act(action: AuditAction, id: &KeyId) -> Act {
    Act::new(action).target(id.as_str())
}

fn check_bounds(name: Option<&str>, networks: Option<&[IpNet]>) -> Result<(), KeyringError> {
    if name.is_some_and(|name| name.len() > NAME_LENGTH_MAX) {
        return Err(KeyringError::Invalid("name: at most 255 bytes"));
    }
    if networks.is_some_and(|networks| networks.len() > NETWORKS_MAX) {
        return Err(KeyringError::Invalid("networks: at most 64"));
    }
    Ok(())
}

/// Whether a change that failed like this may have been made all the same.
fn may_have_happened(failure: StoreErrorKind) -> bool {
    matches!(
        failure,
        StoreErrorKind::Unavailable | StoreErrorKind::Internal
    )
}

fn digests_of(record: Option<KeyRecord>) -> Vec<KeyDigest> {
    record.into_iter().map(|record| record.digest).collect()
}

pub(super) fn fresh_id() -> Result<KeyId, KeyringError> {
    KeyId::new(&format!("key-{}", Uuid::new_v4())).map_err(|_| KeyringError::Invalid("id"))
}

/// A new key within the bounds of the key that makes it.
fn within(mut new: NewKey, own: KeyRecord) -> Result<NewKey, KeyringError> {
    if let Some(bound) = own.resource {
        if new.resource.as_ref().is_some_and(|wanted| *wanted != bound) {
            return Err(KeyringError::Escalation);
        }
        new.resource = Some(bound);
    }
    if new.networks.is_empty() {
        new.networks = own.networks;
    } else if !own.networks.is_empty() {
        let inside = |wanted: &IpNet| own.networks.iter().any(|bound| bound.contains(wanted));
        if !new.networks.iter().all(inside) {
            return Err(KeyringError::Escalation);
        }
    }
    new.expires_at = match (new.expires_at, own.expires_at) {
        (Some(wanted), Some(bound)) => Some(wanted.min(bound)),
        (wanted, bound) => wanted.or(bound),
    };
    // Both are counted under one lineage, and so by the same quotas.
    new.quotas = own.quotas;
    Ok(new)
}

pub(super) fn lineage_of(id: &KeyId) -> Result<BudgetId, KeyringError> {
    BudgetId::new(id.as_str()).map_err(|_| KeyringError::Invalid("id"))
}

//! Keys that a principal creates and changes for itself, within its own rights.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use ipnet::IpNet;

use super::{
    Keyring, KeyringError, NewKey,
    bounds::{normalize_new, normalize_update},
    ring::{check_overlap, fresh_id, lineage_of},
};
use crate::domain::{
    KeyId,
    clock::Timestamp,
    key::{ApiKey, KeyRecord, KeyUpdate, SuccessorEnd},
    network::canonical,
    principal::{Principal, describes_session},
    quota::Quotas,
};

/// How often a change is tried if the key is being changed concurrently.
const UPDATE_ATTEMPTS_MAX: u32 = 4;

impl Keyring {
    /// Declares an attribute that conveys no rights (a label, a user's first name): a maker may
    /// give a key any value of it, and passes on none. All others may convey rights or limits (a
    /// tenant, a team, a tier): a key gets those that its maker has, and no others. A name that
    /// ends in `*` matches all attributes with that prefix.
    #[must_use]
    pub fn add_free_attribute(mut self, name: &str) -> Self {
        self.free_attributes.push(name.into());
        self
    }

    /// Creates a key on behalf of a principal, with no more rights than the principal has.
    ///
    /// - Each role must be included in one of the maker's ([`with_roles`](Self::with_roles) defines
    ///   what roles include).
    /// - The key gets the maker's resource and environment, if it has any, and its quotas;
    ///   requesting others is refused. So is requesting quotas if the maker has none: it is subject
    ///   to those of its tier or the layer, which a key's own would replace. The application can
    ///   grant quotas by setting them on the maker with [`Principal::to_builder`].
    /// - The maker's attributes become the key's metadata, and thus the attributes of its users:
    ///   lookups by attribute, such as a team's budget or a tier's limits, keep working for the
    ///   key. Requested attributes must be the maker's. [Free ones](Self::add_free_attribute) are
    ///   exempt from both rules. The `email`, `name` and `jti` of a session cookie tell who came in
    ///   which session, and end with it: a key gets those only if they are requested.
    /// - A key that creates a key passes on all its restrictions, including its networks, its
    ///   expiry and its budget.
    ///
    /// A key spends from the account of its owner, whichever account its maker spends from.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tollgate::{CredentialKind, Principal, key::KeyFormat, keyring::{KeyResolver, Keyring, NewKey}};
    /// use tollgate::{quota::Quota, store::MemoryStore};
    ///
    /// let (store, format) = (MemoryStore::new(), KeyFormat::builder("acme").build()?);
    /// let resolver = KeyResolver::builder(store.clone()).add_format(format.clone()).build();
    /// let ring = Keyring::new(store, format, resolver).add_free_attribute("nickname");
    ///
    /// let attributes = [("team", "7"), ("nickname", "Ann")].map(|(name, value)| (name.into(), value.into()));
    /// let ann = Principal::builder("ann", CredentialKind::Token).attributes(attributes.into()).build();
    /// let (_, key) = ring.create_for(&ann, NewKey::default()).await?;
    /// assert!(key.metadata["team"] == "7" && key.metadata.len() == 1);
    ///
    /// let much = NewKey { quotas: Some(Quota::per_second(1_000).into()), ..NewKey::default() };
    /// assert!(ring.create_for(&ann, much).await.is_err());
    /// let maker = ann.to_builder().quotas(Quota::per_second(5).into()).build();
    /// assert!(ring.create_for(&maker, NewKey::default()).await?.1.quotas.is_some());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`KeyringError`]; `Escalation` for rights that the maker doesn't have, `NotActive` if the
    /// maker's key has just ended, `Invalid` if the maker passes on more than a key may carry.
    pub async fn create_for(
        &self,
        maker: &Principal,
        mut new: NewKey,
    ) -> Result<(ApiKey, KeyRecord), KeyringError> {
        normalize_new(maker.subject(), &mut new)?;
        self.check_roles(&new.roles)?;
        let rights = self.rights_of(maker).await?;
        let mut new = rights.hand_on(new)?;
        // Not caused by the client's request: the remedy is to declare attributes as free.
        normalize_new(maker.subject(), &mut new).map_err(|_| {
            KeyringError::Invalid("metadata: too much, with the attributes that the maker hands on")
        })?;
        let id = fresh_id()?;
        let lineage = match rights.key {
            Some(own) => own.lineage,
            None => lineage_of(&id)?,
        };
        self.create_as(maker.subject(), new, id, lineage).await
    }

    /// Changes settings of one of the principal's own keys, within its rights: a key with more
    /// rights can't be changed, and none can be given more. The rules are those of
    /// [`create_for`](Self::create_for); of the metadata only [free
    /// attributes](Self::add_free_attribute) can be changed, and quotas never.
    ///
    /// # Errors
    /// [`KeyringError`]; `Escalation` for rights that the maker doesn't have, `NotActive` if the
    /// maker's key has just ended, `Changed` if the key's free attributes are changed concurrently,
    /// or its settings too often.
    pub async fn update_for(
        &self,
        maker: &Principal,
        id: &KeyId,
        mut change: KeyUpdate,
    ) -> Result<KeyRecord, KeyringError> {
        normalize_update(&mut change, self.now())?;
        self.check_roles(change.roles.as_deref().unwrap_or_default())?;
        let mut target = self.get(maker.subject(), id).await?;
        for _ in 0..UPDATE_ATTEMPTS_MAX {
            let rights = self.rights_of(maker).await?;
            let mut narrowed = rights.narrow(change.clone(), &target)?;
            normalize_update(&mut narrowed, self.now())?;
            narrowed.seen = Some(Box::new(target.clone()));
            match self.change(&target, narrowed).await {
                Err(KeyringError::Changed) => {}
                answer => return answer,
            }
            let changed = self.get(maker.subject(), id).await?;
            // Metadata is replaced as a whole: never overwrite attributes that were set
            // concurrently.
            if change.metadata.is_some() && !self.has_same_labels(&changed, &target) {
                break;
            }
            target = changed;
        }
        Err(KeyringError::Changed)
    }

    /// Whether both keys have the same free attributes.
    fn has_same_labels(&self, one: &KeyRecord, other: &KeyRecord) -> bool {
        let labels = |key: &KeyRecord| -> BTreeMap<_, _> {
            let mut labels = key.metadata.clone();
            labels.retain(|name, _| self.is_free(name));
            labels
        };
        labels(one) == labels(other)
    }

    /// Replaces one of the principal's own keys, as [`rotate`](Self::rotate) does, if it has no
    /// more rights than the principal. A key can replace itself, and other keys of its budget that
    /// have the restrictions it passes on.
    ///
    /// # Errors
    /// [`KeyringError`]; `Escalation` for a key with rights that the maker doesn't have, `Changed`
    /// for one that was changed while it was checked.
    pub async fn rotate_for(
        &self,
        maker: &Principal,
        id: &KeyId,
        overlap: Duration,
    ) -> Result<(ApiKey, KeyRecord), KeyringError> {
        check_overlap(overlap)?;
        let rights = self.rights_of(maker).await?;
        let target = self.get(maker.subject(), id).await?;
        rights.check_covers(&target)?;
        let seen = Some(Box::new(target.clone()));
        self.replace(&target, overlap, SuccessorEnd::SameMoment, seen)
            .await
    }

    /// The maker's rights; those of a key as currently stored, because remembered rights may have
    /// been revoked.
    async fn rights_of<'a>(&'a self, maker: &'a Principal) -> Result<Rights<'a>, KeyringError> {
        let key = match maker.key() {
            Some(id) => match self.get(maker.subject(), id).await {
                // Deleted meanwhile, or a key of another store: it has no rights here.
                Err(KeyringError::NotFound) => return Err(KeyringError::NotActive),
                found => Some(found?),
            },
            None => None,
        };
        if key.as_ref().is_some_and(|key| !key.is_active(self.now())) {
            return Err(KeyringError::NotActive);
        }
        Ok(Rights {
            ring: self,
            maker,
            key,
        })
    }
}

/// The rights that a maker has, and so may give.
struct Rights<'a> {
    ring: &'a Keyring,
    maker: &'a Principal,
    key: Option<KeyRecord>,
}

impl Rights<'_> {
    /// Restricts a new key to these rights.
    fn hand_on(&self, mut new: NewKey) -> Result<NewKey, KeyringError> {
        self.check_roles(&new.roles)?;
        if let Some(bound) = self.resource() {
            new.resource = same_or("resource", new.resource, Some(bound))?;
        }
        if self.has_environment() {
            new.environment = same_or("environment", new.environment, self.environment())?;
        }
        new.metadata = self.metadata(new.metadata)?;
        new.networks = self.networks(new.networks)?;
        new.expires_at = self.end(new.expires_at);
        // A maker that is a key with quotas is counted under the same lineage as the new key, and
        // so by the same quotas. A maker without quotas is subject to those of a tier or a layer,
        // which the new key's own would replace.
        let own = self.quotas();
        if new.quotas.is_some() && new.quotas.as_ref() != own {
            return Err(lacks("quotas"));
        }
        new.quotas = own.cloned();
        Ok(new)
    }

    /// Restricts the change of a key within these rights so that it stays within them.
    fn narrow(&self, mut change: KeyUpdate, target: &KeyRecord) -> Result<KeyUpdate, KeyringError> {
        self.check_covers(target)?;
        if let Some(roles) = &change.roles {
            self.check_roles(roles)?;
        }
        if let Some(bound) = self.resource()
            && let Some(wanted) = change.resource.take()
        {
            change.resource = Some(same_or("resource", wanted, Some(bound))?);
        }
        // Quotas can't even be removed: they may have been set to be tighter than the tier's.
        if change.quotas.is_some() {
            return Err(lacks("quotas"));
        }
        // It may have been disabled against the maker's will.
        if change.disabled_at == Some(None) {
            return Err(lacks("enabling"));
        }
        if let Some(networks) = change.networks.take() {
            change.networks = Some(self.networks(networks)?);
        }
        if let Some(end) = change.expires_at.take() {
            change.expires_at = Some(self.end(end));
        }
        if let Some(metadata) = change.metadata.take() {
            change.metadata = Some(self.relabel(metadata, target)?);
        }
        Ok(change)
    }

    fn check_covers(&self, target: &KeyRecord) -> Result<(), KeyringError> {
        self.check_roles(&target.roles)?;
        if self.resource().is_some() && self.resource() != target.resource.as_deref() {
            return Err(lacks("resource"));
        }
        if self.has_environment() && self.environment() != target.environment.as_deref() {
            return Err(lacks("environment"));
        }
        if !self.contains(&target.networks) {
            return Err(lacks("networks"));
        }
        self.check_attributes(&target.metadata)?;
        let own = self.key.as_ref();
        own.map_or(Ok(()), |own| self.check_handed_on(own, target))
    }

    /// A key must have the restrictions that `own` passes on to each key that it creates.
    fn check_handed_on(&self, own: &KeyRecord, target: &KeyRecord) -> Result<(), KeyringError> {
        if own.lineage != target.lineage {
            return Err(lacks("budget"));
        }
        if own.quotas != target.quotas {
            return Err(lacks("quotas"));
        }
        if self.end(target.expires_at) != target.expires_at {
            return Err(lacks("expiry"));
        }
        self.check_kept(&own.metadata, &target.metadata)
    }

    /// Attributes that aren't free must be among `others`, with the same value.
    fn check_kept(
        &self,
        attributes: &BTreeMap<String, String>,
        others: &BTreeMap<String, String>,
    ) -> Result<(), KeyringError> {
        let is_kept = |(name, value): &(&String, &String)| {
            self.ring.is_free(name) || others.get(*name) == Some(*value)
        };
        match attributes.iter().find(|attribute| !is_kept(attribute)) {
            Some((name, _)) => Err(lacks_attribute(name)),
            None => Ok(()),
        }
    }

    fn check_roles(&self, wanted: &[String]) -> Result<(), KeyringError> {
        let includes = |held: &str, wanted: &String| self.ring.includes(held, wanted);
        let has = |wanted: &String| {
            // A principal may have been given fewer roles than its key has.
            let of_key = self.key.as_ref();
            self.maker.roles().any(|held| includes(held, wanted))
                && of_key.is_none_or(|own| own.roles.iter().any(|held| includes(held, wanted)))
        };
        match wanted.iter().find(|wanted| !has(wanted)) {
            Some(role) => Err(lacks(format!("role {role:?}"))),
            None => Ok(()),
        }
    }

    /// The maker's own networks if none are requested.
    fn networks(&self, wanted: Vec<IpNet>) -> Result<Vec<IpNet>, KeyringError> {
        match &self.key {
            Some(own) if wanted.is_empty() => Ok(own.networks.clone()),
            _ if self.contains(&wanted) => Ok(wanted),
            _ => Err(lacks("networks")),
        }
    }

    /// Whether all networks are within the maker's; an empty list means anywhere. Stores may hold
    /// either form of an address.
    fn contains(&self, networks: &[IpNet]) -> bool {
        let own: &[IpNet] = self.key.as_ref().map_or(&[], |own| &own.networks);
        let inside = |network: &IpNet| {
            let network = canonical(*network);
            own.iter().any(|bound| canonical(*bound).contains(&network))
        };
        own.is_empty() || (!networks.is_empty() && networks.iter().all(inside))
    }

    /// No later than the expiry of the key that creates it. A token's expiry doesn't limit the keys
    /// that its user creates.
    fn end(&self, wanted: Option<Timestamp>) -> Option<Timestamp> {
        let bound = self.key.as_ref().and_then(|own| own.expires_at);
        match (wanted, bound) {
            (Some(wanted), Some(bound)) => Some(wanted.min(bound)),
            (wanted, bound) => wanted.or(bound),
        }
    }

    /// The metadata of a new key.
    fn metadata(
        &self,
        wanted: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, KeyringError> {
        self.check_attributes(&wanted)?;
        let mut handed_on = match &self.key {
            Some(own) => own.metadata.clone(),
            None => {
                let kind = self.maker.credential();
                let attributes = self.maker.attributes();
                let lasting = attributes.filter(|(name, _)| !describes_session(kind, name));
                let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
                lasting.map(owned).collect()
            }
        };
        handed_on.retain(|name, _| !self.ring.is_free(name));
        handed_on.extend(wanted);
        Ok(handed_on)
    }

    /// The metadata of an existing key: only free attributes change.
    fn relabel(
        &self,
        wanted: BTreeMap<String, String>,
        target: &KeyRecord,
    ) -> Result<BTreeMap<String, String>, KeyringError> {
        self.check_kept(&wanted, &target.metadata)?;
        let mut metadata = target.metadata.clone();
        metadata.retain(|name, _| !self.ring.is_free(name));
        metadata.extend(wanted);
        Ok(metadata)
    }

    /// A key may have free attributes, and the maker's.
    fn check_attributes(&self, wanted: &BTreeMap<String, String>) -> Result<(), KeyringError> {
        let may_give = |(name, value): &(&String, &String)| {
            self.ring.is_free(name) || self.attribute(name) == Some(value.as_str())
        };
        match wanted.iter().find(|attribute| !may_give(attribute)) {
            Some((name, _)) => Err(lacks_attribute(name)),
            None => Ok(()),
        }
    }

    fn has_environment(&self) -> bool {
        self.key.is_some() || self.maker.environment().is_some()
    }

    fn quotas(&self) -> Option<&Quotas> {
        let of_key = self.key.as_ref().and_then(|own| own.quotas.as_ref());
        of_key.or_else(|| self.maker.quotas())
    }

    fn resource(&self) -> Option<&str> {
        let of_key = self.key.as_ref().and_then(|own| own.resource.as_deref());
        of_key.or_else(|| self.maker.resource())
    }

    fn environment(&self) -> Option<&str> {
        let of_key = self.key.as_ref().and_then(|own| own.environment.as_deref());
        of_key.or_else(|| self.maker.environment())
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        match &self.key {
            Some(own) => own.metadata.get(name).map(String::as_str),
            None => self.maker.attribute(name),
        }
    }
}

/// The maker's own, unless something else is requested.
fn same_or(
    right: &'static str,
    wanted: Option<String>,
    own: Option<&str>,
) -> Result<Option<String>, KeyringError> {
    match wanted {
        Some(wanted) if own != Some(wanted.as_str()) => Err(lacks(right)),
        _ => Ok(own.map(str::to_owned)),
    }
}

fn lacks(right: impl Into<Cow<'static, str>>) -> KeyringError {
    let right = right.into();
    KeyringError::Escalation { right }
}

fn lacks_attribute(name: &str) -> KeyringError {
    lacks(format!("attribute {name:?}"))
}

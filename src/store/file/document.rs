//! The content of the file, and operations on it. No I/O.

use std::{cmp::Reverse, collections::BTreeMap};

use hashbrown::HashMap;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

use crate::{
    domain::{
        BudgetId, KeyId,
        clock::Timestamp,
        key::{KeyDigest, KeyProof, KeyRecord, Rehash},
        page::{Page, Paged},
        quota::Quotas,
    },
    store::{
        StoreError, StoreErrorKind,
        held_keys::HeldKeys,
        keys::{read_end, stored_end},
    },
};

/// The format version that is written; a file of a later version is not touched.
const VERSION: u32 = 1;

/// Positions beyond this are neither read nor given, so that what is written can be read.
const POSITION_MAX: u64 = u64::MAX >> 1;

/// The file's format. Unknown members are written back unchanged.
#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    #[serde(default)]
    keys: Vec<Entry>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// A key in the file. `id`, `hash` and `owner` are enough, so that keys of an older system can be
/// imported.
#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    /// Counts up in order of creation; 0 for a key written by hand.
    #[serde(default)]
    position: u64,
    id: KeyId,
    #[serde(serialize_with = "write_hash", deserialize_with = "read_hash")]
    hash: KeyDigest,
    #[serde(default, skip_serializing_if = "is_plain")]
    proof: KeyProof,
    owner: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    preview: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    environment: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    networks: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quotas: Option<Quotas>,
    #[serde(default)]
    created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
    /// `revoked_at` is that of a key that may be enabled again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    disabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_used_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotated_from: Option<KeyId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotated_to: Option<KeyId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lineage: Option<BudgetId>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

fn next(last: u64) -> Result<u64, StoreError> {
    match last.checked_add(1) {
        Some(next) if next <= POSITION_MAX => Ok(next),
        _ => Err(no_room()),
    }
}

fn no_room() -> StoreError {
    let text = "the key file contains a position that leaves no room for others";
    StoreError::new(StoreErrorKind::Unavailable, text)
}

fn is_plain(proof: &KeyProof) -> bool {
    *proof == KeyProof::Sha256
}

/// `sha256:` and 64 hexadecimal digits: the look-up value, whatever scheme `proof` names.
fn write_hash<S: Serializer>(digest: &KeyDigest, serializer: S) -> Result<S::Ok, S::Error> {
    let hex = digest.as_bytes().iter().map(|byte| format!("{byte:02x}"));
    serializer.collect_str(&format_args!("sha256:{}", hex.collect::<String>()))
}

fn read_hash<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyDigest, D::Error> {
    let text = String::deserialize(deserializer)?;
    let unreadable = || D::Error::custom("hash: expected `sha256:` and 64 hexadecimal digits");
    let hex = text.strip_prefix("sha256:").ok_or_else(unreadable)?;
    let mut bytes = [0_u8; 32];
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(unreadable());
    }
    for (place, at) in bytes.iter_mut().zip((0_usize..64).step_by(2)) {
        let pair = hex.get(at..at.saturating_add(2)).ok_or_else(unreadable)?;
        *place = u8::from_str_radix(pair, 16).map_err(|_| unreadable())?;
    }
    Ok(KeyDigest::from_bytes(bytes))
}

impl Entry {
    fn of(position: u64, record: KeyRecord, others: BTreeMap<String, Value>) -> Self {
        let (revoked_at, disabled) = stored_end(&record);
        Self {
            position,
            id: record.id,
            hash: record.digest,
            proof: record.proof,
            owner: record.owner,
            name: record.name,
            preview: record.preview,
            environment: record.environment,
            roles: record.roles,
            resource: record.resource,
            networks: record.networks,
            quotas: record.quotas,
            created_at: record.created_at,
            expires_at: record.expires_at,
            revoked_at,
            disabled,
            last_used_at: record.last_used_at,
            rotated_from: record.rotated_from,
            rotated_to: record.rotated_to,
            lineage: Some(record.lineage),
            metadata: record.metadata,
            others,
        }
    }

    fn into_parts(self) -> Result<(KeyRecord, BTreeMap<String, Value>), StoreError> {
        let lineage = match self.lineage {
            Some(lineage) => lineage,
            None => BudgetId::new(self.id.as_str())
                .map_err(|_| StoreError::internal("a key's id names no budget"))?,
        };
        let mut record = KeyRecord::new(self.id, lineage, self.hash, &self.owner, self.created_at);
        record.name = self.name;
        record.preview = self.preview;
        record.environment = self.environment;
        record.roles = self.roles;
        record.resource = self.resource;
        record.networks = self.networks;
        record.quotas = self.quotas;
        record.proof = self.proof;
        record.expires_at = self.expires_at;
        (record.revoked_at, record.disabled_at) = read_end(self.revoked_at, self.disabled);
        record.last_used_at = self.last_used_at;
        record.rotated_from = self.rotated_from;
        record.rotated_to = self.rotated_to;
        record.metadata = self.metadata;
        Ok((record, self.others))
    }
}

/// The keys of the file, by digest and by id.
#[derive(Default)]
pub(super) struct Document {
    keys: BTreeMap<u64, (KeyRecord, BTreeMap<String, Value>)>,
    by_id: HashMap<KeyId, u64>,
    by_digest: HashMap<KeyDigest, u64>,
    others: BTreeMap<String, Value>,
    changed: bool,
}

impl Document {
    /// Parses the file. An empty file is an error: a full disk or a crash can leave one behind.
    pub(super) fn parse(json: &[u8]) -> Result<Self, StoreError> {
        // serde's message may quote the file, so only the position is reported.
        let form: Form = serde_json::from_slice(json).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let text = format!("the key file is not readable: line {line} column {column}");
            StoreError::new(StoreErrorKind::Unavailable, &text)
        })?;
        if form.version != VERSION {
            let text = "the key file has an unsupported version";
            return Err(StoreError::new(StoreErrorKind::Unavailable, text));
        }
        let mut document = Self {
            others: form.others,
            ..Self::default()
        };
        let mut last = 0_u64;
        for entry in form.keys {
            last = match entry.position {
                beyond if beyond > POSITION_MAX => return Err(no_room()),
                later if later > last => later,
                _ => next(last)?,
            };
            let (record, others) = entry.into_parts()?;
            if document.is_taken(&record) {
                let text = "the key file contains an id or a hash twice";
                return Err(StoreError::new(StoreErrorKind::Unavailable, text));
            }
            document.place(last, record, others);
        }
        Ok(document)
    }

    /// Serializes the file.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, StoreError> {
        let entry = |(position, (record, others)): (&u64, &(KeyRecord, BTreeMap<_, _>))| {
            Entry::of(*position, record.clone(), others.clone())
        };
        let form = Form {
            version: VERSION,
            keys: self.keys.iter().map(entry).collect(),
            others: self.others.clone(),
        };
        let mut json = serde_json::to_vec_pretty(&form)
            .map_err(|_| StoreError::internal("the keys can't be written as JSON"))?;
        json.push(b'\n');
        Ok(json)
    }

    /// Whether there is something to write.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    pub(super) fn set_written(&mut self) {
        self.changed = false;
    }

    pub(super) fn find(&self, digest: &KeyDigest) -> Option<&KeyRecord> {
        self.at(*self.by_digest.get(digest)?)
    }

    pub(super) fn contains(&self, id: &KeyId) -> bool {
        self.by_id.contains_key(id)
    }

    /// Those of one owner, or of all.
    pub(super) fn list(&self, owner: Option<&str>, page: &Page) -> Paged<KeyRecord> {
        let before = page.cursor().unwrap_or(u64::MAX);
        let rows = self
            .keys
            .range(..before)
            .rev()
            .filter(|(_, (record, _))| owner.is_none_or(|owner| record.owner == owner))
            .map(|(position, (record, _))| (*position, record.clone()))
            .take(usize::from(page.limit()).saturating_add(1))
            .collect();
        Paged::from_rows(page, rows)
    }

    pub(super) fn recently_used(&self, now: Timestamp, limit: u16) -> Vec<KeyRecord> {
        let records = self.keys.values().map(|(record, _)| record);
        let mut active: Vec<_> = records.filter(|record| record.is_active(now)).collect();
        active.sort_by_key(|record| Reverse(record.last_used_at));
        let latest = active.into_iter().take(usize::from(limit));
        latest.cloned().collect()
    }

    pub(super) fn rehash(&mut self, change: &Rehash) -> Result<bool, StoreError> {
        let Some(position) = self.by_id.get(&change.id).copied() else {
            return Ok(false);
        };
        let taken = self.by_digest.get(&change.digest);
        if taken.is_some_and(|taken| *taken != position) {
            let text = "the digest of the key is taken";
            return Err(StoreError::new(StoreErrorKind::Conflict, text));
        }
        let changed = self
            .keys
            .get_mut(&position)
            .is_some_and(|(record, _)| record.rehash(change));
        if changed {
            self.by_digest.remove(&change.from);
            self.by_digest.insert(change.digest, position);
            self.changed = true;
        }
        Ok(changed)
    }

    /// Records a use, unless a later one is already recorded.
    pub(super) fn touch(&mut self, id: &KeyId, at: Timestamp) {
        let touched = self.by_id.get(id).copied();
        if let Some((record, _)) = touched.and_then(|position| self.keys.get_mut(&position))
            && record.last_used_at < Some(at)
        {
            record.last_used_at = Some(at);
            self.changed = true;
        }
    }

    fn at(&self, position: u64) -> Option<&KeyRecord> {
        self.keys.get(&position).map(|(record, _)| record)
    }

    fn place(&mut self, position: u64, record: KeyRecord, others: BTreeMap<String, Value>) {
        self.by_id.insert(record.id.clone(), position);
        self.by_digest.insert(record.digest, position);
        self.keys.insert(position, (record, others));
    }
}

impl HeldKeys for Document {
    fn owned(&self, owner: &str, id: &KeyId) -> Option<&KeyRecord> {
        self.at(*self.by_id.get(id)?)
            .filter(|record| record.owner == owner)
    }

    fn owned_by(&self, owner: &str) -> impl Iterator<Item = &KeyRecord> {
        let all = self.keys.values().map(|(key, _)| key);
        all.filter(move |key| key.owner == owner)
    }

    fn is_taken(&self, record: &KeyRecord) -> bool {
        self.by_id.contains_key(&record.id) || self.by_digest.contains_key(&record.digest)
    }

    fn add(&mut self, record: KeyRecord) -> Result<(), StoreError> {
        let last = self.keys.last_key_value().map_or(0, |(last, _)| *last);
        self.place(next(last)?, record, BTreeMap::new());
        self.changed = true;
        Ok(())
    }

    fn replace(&mut self, record: KeyRecord) {
        let position = self.by_id.get(&record.id);
        if let Some((stored, _)) = position.and_then(|position| self.keys.get_mut(position))
            && *stored != record
        {
            *stored = record;
            self.changed = true;
        }
    }

    fn delete(&mut self, owner: &str, id: &KeyId) -> Option<KeyRecord> {
        self.owned(owner, id)?;
        let position = self.by_id.remove(id)?;
        let (record, _) = self.keys.remove(&position)?;
        self.by_digest.remove(&record.digest);
        self.changed = true;
        Some(record)
    }
}

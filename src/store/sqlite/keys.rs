//! API keys in SQLite.

mod limits;

use rusqlite::{Connection, Params, Row, params};

use self::limits::{check_live, live, make_room};
use super::{
    Command, Gauge, SqliteStore,
    convert::{
        Failure, from_json, micros, moment, moment_or_none, name, name_or_none, to_json, uncount,
    },
};
use crate::{
    domain::{
        KeyId,
        clock::Timestamp,
        key::{
            KeyDigest, KeyRecord, KeyUpdate, KeysPerOwner, NoRoom, Rehash, RevokedKey, Rotation,
            RotationOutcome,
        },
        page::{Page, Paged},
    },
    store::{
        KeyLookup, KeyStore, Ledger, StoreError, StoreFuture,
        keys::{changed_meanwhile, read_end, stored_end, taken},
    },
};

/// Ends in `WHERE`.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT position, id, digest, preview, name, owner, environment, roles, resource,
             networks, created_at, expires_at, revoked_at, last_used_at, rotated_from, lineage,
             metadata, proof, quotas, rotated_to, is_disabled FROM api_key WHERE ",
            $condition
        )
    };
}

fn read_key(row: &Row<'_>) -> Result<(u64, KeyRecord), Failure> {
    let digest: [u8; 32] = row.get(2)?;
    let is_disabled = row.get::<_, Option<bool>>(20)?.unwrap_or_default();
    let (revoked_at, disabled_at) = read_end(moment_or_none(row.get(12)?)?, is_disabled);
    let record = KeyRecord {
        id: name(row, 1)?,
        digest: KeyDigest::from_bytes(digest),
        preview: row.get(3)?,
        name: row.get(4)?,
        owner: row.get(5)?,
        environment: row.get(6)?,
        roles: from_json(row, 7)?,
        resource: row.get(8)?,
        networks: from_json(row, 9)?,
        created_at: moment(row.get(10)?)?,
        expires_at: moment_or_none(row.get(11)?)?,
        revoked_at,
        disabled_at,
        last_used_at: moment_or_none(row.get(13)?)?,
        rotated_from: name_or_none(row, 14)?,
        lineage: name(row, 15)?,
        metadata: from_json(row, 16)?,
        proof: row
            .get::<_, String>(17)?
            .parse()
            .map_err(|_| Failure::corrupt("a key of no known scheme"))?,
        quotas: from_json(row, 18)?,
        rotated_to: name_or_none(row, 19)?,
    };
    Ok((uncount(row.get(0)?)?, record))
}

/// The position before which a page begins, and how many rows are read for it.
fn range(page: &Page) -> (i64, i64) {
    let before = page.cursor().and_then(|cursor| i64::try_from(cursor).ok());
    let limit = i64::from(page.limit()).saturating_add(1);
    (before.unwrap_or(i64::MAX), limit)
}

fn read_page(
    connection: &Connection,
    page: &Page,
    select: &str,
    values: impl Params,
) -> Result<Paged<KeyRecord>, Failure> {
    let mut list = connection.prepare_cached(select)?;
    let mut found = list.query(values)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        rows.push(read_key(row)?);
    }
    Ok(Paged::from_rows(page, rows))
}

fn find_owned(
    connection: &Connection,
    owner: &str,
    id: &KeyId,
) -> Result<Option<KeyRecord>, Failure> {
    let mut find = connection.prepare_cached(select!("id = ? AND owner = ?"))?;
    let mut rows = find.query([id.as_str(), owner])?;
    let found = rows.next()?.map(read_key).transpose()?;
    Ok(found.map(|(_, record)| record))
}

fn insert(connection: &Connection, record: &KeyRecord) -> Result<(), Failure> {
    let taken_already = connection
        .prepare_cached("SELECT 1 FROM api_key WHERE id = ? OR digest = ?")?
        .exists(params![record.id.as_str(), record.digest.as_bytes()])?;
    if taken_already {
        return Err(taken().into());
    }
    let (ended_at, is_disabled) = stored_end(record);
    connection
        .prepare_cached(
            "INSERT INTO api_key (id, digest, preview, name, owner, environment, roles, resource,
             networks, created_at, expires_at, revoked_at, last_used_at, rotated_from, lineage,
             metadata, proof, quotas, rotated_to, is_disabled)
             VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        )?
        .execute(params![
            record.id.as_str(),
            record.digest.as_bytes(),
            record.preview,
            record.name,
            record.owner,
            record.environment,
            to_json(&record.roles)?,
            record.resource,
            to_json(&record.networks)?,
            micros(record.created_at),
            record.expires_at.map(micros),
            ended_at.map(micros),
            record.last_used_at.map(micros),
            record.rotated_from.as_ref().map(|id| id.as_str()),
            record.lineage.as_str(),
            to_json(&record.metadata)?,
            record.proof.to_string(),
            to_json(&record.quotas)?,
            record.rotated_to.as_ref().map(|id| id.as_str()),
            is_disabled.then_some(true),
        ])?;
    Ok(())
}

fn rotate(
    connection: &Connection,
    rotation: &Rotation,
    bounds: Option<KeysPerOwner>,
) -> Result<RotationOutcome, Failure> {
    let Some(mut old) = find_owned(connection, &rotation.owner, &rotation.replaced)? else {
        return Ok(RotationOutcome::Unknown);
    };
    let successor = match old.rotate(rotation) {
        Ok(successor) => successor,
        Err(outcome) => return Ok(outcome),
    };
    make_room(connection, &successor, bounds)?;
    insert(connection, &successor)?;
    connection
        .prepare_cached("UPDATE api_key SET expires_at = ?, rotated_to = ? WHERE id = ?")?
        .execute(params![
            old.expires_at.map(micros),
            successor.id.as_str(),
            old.id.as_str()
        ])?;
    Ok(RotationOutcome::Rotated {
        replaced: old.digest,
        successor: Box::new(successor),
    })
}

/// Writes only the columns that are named, so it can't undo a concurrent change of others.
fn update(
    connection: &Connection,
    owner: &str,
    id: &KeyId,
    change: &KeyUpdate,
    bounds: Option<KeysPerOwner>,
    now: Timestamp,
) -> Result<Option<KeyRecord>, Failure> {
    let Some(mut record) = find_owned(connection, owner, id)? else {
        return Ok(None);
    };
    if !record.is_as_seen(change.seen.as_deref()) {
        return Err(changed_meanwhile().into());
    }
    if let Some(bounds) = bounds
        && record.comes_back(change, now)
        && live(connection, owner, now, bounds)? >= bounds.live_max
    {
        return Err(StoreError::from(NoRoom).into());
    }
    record.apply(change.clone());
    let id_text = id.as_str();
    if let Some(name) = &change.name {
        connection
            .prepare_cached("UPDATE api_key SET name = ? WHERE id = ? AND owner = ?")?
            .execute([name.as_str(), id_text, owner])?;
    }
    if let Some(roles) = &change.roles {
        connection
            .prepare_cached("UPDATE api_key SET roles = ? WHERE id = ? AND owner = ?")?
            .execute([to_json(roles)?.as_str(), id_text, owner])?;
    }
    if let Some(networks) = &change.networks {
        connection
            .prepare_cached("UPDATE api_key SET networks = ? WHERE id = ? AND owner = ?")?
            .execute([to_json(networks)?.as_str(), id_text, owner])?;
    }
    if let Some(resource) = &change.resource {
        connection
            .prepare_cached("UPDATE api_key SET resource = ? WHERE id = ? AND owner = ?")?
            .execute(params![resource, id_text, owner])?;
    }
    if let Some(quotas) = &change.quotas {
        connection
            .prepare_cached("UPDATE api_key SET quotas = ? WHERE id = ? AND owner = ?")?
            .execute([to_json(quotas)?.as_str(), id_text, owner])?;
    }
    if let Some(metadata) = &change.metadata {
        connection
            .prepare_cached("UPDATE api_key SET metadata = ? WHERE id = ? AND owner = ?")?
            .execute([to_json(metadata)?.as_str(), id_text, owner])?;
    }
    update_ends(connection, &record, change)?;
    find_owned(connection, owner, id)
}

/// Its expiry, and whether it is revoked or disabled.
fn update_ends(
    connection: &Connection,
    record: &KeyRecord,
    change: &KeyUpdate,
) -> Result<(), Failure> {
    let (id_text, owner) = (record.id.as_str(), &record.owner);
    if change.expires_at.is_some() {
        connection
            .prepare_cached("UPDATE api_key SET expires_at = ? WHERE id = ? AND owner = ?")?
            .execute(params![record.expires_at.map(micros), id_text, owner])?;
    }
    if change.revoked_at.is_some() || change.disabled_at.is_some() {
        let (ended_at, is_disabled) = stored_end(record);
        connection
            .prepare_cached(
                "UPDATE api_key SET revoked_at = ?, is_disabled = ? WHERE id = ? AND owner = ?",
            )?
            .execute(params![
                ended_at.map(micros),
                is_disabled.then_some(true),
                id_text,
                owner
            ])?;
    }
    Ok(())
}

fn revoke_all(
    connection: &Connection,
    owner: &str,
    at: Timestamp,
) -> Result<Vec<RevokedKey>, Failure> {
    let mut end = connection.prepare_cached(
        "UPDATE api_key SET revoked_at = ?, is_disabled = NULL
         WHERE owner = ? AND (revoked_at IS NULL OR is_disabled) RETURNING id, digest",
    )?;
    let mut rows = end.query(params![micros(at), owner])?;
    let mut ended = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, digest) = (name(row, 0)?, KeyDigest::from_bytes(row.get(1)?));
        ended.push(RevokedKey { id, digest });
    }
    Ok(ended)
}

fn rehash(connection: &Connection, change: &Rehash) -> Result<bool, Failure> {
    let changed = connection
        .prepare_cached(
            "UPDATE api_key SET digest = ?, proof = ? WHERE id = ? AND digest = ? AND proof = ?",
        )?
        .execute(params![
            change.digest.as_bytes(),
            change.proof.to_string(),
            change.id.as_str(),
            change.from.as_bytes(),
            change.from_proof.to_string()
        ])?;
    Ok(changed > 0)
}

impl KeyLookup for SqliteStore {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        let digest = *digest;
        self.0.readers.read(move |connection| {
            let mut find = connection.prepare_cached(select!("digest = ?"))?;
            let mut rows = find.query([digest.as_bytes()])?;
            let found = rows.next()?.map(read_key).transpose()?;
            Ok(found.map(|(_, record)| record))
        })
    }

    fn rehash(&self, change: Rehash) -> StoreFuture<bool> {
        self.change(move |connection| rehash(connection, &change))
    }

    fn recently_used(&self, limit: u16) -> StoreFuture<Vec<KeyRecord>> {
        let now = micros(self.0.settings.clock.now());
        self.0.readers.list(move |connection| {
            let mut list = connection.prepare_cached(select!(
                "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)
                 ORDER BY last_used_at DESC LIMIT ?"
            ))?;
            let mut found = list.query(params![now, limit])?;
            let mut records = Vec::new();
            while let Some(row) = found.next()? {
                records.push(read_key(row)?.1);
            }
            Ok(records)
        })
    }

    fn touch(&self, id: &KeyId, at: Timestamp) {
        if Gauge::enter(&self.0.gauge.queued, self.0.settings.queue_max) {
            let key = id.clone();
            // A closed store records nothing more.
            let _ = self.0.writer.send(Command::Touch { key, at });
        }
    }

    fn flush_touches(&self) -> StoreFuture<()> {
        Ledger::flush(self)
    }
}

impl KeyStore for SqliteStore {
    fn insert(&self, record: KeyRecord, bounds: Option<KeysPerOwner>) -> StoreFuture<()> {
        self.change(move |connection| {
            check_live(connection, &record, bounds)?;
            make_room(connection, &record, bounds)?;
            insert(connection, &record)
        })
    }

    fn rotate(
        &self,
        rotation: Rotation,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<RotationOutcome> {
        self.change(move |connection| rotate(connection, &rotation, bounds))
    }

    fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        self.0
            .readers
            .read(move |connection| find_owned(connection, &owner, &id))
    }

    fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        let owner = owner.to_owned();
        self.0.readers.list(move |connection| {
            let select = select!("owner = ? AND position < ? ORDER BY position DESC LIMIT ?");
            let (before, limit) = range(&page);
            read_page(connection, &page, select, params![owner, before, limit])
        })
    }

    fn list_all(&self, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        self.0.readers.list(move |connection| {
            let select = select!("position < ? ORDER BY position DESC LIMIT ?");
            let (before, limit) = range(&page);
            read_page(connection, &page, select, params![before, limit])
        })
    }

    fn update(
        &self,
        owner: &str,
        id: &KeyId,
        change: KeyUpdate,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        let now = self.0.settings.clock.now();
        self.change(move |connection| update(connection, &owner, &id, &change, bounds, now))
    }

    fn revoke_all(&self, owner: &str, at: Timestamp) -> StoreFuture<Vec<RevokedKey>> {
        let owner = owner.to_owned();
        self.change(move |connection| revoke_all(connection, &owner, at))
    }

    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        self.change(move |connection| {
            let found = find_owned(connection, &owner, &id)?;
            connection
                .prepare_cached("DELETE FROM api_key WHERE id = ? AND owner = ?")?
                .execute([id.as_str(), &owner])?;
            Ok(found)
        })
    }
}

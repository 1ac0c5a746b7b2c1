//! Keys.

use sqlx::{
    Row,
    postgres::{PgConnection, PgRow},
    types::Json,
};

use super::{
    PostgresStore,
    convert::{
        Failure, Moment, is_storable, moment, moment_or_none, moments, name, name_or_none,
        network_texts, networks, uncount,
    },
    listing::bounds,
};
use crate::{
    domain::{
        KeyId,
        clock::Timestamp,
        key::{KeyDigest, KeyRecord, KeyUpdate, KeysPerOwner, Rehash, Rotation, RotationOutcome},
        page::{Page, Paged},
    },
    store::{
        KeyLookup, KeyStore, StoreFuture,
        keys::{full, taken},
    },
};

/// Tells turns of owners from other advisory locks of the database: the first bytes of "keys of tollgate".
const TURN: i64 = 0x6b65_7973_206f_6620;

/// Ends in `WHERE`.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT position, id, digest, preview, name, owner, environment, roles, resource,
             networks, created_at, expires_at, revoked_at, last_used_at, rotated_from, lineage,
             metadata, proof, quotas, rotated_to FROM tollgate.api_key WHERE ",
            $condition
        )
    };
}

/// Each column by itself: what isn't named stays as it is, so that nothing undoes a change beside it.
const UPDATE: &str = "UPDATE tollgate.api_key SET
     name = coalesce($3, name),
     roles = coalesce($4, roles),
     networks = coalesce($5, networks),
     expires_at = CASE WHEN NOT $6 THEN expires_at WHEN rotated_to IS NULL THEN $7 ELSE least(expires_at, $7) END,
     revoked_at = coalesce(revoked_at, $8),
     resource = CASE WHEN $9 THEN $10 ELSE resource END,
     quotas = CASE WHEN $11 THEN $12 ELSE quotas END,
     metadata = coalesce($13, metadata)
     WHERE id = $1 AND owner = $2";

fn read_key(row: &PgRow) -> Result<(u64, KeyRecord), Failure> {
    let digest: [u8; 32] = row
        .try_get::<&[u8], _>(2)?
        .try_into()
        .map_err(|_| Failure::corrupt("a digest of another length"))?;
    let Json(metadata) = row.try_get(16)?;
    let record = KeyRecord {
        id: name(row, 1)?,
        digest: KeyDigest::from_bytes(digest),
        preview: row.try_get(3)?,
        name: row.try_get(4)?,
        owner: row.try_get(5)?,
        environment: row.try_get(6)?,
        roles: row.try_get(7)?,
        resource: row.try_get(8)?,
        networks: networks(row, 9)?,
        created_at: moment(row, 10)?,
        expires_at: moment_or_none(row, 11)?,
        revoked_at: moment_or_none(row, 12)?,
        last_used_at: moment_or_none(row, 13)?,
        rotated_from: name_or_none(row, 14)?,
        lineage: name(row, 15)?,
        metadata,
        proof: row
            .try_get::<&str, _>(17)?
            .parse()
            .map_err(|_| Failure::corrupt("a key of no known scheme"))?,
        quotas: row
            .try_get::<Option<Json<_>>, _>(18)?
            .map(|Json(quotas)| quotas),
        rotated_to: name_or_none(row, 19)?,
    };
    Ok((uncount(row.try_get(0)?)?, record))
}

fn read_one(found: Option<&PgRow>) -> Result<Option<KeyRecord>, Failure> {
    let found = found.map(read_key).transpose()?;
    Ok(found.map(|(_, record)| record))
}

async fn find_owned(
    connection: &mut PgConnection,
    owner: &str,
    id: &KeyId,
) -> Result<Option<KeyRecord>, Failure> {
    let found = sqlx::query(select!("id = $1 AND owner = $2"))
        .bind(id.as_str())
        .bind(owner)
        .fetch_optional(connection)
        .await?;
    read_one(found.as_ref())
}

async fn insert(connection: &mut PgConnection, record: &KeyRecord) -> Result<(), Failure> {
    let inserted = sqlx::query(
        "INSERT INTO tollgate.api_key (id, digest, preview, name, owner, environment, roles, resource,
         networks, created_at, expires_at, revoked_at, last_used_at, rotated_from, lineage, metadata,
         proof, quotas, rotated_to)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
         ON CONFLICT DO NOTHING",
    )
    .bind(record.id.as_str())
    .bind(record.digest.as_bytes().as_slice())
    .bind(&record.preview)
    .bind(&record.name)
    .bind(&record.owner)
    .bind(&record.environment)
    .bind(&record.roles)
    .bind(&record.resource)
    .bind(network_texts(&record.networks))
    .bind(Moment(record.created_at))
    .bind(moments(record.expires_at))
    .bind(moments(record.revoked_at))
    .bind(moments(record.last_used_at))
    .bind(record.rotated_from.as_ref().map(|id| id.as_str()))
    .bind(record.lineage.as_str())
    .bind(Json(&record.metadata))
    .bind(record.proof.to_string())
    .bind(record.quotas.as_ref().map(Json))
    .bind(record.rotated_to.as_ref().map(|id| id.as_str()))
    .execute(&mut *connection)
    .await?
    .rows_affected();
    if inserted == 0 {
        return Err(taken().into());
    }
    Ok(())
}

/// Reads indexes alone, and no more of them than the bounds.
async fn check_room(
    connection: &mut PgConnection,
    record: &KeyRecord,
    bounds: Option<KeysPerOwner>,
) -> Result<(), Failure> {
    let Some(bounds) = bounds else {
        return Ok(());
    };
    let live = live(&mut *connection, &record.owner, record.created_at, bounds).await?;
    let kept = kept(connection, &record.owner, bounds).await?;
    if bounds.has_room(record, live, kept) {
        return Ok(());
    }
    Err(full().into())
}

/// At most as many as there may be.
async fn live(
    connection: &mut PgConnection,
    owner: &str,
    now: Timestamp,
    bounds: KeysPerOwner,
) -> Result<u32, Failure> {
    let live: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT FROM tollgate.api_key WHERE owner = $1 AND revoked_at IS NULL
         AND (expires_at IS NULL OR expires_at > $2) LIMIT $3) AS live",
    )
    .bind(owner)
    .bind(Moment(now))
    .bind(i64::from(bounds.live_max))
    .fetch_one(connection)
    .await?;
    Ok(u32::try_from(live).unwrap_or(u32::MAX))
}

/// For the successor of a key: of as many as may be kept the oldest goes that has ended.
async fn make_room(
    connection: &mut PgConnection,
    successor: &KeyRecord,
    bounds: Option<KeysPerOwner>,
) -> Result<(), Failure> {
    let Some(bounds) = bounds else {
        return Ok(());
    };
    if kept(&mut *connection, &successor.owner, bounds).await? < bounds.kept_max {
        return Ok(());
    }
    let gone = sqlx::query(
        "DELETE FROM tollgate.api_key WHERE id = (SELECT id FROM tollgate.api_key WHERE owner = $1
         AND (revoked_at IS NOT NULL OR expires_at <= $2) ORDER BY position LIMIT 1)",
    )
    .bind(&successor.owner)
    .bind(Moment(successor.created_at))
    .execute(connection)
    .await?
    .rows_affected();
    if gone == 0 {
        return Err(full().into());
    }
    Ok(())
}

/// At most as many as there may be.
async fn kept(
    connection: &mut PgConnection,
    owner: &str,
    bounds: KeysPerOwner,
) -> Result<u32, Failure> {
    let kept: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT FROM tollgate.api_key WHERE owner = $1 LIMIT $2) AS kept",
    )
    .bind(owner)
    .bind(i64::from(bounds.kept_max))
    .fetch_one(connection)
    .await?;
    Ok(u32::try_from(kept).unwrap_or(u32::MAX))
}

/// Whoever makes a key for the same owner, or lets one go on, in another process at the same time waits for this transaction's end, so that each
/// counts what the others made.
async fn take_turn(
    connection: &mut PgConnection,
    owner: &str,
    bounds: Option<KeysPerOwner>,
) -> Result<(), Failure> {
    if bounds.is_some() {
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, $2))")
            .bind(owner)
            .bind(TURN)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Whoever rotates the same key at the same time waits, and finds it replaced.
async fn rotate(
    connection: &mut PgConnection,
    rotation: &Rotation,
    bounds: Option<KeysPerOwner>,
) -> Result<RotationOutcome, Failure> {
    let found = sqlx::query(select!("id = $1 AND owner = $2 FOR UPDATE"))
        .bind(rotation.replaced.as_str())
        .bind(&rotation.owner)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(mut old) = read_one(found.as_ref())? else {
        return Ok(RotationOutcome::Unknown);
    };
    let successor = match old.rotate(rotation) {
        Ok(successor) => successor,
        Err(outcome) => return Ok(outcome),
    };
    make_room(&mut *connection, &successor, bounds).await?;
    insert(&mut *connection, &successor).await?;
    sqlx::query("UPDATE tollgate.api_key SET expires_at = $1, rotated_to = $2 WHERE id = $3")
        .bind(moments(old.expires_at))
        .bind(successor.id.as_str())
        .bind(old.id.as_str())
        .execute(connection)
        .await?;
    Ok(RotationOutcome::Rotated {
        replaced: old.digest,
        successor: Box::new(successor),
    })
}

impl KeyLookup for PostgresStore {
    fn find(&self, digest: &KeyDigest) -> StoreFuture<Option<KeyRecord>> {
        let digest = *digest;
        self.ask(move |shared| async move {
            let found = sqlx::query(select!("digest = $1"))
                .bind(digest.as_bytes().as_slice())
                .fetch_optional(&shared.pool)
                .await?;
            read_one(found.as_ref())
        })
    }

    fn rehash(&self, change: Rehash) -> StoreFuture<bool> {
        self.ask(move |shared| async move {
            let changed = sqlx::query(
                "UPDATE tollgate.api_key SET digest = $3, proof = $4 WHERE id = $1 AND digest = $2",
            )
            .bind(change.id.as_str())
            .bind(change.from.as_bytes().as_slice())
            .bind(change.digest.as_bytes().as_slice())
            .bind(change.proof.to_string())
            .execute(&shared.pool)
            .await?;
            Ok(changed.rows_affected() > 0)
        })
    }

    fn recently_used(&self, limit: u16) -> StoreFuture<Vec<KeyRecord>> {
        let limit = i64::from(limit);
        self.ask(move |shared| async move {
            let now = shared.settings.clock.now();
            let rows = sqlx::query(select!(
                "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1)
                 ORDER BY last_used_at DESC NULLS LAST LIMIT $2"
            ))
            .bind(Moment(now))
            .bind(limit)
            .fetch_all(&shared.pool)
            .await?;
            rows.iter().map(|row| Ok(read_key(row)?.1)).collect()
        })
    }

    fn touch(&self, id: &KeyId, at: Timestamp) {
        let shared = &self.0.shared;
        let mut touched = shared.touched();
        if let Some(latest) = touched.get_mut(id) {
            *latest = at.max(*latest);
        } else if touched.len() < shared.settings.queue_max && is_storable(id.as_str()) {
            touched.insert(id.clone(), at);
        }
    }
}

impl KeyStore for PostgresStore {
    fn insert(&self, record: KeyRecord, bounds: Option<KeysPerOwner>) -> StoreFuture<()> {
        self.ask(move |shared| async move {
            let _turn = shared.key_turn(&record.owner).await?;
            let mut transaction = shared.begin().await?;
            take_turn(&mut transaction, &record.owner, bounds).await?;
            check_room(&mut transaction, &record, bounds).await?;
            insert(&mut transaction, &record).await?;
            transaction.commit().await?;
            Ok(())
        })
    }

    fn rotate(
        &self,
        rotation: Rotation,
        bounds: Option<KeysPerOwner>,
    ) -> StoreFuture<RotationOutcome> {
        self.ask(move |shared| async move {
            let (owner, id) = (&rotation.owner, &rotation.replaced);
            if !is_storable(id.as_str()) || !is_storable(owner) {
                return Ok(RotationOutcome::Unknown);
            }
            let _turn = shared.key_turn(owner).await?;
            let mut transaction = shared.begin().await?;
            take_turn(&mut transaction, owner, bounds).await?;
            let outcome = rotate(&mut transaction, &rotation, bounds).await?;
            transaction.commit().await?;
            Ok(outcome)
        })
    }

    fn get(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) || !is_storable(&owner) {
                return Ok(None);
            }
            let mut connection = shared.pool.acquire().await?;
            find_owned(&mut connection, &owner, &id).await
        })
    }

    fn list(&self, owner: &str, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        let owner = owner.to_owned();
        self.ask(move |shared| async move {
            if !is_storable(&owner) {
                return Ok(Paged::from_rows(&page, Vec::new()));
            }
            let (before, limit) = bounds(&page);
            let rows = sqlx::query(select!(
                "owner = $1 AND position < $2 ORDER BY position DESC LIMIT $3"
            ))
            .bind(owner)
            .bind(before)
            .bind(limit)
            .fetch_all(&shared.pool)
            .await?;
            let rows = rows.iter().map(read_key).collect::<Result<_, _>>()?;
            Ok(Paged::from_rows(&page, rows))
        })
    }

    fn update(&self, owner: &str, id: &KeyId, change: KeyUpdate) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) || !is_storable(&owner) {
                return Ok(None);
            }
            // Only a new end can make a key good again.
            let bounds = change.bounds.filter(|_| change.expires_at.is_some());
            let _turn = match bounds {
                Some(_) => Some(shared.key_turn(&owner).await?),
                None => None,
            };
            let mut transaction = shared.begin().await?;
            take_turn(&mut transaction, &owner, bounds).await?;
            if let Some(bounds) = bounds {
                let now = shared.settings.clock.now();
                let key = find_owned(&mut transaction, &owner, &id).await?;
                if key.is_some_and(|key| key.comes_back(&change, now))
                    && live(&mut transaction, &owner, now, bounds).await? >= bounds.live_max
                {
                    return Err(full().into());
                }
            }
            sqlx::query(UPDATE)
                .bind(id.as_str())
                .bind(&owner)
                .bind(&change.name)
                .bind(&change.roles)
                .bind(change.networks.as_deref().map(network_texts))
                .bind(change.expires_at.is_some())
                .bind(moments(change.expires_at.flatten()))
                .bind(moments(change.revoked_at))
                .bind(change.resource.is_some())
                .bind(change.resource.flatten())
                .bind(change.quotas.is_some())
                .bind(change.quotas.flatten().map(Json))
                .bind(change.metadata.map(Json))
                .execute(&mut *transaction)
                .await?;
            let stored = find_owned(&mut transaction, &owner, &id).await?;
            transaction.commit().await?;
            Ok(stored)
        })
    }

    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) || !is_storable(&owner) {
                return Ok(None);
            }
            let mut transaction = shared.begin().await?;
            let found = sqlx::query(select!("id = $1 AND owner = $2 FOR UPDATE"))
                .bind(id.as_str())
                .bind(&owner)
                .fetch_optional(&mut *transaction)
                .await?;
            let found = read_one(found.as_ref())?;
            sqlx::query("DELETE FROM tollgate.api_key WHERE id = $1 AND owner = $2")
                .bind(id.as_str())
                .bind(&owner)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(found)
        })
    }
}

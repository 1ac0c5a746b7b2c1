//! API keys in PostgreSQL.

mod limits;
mod rows;

use sqlx::{postgres::PgConnection, types::Json};

use self::{
    limits::{check_live, live, make_room, take_turn},
    rows::{digest, find_owned, insert, lock_owned, read_key, read_one, select},
};
use super::{
    PostgresStore,
    convert::{Failure, Moment, is_storable, moments, name, network_texts},
    listing::{bounds, by_position},
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
        keys::{changed_meanwhile, stored_end},
    },
};

/// Column by column: what isn't given stays as it is, so that concurrent changes aren't undone.
const UPDATE: &str = "UPDATE api_key SET
     name = coalesce($3, name),
     roles = coalesce($4, roles),
     networks = coalesce($5, networks),
     expires_at = CASE WHEN NOT $6 THEN expires_at WHEN rotated_to IS NULL THEN $7 ELSE least(expires_at, $7) END,
     resource = CASE WHEN $8 THEN $9 ELSE resource END,
     quotas = CASE WHEN $10 THEN $11 ELSE quotas END,
     metadata = coalesce($12, metadata)
     WHERE id = $1 AND owner = $2";

/// Locks rows in the same order as uses are stored, so that the two never deadlock.
const REVOKE_ALL: &str = "WITH good AS (
         SELECT id FROM api_key WHERE owner = $1 AND (revoked_at IS NULL OR is_disabled)
         ORDER BY id FOR NO KEY UPDATE
     )
     UPDATE api_key SET revoked_at = $2, is_disabled = NULL FROM good
     WHERE api_key.id = good.id RETURNING api_key.id, api_key.digest";

/// Revokes, disables or enables a key whose row is locked.
async fn end(
    connection: &mut PgConnection,
    mut key: KeyRecord,
    change: &KeyUpdate,
) -> Result<(), Failure> {
    key.apply(KeyUpdate {
        revoked_at: change.revoked_at,
        disabled_at: change.disabled_at,
        ..KeyUpdate::default()
    });
    let (ended_at, is_disabled) = stored_end(&key);
    sqlx::query("UPDATE api_key SET revoked_at = $1, is_disabled = $2 WHERE id = $3")
        .bind(moments(ended_at))
        .bind(is_disabled.then_some(true))
        .bind(key.id.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

async fn update(
    connection: &mut PgConnection,
    owner: &str,
    id: &KeyId,
    change: KeyUpdate,
) -> Result<(), Failure> {
    sqlx::query(UPDATE)
        .bind(id.as_str())
        .bind(owner)
        .bind(&change.name)
        .bind(&change.roles)
        .bind(change.networks.as_deref().map(network_texts))
        .bind(change.expires_at.is_some())
        .bind(moments(change.expires_at.flatten()))
        .bind(change.resource.is_some())
        .bind(change.resource.flatten())
        .bind(change.quotas.is_some())
        .bind(change.quotas.flatten().map(Json))
        .bind(change.metadata.map(Json))
        .execute(connection)
        .await?;
    Ok(())
}

/// A concurrent rotation of the same key waits, and then finds it replaced.
async fn rotate(
    connection: &mut PgConnection,
    rotation: &Rotation,
    bounds: Option<KeysPerOwner>,
) -> Result<RotationOutcome, Failure> {
    let old = lock_owned(&mut *connection, &rotation.owner, &rotation.replaced).await?;
    let Some(mut old) = old else {
        return Ok(RotationOutcome::Unknown);
    };
    let successor = match old.rotate(rotation) {
        Ok(successor) => successor,
        Err(outcome) => return Ok(outcome),
    };
    make_room(&mut *connection, &successor, bounds).await?;
    insert(&mut *connection, &successor).await?;
    sqlx::query("UPDATE api_key SET expires_at = $1, rotated_to = $2 WHERE id = $3")
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
                .fetch_optional(&mut *shared.read().await?)
                .await?;
            read_one(found.as_ref())
        })
    }

    fn rehash(&self, change: Rehash) -> StoreFuture<bool> {
        self.ask(move |shared| async move {
            let mut transaction = shared.begin().await?;
            let changed = sqlx::query(
                "UPDATE api_key SET digest = $3, proof = $4
                 WHERE id = $1 AND digest = $2 AND proof = $5",
            )
            .bind(change.id.as_str())
            .bind(change.from.as_bytes().as_slice())
            .bind(change.digest.as_bytes().as_slice())
            .bind(change.proof.to_string())
            .bind(change.from_proof.to_string())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
            transaction.commit().await?;
            Ok(changed > 0)
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
            .fetch_all(&mut *shared.read().await?)
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

    fn flush_touches(&self) -> StoreFuture<()> {
        Ledger::flush(self)
    }
}

impl KeyStore for PostgresStore {
    fn insert(&self, record: KeyRecord, bounds: Option<KeysPerOwner>) -> StoreFuture<()> {
        self.ask(move |shared| async move {
            let _turn = shared.key_turn(&record.owner).await?;
            let mut transaction = shared.begin().await?;
            if bounds.is_some() {
                take_turn(&mut transaction, &record.owner).await?;
            }
            check_live(&mut transaction, &record, bounds).await?;
            make_room(&mut transaction, &record, bounds).await?;
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
            // With or without bounds: ending all keys of the owner must see the new one, or end the
            // old one first.
            take_turn(&mut transaction, owner).await?;
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
            find_owned(&mut *shared.read().await?, &owner, &id).await
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
            .fetch_all(&mut *shared.read().await?)
            .await?;
            let rows = rows.iter().map(read_key).collect::<Result<_, _>>()?;
            Ok(Paged::from_rows(&page, rows))
        })
    }

    fn list_all(&self, page: Page) -> StoreFuture<Paged<KeyRecord>> {
        self.ask(move |shared| async move {
            let query = select!("position < $1 ORDER BY position DESC LIMIT $2");
            by_position(&mut *shared.read().await?, query, &page, read_key).await
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
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) || !is_storable(&owner) {
                return Ok(None);
            }
            // Nothing else can make a key valid again.
            let may_return = change.expires_at.is_some() || change.disabled_at == Some(None);
            let bounds = bounds.filter(|_| may_return);
            let _turn = match bounds {
                Some(_) => Some(shared.key_turn(&owner).await?),
                None => None,
            };
            let mut transaction = shared.begin().await?;
            if bounds.is_some() {
                take_turn(&mut transaction, &owner).await?;
            }
            if let Some(seen) = change.seen.as_deref()
                && let Some(key) = lock_owned(&mut transaction, &owner, &id).await?
                && !key.is_as_seen(Some(seen))
            {
                return Err(changed_meanwhile().into());
            }
            if let Some(bounds) = bounds {
                let now = shared.settings.clock.now();
                let key = find_owned(&mut transaction, &owner, &id).await?;
                if key.is_some_and(|key| key.comes_back(&change, now))
                    && live(&mut transaction, &owner, now, bounds).await? >= bounds.live_max
                {
                    return Err(StoreError::from(NoRoom).into());
                }
            }
            if (change.revoked_at.is_some() || change.disabled_at.is_some())
                && let Some(key) = lock_owned(&mut transaction, &owner, &id).await?
            {
                end(&mut transaction, key, &change).await?;
            }
            update(&mut transaction, &owner, &id, change).await?;
            let stored = find_owned(&mut transaction, &owner, &id).await?;
            transaction.commit().await?;
            Ok(stored)
        })
    }

    fn revoke_all(&self, owner: &str, at: Timestamp) -> StoreFuture<Vec<RevokedKey>> {
        let owner = owner.to_owned();
        self.ask(move |shared| async move {
            if !is_storable(&owner) {
                return Ok(Vec::new());
            }
            let _turn = shared.key_turn(&owner).await?;
            let mut transaction = shared.begin().await?;
            // Before the statement takes its snapshot: after waiting for a rotation it would not
            // see the new key.
            take_turn(&mut transaction, &owner).await?;
            let ended = sqlx::query(REVOKE_ALL)
                .bind(&owner)
                .bind(Moment(at))
                .fetch_all(&mut *transaction)
                .await?;
            transaction.commit().await?;
            let of_row = |row| {
                let (id, digest) = (name(row, 0)?, digest(row, 1)?);
                Ok(RevokedKey { id, digest })
            };
            ended.iter().map(of_row).collect()
        })
    }

    fn delete(&self, owner: &str, id: &KeyId) -> StoreFuture<Option<KeyRecord>> {
        let (owner, id) = (owner.to_owned(), id.clone());
        self.ask(move |shared| async move {
            if !is_storable(id.as_str()) || !is_storable(&owner) {
                return Ok(None);
            }
            let mut transaction = shared.begin().await?;
            let found = lock_owned(&mut transaction, &owner, &id).await?;
            sqlx::query("DELETE FROM api_key WHERE id = $1 AND owner = $2")
                .bind(id.as_str())
                .bind(&owner)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(found)
        })
    }
}

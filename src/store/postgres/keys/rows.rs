//! A key as stored in its table.

use sqlx::{
    Row,
    postgres::{PgConnection, PgRow},
    types::Json,
};

use super::super::convert::{
    Failure, Moment, moment, moment_or_none, moments, name, name_or_none, network_texts, networks,
    uncount,
};
use crate::{
    domain::{
        KeyId,
        key::{KeyDigest, KeyRecord},
    },
    store::keys::{read_end, stored_end, taken},
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
pub(super) use select;

pub(super) fn read_key(row: &PgRow) -> Result<(u64, KeyRecord), Failure> {
    let Json(metadata) = row.try_get(16)?;
    let is_disabled = row.try_get::<Option<bool>, _>(20)?.unwrap_or_default();
    let (revoked_at, disabled_at) = read_end(moment_or_none(row, 12)?, is_disabled);
    let record = KeyRecord {
        id: name(row, 1)?,
        digest: digest(row, 2)?,
        preview: row.try_get(3)?,
        name: row.try_get(4)?,
        owner: row.try_get(5)?,
        environment: row.try_get(6)?,
        roles: row.try_get(7)?,
        resource: row.try_get(8)?,
        networks: networks(row, 9)?,
        created_at: moment(row, 10)?,
        expires_at: moment_or_none(row, 11)?,
        revoked_at,
        disabled_at,
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

pub(super) fn digest(row: &PgRow, index: usize) -> Result<KeyDigest, Failure> {
    let digest = row.try_get::<&[u8], _>(index)?;
    let digest = digest.try_into();
    digest
        .map(KeyDigest::from_bytes)
        .map_err(|_| Failure::corrupt("a digest of another length"))
}

pub(super) fn read_one(found: Option<&PgRow>) -> Result<Option<KeyRecord>, Failure> {
    let found = found.map(read_key).transpose()?;
    Ok(found.map(|(_, record)| record))
}

pub(super) async fn find_owned(
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

/// Like [`find_owned`], and locks the row until the transaction's end.
pub(super) async fn lock_owned(
    connection: &mut PgConnection,
    owner: &str,
    id: &KeyId,
) -> Result<Option<KeyRecord>, Failure> {
    let found = sqlx::query(select!("id = $1 AND owner = $2 FOR UPDATE"))
        .bind(id.as_str())
        .bind(owner)
        .fetch_optional(connection)
        .await?;
    read_one(found.as_ref())
}

pub(super) async fn insert(
    connection: &mut PgConnection,
    record: &KeyRecord,
) -> Result<(), Failure> {
    let (ended_at, is_disabled) = stored_end(record);
    let inserted = sqlx::query(
        "INSERT INTO api_key (id, digest, preview, name, owner, environment, roles, resource,
         networks, created_at, expires_at, revoked_at, last_used_at, rotated_from, lineage, metadata,
         proof, quotas, rotated_to, is_disabled)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
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
    .bind(moments(ended_at))
    .bind(moments(record.last_used_at))
    .bind(record.rotated_from.as_ref().map(|id| id.as_str()))
    .bind(record.lineage.as_str())
    .bind(Json(&record.metadata))
    .bind(record.proof.to_string())
    .bind(record.quotas.as_ref().map(Json))
    .bind(record.rotated_to.as_ref().map(|id| id.as_str()))
    .bind(is_disabled.then_some(true))
    .execute(&mut *connection)
    .await?
    .rows_affected();
    if inserted == 0 {
        return Err(taken().into());
    }
    Ok(())
}

//! Idempotency keys: loaded, evaluated in memory and written back under the lock of their account.

use hashbrown::{HashMap, HashSet};
use sqlx::{Row, postgres::PgConnection};

use super::{
    batch::Account,
    command::Command,
    convert::{Failure, Moment, moment},
};
use crate::domain::{
    AccountId,
    books::{HoldRefusal, KnownCall},
    clock::Timestamp,
    usage::Idempotency,
};

const LOAD: &str = "SELECT account, key, fingerprint, settled, ends
     FROM unnest($1::bigint[], $2::text[]) AS wanted (account, key)
     JOIN once USING (account, key)";

const KEEP: &str = "INSERT INTO once (account, key, fingerprint, settled, ends)
     SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::boolean[], $5::timestamptz[])
     ON CONFLICT (account, key) DO UPDATE SET fingerprint = excluded.fingerprint,
         settled = excluded.settled, ends = excluded.ends";

const FORGET: &str =
    "DELETE FROM once USING unnest($1::bigint[], $2::text[]) AS gone (account, key)
     WHERE once.account = gone.account AND once.key = gone.key";

/// Expired ones, a limited number at a time.
pub(super) const FORGET_OLD: &str = "DELETE FROM once WHERE (account, key) IN (
         SELECT account, key FROM once WHERE settled AND ends <= $1 LIMIT $2
         FOR UPDATE SKIP LOCKED
     )";

/// The keys that a batch uses.
#[derive(Default)]
pub(super) struct IdempotencyKeys {
    known: HashMap<(i64, String), (KnownCall, Timestamp)>,
    changed: HashSet<(i64, String)>,
}

impl IdempotencyKeys {
    /// Loads the keys that the batch uses.
    pub(super) async fn load(
        connection: &mut PgConnection,
        accounts: &HashMap<AccountId, Account>,
        batch: &[Command],
    ) -> Result<Self, Failure> {
        let mut wanted: HashSet<(i64, &str)> = HashSet::new();
        for command in batch {
            if let (Some(key), Some(id)) = (command.idempotency_key(), command.account())
                && let Some(number) = accounts.get(id).and_then(|account| account.number)
            {
                wanted.insert((number, key));
            }
        }
        let mut keys = Self::default();
        if wanted.is_empty() {
            return Ok(keys);
        }
        let (numbers, names): (Vec<i64>, Vec<&str>) = wanted.into_iter().unzip();
        let rows = sqlx::query(LOAD)
            .bind(numbers)
            .bind(names)
            .fetch_all(connection)
            .await?;
        for row in &rows {
            let fingerprint = row.try_get::<&[u8], _>(2)?.try_into();
            let known = KnownCall {
                fingerprint: fingerprint.map_err(|_| Failure::corrupt("a fingerprint"))?,
                settled: row.try_get(3)?,
            };
            let key = (row.try_get(0)?, row.try_get(1)?);
            keys.known.insert(key, (known, moment(row, 4)?));
        }
        Ok(keys)
    }

    /// Why a call with that key is refused, if it is.
    pub(super) fn refuses(
        &self,
        account: i64,
        wish: &Idempotency,
        now: Timestamp,
    ) -> Option<HoldRefusal> {
        let (known, _) = self.known(account, &wish.key, now)?;
        Some(known.refusal(&wish.fingerprint))
    }

    /// The call that a key names, and when it is forgotten. A call in progress is remembered until
    /// it ends, however long that takes.
    pub(super) fn known(
        &self,
        account: i64,
        key: &str,
        now: Timestamp,
    ) -> Option<(KnownCall, Timestamp)> {
        let (known, ends) = self.known.get(&(account, key.to_owned()))?;
        let is_over = known.settled && *ends <= now;
        (!is_over).then_some((*known, *ends))
    }

    /// A key that was freed names a call that was charged after all.
    pub(super) fn take_back(
        &mut self,
        account: i64,
        key: &str,
        fingerprint: [u8; 32],
        ends: Timestamp,
    ) {
        let key = (account, key.to_owned());
        let known = KnownCall {
            fingerprint,
            settled: true,
        };
        self.known.insert(key.clone(), (known, ends));
        self.changed.insert(key);
    }

    pub(super) fn begin(&mut self, account: i64, wish: &Idempotency, now: Timestamp) {
        let key = (account, wish.key.to_string());
        let known = KnownCall {
            fingerprint: wish.fingerprint,
            settled: false,
        };
        // Capped at what the database can store.
        let ends = now.saturating_add(wish.keep_for).unwrap_or(Timestamp::MAX);
        self.known.insert(key.clone(), (known, ends));
        self.changed.insert(key);
    }

    /// Keys of charged calls stay remembered; a call that cost nothing may be tried again.
    pub(super) fn end(&mut self, account: i64, key: &str, charged: bool) {
        let key = (account, key.to_owned());
        match self.known.get_mut(&key) {
            Some((known, _)) if charged => known.settled = true,
            Some(_) => {
                self.known.remove(&key);
            }
            None => return,
        }
        self.changed.insert(key);
    }

    pub(super) async fn write_back(&self, connection: &mut PgConnection) -> Result<(), Failure> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let (mut accounts, mut names) = (Vec::new(), Vec::new());
        let (mut fingerprints, mut settled, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        let (mut gone_accounts, mut gone_names) = (Vec::new(), Vec::new());
        for key in &self.changed {
            match self.known.get(key) {
                Some((known, end)) => {
                    accounts.push(key.0);
                    names.push(key.1.as_str());
                    fingerprints.push(known.fingerprint.as_slice());
                    settled.push(known.settled);
                    ends.push(Moment(*end));
                }
                None => {
                    gone_accounts.push(key.0);
                    gone_names.push(key.1.as_str());
                }
            }
        }
        if !accounts.is_empty() {
            sqlx::query(KEEP)
                .bind(accounts)
                .bind(names)
                .bind(fingerprints)
                .bind(settled)
                .bind(ends)
                .execute(&mut *connection)
                .await?;
        }
        if !gone_accounts.is_empty() {
            sqlx::query(FORGET)
                .bind(gone_accounts)
                .bind(gone_names)
                .execute(connection)
                .await?;
        }
        Ok(())
    }
}

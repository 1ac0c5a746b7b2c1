//! Holds that were resolved without their owner: remembered for a day, and charged when their
//! settlement comes.

use hashbrown::{HashMap, HashSet};
use sqlx::{Row, postgres::PgConnection};

use super::{
    Work,
    batch::UnitOfWork,
    command::Command,
    convert::{Failure, Moment, moment_or_none, moments, money},
};
use crate::domain::{
    books::Abandoned,
    clock::Timestamp,
    money::Money,
    usage::{Hold, HoldId, Settlement},
};

const TAKE: &str = "DELETE FROM abandoned
     USING unnest($1::bigint[], $2::bigint[]) AS late (instance, number)
     WHERE abandoned.instance = late.instance AND abandoned.number = late.number
     RETURNING abandoned.instance, abandoned.number, charged, fingerprint, key_ends";

const REMEMBER: &str =
    "INSERT INTO abandoned (instance, number, charged, fingerprint, key_ends, at)
     SELECT instance, number, charged, fingerprint, key_ends, $6
     FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::timestamptz[])
         AS new (instance, number, charged, fingerprint, key_ends)
     ON CONFLICT (instance, number) DO NOTHING";

const FORGET_OLD: &str = "DELETE FROM abandoned WHERE (instance, number) IN (
         SELECT instance, number FROM abandoned WHERE at < $1 LIMIT $2
         FOR UPDATE SKIP LOCKED
     )";

/// Those that a batch settles, or resolves.
#[derive(Default)]
pub(super) struct Late(HashMap<HoldId, Known>);

struct Known {
    what: Abandoned,
    /// How long its idempotency key is remembered, where it has one.
    key_ends: Option<Timestamp>,
    /// This batch resolved it.
    is_new: bool,
}

impl Late {
    /// Loads those of which the settlement is in the batch: it ends no open hold. In most batches
    /// there is none.
    pub(super) async fn load(
        connection: &mut PgConnection,
        batch: &[Command],
        ended: &HashSet<HoldId>,
    ) -> Result<Self, Failure> {
        let late = batch.iter().filter_map(|command| {
            let id = command.ending()?;
            let is_late = !command.is_resolution() && !ended.contains(&id);
            is_late.then(|| (id.instance.cast_signed(), id.number.cast_signed()))
        });
        let (instances, numbers): (Vec<i64>, Vec<i64>) = late.unzip();
        let mut known = Self::default();
        if instances.is_empty() {
            return Ok(known);
        }
        let rows = sqlx::query(TAKE)
            .bind(instances)
            .bind(numbers)
            .fetch_all(connection)
            .await?;
        for row in &rows {
            let id = HoldId {
                instance: row.try_get::<i64, _>(0)?.cast_unsigned(),
                number: row.try_get::<i64, _>(1)?.cast_unsigned(),
            };
            let fingerprint = row
                .try_get::<Option<&[u8]>, _>(3)?
                .map(<[u8; 32]>::try_from);
            let what = Abandoned {
                charged: money(row, 2)?,
                fingerprint: fingerprint
                    .transpose()
                    .map_err(|_| Failure::corrupt("a fingerprint"))?,
            };
            let late = Known {
                what,
                key_ends: moment_or_none(row, 4)?,
                is_new: false,
            };
            known.0.insert(id, late);
        }
        Ok(known)
    }

    /// Writes down what the batch resolved.
    pub(super) async fn write_back(
        &self,
        connection: &mut PgConnection,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let (mut instances, mut numbers, mut charged) = (Vec::new(), Vec::new(), Vec::new());
        let (mut fingerprints, mut ends) = (Vec::new(), Vec::new());
        for (id, late) in self.0.iter().filter(|(_, late)| late.is_new) {
            instances.push(id.instance.cast_signed());
            numbers.push(id.number.cast_signed());
            charged.push(late.what.charged.nanos());
            let fingerprint = late.what.fingerprint.as_ref();
            fingerprints.push(fingerprint.map(<[u8; 32]>::as_slice));
            ends.push(moments(late.key_ends));
        }
        if instances.is_empty() {
            return Ok(());
        }
        sqlx::query(REMEMBER)
            .bind(instances)
            .bind(numbers)
            .bind(charged)
            .bind(fingerprints)
            .bind(ends)
            .bind(Moment(now))
            .execute(connection)
            .await?;
        Ok(())
    }
}

impl UnitOfWork {
    /// Ends a hold that nobody settled.
    pub(super) fn resolve(
        &mut self,
        place: usize,
        hold: &Hold,
        settlement: &Settlement,
    ) -> Result<(), Failure> {
        let number = self.number(&hold.call.account)?;
        let key = hold.idempotency_key.as_deref();
        let known = key.and_then(|key| self.keys.known(number, key, self.now));
        let charged = self.end(place, hold, settlement)?;
        let late = Known {
            what: Abandoned::new(charged, known.map(|(known, _)| known)),
            key_ends: known.map(|(_, ends)| ends),
            is_new: true,
        };
        self.late.0.insert(hold.id, late);
        Ok(())
    }

    /// Charges a call whose hold was resolved before; `false`: its owner did that, or it was too
    /// long ago.
    pub(super) fn settle_late(
        &mut self,
        place: usize,
        hold: &Hold,
        settlement: &Settlement,
    ) -> Result<bool, Failure> {
        let Some(late) = self.late.0.remove(&hold.id) else {
            return Ok(false);
        };
        let number = self.number(&hold.call.account)?;
        let key = hold.idempotency_key.as_deref();
        let known = key.and_then(|key| self.keys.known(number, key, self.now));
        let known = known.map(|(known, _)| known);
        let due = late.what.due(settlement.charged, known.as_ref());
        let charged = self.charge(place, hold, Money::ZERO, due)?;
        if let (Some(key), Some(fingerprint), Some(ends)) =
            (key, late.what.fingerprint, late.key_ends)
            && known.is_none()
            && !charged.is_zero()
        {
            self.keys.take_back(number, key, fingerprint, ends);
        }
        Ok(true)
    }
}

/// Forgets those that nobody will ask for any more, a step at a time; `false`: there may be more.
pub(super) async fn forget_old(work: Work, step: i64) -> Result<bool, Failure> {
    let now = work.settings.clock.now();
    let before = now
        .saturating_sub(Abandoned::REMEMBERED)
        .unwrap_or_default();
    let mut line = work.begin().await?;
    let forgotten = sqlx::query(FORGET_OLD)
        // What the database can store has a beginning.
        .bind(Moment(before.max(Timestamp::UNIX_EPOCH)))
        .bind(step)
        .execute(&mut *line)
        .await?
        .rows_affected();
    line.commit().await?;
    Ok(i64::try_from(forgotten).unwrap_or(step) < step)
}

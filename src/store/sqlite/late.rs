//! Holds that were resolved without their owner: remembered for a day, and charged when their
//! settlement arrives.

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    accounts::load,
    batch::UnitOfWork,
    convert::{Failure, micros},
    once,
};
use crate::domain::{
    books::{Abandoned, KnownCall},
    clock::Timestamp,
    money::Money,
    usage::{Hold, HoldId, Settlement},
};

impl UnitOfWork<'_> {
    /// Ends a hold that nobody settles, if it is still there.
    pub(super) fn resolve(&mut self, hold: &Hold, settlement: &Settlement) -> Result<(), Failure> {
        if !self.bundles.end(hold.id)? {
            return Ok(());
        }
        let known = self.key_of(hold)?;
        let charged = self.end(hold, settlement)?;
        let late = Abandoned::new(charged, known.map(|(known, _)| known));
        let key_ends = known.map(|(_, ends)| ends);
        remember(self.connection, hold.id, late, key_ends, self.now)
    }

    /// Charges a call whose hold was resolved before; `false`: its owner resolved it, or it was too
    /// long ago.
    pub(super) fn settle_late(
        &mut self,
        hold: &Hold,
        settlement: &Settlement,
    ) -> Result<bool, Failure> {
        let Some((late, key_ends)) = take(self.connection, hold.id)? else {
            return Ok(false);
        };
        let known = self.key_of(hold)?.map(|(known, _)| known);
        let due = late.due(settlement.charged, known.as_ref());
        let charged = self.book(hold, None, due, settlement)?;
        let freed = late.fingerprint.zip(key_ends);
        if let (Some(key), Some((fingerprint, ends))) = (&hold.idempotency_key, freed)
            && known.is_none()
            && !charged.is_zero()
            && let Some(account) = self.number_of(hold)?
        {
            once::take_back(self.connection, account, key, fingerprint, ends)?;
        }
        Ok(true)
    }

    /// What is known of its idempotency key, and until when.
    fn key_of(&mut self, hold: &Hold) -> Result<Option<(KnownCall, i64)>, Failure> {
        match (&hold.idempotency_key, self.number_of(hold)?) {
            (Some(key), Some(account)) => once::known(self.connection, account, key, self.now),
            _ => Ok(None),
        }
    }

    fn number_of(&mut self, hold: &Hold) -> Result<Option<i64>, Failure> {
        let (id, budgets) = (&hold.call.account, &hold.budgets);
        let account = load(&mut self.accounts, &mut self.statements, id, budgets)?;
        Ok(account.number)
    }
}

fn remember(
    connection: &Connection,
    id: HoldId,
    late: Abandoned,
    key_ends: Option<i64>,
    now: Timestamp,
) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO abandoned (number, instance, charged, fingerprint, key_ends, at)
             VALUES (?,?,?,?,?,?)",
        )?
        .execute(params![
            id.number.cast_signed(),
            id.instance.cast_signed(),
            late.charged.nanos(),
            late.fingerprint,
            key_ends,
            micros(now),
        ])?;
    Ok(())
}

/// What is remembered of a hold, once.
fn take(connection: &Connection, id: HoldId) -> Result<Option<(Abandoned, Option<i64>)>, Failure> {
    let found = connection
        .prepare_cached(
            "DELETE FROM abandoned WHERE number = ? AND instance = ?
             RETURNING charged, fingerprint, key_ends",
        )?
        .query_row(
            [id.number.cast_signed(), id.instance.cast_signed()],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    Ok(found.map(|(charged, fingerprint, key_ends)| {
        let late = Abandoned {
            charged: Money::from_nanos(charged),
            fingerprint,
        };
        (late, key_ends)
    }))
}

/// Forgets up to `step` of those that nobody will ask for any more; `false`: there may be more.
pub(super) fn forget_old(
    connection: &Connection,
    now: Timestamp,
    step: i64,
) -> Result<bool, Failure> {
    let before = now.saturating_sub(Abandoned::REMEMBERED);
    let before = before.map_or(i64::MIN, micros);
    let deleted = connection
        .prepare_cached(
            "DELETE FROM abandoned WHERE number IN
             (SELECT number FROM abandoned WHERE at < ? LIMIT ?)",
        )?
        .execute([before, step])?;
    Ok(i64::try_from(deleted).unwrap_or(i64::MAX) < step)
}

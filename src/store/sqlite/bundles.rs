//! Open holds, as stored: those that one transaction opens form a bundle.
//!
//! A hold is written and ended at every call, and read only if nobody settles it. Inserting and
//! deleting a row for each was a third of the writer's work. A bundle has two rows: which of its
//! holds are open, rewritten whenever some of them end; and their contents, written once. When few
//! of many are left, only those are kept, so one long call doesn't occupy the space of a thousand.
//!
//! A hold's lifetime isn't stored. Its own instance knows it in memory; others only ask whether
//! that instance lives.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, mem};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Statement, params};

use super::{
    convert::Failure,
    holds::{self, Packed, pack_call},
};
use crate::{
    domain::{
        AccountId,
        books::Grant,
        money::Money,
        usage::{Hold, HoldId, HoldRequest},
    },
    store::StoreError,
};

/// A bundle with fewer holds than this isn't thinned out, and stays until the last of them ends.
const SPARSE_FROM: usize = 64;

/// What a transaction knows of bundles. Each one with ended holds is loaded once and written back
/// once.
pub(super) struct Bundles<'c> {
    connection: &'c Connection,
    find: Statement<'c>,
    insert: Statement<'c>,
    insert_holds: Statement<'c>,
    update: Statement<'c>,
    delete: Statement<'c>,
    delete_holds: Statement<'c>,
    /// By the number of the first hold.
    loaded: BTreeMap<i64, Bundle>,
    opening: Opening,
}

/// The holds of one transaction; their numbers are consecutive.
struct Bundle {
    instance: u64,
    /// A byte for each: 1 while it is open.
    open: Vec<u8>,
    /// How many have their contents stored.
    stored: usize,
    is_changed: bool,
}

/// The holds that this transaction opens.
#[derive(Default)]
struct Opening {
    instance: u64,
    first: i64,
    count: usize,
    packed: Vec<u8>,
    /// A scratch buffer for packing one of them.
    call: Vec<u8>,
}

/// One hold of a bundle, as stored.
struct Entry<'a> {
    /// Its number minus the bundle's first.
    offset: u32,
    account: i64,
    amount: i64,
    call: &'a [u8],
}

impl Bundle {
    /// The index of the hold with this number.
    fn place(&self, first: i64, number: i64) -> Option<usize> {
        let offset = usize::try_from(number.checked_sub(first)?).ok()?;
        (offset < self.open.len()).then_some(offset)
    }

    fn is_open(&self, offset: usize) -> bool {
        self.open.get(offset).is_some_and(|open| *open != 0)
    }

    fn left(&self) -> usize {
        self.open.iter().filter(|open| **open != 0).count()
    }

    fn is_sparse(&self, left: usize) -> bool {
        self.stored >= SPARSE_FROM && left.saturating_mul(8) <= self.stored
    }
}

impl<'c> Bundles<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> Result<Self, Failure> {
        Ok(Self {
            connection,
            find: connection.prepare(
                "SELECT first, instance, open, stored FROM bundle
                 WHERE first <= ? ORDER BY first DESC LIMIT 1",
            )?,
            insert: connection
                .prepare("INSERT INTO bundle (first, instance, open, stored) VALUES (?,?,?,?)")?,
            insert_holds: connection.prepare("INSERT INTO bundled (first, holds) VALUES (?,?)")?,
            update: connection.prepare("UPDATE bundle SET open = ?, stored = ? WHERE first = ?")?,
            delete: connection.prepare("DELETE FROM bundle WHERE first = ?")?,
            delete_holds: connection.prepare("DELETE FROM bundled WHERE first = ?")?,
            loaded: BTreeMap::new(),
            opening: Opening::default(),
        })
    }

    /// Resets to the beginning of a transaction.
    pub(super) fn clear(&mut self) {
        self.loaded.clear();
        self.opening.empty();
    }

    /// Opens a hold of the account in row `account`. Its number follows the previous one's.
    pub(super) fn open(
        &mut self,
        id: HoldId,
        account: i64,
        request: &HoldRequest,
        grant: &Grant,
    ) -> Result<(), Failure> {
        let number = id.number.cast_signed();
        if self.opening.next() != Some((id.instance, number)) {
            self.write_opened()?;
            self.opening.instance = id.instance;
            self.opening.first = number;
        }
        self.opening.add(account, request, grant)
    }

    /// Ends a hold; returns whether it was still there.
    pub(super) fn end(&mut self, id: HoldId) -> Result<bool, Failure> {
        let Some((bundle, offset)) = self.open_one(id)? else {
            return Ok(false);
        };
        if let Some(open) = bundle.open.get_mut(offset) {
            *open = 0;
        }
        bundle.is_changed = true;
        Ok(true)
    }

    /// Whether a hold is still there.
    pub(super) fn is_open(&mut self, id: HoldId) -> Result<bool, Failure> {
        Ok(self.open_one(id)?.is_some())
    }

    fn open_one(&mut self, id: HoldId) -> Result<Option<(&mut Bundle, usize)>, Failure> {
        let number = id.number.cast_signed();
        let Some(first) = self.first_of(number)? else {
            return Ok(None);
        };
        Ok(self.loaded.get_mut(&first).and_then(|bundle| {
            let offset = bundle.place(first, number)?;
            let is_it = bundle.instance == id.instance && bundle.is_open(offset);
            is_it.then_some((bundle, offset))
        }))
    }

    /// Loads the bundle that the number belongs to; returns its first number.
    fn first_of(&mut self, number: i64) -> Result<Option<i64>, Failure> {
        if let Some((first, bundle)) = self.loaded.range(..=number).next_back()
            && bundle.place(*first, number).is_some()
        {
            return Ok(Some(*first));
        }
        let found = self.find.query_row([number], |row| {
            let stored = usize::try_from(row.get::<_, i64>(3)?).unwrap_or(0);
            let bundle = Bundle {
                instance: row.get::<_, i64>(1)?.cast_unsigned(),
                open: row.get(2)?,
                stored,
                is_changed: false,
            };
            Ok((row.get::<_, i64>(0)?, bundle))
        });
        Ok(found.optional()?.and_then(|(first, bundle)| {
            bundle.place(first, number)?;
            self.loaded.insert(first, bundle);
            Some(first)
        }))
    }

    /// Writes what was opened and what was ended.
    pub(super) fn write(&mut self) -> Result<(), Failure> {
        self.write_opened()?;
        let mut loaded = mem::take(&mut self.loaded);
        for (first, bundle) in &mut loaded {
            if !bundle.is_changed {
                continue;
            }
            let left = bundle.left();
            if left == 0 {
                self.delete.execute([first])?;
                self.delete_holds.execute([first])?;
                continue;
            }
            if bundle.is_sparse(left) && self.thin_out(*first, bundle)? {
                continue;
            }
            let stored = i64::try_from(bundle.stored).unwrap_or(i64::MAX);
            self.update.execute(params![bundle.open, stored, first])?;
        }
        Ok(())
    }

    fn write_opened(&mut self) -> Result<(), Failure> {
        let Opening {
            instance,
            first,
            count,
            ref packed,
            ..
        } = self.opening;
        if count > 0 {
            let stored = i64::try_from(count).unwrap_or(i64::MAX);
            let open = vec![1_u8; count];
            self.insert
                .execute(params![first, instance.cast_signed(), open, stored])?;
            self.insert_holds.execute(params![first, packed])?;
        }
        self.opening.empty();
        Ok(())
    }

    /// Keeps only the open holds, as a bundle from the first of them to the last; `false`: the
    /// contents can't be read, and stay.
    fn thin_out(&mut self, first: i64, bundle: &Bundle) -> Result<bool, Failure> {
        let Some(packed) = self.written(first)? else {
            return Ok(false);
        };
        let Ok(entries) = entries(&packed) else {
            return Ok(false);
        };
        let is_open = |open: &u8| *open != 0;
        let begin = bundle.open.iter().position(is_open).unwrap_or_default();
        let end = bundle.open.iter().rposition(is_open).unwrap_or_default();
        let (Some(open), Ok(shift)) = (bundle.open.get(begin..=end), u32::try_from(begin)) else {
            return Ok(false);
        };
        let (mut kept, mut stored) = (Vec::new(), 0_i64);
        for entry in entries {
            if bundle.is_open(usize::try_from(entry.offset).unwrap_or(usize::MAX)) {
                let offset = entry.offset.saturating_sub(shift);
                Entry { offset, ..entry }.write(&mut kept)?;
                stored = stored.saturating_add(1);
            }
        }
        self.delete.execute([first])?;
        self.delete_holds.execute([first])?;
        let first = first.saturating_add(i64::from(shift));
        let instance = bundle.instance.cast_signed();
        self.insert
            .execute(params![first, instance, open, stored])?;
        self.insert_holds.execute(params![first, kept])?;
        Ok(true)
    }

    fn written(&self, first: i64) -> Result<Option<Vec<u8>>, Failure> {
        let mut select: CachedStatement<'_> = self
            .connection
            .prepare_cached("SELECT holds FROM bundled WHERE first = ?")?;
        Ok(select.query_row([first], |row| row.get(0)).optional()?)
    }

    /// The bundles of an instance, by their first holds.
    pub(super) fn of(&self, instance: u64) -> Result<Vec<i64>, Failure> {
        let mut look = self
            .connection
            .prepare_cached("SELECT first FROM bundle WHERE instance = ? ORDER BY first")?;
        let firsts = look.query_map([instance.cast_signed()], |row| row.get(0))?;
        Ok(firsts.collect::<Result<_, _>>()?)
    }

    /// The bundle of a hold, while the hold is open.
    pub(super) fn bundle_of(&mut self, id: HoldId) -> Result<Option<i64>, Failure> {
        if self.is_open(id)? {
            return self.first_of(id.number.cast_signed());
        }
        Ok(None)
    }

    /// Reads those of a bundle's open holds whose numbers are `wanted`, with everything needed to
    /// settle them. Unreadable ones are logged and left in place, and the result says `false`: they
    /// must not stop everyone's writes.
    pub(super) fn read(
        &mut self,
        first: i64,
        wanted: impl Fn(u64) -> bool,
        holds: &mut Vec<Hold>,
    ) -> Result<bool, Failure> {
        if self.first_of(first)?.is_none() {
            return Ok(true);
        }
        let Some(bundle) = self.loaded.get(&first) else {
            return Ok(true);
        };
        let packed = self.written(first)?.unwrap_or_default();
        let entries = match entries(&packed) {
            Ok(entries) => entries,
            Err(failure) => {
                tell_unreadable(&failure);
                return Ok(false);
            }
        };
        let mut all_readable = true;
        for entry in entries {
            let offset = usize::try_from(entry.offset).unwrap_or(usize::MAX);
            let number = first
                .saturating_add(i64::from(entry.offset))
                .cast_unsigned();
            if !bundle.is_open(offset) || !wanted(number) {
                continue;
            }
            let id = HoldId {
                instance: bundle.instance,
                number,
            };
            match self.hold(id, &entry) {
                Ok(hold) => holds.push(hold),
                Err(failure) if failure.is_passing() => return Err(failure),
                Err(failure) => {
                    tell_unreadable(&failure);
                    all_readable = false;
                }
            }
        }
        Ok(all_readable)
    }

    fn hold(&self, id: HoldId, entry: &Entry<'_>) -> Result<Hold, Failure> {
        let account: String = self
            .connection
            .prepare_cached("SELECT id FROM account WHERE number = ?")?
            .query_row([entry.account], |row| row.get(0))?;
        let account = AccountId::try_from(account)
            .map_err(|_| Failure::corrupt("a name of no length, or too long"))?;
        holds::read(id, account, Money::from_nanos(entry.amount), entry.call)
    }
}

fn tell_unreadable(failure: &Failure) {
    let error = &failure.0;
    tracing::error!(target: "tollgate::sqlite", %error, "can't give a hold back");
}

impl Opening {
    fn empty(&mut self) {
        self.count = 0;
        self.packed.clear();
    }

    /// The instance and number that the next hold of this bundle would have.
    fn next(&self) -> Option<(u64, i64)> {
        let count = i64::try_from(self.count).ok().filter(|count| *count > 0)?;
        Some((self.instance, self.first.checked_add(count)?))
    }

    fn add(&mut self, account: i64, request: &HoldRequest, grant: &Grant) -> Result<(), Failure> {
        pack_call(&mut self.call, request, grant)?;
        let offset = u32::try_from(self.count);
        let entry = Entry {
            offset: offset.map_err(|_| StoreError::internal("too many holds at once"))?,
            account,
            amount: request.amount.nanos(),
            call: &self.call,
        };
        entry.write(&mut self.packed)?;
        self.count = self.count.saturating_add(1);
        Ok(())
    }
}

impl Entry<'_> {
    fn write(&self, packed: &mut Vec<u8>) -> Result<(), Failure> {
        packed.extend_from_slice(&self.offset.to_be_bytes());
        packed.extend_from_slice(&self.account.to_be_bytes());
        packed.extend_from_slice(&self.amount.to_be_bytes());
        holds::push_bytes(packed, self.call)
    }
}

fn entries(packed: &[u8]) -> Result<Vec<Entry<'_>>, Failure> {
    let mut packed = Packed(packed);
    let mut entries = Vec::new();
    while !packed.0.is_empty() {
        entries.push(Entry {
            offset: u32::from_be_bytes(packed.array()?),
            account: i64::from_be_bytes(packed.array()?),
            amount: i64::from_be_bytes(packed.array()?),
            call: packed.bytes()?,
        });
    }
    Ok(entries)
}

//! Open holds, as stored: those that one transaction opens are a bundle.
//!
//! A hold is written and ended at every call, and read only when nobody settles it. A row for each, inserted and deleted, was a
//! third of what the writer did. A bundle has two rows: which of its holds are open, which is written again whenever some of
//! them end, and what they are, which is written once. When few are left of many, those alone are kept: a call that goes on
//! for long doesn't keep the place of a thousand.
//!
//! Until when a hold may last is not stored. Its own instance knows it in memory; others ask only whether that
//! instance lives.

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

/// A bundle with fewer holds than this is left as it is until the last of them ends.
const SPARSE_FROM: usize = 64;

/// What a transaction knows of bundles: each that it ends holds of is loaded once and written back once.
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

/// The holds of one transaction; their numbers follow each other.
struct Bundle {
    instance: u64,
    /// A byte for each: 1 while it is open.
    open: Vec<u8>,
    /// How many are written down.
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
    /// Room in which one of them is put together.
    call: Vec<u8>,
}

/// One hold of a bundle, as written down.
struct Entry<'a> {
    /// How many of the bundle's numbers are smaller.
    offset: u32,
    account: i64,
    amount: i64,
    call: &'a [u8],
}

impl Bundle {
    /// Where in the bundle a hold of this number stands.
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

    /// As at the beginning of a transaction.
    pub(super) fn clear(&mut self) {
        self.loaded.clear();
        self.opening.empty();
    }

    /// Opens a hold of the account with the row `account`. Its number follows that of the one before.
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

    /// Ends a hold, if it is still there.
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

    /// The bundle that the number belongs to, which is loaded.
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

    /// Writes down what was opened and what was ended.
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
                bundle.stored = left;
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

    /// Keeps those alone that are open; `false`: what there is can't be read, and stays.
    fn thin_out(&self, first: i64, bundle: &Bundle) -> Result<bool, Failure> {
        let Some(packed) = self.written(first)? else {
            return Ok(false);
        };
        let Ok(entries) = entries(&packed) else {
            return Ok(false);
        };
        let mut kept = Vec::new();
        for entry in entries {
            if bundle.is_open(usize::try_from(entry.offset).unwrap_or(usize::MAX)) {
                entry.write(&mut kept)?;
            }
        }
        self.connection
            .prepare_cached("UPDATE bundled SET holds = ? WHERE first = ?")?
            .execute(params![kept, first])?;
        Ok(true)
    }

    fn written(&self, first: i64) -> Result<Option<Vec<u8>>, Failure> {
        let mut select: CachedStatement<'_> = self
            .connection
            .prepare_cached("SELECT holds FROM bundled WHERE first = ?")?;
        Ok(select.query_row([first], |row| row.get(0)).optional()?)
    }

    /// The bundles of an instance, by their first holds.
    pub(super) fn of(&self, instance: u64, limit: i64) -> Result<Vec<i64>, Failure> {
        let mut look = self
            .connection
            .prepare_cached("SELECT first FROM bundle WHERE instance = ? ORDER BY first LIMIT ?")?;
        let firsts = look.query_map([instance.cast_signed(), limit], |row| row.get(0))?;
        Ok(firsts.collect::<Result<_, _>>()?)
    }

    /// The bundle that a hold is in, while it is open.
    pub(super) fn bundle_of(&mut self, id: HoldId) -> Result<Option<i64>, Failure> {
        if self.is_open(id)? {
            return self.first_of(id.number.cast_signed());
        }
        Ok(None)
    }

    /// Reads a bundle's open holds, with all that settles them, those that are `wanted` by their numbers. What can't be read is
    /// told of and left where it is: it must not stop everybody's writing.
    pub(super) fn read(
        &mut self,
        first: i64,
        wanted: impl Fn(u64) -> bool,
        holds: &mut Vec<Hold>,
    ) -> Result<(), Failure> {
        if self.first_of(first)?.is_none() {
            return Ok(());
        }
        let Some(bundle) = self.loaded.get(&first) else {
            return Ok(());
        };
        let packed = self.written(first)?.unwrap_or_default();
        let entries = match entries(&packed) {
            Ok(entries) => entries,
            Err(failure) => {
                tell_unreadable(&failure);
                return Ok(());
            }
        };
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
                Err(failure) => tell_unreadable(&failure),
            }
        }
        Ok(())
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

fn tell_unreadable(Failure(error): &Failure) {
    tracing::error!(target: "tollgate::sqlite", %error, "can't give a hold back");
}

impl Opening {
    fn empty(&mut self) {
        self.count = 0;
        self.packed.clear();
    }

    /// Whose hold of which number would be the next of this bundle.
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        domain::{
            books::Left,
            budget::Windows,
            clock::Timestamp,
            usage::{Call, Expiry},
        },
        store::sqlite::schema::STEPS,
    };

    fn file() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        for step in STEPS {
            connection.execute_batch(step).unwrap();
        }
        let account = "INSERT INTO account (number, id, deposited, settled, held)
             VALUES (4, 'ann', 0, 0, 0)";
        connection.execute(account, []).unwrap();
        connection
    }

    fn request(number: u64) -> HoldRequest {
        HoldRequest {
            call: Call {
                request_id: number.to_string().into(),
                principal: Arc::from("ann"),
                account: AccountId::new("ann").unwrap(),
                key: None,
                route: Arc::from("GET /"),
                started_at: Timestamp::UNIX_EPOCH,
            },
            budgets: [].into(),
            amount: Money::from_nanos(number.cast_signed()),
            lifetime: Duration::from_secs(1),
            expiry: Expiry::Release,
            idempotency: None,
        }
    }

    fn grant() -> Grant {
        Grant {
            windows: Windows { day: 1, month: 2 },
            left: Left::default(),
        }
    }

    fn id(instance: u64, number: u64) -> HoldId {
        HoldId { instance, number }
    }

    /// One transaction that opens `numbers` and ends `ended`.
    fn transaction(
        bundles: &mut Bundles<'_>,
        instance: u64,
        numbers: std::ops::Range<u64>,
        ended: impl IntoIterator<Item = u64>,
    ) {
        bundles.clear();
        for number in ended {
            assert!(bundles.end(id(instance, number)).unwrap(), "{number}");
            assert!(!bundles.end(id(instance, number)).unwrap(), "{number}");
        }
        for number in numbers {
            let request = request(number);
            bundles
                .open(id(instance, number), 4, &request, &grant())
                .unwrap();
        }
        bundles.write().unwrap();
        bundles.clear();
    }

    fn open_of(bundles: &mut Bundles<'_>, instance: u64) -> Vec<u64> {
        let mut holds = Vec::new();
        for first in bundles.of(instance, 100).unwrap() {
            bundles.read(first, |_| true, &mut holds).unwrap();
        }
        for hold in &holds {
            let number = hold.id.number;
            assert_eq!(
                *hold,
                Hold::granted(id(instance, number), request(number), grant())
            );
        }
        holds.iter().map(|hold| hold.id.number).collect()
    }

    fn rows(connection: &Connection) -> (i64, i64, i64) {
        let sizes = "SELECT (SELECT count(*) FROM bundle), (SELECT count(*) FROM bundled),
             (SELECT coalesce(sum(length(holds)), 0) FROM bundled)";
        let get = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        connection.query_row(sizes, [], get).unwrap()
    }

    #[test]
    fn a_hold_ends_once_and_only_its_own_instance_s() {
        let connection = file();
        let mut bundles = Bundles::prepare(&connection).unwrap();
        transaction(&mut bundles, 1, 5..8, []);
        transaction(&mut bundles, 2, 8..10, []);
        for stranger in [id(2, 5), id(1, 8), id(1, 4), id(1, 10), id(1, 1 << 63)] {
            assert!(!bundles.end(stranger).unwrap(), "{stranger}");
        }
        transaction(&mut bundles, 1, 0..0, [6]);
        assert_eq!(open_of(&mut bundles, 1), [5, 7]);
        assert_eq!(open_of(&mut bundles, 2), [8, 9]);
        transaction(&mut bundles, 1, 0..0, [5, 7]);
        transaction(&mut bundles, 2, 10..11, [9, 8]);
        assert_eq!(rows(&connection).0, 1);
        assert_eq!(open_of(&mut bundles, 2), [10]);
        assert!(!bundles.end(id(1, 7)).unwrap(), "its bundle is gone");
    }

    #[test]
    fn what_is_ended_and_undone_is_open() {
        let connection = file();
        let mut bundles = Bundles::prepare(&connection).unwrap();
        transaction(&mut bundles, 1, 1..3, []);
        assert!(bundles.end(id(1, 1)).unwrap());
        bundles.open(id(1, 3), 4, &request(3), &grant()).unwrap();
        bundles.clear();
        bundles.write().unwrap();
        assert_eq!(open_of(&mut bundles, 1), [1, 2]);
    }

    #[test]
    fn numbers_that_are_left_out_begin_another_bundle() {
        let connection = file();
        let mut bundles = Bundles::prepare(&connection).unwrap();
        for number in [1, 2, 9] {
            bundles
                .open(id(1, number), 4, &request(number), &grant())
                .unwrap();
        }
        bundles.write().unwrap();
        bundles.clear();
        assert_eq!(rows(&connection).0, 2);
        assert_eq!(open_of(&mut bundles, 1), [1, 2, 9]);
    }

    #[test]
    fn a_call_that_goes_on_for_long_does_not_keep_the_place_of_a_thousand() {
        let connection = file();
        let mut bundles = Bundles::prepare(&connection).unwrap();
        transaction(&mut bundles, 1, 1..1_001, []);
        let (_, _, whole) = rows(&connection);
        transaction(&mut bundles, 1, 0..0, 1..900);
        assert_eq!(open_of(&mut bundles, 1), (900..1_001).collect::<Vec<_>>());
        let (_, _, part) = rows(&connection);
        assert!(part < whole / 8, "{part} of {whole}");
        transaction(&mut bundles, 1, 0..0, 900..1_000);
        assert_eq!(open_of(&mut bundles, 1), [1_000]);
        assert!(rows(&connection).2 < 100);
        transaction(&mut bundles, 1, 0..0, [1_000]);
        assert_eq!(rows(&connection), (0, 0, 0));
    }

    #[test]
    fn what_can_not_be_read_stays_and_stops_nobody() {
        let connection = file();
        let mut bundles = Bundles::prepare(&connection).unwrap();
        transaction(&mut bundles, 1, 1..3, []);
        transaction(&mut bundles, 1, 3..5, []);
        let spoil = "UPDATE bundled SET holds = substr(holds, 1, 30) WHERE first = 1";
        connection.execute(spoil, []).unwrap();
        assert_eq!(open_of(&mut bundles, 1), [3, 4]);
        // Whose call it is the process that holds it knows.
        transaction(&mut bundles, 1, 0..0, [1]);
        assert!(bundles.is_open(id(1, 2)).unwrap());
    }
}

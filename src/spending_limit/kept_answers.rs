//! The answers kept for retries, within a memory limit, such that no account can crowd out the
//! others.
//!
//! This is not a cache like the one for keys: an answer is inserted once and requested once or
//! never, so nothing indicates which ones are worth keeping. An admission policy that prefers
//! frequently requested entries (TinyLFU) would leave a full cache as it is, and retries of new
//! calls would never find their answers. Here the newest answer is always admitted, and the account
//! that uses most loses its oldest answer, even if the newest is its own, but never the newest
//! itself.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use hashbrown::HashMap;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::{domain::AccountId, sync::lock};

/// The account, its idempotency key, and the fingerprint of the request.
pub(super) type AnswerKey = (AccountId, Arc<str>, [u8; 32]);

/// Approximate overhead per answer, and per header field, in bytes.
const ANSWER_OVERHEAD: usize = 1_024;
const FIELD_OVERHEAD: usize = 128;

/// How many expired answers are dropped with each insertion: more than one, so that they don't pile
/// up.
const DROPPED_AT_ONCE: usize = 4;

/// An answer that can be repeated.
pub(super) struct Answer {
    /// When the ledger may forget the key, on the monotonic clock; afterwards the key may name
    /// another call.
    pub(super) until: Duration,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The status of a gRPC call is in them.
    pub(super) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(super) fn new(
        until: Duration,
        status: StatusCode,
        headers: &HeaderMap,
        body: Vec<u8>,
        trailers: Option<&HeaderMap>,
    ) -> Self {
        Self {
            until,
            status,
            headers: deep_copy(headers),
            // Drops the vector's spare capacity.
            body: body.into_boxed_slice().into(),
            trailers: trailers.map(deep_copy),
        }
    }

    fn bytes(&self, key: &AnswerKey) -> u64 {
        let names = key.0.as_str().len().saturating_add(key.1.len());
        let bytes = ANSWER_OVERHEAD
            .saturating_add(bytes_of_fields(&self.headers))
            .saturating_add(self.trailers.as_ref().map_or(0, bytes_of_fields))
            .saturating_add(names)
            .saturating_add(self.body.len());
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// How long the names and values of fields are, in bytes.
pub(super) fn length_of_fields(fields: &HeaderMap) -> usize {
    let lengths = fields
        .iter()
        .map(|(name, value)| name.as_str().len().saturating_add(value.len()));
    lengths.fold(0, usize::saturating_add)
}

/// How much memory fields take.
fn bytes_of_fields(fields: &HeaderMap) -> usize {
    let overhead = fields.len().saturating_mul(FIELD_OVERHEAD);
    overhead.saturating_add(length_of_fields(fields))
}

/// A deep copy of the fields. Fields received over a connection are slices of its read buffer, and
/// a single one would keep the whole buffer alive.
fn deep_copy(headers: &HeaderMap) -> HeaderMap {
    let mut own = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let copy = HeaderValue::from_bytes(value.as_bytes());
        let mut copy = copy.unwrap_or_else(|_| value.clone());
        copy.set_sensitive(value.is_sensitive());
        let name =
            HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone());
        own.append(name, copy);
    }
    own
}

/// All kept answers.
pub(super) struct KeptAnswers {
    bytes_max: u64,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    answers: HashMap<AnswerKey, Kept>,
    /// By number, so oldest first.
    order: BTreeMap<u64, AnswerKey>,
    /// The accounts that have answers.
    shares: HashMap<AccountId, AccountShare>,
    /// Each account's size and the number of its oldest answer. The last entry uses most; among
    /// equals it has the oldest answer.
    by_size: BTreeSet<(u64, Reverse<u64>)>,
    bytes: u64,
    last_number: u64,
}

struct Kept {
    number: u64,
    bytes: u64,
    answer: Arc<Answer>,
}

#[derive(Default)]
struct AccountShare {
    bytes: u64,
    numbers: BTreeSet<u64>,
}

impl KeptAnswers {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    pub(super) fn find(&self, key: &AnswerKey, now: Duration) -> Option<Arc<Answer>> {
        let table = self.table();
        let answer = &table.answers.get(key)?.answer;
        (now < answer.until).then(|| Arc::clone(answer))
    }

    pub(super) fn forget(&self, key: &AnswerKey) {
        self.table().remove(key);
    }

    /// Keeps an answer, unless it alone exceeds the limit.
    pub(super) fn keep(&self, key: AnswerKey, answer: Answer, now: Duration) {
        let bytes = answer.bytes(&key);
        let mut table = self.table();
        table.remove(&key);
        table.drop_expired(now);
        if bytes > self.bytes_max {
            return;
        }
        let newest = table.put(key, bytes, answer);
        while table.bytes > self.bytes_max && table.make_room(newest) {}
    }
}

impl Table {
    /// Returns the number given to the answer.
    fn put(&mut self, key: AnswerKey, bytes: u64, answer: Answer) -> u64 {
        self.last_number = self.last_number.saturating_add(1);
        let number = self.last_number;
        self.bytes = self.bytes.saturating_add(bytes);
        self.resize(&key.0, |share| {
            share.bytes = share.bytes.saturating_add(bytes);
            share.numbers.insert(number);
        });
        self.order.insert(number, key.clone());
        let kept = Kept {
            number,
            bytes,
            answer: Arc::new(answer),
        };
        self.answers.insert(key, kept);
        number
    }

    fn remove(&mut self, key: &AnswerKey) {
        let Some(kept) = self.answers.remove(key) else {
            return;
        };
        self.order.remove(&kept.number);
        self.bytes = self.bytes.saturating_sub(kept.bytes);
        self.resize(&key.0, |share| {
            share.bytes = share.bytes.saturating_sub(kept.bytes);
            share.numbers.remove(&kept.number);
        });
    }

    fn resize(&mut self, account: &AccountId, change: impl FnOnce(&mut AccountShare)) {
        let mut share = self.shares.remove(account).unwrap_or_default();
        if let Some(oldest) = share.numbers.first() {
            self.by_size.remove(&(share.bytes, Reverse(*oldest)));
        }
        change(&mut share);
        if let Some(oldest) = share.numbers.first() {
            self.by_size.insert((share.bytes, Reverse(*oldest)));
            self.shares.insert(account.clone(), share);
        }
    }

    /// Drops the oldest answer of the account that uses most, or of the next account if that answer
    /// is the newest of all. `false` if there is none to drop.
    fn make_room(&mut self, newest: u64) -> bool {
        let oldest = self.by_size.iter().rev().map(|(_, oldest)| oldest.0);
        let oldest = oldest
            .filter(|number| *number != newest)
            .find_map(|number| self.order.get(&number).cloned());
        if let Some(key) = &oldest {
            self.remove(key);
        }
        oldest.is_some()
    }

    fn drop_expired(&mut self, now: Duration) {
        for _ in 0..DROPPED_AT_ONCE {
            let Some((_, oldest)) = self.order.first_key_value() else {
                return;
            };
            let until = self.answers.get(oldest).map(|kept| kept.answer.until);
            if until.is_some_and(|until| now < until) {
                return;
            }
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn key(account: &str, call: usize) -> AnswerKey {
        let account = AccountId::new(account).unwrap();
        (account, Arc::from(format!("call-{call:03}")), [0; 32])
    }

    fn answer(body: usize, until: Duration) -> Answer {
        let body = vec![b'x'; body];
        Answer::new(until, StatusCode::OK, &HeaderMap::new(), body, None)
    }

    fn is_kept(kept: &KeptAnswers, account: &str, call: usize) -> bool {
        kept.find(&key(account, call), Duration::ZERO).is_some()
    }

    #[test]
    fn the_newest_is_let_in_and_the_oldest_goes() {
        let kept = KeptAnswers::new(20_000);
        for call in 0..200 {
            kept.keep(key("ann", call), answer(1_000, DAY), Duration::ZERO);
            assert!(is_kept(&kept, "ann", call));
        }
        let left = (0..200).filter(|call| is_kept(&kept, "ann", *call)).count();
        assert!((8..=9).contains(&left), "{left}");
        assert!(!is_kept(&kept, "ann", 199 - left));
    }

    #[test]
    fn the_newest_is_let_in_whoever_calls_and_however_large_it_is() {
        let names: Vec<String> = (0..100).map(|number| format!("a{number:02}")).collect();
        let down = names.iter().rev();
        for names in [names.iter().collect::<Vec<_>>(), down.collect()] {
            let kept = KeptAnswers::new(20_000);
            for name in names {
                kept.keep(key(name, 0), answer(1_000, DAY), Duration::ZERO);
                assert!(is_kept(&kept, name, 0), "{name}");
            }
            let large = answer(15_000, DAY);
            kept.keep(key("a50", 1), large, Duration::ZERO);
            assert!(is_kept(&kept, "a50", 1));
            assert!(kept.table().answers.len() > 1);
        }
    }

    #[test]
    fn of_those_that_have_as_much_who_came_first_makes_room() {
        let kept = KeptAnswers::new(9_000);
        for name in ["cat", "ann", "dan", "bob", "eve"] {
            kept.keep(key(name, 0), answer(1_000, DAY), Duration::ZERO);
        }
        let left = ["cat", "ann", "dan", "bob", "eve"].map(|name| is_kept(&kept, name, 0));
        assert_eq!(left, [false, true, true, true, true]);
    }

    #[test]
    fn who_has_most_makes_room_for_the_others() {
        let kept = KeptAnswers::new(20_000);
        for call in 0..3 {
            kept.keep(key("bob", call), answer(1_000, DAY), Duration::ZERO);
        }
        for call in 0..200 {
            kept.keep(key("ann", call), answer(1_000, DAY), Duration::ZERO);
        }
        for call in 0..3 {
            assert!(is_kept(&kept, "bob", call));
        }
        kept.keep(key("ann", 200), answer(1_000_000, DAY), Duration::ZERO);
        assert!(is_kept(&kept, "ann", 199) && !is_kept(&kept, "ann", 200));
    }

    #[test]
    fn header_fields_take_room() {
        let mut headers = HeaderMap::new();
        for number in 0..100 {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            headers.insert(name, "v".repeat(100).parse().unwrap());
        }
        headers.insert("x-0", HeaderValue::from_bytes("é".as_bytes()).unwrap());
        let none = HeaderMap::new();
        for (head, trailers) in [(&headers, None), (&none, Some(&headers))] {
            let large = || Answer::new(DAY, StatusCode::OK, head, Vec::new(), trailers);
            assert_eq!(large().headers, *head);
            assert_eq!(large().trailers.as_ref(), trailers);
            let kept = KeptAnswers::new(30_000);
            kept.keep(key("ann", 0), large(), Duration::ZERO);
            kept.keep(key("ann", 1), large(), Duration::ZERO);
            assert!(!is_kept(&kept, "ann", 0) && is_kept(&kept, "ann", 1));
        }
    }

    #[test]
    fn what_is_over_is_neither_found_nor_kept() {
        let kept = KeptAnswers::new(1_000_000);
        for call in 0..4 {
            kept.keep(key("ann", call), answer(10, DAY), Duration::ZERO);
        }
        assert!(kept.find(&key("ann", 0), DAY).is_none());
        kept.keep(key("bob", 0), answer(10, DAY * 2), DAY);
        assert_eq!(kept.table().answers.len(), 1);
        assert_eq!(kept.table().shares.len(), 1);
    }

    proptest! {
        #[test]
        fn the_books_of_what_is_kept_are_right(steps in prop::collection::vec((0..4_usize, 0..6_usize, 0..6_000_usize, any::<bool>()), 1..80)) {
            let kept = KeptAnswers::new(12_000);
            for (account, call, body, forgets) in steps {
                let key = key(["ann", "bob", "cat", "dan"][account], call);
                if forgets {
                    kept.forget(&key);
                } else {
                    kept.keep(key.clone(), answer(body, DAY), Duration::ZERO);
                }
                prop_assert_eq!(kept.find(&key, Duration::ZERO).is_some(), !forgets);
                let table = kept.table();
                let bytes: u64 = table.answers.values().map(|kept| kept.bytes).sum();
                prop_assert!(bytes == table.bytes && bytes <= 12_000);
                prop_assert_eq!(table.order.len(), table.answers.len());
                prop_assert_eq!(table.by_size.len(), table.shares.len());
                prop_assert_eq!(table.shares.values().map(|share| share.bytes).sum::<u64>(), bytes);
            }
        }
    }
}

//! Bundles in a file of their own.

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
    for first in bundles.of(instance).unwrap() {
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
    let kept = "SELECT first, length(open), stored FROM bundle";
    let get = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let kept: (i64, i64, i64) = connection.query_row(kept, [], get).unwrap();
    assert_eq!(kept, (1_000, 1, 1));
    for ended in [1, 899, 900, 999, 1_001] {
        assert!(!bundles.end(id(1, ended)).unwrap(), "{ended}");
    }
    transaction(&mut bundles, 1, 0..0, [1_000]);
    assert_eq!(rows(&connection), (0, 0, 0));
}

#[test]
fn those_that_are_left_in_the_middle_keep_their_numbers() {
    let connection = file();
    let mut bundles = Bundles::prepare(&connection).unwrap();
    transaction(&mut bundles, 1, 10..110, []);
    transaction(&mut bundles, 1, 110..112, []);
    let left = [31, 40, 77];
    let ended = (10..110).filter(|number| !left.contains(number));
    transaction(&mut bundles, 1, 0..0, ended);
    assert_eq!(open_of(&mut bundles, 1), [31, 40, 77, 110, 111]);
    transaction(&mut bundles, 1, 0..0, [40, 111]);
    assert_eq!(open_of(&mut bundles, 1), [31, 77, 110]);
    for ended in [30, 32, 40, 78, 109, 111] {
        assert!(!bundles.end(id(1, ended)).unwrap(), "{ended}");
    }
    transaction(&mut bundles, 1, 0..0, [77, 31, 110]);
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
    // The process that has the hold knows whose call it is.
    transaction(&mut bundles, 1, 0..0, [1]);
    assert!(bundles.is_open(id(1, 2)).unwrap());
}

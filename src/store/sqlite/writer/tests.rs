//! A writer without a thread.

mod outage;

use std::sync::{
    atomic::Ordering,
    mpsc::{self, Sender},
};

use super::*;
use crate::{
    domain::{
        AccountId, KeyId,
        books::{LeaseId, LeaseStep, Served, StepKind},
        clock::{ManualClock, Timestamp},
        money::Money,
        usage::{Call, Expiry, Hold, HoldRequest, Outcome, Settlement},
    },
    store::{
        StoreErrorKind,
        sqlite::{
            SqliteStoreBuilder,
            command::{Granted, HoldCommand, RecordCommand, SettleCommand},
        },
    },
};

struct File {
    connection: Connection,
    settings: Arc<Settings>,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

impl File {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.db");
        let clock = Arc::new(ManualClock::default());
        let builder = SqliteStoreBuilder::new(path.clone()).with_clock(clock.clone());
        Self {
            connection: open::open_writer(&path).unwrap(),
            settings: Arc::new(builder.0),
            clock,
            _folder: folder,
        }
    }

    fn writer(&self) -> (Writer<'_>, Sender<Command>) {
        let (sender, queue) = mpsc::channel();
        let gauge = Arc::default();
        let answers = Answers::new(sender.clone(), Arc::clone(&gauge));
        let writer = Writer::new(
            &self.connection,
            &self.settings,
            queue,
            Arc::new(answers),
            gauge,
        );
        (writer.unwrap(), sender)
    }

    /// Another connection's change makes the cached pages stale.
    fn forget_pages(&self) {
        let other = Connection::open(&self.settings.path).unwrap();
        other
            .execute_batch("UPDATE log SET next = next + 1")
            .unwrap();
    }

    fn count(&self, what: &str) -> i64 {
        let get = |row: &rusqlite::Row<'_>| row.get(0);
        self.connection.query_row(what, [], get).unwrap()
    }
}

fn call() -> Call {
    Call {
        request_id: "request-1".into(),
        principal: Arc::from("ann"),
        account: AccountId::new("ann").unwrap(),
        key: None,
        route: Arc::from("GET /"),
        started_at: Timestamp::UNIX_EPOCH,
    }
}

fn completed() -> Settlement {
    Settlement::new(Money::ZERO, Outcome::Completed)
}

fn hold(writer: &mut Writer<'_>) -> Hold {
    hold_for(writer, Duration::MAX)
}

fn hold_for(writer: &mut Writer<'_>, lifetime: Duration) -> Hold {
    assert!(Gauge::enter(&writer.gauge.open_holds, 9));
    let (reply, mut answer) = oneshot::channel();
    let request = HoldRequest {
        call: call(),
        budgets: [].into(),
        amount: Money::ZERO,
        lifetime,
        expiry: Expiry::Release,
        idempotency: None,
    };
    let command = Command::Hold(Box::new(HoldCommand {
        request,
        granted: None,
        reply,
    }));
    assert!(writer.turn(&mut vec![command], Joining::Nobody));
    let granted = answer.try_recv().unwrap().unwrap();
    granted.ok().and_then(Granted::accept).unwrap()
}

#[test]
fn however_much_waits_a_closing_writer_writes_it_where_the_disk_works() {
    let file = File::new();
    let (mut writer, sender) = file.writer();
    let more_than_attempts = usize::try_from(CLOSING_ATTEMPTS + 2).unwrap();
    let mut answers = Vec::new();
    for _ in 0..BATCH_MAX * more_than_attempts {
        assert!(Gauge::enter(&writer.gauge.records, usize::MAX));
        let (reply, answer) = oneshot::channel();
        answers.push(answer);
        writer.again.push(Command::Record(Box::new(RecordCommand {
            call: call(),
            settlement: completed(),
            reply: Some(reply),
        })));
    }
    sender.send(Command::Close).unwrap();
    writer.serve();
    assert_eq!(writer.again.len(), 0);
    for mut answer in answers {
        answer.try_recv().unwrap().unwrap();
    }
}

#[test]
fn a_closing_writer_ends_where_the_disk_refuses_no_more_than_when_a_key_was_used() {
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let file = File::new();
        let (mut writer, sender) = file.writer();
        let key = KeyId::new("key-1").unwrap();
        let at = Timestamp::UNIX_EPOCH;
        assert!(Gauge::enter(&writer.gauge.queued, 1));
        sender.send(Command::Touch { key, at }).unwrap();
        sender.send(Command::Close).unwrap();
        let refuse = "PRAGMA query_only = ON";
        file.connection.execute_batch(refuse).unwrap();
        writer.serve();
        ended.send(writer.line.touched().len()).unwrap();
    });
    let lost = end.recv_timeout(Duration::from_secs(60));
    assert_eq!(lost, Ok(1), "it ends");
}

#[test]
fn who_closes_resolves_nothing_whose_settlement_waits() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    let [on_its_way, refused, left]: [Hold; 3] = std::array::from_fn(|_| hold(&mut writer));
    let ids = [&on_its_way, &refused, &left].map(|hold| hold.id);
    let _ticket = file.settings.settling.begin(on_its_way.id);
    let (reply, mut answer) = oneshot::channel();
    writer.again.push(Command::Settle(Box::new(SettleCommand {
        _on_its_way: Some(file.settings.settling.begin(refused.id)),
        hold: refused,
        settlement: completed(),
        reply: Some(reply),
    })));
    writer.leave();
    answer.try_recv().unwrap().unwrap();
    writer.unit.begin().unwrap();
    let is_open = ids.map(|id| writer.unit.bundles.is_open(id).unwrap());
    assert_eq!(is_open, [true, false, false]);
    // One as settled, the other as abandoned.
    assert_eq!(file.count("SELECT count(*) FROM usage"), 2);
    assert_eq!(file.count("SELECT count(DISTINCT outcome) FROM usage"), 2);
}

fn settle(writer: &mut Writer<'_>, hold: Hold) -> Result<(), StoreError> {
    let (reply, mut answer) = oneshot::channel();
    let command = Command::Settle(Box::new(SettleCommand {
        _on_its_way: Some(writer.unit.settings.settling.begin(hold.id)),
        hold,
        settlement: completed(),
        reply: Some(reply),
    }));
    writer.turn(&mut vec![command], Joining::Nobody);
    answer.try_recv().unwrap()
}

fn flush(writer: &mut Writer<'_>) -> Result<(), StoreError> {
    let (reply, mut answer) = oneshot::channel();
    writer.turn(&mut vec![Command::Flush(reply)], Joining::Nobody);
    answer.try_recv().unwrap()
}

#[test]
fn a_charge_that_cannot_be_written_is_told_of_kept_and_written_once_it_can_be() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    let (broken, whole) = (hold(&mut writer), hold(&mut writer));
    let id = broken.id;
    let refuse =
        "CREATE TRIGGER refuse BEFORE INSERT ON usage BEGIN SELECT RAISE(ABORT, 'no'); END";
    file.connection.execute_batch(refuse).unwrap();
    settle(&mut writer, broken).unwrap_err();
    assert!(flush(&mut writer).is_err());
    assert!(
        file.settings.settling.contains(id),
        "nobody gives it back meanwhile"
    );
    assert!(
        file.settings.damage.refuses().is_ok(),
        "the file is as it should be"
    );
    writer.apart_due = Duration::ZERO;
    writer.try_apart();
    assert_eq!(writer.apart.len(), 1);
    file.connection
        .execute_batch("DROP TRIGGER refuse")
        .unwrap();
    settle(&mut writer, whole).unwrap();
    writer.try_apart();
    assert_eq!(writer.apart.len(), 1, "it isn't time yet");
    writer.apart_due = Duration::ZERO;
    writer.try_apart();
    assert_eq!(writer.apart.len(), 0);
    flush(&mut writer).unwrap();
    assert_eq!(
        file.count("SELECT count(*) FROM usage WHERE outcome = 'completed'"),
        2
    );
    assert!(!file.settings.settling.contains(id));
    assert_eq!(writer.gauge.open_holds.load(Ordering::Relaxed), 0);
}

#[test]
fn what_cannot_be_written_to_the_end_is_given_up_then() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    let broken = hold(&mut writer);
    let refuse =
        "CREATE TRIGGER refuse BEFORE INSERT ON usage BEGIN SELECT RAISE(ABORT, 'no'); END";
    file.connection.execute_batch(refuse).unwrap();
    settle(&mut writer, broken).unwrap_err();
    writer.leave();
    assert!(writer.apart.is_empty());
}

#[test]
fn while_the_file_is_damaged_nothing_new_is_granted() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    let broken = hold(&mut writer);
    let (begin, before) = damage_usage(&file);
    settle(&mut writer, broken).unwrap_err();
    let refused = file.settings.damage.refuses().unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    overwrite(&file, begin, &before);
    writer.apart_due = Duration::ZERO;
    writer.try_apart();
    assert!(file.settings.damage.refuses().is_ok());
    assert_eq!(file.count("SELECT count(*) FROM usage"), 1);
}

#[test]
fn a_lease_that_cannot_report_shuts_a_damaged_file_until_it_can() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    let _held = hold(&mut writer);
    let instance = writer.unit.maintenance.instance();
    let step = LeaseStep {
        id: LeaseId {
            instance,
            number: 1,
        },
        kind: StepKind::Lease,
        number: 1,
        account: AccountId::new("ann").unwrap(),
        budgets: [].into(),
        expiry: Expiry::Release,
        served: vec![Served {
            call: call(),
            held: Money::ZERO,
            settlement: completed(),
        }],
        target: Money::ZERO,
        ends: false,
    };
    let report = |writer: &mut Writer<'_>| {
        let (reply, mut answer) = oneshot::channel();
        let step = step.clone();
        let work = move |unit: &mut UnitOfWork<'_>| unit.lease(&step).map(Ok);
        let booking = crate::store::sqlite::command::Booking::new(work, reply);
        let command = Command::Lease(Box::new(booking));
        writer.turn(&mut vec![command], Joining::Nobody);
        answer.try_recv().unwrap()
    };
    let (begin, before) = damage_usage(&file);
    report(&mut writer).unwrap_err();
    assert!(file.settings.damage.refuses().is_err());
    writer.try_apart();
    assert!(file.settings.damage.refuses().is_err(), "a moment later");
    overwrite(&file, begin, &before);
    report(&mut writer).unwrap();
    file.clock.advance(Duration::from_secs(5));
    writer.try_apart();
    assert!(file.settings.damage.refuses().is_ok());
    assert_eq!(file.count("SELECT count(*) FROM usage"), 1);
}

/// Makes the usage log unreadable. Returns where, and the original bytes.
fn damage_usage(file: &File) -> (u64, Vec<u8>) {
    file.count("PRAGMA wal_checkpoint(TRUNCATE)");
    let page = file.count("SELECT rootpage FROM sqlite_schema WHERE name = 'usage'");
    let size = file.count("PRAGMA page_size");
    let begin = u64::try_from(page.saturating_sub(1).saturating_mul(size)).unwrap();
    let garbage = vec![0xA5; usize::try_from(size).unwrap()];
    (begin, overwrite(file, begin, &garbage))
}

/// Returns the original bytes.
fn overwrite(file: &File, begin: u64, bytes: &[u8]) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let path = &file.settings.path;
    let opened = std::fs::File::options().read(true).write(true).open(path);
    let opened = opened.unwrap();
    let mut before = vec![0; bytes.len()];
    opened.read_exact_at(&mut before, begin).unwrap();
    opened.write_all_at(bytes, begin).unwrap();
    file.forget_pages();
    before
}

#[test]
fn a_hold_that_is_gone_takes_no_place_of_its_account() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    let gone = hold_for(&mut writer, Hold::LIFETIME_MIN);
    let number = file.count("SELECT number FROM account");
    assert_eq!(writer.unit.maintenance.open_of(number, false), 1);
    file.connection
        .execute_batch("DELETE FROM bundle; DELETE FROM bundled")
        .unwrap();
    file.clock.advance(Duration::from_secs(2));
    writer.turn(&mut Vec::new(), Joining::Nobody);
    assert_eq!(writer.unit.maintenance.open_of(number, false), 0);
    assert_eq!(writer.gauge.open_holds.load(Ordering::Relaxed), 0);
    settle(&mut writer, gone).unwrap();
    assert_eq!(writer.gauge.open_holds.load(Ordering::Relaxed), 0);
}

#[test]
fn an_extension_that_the_disk_refuses_keeps_its_hold_until_it_is_written() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    let held = hold_for(&mut writer, Duration::from_secs(60));
    let extend = |lifetime| {
        let (reply, answer) = oneshot::channel();
        let on_its_way = file.settings.settling.begin(held.id);
        let id = held.id;
        let work = move |unit: &mut UnitOfWork<'_>| {
            let _waiting = &on_its_way;
            unit.extend(id, lifetime).map(Ok)
        };
        let job = Box::new(crate::store::sqlite::command::Booking::new(work, reply));
        (Command::Extend { hold: id, job }, answer)
    };
    let (first, mut superseded) = extend(Duration::from_secs(60));
    let (second, mut written) = extend(Duration::from_secs(60));
    let full = StoreError::new(StoreErrorKind::Unavailable, "full");
    writer.fail(&mut vec![first], &full.clone().into());
    writer.fail(&mut vec![second], &full.into());
    assert_eq!(writer.again.len(), 1);
    assert!(superseded.try_recv().unwrap().is_err());
    // It expires, and cleaning up runs before it can be written.
    file.clock.advance(Duration::from_secs(61));
    writer.turn(&mut Vec::new(), Joining::Nobody);
    let mut again = mem::take(&mut writer.again);
    assert!(writer.turn(&mut again, Joining::Nobody));
    assert!(written.try_recv().unwrap().unwrap());
    file.clock.advance(Duration::from_secs(59));
    writer.turn(&mut Vec::new(), Joining::Nobody);
    settle(&mut writer, held).unwrap();
    assert_eq!(
        file.count("SELECT count(*) FROM usage WHERE outcome = 'completed'"),
        1
    );
}

fn record(writer: &Writer<'_>) -> (Command, oneshot::Receiver<Result<(), StoreError>>) {
    assert!(Gauge::enter(&writer.gauge.records, usize::MAX));
    let (reply, answer) = oneshot::channel();
    let command = Command::Record(Box::new(RecordCommand {
        call: call(),
        settlement: completed(),
        reply: Some(reply),
    }));
    (command, answer)
}

#[test]
fn nobody_waits_for_an_answer_because_another_has_the_lock() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    writer.answers.of_this_writer();
    let (mut batch, answers): (Vec<_>, Vec<_>) = (0..20).map(|_| record(&writer)).unzip();
    assert!(writer.turn(&mut batch, Joining::Nobody));
    let other = Connection::open(&file.settings.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let other = std::thread::spawn(move || {
        for answer in answers {
            answer.blocking_recv().unwrap().unwrap();
        }
        other.execute_batch("COMMIT").unwrap();
    });
    writer.unit.begin().unwrap();
    other.join().unwrap();
}

#[test]
fn whoever_is_answered_answers_others_and_nobody_depends_on_that() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    let (mut batch, mut answers): (Vec<_>, Vec<_>) = (0..20).map(|_| record(&writer)).unzip();
    assert!(writer.turn(&mut batch, Joining::Nobody));
    let mut answered = || {
        answers.retain_mut(|answer| answer.try_recv().is_err());
        20 - answers.len()
    };
    let woken = answered();
    assert!((1..20).contains(&woken), "{woken}");
    writer.answers.help();
    let helped = answered();
    assert!((woken + 1..20).contains(&helped), "{helped}");
    // Before the next commit.
    let (next, _next) = record(&writer);
    writer
        .transaction(&mut vec![next], Joining::Nobody)
        .unwrap();
    assert_eq!(answered(), 20);
    assert_eq!(writer.gauge.records.load(Ordering::Relaxed), 1);
}

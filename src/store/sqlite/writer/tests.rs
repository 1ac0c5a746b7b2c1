//! A writer without a thread of its own.

use std::sync::mpsc;

use super::*;
use crate::{
    domain::{
        AccountId,
        clock::Timestamp,
        money::Money,
        usage::{Call, Expiry, HoldRequest, Outcome, Settlement},
    },
    store::sqlite::SqliteStoreBuilder,
};

struct File {
    connection: Connection,
    settings: Arc<Settings>,
    _folder: tempfile::TempDir,
}

impl File {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tollgate.db");
        Self {
            connection: open::open_writer(&path).unwrap(),
            settings: Arc::new(SqliteStoreBuilder::new(path).0),
            _folder: folder,
        }
    }

    fn writer(&self) -> (Writer<'_>, Sender<Command>) {
        let (sender, queue) = mpsc::channel();
        let gauge = Arc::default();
        let writer = Writer::new(
            &self.connection,
            &self.settings,
            queue,
            sender.clone(),
            gauge,
        );
        (writer.unwrap(), sender)
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
    assert!(Gauge::enter(&writer.gauge.open_holds, 9));
    let (reply, mut answer) = oneshot::channel();
    let request = HoldRequest {
        call: call(),
        budgets: [].into(),
        amount: Money::ZERO,
        lifetime: Duration::MAX,
        expiry: Expiry::Release,
        idempotency: None,
    };
    let command = Command::Hold {
        request,
        granted: None,
        reply,
    };
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
        writer.again.push(Command::Record {
            call: call(),
            settlement: completed(),
            reply,
        });
    }
    sender.send(Command::Close).unwrap();
    writer.serve();
    assert_eq!(writer.again.len(), 0);
    for mut answer in answers {
        answer.try_recv().unwrap().unwrap();
    }
}

#[test]
fn who_closes_resolves_nothing_whose_settlement_waits() {
    let file = File::new();
    let (mut writer, _sender) = file.writer();
    let [on_its_way, refused, left]: [Hold; 3] = std::array::from_fn(|_| hold(&mut writer));
    let ids = [&on_its_way, &refused, &left].map(|hold| hold.id);
    let _ticket = file.settings.settling.begin(on_its_way.id);
    let (reply, mut answer) = oneshot::channel();
    writer.again.push(Command::Settle {
        _on_its_way: Some(file.settings.settling.begin(refused.id)),
        hold: refused,
        settlement: completed(),
        reply: Some(reply),
    });
    writer.leave();
    answer.try_recv().unwrap().unwrap();
    writer.unit.begin().unwrap();
    let is_open = ids.map(|id| writer.unit.bundles.is_open(id).unwrap());
    assert_eq!(is_open, [true, false, false]);
    // The one as it was settled, the other as abandoned.
    assert_eq!(file.count("SELECT count(*) FROM usage"), 2);
    assert_eq!(file.count("SELECT count(DISTINCT outcome) FROM usage"), 2);
}

//! `kill -9` under load, again and again: what was answered is there, once, and nothing stays held.
//! Clients are killed on one SQLite file, one PostgreSQL and one Redis, and with a lease in hand;
//! and Redis itself is, under its clients.
//!
//! `KILLS=100` sets how often.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails ends"
)]

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use tollgate::{
    clock::{Clock, ManualClock, SystemClock},
    money::Money,
    store::{AccountId, BudgetId, Ledger, Page, SqliteStore, StoreError},
    usage::{Call, Credit, Expiry, HoldRequest, Idempotency, Outcome, Settlement, UsageEntry},
};

mod on_leases;
#[cfg(feature = "postgres")]
mod on_postgres;
#[cfg(feature = "redis")]
mod on_redis;

/// The file, or the address of a server, and which life it is.
const PLACE: &str = "TOLLGATE_KILLS_PLACE";
const LIFE: &str = "TOLLGATE_KILLS_LIFE";

const ACCOUNTS: u64 = 4;
const CALLERS: u64 = 32;
const PAYMENT: i64 = 1_000;

/// How long lives are at least: a server answers later than a file.
const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_millis(300);

fn account(number: u64) -> AccountId {
    AccountId::new(&format!("account-{}", number % ACCOUNTS)).unwrap()
}

fn key() -> BudgetId {
    BudgetId::new("key-1").unwrap()
}

/// Said as soon as the store has answered, in one piece.
fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").unwrap();
}

fn request(caller: u64, name: &str, round: u64) -> HoldRequest {
    HoldRequest {
        call: Call {
            request_id: name.into(),
            account: account(caller),
            principal: Arc::from("somebody"),
            key: None,
            route: Arc::from("POST /chat"),
            started_at: ManualClock::default().now(),
        },
        budgets: key().into(),
        amount: Money::from_nanos(10),
        lifetime: Duration::from_secs(600),
        expiry: Expiry::Release,
        idempotency: round.is_multiple_of(3).then(|| Idempotency {
            key: Arc::from(name),
            fingerprint: [7; 32],
            keep_for: Duration::from_secs(600),
        }),
    }
}

fn payment(caller: u64, name: &str) -> Credit {
    Credit {
        account: account(caller),
        amount: Money::from_nanos(PAYMENT),
        reference: format!("payment-{name}"),
    }
}

async fn call<S: Ledger>(store: &S, caller: u64, name: &str, round: u64) {
    let hold = match store.hold(request(caller, name, round)).await {
        Ok(Ok(hold)) => hold,
        Ok(Err(_)) => {
            if told(&store.credit(payment(caller, name)).await) {
                say(&format!("paid {}", account(caller)));
            }
            return;
        }
        failed => {
            told(&failed);
            return tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if round % 16 == 5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let cost = i64::try_from(round % 13).unwrap();
    let settlement = Settlement::new(Money::from_nanos(cost), Outcome::Completed);
    if told(&store.settle(hold, settlement).await) {
        say(&format!("charged {name} {cost}"));
    }
}

fn told<T>(answer: &Result<T, StoreError>) -> bool {
    if let Err(error) = answer {
        say(&format!("failed {error}"));
    }
    answer.is_ok()
}

/// No test: the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_calls_until_it_is_killed() {
    let (Ok(place), Ok(life)) = (std::env::var(PLACE), std::env::var(LIFE)) else {
        return;
    };
    #[cfg(feature = "redis")]
    if place.starts_with("redis:") {
        call_until_killed(on_redis::open(&place).await, &life).await;
    }
    #[cfg(feature = "postgres")]
    if place.starts_with("postgres:") {
        call_until_killed(on_postgres::open(&place).await, &life).await;
    }
    if let Some(place) = place.strip_prefix("leased:") {
        call_until_killed(on_leases::open(place).await, &life).await;
    }
    call_until_killed(SqliteStore::open(place).await.unwrap(), &life).await;
}

async fn call_until_killed<S: Ledger + Clone>(store: S, life: &str) {
    say("\nopen");
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (store, life) = (store.clone(), life.to_owned());
            tokio::spawn(async move {
                for round in 0_u64.. {
                    call(&store, caller, &format!("{life}-{caller}-{round}"), round).await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

/// What one life was answered, to the last whole line.
#[derive(Default)]
struct Answered {
    /// What was charged, and when that was heard.
    charged: HashMap<String, (i64, Duration)>,
    paid: HashMap<String, i64>,
    /// Holds that it granted itself, from leases.
    leased: u64,
    failures: usize,
    died: Option<Duration>,
}

/// A process that calls, and what is heard of it.
struct Caller {
    process: Child,
    hearing: JoinHandle<Answered>,
}

/// Comes back when its store is open.
fn begin(place: &str, life: u64) -> Caller {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "child_that_calls_until_it_is_killed",
            "--exact",
            "--nocapture",
        ])
        .env(PLACE, place)
        .env(LIFE, life.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (is_open, opened) = mpsc::channel();
    let hearing = std::thread::spawn(move || {
        let (mut answered, mut line) = (Answered::default(), String::new());
        loop {
            line.clear();
            // What was cut off by the death of its writer has no end, and was not said.
            if output.read_line(&mut line).unwrap() == 0 || !line.ends_with('\n') {
                return answered;
            }
            match line.trim_end().split(' ').collect::<Vec<_>>()[..] {
                ["open"] => is_open.send(()).unwrap(),
                ["charged", name, cost] => {
                    let cost = cost.parse().unwrap();
                    let heard = (cost, SystemClock.elapsed());
                    assert!(answered.charged.insert(name.to_owned(), heard).is_none());
                }
                ["paid", account] => {
                    *answered.paid.entry(account.to_owned()).or_default() += PAYMENT
                }
                ["leased", holds] => answered.leased = holds.parse().unwrap(),
                ["failed", ..] => answered.failures += 1,
                _ => {}
            }
        }
    });
    opened.recv_timeout(Duration::from_secs(60)).unwrap();
    Caller {
        process: child,
        hearing,
    }
}

impl Caller {
    /// What it was answered in its life.
    fn kill(mut self) -> Answered {
        let died = Some(SystemClock.elapsed());
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        Answered {
            died,
            ..self.hearing.join().unwrap()
        }
    }
}

/// One that lives for at least so long; each is cut at another moment of its batches.
fn live_and_die(place: &str, life: u64, at_least: Duration) -> Answered {
    let caller = begin(place, life);
    std::thread::sleep(at_least + Duration::from_micros(life * 7_919 % 150_000));
    caller.kill()
}

/// The rows of the log that came since `seen`, newest first.
async fn rows_since<S: Ledger>(store: &S, account: &AccountId, seen: u64) -> Vec<UsageEntry> {
    let (mut page, mut rows) = (Page::first(1_000), Vec::new());
    loop {
        let part = store.usage(account, page).await.unwrap();
        let next = part.next_cursor;
        let fresh = part.items.into_iter().take_while(|row| row.position > seen);
        let before = rows.len();
        rows.extend(fresh);
        match next {
            Some(cursor) if rows.len() > before => page = Page::first(1_000).after(cursor),
            _ => return rows,
        }
    }
}

#[derive(Default)]
struct Books {
    seen: u64,
    settled: i64,
    deposited: i64,
    answered: usize,
    abandoned: usize,
    /// Of those: heard of late, and charged all the same.
    late: usize,
}

fn all_books() -> Vec<Books> {
    (0..ACCOUNTS).map(|_| Books::default()).collect()
}

/// What is in the books after a life, and was told in it. What is left in `answered` isn't there.
async fn check<S: Ledger>(store: &S, life: u64, answered: &mut Answered, books: &mut [Books]) {
    let own = format!("{life}-");
    for (number, books) in (0..).zip(books) {
        let account = account(number);
        let balance = store.balance(&account).await.unwrap();
        assert_eq!(balance.held, Money::ZERO, "left over by life {life}");
        let rows = rows_since(store, &account, books.seen).await;
        books.seen = rows.first().map_or(books.seen, |row| row.position);
        let (mut settled, mut abandoned) = (HashSet::new(), HashSet::new());
        for row in rows {
            let name = row.call.request_id.to_string();
            assert!(name.starts_with(&own), "{name} came in life {life}");
            let charged = row.settlement.charged.nanos();
            books.settled += charged;
            if row.settlement.outcome == Outcome::Abandoned {
                assert_eq!(charged, 0);
                assert!(abandoned.insert(name));
                continue;
            }
            if let Some((said, _)) = answered.charged.remove(&name) {
                books.answered += 1;
                assert_eq!(charged, said, "{name}");
            }
            assert!(settled.insert(name.clone()), "{name} is there twice");
        }
        for name in &abandoned {
            let is_lost = answered.charged.contains_key(name);
            assert!(!is_lost, "{name} was answered, given back and not charged");
        }
        books.abandoned += abandoned.len();
        books.late += abandoned.intersection(&settled).count();
        assert_eq!(balance.settled.nanos(), books.settled, "the log's sum");
        let spent = store.budget(&account, &key()).await.unwrap();
        assert_eq!(spent.total.settled, balance.settled);
        assert_eq!(spent.total.held, Money::ZERO);
        let paid = answered.paid.remove(account.as_str()).unwrap_or_default();
        let deposited = balance.deposited.nanos();
        assert!(deposited >= books.deposited + paid, "a payment was lost");
        assert_eq!(deposited % PAYMENT, 0);
        books.deposited = deposited;
        assert_eq!(
            balance.deposited.nanos(),
            balance.available().nanos() + balance.settled.nanos()
        );
    }
}

/// What else was answered is there; but a node with leases has the last to itself.
fn nothing_is_lost(life: u64, answered: &Answered, kept_back: Option<Duration>) {
    let died = answered.died.unwrap();
    let is_lost = |heard: Duration| kept_back.is_none_or(|time| heard + time < died);
    let missing = answered.charged.iter();
    let lost = missing.filter(|(_, (_, heard))| is_lost(*heard));
    let lost: Vec<_> = lost.map(|(name, _)| name).collect();
    assert!(
        lost.is_empty(),
        "answered and lost in life {life}: {lost:?}"
    );
}

fn kills(unless_set: u64) -> u64 {
    std::env::var("KILLS").map_or(unless_set, |kills| kills.parse().unwrap())
}

/// Kills one client after the other, each at its own moment, and looks at what `open` finds then.
async fn kill_clients<S: Ledger + Clone, T>(
    place: &str,
    (kills, at_least): (u64, Duration),
    kept_back: Option<Duration>,
    open: impl AsyncFn(Arc<ManualClock>) -> S,
    close: impl AsyncFn(S) -> T,
) {
    let (mut books, mut leased) = (all_books(), 0);
    for life in 0..kills {
        let place = place.to_owned();
        let lived = tokio::task::spawn_blocking(move || live_and_die(&place, life, at_least));
        let mut answered = lived.await.unwrap();
        let clock = Arc::new(ManualClock::default());
        let store = open(clock.clone()).await;
        for _ in 0..8 {
            clock.advance(Duration::from_secs(1));
            store.flush().await.unwrap();
        }
        check(&store, life, &mut answered, &mut books).await;
        nothing_is_lost(life, &answered, kept_back);
        assert_eq!(answered.failures, 0);
        leased += answered.leased;
        close(store).await;
    }
    assert_eq!(leased > 0, kept_back.is_some());
    let answered: usize = books.iter().map(|books| books.answered).sum();
    let abandoned: usize = books.iter().map(|books| books.abandoned).sum();
    eprintln!("{kills} kills: {answered} answered settlements, {abandoned} holds given back");
    assert!(answered > 0 && abandoned > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_once_after_each_of_many_kills() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.db");
    let open = async |clock: Arc<ManualClock>| {
        let builder = SqliteStore::builder(&path).with_clock(clock);
        builder.open().await.unwrap()
    };
    let close = async |store: SqliteStore| store.close().await.unwrap();
    kill_clients(
        path.to_str().unwrap(),
        (kills(20), SHORT),
        None,
        open,
        close,
    )
    .await;
}

//! `kill -9` under load, again and again: what was answered is there, once, and nothing stays held. Clients
//! are killed on one SQLite file and on one Redis; and Redis itself is, under its clients.
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
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use tollgate::{
    clock::{Clock, ManualClock},
    money::Money,
    store::{AccountId, BudgetId, Ledger, Page, SqliteStore},
    usage::{Call, Credit, Expiry, HoldRequest, Idempotency, Outcome, Settlement, UsageEntry},
};

#[cfg(feature = "redis")]
mod on_redis;

/// The file or the address of a Redis, and which life it is.
const PLACE: &str = "TOLLGATE_KILLS_PLACE";
const LIFE: &str = "TOLLGATE_KILLS_LIFE";

const ACCOUNTS: u64 = 4;
const CALLERS: u64 = 32;
const PAYMENT: i64 = 1_000;

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
            request_id: Arc::from(name),
            account: account(caller),
            principal: Arc::from("somebody"),
            key: None,
            route: Arc::from("POST /chat"),
            started_at: ManualClock::default().now(),
        },
        budgets: Arc::from([key()]),
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
    let request = request(caller, name, round);
    let Ok(hold) = store.hold(request).await.unwrap() else {
        store.credit(payment(caller, name)).await.unwrap();
        say(&format!("paid {}", account(caller)));
        return;
    };
    if round % 16 == 5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let cost = i64::try_from(round % 13).unwrap();
    let settlement = Settlement::new(Money::from_nanos(cost), Outcome::Completed);
    store.settle(hold, settlement).await.unwrap();
    say(&format!("charged {name} {cost}"));
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
    charged: HashMap<String, i64>,
    paid: HashMap<String, i64>,
}

fn live_and_die(place: &str, life: u64) -> Answered {
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
    let reading = std::thread::spawn(move || {
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
                    assert!(answered.charged.insert(name.to_owned(), cost).is_none());
                }
                ["paid", account] => {
                    *answered.paid.entry(account.to_owned()).or_default() += PAYMENT
                }
                _ => {}
            }
        }
    });
    opened.recv_timeout(Duration::from_secs(60)).unwrap();
    // Every life is cut at another moment of its batches.
    std::thread::sleep(Duration::from_micros(20_000 + life * 7_919 % 150_000));
    child.kill().unwrap();
    child.wait().unwrap();
    reading.join().unwrap()
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
}

async fn check<S: Ledger>(
    (store, clock): (&S, &ManualClock),
    life: u64,
    answered: &mut Answered,
    books: &mut [Books],
) {
    for _ in 0..8 {
        clock.advance(Duration::from_secs(1));
        store.flush().await.unwrap();
    }
    let own = format!("{life}-");
    for (number, books) in (0..).zip(books) {
        let account = account(number);
        let balance = store.balance(&account).await.unwrap();
        assert_eq!(balance.held, Money::ZERO, "left over by life {life}");
        let rows = rows_since(store, &account, books.seen).await;
        books.seen = rows.first().map_or(books.seen, |row| row.position);
        let mut names = std::collections::HashSet::new();
        for row in rows {
            let name = row.call.request_id.to_string();
            assert!(name.starts_with(&own), "{name} came in life {life}");
            assert!(names.insert(name.clone()), "{name} is there twice");
            let charged = row.settlement.charged.nanos();
            books.settled += charged;
            if row.settlement.outcome == Outcome::Abandoned {
                books.abandoned += 1;
                assert_eq!(charged, 0);
                assert!(!answered.charged.contains_key(&name), "{name} was answered");
            } else if let Some(said) = answered.charged.remove(&name) {
                books.answered += 1;
                assert_eq!(charged, said, "{name}");
            }
        }
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
    let lost: Vec<_> = answered.charged.keys().collect();
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
    kills: u64,
    open: impl AsyncFn(Arc<ManualClock>) -> S,
    close: impl AsyncFn(S) -> T,
) {
    let mut books: Vec<Books> = (0..ACCOUNTS).map(|_| Books::default()).collect();
    for life in 0..kills {
        let place = place.to_owned();
        let lived = tokio::task::spawn_blocking(move || live_and_die(&place, life));
        let mut answered = lived.await.unwrap();
        let clock = Arc::new(ManualClock::default());
        let store = open(clock.clone()).await;
        check((&store, &clock), life, &mut answered, &mut books).await;
        close(store).await;
    }
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
    kill_clients(path.to_str().unwrap(), kills(20), open, close).await;
}

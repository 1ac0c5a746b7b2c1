//! The engines, and what laws say often.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tollgate::{
    books::HoldRefusal,
    budget::SpendingAlert,
    clock::{Clock, ManualClock, Timestamp},
    money::Money,
    store::{
        AccountId, AuditLog, BudgetId, KeyStore, Ledger, MemoryRateLimiter, MemoryStore, Page,
        SessionStore, StoreError, UserStore,
    },
    usage::{Call, Credit, Expiry, Hold, HoldRequest, Outcome, Settlement, UsageEntry},
};

/// An engine that keeps everything.
pub(crate) trait Engine:
    AuditLog + KeyStore + UserStore + SessionStore + LedgerEngine
{
}

impl<S: AuditLog + KeyStore + UserStore + SessionStore + LedgerEngine> Engine for S {}

/// One that keeps money, and perhaps nothing else.
pub(crate) trait LedgerEngine: Ledger + Clone {}

impl<S: Ledger + Clone> LedgerEngine for S {}

pub(crate) trait Sessions: SessionStore + Clone {}

impl<S: SessionStore + Clone> Sessions for S {}

pub(crate) type Time = Arc<ManualClock>;

/// How many holds an account may have open in every engine of the laws.
pub(crate) const OPEN_HOLDS_MAX: usize = 1_024;

/// What the engines of all laws told of soft limits.
static ALERTS: Mutex<Vec<SpendingAlert>> = Mutex::new(Vec::new());

pub(crate) fn note_alert(alert: &SpendingAlert) {
    ALERTS.lock().unwrap().push(alert.clone());
}

/// What was told of an account, whose name no other law has.
pub(crate) fn alerts(account: &AccountId) -> Vec<SpendingAlert> {
    let all = ALERTS.lock().unwrap();
    let own = all.iter().filter(|alert| alert.account == *account);
    own.cloned().collect()
}

/// An account of this run of a law alone.
pub(crate) fn own_account() -> AccountId {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    account(&format!("account-{run}"))
}

pub(crate) fn memory() -> (MemoryStore, Time) {
    let clock = Time::default();
    let store = MemoryStore::builder()
        .with_clock(clock.clone())
        .open_holds_per_account_max(OPEN_HOLDS_MAX)
        .on_alert(note_alert)
        .build();
    (store, clock)
}

pub(crate) fn memory_rates() -> (MemoryRateLimiter, Time) {
    let clock = Time::default();
    (MemoryRateLimiter::new(10_000, clock.clone()), clock)
}

#[cfg(feature = "sqlite")]
pub(crate) async fn sqlite(folder: &std::path::Path) -> (tollgate::store::SqliteStore, Time) {
    let clock = Time::default();
    let store = tollgate::store::SqliteStore::builder(folder.join("tollgate.db"))
        .with_clock(clock.clone())
        .open_holds_per_account_max(OPEN_HOLDS_MAX)
        .on_alert(note_alert)
        .open()
        .await
        .unwrap();
    (store, clock)
}

/// A store in a database of its own; `None` where there is no PostgreSQL.
#[cfg(feature = "postgres")]
pub(crate) async fn postgres() -> Option<(tollgate::store::PostgresStore, Time)> {
    let options = crate::postgres_server::database().await?;
    Some(postgres_on(options).await)
}

/// The same in another schema than the usual one.
#[cfg(feature = "postgres")]
pub(crate) async fn postgres_elsewhere() -> Option<(tollgate::store::PostgresStore, Time)> {
    let options = crate::postgres_server::database().await?;
    Some(postgres_in("elsewhere_2", options).await)
}

#[cfg(feature = "postgres")]
pub(crate) async fn postgres_on(
    options: sqlx::postgres::PgConnectOptions,
) -> (tollgate::store::PostgresStore, Time) {
    postgres_in("tollgate", options).await
}

#[cfg(feature = "postgres")]
pub(crate) async fn postgres_in(
    schema: &str,
    options: sqlx::postgres::PgConnectOptions,
) -> (tollgate::store::PostgresStore, Time) {
    let clock = Time::default();
    let pool = crate::postgres_server::pool(options, 6).await;
    let store = tollgate::store::PostgresStore::builder(pool)
        .schema(schema)
        .with_clock(clock.clone())
        .open_holds_per_account_max(OPEN_HOLDS_MAX)
        .on_alert(note_alert)
        .open()
        .await
        .unwrap();
    (store, clock)
}

/// A ledger on a server of its own, which ends with the guard; `None` where there is no Redis.
#[cfg(feature = "redis")]
pub(crate) async fn redis() -> Option<(
    tollgate::store::RedisLedger,
    Time,
    crate::redis_server::RedisServer,
)> {
    let server = crate::redis_server::RedisServer::start()?;
    let (ledger, clock) = redis_on(&server.url()).await;
    Some((ledger, clock, server))
}

#[cfg(feature = "redis")]
pub(crate) async fn redis_on(url: &str) -> (tollgate::store::RedisLedger, Time) {
    let clock = Time::default();
    let open = || {
        let builder = tollgate::store::RedisLedger::builder(url)
            .with_clock(clock.clone())
            .open_holds_per_account_max(OPEN_HOLDS_MAX)
            .on_alert(note_alert);
        // A machine that is busy is no law's business: nor that connecting takes half a second.
        builder.deadline(Duration::from_secs(20)).open()
    };
    let mut ledger = open().await;
    for _ in 0..10 {
        if ledger.is_ok() {
            break;
        }
        ledger = open().await;
    }
    (ledger.unwrap(), clock)
}

pub(crate) fn now() -> Timestamp {
    ManualClock::default().now()
}

pub(crate) fn later(secs: i64) -> Timestamp {
    now() + Duration::from_secs(secs.try_into().unwrap())
}

pub(crate) fn account(name: &str) -> AccountId {
    AccountId::new(name).unwrap()
}

pub(crate) fn budget(name: &str) -> BudgetId {
    BudgetId::new(name).unwrap()
}

pub(crate) fn nanos(nanos: i64) -> Money {
    Money::from_nanos(nanos)
}

pub(crate) fn call(account: &AccountId, request_id: &str) -> Call {
    Call {
        request_id: request_id.into(),
        account: account.clone(),
        principal: Arc::from(account.as_str()),
        key: None,
        route: Arc::from("POST /v1/chat/completions"),
        started_at: now(),
    }
}

pub(crate) fn request(account: &AccountId, budgets: &[BudgetId], amount: i64) -> HoldRequest {
    HoldRequest {
        call: call(account, "request-1"),
        budgets: budgets.into(),
        amount: nanos(amount),
        lifetime: Duration::from_secs(60),
        expiry: Expiry::Release,
        idempotency: None,
    }
}

pub(crate) fn costs(charged: i64) -> Settlement {
    Settlement {
        status: Some(200),
        latency: Duration::from_millis(7),
        ..Settlement::new(nanos(charged), Outcome::Completed)
    }
}

pub(crate) async fn pay<S: Ledger>(store: &S, account: &AccountId, amount: i64) {
    let credit = Credit {
        account: account.clone(),
        amount: nanos(amount),
        reference: format!("{}-{amount}", account.as_str()),
    };
    store.credit(credit).await.unwrap();
}

pub(crate) async fn hold<S: Ledger>(
    store: &S,
    account: &AccountId,
    budgets: &[BudgetId],
    amount: i64,
) -> Result<Hold, HoldRefusal> {
    store.hold(request(account, budgets, amount)).await.unwrap()
}

/// A second hold of the same name, as no caller can get one.
pub(crate) fn forged(hold: &Hold) -> Hold {
    Hold {
        id: hold.id,
        call: hold.call.clone(),
        budgets: hold.budgets.clone(),
        amount: hold.amount,
        windows: hold.windows,
        left: hold.left,
        expiry: hold.expiry,
        idempotency_key: hold.idempotency_key.clone(),
    }
}

pub(crate) async fn usage<S: Ledger>(store: &S, account: &AccountId) -> Vec<UsageEntry> {
    let mut page = Page::first(1_000);
    let mut rows = Vec::new();
    loop {
        let part = store.usage(account, page).await.unwrap();
        rows.extend(part.items);
        match part.next_cursor {
            None => return rows,
            Some(cursor) => page = Page::first(1_000).after(cursor),
        }
    }
}

/// Deposits are what was paid; what is charged is what the log says; what is held is what is open.
pub(crate) async fn balances<S: Ledger>(store: &S, account: &AccountId, deposited: i64, held: i64) {
    let balance = store.balance(account).await.unwrap();
    let charged: i64 = usage(store, account)
        .await
        .iter()
        .map(|row| row.settlement.charged.nanos())
        .sum();
    assert_eq!(
        balance.settled.nanos(),
        charged,
        "the log and the books differ"
    );
    assert_eq!(balance.held.nanos(), held);
    assert_eq!(balance.deposited.nanos(), deposited);
    assert_eq!(
        balance.deposited.nanos(),
        balance.available().nanos() + balance.held.nanos() + balance.settled.nanos()
    );
    let page = Page::first(1_000);
    let moved = store.transactions(account, page).await.unwrap();
    if moved.next_cursor.is_none() {
        let sum: i64 = moved.items.iter().map(|moved| moved.amount.nanos()).sum();
        assert_eq!(sum, deposited - charged, "payments less charges");
    }
}

pub(crate) fn kind<T: std::fmt::Debug>(
    answer: Result<T, StoreError>,
) -> tollgate::store::StoreErrorKind {
    answer.unwrap_err().kind()
}

/// A store, and what must outlive it; `None` where its server is missing.
pub(crate) mod alone {
    use tempfile::TempDir;
    use tollgate::store::{FileKeyStore, MemoryStore};

    pub(crate) async fn memory() -> Option<(MemoryStore, ())> {
        Some((super::memory().0, ()))
    }

    pub(crate) async fn file() -> Option<(FileKeyStore, TempDir)> {
        let folder = tempfile::tempdir().unwrap();
        let store = FileKeyStore::builder(folder.path().join("keys.json"))
            .with_clock(super::Time::default())
            .build();
        Some((store, folder))
    }

    #[cfg(feature = "sqlite")]
    pub(crate) async fn sqlite() -> Option<(tollgate::store::SqliteStore, TempDir)> {
        let folder = tempfile::tempdir().unwrap();
        let store = super::sqlite(folder.path()).await.0;
        Some((store, folder))
    }

    #[cfg(feature = "postgres")]
    pub(crate) async fn postgres() -> Option<(tollgate::store::PostgresStore, ())> {
        Some((super::postgres().await?.0, ()))
    }

    #[cfg(feature = "postgres")]
    pub(crate) async fn postgres_elsewhere() -> Option<(tollgate::store::PostgresStore, ())> {
        Some((super::postgres_elsewhere().await?.0, ()))
    }

    #[cfg(feature = "redis")]
    pub(crate) async fn redis() -> Option<(
        tollgate::store::RedisSessions,
        crate::redis_server::RedisServer,
    )> {
        let server = crate::redis_server::RedisServer::start()?;
        Some((crate::redis_sessions::on(&server).await, server))
    }

    #[cfg(feature = "redis-cluster")]
    pub(crate) async fn redis_cluster() -> Option<(
        tollgate::store::RedisSessions,
        crate::redis_server::RedisServer,
    )> {
        let server = crate::redis_sessions::cluster_of_one()?;
        Some((crate::redis_sessions::on_cluster(&server).await, server))
    }
}

//! A master, its replica, and three sentinels that put one in the place of the other.

use super::{credentials::order_as, *};
use crate::{
    domain::{
        AccountId, SessionId, UserId,
        clock::{Clock, ManualClock},
        money::Money,
        usage::Credit,
        user::SessionRecord,
    },
    store::{Ledger, RedisInvalidations, RedisLedger, RedisSessions, SessionStore},
};

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

struct Watched {
    master: RedisServer,
    replica: RedisServer,
    sentinels: Vec<RedisServer>,
}

impl Watched {
    async fn start() -> Option<Self> {
        let master = RedisServer::start()?;
        let port = master.port().to_string();
        let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port])?;
        while !says(&replica, &["INFO", "replication"], "master_link_status:up").await {
            tokio::time::sleep(PAUSE).await;
        }
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(RedisServer::start_sentinel(&master)?);
        }
        for sentinel in &sentinels {
            let known = "slaves=1,sentinels=3";
            while !says(sentinel, &["INFO", "sentinel"], known).await {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Some(Self {
            master,
            replica,
            sentinels,
        })
    }

    /// The first address leads nowhere.
    fn client(&self, master: &str) -> RedisClient {
        let urls: Vec<_> = self.sentinels.iter().map(RedisServer::url).collect();
        let urls = urls.iter().map(String::as_str);
        RedisClient::sentinel(master, ["redis://127.0.0.1:1/"].into_iter().chain(urls))
    }
}

async fn says(server: &RedisServer, words: &[&str], text: &str) -> bool {
    order_as::<String>(server, "", words).await.contains(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_master_kept_its_successor_goes_on_with() {
    let Some(mut watched) = Watched::start().await else {
        return;
    };
    let client = watched.client("redis://main/2");
    let limiter = RedisRateLimiter::builder(&client)
        .deadline(Duration::from_secs(1))
        .degraded(Degraded::closed())
        .build()
        .unwrap();
    limiter.connect().await.unwrap();
    let sessions = RedisSessions::builder(&client).build().unwrap();
    let ledger = RedisLedger::open(&client).await.unwrap();
    let news = RedisInvalidations::builder(&client).build().unwrap();

    let quotas = Quotas::from(Quota::per_hour(100));
    limiter.take(&key("ann"), &quotas, 1).await.unwrap();
    let now = ManualClock::default().now();
    let (id, user) = (SessionId::new("s").unwrap(), UserId::new("u").unwrap());
    let session = SessionRecord::new(id.clone(), user, now, now.checked_add(PATIENCE).unwrap());
    assert!(sessions.open_session(session, None, 10).await.unwrap());
    let ann = AccountId::new("ann").unwrap();
    let credit = Credit {
        account: ann.clone(),
        amount: Money::from_dollars(5).unwrap(),
        reference: "paid".to_owned(),
    };
    ledger.credit(credit).await.unwrap();
    let copied: u32 = order_as(&watched.master, "", &["WAIT", "1", "20000"]).await;
    assert_eq!(copied, 1);

    watched.master.kill();
    assert!(limiter.take(&key("ann"), &quotas, 1).await.is_err());
    let goes_on = async {
        let taken = loop {
            match limiter.take(&key("ann"), &quotas, 1).await {
                Ok(taken) => break taken,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        assert_eq!(taken.readings.remaining(), 98, "it had heard of the first");
        while sessions.session(&id).await.is_err()
            || ledger.balance(&ann).await.is_err()
            || !news.is_connected()
        {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, goes_on).await.unwrap();
    assert!(sessions.session(&id).await.unwrap().is_some());
    let balance = ledger.balance(&ann).await.unwrap();
    assert_eq!(balance.deposited, Money::from_dollars(5).unwrap());
    assert!(says(&watched.replica, &["INFO", "replication"], "role:master").await);
}

#[tokio::test]
async fn sentinels_that_know_no_such_master_lead_nowhere() {
    let Some(master) = RedisServer::start() else {
        return;
    };
    let Some(sentinel) = RedisServer::start_sentinel(&master) else {
        return;
    };
    let error = async |name: &str| {
        let client = RedisClient::sentinel(name, [sentinel.url().as_str()]);
        let limiter = RedisRateLimiter::builder(client).build().unwrap();
        let error = limiter.connect().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        format!("{error} {error:?}")
    };
    let told = error("redis://:secret@other/").await;
    assert!(
        told.contains("no master") && !told.contains("secret"),
        "{told}"
    );
    // One that was cut off may name a server that is none any more.
    order(&master, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let told = error("redis://main/").await;
    assert!(told.contains("replica"), "{told}");
}

//! Logins, and change notifications about them, on a cluster of three servers.

use std::sync::{Mutex, Weak};

use super::{cluster::Nodes, *};
use crate::{
    domain::{
        SessionId, UserId,
        clock::{Clock, ManualClock, Timestamp},
        user::{RefreshExchange, RefreshOutcome, SessionRecord},
    },
    store::{
        Change, ChangeListener, Invalidations, RedisInvalidations, RedisSessions, SessionStore,
    },
};

const MINUTE: Duration = Duration::from_secs(60);

fn now() -> Timestamp {
    ManualClock::default().now()
}

fn session(name: &str, user: &str) -> SessionRecord {
    let (id, user) = (SessionId::new(name).unwrap(), UserId::new(user).unwrap());
    SessionRecord::new(id, user, now(), now().checked_add(MINUTE).unwrap())
}

fn exchange(user: &str, generation: u64) -> RefreshExchange {
    RefreshExchange {
        user: UserId::new(user).unwrap(),
        generation,
        at: now(),
        lifetime: MINUTE,
        login_lifetime_max: MINUTE,
        grace: Duration::ZERO,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_logins_as_one_server_does_also_while_they_move() {
    let Some(nodes) = Nodes::start().await else {
        return;
    };
    let store = || {
        let builder = RedisSessions::builder(nodes.client()).deadline(Duration::from_secs(20));
        builder.build().unwrap()
    };
    let (here, there) = (store(), store());
    here.connect().await.unwrap();
    there.connect().await.unwrap();
    for number in 0..30 {
        let (ann, bob) = (format!("a{number}"), format!("b{number}"));
        assert!(
            here.open_session(session(&ann, "ann"), None, 1_000)
                .await
                .unwrap()
        );
        assert!(
            here.open_session(session(&bob, "bob"), None, 1_000)
                .await
                .unwrap()
        );
    }
    let id = SessionId::new("a7").unwrap();
    assert_eq!(
        there.session(&id).await.unwrap().unwrap(),
        session("a7", "ann")
    );
    let exchanged = there.exchange_refresh(&id, exchange("ann", 0)).await;
    assert!(matches!(exchanged.unwrap(), RefreshOutcome::Exchanged(_)));
    // Moves all of them to another node.
    let name = "tollgate:{logins}:login:a7";
    let (from, to) = nodes.of(name).await;
    nodes.migrate(name, from, to).await;
    // A command that is never resent isn't sent to the login's new node; nor is the login lost.
    let mut reused = here.exchange_refresh(&id, exchange("ann", 0)).await;
    if reused.is_err() {
        reused = here.exchange_refresh(&id, exchange("ann", 0)).await;
    }
    assert!(matches!(reused.unwrap(), RefreshOutcome::Reused));
    let ann = UserId::new("ann").unwrap();
    assert_eq!(
        there.open_sessions_of(&ann, now(), 99).await.unwrap().len(),
        29
    );
    let mut ended = there.end_sessions_of(&ann, now()).await;
    if ended.is_err() {
        ended = there.end_sessions_of(&ann, now()).await;
    }
    assert_eq!(ended.unwrap(), 29);
    assert_eq!(here.open_sessions_of(&ann, now(), 99).await.unwrap(), []);
    let bob = UserId::new("bob").unwrap();
    assert_eq!(
        here.open_sessions_of(&bob, now(), 99).await.unwrap().len(),
        30
    );
}

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<Change>>);

impl Heard {
    async fn hears(&self, change: &Change) {
        let heard = async {
            while !self.0.lock().unwrap().contains(change) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(20), heard);
        heard.await.expect("it is heard");
    }
}

impl ChangeListener for Heard {
    fn changed(&self, change: &Change) {
        self.0.lock().unwrap().push(change.clone());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_is_told_is_heard_at_every_other_and_when_it_is_gone() {
    let Some(mut nodes) = Nodes::start().await else {
        return;
    };
    let urls = nodes.urls();
    let news = |first: usize| {
        let urls = urls.iter().cycle().skip(first).take(3);
        let builder = RedisInvalidations::builder(RedisClient::cluster(urls.map(String::as_str)));
        builder.build().unwrap()
    };
    let (one, another) = (news(0), news(1));
    let heard = Arc::new(Heard::default());
    let listener: Weak<Heard> = Arc::downgrade(&heard);
    another.subscribe(listener);
    let change = |name: &str| Change::Session(SessionId::new(name).unwrap());
    while !(one.is_connected() && another.is_connected()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    one.changed(&change("first"));
    heard.hears(&change("first")).await;
    nodes.kill(0);
    while one.is_connected() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    one.changed(&change("second"));
    heard.hears(&change("second")).await;
    assert!(
        RedisInvalidations::builder(RedisClient::cluster([]))
            .build()
            .is_err()
    );
}

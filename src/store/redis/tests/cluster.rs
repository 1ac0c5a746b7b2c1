//! Against three servers that are a cluster.

#![expect(clippy::arithmetic_side_effects, reason = "numbers in tests are small")]

use std::num::NonZeroU32;

use super::*;

const SLOTS: u16 = 16_384;

pub(in crate::store::redis) struct Nodes(Vec<RedisServer>);

impl Nodes {
    pub(in crate::store::redis) async fn start() -> Option<Self> {
        let arguments = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            "--cluster-config-file",
            "nodes.conf",
        ];
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(RedisServer::start_with(&arguments)?);
        }
        let nodes = Self(nodes);
        nodes.join().await;
        Some(nodes)
    }

    async fn say<T: redis::FromRedisValue>(node: &RedisServer, words: &[&str]) -> T {
        let client = Client::open(node.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let (verb, arguments) = words.split_first().unwrap();
        let mut command = redis::cmd(verb);
        command.arg(arguments);
        command.query_async(&mut connection).await.unwrap()
    }

    /// A third of the slots for each, and every node knows every other.
    async fn join(&self) {
        let mut first = 0;
        for (number, node) in (1_u16..).zip(&self.0) {
            let end = SLOTS * number / 3;
            let slots: Vec<_> = (first..end).map(|slot| slot.to_string()).collect();
            let mut words = vec!["CLUSTER", "ADDSLOTS"];
            words.extend(slots.iter().map(String::as_str));
            Self::say::<()>(node, &words).await;
            let epoch = number.to_string();
            Self::say::<()>(node, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
            let port = self.0[0].port().to_string();
            Self::say::<()>(node, &["CLUSTER", "MEET", "127.0.0.1", &port]).await;
            first = end;
        }
        for node in &self.0 {
            for _ in 0..1_000 {
                let info: String = Self::say(node, &["CLUSTER", "INFO"]).await;
                if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub(in crate::store::redis) fn urls(&self) -> Vec<String> {
        self.0.iter().map(RedisServer::url).collect()
    }

    pub(in crate::store::redis) fn client(&self) -> RedisClient {
        let urls = self.urls();
        RedisClient::cluster(urls.iter().map(String::as_str))
    }

    fn limiter(&self) -> RedisRateLimiterBuilder {
        RedisRateLimiter::builder(self.client()).deadline(Duration::from_secs(20))
    }

    /// The node that keeps a key, and another one.
    pub(super) async fn of(&self, name: &str) -> (&RedisServer, &RedisServer) {
        let mut keeps = Vec::new();
        for node in &self.0 {
            let names: Vec<String> = Self::say(node, &["KEYS", "*"]).await;
            keeps.push(names.iter().any(|known| known == name));
        }
        let at = keeps.iter().position(|keeps| *keeps).expect("it is kept");
        (&self.0[at], &self.0[(at + 1) % 3])
    }

    pub(super) fn kill(&mut self, node: usize) {
        self.0[node].kill();
    }

    /// Moves the slot of a key, with all its content, from one node to the other.
    pub(super) async fn migrate(&self, name: &str, from: &RedisServer, to: &RedisServer) {
        let slot: u16 = Self::say(from, &["CLUSTER", "KEYSLOT", name]).await;
        let slot = slot.to_string();
        let source: String = Self::say(from, &["CLUSTER", "MYID"]).await;
        let target: String = Self::say(to, &["CLUSTER", "MYID"]).await;
        let set = ["CLUSTER", "SETSLOT", &slot];
        Self::say::<()>(to, &[&set[..], &["IMPORTING", &source]].concat()).await;
        Self::say::<()>(from, &[&set[..], &["MIGRATING", &target]].concat()).await;
        let port = to.port().to_string();
        let inside = ["CLUSTER", "GETKEYSINSLOT", &slot, "10000"];
        let inside: Vec<String> = Self::say(from, &inside).await;
        for name in inside {
            let migrate = ["MIGRATE", "127.0.0.1", &port, &name, "0", "5000"];
            Self::say::<()>(from, &migrate).await;
        }
        for node in [to, from] {
            Self::say::<()>(node, &[&set[..], &["NODE", &target]].concat()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_counts_as_one_server_does_also_while_keys_move() {
    let Some(nodes) = Nodes::start().await else {
        return;
    };
    let limiter = nodes.limiter().degraded(Degraded::closed());
    let limiter = limiter.build().unwrap();
    limiter.connect().await.unwrap();
    let remote = limiter.0.remote();
    let quotas = Quotas::from([
        Quota::per_hour(3),
        Quota::calendar(CalendarPeriod::Month, 9),
    ]);
    for number in 0..40 {
        let key = key(&format!("{number}"));
        for remaining in (0..3).rev() {
            let decision = remote.take(&key, &quotas, 1).await.unwrap();
            assert_eq!(decision.readings.remaining(), remaining);
        }
        assert!(!remote.take(&key, &quotas, 1).await.unwrap().is_admitted());
        if number % 2 == 0 {
            remote.reset(&key).await.unwrap();
            assert_eq!(left(&remote.peek(&key, &quotas).await.unwrap()), [3, 9]);
        }
    }
    let now = remote.take(&key("1"), &quotas, 0).await.unwrap();
    let name = remote.name(&key("1"));
    let (from, to) = nodes.of(&name).await;
    nodes.migrate(&name, from, to).await;
    // A command that is never resent isn't sent to the key's new node either, and affects nobody
    // else.
    let mut given_back = 0;
    for _ in 0..2 {
        let correction = Correction {
            units: -1,
            taken_at: now.taken_at,
            readings: now.readings.clone(),
        };
        let corrected = limiter.correct(&key("1"), &quotas, correction).await;
        given_back += u32::from(corrected.is_ok());
    }
    assert!(given_back < 2, "the first met a key that had moved");
    assert!(!limiter.is_degraded());
    assert_eq!(
        left(&remote.peek(&key("1"), &quotas).await.unwrap()),
        [given_back, 6 + given_back]
    );
    assert_eq!(
        nodes.of(&name).await.0.port(),
        to.port(),
        "it is kept elsewhere"
    );
    // Each node has its own scripts.
    for node in &nodes.0 {
        Nodes::say::<()>(node, &["SCRIPT", "FLUSH"]).await;
    }
    for number in [0, 2, 4, 6, 8] {
        assert!(admits(&limiter, &format!("{number}"), &quotas).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_not_whole_is_gone_and_each_process_has_its_share() {
    let Some(mut nodes) = Nodes::start().await else {
        return;
    };
    let two = NonZeroU32::new(2).unwrap();
    let limiter = nodes.limiter().degraded(Degraded::local(two));
    let limiter = limiter.deadline(Duration::from_millis(200)).build();
    let limiter = limiter.unwrap();
    limiter.connect().await.unwrap();
    let quotas = Quotas::from(Quota::per_hour(10));
    nodes.0[0].kill();
    let mut admitted = 0;
    for _ in 0..20 {
        for name in 0..30 {
            let decision = limiter.take(&key(&format!("{name}")), &quotas, 1).await;
            admitted += u32::from(decision.unwrap().is_admitted());
        }
    }
    assert!(limiter.is_degraded(), "{:?}", limiter.statistics());
    // At most all of the quota, counted first by the nodes and then by this process.
    assert!((150..=300).contains(&admitted), "{admitted}");
}

#[tokio::test]
async fn an_address_that_is_none_is_refused() {
    let built = RedisRateLimiter::builder(RedisClient::cluster([
        "redis://127.0.0.1:1/",
        "http://user:secret@host/",
    ]));
    let error = built.build().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Refused);
    assert!(!format!("{error:?}").contains("secret"));
}

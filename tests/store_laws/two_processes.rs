//! Two processes for real: the time from the answer to a revocation in one to the first refusal in
//! the other, and the race for one refresh token.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use tollgate::clock::{Clock, SystemClock, Timestamp};

/// What a child process is to do; without it, it is no child.
const ROLE: &str = "TOLLGATE_TWO_ROLE";

struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(role: &str, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["two_processes::child", "--exact", "--nocapture"])
            .env(ROLE, role)
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    #[cfg(feature = "redis")]
    fn go(&mut self) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(b"go\n").unwrap();
    }

    /// Waits for the line that begins so, and returns its rest.
    fn says(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "the process ended before it said {word}");
            if let Some(rest) = line.trim_end().strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }

    fn says_when(&mut self, word: &str) -> Timestamp {
        self.says(word).parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "\n{line}").unwrap();
}

fn say_now(word: &str) {
    say(&format!("{word} {}", SystemClock.now()));
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap()
}

/// No test: a process of a test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    match role.as_str() {
        #[cfg(feature = "postgres")]
        "serves" => on_postgres::serve().await,
        #[cfg(feature = "postgres")]
        "revokes" => on_postgres::revoke().await,
        #[cfg(feature = "redis")]
        "refreshes" => on_redis::refresh().await,
        role => panic!("nobody plays {role}"),
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use http::{Request, Response, StatusCode};
    use sqlx::{PgPool, postgres::PgConnectOptions};
    use tollgate::{
        ApiKeyLayer,
        key::KeyFormat,
        keyring::{KeyResolver, Keyring, NewKey},
        store::{KeyId, PostgresStore},
    };
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::postgres_server::{database, options, pool};

    const SOCKET: &str = "TOLLGATE_TWO_SOCKET";
    const DATABASE: &str = "TOLLGATE_TWO_DATABASE";
    const KEY: &str = "TOLLGATE_TWO_KEY";
    const ID: &str = "TOLLGATE_TWO_ID";
    const TTL_MS: &str = "TOLLGATE_TWO_TTL_MS";
    const FOLLOWS: &str = "TOLLGATE_TWO_FOLLOWS";

    fn format() -> KeyFormat {
        KeyFormat::builder("ps").build().unwrap()
    }

    async fn store() -> PostgresStore {
        let place = options(setting(SOCKET).as_ref(), &setting(DATABASE));
        let store = PostgresStore::builder(pool(place, 3).await).open();
        store.await.unwrap()
    }

    /// Says when a key was first let in, and when first not.
    pub(super) async fn serve() {
        let store = store().await;
        let ttl = Duration::from_millis(setting(TTL_MS).parse().unwrap());
        let keys = KeyResolver::builder(store.clone())
            .add_format(format())
            .ttl(ttl)
            .build();
        if setting(FOLLOWS) == "yes" {
            keys.follow(&store);
        }
        let hello = service_fn(async |_: Request<()>| {
            Ok::<_, std::convert::Infallible>(Response::new(String::new()))
        });
        let service = ApiKeyLayer::new(keys).layer(hello);
        let key = setting(KEY);
        let ask = async || {
            let request = Request::builder()
                .header("x-api-key", &key)
                .body(())
                .unwrap();
            service.clone().oneshot(request).await.unwrap().status()
        };
        assert_eq!(ask().await, StatusCode::OK);
        say_now("admitted");
        loop {
            match ask().await {
                StatusCode::OK => tokio::time::sleep(Duration::from_millis(1)).await,
                status => {
                    assert_eq!(status, StatusCode::UNAUTHORIZED);
                    say_now("refused");
                    return;
                }
            }
        }
    }

    /// Says when it was answered that a key is revoked.
    pub(super) async fn revoke() {
        let store = store().await;
        let resolver = KeyResolver::builder(store.clone()).build();
        let ring = Keyring::new(store, format(), resolver);
        let id = KeyId::new(&setting(ID)).unwrap();
        ring.revoke("ann", &id).await.unwrap();
        say_now("revoked");
    }

    struct Stage {
        place: PgConnectOptions,
        pool: PgPool,
        key: String,
        id: String,
    }

    impl Stage {
        async fn new() -> Option<Self> {
            let place = database().await?;
            let pool = pool(place.clone(), 3).await;
            let store = PostgresStore::builder(pool.clone()).open().await.unwrap();
            let resolver = KeyResolver::builder(store.clone())
                .add_format(format())
                .build();
            let ring = Keyring::new(store, format(), resolver);
            let (key, record) = ring.create("ann", NewKey::default()).await.unwrap();
            Some(Self {
                place,
                pool,
                key: key.expose().to_owned(),
                id: record.id.to_string(),
            })
        }

        fn start(&self, role: &str, ttl: Duration, follows: &str) -> Process {
            let socket = self.place.get_socket().unwrap().to_str().unwrap();
            let settings = [
                (SOCKET, socket),
                (DATABASE, self.place.get_database().unwrap()),
                (KEY, &self.key),
                (ID, &self.id),
                (TTL_MS, &ttl.as_millis().to_string()),
                (FOLLOWS, follows),
            ];
            Process::start(role, &settings)
        }

        async fn listeners(&self) -> i64 {
            let listening = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND query LIKE 'LISTEN%'";
            sqlx::query_scalar(listening)
                .fetch_one(&self.pool)
                .await
                .unwrap()
        }

        /// From the answer to the refusal.
        async fn revoked(&self, server: Process, ttl: Duration) -> Duration {
            let other = self.start("revokes", ttl, "no");
            let (mut server, mut other) = (server, other);
            let both = tokio::task::spawn_blocking(move || {
                (other.says_when("revoked"), server.says_when("refused"))
            });
            let (revoked, refused) = both.await.unwrap();
            // A refusal may be seen before the answer has arrived.
            refused
                .duration_since(revoked)
                .try_into()
                .unwrap_or_default()
        }
    }

    async fn admits(mut server: Process) -> Process {
        let waiting = tokio::task::spawn_blocking(move || {
            server.says("admitted");
            server
        });
        waiting.await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_key_that_one_process_revokes_is_refused_by_the_other_within_a_second() {
        let Some(stage) = Stage::new().await else {
            return;
        };
        let ttl = Duration::from_secs(3_600);
        let server = admits(stage.start("serves", ttl, "yes")).await;
        while stage.listeners().await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let took = stage.revoked(server, ttl).await;
        println!("revoked in one process, refused in the other: {took:?} later");
        assert!(took < Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_the_push_channel_cut_again_and_again_it_is_refused_within_the_ttl() {
        let Some(stage) = Stage::new().await else {
            return;
        };
        let ttl = Duration::from_secs(2);
        let server = admits(stage.start("serves", ttl, "yes")).await;
        let pool = stage.pool.clone();
        let cutting = tokio::spawn(async move {
            let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND query LIKE 'LISTEN%'";
            loop {
                sqlx::query(cut).execute(&pool).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let took = stage.revoked(server, ttl).await;
        cutting.abort();
        println!("with the channel cut: {took:?} later");
        assert!(took < ttl + Duration::from_millis(500), "{took:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_a_push_channel_it_is_refused_within_the_ttl() {
        let Some(stage) = Stage::new().await else {
            return;
        };
        let ttl = Duration::from_secs(2);
        let server = admits(stage.start("serves", ttl, "no")).await;
        let took = stage.revoked(server, ttl).await;
        println!("without a channel, and a ttl of {ttl:?}: {took:?} later");
        assert!(took < ttl + Duration::from_millis(500), "{took:?}");
    }
}

#[cfg(feature = "redis")]
mod on_redis {
    use tollgate::{
        store::{RedisSessions, SessionStore},
        user::RefreshOutcome,
    };

    use super::*;
    use crate::{
        engines::now,
        redis_server::RedisServer,
        sessions::{exchange, session, session_id},
    };

    const URL: &str = "TOLLGATE_TWO_REDIS";

    async fn store(url: &str) -> RedisSessions {
        let sessions = RedisSessions::builder(url)
            .deadline(Duration::from_secs(20))
            .build();
        let sessions = sessions.unwrap();
        sessions.connect().await.unwrap();
        sessions
    }

    /// Says how often it won.
    pub(super) async fn refresh() {
        let store = store(&setting(URL)).await;
        say("ready");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        let id = session_id("s1");
        let attempts = (0..500).map(|_| store.exchange_refresh(&id, exchange(0, now())));
        let outcomes = futures_util::future::join_all(attempts.collect::<Vec<_>>()).await;
        let won = outcomes
            .into_iter()
            .filter(|outcome| matches!(outcome, Ok(RefreshOutcome::Exchanged(_))));
        say(&format!("won {}", won.count()));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_a_thousand_refreshes_in_two_processes_one_wins() {
        let Some(server) = RedisServer::start() else {
            return;
        };
        let store = store(&server.url()).await;
        store
            .open_session(session("s1", "ann"), None, 1_000)
            .await
            .unwrap();
        let url = server.url();
        let racing = tokio::task::spawn_blocking(move || {
            let start = || Process::start("refreshes", &[(URL, &url)]);
            let mut both = [start(), start()];
            both.iter_mut()
                .for_each(|process| drop(process.says("ready")));
            both.iter_mut().for_each(Process::go);
            both.map(|mut process| process.says("won").parse::<u64>().unwrap())
        });
        let won = racing.await.unwrap();
        assert_eq!(won.iter().sum::<u64>(), 1, "{won:?}");
        let stored = store.session(&session_id("s1")).await.unwrap().unwrap();
        assert!(stored.ended_at.is_some(), "and the next ended it");
    }
}

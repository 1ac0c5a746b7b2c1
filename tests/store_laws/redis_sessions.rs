//! What Redis alone must do with logins: let them leave, be away, and stand beside users of another
//! store.

use std::{sync::Arc, time::Duration};

use tollgate::{
    clock::Clock,
    login::{LoginErrorKind, Logins, NewUser, Passwords, RefreshTokens, SessionResolver},
    store::{MemoryStore, RedisSessions, SessionStore, StoreErrorKind},
    token::{TokenIssuer, TokenVerifier, VerifiedToken},
    user::RefreshOutcome,
};

use crate::{
    engines::{Time, kind, later, now},
    people::user_id,
    redis_server::RedisServer,
    sessions::{exchange, of_two_processes_one_exchanges_a_refresh_token, session, session_id},
};

const SECRET: &[u8] = b"a secret of at least 32 bytes, it is said";

/// Patient: on this machine others are at work.
pub(crate) async fn on(server: &RedisServer) -> RedisSessions {
    let sessions = RedisSessions::builder(server.url())
        .deadline(Duration::from_secs(20))
        .build()
        .unwrap();
    sessions.connect().await.unwrap();
    sessions
}

/// One node that keeps all slots: what would be in two of them is refused all the same.
#[cfg(feature = "redis-cluster")]
pub(crate) fn cluster_of_one() -> Option<RedisServer> {
    let server = RedisServer::start_with(&["--cluster-enabled", "yes"])?;
    let mut raw = raw(&server);
    let mut slots = redis::cmd("CLUSTER");
    slots.arg("ADDSLOTS").arg((0..16_384).collect::<Vec<_>>());
    slots.exec(&mut raw).unwrap();
    loop {
        let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut raw).unwrap();
        if info.contains("cluster_state:ok") {
            return Some(server);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(feature = "redis-cluster")]
pub(crate) async fn on_cluster(server: &RedisServer) -> RedisSessions {
    let sessions = RedisSessions::builder(tollgate::store::RedisClient::cluster([server
        .url()
        .as_str()]))
    .deadline(Duration::from_secs(20))
    .build()
    .unwrap();
    sessions.connect().await.unwrap();
    sessions
}

fn raw(server: &RedisServer) -> redis::Connection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_connection().unwrap()
}

fn names(server: &RedisServer) -> Vec<String> {
    let mut names: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut raw(server)).unwrap();
    names.sort();
    names
}

fn leaves_within(server: &RedisServer, name: &str) -> Duration {
    let millis: i64 = redis::cmd("PTTL")
        .arg(name)
        .query(&mut raw(server))
        .unwrap();
    Duration::from_millis(millis.try_into().expect("it leaves by itself"))
}

#[tokio::test]
async fn what_is_stored_leaves_an_hour_after_its_end() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = on(&server).await;
    store
        .open_session(session("s1", "ann"), None, 1_000)
        .await
        .unwrap();
    let (login, open) = ("tollgate:{logins}:login:s1", "tollgate:{logins}:open:ann");
    assert_eq!(names(&server), [login, open]);
    let around = |name, secs: u64| {
        let left = leaves_within(&server, name);
        let bound = Duration::from_secs(3_600 + secs);
        assert!(
            left <= bound && left > bound - Duration::from_secs(30),
            "{left:?}"
        );
    };
    around(login, 60);
    around(open, 60);
    let mut long = exchange(0, later(50));
    long.lifetime = Duration::from_secs(200);
    store
        .exchange_refresh(&session_id("s1"), long)
        .await
        .unwrap();
    around(login, 200);
    around(open, 200);
    // One that is shorter takes no time from the list.
    store
        .open_session(session("s2", "ann"), None, 1_000)
        .await
        .unwrap();
    around("tollgate:{logins}:login:s2", 60);
    around(open, 200);
    for name in ["s1", "s2"] {
        assert!(
            store
                .end_session(&session_id(name), later(51))
                .await
                .unwrap()
        );
    }
    around(login, 0);
    assert!(
        !names(&server).contains(&open.to_owned()),
        "nothing is open"
    );
    assert_eq!(store.purge_sessions(later(9_999)).await.unwrap(), 0);
}

#[tokio::test]
async fn whoever_logs_in_for_years_has_a_short_list() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = on(&server).await;
    for day in 0..100 {
        let mut login = session(&format!("s{day}"), "ann");
        login.created_at = later(day * 86_400);
        login.expires_at = login.created_at + Duration::from_secs(60);
        store.open_session(login, None, 1_000).await.unwrap();
    }
    let count: u64 = redis::cmd("ZCARD")
        .arg("tollgate:{logins}:open:ann")
        .query(&mut raw(&server))
        .unwrap();
    assert_eq!(count, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_logins_end_together() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = on(&server).await;
    for number in 0..1_300 {
        let login = session(&format!("s{number:04}"), "ann");
        store.open_session(login, None, 2_000).await.unwrap();
    }
    store
        .open_session(session("b", "bob"), None, 1_000)
        .await
        .unwrap();
    // One that was evicted from under the list.
    let _: u64 = redis::cmd("DEL")
        .arg("tollgate:{logins}:login:s0007")
        .query(&mut raw(&server))
        .unwrap();
    let (ann, at) = (user_id("ann"), later(1));
    let open = store.open_sessions_of(&ann, at, u16::MAX).await.unwrap();
    assert_eq!(open.len(), 1_299);
    assert!(
        open.is_sorted_by(|a, b| a.id < b.id),
        "of one moment: by name"
    );
    assert_eq!(store.end_sessions_of(&ann, at).await.unwrap(), 1_299);
    assert_eq!(store.open_sessions_of(&ann, at, 9).await.unwrap(), []);
    let bobs = store
        .open_sessions_of(&user_id("bob"), at, 9)
        .await
        .unwrap();
    assert_eq!(bobs.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_connections_one_exchanges_a_refresh_token() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let stores = [on(&server).await, on(&server).await];
    of_two_processes_one_exchanges_a_refresh_token(stores).await;
}

#[cfg(feature = "redis-cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_clients_of_a_cluster_one_exchanges_a_refresh_token() {
    let Some(server) = cluster_of_one() else {
        return;
    };
    let stores = [on_cluster(&server).await, on_cluster(&server).await];
    of_two_processes_one_exchanges_a_refresh_token(stores).await;
}

#[cfg(feature = "redis-cluster")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_node_of_a_cluster_is_waited_for_until_the_deadline() {
    let Some(server) = cluster_of_one() else {
        return;
    };
    let store = on_cluster(&server).await;
    store
        .open_session(session("s1", "ann"), None, 1_000)
        .await
        .unwrap();
    redis::cmd("CLIENT")
        .arg(["PAUSE", "900"].as_slice())
        .exec(&mut raw(&server))
        .unwrap();
    let found = store.session(&session_id("s1")).await.unwrap();
    assert_eq!(found.unwrap().user, user_id("ann"));
}

#[tokio::test]
async fn while_redis_is_away_nothing_is_known_and_then_it_is_again() {
    let Some(mut server) = RedisServer::start() else {
        return;
    };
    let store = on(&server).await;
    let (s1, ann) = (session_id("s1"), user_id("ann"));
    store
        .open_session(session("s1", "ann"), None, 1_000)
        .await
        .unwrap();
    server.kill();
    for _ in 0..5 {
        let gone = StoreErrorKind::Unavailable;
        assert_eq!(kind(store.session(&s1).await), gone);
        assert_eq!(
            kind(store.open_session(session("s2", "ann"), None, 1_000).await),
            gone
        );
        assert_eq!(
            kind(store.exchange_refresh(&s1, exchange(0, now())).await),
            gone
        );
        assert_eq!(kind(store.end_session(&s1, now()).await), gone);
        assert_eq!(kind(store.end_sessions_of(&ann, now()).await), gone);
        assert_eq!(kind(store.open_sessions_of(&ann, now(), 9).await), gone);
    }
    server.restart();
    let found = async {
        loop {
            match store.session(&s1).await {
                Ok(found) => return found,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(20), found).await;
    assert_eq!(found.unwrap(), None, "a server without a disk forgets");
}

#[tokio::test]
async fn a_server_that_hangs_costs_the_deadline() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = RedisSessions::builder(server.url())
        .deadline(Duration::from_millis(50))
        .build()
        .unwrap();
    store.connect().await.unwrap();
    server.pause();
    let asked = tokio::time::timeout(Duration::from_secs(10), async {
        for _ in 0..20 {
            let answer = store.session(&session_id("s1")).await;
            assert_eq!(kind(answer), StoreErrorKind::Unavailable);
        }
    });
    asked.await.expect("nobody hangs");
    server.resume();
}

#[tokio::test]
async fn what_cannot_be_read_is_a_failing_store() {
    let Some(server) = RedisServer::start() else {
        return;
    };
    let store = on(&server).await;
    for text in ["", "{}", "no login"] {
        let _: () = redis::cmd("SET")
            .arg("tollgate:{logins}:login:s1")
            .arg(text)
            .query(&mut raw(&server))
            .unwrap();
        let answer = store.session(&session_id("s1")).await;
        assert_eq!(kind(answer), StoreErrorKind::Internal, "{text}");
    }
    assert_eq!(
        RedisSessions::builder("no address")
            .build()
            .unwrap_err()
            .kind(),
        StoreErrorKind::Refused
    );
}

/// Users in memory, logins in Redis, seen by two processes of which each remembers nothing.
struct World {
    _server: RedisServer,
    sessions: Arc<RedisSessions>,
    here: Logins,
    there: Logins,
    clock: Time,
}

impl World {
    async fn new() -> Option<Self> {
        let server = RedisServer::start()?;
        let (users, clock) = (Arc::new(MemoryStore::new()), Time::default());
        let sessions = Arc::new(on(&server).await);
        let logins = || {
            let issuer = TokenIssuer::hs256(SECRET).with_clock(clock.clone()).build();
            let resolver = SessionResolver::builder(users.clone(), sessions.clone())
                .ttl(Duration::ZERO)
                .with_clock(clock.clone())
                .build();
            let cheap = Passwords::builder().memory_kib(64).iterations(1).build();
            Logins::builder(users.clone(), sessions.clone(), issuer.unwrap())
                .refresh(RefreshTokens::rotating(Duration::from_secs(86_400)))
                .with_passwords(cheap.unwrap())
                .with_resolver(resolver)
                .build()
                .unwrap()
        };
        let (here, there) = (logins(), logins());
        let ann = NewUser::new("ann@example.org", "correct horse");
        here.register(ann).await.unwrap();
        Some(Self {
            _server: server,
            sessions,
            here,
            there,
            clock,
        })
    }

    fn token(&self, text: &str) -> Arc<VerifiedToken> {
        let verifier = TokenVerifier::hs256(SECRET).with_clock(self.clock.clone());
        verifier.build().unwrap().verify(text).unwrap()
    }

    async fn is_good_there(&self, token: &str) -> bool {
        let verdict = self.there.resolver().resolve(&self.token(token)).await;
        verdict.is_ok()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_in_redis_end_as_those_beside_their_users_do() {
    let Some(world) = World::new().await else {
        return;
    };
    let log_in = |password| world.here.login("ann@example.org", password);
    let first = log_in("correct horse").await.unwrap();
    let second = log_in("correct horse").await.unwrap();
    let ann = &first.user.id;
    assert_eq!(world.there.logins_of(ann).await.unwrap().len(), 2);
    assert!(world.is_good_there(first.token.expose()).await);

    // Refreshed there, it ends there when the old token comes here.
    let refresh = first.refresh_token.as_ref().unwrap().expose().to_owned();
    let renewed = world.there.refresh(&refresh).await.unwrap();
    assert!(world.is_good_there(renewed.token.expose()).await);
    let reused = world.here.refresh(&refresh).await.unwrap_err();
    assert!(matches!(reused.kind(), LoginErrorKind::RefreshReused));
    assert!(!world.is_good_there(renewed.token.expose()).await);

    // A new password: in another store, and yet every login is over with it.
    assert!(world.is_good_there(second.token.expose()).await);
    let changed = world
        .here
        .change_password(ann, "correct horse", "another horse");
    changed.await.unwrap();
    assert!(!world.is_good_there(second.token.expose()).await);
    assert_eq!(world.there.logins_of(ann).await.unwrap(), []);
    let refresh = second.refresh_token.as_ref().unwrap().expose();
    let refused = world.there.refresh(refresh).await.unwrap_err();
    assert!(matches!(refused.kind(), LoginErrorKind::RefreshInvalid(_)));

    let third = log_in("another horse").await.unwrap();
    assert!(world.is_good_there(third.token.expose()).await);
    assert_eq!(world.there.logout_everywhere(ann).await.unwrap(), 2);
    assert!(!world.is_good_there(third.token.expose()).await);

    let fourth = log_in("another horse").await.unwrap();
    world.there.deactivate(ann).await.unwrap();
    assert!(log_in("another horse").await.is_err());
    world.there.activate(ann).await.unwrap();
    assert!(!world.is_good_there(fourth.token.expose()).await);

    let fifth = log_in("another horse").await.unwrap();
    assert!(world.is_good_there(fifth.token.expose()).await);
    world.there.delete_user(ann).await.unwrap();
    assert!(!world.is_good_there(fifth.token.expose()).await);
    assert_eq!(world.here.logins_of(ann).await.unwrap(), []);
}

#[tokio::test]
async fn a_login_with_an_old_password_that_came_late_is_over_from_the_start() {
    let Some(world) = World::new().await else {
        return;
    };
    let login = world
        .here
        .login("ann@example.org", "correct horse")
        .await
        .unwrap();
    // As if it had been stored just now, by somebody who looked at the user long before.
    let mut late = world
        .sessions
        .session(&login.session)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(late.password_version, Some(0));
    let change = world
        .there
        .change_password(&login.user.id, "correct horse", "another horse");
    change.await.unwrap();
    late.id = session_id("late");
    assert!(
        world
            .sessions
            .open_session(late.clone(), Some(0), 1_000)
            .await
            .unwrap()
    );
    assert_eq!(world.there.logins_of(&login.user.id).await.unwrap(), []);
    let exchanged = world.sessions.exchange_refresh(
        &late.id,
        tollgate::user::RefreshExchange {
            user: login.user.id.clone(),
            ..exchange(0, world.clock.now())
        },
    );
    let RefreshOutcome::Exchanged(stored) = exchanged.await.unwrap() else {
        panic!("Redis knows no users");
    };
    assert_eq!(stored.password_version, Some(0), "and yet it is known");
}

//! Logins that several processes share, through Redis or Valkey (6.2 and later).
//!
//! A login is one text, changed by compare-and-set, so that the rule for an exchange stays in the
//! domain. In addition each user has a sorted set of open logins, ordered by expiry. Both are
//! changed in one step, and a login is looked up by its own name alone, so all of them are in one
//! slot of a cluster: on one node, and its replicas.

mod stored;

use std::{cmp::Reverse, sync::Arc, time::Duration};

use redis::Cmd;
use stored::{KEPT_AFTER_END, kept_for_millis, millis, read, write};

use super::{RedisClient, connections::Resend, link::Link};
use crate::{
    domain::{
        SessionId, UserId,
        clock::Timestamp,
        user::{RefreshExchange, RefreshOutcome, SessionRecord},
    },
    store::{SessionStore, StoreError, StoreErrorKind, StoreFuture},
};

const OPEN: &str = include_str!("open_login.lua");
const CHANGE: &str = include_str!("change_login.lua");

const DEADLINE: Duration = Duration::from_secs(1);

/// Attempts to change one login. A failed attempt means that another change succeeded, and a login
/// is changed only by its one valid token, or by being ended.
const ATTEMPTS_MAX: usize = 16;
/// Logins read in one round trip.
const CHUNK: usize = 500;
/// Round trips in which the logins of one user are ended: half a million logins.
const CHUNKS_MAX: usize = 1_000;
/// Logins of one user that are read for a list, of which the newest are shown.
const LISTED_MAX: usize = 2_000;

/// Keeps logins in Redis, where they expire by themselves; users are kept elsewhere. A clone is a
/// reference count.
///
/// ```no_run
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use tollgate::{login::Logins, store::{MemoryStore, RedisSessions}, token::TokenIssuer};
///
/// let users = Arc::new(MemoryStore::new()); // or a `PostgresStore`, or a `SqliteStore`
/// let sessions = RedisSessions::builder("redis://127.0.0.1/").build()?;
/// sessions.connect().await?;
/// let issuer = TokenIssuer::hs256(b"thirty-two bytes or more, please!").build()?;
/// let logins = Logins::builder(users, Arc::new(sessions), issuer).build()?;
/// # Ok(()) }
/// ```
///
/// # Guarantees
///
/// - A login is deleted an hour after its end, whether it was ended or expired. So what is kept of
///   a user is bounded by
///   [`logins_per_user_max`](crate::login::LoginsBuilder::logins_per_user_max), plus those ended
///   within the last hour. A login takes about 500 bytes.
/// - The store of users can't end logins in the same step in which it changes a password. So a
///   login records the [password version](SessionRecord::password_version) it was opened with, and
///   is invalid under any other.
/// - While Redis is unavailable nobody is let in and nobody is logged out: 503. A server that lost
///   its memory has ended every login. One that lost its last second (`appendfsync everysec`, or a
///   replica that takes over) may also have lost a logout or an exchange of that second; use
///   `appendfsync always` and `min-replicas-to-write` where that is unacceptable.
/// - Redis must not evict (`maxmemory-policy noeviction`): logging out everywhere relies on the
///   list of a user's logins.
///
/// All logins of a [`prefix`](RedisClient::prefix) are on one node of a cluster, and continue on
/// its replica when it is down.
#[derive(Clone, Debug)]
pub struct RedisSessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    prefix: String,
}

/// Settings of [`RedisSessions`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct RedisSessionsBuilder {
    client: RedisClient,
    deadline: Duration,
}

impl RedisSessions {
    /// A builder for logins in the Redis that this client, or address, leads to.
    pub fn builder(client: impl Into<RedisClient>) -> RedisSessionsBuilder {
        RedisSessionsBuilder {
            client: client.into(),
            deadline: DEADLINE,
        }
    }

    /// Connects. Whether or not that succeeds, it keeps trying in the background while Redis is
    /// unavailable.
    ///
    /// # Errors
    /// When the server can't be reached now.
    pub async fn connect(&self) -> Result<(), StoreError> {
        self.0.link.connect().await
    }
}

impl RedisSessionsBuilder {
    /// How long Redis may take to answer; 1 second unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The store, not connected yet: see [`RedisSessions::connect`].
    ///
    /// # Errors
    /// When the client's address can't be parsed, or its settings contradict each other.
    pub fn build(self) -> Result<RedisSessions, StoreError> {
        let servers = self.client.servers(self.deadline)?;
        Ok(RedisSessions(Arc::new(Inner {
            link: Link::new(servers, self.deadline),
            prefix: self.client.key_prefix(),
        })))
    }
}

/// What to do with a login that was read.
enum Update<T> {
    /// Leave it unchanged.
    Keep(T),
    /// Store it with a later expiry, counted from this moment.
    Extend(SessionRecord, Timestamp, T),
    /// Store it as ended.
    End(SessionRecord, T),
}

impl Inner {
    fn name(&self, id: &SessionId) -> String {
        format!("{}{}", self.login_prefix(), id.as_str())
    }

    /// The common prefix of the keys of all logins.
    fn login_prefix(&self) -> String {
        format!("{}:{{logins}}:login:", self.prefix)
    }

    fn open_of(&self, user: &UserId) -> String {
        format!("{}:{{logins}}:open:{}", self.prefix, user.as_str())
    }

    async fn open(&self, session: &SessionRecord, logins_max: u32) -> Result<bool, StoreError> {
        // Sends the whole script each time: logins are rare, and the script is short.
        let mut open = redis::cmd("EVAL");
        open.arg(OPEN).arg(2);
        open.arg(self.name(&session.id))
            .arg(self.open_of(&session.user));
        let long_ago = session.created_at.saturating_sub(KEPT_AFTER_END);
        open.arg(write(session)?)
            .arg(kept_for_millis(session, session.created_at))
            .arg(session.id.as_str())
            .arg(session.expires_at.as_millisecond())
            .arg(long_ago.unwrap_or(Timestamp::MIN).as_millisecond())
            .arg(logins_max.max(1))
            .arg(self.login_prefix());
        if self.link.ask(&open, Resend::Never).await? {
            return Ok(true);
        }
        Err(StoreError::new(
            StoreErrorKind::Conflict,
            "the id of the login is taken",
        ))
    }

    async fn find(&self, id: &SessionId) -> Result<Option<String>, StoreError> {
        let mut find = redis::cmd("GET");
        self.link.ask(find.arg(self.name(id)), Resend::Safe).await
    }

    fn change(
        &self,
        before: &str,
        after: &SessionRecord,
        extended_at: Option<Timestamp>,
    ) -> Result<Cmd, StoreError> {
        let mut change = redis::cmd("EVAL");
        change.arg(CHANGE).arg(2);
        change
            .arg(self.name(&after.id))
            .arg(self.open_of(&after.user));
        change.arg(before).arg(write(after)?).arg(after.id.as_str());
        match extended_at {
            Some(from) => change
                .arg(kept_for_millis(after, from))
                .arg(after.expires_at.as_millisecond()),
            None => change.arg("").arg(millis(KEPT_AFTER_END)),
        };
        Ok(change)
    }

    /// Changes a login according to `judge`, and tries again if it was changed by someone else
    /// meanwhile. `None` if there is no such login.
    async fn update<T>(
        &self,
        id: &SessionId,
        decide: impl Fn(SessionRecord) -> Update<T>,
    ) -> Result<Option<T>, StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(before) = self.find(id).await? else {
                return Ok(None);
            };
            let (change, outcome) = match decide(read(id, &before)?) {
                Update::Keep(outcome) => return Ok(Some(outcome)),
                Update::Extend(after, from, outcome) => {
                    (self.change(&before, &after, Some(from))?, outcome)
                }
                Update::End(after, outcome) => (self.change(&before, &after, None)?, outcome),
            };
            if self.link.ask(&change, Resend::Never).await? {
                return Ok(Some(outcome));
            }
        }
        let text = "the login is being changed too often";
        Err(StoreError::new(StoreErrorKind::Busy, text))
    }

    async fn exchange(
        &self,
        id: &SessionId,
        exchange: &RefreshExchange,
    ) -> Result<RefreshOutcome, StoreError> {
        let outcome = self.update(id, |mut session| {
            let outcome = session.exchange(exchange);
            match outcome {
                RefreshOutcome::Exchanged(_) => Update::Extend(session, exchange.at, outcome),
                RefreshOutcome::Reused => Update::End(session, outcome),
                _ => Update::Keep(outcome),
            }
        });
        Ok(outcome.await?.unwrap_or(RefreshOutcome::Unknown))
    }

    async fn end(&self, id: &SessionId, at: Timestamp) -> Result<bool, StoreError> {
        let ended = self.update(id, |session| match end(session, at) {
            Some(ended) => Update::End(ended, true),
            None => Update::Keep(false),
        });
        Ok(ended.await?.unwrap_or(false))
    }

    /// Some of a user's logins that were open a moment ago, as they are now: those that expire last
    /// come first.
    async fn chunk_of(
        &self,
        user: &UserId,
        skipped: usize,
    ) -> Result<Vec<(SessionId, Option<String>)>, StoreError> {
        let mut list = redis::cmd("ZRANGE");
        let last = skipped.saturating_add(CHUNK).saturating_sub(1);
        list.arg(self.open_of(user)).arg(skipped).arg(last);
        let names: Vec<String> = self.link.ask(list.arg("REV"), Resend::Safe).await?;
        let ids = names.iter().map(|name| SessionId::new(name));
        let ids: Vec<_> = ids
            .collect::<Result<_, _>>()
            .map_err(|_| StoreError::internal("a login in Redis has an invalid name"))?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = redis::cmd("MGET");
        for id in &ids {
            read.arg(self.name(id));
        }
        let texts: Vec<Option<String>> = self.link.ask(&read, Resend::Safe).await?;
        Ok(ids.into_iter().zip(texts).collect())
    }

    async fn list(
        &self,
        user: &UserId,
        at: Timestamp,
        limit: u16,
    ) -> Result<Vec<SessionRecord>, StoreError> {
        let mut open = Vec::new();
        for chunk in 0..CHUNKS_MAX {
            let some = self.chunk_of(user, chunk.saturating_mul(CHUNK)).await?;
            if some.is_empty() {
                break;
            }
            for (id, text) in some {
                let session = text.map(|text| read(&id, &text)).transpose()?;
                open.extend(session.filter(|session| session.is_open(at)));
            }
            // More than the limit can only date from before there was one.
            if open.len() >= LISTED_MAX.max(usize::from(limit)) {
                break;
            }
        }
        open.sort_unstable_by(|a, b| {
            let order = |session: &SessionRecord| Reverse(session.created_at);
            order(a).cmp(&order(b)).then_with(|| a.id.cmp(&b.id))
        });
        // One may have been read twice, if others were removed meanwhile.
        open.dedup_by(|a, b| a.id == b.id);
        open.truncate(usize::from(limit));
        Ok(open)
    }

    /// Ended logins are removed from the list, so its first entries are always still to be ended.
    async fn end_all(&self, user: &UserId, at: Timestamp) -> Result<u64, StoreError> {
        let mut ended = 0_u64;
        for _ in 0..CHUNKS_MAX {
            let some = self.chunk_of(user, 0).await?;
            if some.is_empty() {
                return Ok(ended);
            }
            let mut changes = redis::pipe();
            for (id, text) in some {
                let open = text.as_deref().map(|text| read(&id, text)).transpose()?;
                let next = open.and_then(|session| end(session, at));
                match (text, next) {
                    (Some(before), Some(after)) => {
                        changes.add_command(self.change(&before, &after, None)?);
                    }
                    // It expired.
                    _ => {
                        let mut leave = redis::cmd("ZREM");
                        leave.arg(self.open_of(user)).arg(id.as_str());
                        changes.add_command(leave).ignore();
                    }
                }
            }
            let done: Vec<u64> = self.link.ask_all(&changes).await?;
            ended = done.into_iter().fold(ended, u64::saturating_add);
        }
        let text = "new logins are opened as fast as they are ended";
        Err(StoreError::new(StoreErrorKind::Busy, text))
    }
}

fn end(mut session: SessionRecord, at: Timestamp) -> Option<SessionRecord> {
    if session.ended_at.is_some() {
        return None;
    }
    session.ended_at = Some(at);
    Some(session)
}

impl SessionStore for RedisSessions {
    /// There are no users here to check: the version is stored with the login.
    fn open_session(
        &self,
        mut session: SessionRecord,
        expected_version: Option<u64>,
        logins_max: u32,
    ) -> StoreFuture<bool> {
        let inner = Arc::clone(&self.0);
        session.password_version = expected_version;
        StoreFuture::new(async move { inner.open(&session, logins_max).await })
    }

    fn session(&self, id: &SessionId) -> StoreFuture<Option<SessionRecord>> {
        let (inner, id) = (Arc::clone(&self.0), id.clone());
        StoreFuture::new(async move {
            let found = inner.find(&id).await?;
            found.map(|text| read(&id, &text)).transpose()
        })
    }

    fn open_sessions_of(
        &self,
        user: &UserId,
        at: Timestamp,
        limit: u16,
    ) -> StoreFuture<Vec<SessionRecord>> {
        let (inner, user) = (Arc::clone(&self.0), user.clone());
        StoreFuture::new(async move { inner.list(&user, at, limit).await })
    }

    fn exchange_refresh(
        &self,
        id: &SessionId,
        exchange: RefreshExchange,
    ) -> StoreFuture<RefreshOutcome> {
        let (inner, id) = (Arc::clone(&self.0), id.clone());
        StoreFuture::new(async move { inner.exchange(&id, &exchange).await })
    }

    fn end_session(&self, id: &SessionId, at: Timestamp) -> StoreFuture<bool> {
        let (inner, id) = (Arc::clone(&self.0), id.clone());
        StoreFuture::new(async move { inner.end(&id, at).await })
    }

    fn end_sessions_of(&self, user: &UserId, at: Timestamp) -> StoreFuture<u64> {
        let (inner, user) = (Arc::clone(&self.0), user.clone());
        StoreFuture::new(async move { inner.end_all(&user, at).await })
    }

    /// They expire by themselves.
    fn purge_sessions(&self, _: Timestamp) -> StoreFuture<u64> {
        StoreFuture::ready(Ok(0))
    }
}

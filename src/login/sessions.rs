//! Whether the login that a token belongs to is still open.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use super::{SessionError, SessionErrorKind};
use crate::{
    cache::{CacheBounds, CacheStatistics, Lookup, Remembered, RevocableCache, Stamp},
    domain::{
        SessionId, UserId,
        clock::{Clock, SystemClock, Timestamp},
        credential::CredentialKind,
        principal::Principal,
        user::{SessionRecord, UserRecord},
    },
    store::{Change, ChangeListener, Invalidations, SessionStore, StoreError, UserStore},
    token::VerifiedToken,
};

/// Other processes of a service without change notifications must see the end of a login within 2
/// s; this leaves a second for the load.
const TTL: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(2);
const CAPACITY: u64 = 100_000;
const NEGATIVE_CAPACITY: u64 = 10_000;

/// A login with its user, as recently read.
#[derive(Clone, Debug)]
pub struct ResolvedSession {
    id: SessionId,
    stamp: Stamp,
    user: UserId,
    expires_at: Timestamp,
    ended: bool,
    active: bool,
    principal: Principal,
}

impl ResolvedSession {
    fn new(session: SessionRecord, user: UserRecord, stamp: Stamp) -> Self {
        let mut principal = Principal::builder(user.id.as_str(), CredentialKind::Token)
            .session(session.id.clone())
            .expires_at(session.expires_at);
        for role in &user.roles {
            principal = principal.role(role);
        }
        Self {
            expires_at: session.expires_at,
            ended: session.ended_at.is_some() || session.is_of_another_password(&user),
            id: session.id,
            stamp,
            active: user.active,
            user: user.id,
            principal: principal.attributes(user.attributes).build(),
        }
    }

    /// The login's user.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// When the login expires.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// The caller, with the user's current roles and attributes, whatever the token says, until the
    /// login's end. A layer adds what only the token says.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The verdict, recomputed on every use: time passes, and only the token says who it was issued
    /// to.
    fn check(&self, token: &VerifiedToken, now: Timestamp) -> Result<(), SessionError> {
        let kind = if token.subject() != self.user.as_str() {
            SessionErrorKind::Unknown
        } else if self.ended {
            SessionErrorKind::Ended
        } else if !self.active {
            SessionErrorKind::Inactive
        } else if self.expires_at <= now {
            let at = self.expires_at;
            SessionErrorKind::Expired { at }
        } else {
            return Ok(());
        };
        Err(SessionError::new(kind))
    }
}

impl Remembered for Arc<ResolvedSession> {
    type Key = SessionId;

    fn key(&self) -> &SessionId {
        &self.id
    }

    fn stamp(&self) -> Stamp {
        self.stamp
    }
}

/// Checks whether the login that a token belongs to is still open, and reads its user's current
/// state.
///
/// A logout, a new password, a deactivated user or a reduced role takes effect on the next request
/// in the process whose [`Logins`](super::Logins) made the change, and within the `ttl` in others,
/// or sooner if the store sends change notifications and the resolver [follows](Self::follow) them.
/// If the store fails, nobody is admitted, and no token is called invalid: 503.
///
/// Cloning is cheap; clones share the cache.
#[derive(Clone)]
pub struct SessionResolver(Arc<Inner>);

struct Inner {
    users: Arc<dyn UserStore>,
    sessions: Arc<dyn SessionStore>,
    cache: RevocableCache<Arc<ResolvedSession>>,
    deadline: Duration,
    clock: Arc<dyn Clock>,
}

impl SessionResolver {
    /// Starts a resolver on these stores.
    pub fn builder(
        users: Arc<dyn UserStore>,
        sessions: Arc<dyn SessionStore>,
    ) -> SessionResolverBuilder {
        SessionResolverBuilder {
            users,
            sessions,
            ttl: TTL,
            capacity: CAPACITY,
            deadline: DEADLINE,
            clock: SystemClock::shared(),
        }
    }

    /// The verdict, if it can be given from memory; `None` if the store has to be asked, by
    /// [`resolve`](Self::resolve).
    #[must_use]
    pub fn peek(
        &self,
        token: &VerifiedToken,
    ) -> Option<Result<Arc<ResolvedSession>, SessionError>> {
        let Some(session) = token.session() else {
            return Some(Err(SessionError::new(SessionErrorKind::Unknown)));
        };
        match self.0.cache.peek(session) {
            Lookup::Hit(resolved) => Some(self.check(resolved, token)),
            Lookup::KnownAbsent => Some(Err(SessionError::new(SessionErrorKind::Unknown))),
            Lookup::Unknown => None,
        }
    }

    /// The verdict, from memory or the store.
    ///
    /// # Errors
    /// [`SessionError`], whose [`kind`](SessionError::kind) says why.
    pub async fn resolve(
        &self,
        token: &VerifiedToken,
    ) -> Result<Arc<ResolvedSession>, SessionError> {
        if let Some(verdict) = self.peek(token) {
            return verdict;
        }
        let unknown = || SessionError::new(SessionErrorKind::Unknown);
        let session = token.session().ok_or_else(unknown)?;
        let resolved = self
            .0
            .cache
            .load(session, self.0.deadline, |stamp| self.fetch(session, stamp))
            .await
            .map_err(|error| SessionError::new(SessionErrorKind::Store(error)))?
            .ok_or_else(unknown)?;
        self.check(resolved, token)
    }

    /// Drops one login from the cache; the next request asks the store.
    pub fn forget(&self, session: &SessionId) {
        self.0.cache.invalidate(session);
    }

    /// Drops everything from the cache.
    pub fn forget_all(&self) {
        self.0.cache.invalidate_all();
    }

    /// From now on drops what `changes` reports, so that a login that another process ended is
    /// refused at once.
    pub fn follow(&self, changes: &(impl Invalidations + ?Sized)) {
        let listener: Weak<Inner> = Arc::downgrade(&self.0);
        changes.subscribe(listener);
    }

    /// The statistics of the cache.
    #[must_use]
    pub fn statistics(&self) -> CacheStatistics {
        self.0.cache.statistics()
    }

    fn check(
        &self,
        resolved: Arc<ResolvedSession>,
        token: &VerifiedToken,
    ) -> Result<Arc<ResolvedSession>, SessionError> {
        resolved.check(token, self.0.clock.now())?;
        Ok(resolved)
    }

    async fn fetch(
        &self,
        session: &SessionId,
        stamp: Stamp,
    ) -> Result<Option<Arc<ResolvedSession>>, StoreError> {
        let Some(session) = self.0.sessions.session(session).await? else {
            return Ok(None);
        };
        let user = self.0.users.user(&session.user).await?;
        Ok(user.map(|user| Arc::new(ResolvedSession::new(session, user, stamp))))
    }
}

impl ChangeListener for SessionResolver {
    fn changed(&self, change: &Change) {
        self.0.changed(change);
    }
}

impl ChangeListener for Inner {
    /// Logins are cached only by their own ids, so a change to a user's logins may affect any
    /// entry.
    fn changed(&self, change: &Change) {
        match change {
            Change::Session(session) => self.cache.invalidate(session),
            Change::User(_) | Change::Everything => self.cache.invalidate_all(),
            Change::Key(_) => {}
        }
    }
}

impl fmt::Debug for SessionResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionResolver")
            .field("cache", &self.0.cache)
            .finish_non_exhaustive()
    }
}

/// Makes a [`SessionResolver`].
#[derive(Debug)]
#[must_use]
pub struct SessionResolverBuilder {
    users: Arc<dyn UserStore>,
    sessions: Arc<dyn SessionStore>,
    ttl: Duration,
    capacity: u64,
    deadline: Duration,
    clock: Arc<dyn Clock>,
}

impl SessionResolverBuilder {
    /// How long a login is cached, counted from before it was read: the delay with which changes by
    /// other processes are seen. 1 second by default; with zero the store is asked on every
    /// request.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The maximum number of cached logins; 100,000 by default.
    pub fn capacity(mut self, logins: u64) -> Self {
        self.capacity = logins;
        self
    }

    /// How long the store may take to answer; 2 seconds by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets another source of time.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Builds the resolver.
    #[must_use]
    pub fn build(self) -> SessionResolver {
        let bounds = CacheBounds {
            capacity: self.capacity,
            ttl: self.ttl,
            negative_capacity: NEGATIVE_CAPACITY,
            negative_ttl: self.ttl,
        };
        SessionResolver(Arc::new(Inner {
            users: self.users,
            sessions: self.sessions,
            cache: RevocableCache::new(bounds, Arc::clone(&self.clock)),
            deadline: self.deadline,
            clock: self.clock,
        }))
    }
}

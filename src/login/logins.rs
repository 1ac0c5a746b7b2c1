//! What an application's handlers call.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};
use uuid::Uuid;

use super::{
    LoginError, LoginErrorKind, LoginsBuilder, NewUser, PasswordCheck, PasswordError, Passwords,
    SessionResolver,
    refresh::Refresher,
    user::{check_email, check_password},
};
use crate::{
    domain::{
        SessionId, UserId,
        audit::{Act, AuditAction, AuditOutcome},
        clock::{Clock, Timestamp, whole_second_up},
        denial::Denial,
        page::{Page, Paged},
        principal::Principal,
        user::{SessionRecord, UserRecord, normal_email},
    },
    store::{
        Audience, Change, ChangeListener, SessionStore, StoreError, StoreErrorKind, StoreFuture,
        UserStore,
    },
    token::{IssueError, IssuedToken, TokenIssuer},
    trail,
};

const PURGE_INTERVAL_SECS: u64 = 3_600;
/// How much longer a login goes on than the tokens that are issued for it: they are when the store has answered, and their ends
/// are rounded up.
pub(super) const LATER: Duration = Duration::from_secs(5);

/// Registers users, logs them in and out, and changes them.
///
/// A change, once begun, is finished and told to the [`SessionResolver`] even when the caller hangs up.
/// A clone is a reference count.
#[derive(Clone)]
pub struct Logins(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) users: Arc<dyn UserStore>,
    pub(super) sessions: Arc<dyn SessionStore>,
    pub(super) issuer: TokenIssuer,
    pub(super) passwords: Passwords,
    pub(super) resolver: SessionResolver,
    pub(super) refresher: Option<Refresher>,
    pub(super) user_id_prefix: String,
    pub(super) password_length_min: usize,
    pub(super) logins_per_user_max: u32,
    pub(super) deadline: Duration,
    /// When logins whose time is over are to be forgotten next, in seconds of the clock that never steps back.
    pub(super) purge_at: AtomicU64,
    pub(super) audience: Audience,
    /// Places of changes that are under way, those that nobody waits for any more included.
    pub(super) changes: Arc<Semaphore>,
}

/// How many changes are under way at most.
pub(super) const CHANGES_MAX: usize = 1_024;
/// For how many deadlines a change goes on that was too slow for whoever asked for it.
const GIVEN_UP_AFTER: u32 = 12;

/// Somebody has logged in, or goes on with a login.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Login {
    /// Who.
    pub user: UserRecord,
    /// What to hand to the client: the access token.
    pub token: IssuedToken,
    /// What to hand out besides, where [`LoginsBuilder::refresh`] says so. After a refresh: the next one, where they
    /// rotate; `None` where the client keeps the one that it has.
    pub refresh_token: Option<IssuedToken>,
    /// The login that both belong to.
    pub session: SessionId,
}

impl Logins {
    /// Begins with the stores, and the issuer whose lifetime is that of an access token, and of a login without
    /// [`LoginsBuilder::refresh`], and whose clock is used here too.
    pub fn builder(
        users: Arc<dyn UserStore>,
        sessions: Arc<dyn SessionStore>,
        issuer: TokenIssuer,
    ) -> LoginsBuilder {
        LoginsBuilder::new(users, sessions, issuer)
    }

    /// What a layer asks whether a token's login still stands; the changes made here count for it at once.
    #[must_use]
    pub fn resolver(&self) -> &SessionResolver {
        &self.0.resolver
    }

    /// Makes a user. The address is stored trimmed and in lower case.
    ///
    /// # Errors
    /// `InvalidEmail`, `WeakPassword`, `TooManyRoles`, `TooManyAttributes`, `UnstorableText`, `EmailTaken`; `Busy`,
    /// `Store`, `Internal`.
    pub async fn register(&self, user: NewUser) -> Result<UserRecord, LoginError> {
        check_email(&user.email)?;
        check_password(user.password(), self.0.password_length_min)?;
        let id = UserId::new(&random_name(&self.0.user_id_prefix)?)
            .map_err(|_| internal("a user id"))?;
        self.check_roles(&id, &user.roles)?;
        let hash = self.0.passwords.hash(user.password()).await?;
        let mut record = UserRecord::new(id, &user.email, hash, self.now());
        record.roles = user.roles;
        record.attributes = user.attributes;
        if !record.is_storable() {
            return Err(LoginError::new(LoginErrorKind::UnstorableText));
        }
        if !record.attributes_fit() {
            return Err(LoginError::new(LoginErrorKind::TooManyAttributes));
        }
        let stored = self.await_store(self.0.users.insert_user(record.clone()));
        match stored.await {
            Ok(()) => {
                trail::record(Act::new(AuditAction::USER_CREATE).on(record.id.as_str()));
                Ok(record)
            }
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                Err(LoginError::new(LoginErrorKind::EmailTaken))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The user with that address, made first if there is none: for a first administrator.
    /// One that exists stays as it is, password and roles too.
    ///
    /// # Errors
    /// As [`register`](Self::register), but for `EmailTaken`.
    pub async fn ensure_user(&self, user: NewUser) -> Result<UserRecord, LoginError> {
        check_email(&user.email)?;
        let email = normal_email(&user.email);
        if let Some(found) = self.user_by_email(&email).await? {
            return Ok(found);
        }
        match self.register(user).await {
            // Another process was faster.
            Err(error) if matches!(error.kind(), LoginErrorKind::EmailTaken) => self
                .user_by_email(&email)
                .await?
                .ok_or_else(|| LoginError::new(LoginErrorKind::UnknownUser)),
            outcome => outcome,
        }
    }

    /// Logs in: opens a login and issues its token.
    ///
    /// An unknown address, a wrong password and an inactive user get the same answer in the same time. When the
    /// password is changed while this runs, nothing is opened.
    ///
    /// # Errors
    /// `InvalidCredentials`; `Busy`, `Store`, `Internal`.
    pub async fn login(&self, email: &str, password: &str) -> Result<Login, LoginError> {
        let found = match check_email(email) {
            Ok(()) => self.user_by_email(&normal_email(email)).await?,
            Err(_) => None,
        };
        let who = found.as_ref().map(|user| user.id.clone());
        let outcome = self.log_in(found, password).await;
        let who = who.as_ref().map(UserId::as_str);
        attempted(AuditAction::LOGIN, who, &outcome);
        outcome
    }

    async fn log_in(&self, found: Option<UserRecord>, password: &str) -> Result<Login, LoginError> {
        let stored = found.as_ref().map(|user| user.password_hash.as_str());
        let check = self.check(password, stored).await?;
        let user = match (found, check) {
            (Some(user), PasswordCheck::Match) if user.active => user,
            (Some(user), PasswordCheck::MatchToRehash) if user.active => {
                self.rehash(&user, password).await;
                user
            }
            _ => return Err(invalid_credentials()),
        };
        self.open(user).await
    }

    /// One user.
    ///
    /// # Errors
    /// `Store`.
    pub async fn user(&self, id: &UserId) -> Result<Option<UserRecord>, LoginError> {
        Ok(self.await_store(self.0.users.user(id)).await?)
    }

    /// The user whom a principal stands for: the subject of a token, or the owner of a key.
    ///
    /// # Errors
    /// `UnknownUser`, `Store`.
    pub async fn user_of(&self, principal: &Principal) -> Result<UserRecord, LoginError> {
        let unknown = || LoginError::new(LoginErrorKind::UnknownUser);
        let id = UserId::new(principal.subject()).map_err(|_| unknown())?;
        self.user(&id).await?.ok_or_else(unknown)
    }

    /// All users, newest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn users(&self, page: Page) -> Result<Paged<UserRecord>, LoginError> {
        Ok(self.await_store(self.0.users.users(page)).await?)
    }

    pub(super) fn refresher(&self) -> Option<&Refresher> {
        self.0.refresher.as_ref()
    }

    pub(super) fn issuer(&self) -> &TokenIssuer {
        &self.0.issuer
    }

    pub(super) fn users_store(&self) -> &Arc<dyn UserStore> {
        &self.0.users
    }

    pub(super) fn sessions(&self) -> &Arc<dyn SessionStore> {
        &self.0.sessions
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock().now()
    }

    fn clock(&self) -> &Arc<dyn Clock> {
        self.0.issuer.clock()
    }

    async fn user_by_email(&self, email: &str) -> Result<Option<UserRecord>, StoreError> {
        self.await_store(self.0.users.user_by_email(email)).await
    }

    /// A password that can't be hashed is no user's, and says so without a look at any.
    pub(super) async fn check(
        &self,
        password: &str,
        stored: Option<&str>,
    ) -> Result<PasswordCheck, LoginError> {
        match self.0.passwords.verify(password, stored).await {
            Err(PasswordError::Length) => Ok(PasswordCheck::Mismatch),
            outcome => Ok(outcome?),
        }
    }

    /// Whether there could be a token with these roles: who has more is not to learn it at the next login.
    pub(super) fn check_roles(&self, user: &UserId, roles: &[String]) -> Result<(), LoginError> {
        let roles = roles.iter().map(String::as_str);
        match self.0.issuer.check_roles(user, &new_session()?, roles) {
            Err(IssueError::TooLong) => Err(LoginError::new(LoginErrorKind::TooManyRoles)),
            outcome => Ok(outcome?),
        }
    }

    /// The password is at hand only now. That it could not be hashed anew keeps nobody out.
    async fn rehash(&self, user: &UserRecord, password: &str) {
        let Ok(hash) = self.0.passwords.hash(password).await else {
            return;
        };
        let stored = self
            .0
            .users
            .rehash_password(&user.id, user.password_version, hash);
        if let Err(error) = self.await_store(stored).await {
            tracing::warn!(user = %user.id, %error, "a stronger password hash could not be stored");
        }
    }

    async fn open(&self, user: UserRecord) -> Result<Login, LoginError> {
        let session = new_session()?;
        let roles = || user.roles.iter().map(String::as_str);
        // What could not be issued is no login.
        self.issuer().check_roles(&user.id, &session, roles())?;
        let now = self.now();
        let end = self.end_of_login(now);
        let record = SessionRecord::new(session.clone(), user.id.clone(), now, end);
        let version = Some(user.password_version);
        let logins_max = self.0.logins_per_user_max;
        let opened = self
            .0
            .sessions
            .open_session(record.clone(), version, logins_max);
        if !self.await_store(opened).await? || !self.still_stands(&session, &user).await? {
            return Err(invalid_credentials());
        }
        self.purge().await;
        // The last of all: a token's time runs from now on, and not while a store takes its own.
        let issuer = self.issuer();
        let token = issuer.issue_until(&user.id, &session, roles(), end)?;
        let refresh_token = self
            .refresher()
            .map(|refresher| refresher.issue(issuer, &record))
            .transpose()?;
        Ok(Login {
            user,
            token,
            refresh_token,
            session,
        })
    }

    /// Until when a login that begins now goes on: as long as the last token that may be issued for it.
    fn end_of_login(&self, now: Timestamp) -> Timestamp {
        let access = self.issuer().lifetime();
        let lifetime = match self.refresher() {
            Some(refresher) => refresher.login_lifetime(access),
            None => access.saturating_add(LATER),
        };
        whole_second_up(now.saturating_add(lifetime).unwrap_or(Timestamp::MAX))
    }

    /// Where logins are kept apart from users, whoever shut the user out a moment ago may have come too early to end this
    /// one. Whoever does so after this look ends it.
    async fn still_stands(
        &self,
        session: &SessionId,
        opened_by: &UserRecord,
    ) -> Result<bool, LoginError> {
        let user = self.user(&opened_by.id).await?;
        let same =
            |user: &UserRecord| user.active && user.password_version == opened_by.password_version;
        let stands = user.as_ref().is_some_and(same);
        if !stands {
            let ended = self.0.sessions.end_session(session, self.now());
            self.await_store(ended).await?;
        }
        Ok(stands)
    }

    /// Forgets the logins whose time is over, once an hour: what is kept is bounded by the logins of their lifetime.
    async fn purge(&self) {
        let now = self.clock().elapsed().as_secs();
        let next = now.saturating_add(PURGE_INTERVAL_SECS);
        let (set, seen) = (Ordering::Relaxed, Ordering::Relaxed);
        let due = |at: u64| (now >= at).then_some(next);
        if self.0.purge_at.fetch_update(set, seen, due).is_err() {
            return;
        }
        if let Err(error) = self
            .await_store(self.0.sessions.purge_sessions(self.now()))
            .await
        {
            tracing::warn!(target: "tollgate", %error, "logins whose time is over could not be forgotten");
        }
    }

    /// Makes a change in a task of its own, so that it is told to the resolver whoever hangs up meanwhile, and
    /// whether or not it is known to have succeeded.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        touched: Change,
        change: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, LoginError> {
        // Before the store hears of it: what is refused here was not done.
        let Ok(turn) = Arc::clone(&self.0.changes).try_acquire_owned() else {
            let text = "too many changes of logins are under way";
            return Err(StoreError::new(StoreErrorKind::Busy, text).into());
        };
        let told = Told {
            resolver: self.0.resolver.clone(),
            audience: self.0.audience.clone(),
            touched,
        };
        let patience = self.0.deadline.saturating_mul(GIVEN_UP_AFTER);
        let task = trail::spawn(async move {
            let (_turn, _told) = (turn, told);
            let outcome = timeout(patience, change).await;
            outcome.unwrap_or_else(|_| Err(too_slow()))
        });
        match timeout(self.0.deadline, task).await {
            Ok(Ok(outcome)) => Ok(outcome?),
            Ok(Err(_)) => Err(internal("the change came to no end")),
            Err(_) => Err(too_slow().into()),
        }
    }

    pub(super) async fn await_store<T: Unpin>(
        &self,
        answer: StoreFuture<T>,
    ) -> Result<T, StoreError> {
        timeout(self.0.deadline, answer)
            .await
            .unwrap_or_else(|_| Err(too_slow()))
    }
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logins")
            .field("issuer", &self.0.issuer)
            .field("passwords", &self.0.passwords)
            .finish_non_exhaustive()
    }
}

/// Tells the audit log of an attempt to log in, or to go on. Who isn't known by name stays nameless there: what
/// was typed for a name may be a password.
pub(super) fn attempted<T>(
    action: AuditAction,
    who: Option<&str>,
    outcome: &Result<T, LoginError>,
) {
    let mut act = Act::new(action);
    if let Some(who) = who {
        act = act.actor(who);
    }
    if let Err(error) = outcome {
        let refused = Denial::from(error.clone()).kind().is_authentication();
        let ended = if refused {
            AuditOutcome::Refused
        } else {
            AuditOutcome::Failed
        };
        act = act.outcome(ended).because(&error.to_string());
    }
    trail::record(act);
}

pub(super) fn invalid_credentials() -> LoginError {
    LoginError::new(LoginErrorKind::InvalidCredentials)
}

/// Tells of a change however it ends: by then it may have been made, also where the store panics after it.
struct Told {
    resolver: SessionResolver,
    audience: Audience,
    touched: Change,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.resolver.changed(&self.touched);
        self.audience.tell(&self.touched);
    }
}

fn internal(what: &'static str) -> LoginError {
    LoginError::new(LoginErrorKind::Internal(what))
}

fn too_slow() -> StoreError {
    StoreError::new(
        StoreErrorKind::Unavailable,
        "the store did not answer in time",
    )
}

fn new_session() -> Result<SessionId, LoginError> {
    SessionId::new(&random_name("session-")?).map_err(|_| internal("a login id"))
}

/// A name that nobody guesses: 122 random bits.
fn random_name(prefix: &str) -> Result<String, LoginError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|_| internal("the system gave no randomness"))?;
    let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid();
    Ok(format!("{prefix}{}", Uuid::hyphenated(uuid)))
}

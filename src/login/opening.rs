//! How logins begin: with a password.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    LoginError, LoginErrorKind, Logins, PasswordCheck, logins::new_session, user::check_email,
};
use crate::{
    domain::{
        SessionId, UserId,
        audit::{Act, AuditAction, AuditOutcome},
        clock::{Clock, SystemClock, Timestamp, whole_second_up},
        denial::Denial,
        user::{SessionRecord, UserRecord, normal_email},
    },
    repeats::{LogLine, Repeats},
    token::IssuedToken,
    trail,
};

const PURGE_INTERVAL_SECS: u64 = 3_600;
/// How much longer a login lasts than its tokens, which are issued only after the store has
/// answered, and whose expiries are rounded up.
pub(super) const LOGIN_MARGIN: Duration = Duration::from_secs(5);

/// The result of a login or a refresh.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Login {
    /// The user.
    pub user: UserRecord,
    /// The access token for the client.
    pub token: IssuedToken,
    /// The refresh token for the client, if
    /// [`LoginsBuilder::refresh`](super::LoginsBuilder::refresh) is set. After a refresh: the next
    /// one if they rotate, or `None` if the client keeps the one it has.
    pub refresh_token: Option<IssuedToken>,
    /// The login that both belong to.
    pub session: SessionId,
}

impl Logins {
    /// Logs in: opens a login and issues its token.
    ///
    /// An unknown address, a wrong password and an inactive user get the same answer in the same
    /// time. If the password is changed meanwhile, no login is opened.
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
        record_attempt(AuditAction::LOGIN, who, &outcome);
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

    /// The plaintext is available only now. A failure to rehash doesn't fail the login.
    async fn rehash(&self, user: &UserRecord, password: &str) {
        let Ok(hash) = self.0.passwords.hash(password).await else {
            return;
        };
        let stored = self
            .0
            .users
            .rehash_password(&user.id, user.password_version, hash);
        if let Err(error) = self.await_store(stored).await {
            static FAILURES: Repeats = Repeats::new();
            if let Some(LogLine { left_out }) = FAILURES.failed(&error, SystemClock.elapsed()) {
                tracing::warn!(target: "tollgate", user = %user.id, %error, left_out, "a stronger password hash could not be stored");
            }
        }
    }

    async fn open(&self, user: UserRecord) -> Result<Login, LoginError> {
        let session = new_session()?;
        let roles = || user.roles.iter().map(String::as_str);
        // A login whose token could not be issued must not be opened.
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
        if !self.await_store(opened).await? || !self.is_still_valid(&session, &user).await? {
            return Err(invalid_credentials());
        }
        self.purge().await;
        // Last, so that the token's lifetime doesn't start while a store is still working.
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

    /// When a login that begins now ends: with the last token that may be issued for it.
    fn end_of_login(&self, now: Timestamp) -> Timestamp {
        let access = self.issuer().lifetime();
        let lifetime = match self.refresher() {
            Some(refresher) => refresher.login_lifetime(access),
            None => access.saturating_add(LOGIN_MARGIN),
        };
        whole_second_up(now.saturating_add(lifetime).unwrap_or(Timestamp::MAX))
    }

    /// If logins are stored apart from users, a deactivation or password change just before may
    /// have come too early to end this login. Any after this check ends it.
    async fn is_still_valid(
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

    /// Deletes expired logins, once an hour, so that storage is bounded by the logins of one
    /// lifetime.
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
            tracing::warn!(target: "tollgate", %error, "expired logins could not be deleted");
        }
    }
}

/// Records an attempt to log in or to refresh in the audit log. Unknown names are left out, because
/// what was typed as a name may be a password.
pub(super) fn record_attempt<T>(
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

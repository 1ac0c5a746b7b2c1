//! How logins begin: with a password.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    LoginError, LoginErrorKind, Logins, PasswordCheck, logins::new_session, user::check_email,
};
use crate::{
    domain::{
        SessionId, UserId,
        audit::{Act, AuditAction, AuditOutcome},
        clock::{Timestamp, whole_second_up},
        denial::Denial,
        user::{SessionRecord, UserRecord, normal_email},
    },
    token::IssuedToken,
    trail,
};

const PURGE_INTERVAL_SECS: u64 = 3_600;
/// How much longer a login goes on than its tokens: these are issued when the store has answered, and their ends are rounded
/// up.
pub(super) const LATER: Duration = Duration::from_secs(5);

/// Somebody has logged in, or goes on with a login.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Login {
    /// Who.
    pub user: UserRecord,
    /// What to hand to the client: the access token.
    pub token: IssuedToken,
    /// What to hand out besides, where [`LoginsBuilder::refresh`](super::LoginsBuilder::refresh) says so. After a refresh: the next one, where they
    /// rotate; `None` where the client keeps the one that it has.
    pub refresh_token: Option<IssuedToken>,
    /// The login that both belong to.
    pub session: SessionId,
}

impl Logins {
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

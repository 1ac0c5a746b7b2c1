//! Makes [`Logins`].

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use super::{
    LoginConfigError, Logins, Passwords, SessionResolver,
    logins::Inner,
    passwords::PASSWORD_LENGTH_MAX,
    refresh::{RefreshTokens, Refresher},
};
use crate::{
    change::Changes,
    store::{Audience, ChangeListener, SessionStore, UserStore},
    token::TokenIssuer,
};

const PASSWORD_LENGTH_MIN: usize = 8;
const USER_ID_PREFIX: &str = "user-";
const USER_ID_PREFIX_LENGTH_MAX: usize = 200;
const LOGINS_PER_USER_MAX: u32 = 1_000;
const DEADLINE: Duration = Duration::from_secs(5);

/// Makes [`Logins`].
#[derive(Debug)]
#[must_use]
pub struct LoginsBuilder {
    users: Arc<dyn UserStore>,
    sessions: Arc<dyn SessionStore>,
    issuer: TokenIssuer,
    passwords: Option<Passwords>,
    resolver: Option<SessionResolver>,
    refresh: Option<RefreshTokens>,
    user_id_prefix: String,
    password_length_min: usize,
    logins_per_user_max: u32,
    deadline: Duration,
    audience: Audience,
}

impl LoginsBuilder {
    pub(super) fn new(
        users: Arc<dyn UserStore>,
        sessions: Arc<dyn SessionStore>,
        issuer: TokenIssuer,
    ) -> Self {
        Self {
            users,
            sessions,
            issuer,
            passwords: None,
            resolver: None,
            refresh: None,
            user_id_prefix: USER_ID_PREFIX.to_owned(),
            password_length_min: PASSWORD_LENGTH_MIN,
            logins_per_user_max: LOGINS_PER_USER_MAX,
            deadline: DEADLINE,
            audience: Audience::default(),
        }
    }

    /// Issues refresh tokens too, with these settings; none by default. A login then lasts as long
    /// as its refresh token.
    pub fn refresh(mut self, tokens: RefreshTokens) -> Self {
        self.refresh = Some(tokens);
        self
    }

    /// The prefix before the UUID in a new user's id; `user-` by default. Up to 200 bytes; may be
    /// empty.
    pub fn user_id_prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.user_id_prefix);
        self
    }

    /// The minimum length of a new password in characters, 1 to 1,024; 8 by default.
    pub fn password_length_min(mut self, characters: usize) -> Self {
        self.password_length_min = characters;
        self
    }

    /// How many logins of one user are kept, at least 1; 1,000 by default. To make room for
    /// another, the one that would end first is deleted: the one that was not refreshed for
    /// longest. What was issued for it is refused as soon as the resolver asks the store again,
    /// within its `ttl`.
    pub fn logins_per_user_max(mut self, logins: u32) -> Self {
        self.logins_per_user_max = logins;
        self
    }

    /// How long the store may take to answer; 5 seconds by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Replaces the password hasher with default settings.
    pub fn with_passwords(mut self, passwords: Passwords) -> Self {
        self.passwords = Some(passwords);
        self
    }

    /// Replaces the resolver with default settings; it must use the same stores.
    pub fn with_resolver(mut self, resolver: SessionResolver) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// Notifies `listener` of changes made here, besides the resolver: for stores that can't notify
    /// other processes themselves.
    pub fn add_listener(mut self, listener: impl ChangeListener) -> Self {
        self.audience.add(listener);
        self
    }

    /// Builds the facade. Unless a hasher was set, this computes one hash, which takes tens of
    /// milliseconds.
    ///
    /// # Errors
    /// [`LoginConfigError`], which names the setting.
    pub fn build(self) -> Result<Logins, LoginConfigError> {
        if !(1..=PASSWORD_LENGTH_MAX).contains(&self.password_length_min) {
            return Err(LoginConfigError::PasswordLength);
        }
        if self.logins_per_user_max == 0 {
            return Err(LoginConfigError::LoginsPerUser);
        }
        if self.user_id_prefix.len() > USER_ID_PREFIX_LENGTH_MAX {
            return Err(LoginConfigError::UserIdPrefix);
        }
        let refresher = self
            .refresh
            .map(|tokens| Refresher::new(tokens, &self.issuer))
            .transpose()?;
        let passwords = match self.passwords {
            Some(passwords) => passwords,
            None => Passwords::builder().build()?,
        };
        let resolver = self.resolver.unwrap_or_else(|| {
            SessionResolver::builder(Arc::clone(&self.users), Arc::clone(&self.sessions))
                .with_clock(Arc::clone(self.issuer.clock()))
                .build()
        });
        let changes = Changes::new(resolver.clone(), self.deadline).announced_to(self.audience);
        Ok(Logins(Arc::new(Inner {
            users: self.users,
            sessions: self.sessions,
            issuer: self.issuer,
            passwords,
            resolver,
            refresher,
            user_id_prefix: self.user_id_prefix,
            password_length_min: self.password_length_min,
            logins_per_user_max: self.logins_per_user_max,
            purge_at: AtomicU64::new(0),
            changes,
        })))
    }
}

//! Floor 2: users who log in with an address and a password, and the logins that their tokens
//! belong to.
//!
//! - [`Logins`] is what an application's handlers call: register, log in, change or set the
//!   password, log out.
//! - [`SessionResolver`] is what a layer asks on every request: is this token's login still open?
//! - [`Passwords`] hashes passwords with Argon2id, with limited concurrency.
//!
//! | happens | takes effect |
//! |---|---|
//! | logout of one login, or of all | on the next request here; within the resolver's `ttl` in other processes |
//! | a new password | ends every older login of that user, those of the same second too; so does deactivation |
//! | other roles, deletion | likewise; roles are read from the user, never from the token |
//! | a rotating refresh token that comes twice | ends its login; see [`RefreshTokens`] |
//!
//! An unknown address, a wrong password and an inactive user get the same answer in the same time.
//! API keys are independent of logins: neither a new password nor any other change to their owner
//! here affects them. [`Keyring::revoke_all`](crate::keyring::Keyring::revoke_all) ends them.

mod builder;
mod error;
mod hasher;
mod logins;
mod logout;
mod opening;
mod passwords;
mod refresh;
mod registration;
mod sessions;
mod user;
mod users;

#[cfg(test)]
mod tests;

pub use builder::LoginsBuilder;
pub use error::{
    LoginConfigError, LoginError, LoginErrorKind, PasswordError, SessionError, SessionErrorKind,
};
pub use logins::Logins;
pub use opening::Login;
pub use passwords::{PasswordCheck, Passwords, PasswordsBuilder};
pub use refresh::RefreshTokens;
pub use sessions::{ResolvedSession, SessionResolver, SessionResolverBuilder};
pub use user::NewUser;

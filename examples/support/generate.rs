//! `generate-key` and `generate-token`: a credential for trying out a server.

use tollgate::{
    keyring::{Keyring, NewKey},
    money::Money,
    role::RoleSet,
    store::{AccountId, SessionId, UserId},
    token::{SigningSecret, TokenIssuer},
    usage::Credit,
};

use super::support::{StartError, Stores};

const USAGE: &str = "usage: [generate-key | generate-token] [--role viewer|operator|admin] [--user NAME] [--balance DOLLARS]";

/// How the server was called.
pub(crate) enum Command {
    /// Serve.
    Serve,
    /// Print a new key, store its hash, and credit its account.
    Key(Wanted),
    /// Print a new token.
    Token(Wanted),
}

/// The requested credential.
pub(crate) struct Wanted {
    role: String,
    user: String,
    balance: Money,
}

impl Command {
    /// Reads the command line.
    pub(crate) fn of_process(roles: &RoleSet) -> Result<Self, StartError> {
        let mut arguments = std::env::args().skip(1);
        let make = match arguments.next().as_deref() {
            None => return Ok(Self::Serve),
            Some("generate-key") => Self::Key,
            Some("generate-token") => Self::Token,
            Some(_) => return Err(USAGE.into()),
        };
        let mut wanted = Wanted {
            role: "viewer".into(),
            user: "demo".into(),
            balance: Money::from_nanos(1_000_000_000),
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(USAGE)?;
            match name.as_str() {
                "--role" if roles.contains(&value) => wanted.role = value,
                "--user" => wanted.user = value,
                "--balance" if !value.starts_with('-') => wanted.balance = value.parse()?,
                _ => return Err(USAGE.into()),
            }
        }
        Ok(make(wanted))
    }
}

/// Creates a key, and credits its user's account.
pub(crate) async fn key(
    wanted: Wanted,
    stores: &Stores,
    ring: Keyring,
) -> Result<String, StartError> {
    stores.must_outlive("generate-key")?;
    let new = NewKey {
        name: format!("{}'s", wanted.user),
        roles: vec![wanted.role],
        ..NewKey::default()
    };
    // The operator may create any number.
    let ring = ring.keys_per_owner_max(u32::MAX);
    let (key, record) = ring.create(&wanted.user, new).await?;
    if wanted.balance > Money::ZERO {
        let credit = Credit {
            account: AccountId::new(&wanted.user)?,
            amount: wanted.balance,
            reference: format!("came with {}", record.id),
        };
        stores.ledger.credit(credit).await?;
    }
    Ok(key.expose().to_owned())
}

/// Creates a token, valid for an hour.
pub(crate) fn token(wanted: &Wanted, secret: &SigningSecret) -> Result<String, StartError> {
    let issuer = TokenIssuer::hs256(secret.expose()).build()?;
    let session = SessionId::new("from-the-command-line")?;
    let token = issuer.issue(
        &UserId::new(&wanted.user)?,
        &session,
        [wanted.role.as_str()],
    )?;
    Ok(token.expose().to_owned())
}

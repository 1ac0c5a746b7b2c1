//! `generate-key` and `generate-token`: a credential for whoever tries a server.

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

/// What a server was called with.
pub(crate) enum Command {
    /// Serve.
    Serve,
    /// Print a new key, store its hash, and pay its money in.
    Key(Wanted),
    /// Print a new token.
    Token(Wanted),
}

/// The credential that is wanted.
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

/// Makes a key, and pays its money into the account of its user.
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
    // Whoever runs this may make as many as they like.
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

/// Makes a token, good for an hour.
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

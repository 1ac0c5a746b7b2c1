//! What the two small servers share: commands that create credentials, keys like `demo_…`, and a
//! gate that accepts keys or tokens.

use std::sync::Arc;

use tollgate::{
    ApiKeyLayer, IdempotencyKeys, JwtLayer, PriceTable, RbacLayer, SpendingLimitLayer, Tollgate,
    TollgateBuilder,
    api_key::ApiKeyPolicy,
    guard::Or,
    jwt::JwtPolicy,
    key::KeyFormat,
    keyring::KeyResolver,
    quota::Quota,
    rbac::RouteTable,
    role::RoleSet,
    token::{SigningSecret, TokenVerifier},
};

use super::{
    generate::{self, Command},
    support::{self, StartError, Stores, client_address, limit},
};

/// Callers with a key or a token.
pub(crate) type Known = Or<ApiKeyPolicy, JwtPolicy>;

/// What such a server needs: the stores, the key resolver, the token signer, and the roles.
pub(crate) struct Given {
    pub(crate) stores: Stores,
    pub(crate) keys: KeyResolver,
    pub(crate) secret: SigningSecret,
    pub(crate) roles: RoleSet,
}

/// Runs the command: creates and prints a credential, or serves to the end.
pub(crate) async fn main(name: &str, serve: impl AsyncFnOnce(&Given) -> Result<(), StartError>) {
    support::log_to_stderr();
    if let Err(error) = run(name, serve).await {
        tracing::error!(%error, "the server ends");
        std::process::exit(1);
    }
}

async fn run(
    name: &str,
    serve: impl AsyncFnOnce(&Given) -> Result<(), StartError>,
) -> Result<(), StartError> {
    let roles = RoleSet::viewer_operator_admin();
    let command = Command::of_process(&roles)?;
    let stores = Stores::open(name).await?;
    let secret = stores.signing_secret()?;
    let (ring, keys) = stores.keyring(KeyFormat::builder("demo").build()?);
    let given = Given {
        stores,
        keys,
        secret,
        roles,
    };
    match command {
        Command::Key(wanted) => {
            println!("{}", generate::key(wanted, &given.stores, ring).await?);
        }
        Command::Token(wanted) => println!("{}", generate::token(&wanted, &given.secret)?),
        Command::Serve => serve(&given).await?,
    }
    Ok(given.stores.close().await?)
}

/// Limits by address and by caller; authentication; permissions, which are checked before any money
/// is held, so refused calls cost nothing; and prices. A call with an `Idempotency-Key` that is
/// repeated is charged once.
pub(crate) fn gate(
    given: &Given,
    permissions: RouteTable,
    prices: PriceTable,
) -> Result<TollgateBuilder<Known>, StartError> {
    let client = client_address()?;
    let tokens = TokenVerifier::hs256(given.secret.expose()).build()?;
    let per_ip = Quota::per_minute(limit("IP_RATE_LIMIT_PER_MINUTE", 6_000)?);
    let per_caller = Quota::per_minute(limit("KEY_RATE_LIMIT_PER_MINUTE", 600)?);
    let keys = ApiKeyLayer::new(given.keys.clone()).client_address(client.clone());
    let spending = SpendingLimitLayer::new(Arc::clone(&given.stores.ledger), prices)
        .idempotency_keys(IdempotencyKeys::new());
    Ok(given
        .stores
        .limits
        .share_all(Tollgate::builder())
        .cover_plain_errors()
        .client_address(client)
        .per_client_ip(per_ip)
        .authenticate(keys.or(JwtLayer::new(tokens)))
        .per_principal(per_caller)
        .authorize(RbacLayer::routes(&given.roles, permissions))
        .with_spending(spending))
}

//! What the two small servers have in common: keys like `demo_…`, and a gate that takes them or tokens.

use std::sync::Arc;

use tollgate::{
    ApiKeyLayer, JwtLayer, PriceTable, RbacLayer, Tollgate, TollgateBuilder,
    api_key::ApiKeyPolicy,
    guard::Or,
    jwt::JwtPolicy,
    key::KeyFormat,
    keyring::{KeyResolver, Keyring},
    quota::Quota,
    token::{SigningSecret, TokenVerifier},
};

use super::support::{StartError, Stores, client_address, limit};

/// Who is known, by key or by token.
pub(crate) type Known = Or<ApiKeyPolicy, JwtPolicy>;

pub(crate) fn keys(stores: &Stores) -> Result<(Keyring, KeyResolver), StartError> {
    Ok(stores.keyring(KeyFormat::builder("demo").build()?))
}

/// Limits by address and by caller; who calls; what they may, which is asked before any money is, so that what a role may not do
/// costs nobody anything; and what it costs.
pub(crate) fn gate(
    stores: &Stores,
    keys: KeyResolver,
    secret: &SigningSecret,
    permissions: RbacLayer,
    prices: PriceTable,
) -> Result<TollgateBuilder<Known>, StartError> {
    let client = client_address()?;
    let tokens = TokenVerifier::hs256(secret.expose()).build()?;
    let per_ip = Quota::per_minute(limit("IP_RATE_LIMIT_PER_MINUTE", 6_000)?);
    let per_caller = Quota::per_minute(limit("KEY_RATE_LIMIT_PER_MINUTE", 600)?);
    let keys = ApiKeyLayer::new(keys).client_address(client.clone());
    Ok(stores
        .limits
        .share_all(Tollgate::builder())
        .cover_plain_errors()
        .client_address(client)
        .per_client_ip(per_ip)
        .authenticate(keys.or(JwtLayer::new(tokens)))
        .per_principal(per_caller)
        .authorize(permissions)
        .spending(Arc::clone(&stores.ledger), prices))
}

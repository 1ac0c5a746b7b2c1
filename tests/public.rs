//! What may be handed from thread to thread, cloned and shown: all that servers keep.

use std::fmt::Debug;

use tollgate::{
    ApiKeyLayer, AuditLayer, AuthenticateLayer, BodyDigestLayer, DeadlineLayer, DenialsLayer,
    DrainLayer, IpAllowLayer, JwtLayer, PriceTable, Principal, RateLimitLayer, RbacLayer,
    RequestIdLayer, SessionCookieLayer, SpendingLimitLayer,
    audit::AuditTrail,
    denial::Denial,
    key::{KeyFormat, KeyRecord},
    keyring::{KeyResolver, Keyring, KeyringError},
    login::{LoginError, Logins, SessionResolver},
    money::Money,
    quota::Quotas,
    role::RoleSet,
    store::{
        FileKeyStore, KeyStore, Ledger, MemoryRateLimiter, MemoryStore, SessionStore, StaticKeys,
        StoreError, StoreFuture, UserStore,
    },
    token::{TokenIssuer, TokenVerifier},
    usage::{Hold, UsageEntry},
};

fn is_kept<T: Clone + Debug + Send + Sync + 'static>() {}

fn is_sent<T: Debug + Send + 'static>() {}

fn is_an_error<T: std::error::Error + Send + Sync + 'static>() {}

#[test]
fn what_servers_keep_is_cloned_shown_and_shared() {
    is_kept::<ApiKeyLayer>();
    is_kept::<AuditLayer>();
    is_kept::<AuthenticateLayer>();
    is_kept::<BodyDigestLayer>();
    is_kept::<DeadlineLayer>();
    is_kept::<DenialsLayer>();
    is_kept::<DrainLayer>();
    is_kept::<IpAllowLayer>();
    is_kept::<JwtLayer>();
    is_kept::<RateLimitLayer>();
    is_kept::<RbacLayer>();
    is_kept::<RequestIdLayer>();
    is_kept::<SessionCookieLayer>();
    is_kept::<SpendingLimitLayer>();
    is_kept::<(Principal, Denial, Money, Quotas, RoleSet, PriceTable)>();
    is_kept::<(KeyFormat, KeyRecord, KeyResolver, SessionResolver)>();
    is_kept::<(MemoryStore, FileKeyStore, StaticKeys, UsageEntry)>();
    is_kept::<(TokenVerifier, Logins)>();
    #[cfg(feature = "sqlite")]
    is_kept::<tollgate::store::SqliteStore>();
    #[cfg(feature = "postgres")]
    is_kept::<tollgate::store::PostgresStore>();
    #[cfg(feature = "redis")]
    is_kept::<(
        tollgate::store::RedisRateLimiter,
        tollgate::store::RedisLedger,
        tollgate::store::RedisSessions,
    )>();
}

#[test]
fn what_is_made_once_or_waited_for_goes_from_thread_to_thread() {
    is_sent::<(Keyring, TokenIssuer, MemoryRateLimiter, AuditTrail)>();
    is_sent::<(Hold, StoreFuture<KeyRecord>)>();
    is_an_error::<StoreError>();
    is_an_error::<KeyringError>();
    is_an_error::<LoginError>();
}

/// One store is handed to several builders.
#[test]
fn a_store_is_shared() {
    fn keeps<S: KeyStore + UserStore + SessionStore + Ledger>() {}
    keeps::<std::sync::Arc<MemoryStore>>();
}

//! Tower layers that stand in front of a service and ask whoever comes: who are you, may you, and can you pay.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod cache;
mod domain;

pub mod api_key;
#[cfg(feature = "axum")]
pub mod axum;
pub mod denials;
pub mod guard;
pub mod jwt;
pub mod keyring;
pub mod login;
pub mod rate_limit;
pub mod rbac;
pub mod request_id;
pub mod spending_limit;
pub mod store;
pub mod token;
#[cfg(feature = "tonic")]
pub mod tonic;
mod wire;

pub use api_key::ApiKeyLayer;
pub use builder::{NoAuthentication, Tollgate, TollgateBuilder, TollgateError, TollgateLayer};
pub use cache::CacheStatistics;
pub use denials::DenialsLayer;
pub use domain::{
    books, budget, clock,
    credential::CredentialKind,
    denial, key, money, network,
    principal::{Principal, PrincipalBuilder},
    quota, role, usage, user,
};
pub use jwt::JwtLayer;
pub use rate_limit::RateLimitLayer;
pub use rbac::RbacLayer;
pub use request_id::RequestIdLayer;
pub use spending_limit::{Charge, Price, PriceTable, SpendingLimitLayer, TokenBound};
pub use wire::{
    AddressError, ClientAddress, DenialBody, DenialContext, DenialFormat, Denials, ForwardedHeader,
    PeerAddress, RenderDenial, RequestHead, RequestId,
};

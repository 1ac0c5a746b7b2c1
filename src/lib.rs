//! Tower layers that stand in front of a service and ask whoever comes: who are you, may you, and can you pay.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod cache;
mod domain;
pub mod store;

pub use cache::CacheStatistics;
pub use domain::{
    books, budget, clock, denial,
    denial::CredentialKind,
    key, money,
    principal::{Principal, PrincipalBuilder},
    quota, role, usage, user,
};
pub mod guard;
mod wire;

pub use wire::{
    AddressError, ClientAddress, DenialBody, DenialContext, DenialFormat, Denials, ForwardedHeader,
    PeerAddress, RenderDenial, RequestHead, RequestId,
};

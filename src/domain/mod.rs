//! Floor 0: plain values and rules. No async, no I/O, and nothing of HTTP except the header values
//! that describe quotas.

pub(crate) mod audit;
pub mod books;
pub mod budget;
pub(crate) mod charge;
pub mod clock;
pub(crate) mod credential;
pub mod denial;
pub mod key;
pub(crate) mod masked;
pub mod money;
pub mod network;
pub(crate) mod page;
pub(crate) mod principal;
pub mod quota;
pub mod role;
pub mod usage;
pub mod user;

mod budgets;
mod id;
pub(crate) mod json;
mod request_id;

pub use id::{AccountId, BudgetId, InvalidId, KeyId, SessionId, UserId};
pub(crate) use id::{has_nul, is_deceptive};
pub use request_id::RequestId;

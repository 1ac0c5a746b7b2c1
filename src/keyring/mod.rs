//! Floor 2: the life of API keys. [`Keyring`] creates, lists, changes and revokes them;
//! [`KeyResolver`] finds them, from memory if they were used recently.

mod bounds;
mod builder;
mod changes;
mod delegated;
mod error;
mod forms;
mod hash_migration;
mod hashing;
mod import;
mod interner;
mod listing;
mod new_key;
mod refusal;
mod resolved;
mod resolver;
mod revocation;
mod ring;
mod suspension;

#[cfg(test)]
mod tests;

pub use builder::KeyResolverBuilder;
pub use error::KeyringError;
pub use hashing::{InvalidPepper, Pepper};
pub use new_key::NewKey;
pub use refusal::KeyRefusal;
pub use resolved::ResolvedKey;
pub use resolver::{KeyResolver, PendingKey, Resolution};
pub use ring::Keyring;

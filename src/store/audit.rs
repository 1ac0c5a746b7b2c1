//! The trait of every audit log.

use std::{fmt, sync::Arc};

use super::{Page, Paged, StoreError, StoreFuture};
use crate::domain::audit::{AuditEntry, AuditEvent, AuditFilter};

/// Keeps the audit log: appended to, read newest first, and pruned by age and count, oldest first.
///
/// Three shares are pruned independently:
///
/// - **Acts**: changes of users and keys, and what the application records. Their number is
///   configurable, and a caller who can perform no acts can't push any out.
/// - **Events caused by known callers**: authentications, logins and refusals. The same number
///   again, in eight parts; callers are assigned to parts by name, so that one caller can push out
///   at most the events of an eighth of all callers.
/// - **Refusals of strangers** ([`AuditEvent::is_of_a_stranger`]): half as many again.
///
/// They don't crowd each other out of the write queue either: strangers may take up to half of it,
/// and callers up to three quarters.
pub trait AuditLog: fmt::Debug + Send + Sync + 'static {
    /// Queues an event to be written soon. It must not block.
    ///
    /// # Errors
    /// `Busy` or `Unavailable`: the event was not accepted.
    fn append(&self, event: AuditEvent) -> Result<(), StoreError>;

    /// The entries that match `filter`, newest first by time; everything appended before is
    /// included.
    fn entries(&self, filter: AuditFilter, page: Page) -> StoreFuture<Paged<AuditEntry>>;

    /// How many events were accepted but could not be written.
    fn lost(&self) -> u64 {
        0
    }
}

impl<T: AuditLog + ?Sized> AuditLog for Arc<T> {
    fn append(&self, event: AuditEvent) -> Result<(), StoreError> {
        T::append(self, event)
    }

    fn entries(&self, filter: AuditFilter, page: Page) -> StoreFuture<Paged<AuditEntry>> {
        T::entries(self, filter, page)
    }

    fn lost(&self) -> u64 {
        T::lost(self)
    }
}

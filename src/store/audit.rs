//! The trait of every audit log.

use std::{fmt, sync::Arc};

use super::{Page, Paged, StoreError, StoreFuture};
use crate::domain::audit::{AuditEntry, AuditEvent, AuditFilter};

/// Keeps the audit log: appended to, read newest first, and cut off at its oldest end by age and number.
///
/// Three kinds are cut off each for itself:
///
/// - **Acts**, changes of users, keys and what the application records: the number that is set, and whoever may do none pushes
///   none of them out.
/// - **What callers bring about who are known**, authentications, logins and refusals: as many again, in eight parts among
///   which callers are shared out by their names, so that one of them pushes out what an eighth of all callers did at most.
/// - **Refusals of strangers** ([`AuditEvent::is_of_a_stranger`]): half as many again.
///
/// Nor do they take each other's places where events wait to be written: strangers may take half of these, and callers three quarters.
pub trait AuditLog: fmt::Debug + Send + Sync + 'static {
    /// Hands an event over to be written soon. It must not block.
    ///
    /// # Errors
    /// `Busy` or `Unavailable`: the event isn't taken.
    fn append(&self, event: AuditEvent) -> Result<(), StoreError>;

    /// The entries that `filter` wants, newest first by their times; everything appended before is among them.
    fn entries(&self, filter: AuditFilter, page: Page) -> StoreFuture<Paged<AuditEntry>>;

    /// How many events were taken and could not be written after all.
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

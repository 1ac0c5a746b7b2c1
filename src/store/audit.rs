//! The trait of every audit log.

use std::{fmt, sync::Arc};

use super::{Page, Paged, StoreError, StoreFuture};
use crate::domain::audit::{AuditEntry, AuditEvent, AuditFilter};

/// Keeps the audit log: appended to, read newest first, and cut off at its oldest end by age and number.
///
/// Refusals of strangers ([`AuditEvent::is_of_a_stranger`]) are cut off for themselves: they have a number of
/// their own, half as large, and at most half of the places where events wait. However many there are, they push
/// out no act, and nothing that callers did who are known.
pub trait AuditLog: fmt::Debug + Send + Sync + 'static {
    /// Hands an event over to be written soon. It must not block.
    ///
    /// # Errors
    /// `Busy` or `Unavailable`: the event isn't taken.
    fn append(&self, event: AuditEvent) -> Result<(), StoreError>;

    /// The entries that `filter` wants, newest first; everything appended before is among them.
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

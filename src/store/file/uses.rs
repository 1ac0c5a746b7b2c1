//! The times of last use, which are written to the file later.

use std::sync::{Arc, PoisonError};

use hashbrown::HashMap;
use tokio::{runtime::Handle, task::AbortHandle, time::sleep};

use super::{Content, FileKeyStore, Inner, Memory};
use crate::{
    domain::{KeyId, clock::Timestamp, key::KeyRecord},
    repeats::LogLine,
    store::StoreError,
};

impl Memory {
    /// A use that is not in the file yet can be later than the one in it.
    pub(super) fn add_use(&self, record: &mut KeyRecord) {
        let noted = self.touched.get(&record.id).copied();
        record.last_used_at = record.last_used_at.max(noted);
    }
}

impl FileKeyStore {
    /// Writes the times of last use that are not in the file yet: call it before the process ends.
    /// If there are none, the file isn't touched.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn flush(&self) -> Result<(), StoreError> {
        if self.0.memory().touched.is_empty() {
            return Ok(());
        }
        self.change(|_| Ok(())).await
    }

    /// Remembers a use of a key that is in the file, and sees to it that it is written.
    pub(super) fn note_use(&self, id: &KeyId, at: Timestamp) {
        let mut memory = self.0.memory();
        let known = match &memory.content {
            Some(Content {
                document: Ok(document),
                ..
            }) => document.contains(id),
            _ => false,
        };
        if !known {
            return;
        }
        let noted = memory.touched.entry(id.clone()).or_insert(at);
        *noted = at.max(*noted);
        let is_awaited = memory
            .writer
            .as_ref()
            .is_some_and(|writer| !writer.is_finished());
        if !is_awaited && let Ok(runtime) = Handle::try_current() {
            memory.writer = Some(self.write_uses_on(&runtime));
        }
    }

    /// Writes the recorded uses after each interval until there are none, and ends with the store.
    fn write_uses_on(&self, runtime: &Handle) -> AbortHandle {
        let (store, interval) = (Arc::downgrade(&self.0), self.0.touch_interval);
        let writing = async move {
            loop {
                sleep(interval).await;
                let Some(inner) = store.upgrade() else { return };
                let flushed = Self(Arc::clone(&inner)).flush().await;
                let now = inner.clock.elapsed();
                if let Err(error) = flushed
                    && let Some(LogLine { left_out }) = inner.unwritten_uses.failed(&error, now)
                {
                    tracing::warn!(target: "tollgate", %error, left_out, "times of last use could not be written");
                }
                let mut memory = inner.memory();
                if memory.touched.is_empty() {
                    memory.writer = None;
                    return;
                }
            }
        };
        runtime.spawn(writing).abort_handle()
    }
}

impl Inner {
    pub(super) fn forget_touches(&self, written: &HashMap<KeyId, Timestamp>) {
        let mut memory = self.memory();
        memory
            .touched
            .retain(|id, at| written.get(id).is_none_or(|written| written < at));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let memory = self.memory.get_mut();
        let memory = memory.unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = memory.writer.take() {
            writer.abort();
        }
    }
}

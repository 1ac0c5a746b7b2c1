//! The end of a writer: it writes what it can, and leaves nothing open.

use std::mem;

use super::{super::convert::Failure, Writer};
use crate::store::{StoreError, StoreErrorKind};

/// Steps in which a closing writer resolves open holds: more than can be needed.
const LEAVING_STEPS: u32 = 10_000;

impl Writer<'_> {
    /// An orderly end: no open holds except those whose settlement can't be written, no row of this
    /// instance, no write-ahead log.
    pub(super) fn leave(&mut self) {
        self.try_all_apart();
        self.unit.settings.tenure.end();
        for _ in 0..LEAVING_STEPS {
            let left = self.unit.begin().and_then(|()| {
                // A disk that accepts this accepts what it refused before.
                for command in &mut self.again {
                    command.run(&mut self.unit)?;
                }
                let all_done = self.unit.leave()?;
                self.unit.commit()?;
                Ok(all_done)
            });
            match left {
                Ok(all_done) => {
                    let alerts = mem::take(&mut self.unit.alerts);
                    self.unit.settings.alerts.tell(alerts);
                    let mut again = mem::take(&mut self.again);
                    self.succeed(&mut again);
                    self.answers.finish();
                    if all_done {
                        break;
                    }
                }
                Err(failure) => {
                    self.unit.roll_back();
                    let error = failure.0;
                    tracing::warn!(target: "tollgate::sqlite", %error, "can't take leave");
                    break;
                }
            }
        }
        self.give_up();
        self.give_up_apart();
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        if let Err(error) = self
            .unit
            .connection
            .query_row(checkpoint, [], |_| Ok(()))
            .map_err(Failure::from)
        {
            let error = error.0;
            tracing::warn!(target: "tollgate::sqlite", %error, "can't empty the write-ahead log");
        }
    }

    fn give_up(&mut self) {
        if self.again.is_empty() {
            return;
        }
        tracing::error!(
            target: "tollgate::sqlite",
            settlements = self.again.len(),
            "closed without having written what the disk refused"
        );
        let closed = StoreError::new(
            StoreErrorKind::Unavailable,
            "the store was closed before this could be written",
        );
        for command in mem::take(&mut self.again) {
            self.fail_one(command, &closed);
        }
    }
}

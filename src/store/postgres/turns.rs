//! Requests that create keys wait here for others of the same owner, before they take a connection:
//! a transaction that waits for the owner's lock occupies one, and a burst from one owner would
//! occupy them all.

use std::{hash::BuildHasher, time::Duration};

use hashbrown::DefaultHashBuilder;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{busy, convert::Failure};

/// Owners are hashed onto this many turns; owners that share one wait for each other unnecessarily.
const TURNS: u64 = 64;
/// How many may queue for one turn, including its holder.
const QUEUE_MAX: usize = 512;

pub(super) struct Turns {
    turns: Vec<Turn>,
    hasher: DefaultHashBuilder,
}

struct Turn {
    queue: Semaphore,
    holder: Semaphore,
}

/// The slot in the queue and the turn itself; held until the transaction ends.
pub(super) type Taken<'a> = (SemaphorePermit<'a>, SemaphorePermit<'a>);

impl Turns {
    pub(super) fn new() -> Self {
        let turn = |_| Turn {
            queue: Semaphore::new(QUEUE_MAX),
            holder: Semaphore::new(1),
        };
        Self {
            turns: (0..TURNS).map(turn).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Waits for the owner's turn.
    ///
    /// # Errors
    /// `Busy` if the turn wasn't free within `patience`, or too many wait already; nothing was sent
    /// to the database.
    pub(super) async fn take(&self, owner: &str, patience: Duration) -> Result<Taken<'_>, Failure> {
        let turn = self.hasher.hash_one(owner).checked_rem(TURNS);
        let turn = turn.and_then(|turn| self.turns.get(usize::try_from(turn).ok()?));
        let Turn { queue, holder } = turn.ok_or_else(busy)?;
        let place = queue.try_acquire().map_err(|_| busy())?;
        match timeout(patience, holder.acquire()).await {
            Ok(Ok(turn)) => Ok((place, turn)),
            _ => Err(busy().into()),
        }
    }
}

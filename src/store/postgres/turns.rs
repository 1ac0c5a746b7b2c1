//! Whoever makes a key waits here for others of the same owner, before a connection is taken: a transaction that waits for the
//! owner's lock has one, and one owner's crowd would have them all.

use std::{hash::BuildHasher, time::Duration};

use hashbrown::DefaultHashBuilder;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{busy, convert::Failure};

/// So many owners at a time; those who share a turn wait for each other without need.
const TURNS: u64 = 64;
/// How many wait for one turn, with who has it.
const LINE_MAX: usize = 512;

pub(super) struct Turns {
    turns: Vec<Turn>,
    hasher: DefaultHashBuilder,
}

struct Turn {
    line: Semaphore,
    one: Semaphore,
}

/// A place in the line, and the turn; held until the transaction ends.
pub(super) type Taken<'a> = (SemaphorePermit<'a>, SemaphorePermit<'a>);

impl Turns {
    pub(super) fn new() -> Self {
        let turn = |_| Turn {
            line: Semaphore::new(LINE_MAX),
            one: Semaphore::new(1),
        };
        Self {
            turns: (0..TURNS).map(turn).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The turn of an owner.
    ///
    /// # Errors
    /// `Busy` for whoever got none within that time, or has too many before it: nothing was asked of the database.
    pub(super) async fn take(&self, owner: &str, patience: Duration) -> Result<Taken<'_>, Failure> {
        let turn = self.hasher.hash_one(owner).checked_rem(TURNS);
        let turn = turn.and_then(|turn| self.turns.get(usize::try_from(turn).ok()?));
        let Turn { line, one } = turn.ok_or_else(busy)?;
        let place = line.try_acquire().map_err(|_| busy())?;
        match timeout(patience, one.acquire()).await {
            Ok(Ok(turn)) => Ok((place, turn)),
            _ => Err(busy().into()),
        }
    }
}

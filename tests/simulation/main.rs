//! The ledger under a seeded world: clients that come, leave and die at any await, replies that are
//! lost between the write and the answer, calls that come twice, clocks that are set. After every
//! step the books are compared with an oracle that keeps them in another way.
//!
//! What is checked:
//! 1. when a hold is granted, settled + held ≤ limit in every window, those that roll too, and what
//!    was set aside was there;
//! 2. deposits and corrections + credit line = available + held + settled;
//! 3. every hold ends exactly once, and none is left in the end;
//! 4. the sum of the usage log is the sum of what was settled.
//!
//! `SIMULATION_SEEDS=1000 SIMULATION_STEPS=1000` sets how much; `SIMULATION_FIRST_SEED` repeats a
//! failure.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a simulation that fails ends, and its numbers are small"
)]

mod calls;
mod dice;
mod oracle;
#[macro_use]
#[path = "../support/passing.rs"]
mod passing;
mod watched;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use world::World;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap())
}

#[test]
fn the_books_hold_whatever_happens() {
    let seeds = setting("SIMULATION_SEEDS", 1_000);
    let steps = setting("SIMULATION_STEPS", 1_000);
    let first = setting("SIMULATION_FIRST_SEED", 0);
    let next = AtomicU64::new(first);
    let run = || {
        let mut tally = world::Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return tally;
            }
            let caught = std::panic::catch_unwind(|| World::new(seed).run(steps));
            match caught {
                Ok(of_seed) => tally.add(&of_seed),
                Err(panic) => {
                    eprintln!(
                        "SIMULATION_FIRST_SEED={seed} SIMULATION_SEEDS=1 repeats this failure"
                    );
                    std::panic::resume_unwind(panic);
                }
            }
        }
    };
    let tally = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(run)).collect();
        let mut sum = world::Tally::default();
        for thread in threads {
            sum.add(&thread.join().unwrap());
        }
        sum
    });
    eprintln!("{seeds} seeds of {steps} steps: {tally:?}");
    // A world in which something never happens proves nothing about it.
    if seeds >= 100 {
        tally.assert_all_happened();
    }
}

#[test]
fn a_seed_says_the_same_twice() {
    let once = World::new(7).run(500);
    assert_eq!(once, World::new(7).run(500));
}

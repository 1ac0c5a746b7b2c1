//! Chance, from a seed alone (SplitMix64).

use std::sync::{Arc, Mutex};

#[derive(Clone)]
pub(crate) struct Dice(Arc<Mutex<u64>>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(
            seed.wrapping_mul(0x2545_F491_4F6C_DD1D),
        )))
    }

    fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `sides`.
    pub(crate) fn roll(&self, sides: u64) -> u64 {
        self.next() % sides
    }

    pub(crate) fn between(&self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.roll(u64::try_from(high - low).unwrap() + 1)).unwrap()
    }

    pub(crate) fn one_in(&self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    pub(crate) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.roll(from.len() as u64)).unwrap()]
    }
}

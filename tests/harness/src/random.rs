//! Random numbers that are the same for the same seed, and the number of seeds that a test tries.

use std::env;
use std::ops::Range;

/// SplitMix64: a short generator with the same numbers for the same seed.
pub struct Random(u64);

impl Random {
    /// Returns a generator that starts with the first number of this seed.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number from 0 to below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// Returns one of the items. The probability of an item is proportional to its weight.
    pub fn weighted<T: Copy>(&mut self, items: &[(usize, T)]) -> T {
        let mut drawn = self.below(items.iter().map(|(weight, _)| weight).sum());
        let item = items.iter().find(|(weight, _)| {
            let found = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            found
        });
        item.expect("the drawn number is less than the sum of all weights")
            .1
    }

    /// Returns one of the items.
    pub fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// Returns the seeds that a test tries: `count` seeds, or the number in `REDELIVER_SEEDS`.
pub fn seeds(count: u64) -> Range<u64> {
    let wanted = env::var("REDELIVER_SEEDS")
        .ok()
        .map(|text| text.parse().expect("REDELIVER_SEEDS is a whole number"));
    0..wanted.unwrap_or(count)
}

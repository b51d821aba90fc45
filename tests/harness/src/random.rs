//! Chance that comes the same way for the same seed, and how many seeds a test tries.

use std::env;
use std::ops::Range;

/// SplitMix64: a few lines, and the same run for the same seed.
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// One of the items, each as likely as its weight says.
    pub fn weighted<T: Copy>(&mut self, items: &[(usize, T)]) -> T {
        let mut drawn = self.below(items.iter().map(|(weight, _)| weight).sum());
        let item = items.iter().find(|(weight, _)| {
            let found = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            found
        });
        item.expect("what is drawn is less than all weights together")
            .1
    }

    /// One of the items.
    pub fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// The seeds that a test tries: `count` of them, or as many as `REDELIVER_SEEDS` says.
pub fn seeds(count: u64) -> Range<u64> {
    let wanted = env::var("REDELIVER_SEEDS")
        .ok()
        .map(|text| text.parse().expect("REDELIVER_SEEDS is a whole number"));
    0..wanted.unwrap_or(count)
}

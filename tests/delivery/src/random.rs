//! Chance that can be repeated: a small generator whose seed is printed, because the output of a failed
//! test is shown and that of a passed one is not.

use std::env;

/// The variable that fixes the seed of all random tests.
pub const SEED_VARIABLE: &str = "LAGO_PUSH_SEED";

/// `SplitMix64`: every seed is a good one, and its whole state fits in one word.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded from the environment, else with `default`. Tests pass a constant: chance is there to mix
    /// things up, not to make one run differ from the next.
    pub fn seeded(default: u64) -> Self {
        let seed = env::var(SEED_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
        eprintln!("random seed: {SEED_VARIABLE}={seed}");
        Self(seed)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

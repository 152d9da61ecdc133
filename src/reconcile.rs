//! Reconcile: what was captured, held against what Lago says it has.
//!
//! Beside the row's journey, after its end. Pure. It promises that an event is called missing only if
//! nothing is known of it here or there, and that of each of a million events it keeps less than a
//! hundred bytes.
//!
//! - [`event`]: what of an event is compared, from either side
//! - [`expected`]: the events that should be in Lago, and which of them were seen there
//! - [`listing`]: every event of a period, whatever arrives meanwhile
//! - [`answer`]: what Lago's answer to such a question means
//! - [`pace`]: how fast it may be asked
//! - [`outline`]: what a template tells of its events before the first row
#![forbid(unsafe_code)]

pub mod answer;
pub mod event;
pub mod expected;
pub mod listing;
pub mod outline;
pub mod pace;
#[cfg(test)]
mod tests;

/// A period in Unix milliseconds, of which the end is not a part. Lago shows no finer time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub from_ms: i64,
    pub to_ms: i64,
}

/// The years 1 to 9999: what ISO 8601 writes with four digits.
const FIRST_MS: i64 = -62_135_596_800_000;
const LAST_MS: i64 = 253_402_300_799_999;

impl Period {
    /// From and to in Unix microseconds; what is between two milliseconds is rounded outwards.
    pub fn of_micros(from: i64, to: i64) -> Period {
        let clamp = |ms: i64| ms.clamp(FIRST_MS, LAST_MS);
        let up = to.div_euclid(1000).saturating_add(i64::from(to.rem_euclid(1000) > 0));
        Period { from_ms: clamp(from.div_euclid(1000)), to_ms: clamp(up) }
    }

    pub fn holds_micros(&self, micros: i64) -> bool {
        self.holds_ms(micros.div_euclid(1000))
    }

    pub fn holds_ms(&self, ms: i64) -> bool {
        (self.from_ms..self.to_ms).contains(&ms)
    }
}

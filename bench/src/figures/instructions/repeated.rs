//! What one repetition takes, from doing a thing a few times and many times.
//!
//! Whatever is done once, however often the thing is done, is in both and cancels out.

use crate::failure::Outcome;
use crate::figures::counted_as_float;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub few: usize,
    pub many: usize,
}

/// `count` does it so many times, and says how many instructions all of it took.
pub fn of_one(times: Times, mut count: impl FnMut(usize) -> Outcome<u64>) -> Outcome<f64> {
    let (few, many) = (as_float(count(times.few)?), as_float(count(times.many)?));
    Ok((many - few) / counted_as_float(times.many - times.few))
}

/// Exact enough: there are fewer than 2^53 instructions in hours.
#[expect(clippy::cast_precision_loss, reason = "no count is that large")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_once_cancels_out() {
        let times = Times { few: 10, many: 30 };
        let one = of_one(times, |number| Ok(1_000_000 + 250 * number as u64));
        assert_eq!(one.ok(), Some(250.0));
    }
}

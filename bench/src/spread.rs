//! Several measurements of one thing, summed up: the median, and how far they lie apart.

use std::time::{Duration, SystemTime};

/// Median and extremes. On a machine with other things to do, the extremes say how far the median can be
/// trusted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of nothing, all three are not a number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match (sorted.get(middle), sorted.len().is_multiple_of(2)) {
            (Some(upper), true) => f64::midpoint(sorted[middle - 1], *upper),
            (Some(only), false) => *only,
            (None, _) => f64::NAN,
        };
        let at = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Self { median, min: at(sorted.first()), max: at(sorted.last()) }
    }
}

/// The smallest value that at least `percent` of all values do not exceed; zero of none.
pub fn percentile(values: &[f64], percent: u32) -> f64 {
    quantile(values, percent * 10)
}

/// The same in thousandths.
pub fn quantile(values: &[f64], per_mille: u32) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * per_mille as usize).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Below zero if `to` was before `from`.
pub fn signed_milliseconds(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(later) => milliseconds(later),
        Err(earlier) => -milliseconds(earlier.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert!(Spread::of([]).median.is_nan());
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 99), 99.0);
        assert_eq!(percentile(&hundred, 50), 50.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert_eq!(percentile(&[], 50), 0.0);
        let thousand: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(quantile(&thousand, 999), 999.0);
        assert_eq!(quantile(&hundred, 999), 100.0);
    }
}

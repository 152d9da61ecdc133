//! Portion: how many rows are fetched together.
//!
//! Beside reading. Pure. Many where they are small, since each fetch costs; few where they are large, so that what is
//! held stays within bounds whatever somebody's rows hold.
#![forbid(unsafe_code)]

const MOST_ROWS: u16 = 1000;
/// Nothing is known of the first rows yet.
const FIRST_ROWS: u16 = 20;
const BYTES: usize = 4 << 20;

/// The next portion, by those before it.
#[derive(Clone, Copy, Debug)]
pub struct Portion(u16);

impl Portion {
    pub fn first() -> Portion {
        Portion(FIRST_ROWS)
    }

    pub fn rows(self) -> u16 {
        self.0
    }

    /// After so many rows of so many bytes in all.
    pub fn after(rows: usize, bytes: usize) -> Portion {
        let of_one = bytes.div_ceil(rows.max(1)).max(1);
        let fitting = u16::try_from(BYTES / of_one).unwrap_or(u16::MAX);
        Portion(fitting.clamp(1, MOST_ROWS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_rows_come_many_at_a_time_and_huge_ones_alone() {
        assert_eq!(Portion::after(20, 20 * 100).rows(), MOST_ROWS);
        assert_eq!(Portion::after(1000, 1000 * 1024 * 1024).rows(), 4);
        assert_eq!(Portion::after(1, 1 << 30).rows(), 1);
        assert_eq!(Portion::after(0, 0).rows(), MOST_ROWS);
    }

    proptest! {
        #[test]
        fn as_many_rows_of_that_size_fit(rows in 1usize..2000, of_one in 1usize..10_000_000) {
            let next = usize::from(Portion::after(rows, rows * of_one).rows());
            prop_assert!(next == 1 || next * of_one <= BYTES);
        }
    }
}

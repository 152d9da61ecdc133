//! One short run of pgbench, and the runs without a trigger that it stands between.
//!
//! Rates jump about from one second to the next. So each turn is held against the mean of the turn before it
//! and the turn after it, both without a trigger: what changes slowly meets all three alike.

use std::time::Duration;

use super::counted_as_float;
use super::processor_time::Server;
use crate::failure::Outcome;
use crate::pgbench;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    pub per_second: f64,
    /// Of the server's processes, for one transaction.
    pub processor_microseconds: f64,
}

impl Turn {
    /// Runs pgbench, then what else belongs to its transactions, and divides.
    pub fn of(
        server: &Server,
        pgbench: impl FnOnce() -> Outcome<pgbench::Report>,
        afterwards: impl FnOnce(u64) -> Outcome<()>,
    ) -> Outcome<Self> {
        let before = server.used()?;
        let report = pgbench()?;
        afterwards(report.transactions)?;
        let used = server.used()?.saturating_sub(before);
        Ok(Self { per_second: report.per_second, processor_microseconds: each(used, report.transactions) })
    }

    fn mean(self, other: Self) -> Self {
        Self {
            per_second: f64::midpoint(self.per_second, other.per_second),
            processor_microseconds: f64::midpoint(self.processor_microseconds, other.processor_microseconds),
        }
    }
}

fn each(time: Duration, transactions: u64) -> f64 {
    time.as_secs_f64() * 1e6 / counted_as_float(usize::try_from(transactions).unwrap_or(usize::MAX))
}

/// A turn, and what no trigger makes of the same moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    pub turn: Turn,
    pub plain: Turn,
}

impl Compared {
    /// The share of the rate that is left.
    pub fn rate(&self) -> f64 {
        self.turn.per_second / self.plain.per_second
    }

    /// How many times the processor time.
    pub fn processor(&self) -> f64 {
        self.turn.processor_microseconds / self.plain.processor_microseconds
    }
}

/// Gives each of the runners a turn between two of `plain`.
pub fn between<R: Copy>(
    plain: R,
    runners: &[R],
    mut turn: impl FnMut(R) -> Outcome<Turn>,
) -> Outcome<Vec<Compared>> {
    let mut before = turn(plain)?;
    let mut compared = Vec::new();
    for runner in runners {
        let own = turn(*runner)?;
        let after = turn(plain)?;
        compared.push(Compared { turn: own, plain: before.mean(after) });
        before = after;
    }
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_held_against_its_two_neighbours() {
        let mut rates = [100.0, 60.0, 80.0, 35.0, 60.0].into_iter();
        let mut order = String::new();
        let compared = between('p', &['a', 'b'], |runner| {
            order.push(runner);
            let per_second = rates.next().unwrap_or_default();
            Ok(Turn { per_second, processor_microseconds: 1.0 })
        });
        let compared = compared.unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(order, "papbp");
        assert_eq!(compared.iter().map(Compared::rate).collect::<Vec<_>>(), [60.0 / 90.0, 0.5]);
    }
}

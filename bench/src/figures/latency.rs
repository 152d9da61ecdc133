//! How long a commit takes to reach Lago: when nothing else happens, and while others write.
//!
//! From the return of COMMIT in the client to the arrival of the request. Beside it, under the same conditions and in
//! turn with it, a request by hand: there and back, with the answer read.

mod idle;
mod loaded;

use std::time::Instant;

use super::Effort;
use super::ground::Ground;
use super::raw::{self, Connection};
use super::report::{Findings, Measurement};
use super::stand_in::API_KEY;
use crate::failure::Outcome;
use crate::spread::{milliseconds, quantile};

/// Fewer samples than this have no thousandth worth showing.
const FEWEST_FOR_A_THOUSANDTH: usize = 5_000;

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let mut findings = idle::measure(ground, effort)?;
    for load in loaded::LOADS {
        findings.extend(loaded::measure(ground, effort, load)?);
    }
    Ok(findings)
}

/// In milliseconds, of commits and of requests that took turns with them.
#[derive(Default)]
struct Samples {
    commits: Vec<f64>,
    round_trips: Vec<f64>,
}

impl Samples {
    /// What a commit takes beyond a request. Arrival is one way and the round trip two: it may be below zero.
    fn beyond(&self, part: Part) -> f64 {
        quantile(&self.commits, part.per_mille()) - quantile(&self.round_trips, part.per_mille())
    }

    fn parts(&self) -> Vec<Part> {
        let shown = |part: &Part| *part != Part::P999 || self.commits.len() >= FEWEST_FOR_A_THOUSANDTH;
        [Part::P50, Part::P99, Part::P999].into_iter().filter(shown).collect()
    }

    fn measurements(&self, when: &str) -> Vec<Measurement> {
        let of = |what: &str, values: &[f64], part: Part| {
            let what = format!("{when}, {what}, {}", part.name());
            Measurement::new(what, [quantile(values, part.per_mille())], "ms")
        };
        let commits = self.parts().into_iter().map(|part| of("COMMIT to arrival", &self.commits, part));
        let round_trips =
            self.parts().into_iter().map(|part| of("a request's round trip", &self.round_trips, part));
        commits.chain(round_trips).collect()
    }
}

/// The part of all samples that is not above the value shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    P50,
    P99,
    P999,
}

impl Part {
    fn per_mille(self) -> u32 {
        match self {
            Self::P50 => 500,
            Self::P99 => 990,
            Self::P999 => 999,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
        }
    }
}

/// The request by hand, with an event of its own each time.
struct ByHand {
    connection: Connection,
    sent: usize,
}

impl ByHand {
    fn new(connection: Connection) -> Self {
        Self { connection, sent: 0 }
    }

    /// Milliseconds, there and back.
    fn round_trip(&mut self) -> Outcome<f64> {
        self.sent += 1;
        let body = format!(
            "{{\"events\":[{{\"transaction_id\":\"by-hand-{}\",\"external_subscription_id\":\"sub_1\",\
             \"code\":\"usage\",\"timestamp\":1767225600.123456,\"properties\":{{\"amount\":\"12.50\"}}}}]}}",
            self.sent
        );
        let request = raw::request("POST", "/api/v1/events/batch", API_KEY, &body);
        let start = Instant::now();
        self.connection.exchange(&request)?;
        Ok(milliseconds(start.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousandth_is_shown_of_many_samples_only() {
        let samples = |count: usize| Samples { commits: vec![2.0; count], round_trips: vec![0.5; count] };
        assert_eq!(samples(4_999).parts(), [Part::P50, Part::P99]);
        assert_eq!(samples(5_000).parts(), [Part::P50, Part::P99, Part::P999]);
        assert_eq!(samples(10).beyond(Part::P99), 1.5);
    }
}

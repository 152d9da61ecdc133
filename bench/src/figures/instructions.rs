//! Instructions of one captured row and of one delivered event, which do not depend on the machine's mood.
//!
//! They are counted on a server of their own, which runs about fifty times slower under callgrind than by
//! itself, so it is set up before. Counts say what the processor is asked to do, and nothing of waiting: for
//! memory, for the disk, for the kernel.

mod callgrind;
mod captured;
mod delivered;
mod repeated;

use delivery::cluster::Cluster;

use super::Effort;
use super::ground::{Contestant, DATABASE, Ground, rotated};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use crate::failure::Outcome;
use crate::session::Session;
use crate::spread::Spread;
use captured::Runner;
use delivered::Delivery;
use repeated::Times;

/// The others would take as long again.
const IN_A_QUICK_RUN: [Contestant; 3] = [Contestant::Plain, Contestant::RowTrigger, Contestant::Ours];

struct Round {
    capture: Vec<(Runner, f64)>,
    delivery: Delivery,
}

impl Round {
    fn of(&self, runner: Runner) -> f64 {
        let found = self.capture.iter().find(|(other, _)| *other == runner);
        found.map_or(f64::NAN, |(_, instructions)| *instructions)
    }

    /// Triggers by what they add to the row or transaction that has none.
    fn added(&self, runner: Runner) -> f64 {
        match runner {
            Runner::Bulk(Contestant::Plain) | Runner::Single(Contestant::Plain) | Runner::Floor => {
                self.of(runner)
            }
            Runner::Bulk(_) => self.of(runner) - self.of(Runner::Bulk(Contestant::Plain)),
            Runner::Single(_) => self.of(runner) - self.of(Runner::Single(Contestant::Plain)),
        }
    }
}

pub fn measure(_ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    if !callgrind::is_installed() {
        eprint!("left out, as valgrind is not installed here … ");
        return Ok(Findings::default());
    }
    let rows = effort.choose(Times { few: 200, many: 1_200 }, Times { few: 1_000, many: 6_000 });
    let transactions = effort.choose(Times { few: 50, many: 250 }, Times { few: 200, many: 1_200 });
    let events = effort.choose(Times { few: 500, many: 2_000 }, Times { few: 2_000, many: 12_000 });

    let mut ground = Ground::on(Cluster::start(&callgrind::options()))?;
    captured::prepare(&mut ground, rows)?;
    callgrind::start_again(&ground.cluster);
    ground.db = Session::open(&ground.cluster, DATABASE)?;
    let mut contestants = ground.contestants();
    contestants.retain(|contestant| effort == Effort::Full || IN_A_QUICK_RUN.contains(contestant));
    let mut runners: Vec<Runner> = contestants.iter().copied().map(Runner::Bulk).collect();
    runners.push(Runner::Floor);
    runners.extend(contestants.into_iter().map(Runner::Single));

    let mut rounds = Vec::new();
    for number in 0..effort.choose(1, 3) {
        let mut capture = Vec::new();
        for runner in rotated(&runners, number) {
            let times = if matches!(runner, Runner::Single(_)) { transactions } else { rows };
            capture.push((runner, captured::measure(&mut ground, runner, times)?));
        }
        rounds.push(Round { capture, delivery: delivered::measure(&mut ground, events)? });
    }
    Ok(findings(&runners, &rounds))
}

const BULK: &str = "instructions capture adds to a row of a bulk insert";
const SINGLE: &str = "instructions capture adds to a single-row transaction";
const DELIVERED: &str = "instructions of the worker for a delivered event";
const COUNTED: &str = "nothing: a count";

fn findings(runners: &[Runner], rounds: &[Round]) -> Findings {
    use Contestant::{Ours, Plain, RowTrigger};
    let figure = |what, against, unit, value: &dyn Fn(&Round) -> f64| Figure {
        what,
        against,
        measured: Spread::of(rounds.iter().map(value)),
        unit,
        goal: Goal::None,
    };
    let counted = |what, value: &dyn Fn(&Round) -> f64| figure(what, COUNTED, Unit::Instructions, value);
    let ratio = |what, against, above, below| {
        figure(what, against, Unit::Times, &move |round| round.added(above) / round.added(below))
    };
    let figures = vec![
        counted(BULK, &|round| round.added(Runner::Bulk(Ours))),
        ratio(BULK, "PL/pgSQL row trigger", Runner::Bulk(Ours), Runner::Bulk(RowTrigger)),
        ratio(BULK, "copying ready-made payloads", Runner::Bulk(Ours), Runner::Floor),
        counted(SINGLE, &|round| round.added(Runner::Single(Ours))),
        ratio(SINGLE, "PL/pgSQL row trigger", Runner::Single(Ours), Runner::Single(RowTrigger)),
        ratio(SINGLE, "the transaction without a trigger", Runner::Single(Ours), Runner::Single(Plain)),
        counted(DELIVERED, &|round| round.delivery.main_thread + round.delivery.senders),
    ];
    let mut measurements = Vec::new();
    let mut measured = |what: String, value: &dyn Fn(&Round) -> f64| {
        measurements.push(Measurement::new(what, rounds.iter().map(value), "instructions"));
    };
    for runner in runners {
        measured(title(*runner), &|round| round.added(*runner));
    }
    measured("delivered event, worker's main thread".to_owned(), &|round| round.delivery.main_thread);
    measured("delivered event, threads that send".to_owned(), &|round| round.delivery.senders);
    Findings { figures, measurements }
}

fn title(runner: Runner) -> String {
    match runner {
        Runner::Bulk(Contestant::Plain) => "row of a bulk insert, no trigger".to_owned(),
        Runner::Bulk(contestant) => format!("row of a bulk insert, {} adds", contestant.name()),
        Runner::Floor => "copying a ready-made payload".to_owned(),
        Runner::Single(Contestant::Plain) => "single-row transaction, no trigger".to_owned(),
        Runner::Single(contestant) => format!("single-row transaction, {} adds", contestant.name()),
    }
}

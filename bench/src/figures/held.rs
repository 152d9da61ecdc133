//! What a transaction that is left open for half an hour does to delivery.
//!
//! What it may still see cannot be cleared away, so that every delivered message stays in the outbox as a dead
//! row. Two servers get the same rows at the same rate at the same time, so that the machine's mood meets both;
//! on one of them the transaction is open. Two databases of one server would not do: a snapshot taken in either
//! reaches back to the oldest transaction of the whole server.
//!
//! Then, with the transaction still open, each in turn delivers a backlog as fast as it can; and after its end,
//! both go on for a while.

mod course;
mod server;

use std::env;
use std::time::Duration;

use super::Effort;
use super::ground::{Ground, rotated};
use super::looks::{Looks, View, look};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use crate::failure::{Failure, Outcome};
use crate::spread::{Spread, milliseconds};
use course::{Course, run};
use server::{Outbox, Server};

const MINUTES_VARIABLE: &str = "HELD_MINUTES";

/// How much of everything is done.
struct Plan {
    /// How long rows are written beside the open transaction.
    held: Duration,
    /// And after its end.
    after: Duration,
    /// Looks at how much has been delivered, at equal distances.
    intervals: u32,
    rounds: usize,
    backlog: usize,
    looks: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    Clean,
    Held,
}

/// One thing of each server.
#[derive(Default)]
struct Both<T> {
    clean: T,
    held: T,
}

impl<T> Both<T> {
    fn of(&mut self, runner: Runner) -> &mut T {
        match runner {
            Runner::Clean => &mut self.clean,
            Runner::Held => &mut self.held,
        }
    }
}

/// What is measured at the end of a time, with nobody writing.
struct End {
    outbox: Outbox,
    looks: Looks,
    flush: Duration,
}

struct Found {
    beside: Both<Course>,
    at_its_end: Both<End>,
    /// Events a second, of each round.
    backlog: Vec<Both<f64>>,
    afterwards: Both<Course>,
    at_the_end: Both<End>,
}

pub fn measure(_: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let plan = plan(effort, env::var(MINUTES_VARIABLE).ok().as_deref())?;
    let mut servers = Server::start_both(plan.held)?;
    let transaction = servers.held.open_transaction()?;
    let beside = run(&mut servers, plan.held, plan.intervals)?;
    let at_its_end = ends(&mut servers, plan.looks)?;
    let mut backlog = Vec::new();
    for number in 0..plan.rounds {
        let mut round = Both::default();
        for runner in rotated(&[Runner::Clean, Runner::Held], number) {
            *round.of(runner) = servers.of(runner).drain(plan.backlog)?;
        }
        backlog.push(round);
    }
    transaction.end()?;
    let afterwards = run(&mut servers, plan.after, plan.intervals)?;
    let at_the_end = ends(&mut servers, plan.looks)?;
    Ok(findings(&Found { beside, at_its_end, backlog, afterwards, at_the_end }))
}

fn plan(effort: Effort, minutes: Option<&str>) -> Outcome<Plan> {
    let quick = Plan {
        held: Duration::from_secs(6),
        after: Duration::from_secs(3),
        intervals: 12,
        rounds: 2,
        backlog: 20_000,
        looks: 7,
    };
    let half_an_hour = Duration::from_mins(30);
    let full = Plan {
        held: half_an_hour,
        after: half_an_hour / 3,
        intervals: 60,
        rounds: 7,
        backlog: 200_000,
        looks: 21,
    };
    let plan = effort.choose(quick, full);
    let Some(minutes) = minutes.filter(|text| !text.is_empty()) else { return Ok(plan) };
    let held = minutes.parse().ok().filter(|minutes| *minutes > 0.0);
    let held = held.and_then(|minutes: f64| Duration::try_from_secs_f64(minutes * 60.0).ok());
    let held = held.filter(|held| *held >= SHORTEST);
    let held = held.ok_or_else(|| {
        Failure::new(format!("{MINUTES_VARIABLE} is {minutes:?}, which is no number of minutes from 0.05 on"))
    })?;
    Ok(Plan { held, after: held / 3, ..plan })
}

/// A run of pgbench takes whole seconds.
const SHORTEST: Duration = Duration::from_secs(3);

fn ends(servers: &mut Both<Server>, looks: usize) -> Outcome<Both<End>> {
    Ok(Both { clean: end(&mut servers.clean, looks)?, held: end(&mut servers.held, looks)? })
}

fn end(server: &mut Server, looks: usize) -> Outcome<End> {
    Ok(End {
        flush: server.site.flush()?,
        looks: look(&mut server.site.db, looks)?,
        outbox: server.outbox()?,
    })
}

fn findings(found: &Found) -> Findings {
    let figure = |what, measured| Figure {
        what,
        against: "the same without it",
        measured,
        unit: Unit::Times,
        goal: Goal::AtLeast(0.95),
    };
    let pairs: Vec<f64> = ratios(&found.beside.held.rates(), &found.beside.clean.rates());
    let last_quarter = &pairs[pairs.len() - pairs.len() / 4..];
    let mut findings = Findings {
        figures: vec![
            figure("events delivered a second, a transaction left open", Spread::of(pairs.iter().copied())),
            figure("  in the last quarter of its time", Spread::of(last_quarter.iter().copied())),
            figure(
                "  from a backlog, at its end",
                Spread::of(found.backlog.iter().map(|round| round.held / round.clean)),
            ),
        ],
        measurements: Vec::new(),
    };
    for runner in [Runner::Clean, Runner::Held] {
        findings.measurements.extend(measurements(found, runner));
    }
    findings
}

fn ratios(over: &[f64], under: &[f64]) -> Vec<f64> {
    over.iter().zip(under).map(|(over, under)| over / under).collect()
}

fn measurements(found: &Found, runner: Runner) -> Vec<Measurement> {
    let of = |both: &'static str| match runner {
        Runner::Clean => format!("no transaction open, {both}"),
        Runner::Held => format!("transaction left open, {both}"),
    };
    let mut all = Vec::new();
    let mut add = |what, values: Vec<f64>, unit| all.push(Measurement::new(of(what), values, unit));
    let (beside, afterwards) = (found.beside.get(runner), found.afterwards.get(runner));
    add("delivered", beside.rates(), "events a second");
    add("waiting when writing ends", vec![beside.waiting()], "messages");
    let at_end = found.at_its_end.get(runner);
    add("dead rows in the outbox", vec![at_end.outbox.dead_rows], "rows");
    add("outbox, its table", vec![at_end.outbox.table_megabytes], "MB");
    add("outbox, its index", vec![at_end.outbox.index_megabytes], "MB");
    add("a look at status", at_end.looks.of(View::Status).collect(), "ms");
    add("a look at metrics", at_end.looks.of(View::Metrics).collect(), "ms");
    add("flush of an empty outbox", vec![milliseconds(at_end.flush)], "ms");
    let rates = found.backlog.iter().map(|round| *round.get(runner)).collect();
    add("delivered from a backlog", rates, "events a second");
    add("afterwards, delivered", afterwards.rates(), "events a second");
    let at_end = found.at_the_end.get(runner);
    add("afterwards, dead rows in the outbox", vec![at_end.outbox.dead_rows], "rows");
    add("afterwards, outbox, its table", vec![at_end.outbox.table_megabytes], "MB");
    add("afterwards, outbox, its index", vec![at_end.outbox.index_megabytes], "MB");
    add("afterwards, a look at status", at_end.looks.of(View::Status).collect(), "ms");
    add("afterwards, flush of an empty outbox", vec![milliseconds(at_end.flush)], "ms");
    all
}

impl<T> Both<T> {
    fn get(&self, runner: Runner) -> &T {
        match runner {
            Runner::Clean => &self.clean,
            Runner::Held => &self.held,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_shorten_both_times() {
        let lasting =
            |minutes| plan(Effort::Full, minutes).map(|plan| (plan.held.as_secs(), plan.after.as_secs()));
        assert_eq!(lasting(None).ok(), Some((1800, 600)));
        assert_eq!(lasting(Some("")).ok(), Some((1800, 600)));
        assert_eq!(lasting(Some("1.5")).ok(), Some((90, 30)));
        for nonsense in ["0", "-3", "0.01", "half", "1e30", "NaN"] {
            assert!(lasting(Some(nonsense)).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn intervals_are_compared_one_by_one() {
        assert_eq!(ratios(&[1.0, 6.0], &[2.0, 3.0]), [0.5, 2.0]);
    }
}

//! Many databases of one server, each with a worker of its own.
//!
//! How long a commit takes to arrive when only one database has work and when all have, what the workers take
//! of memory and processor, and whether a backlog that is spread over all of them leaves as fast as the same
//! in one.

mod arrival;
mod crowd;

use std::thread;
use std::time::Duration;

use fake_lago::FakeLago;

use super::ground::{Ground, rotated};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use super::{Effort, counted_as_float, stand_in};
use crate::failure::{Doing, Outcome};
use crate::spread::{Spread, percentile};
use arrival::{at_once, in_turn};
use crowd::Crowd;

/// How much of everything is done.
struct Plan {
    databases: usize,
    /// Rows written to each database, one at a time.
    rows: usize,
    /// In all databases together.
    backlog: usize,
    rounds: usize,
    idle: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    One,
    All,
}

/// Events a second.
#[derive(Clone, Copy, Default)]
struct Round {
    one: f64,
    all: f64,
}

struct Found {
    databases: usize,
    /// Milliseconds from commit to arrival.
    asleep: Vec<f64>,
    in_turn: Vec<f64>,
    at_once: Vec<f64>,
    /// Of all workers together.
    megabytes_at_rest: f64,
    megabytes_after_work: f64,
    rounds: Vec<Round>,
    /// Of one processor's time, while nothing happens.
    idle_share: f64,
}

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let plan = effort.choose(
        Plan { databases: 5, rows: 6, backlog: 20_000, rounds: 3, idle: Duration::from_secs(1) },
        Plan { databases: 20, rows: 50, backlog: 400_000, rounds: 7, idle: Duration::from_secs(20) },
    );
    ground.rest()?;
    // In this process, because only here one sees the moment at which a request arrived.
    let lago = FakeLago::start(stand_in::config()).doing("start the stand-in for Lago")?;
    let mut crowd = Crowd::prepare(plan.databases, &lago.url())?;
    crowd.fall_asleep()?;
    let asleep = in_turn(&mut crowd, &lago, 1)?;
    crowd.stay_awake()?;
    // Once to connect the workers, whose connections to Lago are then open as well.
    at_once(&mut crowd, &lago, 2)?;
    let in_turn = in_turn(&mut crowd, &lago, plan.rows)?;
    let at_once = at_once(&mut crowd, &lago, plan.rows)?;
    crowd.rest()?;
    let megabytes_at_rest = crowd.megabytes()?;

    crowd.deliver_to(&ground.lago.url())?;
    let mut rounds = Vec::new();
    for number in 0..plan.rounds {
        let mut round = Round::default();
        for runner in rotated(&[Runner::One, Runner::All], number) {
            match runner {
                Runner::One => round.one = crowd.drain(1, plan.backlog, &mut ground.lago)?,
                Runner::All => round.all = crowd.drain(plan.databases, plan.backlog, &mut ground.lago)?,
            }
        }
        rounds.push(round);
    }
    let megabytes_after_work = crowd.megabytes()?;
    let idle_share = idle_share(&crowd, plan.idle)?;
    ground.lago.forget()?;
    let databases = plan.databases;
    let found = Found {
        databases,
        asleep,
        in_turn,
        at_once,
        megabytes_at_rest,
        megabytes_after_work,
        rounds,
        idle_share,
    };
    Ok(findings(&found))
}

/// The processor time of all workers while nothing happens, by the time that passes.
fn idle_share(crowd: &Crowd, lasting: Duration) -> Outcome<f64> {
    let before = crowd.processor_time()?;
    thread::sleep(lasting);
    Ok((crowd.processor_time()? - before) / lasting.as_secs_f64())
}

fn findings(found: &Found) -> Findings {
    let databases = found.databases;
    let measurement = |what: &str, values: Vec<f64>, unit| {
        Measurement::new(format!("{databases} databases, {what}"), values, unit)
    };
    let arrival = |what: &str, times: &[f64], percent| {
        measurement(&format!("commit to arrival, {what}, p{percent}"), vec![percentile(times, percent)], "ms")
    };
    let memory = |what: &str, megabytes: f64| measurement(what, vec![megabytes], "MB");
    Findings {
        figures: vec![Figure {
            what: "events delivered a second from many databases at once",
            against: "the same backlog in one of them",
            measured: Spread::of(found.rounds.iter().map(|round| round.all / round.one)),
            unit: Unit::Times,
            goal: Goal::None,
        }],
        measurements: vec![
            arrival("its worker asleep", &found.asleep, 50),
            arrival("one after the other", &found.in_turn, 50),
            arrival("one after the other", &found.in_turn, 99),
            arrival("all at once", &found.at_once, 50),
            arrival("all at once", &found.at_once, 99),
            memory("memory of all workers, after a few rows", found.megabytes_at_rest),
            memory("memory of all workers, after a backlog", found.megabytes_after_work),
            memory(
                "memory of each of them, after a backlog",
                found.megabytes_after_work / counted_as_float(databases),
            ),
            measurement(
                "backlog spread over all",
                found.rounds.iter().map(|round| round.all).collect(),
                "events a second",
            ),
            measurement(
                "backlog in one of them",
                found.rounds.iter().map(|round| round.one).collect(),
                "events a second",
            ),
            measurement(
                "processor time of all workers at rest",
                vec![found.idle_share * 1000.0],
                "ms a second",
            ),
        ],
    }
}

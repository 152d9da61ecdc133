//! How fast a backlog leaves, from the outbox to Lago.
//!
//! The peer is a client that does nothing but send the very same bodies, prepared beforehand, over as many
//! connections: the most the stand-in takes on this machine.

use std::time::{Duration, Instant};

use delivery::scene::insert_rows;
use postgres::Row;

use super::ground::{BATCH, CONNECTIONS, Contestant, Ground, rotated};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use super::stand_in::API_KEY;
use super::{Effort, counted_as_float, raw};
use crate::failure::{Failure, Outcome};
use crate::spread::Spread;

const DRAINED_WITHIN: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    Raw,
    Ours,
}

/// Seconds.
#[derive(Clone, Copy, Default)]
struct Round {
    raw: f64,
    arrived: f64,
    settled: f64,
    /// Of the smaller backlog, with a delay in every answer.
    delayed: f64,
}

/// As far away as another continent. Sixteen connections with batches of 100 then carry 16,000 events a second
/// at most.
const DELAY: Duration = Duration::from_millis(100);
const DELAYED_BACKLOG: usize = 20_000;

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let backlog = effort.choose(100_000, 300_000);
    let mut rounds = Vec::new();
    for number in 0..effort.rounds() {
        let delayed = run_delayed(ground)?;
        rounds.push(Round { delayed, ..run(ground, backlog, number)? });
    }
    ground.clear()?;
    Ok(findings(&rounds, backlog))
}

fn run(ground: &mut Ground, backlog: usize, number: usize) -> Outcome<Round> {
    ground.clear()?;
    ground.db.run("checkpoint")?;
    ground.db.run(&insert_rows(Contestant::Ours.table(), backlog))?;
    ground.rest()?;
    let payloads = ground.db.rows("select payload from lago_push.outbox order by id", &[])?;
    let payloads: Vec<String> = payloads.iter().map(|row: &Row| row.get(0)).collect();
    let requests = raw::batches(&payloads, BATCH, API_KEY);
    let mut round = Round::default();
    for runner in rotated(&[Runner::Raw, Runner::Ours], number) {
        ground.lago.forget()?;
        match runner {
            Runner::Raw => {
                let took = raw::send_all(ground.lago.address(), &requests, CONNECTIONS)?;
                round.raw = took.as_secs_f64();
            }
            Runner::Ours => (round.arrived, round.settled) = drain(ground, backlog)?,
        }
        let stored = ground.lago.stored()?;
        if usize::try_from(stored).ok() != Some(backlog) {
            return Err(Failure::new(format!("{backlog} events were sent and {stored} accepted")));
        }
    }
    Ok(round)
}

fn run_delayed(ground: &mut Ground) -> Outcome<f64> {
    ground.clear()?;
    ground.db.run(&insert_rows(Contestant::Ours.table(), DELAYED_BACKLOG))?;
    ground.rest()?;
    ground.lago.answer_after(DELAY)?;
    let (arrived, _) = drain(ground, DELAYED_BACKLOG)?;
    ground.lago.answer_after(Duration::ZERO)?;
    Ok(arrived)
}

/// Seconds from the release of the destination until everything has arrived, and until the outbox is empty.
fn drain(ground: &mut Ground, backlog: usize) -> Outcome<(f64, f64)> {
    let start = Instant::now();
    ground.release()?;
    ground.wait_until_stored(backlog as u64, DRAINED_WITHIN)?;
    let arrived = start.elapsed().as_secs_f64();
    if !ground.db.value::<bool>("select lago_push.flush(timeout => '60 s')")? {
        return Err(Failure::new("everything has arrived, but the outbox is not emptied"));
    }
    let settled = start.elapsed().as_secs_f64();
    ground.hold()?;
    Ok((arrived, settled))
}

fn findings(rounds: &[Round], backlog: usize) -> Findings {
    let events = counted_as_float(backlog);
    let rate = |what: &str, seconds: fn(&Round) -> f64| {
        let rates = rounds.iter().map(|round| events / seconds(round));
        Measurement::new(format!("backlog, {what}"), rates, "events a second")
    };
    Findings {
        figures: vec![
            Figure {
                what: "events delivered a second from a backlog",
                against: "raw client, same bodies",
                measured: Spread::of(rounds.iter().map(|round| round.raw / round.arrived)),
                unit: Unit::Times,
                goal: Goal::AtLeast(0.8),
            },
            Figure {
                what: "  with 100 ms added to every answer",
                against: "Lago's ceiling for its REST API",
                measured: Spread::of(
                    rounds.iter().map(|round| counted_as_float(DELAYED_BACKLOG) / round.delayed),
                ),
                unit: Unit::EventsPerSecond,
                goal: Goal::AtLeast(10_000.0),
            },
        ],
        measurements: vec![
            rate("raw client: what the stand-in takes at most", |round| round.raw),
            rate("lago_push until all have arrived", |round| round.arrived),
            rate("lago_push until the outbox is empty", |round| round.settled),
        ],
    }
}

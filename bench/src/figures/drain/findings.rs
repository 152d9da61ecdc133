//! What the rounds of the drain come to.

use super::super::processors;
use super::super::report::{Figure, Findings, Goal, Measurement, Unit};
use super::poller::Certificates;
use super::{Distance, Round, Run, Runner};
use crate::figures::counted_as_float;
use crate::spread::Spread;

/// The quicker of the two pollers: whoever is quicker than it is quicker than the other, too.
const POLLER: Runner = Runner::Poller(Certificates::Folder);
const POLLER_AS_INSTALLED: Runner = Runner::Poller(Certificates::Bundle);

const RAW_NAME: &str = "raw client, same bodies";
const POLLER_NAME: &str = "Python poller, Lago's client";

pub fn of(rounds: &[Round]) -> Findings {
    let figures = [
        rate(rounds, Distance::NextDoor, Runner::Raw, RAW_NAME, Goal::AtLeast(0.8)),
        rate(rounds, Distance::Apart, Runner::Raw, RAW_NAME, Goal::None),
        rate(rounds, Distance::Region, Runner::Raw, RAW_NAME, Goal::None),
        rate(rounds, Distance::FarAway, Runner::Raw, RAW_NAME, Goal::None),
        rate(rounds, Distance::NextDoor, POLLER, POLLER_NAME, Goal::AtLeast(5.0)),
        rate(rounds, Distance::Region, POLLER, POLLER_NAME, Goal::None),
        rate(rounds, Distance::FarAway, POLLER, POLLER_NAME, Goal::None),
        ceiling(rounds),
        dearness(rounds),
        headroom(rounds),
    ];
    let mut measurements = rates(rounds);
    measurements.extend(processor_time(rounds));
    Findings { figures: figures.into_iter().flatten().collect(), measurements }
}

/// None if one of the two did not take part.
fn spread<'a>(
    rounds: &'a [Round],
    distance: Distance,
    runner: Runner,
    value: impl Fn(&Run, &Run) -> f64 + 'a,
) -> Option<Spread> {
    let both = |round: &'a Round| Some((round.of(distance, Runner::Ours)?, round.of(distance, runner)?));
    let values: Vec<f64> = rounds.iter().filter_map(both).map(|(ours, theirs)| value(ours, theirs)).collect();
    (!values.is_empty()).then(|| Spread::of(values))
}

fn per_second(run: &Run) -> f64 {
    run.events / run.answered
}

fn microseconds_per_event(seconds: f64, run: &Run) -> f64 {
    seconds * 1e6 / run.events
}

fn rate(
    rounds: &[Round],
    distance: Distance,
    peer: Runner,
    against: &'static str,
    goal: Goal,
) -> Option<Figure> {
    let what = match distance {
        Distance::NextDoor => "events delivered a second from a backlog",
        Distance::Apart => "  with half of the processors for each side",
        Distance::Region => "  with 20 ms added to every answer",
        Distance::FarAway => "  with 100 ms added to every answer",
    };
    let measured = spread(rounds, distance, peer, |ours, theirs| per_second(ours) / per_second(theirs))?;
    Some(Figure { what, against, measured, unit: Unit::Times, goal })
}

fn ceiling(rounds: &[Round]) -> Option<Figure> {
    Some(Figure {
        what: "events delivered a second, 100 ms added",
        against: "Lago's ceiling for its REST API",
        measured: spread(rounds, Distance::FarAway, Runner::Ours, |ours, _| per_second(ours))?,
        unit: Unit::EventsPerSecond,
        goal: Goal::AtLeast(10_000.0),
    })
}

fn dearness(rounds: &[Round]) -> Option<Figure> {
    let ratio = |ours: &Run, raw: &Run| {
        microseconds_per_event(ours.by_client, ours) / microseconds_per_event(raw.by_client, raw)
    };
    Some(Figure {
        what: "processor time of the worker for an event",
        against: "the raw client's",
        measured: spread(rounds, Distance::NextDoor, Runner::Raw, ratio)?,
        unit: Unit::Times,
        goal: Goal::None,
    })
}

/// How many events a second the stand-in would take if all processors did nothing else.
fn stand_in_alone(run: &Run) -> f64 {
    counted_as_float(processors()) * run.events / run.by_stand_in
}

fn headroom(rounds: &[Round]) -> Option<Figure> {
    Some(Figure {
        what: "events delivered a second from a backlog",
        against: "the stand-in with all processors to itself",
        measured: spread(rounds, Distance::NextDoor, Runner::Ours, |ours, _| {
            per_second(ours) / stand_in_alone(ours)
        })?,
        unit: Unit::Times,
        goal: Goal::None,
    })
}

fn name_of(runner: Runner) -> &'static str {
    match runner {
        Runner::Raw => "raw client",
        Runner::Ours => "lago_push",
        POLLER => "Python poller",
        POLLER_AS_INSTALLED => "Python poller, its client as installed",
    }
}

const ALL: [Runner; 4] = [Runner::Raw, Runner::Ours, POLLER, POLLER_AS_INSTALLED];

/// How much of the processors these seconds of a run were, in per cent.
fn share(seconds: f64, run: &Run) -> f64 {
    100.0 * seconds / run.finished / counted_as_float(processors())
}

fn measurement(
    rounds: &[Round],
    distance: Distance,
    runner: Runner,
    what: impl Into<String>,
    unit: &'static str,
    value: impl Fn(&Run) -> f64,
) -> Option<Measurement> {
    let runs: Vec<f64> = rounds.iter().filter_map(|round| round.of(distance, runner)).map(value).collect();
    (!runs.is_empty()).then(|| Measurement::new(what, runs, unit))
}

fn rates(rounds: &[Round]) -> Vec<Measurement> {
    let mut found = Vec::new();
    for distance in super::DISTANCES {
        let place = match distance {
            Distance::NextDoor => "backlog",
            Distance::Apart => "backlog, half of the processors each",
            Distance::Region => "backlog, 20 ms",
            Distance::FarAway => "backlog, 100 ms",
        };
        for runner in ALL {
            let what = format!("{place}: {}", name_of(runner));
            found.push(measurement(rounds, distance, runner, what, "events a second", per_second));
        }
    }
    let what = "backlog: lago_push until the outbox is empty";
    found.push(measurement(rounds, Distance::NextDoor, Runner::Ours, what, "events a second", |run| {
        run.events / run.finished
    }));
    found.into_iter().flatten().collect()
}

/// Of the drain next door: with a delay, processors mostly wait.
fn processor_time(rounds: &[Round]) -> Vec<Measurement> {
    let mut found = Vec::new();
    let mut add = |runner, whose: &str, unit, value: fn(&Run) -> f64| {
        let what = format!("backlog: {}, {whose}", name_of(runner));
        found.push(measurement(rounds, Distance::NextDoor, runner, what, unit, value));
    };
    for runner in ALL {
        let client = match runner {
            Runner::Ours => "the worker's processor time",
            Runner::Raw | Runner::Poller(_) => "its own processor time",
        };
        add(runner, client, "µs an event", |run| microseconds_per_event(run.by_client, run));
        if runner != Runner::Raw {
            add(runner, "the rest of the server's", "µs an event", |run| {
                microseconds_per_event(run.by_server, run)
            });
        }
        add(runner, "the stand-in's", "µs an event", |run| microseconds_per_event(run.by_stand_in, run));
    }
    let unit = "% of all processors";
    add(Runner::Raw, "the stand-in's share", unit, |run| share(run.by_stand_in, run));
    add(Runner::Ours, "the stand-in's share", unit, |run| share(run.by_stand_in, run));
    add(Runner::Ours, "the worker's share", unit, |run| share(run.by_client, run));
    add(Runner::Ours, "the stand-in with all processors to itself", "events a second", stand_in_alone);
    found.into_iter().flatten().collect()
}

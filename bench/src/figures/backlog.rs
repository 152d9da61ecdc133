//! How delivery, memory and views stand a large backlog.
//!
//! Two databases deliver in turn. In one as much waits as keeps a worker busy, in the other one millions. Of
//! each the same number of events is taken from the front, over and over, and what was taken is put in again
//! at the end. Beside that stand the worker's memory and what a look at the views takes.

mod stock;

use super::Effort;
use super::ground::{Ground, rotated};
use super::looks::{Looks, VIEWS, View, look};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use crate::failure::Outcome;
use crate::spread::Spread;
use crate::text::grouped;
use stock::Stock;

struct Size {
    waiting: u64,
    /// In a row of the table of figures.
    beside: &'static str,
}

const QUICK_SIZES: &[Size] = &[Size { waiting: 200_000, beside: "200,000 more waiting / 100,000 more" }];
const FULL_SIZES: &[Size] = &[
    // Equal sides: what this is off by, the others may be off by.
    Size { waiting: 100_000, beside: "100,000 more waiting / 100,000 more" },
    Size { waiting: 1_000_000, beside: "1 million more waiting / 100,000 more" },
    Size { waiting: 10_000_000, beside: "10 million more waiting / 100,000 more" },
];
/// More than a worker reads ahead, which is 16 MB. With less, this side would have less to read in a turn than
/// the other one, and all it has read would be sent in that turn.
const FEW: u64 = 100_000;

/// How much of everything is done.
struct Plan {
    sizes: &'static [Size],
    /// Events delivered in one turn.
    taken: u64,
    rounds: usize,
    looks: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    Few,
    Many,
}

/// Events a second.
#[derive(Clone, Copy, Default)]
struct Round {
    few: f64,
    many: f64,
}

/// What was found with so many messages waiting.
struct Found {
    size: &'static Size,
    rounds: Vec<Round>,
    held: Looks,
    delivering: Looks,
    worker_megabytes: Vec<f64>,
}

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let plan = effort.choose(
        Plan { sizes: QUICK_SIZES, taken: 30_000, rounds: 5, looks: 5 },
        Plan { sizes: FULL_SIZES, taken: 400_000, rounds: 7, looks: 21 },
    );
    ground.clear()?;
    let url = ground.lago.url();
    let mut few = Stock::prepare(&ground.cluster, "backlog_few", &url)?;
    let mut many = Stock::prepare(&ground.cluster, "backlog_many", &url)?;
    // The first turns start workers and open connections.
    for stock in [&mut few, &mut many] {
        stock.deliver(&mut ground.lago, plan.taken)?;
    }
    let mut found = Vec::new();
    for size in plan.sizes {
        few.keep(FEW)?;
        many.keep(size.waiting)?;
        let mut rounds = Vec::new();
        for number in 0..plan.rounds {
            let mut round = Round::default();
            for runner in rotated(&[Runner::Few, Runner::Many], number) {
                match runner {
                    Runner::Few => round.few = few.deliver(&mut ground.lago, plan.taken)?,
                    Runner::Many => round.many = many.deliver(&mut ground.lago, plan.taken)?,
                }
            }
            rounds.push(round);
        }
        many.fill(size.waiting)?;
        let held = look(many.session(), plan.looks)?;
        let (delivering, worker_megabytes) = many.look_while_delivering(plan.looks, plan.taken)?;
        found.push(Found { size, rounds, held, delivering, worker_megabytes });
    }
    few.remove()?;
    many.remove()?;
    ground.lago.forget()?;
    Ok(findings(&found))
}

fn findings(found: &[Found]) -> Findings {
    let mut findings = Findings::default();
    for (number, found_here) in found.iter().enumerate() {
        let views = if number + 1 == found.len() { &VIEWS[..] } else { &COUNTING };
        findings.figures.push(rate_figure(found_here));
        findings.measurements.extend(measurements(found_here, views));
    }
    if let Some(largest) = found.last() {
        findings.figures.extend(largest_figures(largest));
    }
    findings
}

fn rate_figure(found: &Found) -> Figure {
    Figure {
        what: "events delivered a second from the front of a backlog",
        against: found.size.beside,
        measured: Spread::of(found.rounds.iter().map(|round| round.many / round.few)),
        unit: Unit::Times,
        goal: Goal::AtLeast(0.95),
    }
}

fn largest_figures(found: &Found) -> Vec<Figure> {
    let look = |what, looks: &Looks, view| Figure {
        what,
        against: "",
        measured: Spread::of(looks.of(view)),
        unit: Unit::Milliseconds,
        goal: Goal::AtMost(20.0),
    };
    vec![
        Figure {
            what: "  memory of the worker at the largest, at most",
            against: "",
            measured: Spread::of([Spread::of(found.worker_megabytes.iter().copied()).max]),
            unit: Unit::Megabytes,
            goal: Goal::AtMost(64.0),
        },
        look("  a look at status at the largest, held", &found.held, View::Status),
        look("  a look at status at the largest, delivering", &found.delivering, View::Status),
        look("  a look at metrics at the largest, held", &found.held, View::Metrics),
        look("  a look at metrics at the largest, delivering", &found.delivering, View::Metrics),
    ]
}

/// The views that look at what waits. The others are shown once only.
const COUNTING: [View; 3] = [View::Status, View::Metrics, View::Ledger];

fn measurements(found: &Found, views: &[View]) -> Vec<Measurement> {
    let waiting = grouped(found.size.waiting);
    let rate = |what: &str, value: fn(&Round) -> f64| {
        let rates = found.rounds.iter().map(value);
        Measurement::new(format!("backlog of {waiting}, delivered {what}"), rates, "events a second")
    };
    let mut all = vec![
        rate("from its front", |round| round.many),
        rate("where 100,000 wait, in turn with it", |round| round.few),
        Measurement::new(
            format!("backlog of {waiting}, memory of the worker"),
            found.worker_megabytes.iter().copied(),
            "MB",
        ),
    ];
    for (state, looks) in [("held", &found.held), ("delivering", &found.delivering)] {
        all.extend(views.iter().map(|view| {
            let what = format!("backlog of {waiting}, {state}, a look at {}", view.name());
            Measurement::new(what, looks.of(*view), "ms")
        }));
    }
    all
}

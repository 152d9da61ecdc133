//! How many single-row transactions a second remain when each is captured.
//!
//! Most turns go without synchronous commits, so that the disk does not hide what capture costs, and with more
//! clients than processors: one that waits for an answer leaves its processor to another, so that the rate shows
//! what a transaction costs and not how quickly this machine wakes up. Ours runs twice: with the destination
//! held, which measures capture, and with delivery going on, for which worker and stand-in take their share of
//! the same processors. The processor time of the server is steadier than any rate.

use super::ground::{Contestant, Ground, rotated};
use super::processor_time::Server;
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use super::turn::{Compared, Turn, between};
use super::workload::{Commits, Length, Load};
use super::{Effort, processors};
use crate::failure::{Failure, Outcome};
use crate::spread::Spread;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    Captured(Contestant),
    Delivered,
}

const PLAIN: Runner = Runner::Captured(Contestant::Plain);
const OURS: Runner = Runner::Captured(Contestant::Ours);
const ROW_TRIGGER: Runner = Runner::Captured(Contestant::RowTrigger);

/// What all rounds of a load brought for one runner.
struct Series {
    runner: Runner,
    turns: Vec<Compared>,
}

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let mut bench = Bench { server: Server::behind(&mut ground.db)?, ground };
    let mut found = Findings::default();
    let mut all: Vec<Runner> = bench.ground.contestants().into_iter().map(Runner::Captured).collect();
    all.retain(|runner| *runner != PLAIN);
    all.push(Runner::Delivered);

    let length = effort.choose(Length::Transactions(7_000), Length::OneSecond);
    let usual = Load { writers: 2 * processors(), commits: Commits::Unwaited, length };
    found.extend(of_usual_load(&bench.rounds(usual, &all, effort.choose(3, 25))?));

    let waited_length = effort.choose(Length::Transactions(2_000), Length::OneSecond);
    let waited = Load { commits: Commits::Waited, length: waited_length, ..usual };
    found.extend(of_waited_commits(&bench.rounds(waited, &[OURS, ROW_TRIGGER], effort.choose(2, 12))?));

    for (writers, what) in WRITERS {
        let load = Load { writers, ..usual };
        found.extend(of_writers(&bench.rounds(load, &[OURS], effort.choose(2, 10))?, writers, what));
    }
    bench.ground.clear()?;
    Ok(found)
}

const WRITERS: [(usize, &str); 4] =
    [(1, "  with 1 writer"), (2, "  with 2 writers"), (8, "  with 8 writers"), (32, "  with 32 writers")];

struct Bench<'a> {
    ground: &'a mut Ground,
    server: Server,
}

impl Bench<'_> {
    /// One series for each runner.
    fn rounds(&mut self, load: Load, runners: &[Runner], rounds: usize) -> Outcome<Vec<Series>> {
        load.commits.apply(&mut self.ground.db)?;
        let mut all: Vec<Series> =
            runners.iter().map(|runner| Series { runner: *runner, turns: Vec::new() }).collect();
        for number in 0..rounds {
            let order = rotated(runners, number);
            let turns = between(PLAIN, &order, |runner| self.turn(load, runner))?;
            for (runner, turn) in order.into_iter().zip(turns) {
                all.iter_mut()
                    .filter(|series| series.runner == runner)
                    .for_each(|series| series.turns.push(turn));
            }
        }
        Commits::Waited.apply(&mut self.ground.db)?;
        Ok(all)
    }

    fn turn(&mut self, load: Load, runner: Runner) -> Outcome<Turn> {
        let contestant = match runner {
            Runner::Captured(contestant) => contestant,
            Runner::Delivered => Contestant::Ours,
        };
        self.ground.clear()?;
        if runner == Runner::Delivered {
            self.ground.release()?;
        }
        let cluster = self.ground.cluster.clone();
        let statement =
            format!("insert into {} (subscription, amount) values ('sub_1', 12.50);\n", contestant.table());
        let mut committed = 0;
        let turn = Turn::of(
            &self.server,
            || load.run(&cluster, &[statement]),
            |transactions| {
                committed = transactions;
                // Delivering them belongs to what these transactions cost.
                if runner == Runner::Delivered { deliver(self.ground) } else { Ok(()) }
            },
        )?;
        match runner {
            Runner::Captured(contestant) => self.ground.expect_captured(contestant, committed)?,
            Runner::Delivered => expect_delivered(self.ground, committed)?,
        }
        Ok(turn)
    }
}

fn deliver(ground: &mut Ground) -> Outcome<()> {
    if !ground.db.value::<bool>("select lago_push.flush(timeout => '60 s')")? {
        return Err(Failure::new("what was committed is not delivered"));
    }
    ground.hold()
}

fn expect_delivered(ground: &mut Ground, committed: u64) -> Outcome<()> {
    let stored = ground.lago.stored()?;
    if stored == committed {
        return Ok(());
    }
    Err(Failure::new(format!("{committed} transactions committed, {stored} delivered")))
}

fn figure(what: &'static str, series: &Series, goal: Goal) -> Figure {
    Figure {
        what,
        against: "no trigger",
        measured: Spread::of(series.turns.iter().map(Compared::rate)),
        unit: Unit::Times,
        goal,
    }
}

fn of_usual_load(all: &[Series]) -> Findings {
    let mut found = Findings::default();
    let named = |runner| match runner {
        OURS => ("single-row transactions a second with capture", Goal::AtLeast(0.85)),
        ROW_TRIGGER => ("  the same with a PL/pgSQL row trigger", Goal::None),
        Runner::Captured(Contestant::StatementTrigger) => ("  with a PL/pgSQL statement trigger", Goal::None),
        Runner::Captured(_) => ("  with PgQ's logutriga", Goal::None),
        Runner::Delivered => ("  with capture and delivery going on", Goal::None),
    };
    let mut in_order: Vec<&Series> = all.iter().collect();
    // Ours, which the others are lines below.
    in_order.sort_by_key(|series| series.runner != OURS);
    for series in &in_order {
        let (what, goal) = named(series.runner);
        found.figures.push(figure(what, series, goal));
    }
    let plain = || all.iter().flat_map(|series| &series.turns).map(|turn| turn.plain);
    let mut add = |what: &str, values: Vec<f64>, unit| {
        found.measurements.push(Measurement::new(format!("single-row transactions, {what}"), values, unit));
    };
    add("no trigger", plain().map(|turn| turn.per_second).collect(), "a second");
    for series in &in_order {
        add(title(series.runner), series.turns.iter().map(|turn| turn.turn.per_second).collect(), "a second");
    }
    let processor = "µs of a processor in the server";
    add("no trigger", plain().map(|turn| turn.processor_microseconds).collect(), processor);
    for series in &in_order {
        let own = series.turns.iter().map(|turn| turn.turn.processor_microseconds);
        add(title(series.runner), own.collect(), processor);
    }
    for series in &in_order {
        let ratios = series.turns.iter().map(Compared::processor);
        add(title(series.runner), ratios.collect(), "× the processor time without a trigger");
    }
    found
}

fn of_waited_commits(all: &[Series]) -> Findings {
    let mut found = Findings::default();
    for series in all {
        let what = match series.runner {
            OURS => "  with capture, synchronous_commit = on",
            _ => "  with a PL/pgSQL row trigger, synchronous_commit = on",
        };
        found.figures.push(figure(what, series, Goal::None));
        found.measurements.extend(rates("synchronous_commit = on", series));
    }
    found
}

fn of_writers(all: &[Series], writers: usize, what: &'static str) -> Findings {
    Findings {
        figures: all.iter().map(|series| figure(what, series, Goal::None)).collect(),
        measurements: all.iter().flat_map(|series| rates(&format!("writers: {writers}"), series)).collect(),
    }
}

fn rates(load: &str, series: &Series) -> [Measurement; 2] {
    let one = |title: &str, value: fn(&Compared) -> f64| {
        let what = format!("single-row transactions, {load}, {title}");
        Measurement::new(what, series.turns.iter().map(value), "a second")
    };
    let own = title(series.runner);
    [
        one(&format!("no trigger beside {own}"), |turn| turn.plain.per_second),
        one(own, |turn| turn.turn.per_second),
    ]
}

fn title(runner: Runner) -> &'static str {
    match runner {
        Runner::Captured(contestant) => contestant.name(),
        Runner::Delivered => "lago_push, delivery going on",
    }
}

//! A hundred syncs in one database: on a hundred tables, and all on one table with a filter each.
//!
//! What they cost is held against the same rows, written by as many statements, in a table with one sync, and
//! the delivery of what waits of all of them against the delivery of what waits of one. The tables keep their rows
//! from turn to turn: emptying two hundred of them would take longer than the turns do.

mod tables;

use std::time::{Duration, Instant};

use super::cost::{self, Cost};
use super::ground::{Ground, rotated};
use super::processor_time::Server;
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use super::turn::{Compared, Turn, between};
use super::workload::{Commits, Length, Load};
use super::{Effort, counted_as_float, processors};
use crate::failure::{Failure, Outcome};
use crate::spread;
use tables::{Capture, SYNCS, Spread, bulk};

const DRAINED_WITHIN: Duration = Duration::from_secs(120);
/// A backlog comes of all syncs in turn, so often.
const PASSES: usize = 10;

type Runner = (Spread, Capture);
type Round = cost::Round<Runner>;

const RUNNERS: [Runner; 6] = [
    (Spread::OneTable, Capture::None),
    (Spread::OneTable, Capture::Ours),
    (Spread::ManyTables, Capture::None),
    (Spread::ManyTables, Capture::Ours),
    (Spread::Filters, Capture::None),
    (Spread::Filters, Capture::Ours),
];

/// Seconds.
struct Drained {
    one: f64,
    many: f64,
}

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    ground.db.run(&tables::preparation())?;
    let rows = effort.choose(20_000, 100_000);
    let mut bulks = Vec::new();
    for number in 0..effort.choose(3, 9) {
        bulks.push(Round::run(rotated(&RUNNERS, number), |runner| write(ground, runner, rows))?);
    }
    let backlog = effort.choose(10_000, 100_000);
    let mut drains = Vec::new();
    for number in 0..effort.choose(2, 5) {
        drains.push(drain_both(ground, backlog, number)?);
    }
    let singles = single_rows(ground, effort)?;
    ground.clear()?;
    ground.db.run(&tables::tidying())?;
    let mut found = of_bulks(&bulks);
    found.extend(of_singles(&singles));
    found.extend(of_drains(&drains, backlog));
    Ok(found)
}

fn captured(capture: Capture, rows: usize) -> u64 {
    match capture {
        Capture::None => 0,
        Capture::Ours => rows as u64,
    }
}

fn write(ground: &mut Ground, (spread, capture): Runner, rows: usize) -> Outcome<Cost> {
    ground.clear()?;
    let statements = bulk(&tables::tables(spread, capture), rows, 1);
    let cost = Cost::of(&mut ground.db, &statements, rows, Some("lago_push.message"))?;
    ground.expect(captured(capture, rows), "lago_push.message")?;
    Ok(cost)
}

/// Single rows, each into a table drawn by lot.
fn single_rows(ground: &mut Ground, effort: Effort) -> Outcome<Vec<Compared>> {
    let load = Load {
        writers: 2 * processors(),
        commits: Commits::Unwaited,
        length: effort.choose(Length::Transactions(12_000), Length::OneSecond),
    };
    let server = Server::behind(&mut ground.db)?;
    let cluster = ground.cluster.clone();
    load.commits.apply(&mut ground.db)?;
    let mut all = Vec::new();
    for _ in 0..effort.choose(2, 10) {
        all.extend(between(Capture::None, &[Capture::Ours], |capture| {
            ground.clear()?;
            let scripts: Vec<String> = tables::tables(Spread::ManyTables, capture)
                .iter()
                .map(|table| format!("insert into {table} (subscription, amount) values ('sub_1', 12.50);\n"))
                .collect();
            let mut committed = 0;
            let turn = Turn::of(
                &server,
                || load.run(&cluster, &scripts),
                |transactions| {
                    committed = transactions;
                    Ok(())
                },
            )?;
            let expected = if capture == Capture::Ours { committed } else { 0 };
            ground.expect(expected, "lago_push.message")?;
            Ok(turn)
        })?);
    }
    Commits::Waited.apply(&mut ground.db)?;
    Ok(all)
}

fn drain_both(ground: &mut Ground, backlog: usize, number: usize) -> Outcome<Drained> {
    let mut drained = Drained { one: f64::NAN, many: f64::NAN };
    for spread in rotated(&[Spread::OneTable, Spread::ManyTables], number) {
        ground.clear()?;
        ground.db.run(&bulk(&tables::tables(spread, Capture::Ours), backlog, PASSES))?;
        ground.rest()?;
        let start = Instant::now();
        ground.release()?;
        ground.wait_until_stored(backlog as u64, DRAINED_WITHIN)?;
        let seconds = start.elapsed().as_secs_f64();
        if !ground.db.value::<bool>("select lago_push.flush(timeout => '60 s')")? {
            return Err(Failure::new("everything has arrived, but the outbox is not emptied"));
        }
        ground.hold()?;
        let stored = ground.lago.stored()?;
        if stored != backlog as u64 {
            return Err(Failure::new(format!("{backlog} events were captured and {stored} accepted")));
        }
        *if spread == Spread::OneTable { &mut drained.one } else { &mut drained.many } = seconds;
    }
    Ok(drained)
}

fn figure(what: &'static str, against: &'static str, ratios: impl IntoIterator<Item = f64>) -> Figure {
    Figure { what, against, measured: spread::Spread::of(ratios), unit: Unit::Times, goal: Goal::None }
}

fn of_bulks(rounds: &[Round]) -> Findings {
    let added =
        |round: &Round, spread| round.added((spread, Capture::Ours), (spread, Capture::None)).microseconds;
    let ratios =
        |spread| rounds.iter().map(move |round| added(round, spread) / added(round, Spread::OneTable));
    let all = |what: &str, spread| {
        let values = rounds.iter().map(|round| added(round, spread));
        Measurement::new(format!("100 statements, {what}"), values, "µs")
    };
    let further = rounds.iter().map(|round| {
        (added(round, Spread::Filters) - added(round, Spread::OneTable)) / counted_as_float(SYNCS - 1)
    });
    Findings {
        figures: vec![
            figure(
                "time capture adds to a row, 100 tables and syncs",
                "one table with one sync",
                ratios(Spread::ManyTables),
            ),
            figure(
                "  100 syncs with filters on one table",
                "one table with one sync",
                ratios(Spread::Filters),
            ),
        ],
        measurements: vec![
            all("one table with one sync: capture adds", Spread::OneTable),
            all("100 tables with a sync each: capture adds", Spread::ManyTables),
            all("one table with 100 syncs: capture adds", Spread::Filters),
            Measurement::new("a sync whose filter leaves the row out adds", further, "µs"),
        ],
    }
}

fn of_singles(turns: &[Compared]) -> Findings {
    let all = |what: &str, value: fn(&Compared) -> f64, unit| {
        Measurement::new(
            format!("single-row transactions, 100 tables, {what}"),
            turns.iter().map(value),
            unit,
        )
    };
    Findings {
        figures: vec![figure(
            "single-row transactions a second, 100 tables and syncs",
            "no trigger",
            turns.iter().map(Compared::rate),
        )],
        measurements: vec![
            all("no trigger", |turn| turn.plain.per_second, "a second"),
            all("lago_push", |turn| turn.turn.per_second, "a second"),
            all("lago_push", Compared::processor, "× the processor time without a trigger"),
        ],
    }
}

fn of_drains(rounds: &[Drained], backlog: usize) -> Findings {
    let events = counted_as_float(backlog);
    let rate = |what: &str, seconds: fn(&Drained) -> f64| {
        Measurement::new(what, rounds.iter().map(|round| events / seconds(round)), "events a second")
    };
    Findings {
        figures: vec![figure(
            "events delivered a second, backlog of 100 syncs",
            "backlog of one sync",
            rounds.iter().map(|round| round.one / round.many),
        )],
        measurements: vec![
            rate("backlog of one sync", |round| round.one),
            rate("backlog of 100 syncs", |round| round.many),
        ],
    }
}

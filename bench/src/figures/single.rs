//! How many single-row transactions a second remain when each is captured.
//!
//! Without synchronous commits, so that the disk does not hide what capture costs, and with more clients than
//! processors: one that waits for an answer leaves its processor to another, so that the rate shows what a
//! transaction costs and not how quickly this machine wakes up. Ours runs twice: with the
//! destination held, which measures capture, and with delivery going on, for which worker and stand-in take
//! their share of the same processors.

use std::fs;

use super::ground::{Contestant, DATABASE, Ground, rotated};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use super::{Effort, counted_as_float, processors};
use crate::failure::{Doing, Failure, Outcome};
use crate::pgbench;
use crate::spread::Spread;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    Captured(Contestant),
    Delivered,
}

const RUNNERS: [Runner; 4] = [
    Runner::Captured(Contestant::Plain),
    Runner::Captured(Contestant::Ours),
    Runner::Captured(Contestant::Peer),
    Runner::Delivered,
];

/// Transactions per second.
#[derive(Clone, Copy, Default)]
struct Round {
    plain: f64,
    peer: f64,
    ours: f64,
    delivered: f64,
}

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    ground.db.run(&format!("alter database {DATABASE} set synchronous_commit = off"))?;
    let mut rounds = Vec::new();
    for number in 0..effort.choose(20, 40) {
        let mut round = Round::default();
        for runner in rotated(&RUNNERS, number) {
            let per_second = run(ground, runner)?;
            *match runner {
                Runner::Captured(Contestant::Plain) => &mut round.plain,
                Runner::Captured(Contestant::Peer) => &mut round.peer,
                Runner::Captured(Contestant::Ours) => &mut round.ours,
                Runner::Delivered => &mut round.delivered,
            } = per_second;
        }
        rounds.push(round);
    }
    ground.clear()?;
    ground.db.run(&format!("alter database {DATABASE} reset synchronous_commit"))?;
    Ok(findings(&rounds))
}

fn run(ground: &mut Ground, runner: Runner) -> Outcome<f64> {
    let contestant = match runner {
        Runner::Captured(contestant) => contestant,
        Runner::Delivered => Contestant::Ours,
    };
    ground.clear()?;
    let script = ground.cluster.folder().join("one-insert.sql");
    let statement =
        format!("insert into {} (subscription, amount) values ('sub_1', 12.50);\n", contestant.table());
    fs::write(&script, statement).doing("write pgbench's script")?;
    let script = script.display().to_string();
    let (clients, threads) = ((2 * processors()).to_string(), processors().to_string());
    let arguments = ["-n", "-c", &clients, "-j", &threads, "-M", "prepared", "-T", "1", "-f", &script];
    if runner == Runner::Delivered {
        ground.release()?;
    }
    let report = pgbench::run(&ground.cluster, DATABASE, &arguments)?;
    match runner {
        Runner::Captured(Contestant::Plain) => {}
        Runner::Captured(Contestant::Peer) => expect(ground, "peer_outbox", report.transactions)?,
        Runner::Captured(Contestant::Ours) => expect(ground, "lago_push.message", report.transactions)?,
        Runner::Delivered => {
            ground.db.run("select lago_push.flush(timeout => '60 s')")?;
            ground.hold()?;
            let stored = ground.lago.stored()?;
            if stored != report.transactions {
                return Err(Failure::new(format!("{} committed, {stored} delivered", report.transactions)));
            }
        }
    }
    Ok(report.per_second)
}

/// A contestant that captured less would win without having done the work.
fn expect(ground: &mut Ground, outbox: &str, transactions: u64) -> Outcome<()> {
    let count: i64 = ground.db.value(&format!("select count(*) from {outbox}"))?;
    if u64::try_from(count).ok() == Some(transactions) {
        return Ok(());
    }
    Err(Failure::new(format!("{transactions} transactions committed and {count} events in {outbox}")))
}

fn findings(rounds: &[Round]) -> Findings {
    let figure = |what, share: fn(&Round) -> f64, goal| Figure {
        what,
        against: "no trigger",
        measured: Spread::of(rounds.iter().map(share)),
        unit: Unit::Times,
        goal,
    };
    let all = |what: &str, value: fn(&Round) -> f64| {
        Measurement::new(format!("single-row transactions, {what}"), rounds.iter().map(value), "a second")
    };
    Findings {
        figures: vec![
            figure(
                "single-row transactions a second with capture",
                |round| round.ours / round.plain,
                Goal::AtLeast(0.85),
            ),
            figure("  the same with a PL/pgSQL trigger", |round| round.peer / round.plain, Goal::None),
            figure("  with capture and delivery going on", |round| round.delivered / round.plain, Goal::None),
        ],
        measurements: vec![
            all("no trigger", |round| round.plain),
            all("PL/pgSQL trigger", |round| round.peer),
            all("lago_push", |round| round.ours),
            all("lago_push, delivery going on", |round| round.delivered),
            Measurement::new(
                "single-row transactions, lago_push adds to each",
                rounds.iter().map(|round| {
                    (1.0 / round.ours - 1.0 / round.plain) * 1e6 * counted_as_float(processors())
                }),
                "µs of a processor",
            ),
        ],
    }
}

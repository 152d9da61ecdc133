//! What capture adds to each row of a bulk insert.
//!
//! Contestants insert the same rows with one statement; what it takes longer than without any trigger is the
//! cost of capture. The floor is not a trigger at all: ready-made payloads are copied into an outbox, which
//! is the least that queueing them can cost.

use delivery::scene::insert_rows;

use super::Effort;
use super::cost::{self, Cost};
use super::ground::{Contestant, Ground, rotated};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use crate::failure::Outcome;
use crate::spread::Spread;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    Insert(Contestant),
    Floor,
}

const PLAIN: Runner = Runner::Insert(Contestant::Plain);
const ROW_TRIGGER: Runner = Runner::Insert(Contestant::RowTrigger);
const STATEMENT_TRIGGER: Runner = Runner::Insert(Contestant::StatementTrigger);
const LOGUTRIGA: Runner = Runner::Insert(Contestant::Logutriga);
const OURS: Runner = Runner::Insert(Contestant::Ours);

type Round = cost::Round<Runner>;

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let rows = effort.choose(40_000, 300_000);
    prepare(ground, rows)?;
    let mut runners: Vec<Runner> = ground.contestants().into_iter().map(Runner::Insert).collect();
    runners.push(Runner::Floor);
    let mut rounds = Vec::new();
    for number in 0..effort.rounds() {
        rounds.push(Round::run(rotated(&runners, number), |runner| run(ground, runner, rows))?);
    }
    ground.clear()?;
    ground.db.run("drop table ready")?;
    Ok(findings(&runners, &rounds))
}

/// Makes sure that ours and those of the hand-written triggers are the same events, and fills the floor's
/// payloads with ours.
fn prepare(ground: &mut Ground, rows: usize) -> Outcome<()> {
    for peer in [Contestant::RowTrigger, Contestant::StatementTrigger] {
        ground.clear()?;
        for contestant in [peer, Contestant::Ours] {
            ground.db.run(&insert_rows(contestant.table(), rows))?;
            ground.expect_captured(contestant, rows as u64)?;
        }
        ground.expect_same_events(peer.name())?;
    }
    ground.db.run("create table ready as select payload from lago_push.message order by id")?;
    ground.db.run("vacuum analyze ready")
}

fn run(ground: &mut Ground, runner: Runner, rows: usize) -> Outcome<Cost> {
    ground.clear()?;
    ground.db.run("checkpoint")?;
    match runner {
        Runner::Insert(contestant) => {
            let outbox = ground.outbox(contestant);
            let statement = insert_rows(contestant.table(), rows);
            let cost = Cost::of(&mut ground.db, &statement, rows, outbox.as_deref())?;
            ground.expect_captured(contestant, rows as u64)?;
            Ok(cost)
        }
        Runner::Floor => {
            let statement =
                "insert into floor_outbox (sync_id, operation, payload) select 1, 'i', payload from ready";
            let cost = Cost::of(&mut ground.db, statement, rows, Some("floor_outbox"))?;
            ground.expect(rows as u64, "floor_outbox")?;
            Ok(cost)
        }
    }
}

fn findings(runners: &[Runner], rounds: &[Round]) -> Findings {
    let mut found = Findings::default();
    let against = [
        (ROW_TRIGGER, "PL/pgSQL row trigger", Goal::AtMost(0.25)),
        (Runner::Floor, "copying ready-made payloads", Goal::AtMost(1.5)),
        (STATEMENT_TRIGGER, "PL/pgSQL statement trigger", Goal::None),
        (LOGUTRIGA, "PgQ's logutriga, which queues the bare row", Goal::None),
    ];
    for (peer, against, goal) in against.into_iter().filter(|(peer, ..)| runners.contains(peer)) {
        let ratio = |round: &Round| added(round, OURS).microseconds / added(round, peer).microseconds;
        found.figures.push(Figure {
            what: "time capture adds to a row of a bulk insert",
            against,
            measured: Spread::of(rounds.iter().map(ratio)),
            unit: Unit::Times,
            goal,
        });
    }
    let mut all = |runner, value: fn(Cost) -> f64, unit| {
        let values = rounds.iter().map(|round| value(added(round, runner)));
        found.measurements.push(Measurement::new(format!("bulk insert, {}", title(runner)), values, unit));
    };
    for runner in runners {
        all(*runner, |cost| cost.microseconds, "µs");
    }
    for runner in runners {
        all(*runner, |cost| cost.wal_bytes, "bytes of WAL");
    }
    for runner in runners.iter().filter(|runner| **runner != PLAIN) {
        all(*runner, |cost| cost.outbox_bytes, "bytes of outbox");
    }
    found
}

/// Triggers by what they add; the floor writes no rows but its payloads.
fn added(round: &Round, runner: Runner) -> Cost {
    match runner {
        PLAIN | Runner::Floor => round.of(runner),
        Runner::Insert(_) => round.added(runner, PLAIN),
    }
}

fn title(runner: Runner) -> String {
    match runner {
        PLAIN => "a row without a trigger".to_owned(),
        Runner::Insert(contestant) => format!("{} adds", contestant.name()),
        Runner::Floor => "copying a ready-made payload".to_owned(),
    }
}

//! What capture adds to writes other than a plain insert: updates, deletes, wide rows and large documents.
//!
//! Each case has tables of its own, one without a trigger, one with a hand-written row trigger and one with a
//! sync, and is measured like bulk inserts are. What is written is prepared beforehand, so that no turn has to
//! make it up.

mod cases;

use super::Effort;
use super::cost::{self, Cost};
use super::ground::{Ground, rotated};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use crate::failure::Outcome;
use crate::spread::Spread;
use cases::{Case, Write};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    Plain,
    RowTrigger,
    /// Ready-made payloads are copied.
    Floor,
    Ours,
}

const RUNNERS: [Runner; 4] = [Runner::Plain, Runner::RowTrigger, Runner::Floor, Runner::Ours];

type Round = cost::Round<Runner>;

impl Runner {
    fn table(self) -> &'static str {
        match self {
            Self::Plain => "written_plain",
            Self::RowTrigger => "written_peer",
            Self::Floor => "floor_outbox",
            Self::Ours => "written_ours",
        }
    }

    fn outbox(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::RowTrigger => Some("peer_outbox"),
            Self::Floor => Some("floor_outbox"),
            Self::Ours => Some("lago_push.message"),
        }
    }
}

const TIDYING: &str = "
select lago_push.drop_sync('written', discard => true);
drop table prepared, ready, written_plain, written_peer, written_ours;
drop function bill_written();
";

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let mut found = Findings::default();
    for case in cases::all() {
        found.extend(measure_case(ground, effort, &case)?);
    }
    Ok(found)
}

fn measure_case(ground: &mut Ground, effort: Effort, case: &Case) -> Outcome<Findings> {
    let rows = effort.choose(case.rows / 5, case.rows);
    ground.db.run(&case.preparation(rows))?;
    ground.db.run("vacuum analyze prepared")?;
    compare_events(ground, case, rows)?;
    let mut rounds = Vec::new();
    for number in 0..effort.choose(2, 9) {
        rounds.push(Round::run(rotated(&RUNNERS, number), |runner| turn(ground, case, runner, rows))?);
    }
    clear(ground)?;
    ground.db.run(TIDYING)?;
    Ok(findings(case, &rounds))
}

/// Makes sure that ours and those of the hand-written trigger are the same events, and fills the floor's
/// payloads with ours.
fn compare_events(ground: &mut Ground, case: &Case, rows: usize) -> Outcome<()> {
    clear(ground)?;
    for runner in [Runner::RowTrigger, Runner::Ours] {
        write(ground, case, runner, rows)?;
    }
    ground.expect_same_events(&format!("hand-written trigger: {}", case.name))?;
    ground.db.run(
        "create table ready (payload text) with (toast_tuple_target = 8160);
         alter table ready alter payload set storage external;
         insert into ready select payload from lago_push.message order by id",
    )?;
    ground.db.run("vacuum analyze ready")
}

fn clear(ground: &mut Ground) -> Outcome<()> {
    ground.db.run("truncate written_plain, written_peer, written_ours")?;
    ground.clear()
}

fn turn(ground: &mut Ground, case: &Case, runner: Runner, rows: usize) -> Outcome<Cost> {
    clear(ground)?;
    write(ground, case, runner, rows)
}

fn write(ground: &mut Ground, case: &Case, runner: Runner, rows: usize) -> Outcome<Cost> {
    let table = runner.table();
    let filling = format!("insert into {table} select * from prepared");
    let statement = match (runner, case.write) {
        (Runner::Floor, _) => {
            "insert into floor_outbox (sync_id, operation, payload) select 1, 'i', payload from ready"
                .to_owned()
        }
        (_, Write::Insert) => filling,
        (_, Write::Update { set }) => {
            ground.db.run(&filling)?;
            format!("update {table} set {set}")
        }
        (_, Write::Delete) => {
            ground.db.run(&filling)?;
            format!("delete from {table}")
        }
    };
    let cost = Cost::of(&mut ground.db, &statement, rows, runner.outbox())?;
    runner.outbox().map_or(Ok(()), |outbox| ground.expect(rows as u64, outbox))?;
    Ok(cost)
}

fn findings(case: &Case, rounds: &[Round]) -> Findings {
    let added = |round: &Round, runner| match runner {
        Runner::Plain | Runner::Floor => round.of(runner),
        Runner::RowTrigger | Runner::Ours => round.added(runner, Runner::Plain),
    };
    let ratio = |round: &Round| {
        added(round, Runner::Ours).microseconds / added(round, Runner::RowTrigger).microseconds
    };
    let all = |runner, value: fn(Cost) -> f64, unit| {
        let title = match runner {
            Runner::Plain => "no trigger",
            Runner::RowTrigger => "PL/pgSQL row trigger adds",
            Runner::Floor => "copying a ready-made payload",
            Runner::Ours => "lago_push adds",
        };
        let values = rounds.iter().map(|round| value(added(round, runner)));
        Measurement::new(format!("{}, {title}", case.name), values, unit)
    };
    let of_each = |runners: &[Runner], value: fn(Cost) -> f64, unit| {
        runners.iter().map(|runner| all(*runner, value, unit)).collect::<Vec<_>>()
    };
    let triggers = [Runner::RowTrigger, Runner::Ours];
    Findings {
        figures: vec![Figure {
            what: case.figure,
            against: "PL/pgSQL row trigger",
            measured: Spread::of(rounds.iter().map(ratio)),
            unit: Unit::Times,
            goal: Goal::None,
        }],
        measurements: [
            of_each(&RUNNERS, |cost| cost.microseconds, "µs"),
            of_each(&triggers, |cost| cost.wal_bytes, "bytes of WAL"),
            of_each(&triggers, |cost| cost.outbox_bytes, "bytes of outbox"),
        ]
        .into_iter()
        .flatten()
        .collect(),
    }
}

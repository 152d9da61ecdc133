//! What capture adds to each row of a bulk insert.
//!
//! Contestants insert the same rows with one statement; what it takes longer than without any trigger is the
//! cost of capture. The floor is not a trigger at all: ready-made payloads are copied into an outbox, which
//! is the least that queueing them can cost.

use delivery::scene::insert_rows;

use super::ground::{Contestant, Ground, rotated};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use super::{Effort, counted_as_float};
use crate::failure::{Failure, Outcome};
use crate::spread::Spread;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Runner {
    Insert(Contestant),
    Floor,
}

const RUNNERS: [Runner; 4] = [
    Runner::Insert(Contestant::Plain),
    Runner::Insert(Contestant::Peer),
    Runner::Floor,
    Runner::Insert(Contestant::Ours),
];

/// What one row took.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    microseconds: f64,
    wal_bytes: f64,
}

impl Cost {
    fn beyond(self, base: Self) -> Self {
        Self {
            microseconds: self.microseconds - base.microseconds,
            wal_bytes: self.wal_bytes - base.wal_bytes,
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Round {
    plain: Cost,
    peer: Cost,
    floor: Cost,
    ours: Cost,
}

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let rows = effort.choose(100_000, 300_000);
    prepare(ground, rows)?;
    let mut rounds = Vec::new();
    for number in 0..effort.rounds() {
        let mut round = Round::default();
        for runner in rotated(&RUNNERS, number) {
            let cost = run(ground, runner, rows)?;
            *match runner {
                Runner::Insert(Contestant::Plain) => &mut round.plain,
                Runner::Insert(Contestant::Peer) => &mut round.peer,
                Runner::Insert(Contestant::Ours) => &mut round.ours,
                Runner::Floor => &mut round.floor,
            } = cost;
        }
        rounds.push(round);
    }
    ground.clear()?;
    ground.db.run("drop table ready")?;
    Ok(findings(&rounds))
}

/// Fills the floor's payloads with ours, and makes sure that ours and the peer's are the same events.
fn prepare(ground: &mut Ground, rows: usize) -> Outcome<()> {
    ground.clear()?;
    for contestant in [Contestant::Peer, Contestant::Ours] {
        ground.db.run(&insert_rows(contestant.table(), rows))?;
    }
    let count: i64 = ground.db.value("select count(*) from lago_push.message")?;
    if usize::try_from(count).ok() != Some(rows) {
        return Err(Failure::new(format!("{rows} rows were inserted and {count} messages captured")));
    }
    // The statements ran one after the other, so the time of their rows differs.
    let different: i64 = ground.db.value(
        "select count(*) from (
             (select payload::jsonb - 'timestamp' from lago_push.message)
             except
             (select payload::jsonb - 'timestamp' from peer_outbox)) different",
    )?;
    if different > 0 {
        return Err(Failure::new(format!(
            "{different} events differ from those of the hand-written trigger"
        )));
    }
    ground.db.run("create table ready as select payload from lago_push.message order by id")?;
    ground.db.run("vacuum analyze ready")
}

fn run(ground: &mut Ground, runner: Runner, rows: usize) -> Outcome<Cost> {
    ground.clear()?;
    ground.db.run("checkpoint")?;
    let statement = match runner {
        Runner::Insert(contestant) => insert_rows(contestant.table(), rows),
        Runner::Floor => {
            "insert into floor_outbox (sync_id, operation, payload) select 1, 'i', payload from ready"
                .to_owned()
        }
    };
    let from: String = ground.db.value("select pg_current_wal_insert_lsn()::text")?;
    let took = ground.db.timed(&statement)?;
    let sql = format!("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{from}')::float8");
    let wal: f64 = ground.db.value(&sql)?;
    let rows = counted_as_float(rows);
    Ok(Cost { microseconds: took.as_secs_f64() * 1e6 / rows, wal_bytes: wal / rows })
}

fn findings(rounds: &[Round]) -> Findings {
    let added = |round: &Round| round.ours.beyond(round.plain).microseconds;
    let ratio =
        |against: fn(&Round) -> f64| Spread::of(rounds.iter().map(|round| added(round) / against(round)));
    let figure = |against, measured, goal| Figure {
        what: "time capture adds to a row of a bulk insert",
        against,
        measured,
        unit: Unit::Times,
        goal: Goal::AtMost(goal),
    };
    let all = |what: &str, value: fn(&Round) -> f64, unit| {
        Measurement::new(format!("bulk insert, {what}"), rounds.iter().map(value), unit)
    };
    Findings {
        figures: vec![
            figure(
                "hand-written PL/pgSQL trigger",
                ratio(|round| round.peer.beyond(round.plain).microseconds),
                0.25,
            ),
            figure("copying ready-made payloads", ratio(|round| round.floor.microseconds), 1.5),
        ],
        measurements: vec![
            all("a row without a trigger", |round| round.plain.microseconds, "µs"),
            all("PL/pgSQL adds", |round| round.peer.beyond(round.plain).microseconds, "µs"),
            all("lago_push adds", |round| round.ours.beyond(round.plain).microseconds, "µs"),
            all("copying a ready-made payload", |round| round.floor.microseconds, "µs"),
            all("PL/pgSQL adds", |round| round.peer.beyond(round.plain).wal_bytes, "bytes of WAL"),
            all("lago_push adds", |round| round.ours.beyond(round.plain).wal_bytes, "bytes of WAL"),
            all("copying a ready-made payload", |round| round.floor.wal_bytes, "bytes of WAL"),
        ],
    }
}

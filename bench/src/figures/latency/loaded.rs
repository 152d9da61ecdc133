//! Commits while others write at a fixed rate.
//!
//! pgbench offers the load, no faster than it is told to. In between a session of ours inserts marked rows, one in a
//! transaction, into the same table: they travel with the others.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::{Duration, SystemTime};

use fake_lago::FakeLago;

use super::super::Effort;
use super::super::ground::{DATABASE, Ground};
use super::super::raw::Connection;
use super::super::report::{Figure, Findings, Goal, Measurement, Unit};
use super::super::witness::{Memory, with_witness};
use super::{ByHand, Part, Samples};
use crate::failure::{Doing, Failure, Outcome};
use crate::pgbench::{self, Running};
use crate::session::Session;
use crate::spread::{Spread, signed_milliseconds};

/// Transactions a second, of so many rows each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// 1,000 of one row.
    Ones,
    /// 1,000 of ten rows. As single rows, so many would be more than two processors can commit.
    Tens,
}

pub const LOADS: [Load; 2] = [Load::Ones, Load::Tens];

const TRANSACTIONS_PER_SECOND: &str = "1000";
const CLIENTS: &str = "8";

/// Between two samples, which are of a commit and a request in turn. Not always the same, or the samples might keep
/// step with something that happens regularly.
const PAUSES: [Duration; 3] =
    [Duration::from_micros(200), Duration::from_micros(500), Duration::from_micros(900)];
const ALL_ARRIVE_WITHIN: Duration = Duration::from_secs(60);

const MARK: &str = "marked";
const INSERT: &str = "insert into usage_ours (subscription, amount) values ($1, 1) returning id";

impl Load {
    fn rows(self) -> usize {
        match self {
            Self::Ones => 1,
            Self::Tens => 10,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ones => "at 1,000 events a second",
            Self::Tens => "at 10,000 events a second",
        }
    }

    fn title(self, part: Part) -> &'static str {
        match (self, part) {
            (Self::Ones, Part::P50) => "  at 1,000 events a second, p50",
            (Self::Ones, Part::P99) => "  at 1,000 events a second, p99",
            (Self::Ones, Part::P999) => "  at 1,000 events a second, p99.9",
            (Self::Tens, Part::P50) => "  at 10,000 events a second, p50",
            (Self::Tens, Part::P99) => "  at 10,000 events a second, p99",
            (Self::Tens, Part::P999) => "  at 10,000 events a second, p99.9",
        }
    }
}

pub fn measure(ground: &mut Ground, effort: Effort, load: Load) -> Outcome<Findings> {
    ground.clear()?;
    let seconds = effort.choose("3", "40");
    let (samples, offered) =
        with_witness(ground, Memory::Counters, |ground, lago| take(ground, lago, seconds, load))?;
    let figure = |part: &Part| Figure {
        what: load.title(*part),
        against: "the request's own round trip",
        measured: Spread::of([samples.beyond(*part)]),
        unit: Unit::Milliseconds,
        goal: Goal::None,
    };
    let mut measurements = samples.measurements(load.name());
    // Less than was asked for means that the machine was at its end, and the times above are those of a queue.
    let what = format!("{}, committed beside the samples", load.name());
    measurements.push(Measurement::new(what, [offered], "transactions a second"));
    Ok(Findings { figures: samples.parts().iter().map(figure).collect(), measurements })
}

/// Also what pgbench got to commit, in transactions a second.
fn take(ground: &mut Ground, lago: &FakeLago, seconds: &str, load: Load) -> Outcome<(Samples, f64)> {
    lago.watch_arrivals(MARK);
    ground.release()?;
    let mut marker = Session::open(&ground.cluster, DATABASE)?;
    let mut insert = marker.prepared(INSERT)?;
    let mut by_hand = ByHand::new(Connection::open(lago.addr())?);
    let mut pgbench = start_pgbench(ground, seconds, load)?;
    let mut committed = Vec::new();
    let mut round_trips = Vec::new();
    for pause in PAUSES.into_iter().cycle() {
        if !pgbench.is_running() {
            break;
        }
        thread::sleep(pause);
        let id: i64 = insert.value(&[&MARK])?;
        committed.push((id, SystemTime::now()));
        thread::sleep(pause);
        round_trips.push(by_hand.round_trip()?);
    }
    let report = pgbench.finish()?;
    let rows = report.transactions * load.rows() as u64;
    let all = rows + (committed.len() + round_trips.len()) as u64;
    let arrived = lago.wait_for("all rows", ALL_ARRIVE_WITHIN, |lago| lago.stored_count() >= all);
    arrived.map_err(Failure::new)?;
    ground.db.run("select lago_push.flush(timeout => '60 s')")?;
    let stored = lago.stored_count();
    if stored != all {
        return Err(Failure::new(format!("{all} events were expected and {stored} arrived")));
    }
    Ok((Samples { commits: times(lago, &committed)?, round_trips }, report.per_second))
}

fn start_pgbench(ground: &Ground, seconds: &str, load: Load) -> Outcome<Running> {
    let script = ground.cluster.folder().join("offered.sql");
    let rows = load.rows();
    let statement = format!(
        "insert into usage_ours (subscription, amount) select 'sub_1', 12.50 from generate_series(1, {rows});\n"
    );
    fs::write(&script, statement).doing("write pgbench's script")?;
    let script = script.display().to_string();
    let rate = ["-R", TRANSACTIONS_PER_SECOND, "-T", seconds];
    let rest = ["-n", "-c", CLIENTS, "-M", "prepared", "-f", &script];
    let arguments: Vec<&str> = rate.into_iter().chain(rest).collect();
    pgbench::Running::start(&ground.cluster, DATABASE, &arguments)
}

/// From the commit of each marked row to the arrival of its event.
fn times(lago: &FakeLago, committed: &[(i64, SystemTime)]) -> Outcome<Vec<f64>> {
    let arrived: HashMap<String, SystemTime> = lago.arrivals().into_iter().collect();
    let time = |(id, at): &(i64, SystemTime)| {
        let arrived = arrived.get(&format!("usage-{id}"));
        let arrived = arrived.ok_or_else(|| Failure::new(format!("the marked row {id} has not arrived")))?;
        Ok(signed_milliseconds(*at, *arrived))
    };
    committed.iter().map(time).collect()
}

//! The figures: what capture and delivery cost, each as a ratio to a peer in the same run.
//!
//! Absolute numbers differ from machine to machine, ratios much less. Contestants take turns in every round,
//! so that a busy moment of the machine meets all of them; the median counts, and the extremes are shown.

mod backlog;
mod bulk;
mod chart;
mod cost;
mod databases;
mod drain;
mod ground;
mod held;
mod instructions;
mod latency;
mod looks;
mod process;
mod processor_time;
mod raw;
mod report;
mod results;
mod runs;
mod single;
mod site;
pub mod stand_in;
mod syncs;
mod templates;
mod turn;
mod witness;
mod workload;
mod writes;

use std::fs;
use std::num::NonZero;
use std::time::Instant;
use std::{env, thread};

use crate::failure::{Failure, Outcome};
use ground::Ground;
use report::{Findings, Section};
use results::Results;

/// How much is done, which is how far the figures can be trusted. Each part says what that means for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Two minutes for everything, for a rough idea.
    Quick,
    Full,
}

impl Effort {
    /// Quick if `QUICK` is set.
    pub fn from_environment() -> Self {
        match env::var("QUICK") {
            Ok(value) if !value.is_empty() && value != "0" => Self::Quick,
            _ => Self::Full,
        }
    }

    pub fn choose<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }

    /// Rounds in which each contestant takes one turn.
    pub fn rounds(self) -> usize {
        self.choose(5, 9)
    }
}

struct Part {
    name: &'static str,
    what: &'static str,
    measure: fn(&mut Ground, Effort) -> Outcome<Findings>,
    /// Units whose measurements the chart shows side by side.
    charted: &'static [&'static str],
}

const PARTS: [Part; 12] = [
    Part { name: "bulk", what: "bulk inserts", measure: bulk::measure, charted: &["µs"] },
    Part {
        name: "writes",
        what: "updates, deletes, wide rows, large documents",
        measure: writes::measure,
        charted: &[],
    },
    Part { name: "templates", what: "Liquid and mappers", measure: templates::measure, charted: &["µs"] },
    Part { name: "single", what: "single-row transactions", measure: single::measure, charted: &[] },
    Part { name: "syncs", what: "a hundred syncs", measure: syncs::measure, charted: &[] },
    Part {
        name: "drain",
        what: "draining a backlog",
        measure: drain::measure,
        charted: &["events a second"],
    },
    Part { name: "latency", what: "from commit to arrival", measure: latency::measure, charted: &[] },
    Part { name: "backlog", what: "large backlogs", measure: backlog::measure, charted: &[] },
    Part { name: "held", what: "a transaction held open", measure: held::measure, charted: &[] },
    Part { name: "runs", what: "runs of a query", measure: runs::measure, charted: &[] },
    Part { name: "databases", what: "twenty databases", measure: databases::measure, charted: &[] },
    Part {
        name: "instructions",
        what: "instructions",
        measure: instructions::measure,
        charted: &["instructions"],
    },
];

/// Measures the parts with these names, or all if there are none. What a part has found is written at once; in
/// the end everything is printed and written.
pub fn run(names: &[String]) -> Outcome<()> {
    if let Some(name) = names.iter().find(|name| PARTS.iter().all(|part| part.name != **name)) {
        let parts = PARTS.map(|part| part.name).join(", ");
        return Err(Failure::new(format!("there is no part {name:?}; the parts are {parts}")));
    }
    let chosen = |part: &&Part| names.is_empty() || names.iter().any(|name| name == part.name);
    let effort = Effort::from_environment();
    if cfg!(debug_assertions) {
        eprintln!("This is a debug build: its figures say little. `make bench` makes a release build.");
    }
    let busy = load();
    let mut ground = Ground::prepare()?;
    let mut results = Results::new(circumstances(&mut ground, effort, &busy)?);
    for part in PARTS.iter().filter(chosen) {
        eprint!("{} … ", part.what);
        let start = Instant::now();
        let found = (part.measure)(&mut ground, effort);
        eprintln!("{:.0} s", start.elapsed().as_secs_f64());
        let findings = found.map_err(|failure| with_log(&failure, &ground))?;
        results.keep(part.name, Section { heading: part.what, charted: part.charted, findings })?;
    }
    println!("\n{}", results.markdown());
    let written = match names {
        [] => results.write("latest")?,
        _ => {
            results.write(&PARTS.iter().filter(chosen).map(|part| part.name).collect::<Vec<_>>().join("-"))?
        }
    };
    println!("Written to {written}. What each means: bench/README.md.");
    Ok(())
}

fn with_log(failure: &Failure, ground: &Ground) -> Failure {
    Failure::new(format!("{failure}\n\nThe server's log ends:\n{}", ground.cluster.log_tail(None)))
}

fn circumstances(ground: &mut Ground, effort: Effort, busy: &str) -> Outcome<String> {
    let row = ground.db.row(
        "select to_char(now(), 'YYYY-MM-DD HH24:MI \"UTC\"'), split_part(current_setting('server_version'), ' ', 1),
                (select extversion from pg_extension where extname = 'lago_push')",
    )?;
    let [date, server, extension]: [String; 3] = [row.get(0), row.get(1), row.get(2)];
    Ok(format!(
        "{date}, PostgreSQL {server}, lago_push {extension}, {} processors shared by server, worker, \
         stand-in and load generator; load average at the start {busy}. A {} run.",
        processors(),
        effort.choose("quick", "full"),
    ))
}

/// What else the machine was doing, before the benchmark began.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().filter(|first| !first.is_empty()).unwrap_or("unknown").to_owned()
}

/// How many of the machine's processors the benchmark may use.
fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Exact for every number that occurs here.
fn counted_as_float(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

//! How long a commit on an otherwise idle system takes to reach Lago.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use delivery::cluster::Cluster;
use fake_lago::FakeLago;

use super::place::Place;
use super::{BRANCHES, DATABASE, say, workload};
use crate::failure::{Failure, Outcome};
use crate::session::{Prepared, Session};
use crate::spread::{milliseconds, percentile, signed_milliseconds};

const COMMITS: u32 = 50;
/// Long enough for everything to come to rest after the commit before.
const REST: Duration = Duration::from_millis(40);
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

const INSERT: &str =
    "insert into pgbench_history (tid, bid, aid, delta, mtime) values ($1, $2, $3, $4, now())";

pub fn measure(cluster: &Cluster, db: &mut Session, place: &Place) -> Outcome<()> {
    let mut writer = Session::open(cluster, DATABASE)?;
    let mut insert = writer.prepared(INSERT)?;
    let mut times = Vec::new();
    for number in 1..=COMMITS {
        thread::sleep(REST);
        times.push(match place {
            Place::StandIn { lago, .. } => until_arrival(&mut insert, lago, number)?,
            Place::Real { .. } => until_settled(&mut insert, db, number)?,
        });
    }
    workload::drain(db, |_| Ok(()))?;
    let until = match place {
        Place::StandIn { .. } => "the request was at Lago",
        Place::Real { .. } => "Lago's answer was recorded here",
    };
    say(&format!("{COMMITS} lone commits on the idle system, from COMMIT's return until {until}:"));
    say(&format!(
        "fastest {:.2} ms, median {:.2} ms, p99 {:.2} ms",
        percentile(&times, 0),
        percentile(&times, 50),
        percentile(&times, 99)
    ));
    if times.iter().any(|time| *time < 0.0) {
        say("(Below zero: the request was at Lago before the client heard that its COMMIT had succeeded.)");
    }
    Ok(())
}

fn commit(insert: &mut Prepared<'_>, number: u32) -> Outcome<()> {
    let branch = i32::try_from(number % BRANCHES + 1).unwrap_or(1);
    let delta = i32::try_from(number).unwrap_or(1);
    insert.execute(&[&branch, &branch, &1_i32, &delta])
}

/// Milliseconds; below zero if the request was there before the client heard of its commit.
fn until_arrival(insert: &mut Prepared<'_>, lago: &FakeLago, number: u32) -> Outcome<f64> {
    let before = lago.request_count();
    commit(insert, number)?;
    let committed_at = SystemTime::now();
    let arrived = lago.wait_for("a lone commit", ARRIVES_WITHIN, |lago| lago.request_count() > before);
    arrived.map_err(Failure::new)?;
    let request = lago.requests_after(before).into_iter().next();
    let request = request.ok_or_else(|| Failure::new("the stand-in for Lago has forgotten a request"))?;
    Ok(signed_milliseconds(committed_at, request.at))
}

/// The answer is looked for again and again, with pauses that begin at a millisecond: the time is rounded up.
fn until_settled(insert: &mut Prepared<'_>, db: &mut Session, number: u32) -> Outcome<f64> {
    commit(insert, number)?;
    let committed = Instant::now();
    if !db.value::<bool>("select lago_push.flush('pgbench')")? {
        return Err(Failure::new("a lone commit was not delivered within 30 seconds"));
    }
    Ok(milliseconds(committed.elapsed()))
}

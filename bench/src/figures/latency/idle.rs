//! Lone commits: nothing else happens.

use std::thread;
use std::time::{Duration, SystemTime};

use fake_lago::FakeLago;

use super::super::Effort;
use super::super::ground::{DATABASE, Ground};
use super::super::raw::Connection;
use super::super::report::{Figure, Findings, Goal, Unit};
use super::super::witness::{Memory, with_witness};
use super::{ByHand, Part, Samples};
use crate::failure::{Failure, Outcome};
use crate::session::Session;
use crate::spread::{Spread, signed_milliseconds};

/// Long enough for worker and server to come to rest.
const REST: Duration = Duration::from_millis(10);
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
const INSERT: &str = "insert into usage_ours (subscription, amount) values ('sub_1', 12.50)";
/// The first ones open connections and fill caches.
const WARM_UP: usize = 10;

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let commits = effort.choose(200, 5_000);
    ground.clear()?;
    let samples = with_witness(ground, Memory::Counters, |ground, lago| take(ground, lago, commits))?;
    Ok(Findings { figures: figures(&samples), measurements: samples.measurements("lone commit") })
}

fn take(ground: &mut Ground, lago: &FakeLago, commits: usize) -> Outcome<Samples> {
    ground.release()?;
    let mut writer = Session::open(&ground.cluster, DATABASE)?;
    let mut insert = writer.prepared(INSERT)?;
    let mut by_hand = ByHand::new(Connection::open(lago.addr())?);
    let mut samples = Samples::default();
    for number in 0..commits + WARM_UP {
        thread::sleep(REST);
        let before = lago.request_count();
        insert.execute(&[])?;
        let committed_at = SystemTime::now();
        let arrived = lago.wait_for("a lone commit", ARRIVES_WITHIN, |lago| lago.request_count() > before);
        arrived.map_err(Failure::new)?;
        let request = lago.requests_after(before).into_iter().next();
        let request = request.ok_or_else(|| Failure::new("the stand-in has forgotten a request"))?;

        thread::sleep(REST);
        let round_trip = by_hand.round_trip()?;
        if number >= WARM_UP {
            samples.commits.push(signed_milliseconds(committed_at, request.at));
            samples.round_trips.push(round_trip);
        }
    }
    ground.db.run("select lago_push.flush()")?;
    Ok(samples)
}

fn figures(samples: &Samples) -> Vec<Figure> {
    let figure = |part: &Part| Figure {
        what: match part {
            Part::P50 => "lone commit to arrival, beyond it, p50",
            Part::P99 => "lone commit to arrival, beyond it, p99",
            Part::P999 => "lone commit to arrival, beyond it, p99.9",
        },
        against: "the request's own round trip",
        // One value: of all commits, not of rounds.
        measured: Spread::of([samples.beyond(*part)]),
        unit: Unit::Milliseconds,
        goal: match part {
            Part::P50 => Goal::AtMost(2.0),
            Part::P99 => Goal::AtMost(10.0),
            Part::P999 => Goal::None,
        },
    };
    samples.parts().iter().map(figure).collect()
}

//! How long a lone commit takes to reach Lago when nothing else happens.
//!
//! From the return of COMMIT to the arrival of the request. Beside it, under the same conditions and in turn
//! with it, a request by hand: there and back, with the answer read.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fake_lago::FakeLago;

use super::Effort;
use super::ground::{DATABASE, Ground};
use super::raw::{self, Connection};
use super::report::{Figure, Findings, Goal, Measurement, Unit};
use super::stand_in::{self, API_KEY};
use crate::failure::{Doing, Failure, Outcome};
use crate::session::Session;
use crate::spread::{Spread, milliseconds, percentile, signed_milliseconds};

/// Long enough for worker and server to come to rest.
const REST: Duration = Duration::from_millis(25);
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
const INSERT: &str = "insert into usage_ours (subscription, amount) values ('sub_1', 12.50)";

pub fn measure(ground: &mut Ground, effort: Effort) -> Outcome<Findings> {
    let commits = effort.choose(200, 1000);
    ground.clear()?;
    // In this process, because only here one sees the moment at which a request arrived.
    let lago = FakeLago::start(stand_in::config()).doing("start the stand-in for Lago")?;
    move_to(ground, &lago.url())?;
    ground.release()?;
    let mut writer = Session::open(&ground.cluster, DATABASE)?;
    let mut insert = writer.prepared(INSERT)?;
    let mut by_hand = Connection::open(lago.addr())?;
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    // The first ones open connections and fill caches.
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
        let start = Instant::now();
        by_hand.exchange(&one_event(number))?;
        let round_trip = milliseconds(start.elapsed());
        if number >= WARM_UP {
            ours.push(signed_milliseconds(committed_at, request.at));
            raw.push(round_trip);
        }
    }
    ground.db.run("select lago_push.flush()")?;
    ground.hold()?;
    let url = ground.lago.url();
    move_to(ground, &url)?;
    ground.clear()?;
    Ok(findings(&ours, &raw))
}

const WARM_UP: usize = 10;

fn move_to(ground: &mut Ground, url: &str) -> Outcome<()> {
    ground.db.run(&format!("select lago_push.alter_destination('lago', url => '{url}')"))
}

fn one_event(number: usize) -> Vec<u8> {
    let body = format!(
        "{{\"events\":[{{\"transaction_id\":\"by-hand-{number}\",\"external_subscription_id\":\"sub_1\",\
         \"code\":\"usage\",\"timestamp\":1767225600.123456,\"properties\":{{\"amount\":\"12.50\"}}}}]}}"
    );
    raw::request("POST", "/api/v1/events/batch", API_KEY, &body)
}

fn findings(ours: &[f64], raw: &[f64]) -> Findings {
    let figure = |what, percent, goal| Figure {
        what,
        against: "the request's own round trip",
        // One value: percentiles of all commits, not of rounds.
        measured: Spread::of([percentile(ours, percent) - percentile(raw, percent)]),
        unit: Unit::Milliseconds,
        goal: Goal::AtMost(goal),
    };
    let at = |what: &str, values: &[f64], percent| {
        Measurement::new(format!("lone commit, {what}, p{percent}"), [percentile(values, percent)], "ms")
    };
    Findings {
        figures: vec![
            figure("lone commit to arrival, beyond it, p50", 50, 2.0),
            figure("lone commit to arrival, beyond it, p99", 99, 10.0),
        ],
        measurements: vec![
            at("COMMIT to arrival", ours, 50),
            at("COMMIT to arrival", ours, 99),
            at("a request's round trip", raw, 50),
            at("a request's round trip", raw, 99),
        ],
    }
}

//! From the return of COMMIT to the arrival of the request, in milliseconds.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, SystemTime};

use fake_lago::{FakeLago, RequestLog};

use super::crowd::Crowd;
use crate::failure::{Failure, Outcome};
use crate::figures::site::{HEADER, Site};
use crate::spread::signed_milliseconds;

const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
/// Long enough for worker and server to come to rest.
const REST: Duration = Duration::from_millis(25);

/// A row in one database after the other, and that so many times.
pub fn in_turn(crowd: &mut Crowd, lago: &FakeLago, times: usize) -> Outcome<Vec<f64>> {
    let mut all = Vec::new();
    for _ in 0..times {
        for site in &mut crowd.sites {
            thread::sleep(REST);
            let before = lago.request_count();
            site.insert_one()?;
            let committed_at = SystemTime::now();
            let arrived = requests(lago, before, 1)?;
            all.push(signed_milliseconds(committed_at, arrival(&arrived, site)?));
        }
    }
    Ok(all)
}

/// A row in all databases at the same moment, and that so many times.
pub fn at_once(crowd: &mut Crowd, lago: &FakeLago, times: usize) -> Outcome<Vec<f64>> {
    let mut all = Vec::new();
    for _ in 0..times {
        thread::sleep(REST);
        let before = lago.request_count();
        let committed = commit_at_once(&mut crowd.sites)?;
        let arrived = requests(lago, before, crowd.sites.len())?;
        for (site, committed_at) in crowd.sites.iter().zip(committed) {
            all.push(signed_milliseconds(committed_at, arrival(&arrived, site)?));
        }
    }
    Ok(all)
}

/// When each of them had committed its row.
fn commit_at_once(sites: &mut [Site]) -> Outcome<Vec<SystemTime>> {
    let ready = Barrier::new(sites.len());
    let commit = |site: &mut Site| -> Outcome<SystemTime> {
        ready.wait();
        site.insert_one()?;
        Ok(SystemTime::now())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = sites.iter_mut().map(|site| scope.spawn(|| commit(site))).collect();
        let ended = |_| Failure::new("a thread that writes ended in panic");
        threads.into_iter().map(|thread| thread.join().map_err(ended)?).collect()
    })
}

/// Waits until exactly so many requests have come after the one with this number.
fn requests(lago: &FakeLago, before: u64, count: usize) -> Outcome<Vec<RequestLog>> {
    let wanted = before + count as u64;
    let arrived = lago.wait_for("the commits", ARRIVES_WITHIN, |lago| lago.request_count() >= wanted);
    arrived.map_err(Failure::new)?;
    let arrived = lago.requests_after(before);
    let events: usize = arrived.iter().map(|request| request.events).sum();
    if arrived.len() != count || events != count {
        let requests = arrived.len();
        return Err(Failure::new(format!("{count} rows made {requests} requests with {events} events")));
    }
    Ok(arrived)
}

fn arrival(arrived: &[RequestLog], site: &Site) -> Outcome<SystemTime> {
    let is_from_site = |request: &&RequestLog| {
        request.headers.iter().any(|(name, value)| name.eq_ignore_ascii_case(HEADER) && *value == site.name)
    };
    let request = arrived.iter().find(is_from_site);
    request.map(|request| request.at).ok_or_else(|| Failure::new(format!("nothing came from {}", site.name)))
}

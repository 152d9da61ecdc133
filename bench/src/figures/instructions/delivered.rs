//! Instructions of the worker that delivers a backlog, and of the threads that send for it.

use std::time::Duration;

use delivery::scene::insert_rows;

use super::callgrind::{Count, count};
use super::repeated::{Times, of_one};
use crate::failure::{Failure, Outcome};
use crate::figures::ground::{Contestant, Ground};

const DELIVERED_WITHIN: Duration = Duration::from_secs(300);

/// Of one event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delivery {
    pub main_thread: f64,
    pub senders: f64,
}

pub fn measure(ground: &mut Ground, times: Times) -> Outcome<Delivery> {
    let mut counts = Vec::new();
    let main_thread = of_one(times, |events| {
        let count = run(ground, events)?;
        counts.push(count);
        Ok(count.main_thread)
    })?;
    let mut counts = counts.into_iter();
    let senders = of_one(times, |_| Ok(counts.next().unwrap_or_default().other_threads))?;
    Ok(Delivery { main_thread, senders })
}

/// Instructions of a worker that is started for this backlog and ended after it.
fn run(ground: &mut Ground, events: usize) -> Outcome<Count> {
    ground.clear()?;
    ground.db.run(&insert_rows(Contestant::Ours.table(), events))?;
    ground.rest()?;
    if let Some(process) = worker(ground)? {
        end(ground, process)?;
    }
    ground.release()?;
    ground.wait_until_stored(events as u64, DELIVERED_WITHIN)?;
    if !ground.db.value::<bool>("select lago_push.flush(timeout => '60 s')")? {
        return Err(Failure::new("everything has arrived, but the outbox is not emptied"));
    }
    let process = worker(ground)?.ok_or_else(|| Failure::new("the worker has left too early"))?;
    ground.hold()?;
    end(ground, process)
}

fn worker(ground: &mut Ground) -> Outcome<Option<i32>> {
    let sql = "select min(pid) from pg_stat_activity
               where datname = current_database() and backend_type = 'lago_push worker'";
    ground.db.value(sql)
}

fn end(ground: &mut Ground, process: i32) -> Outcome<Count> {
    ground.db.run(&format!("select pg_terminate_backend({process})"))?;
    count(&ground.cluster, process)
}

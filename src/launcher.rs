//! Launcher: starts a worker wherever there is work, and nowhere else.
//!
//! It is connected to no database, so it is in nobody's way. Once at server start it has every
//! database visited, because what a crash or restart left in an outbox has no commit to announce it;
//! from then on a commit in a database without a worker wakes it; and where rows wait for the tick of a
//! schedule, the clock does. In recovery there is no launcher: its start is the end of a promotion.

use crate::pg::process::{self, Child, Continue, Wait};
use crate::pg::xact;
use crate::standby::Memory;
use crate::{backoff, shared, worker};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

pub const PROCESS_TYPE: &str = "lago_push launcher";

/// Databases visited at the same time after a server start.
const VISITS_AT_A_TIME: usize = 2;
/// How long to wait when the server has no place for another process.
const NO_PLACE_PAUSE: Duration = Duration::from_secs(5);

/// Entry point of the process.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn lago_push_launcher(_argument: pg_sys::Datum) {
    process::begin(None);
    // Before any worker asks: who streamed until a moment ago may not have said so yet.
    Memory::default().refresh();
    shared::end_recovery();
    shared::register_launcher();
    process::show_idle();
    let mut launcher = Launcher {
        children: HashMap::new(),
        failures: HashMap::new(),
        visits: process::databases().into(),
        no_place: false,
    };
    loop {
        let timeout = launcher.turn();
        if process::wait(Wait::Launcher, timeout, None) == Continue::No {
            return;
        }
    }
}

struct Launcher {
    children: HashMap<pg_sys::Oid, Child>,
    /// Databases whose worker ended in failure: how often in a row, and when to try again.
    failures: HashMap<pg_sys::Oid, (u32, Instant)>,
    /// Databases still to be visited.
    visits: VecDeque<pg_sys::Oid>,
    no_place: bool,
}

impl Launcher {
    /// Does what is to be done now; gives the time after which there may be more without a wake.
    fn turn(&mut self) -> Option<Duration> {
        let now = Instant::now();
        self.reap(now);
        if shared::take_revisit() {
            self.revisit();
        }
        let mut next: Option<Duration> = None;
        let mut sooner = |wait: Duration| next = Some(next.map_or(wait, |next| next.min(wait)));
        for slot in shared::slots() {
            let database = slot.database();
            if slot.has_worker() || self.children.contains_key(&database) {
                continue;
            }
            match slot.microseconds_to_tick().map(Duration::from_micros) {
                _ if slot.is_wanted() || slot.has_news_of_runs() => {}
                None => continue,
                Some(Duration::ZERO) => {}
                Some(wait) => {
                    sooner(wait);
                    continue;
                }
            }
            let kept_out = u64::try_from(slot.keep_out_microseconds()).unwrap_or(0);
            let failed = self
                .failures
                .get(&database)
                .map_or(Duration::ZERO, |(_, until)| until.saturating_duration_since(now));
            let wait = failed.max(Duration::from_micros(kept_out));
            if !wait.is_zero() {
                sooner(wait);
            } else if xact::in_transaction(|| process::database_name(database)).is_none() {
                slot.free();
            } else if !self.start(database) {
                sooner(NO_PLACE_PAUSE);
            }
        }
        while self.children.len() < VISITS_AT_A_TIME {
            let Some(database) = self.visits.pop_front() else { break };
            if !self.children.contains_key(&database) && !self.start(database) {
                self.visits.push_back(database);
                sooner(NO_PLACE_PAUSE);
                break;
            }
        }
        next
    }

    fn start(&mut self, database: pg_sys::Oid) -> bool {
        if let Some(slot) = shared::slots().find(|slot| slot.database() == database) {
            slot.begins();
        }
        match process::start("lago_push worker", worker::PROCESS_TYPE, "lago_push_worker", database) {
            Some(child) => {
                self.children.insert(database, child);
                self.no_place = false;
                true
            }
            None => {
                // Once, not every few seconds.
                if !self.no_place {
                    pgrx::warning!(
                        "lago_push cannot start a worker: raise max_worker_processes (a restart is needed)"
                    );
                }
                self.no_place = true;
                false
            }
        }
    }

    /// Forgets workers that have ended, and remembers which of them failed.
    fn reap(&mut self, now: Instant) {
        let failures = &mut self.failures;
        self.children.retain(|database, child| {
            if !child.has_ended() {
                return true;
            }
            let slot = shared::slots().find(|slot| slot.database() == *database);
            match slot {
                Some(slot) if !slot.ended_well() => {
                    let count = failures.get(database).map_or(1, |(count, _)| count + 1);
                    failures.insert(*database, (count, now + backoff::ceiling(count)));
                    // What it was working on is still there, though no commit will announce it.
                    slot.wake();
                }
                _ => drop(failures.remove(database)),
            }
            false
        });
    }

    /// All slots were taken: frees those of databases that are gone, and has the others visited.
    fn revisit(&mut self) {
        let databases = process::databases();
        for slot in shared::slots() {
            if !databases.contains(&slot.database()) && !slot.has_worker() {
                slot.free();
            }
        }
        self.visits = databases.into();
    }
}

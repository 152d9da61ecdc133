//! Runs: a process for each query that is due.
//!
//! Beside the worker's three steps, which know nothing of it: a run's messages come out of the outbox like any others.
//! The worker knows when each is due, and has the launcher start it in time when it is not there itself.

use super::read::now_unix;
use super::{Failure, Worker};
use crate::guard::Guard;
use crate::pg::process::{self, Child};
use crate::pg::xact;
use crate::run::due;
use crate::run::memory::{self, Planned};
use crate::schedule::UnixMicros;
use crate::shared::runs::under_way;
use crate::{backoff, run, settings};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long to wait when the server has no place for another process.
const NO_PLACE_PAUSE: Duration = Duration::from_secs(5);
/// The same when as many run as may: one that ends announces itself, unless it never came so far as to be known.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Runs {
    planned: BTreeMap<i32, Planned>,
    children: BTreeMap<i32, Started>,
    /// Processes that ended without a trace: how often in a row, and when to try again.
    failures: BTreeMap<i32, (u32, Instant)>,
    /// The server had no place for one; none is tried before.
    no_place_until: Option<Instant>,
    /// When the first of them is due that nobody is at.
    next: Option<UnixMicros>,
}

struct Started {
    child: Child,
    /// What was known when it was started: it has left a trace if more is known afterwards.
    past: due::Past,
}

impl Worker {
    /// Reads anew which queries are to run, in the current transaction.
    pub(super) fn learn_runs(&mut self) -> Result<(), Failure> {
        self.runs.planned = memory::planned()?.into_iter().collect();
        let Runs { planned, failures, .. } = &mut self.runs;
        failures.retain(|sync, _| planned.contains_key(sync));
        self.runs.next = self.runs.first_due();
        Ok(())
    }

    /// The same where only runs have ended, or were asked for.
    pub(super) fn hear_of_runs(&mut self) -> Result<(), Failure> {
        if self.slot.take_news_of_runs() && self.directory.is_some() {
            xact::in_transaction(|| self.learn_runs())?;
        }
        Ok(())
    }

    /// Starts what is due.
    pub(super) fn start_runs(&mut self) {
        if self.runs.children.is_empty() && self.next_run().is_none_or(|next| next > now_unix()) {
            return;
        }
        let now = Instant::now();
        self.runs.reap(now);
        self.start_due(now);
        self.runs.next = self.runs.next_look();
    }

    fn start_due(&mut self, now: Instant) {
        if self.guard != Guard::Satisfied || self.runs.no_place_until.is_some_and(|until| now < until) {
            return;
        }
        let busy: Vec<i32> = under_way().iter().map(|run| run.sync).collect();
        let mut room = settings::max_runs().saturating_sub(self.runs.busy(&busy));
        for sync in self.runs.due(now_unix(), now, &busy) {
            if room == 0 {
                // One that ends announces itself.
                break;
            }
            let Some(planned) = self.runs.planned.get(&sync) else { continue };
            match process::start_for_sync(run::PROCESS_TYPE, "lago_push_run", process::own_database(), sync) {
                Some(child) => {
                    room -= 1;
                    self.runs.children.insert(sync, Started { child, past: planned.past });
                    self.runs.no_place_until = None;
                }
                None => {
                    // Once, not every few seconds.
                    if self.runs.no_place_until.is_none() {
                        pgrx::warning!(
                            "lago_push cannot start a run: raise max_worker_processes (a restart is needed)"
                        );
                    }
                    self.runs.no_place_until = Some(now + NO_PLACE_PAUSE);
                    break;
                }
            }
        }
    }

    /// When the next run is due that nobody is at.
    pub(super) fn next_run(&self) -> Option<UnixMicros> {
        self.runs.next.filter(|_| self.guard == Guard::Satisfied)
    }
}

impl Runs {
    /// Forgets processes that have ended, and remembers which of them left no trace.
    fn reap(&mut self, now: Instant) {
        let Runs { planned, children, failures, .. } = self;
        children.retain(|sync, started| {
            if !started.child.has_ended() {
                return true;
            }
            if planned.get(sync).is_some_and(|planned| planned.past == started.past) {
                let count = failures.get(sync).map_or(1, |(count, _)| count + 1);
                failures.insert(*sync, (count, now + backoff::ceiling(count)));
            } else {
                failures.remove(sync);
            }
            false
        });
    }

    /// How many run or are about to.
    fn busy(&self, under_way: &[i32]) -> usize {
        under_way.len() + self.children.keys().filter(|sync| !under_way.contains(sync)).count()
    }

    /// The syncs that are to run now, those that have waited longest first.
    fn due(&self, now: UnixMicros, instant: Instant, under_way: &[i32]) -> Vec<i32> {
        let mut due: Vec<(UnixMicros, i32)> = self
            .planned
            .iter()
            .filter(|(sync, _)| !under_way.contains(sync) && !self.children.contains_key(sync))
            .filter(|(sync, _)| self.failures.get(sync).is_none_or(|(_, until)| *until <= instant))
            .filter_map(|(sync, planned)| {
                let due = planned.due?;
                (due <= now).then_some((due, *sync))
            })
            .collect();
        due.sort_unstable();
        due.into_iter().map(|(_, sync)| sync).collect()
    }

    /// When the first is due that nobody is at.
    fn first_due(&self) -> Option<UnixMicros> {
        let under_way: Vec<i32> = under_way().iter().map(|run| run.sync).collect();
        self.planned
            .iter()
            .filter(|(sync, _)| !self.children.contains_key(sync) && !under_way.contains(sync))
            .filter_map(|(sync, planned)| {
                let due = planned.due?;
                Some(self.failures.get(sync).map_or(due, |(_, until)| due.max(in_unix_micros(*until))))
            })
            .min()
    }

    /// When to look again, after what was due was started as far as there was room: what was not waits for its turn.
    fn next_look(&self) -> Option<UnixMicros> {
        let (next, now) = (self.first_due()?, now_unix());
        Some(match self.no_place_until {
            Some(until) => next.max(in_unix_micros(until)),
            None if next <= now => now.saturating_add(NO_ROOM_PAUSE.as_micros() as i64),
            None => next,
        })
    }
}

/// A moment to come, by the other clock.
fn in_unix_micros(moment: Instant) -> UnixMicros {
    let micros = moment.saturating_duration_since(Instant::now()).as_micros();
    now_unix().saturating_add(i64::try_from(micros).unwrap_or(i64::MAX))
}

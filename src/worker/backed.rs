//! Backed: what synchronous standbys do not have yet is not sent.
//!
//! A commit is visible before a synchronous standby has it where its writer would not wait, gave up
//! waiting, or was waiting when the server crashed. What Lago billed then would be gone after a failover.
//! So what was read waits until the standbys have the log up to that read, as it waits for the disk.

use super::Worker;
use crate::pg::process::{self, Continue, Wait};
use crate::pg::replication;
use crate::shared::Activity;
use std::time::{Duration, Instant};

/// What was read and is not known to be with the standbys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unbacked {
    /// Where the log ended after the read.
    end: u64,
    since: Instant,
}

/// Nobody announces that the standbys have caught up, so it is looked for: soon at first, as a reply
/// takes a round trip, and rarely when none of them is there.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

impl Unbacked {
    fn new(end: u64) -> Unbacked {
        Unbacked { end, since: Instant::now() }
    }

    fn is_over(self) -> bool {
        replication::confirmed_by_standbys().is_none_or(|confirmed| confirmed >= self.end)
    }

    fn pause(self) -> Duration {
        (self.since.elapsed() / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }
}

impl Worker {
    /// Has what was read with the log up to `end` wait for the standbys.
    pub(super) fn await_standbys(&mut self, end: u64) {
        self.unbacked = Some(Unbacked::new(end)).filter(|unbacked| !unbacked.is_over());
    }

    /// How long to wait before the next look; none if all that was read may go.
    pub(super) fn unbacked_pause(&mut self) -> Option<Duration> {
        self.unbacked = self.unbacked.filter(|unbacked| !unbacked.is_over());
        self.unbacked.map(Unbacked::pause)
    }

    /// Waits here until the standbys have the log up to `end`, or this process is asked to leave.
    pub(super) fn wait_for_standbys(&self, end: u64) -> Continue {
        let unbacked = Unbacked::new(end);
        while !unbacked.is_over() {
            self.slot.set_activity(Activity::Backing);
            process::show(Activity::Backing.words());
            if self.slot.keep_out_microseconds() > 0
                || process::wait(Wait::Standby, Some(unbacked.pause()), None) == Continue::No
            {
                return Continue::No;
            }
        }
        Continue::Yes
    }
}

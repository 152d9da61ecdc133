//! Flow: how many requests a destination gets at a time, and when it gets none.
//!
//! Below the lane. It promises a destination in trouble that it is left alone for growing pauses,
//! then probed by one request, and not flooded when it has recovered; and one that is held, that
//! nothing comes before somebody has acted.
#![forbid(unsafe_code)]

use crate::backoff::{self, Dice};
use crate::verdict::Condition;
use std::time::{Duration, Instant};

/// Unexpected answers in a row after which the destination counts as in trouble.
const DOUBTS_TO_TROUBLE: u32 = 3;
/// The part of its connections a destination gets first after it has recovered: one in so many.
const FIRST_PART: usize = 4;

#[derive(Debug)]
pub struct Flow {
    phase: Phase,
    /// The most requests at a time, never more than connections.
    window: usize,
    connections: usize,
    /// Pauses in a row without a success.
    failures: u32,
    /// Unexpected answers in a row.
    doubts: u32,
    /// The message that led the last probe that failed.
    probed: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing goes until then; if there is no then, until somebody acts.
    Closed {
        until: Option<Instant>,
    },
    /// One request, and nothing else, shows whether it has recovered.
    HalfOpen,
}

/// What a request is for, beyond carrying its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Regular,
    Probe,
}

/// What may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    Regular,
    /// One small request. The message that led the one before, if that failed.
    Probe {
        last: i64,
    },
    /// Nothing before that moment; if there is none, before something returns or somebody acts.
    Nothing(Option<Instant>),
}

impl Flow {
    /// All connections from the start: trouble is the exception.
    pub fn new(connections: usize) -> Flow {
        let connections = connections.max(1);
        Flow {
            phase: Phase::Open,
            window: connections,
            connections,
            failures: 0,
            doubts: 0,
            probed: i64::MIN,
        }
    }

    pub fn set_connections(&mut self, connections: usize) {
        let connections = connections.max(1);
        self.window =
            if self.window == self.connections { connections } else { self.window.min(connections) };
        self.connections = connections;
    }

    pub fn permit(&mut self, in_flight: usize, now: Instant) -> Permit {
        if let Phase::Closed { until: Some(until) } = self.phase
            && until <= now
        {
            self.phase = Phase::HalfOpen;
        }
        match self.phase {
            Phase::Closed { until } => Permit::Nothing(until),
            Phase::HalfOpen if in_flight == 0 => Permit::Probe { last: self.probed },
            Phase::Open if in_flight < self.window => Permit::Regular,
            Phase::HalfOpen | Phase::Open => Permit::Nothing(None),
        }
    }

    /// Whether nothing is known to be wrong.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Takes note of what a reply says of the destination; `first` led the request. Gives the pause it
    /// starts, if it does.
    pub fn observe(
        &mut self,
        role: Role,
        first: i64,
        condition: &Condition,
        now: Instant,
        dice: &mut Dice,
    ) -> Option<Duration> {
        if matches!(condition, Condition::Hold { .. }) {
            self.phase = Phase::Closed { until: None };
            return None;
        }
        // Requests that were under way when the pause began tell nothing new; only how long the server
        // wants to be left alone.
        if !(self.phase == Phase::Open || self.phase == Phase::HalfOpen && role == Role::Probe) {
            return self.lengthen(condition, now);
        }
        let asked = match condition {
            Condition::Well => {
                self.succeed();
                return None;
            }
            Condition::Doubtful { .. } => {
                self.doubts = self.doubts.saturating_add(1);
                if self.doubts < DOUBTS_TO_TROUBLE {
                    return None;
                }
                None
            }
            Condition::Trouble { wait, .. } => *wait,
            Condition::Hold { .. } => None,
        };
        if role == Role::Probe {
            self.probed = first;
        }
        self.failures = self.failures.saturating_add(1);
        self.window = (self.window / 2).max(1);
        // A server that asks for no time at all would be asked again and again.
        let pause = asked
            .filter(|asked| !asked.is_zero())
            .unwrap_or_else(|| backoff::wait(self.failures, dice.throw()));
        self.phase = Phase::Closed { until: Some(now + pause) };
        Some(pause)
    }

    fn succeed(&mut self) {
        self.failures = 0;
        self.doubts = 0;
        self.probed = i64::MIN;
        self.window = if self.phase == Phase::HalfOpen {
            self.window.min(self.connections / FIRST_PART).max(1)
        } else {
            (self.window + 1).min(self.connections)
        };
        self.phase = Phase::Open;
    }

    fn lengthen(&mut self, condition: &Condition, now: Instant) -> Option<Duration> {
        let Condition::Trouble { wait: Some(asked), .. } = condition else { return None };
        let over = match self.phase {
            Phase::Closed { until: None } => return None,
            Phase::Closed { until: Some(until) } => until,
            Phase::Open | Phase::HalfOpen => now,
        };
        if now + *asked <= over {
            return None;
        }
        self.phase = Phase::Closed { until: Some(now + *asked) };
        Some(*asked)
    }

    /// Forgets trouble: the operator changed something, so it is worth trying at once. By one request:
    /// what was changed may not have been what was wrong.
    pub fn reopen(&mut self) {
        self.failures = 0;
        self.doubts = 0;
        if self.phase != Phase::Open {
            self.phase = Phase::HalfOpen;
        }
    }
}

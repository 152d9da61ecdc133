//! A time during which rows are written to both servers at the same rate, and how delivery went in it.

use std::thread;
use std::time::{Duration, Instant};

use super::Both;
use super::server::Server;
use crate::failure::Outcome;

/// How much had arrived at a moment.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    stored: u64,
}

/// How delivery on one server went.
pub struct Course {
    marks: Vec<Mark>,
    waiting: u64,
}

impl Course {
    /// Events delivered a second, in each interval.
    pub fn rates(&self) -> Vec<f64> {
        self.marks.windows(2).map(|pair| rate(pair[0], pair[1])).collect()
    }

    /// Messages that were not delivered yet when writing ended.
    pub fn waiting(&self) -> f64 {
        self.waiting as f64
    }
}

fn rate(from: Mark, to: Mark) -> f64 {
    (to.stored - from.stored) as f64 / (to.at - from.at).as_secs_f64()
}

/// Writes for so long, looks at delivery so many times, and ends when everything has arrived.
pub fn run(servers: &mut Both<Server>, lasting: Duration, intervals: u32) -> Outcome<Both<Course>> {
    let seconds = lasting.as_secs().max(1);
    let writing = Both { clean: servers.clean.write(seconds)?, held: servers.held.write(seconds)? };
    let mut marks = Both { clean: Vec::new(), held: Vec::new() };
    // pgbench has connected by then, and the first rows are on their way.
    thread::sleep(Duration::from_millis(300));
    let every = (Duration::from_secs(seconds) - Duration::from_millis(600)) / intervals;
    let start = Instant::now();
    for number in 0..=intervals {
        thread::sleep((start + every * number).saturating_duration_since(Instant::now()));
        marks.clean.push(mark(&mut servers.clean)?);
        marks.held.push(mark(&mut servers.held)?);
    }
    let clean = writing.clean.finish()?.transactions;
    let held = writing.held.finish()?.transactions;
    let waiting = Both { clean: servers.clean.note_written(clean)?, held: servers.held.note_written(held)? };
    servers.clean.catch_up()?;
    servers.held.catch_up()?;
    Ok(Both {
        clean: Course { marks: marks.clean, waiting: waiting.clean },
        held: Course { marks: marks.held, waiting: waiting.held },
    })
}

fn mark(server: &mut Server) -> Outcome<Mark> {
    Ok(Mark { stored: server.lago.stored()?, at: Instant::now() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interval_has_a_rate_of_its_own() {
        let start = Instant::now();
        let mark = |seconds, stored| Mark { at: start + Duration::from_secs(seconds), stored };
        let course = Course { marks: vec![mark(0, 10), mark(2, 30), mark(3, 90)], waiting: 0 };
        assert_eq!(course.rates(), [10.0, 60.0]);
    }
}

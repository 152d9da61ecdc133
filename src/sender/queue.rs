//! Queue: the jobs that wait for a thread.
//!
//! Each job wakes one thread, and no thread waits for another to let go of the queue while that one waits for a job.
#![forbid(unsafe_code)]

use super::Job;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Nobody waits for an answer any more.
    Closed,
}

impl Queue {
    pub fn put(&self, job: Job) {
        self.lock().jobs.push_back(job);
        self.came.notify_one();
    }

    /// The next job, once there is one; none when the queue is closed.
    pub fn take(&self) -> Option<Job> {
        let waits = |waiting: &mut Waiting| waiting.jobs.is_empty() && waiting.state == State::Open;
        let mut waiting = self.came.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        match waiting.state {
            State::Open => waiting.jobs.pop_front(),
            State::Closed => None,
        }
    }

    pub fn close(&self) {
        self.lock().state = State::Closed;
        self.came.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Sender: carries requests to Lago and replies back, on threads of its own.
//!
//! Between worker and settle. The threads never touch PostgreSQL: a job comes through a channel, its reply
//! and the verdict on it go back through another, and a byte on a socket wakes the worker out of its wait. It
//! promises exactly one reply per job, whatever happens to the request; and the messages of a job
//! come back with it, so that what is in flight lives in one place and vanishes with the process.
//!
//! - [`transport`]: a request and its outcome
//! - [`connections`]: those that are kept, and for how long
//! - [`gather`]: a request in one piece
//! - [`queue`]: the jobs that wait for a thread
//! - [`headers`]: what a reply's headers say about pace
//! - [`trouble`]: a request without a reply, in words
//! - [`key`]: the API key
#![forbid(unsafe_code)]

use crate::lookup::LookUp;
use crate::message::Message;
use crate::pg::process;
use crate::request::Shape;
use crate::verdict::{self, Outcome, Sent, Verdict};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender as Channel, channel};

mod connections;
mod gather;
mod headers;
mod key;
mod queue;
#[cfg(test)]
mod tests;
mod transport;
mod trouble;

pub use key::{ApiKey, KeySource};
use queue::Queue;
pub use transport::{Route, Transport, USER_AGENT};

/// A request to make.
pub struct Job {
    pub lane: i32,
    pub transport: Arc<Transport>,
    pub shape: Arc<Shape>,
    pub messages: Vec<Message>,
    pub errand: Errand,
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    Deliver,
    /// To ask about the one message there is.
    LookUp(LookUp),
    /// To ask for what is at a path, without a message.
    Ask(String),
}

/// A request made.
pub struct Done {
    pub lane: i32,
    pub transport: Arc<Transport>,
    pub shape: Arc<Shape>,
    pub messages: Vec<Message>,
    pub errand: Errand,
    pub outcome: Outcome,
    /// What that means; nothing where no message was concerned.
    pub verdict: Verdict,
}

/// The threads of one worker.
pub struct Senders {
    queue: Arc<Queue>,
    done: Receiver<Done>,
    done_from_threads: Channel<Done>,
    bell: UnixStream,
    bell_for_threads: Arc<UnixStream>,
    threads: usize,
    busy: Arc<AtomicUsize>,
}

impl Senders {
    pub fn new() -> std::io::Result<Senders> {
        let (done_from_threads, done) = channel();
        let (bell, bell_for_threads) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        bell_for_threads.set_nonblocking(true)?;
        let busy = Arc::new(AtomicUsize::new(0));
        Ok(Senders {
            queue: Arc::default(),
            done,
            done_from_threads,
            bell,
            bell_for_threads: Arc::new(bell_for_threads),
            threads: 0,
            busy,
        })
    }

    /// What becomes readable when a request is done.
    pub fn descriptor(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Hands a request over. Threads are started as they are first needed.
    pub fn send(&mut self, job: Job) -> Result<(), Box<Job>> {
        if self.busy.fetch_add(1, Ordering::SeqCst) >= self.threads
            && self.start_thread().is_err()
            && self.threads == 0
        {
            self.busy.fetch_sub(1, Ordering::SeqCst);
            return Err(Box::new(job));
        }
        self.queue.put(job);
        Ok(())
    }

    /// The next finished request.
    pub fn take_done(&mut self) -> Option<Done> {
        if let Ok(done) = self.done.try_recv() {
            return Some(done);
        }
        // Only now: who rings has put its request there before.
        let mut rung = [0; 64];
        while matches!((&self.bell).read(&mut rung), Ok(read) if read == rung.len()) {}
        self.done.try_recv().ok()
    }

    fn start_thread(&mut self) -> std::io::Result<()> {
        let (queue, done, bell) =
            (Arc::clone(&self.queue), self.done_from_threads.clone(), Arc::clone(&self.bell_for_threads));
        let busy = Arc::clone(&self.busy);
        let thread = std::thread::Builder::new().name("lago_push sender".into()).stack_size(512 * 1024);
        process::with_signals_blocked(|| thread.spawn(move || run(&queue, &done, &bell, &busy)))?;
        self.threads += 1;
        Ok(())
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn run(queue: &Queue, done: &Channel<Done>, bell: &UnixStream, busy: &AtomicUsize) {
    while let Some(job) = queue.take() {
        // Answers are long, and there are several threads to read them here but only one over there.
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let outcome = job.transport.carry(&job.shape, &job.messages, &job.errand);
            let verdict = judge(&job, &outcome);
            (outcome, verdict)
        }));
        let (outcome, verdict) = made.unwrap_or_else(|_| {
            let why = "the request could not be made (a bug in lago_push)".into();
            let outcome = Outcome::Failed { why, sent: Sent::Perhaps };
            let verdict = judge(&job, &outcome);
            (outcome, verdict)
        });
        busy.fetch_sub(1, Ordering::SeqCst);
        let Job { lane, transport, shape, messages, errand } = job;
        if done.send(Done { lane, transport, shape, messages, errand, outcome, verdict }).is_err() {
            return;
        }
        // A full socket buffer means the worker has plenty of rings to hear.
        let _ = (&*bell).write(&[1]);
    }
}

fn judge(job: &Job, outcome: &Outcome) -> Verdict {
    match (&job.errand, job.messages.first()) {
        (Errand::LookUp(look), Some(message)) => look.judge(outcome, message),
        _ => verdict::judge(outcome, &job.shape.call, &job.messages),
    }
}

//! The soak: everything that can go wrong, all at once and by chance, and afterwards every promise checked.
//!
//! One seed decides the event store, what the writers write, which troubles come and in which order; how they meet
//! is up to the machine. A run is a server, a fake Lago in a process of its own that survives `kill -9`, several
//! sessions that write to five syncs, one that samples the ledger all the time, and one that makes trouble. At
//! the end the trouble stops, everything is flushed, and what Lago has is compared with what was committed.
//!
//! - [`lago`]: the fake Lago as a process
//! - [`stage`]: tables, syncs, and the tables' own memory of what was committed
//! - [`writing`]: random transactions
//! - [`trouble`]: what goes wrong
//! - [`watch`]: the ledger at every instant
//! - [`account`]: what must be true in the end

pub mod account;
pub mod lago;
pub mod stage;
pub mod trouble;
pub mod watch;
pub mod writing;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::wait::{LONG_PATIENCE, try_until};
use stage::Stage;
use trouble::Trouble;

/// How long trouble lasts, unless somebody says otherwise.
pub const USUAL: Duration = Duration::from_secs(8);

const WRITERS: u64 = 4;

/// When a run is over. A top-up whose answer was lost is asked after for a minute before it goes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing waits any more.
    AllSettled,
    /// Nothing waits but top-ups that are being asked after.
    AllButQuestions,
}

/// Raised when the run is over, in whatever way, so that no thread waits for ever.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs one seed; `program` is the executable that becomes the fake Lago when its first argument is `lago`.
/// One line of what happened, or everything that is wrong and what had been done before.
pub fn run(seed: u64, length: Duration, end: End, program: &Path) -> Result<String, String> {
    let began = Instant::now();
    let mut random = Random::from_seed(seed);
    let stage = Stage::set(program, if random.chance(50) { "postgres" } else { "clickhouse" });
    let mut trouble = Trouble::new(&stage, Random::from_seed(random.word()));
    let (stop_writing, stop_watching) = (AtomicBool::new(false), AtomicBool::new(false));
    let (written, watched) = thread::scope(|scope| {
        let (stop_writing, stop_watching) = (&stop_writing, &stop_watching);
        let raised = (Stopping(stop_writing), Stopping(stop_watching));
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (stage, random) = (&stage, Random::from_seed(random.word()));
                scope.spawn(move || writing::write(stage, number, random, stop_writing))
            })
            .collect();
        let watcher = scope.spawn(|| watch::watch(&stage, stop_watching));
        trouble.make(length);
        drop(raised.0);
        let written: u64 = writers.into_iter().filter_map(|writer| writer.join().ok()).sum();
        trouble.end();
        let flushed = try_until(LONG_PATIENCE, || {
            trouble.mend();
            stage.is_flushed(end)
        });
        if flushed.is_none() {
            stage.wrong("the outbox was not empty three minutes after the trouble had ended".to_owned());
        }
        drop(raised.1);
        (written, watcher.join().unwrap_or_default())
    });
    let told = account::settle(&stage);
    let wrong = stage.everything_wrong();
    if written == 0 || watched == 0 {
        return Err(format!("{written} transactions and {watched} looks at the ledger: nothing was tested"));
    }
    if !wrong.is_empty() {
        return Err(format!(
            "{}\nwhat was done:\n{}\n{}",
            wrong.join("\n"),
            trouble.told(),
            stage.evidence()
        ));
    }
    Ok(format!(
        "{} store, {written} transactions, {told}, {watched} looks, {}, {:.1} s",
        stage.store,
        trouble.summary(),
        began.elapsed().as_secs_f32()
    ))
}

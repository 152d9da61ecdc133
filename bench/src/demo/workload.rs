//! pgbench at work, with a line that tells how far capture and delivery are.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use delivery::cluster::Cluster;

use super::{CLIENTS, DATABASE, MARGIN, SECONDS, say, status, unsigned};
use crate::failure::{Doing, Failure, Outcome};
use crate::pgbench::Running;
use crate::session::Session;
use crate::text::{counted, grouped};

/// Deliveries that stand still for so long are not coming.
const STILLNESS: Duration = Duration::from_secs(60);
/// Between two looks while the backlog drains.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Runs it and waits until everything is delivered. Returns how long that took, as the end of a sentence.
pub fn run(cluster: &Cluster, db: &mut Session) -> Outcome<String> {
    let (clients, seconds) = (CLIENTS.to_string(), SECONDS.to_string());
    say(&format!("$ pgbench -n -c {clients} -j 2 -T {seconds} {DATABASE}\n"));
    let arguments = ["-n", "-c", &clients, "-j", "2", "-T", &seconds];
    let mut line = Line::new();
    let mut running = Running::start(cluster, DATABASE, &arguments)?;
    while running.is_running() {
        line.show(db)?;
        // Looks often enough to see pgbench's end, which is when the backlog's time begins.
        let next = Instant::now() + line.pause;
        while running.is_running() && Instant::now() < next {
            thread::sleep(LOOK_EVERY);
        }
    }
    let ended = Instant::now();
    let report = running.finish()?;
    let backlog = status::read(db)?.pending;
    drain(db)?;
    let took = ended.elapsed();
    line.show(db)?;
    line.end();
    say(&format!(
        "pgbench: {}, {} a second, {:.2} ms each on average",
        counted(report.transactions, "transaction", "transactions"),
        grouped(report.per_second.round()),
        report.latency_ms
    ));
    let milliseconds = grouped(took.as_millis());
    Ok(if backlog == 0 {
        "nothing was left to deliver".to_owned()
    } else {
        let events = counted(backlog, "event was", "events were");
        format!("{events} still to be delivered; the last was after {milliseconds} ms")
    })
}

pub fn drain(db: &mut Session) -> Outcome<()> {
    let mut fewest = u64::MAX;
    let mut since = Instant::now();
    loop {
        let now = status::read(db)?;
        if now.pending == 0 {
            return Ok(());
        }
        if now.pending < fewest {
            (fewest, since) = (now.pending, Instant::now());
        } else if since.elapsed() > STILLNESS {
            let why = now.last_error.map_or(String::new(), |error| format!(" The last error: {error}"));
            return Err(Failure::new(format!(
                "{} to be delivered, and none has been for {} s.{why}",
                counted(now.pending, "event is still", "events are still"),
                STILLNESS.as_secs()
            )));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// The line of progress: written over itself on a terminal, else one a second.
struct Line {
    start: Instant,
    in_place: bool,
    pause: Duration,
    rated_at: Instant,
    rated_delivered: u64,
    rate: f64,
}

impl Line {
    const RATE_EVERY: Duration = Duration::from_millis(900);

    fn new() -> Self {
        let in_place = io::stdout().is_terminal();
        let pause = Duration::from_millis(if in_place { 100 } else { 1000 });
        let now = Instant::now();
        Self { start: now, in_place, pause, rated_at: now, rated_delivered: 0, rate: 0.0 }
    }

    fn show(&mut self, db: &mut Session) -> Outcome<()> {
        let committed = unsigned(db.value("select count(*) from pgbench_history")?)?;
        let status = status::read(db)?;
        let since = self.rated_at.elapsed();
        if since >= Self::RATE_EVERY {
            let more = status.delivered.saturating_sub(self.rated_delivered);
            self.rate = u32::try_from(more).map_or(f64::MAX, f64::from) / since.as_secs_f64();
            (self.rated_at, self.rated_delivered) = (Instant::now(), status.delivered);
        }
        let dead = if status.dead > 0 { format!("   dead {}", grouped(status.dead)) } else { String::new() };
        let text = format!(
            "{:>4.1} s   committed {:>8}   delivered {:>8}   delivered per second {:>7}{dead}",
            self.start.elapsed().as_secs_f64(),
            grouped(committed),
            grouped(status.delivered),
            grouped(self.rate.round())
        );
        let mut out = io::stdout();
        let margin = " ".repeat(MARGIN);
        let written = if self.in_place {
            // Back to the first column, and whatever was longer is erased.
            write!(out, "\r{margin}{text}\x1b[K")
        } else {
            writeln!(out, "{margin}{text}")
        };
        written.and_then(|()| out.flush()).doing("write to the screen")
    }

    fn end(&self) {
        if self.in_place {
            println!();
        }
        println!();
    }
}

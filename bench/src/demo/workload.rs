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
/// Between two looks whether pgbench has ended or the backlog is gone.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Runs it and waits until everything is delivered. Returns how long that took, as a sentence without its
/// beginning.
pub fn run(cluster: &Cluster, db: &mut Session) -> Outcome<String> {
    let (clients, seconds) = (CLIENTS.to_string(), SECONDS.to_string());
    say(&format!("$ pgbench -n -c {clients} -j 2 -T {seconds} {DATABASE}\n"));
    let arguments = ["-n", "-c", &clients, "-j", "2", "-T", &seconds];
    let mut running = Running::start(cluster, DATABASE, &arguments)?;
    let mut line = Line::new();
    while running.is_running() {
        line.show_when_due(db)?;
        thread::sleep(LOOK_EVERY);
    }
    let ended = Instant::now();
    let report = running.finish()?;
    let backlog = status::read(db)?.pending;
    drain(db, |db| line.show_when_due(db))?;
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
    Ok(match backlog {
        0 => "nothing was left to deliver".to_owned(),
        _ => format!(
            "{} still to be delivered, and the last was after {milliseconds} ms",
            counted(backlog, "event was", "events were")
        ),
    })
}

/// Waits until nothing is pending. `meanwhile` is called between looks.
pub fn drain(db: &mut Session, mut meanwhile: impl FnMut(&mut Session) -> Outcome<()>) -> Outcome<()> {
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
        meanwhile(db)?;
        thread::sleep(LOOK_EVERY);
    }
}

/// The line of progress: written over itself on a terminal, else one a second.
struct Line {
    start: Instant,
    screen: Screen,
    next: Instant,
    rated_at: Instant,
    rated_delivered: u64,
    rate: f64,
    /// Committed and delivered, as shown last.
    shown: Option<(u64, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Screen {
    Terminal,
    File,
}

impl Line {
    const RATE_EVERY: Duration = Duration::from_millis(900);

    fn new() -> Self {
        let screen = if io::stdout().is_terminal() { Screen::Terminal } else { Screen::File };
        let now = Instant::now();
        Self { start: now, screen, next: now, rated_at: now, rated_delivered: 0, rate: 0.0, shown: None }
    }

    fn show_when_due(&mut self, db: &mut Session) -> Outcome<()> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next += match self.screen {
            Screen::Terminal => Duration::from_millis(100),
            Screen::File => Duration::from_secs(1),
        };
        self.show(db)
    }

    fn show(&mut self, db: &mut Session) -> Outcome<()> {
        // In this order: what is delivered was committed before.
        let status = status::read(db)?;
        let committed = unsigned(db.value("select count(*) from pgbench_history")?)?;
        let since = self.rated_at.elapsed();
        if since >= Self::RATE_EVERY {
            let more = status.delivered.saturating_sub(self.rated_delivered);
            self.rate = u32::try_from(more).map_or(f64::MAX, f64::from) / since.as_secs_f64();
            (self.rated_at, self.rated_delivered) = (Instant::now(), status.delivered);
        }
        // In a file, lines that repeat each other say nothing.
        let counts = Some((committed, status.delivered));
        if self.screen == Screen::File && self.shown == counts {
            return Ok(());
        }
        self.shown = counts;
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
        let written = match self.screen {
            // Back to the first column, and whatever was longer is erased.
            Screen::Terminal => write!(out, "\r{margin}{text}\x1b[K"),
            Screen::File => writeln!(out, "{margin}{text}"),
        };
        written.and_then(|()| out.flush()).doing("write to the screen")
    }

    fn end(&self) {
        if self.screen == Screen::Terminal {
            println!();
        }
        println!();
    }
}

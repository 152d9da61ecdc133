//! Sessions that write random transactions: pieces, some of them in savepoints that are rolled back or fail, and
//! an end, which is a commit, a rollback, or a preparation that somebody decides later.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::Client;

use super::stage::{CUSTOMERS, KEYS, Stage};
use crate::random::Random;
use crate::wait::try_until;

/// The longest a writer rests between two transactions: what it writes must be delivered in the end, a part of
/// it one request at a time.
const LONGEST_REST_MILLIS: u64 = 30;

struct Writer<'a> {
    number: u64,
    random: Random,
    stop: &'a AtomicBool,
    prepared: u64,
    ended: u64,
}

/// Writes until told to stop; gives the number of transactions that came to their end.
pub fn write(stage: &Stage, number: u64, random: Random, stop: &AtomicBool) -> u64 {
    let mut writer = Writer { number, random, stop, prepared: 0, ended: 0 };
    while !writer.stopped() {
        let Some(mut session) = stage.connect() else { break };
        // A key may be locked by a transaction that is prepared and undecided. The errors provoked below would fill
        // the log that somebody reads when a seed fails.
        // Half of them write captured rows to the outbox in the middle of their larger statements.
        let memory = if number.is_multiple_of(2) { "64kB" } else { "4MB" };
        let mut outcome = session.batch_execute(&format!(
            "set lock_timeout = '300 ms'; set log_min_messages = 'fatal'; set lago_push.capture_memory = '{memory}'"
        ));
        while outcome.is_ok() && !writer.stopped() {
            outcome = writer.one(&mut session);
            writer.rest();
        }
        if let Err(error) = outcome {
            stage.excuse("a writer", &error);
        }
    }
    writer.ended
}

impl Writer<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn rest(&mut self) {
        let rest = Duration::from_millis(self.random.below(LONGEST_REST_MILLIS));
        let _ = try_until(rest, || self.stopped());
    }

    fn one(&mut self, session: &mut Client) -> Result<(), postgres::Error> {
        if self.random.chance(30) {
            let piece = self.piece();
            session.batch_execute(&piece)?;
            self.ended += 1;
            return Ok(());
        }
        session.batch_execute("begin")?;
        for _ in 0..=self.random.below(4) {
            let piece = self.piece();
            match self.random.below(8) {
                0 => session.batch_execute(&format!("savepoint s; {piece}; rollback to savepoint s"))?,
                1 => session.batch_execute(&format!("savepoint s; {piece}; release savepoint s"))?,
                2 => {
                    session.batch_execute("savepoint s")?;
                    let failed = session.batch_execute(&format!("{piece}; select 1 / 0"));
                    if failed.is_err_and(|error| error.as_db_error().is_none()) {
                        return Ok(());
                    }
                    session.batch_execute("rollback to savepoint s")?;
                }
                _ => session.batch_execute(&piece)?,
            }
        }
        match self.random.below(10) {
            0 => session.batch_execute("rollback")?,
            1 => self.prepare(session)?,
            _ => session.batch_execute("commit")?,
        }
        self.ended += 1;
        Ok(())
    }

    fn prepare(&mut self, session: &mut Client) -> Result<(), postgres::Error> {
        self.prepared += 1;
        let name = format!("soak_{}_{}", self.number, self.prepared);
        session.batch_execute(&format!("prepare transaction '{name}'"))?;
        match self.random.below(10) {
            0..=5 => session.batch_execute(&format!("commit prepared '{name}'")),
            6..=7 => session.batch_execute(&format!("rollback prepared '{name}'")),
            _ => Ok(()),
        }
    }

    fn piece(&mut self) -> String {
        match self.random.below(12) {
            0..=3 => self.calls(1),
            4 => {
                let most = if self.random.chance(10) { 600 } else { 150 };
                let rows = 1 + self.random.below(most);
                self.calls(rows)
            }
            5..=8 => self.jobs(),
            9 => self.customer(),
            10 => self.subscription(),
            _ => self.top_up(),
        }
    }

    fn calls(&mut self, rows: u64) -> String {
        let (key, cents) = (self.random.below(KEYS), self.random.below(100_000));
        // Lago refuses the second code without a weight.
        let code = if self.random.chance(3) { "weighed" } else { "usage" };
        format!(
            "insert into calls (subscription, amount, code, note)
             select 'sub_' || (n + {key}) % {KEYS}, n * 0.0001 + {cents} * 0.01, '{code}', 'é\"\\ ' || n
             from generate_series(1, {rows}) n"
        )
    }

    /// Whoever writes jobs of one subscription locks it first, so that they are written in the order in which they
    /// are committed.
    fn jobs(&mut self) -> String {
        let (key, rows) = (self.random.below(KEYS), 1 + self.random.below(5));
        let cents = self.random.below(100_000);
        let some = format!(
            "id in (select id from jobs where subscription = 'sub_{key}' order by id desc limit {rows})"
        );
        let what = match self.random.below(10) {
            0..=5 => format!(
                "insert into jobs (subscription, amount)
                 select 'sub_{key}', n + {cents} * 0.01 from generate_series(1, {rows}) n"
            ),
            6..=8 => format!(
                "update jobs set version = version + 1, amount = amount + {cents} * 0.001 where {some}"
            ),
            _ => format!("delete from jobs where {some}"),
        };
        format!("select from keys where subscription = 'sub_{key}' for update; {what}")
    }

    fn customer(&mut self) -> String {
        let number = self.random.below(CUSTOMERS);
        format!(
            "insert into customers as c (id) values ('customer_{number}')
             on conflict (id) do update set version = c.version + 1"
        )
    }

    fn subscription(&mut self) -> String {
        let number = self.random.below(CUSTOMERS);
        format!(
            "insert into subscriptions as s (id, customer) values ('plan_{number}', 'customer_{number}')
             on conflict (id) do update set version = s.version + 1"
        )
    }

    fn top_up(&mut self) -> String {
        format!("insert into top_ups (amount) values ({})", 1 + self.random.below(20))
    }
}

//! Sessions that write as applications do, all at once: single rows, transactions of many rows, savepoints
//! rolled back, whole transactions given up, and transactions that commit long after others with higher ids.
//!
//! They promise nothing about what they wrote. After a crash a writer cannot know whether its last commit
//! counted, so what counts is what the table holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, mem};

use postgres::Client;

use crate::cluster::Cluster;
use crate::random::Random;
use crate::scene::{SUBSCRIPTIONS, Scene};
use crate::wait::{PATIENCE, try_until};

/// For how long the tests with concurrent writers let them write, in seconds.
pub const SECONDS_VARIABLE: &str = "LAGO_PUSH_SECONDS";

/// Eight seconds unless the environment says otherwise.
pub fn writing_time() -> Duration {
    let seconds = env::var(SECONDS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(8.0);
    Duration::from_secs_f64(seconds)
}

/// Writers at work. They stop when told to, or when dropped.
pub struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    cluster: Arc<Cluster>,
    database: String,
    table: String,
    stop: AtomicBool,
    commits: AtomicU64,
}

impl Writers {
    /// Starts `sessions` of them on `table`, which is made by [`Scene::usage_table`].
    pub fn start(scene: &Scene, table: &str, sessions: u64, random: &mut Random) -> Self {
        let shared = Arc::new(Shared {
            cluster: Arc::clone(&scene.cluster),
            database: scene.database.clone(),
            table: table.into(),
            stop: AtomicBool::new(false),
            commits: AtomicU64::new(0),
        });
        let threads = (0..sessions)
            .map(|_| {
                let (shared, random) = (Arc::clone(&shared), Random::from_seed(random.word()));
                thread::spawn(move || Writer { shared, random }.write_until_stopped())
            })
            .collect();
        Self { shared, threads }
    }

    /// How many transactions they have committed so far, as far as they know.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Lets every writer finish what it is at, and returns how many transactions they committed.
    pub fn stop(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in mem::take(&mut self.threads) {
            assert!(thread.join().is_ok(), "a writer panicked");
        }
        self.commits()
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in mem::take(&mut self.threads) {
            let _ = thread.join();
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    random: Random,
}

impl Writer {
    fn write_until_stopped(mut self) {
        while !self.stopped() {
            // A crash closes the connections; an application would connect again.
            if let Some(mut sessions) = self.connect() {
                while !self.stopped() && self.write(&mut sessions).is_ok() {}
            }
        }
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// Two sessions, because only two can commit in an order other than the one they wrote in.
    fn connect(&self) -> Option<[Client; 2]> {
        let connect = || self.shared.cluster.try_connect(&self.shared.database).ok();
        try_until(PATIENCE, || match (connect(), connect()) {
            (Some(one), Some(other)) => Some(Some([one, other])),
            _ => self.stopped().then_some(None),
        })
        .flatten()
    }

    fn write(&mut self, [one, other]: &mut [Client; 2]) -> Result<(), postgres::Error> {
        match self.random.below(10) {
            0..=3 => self.commit(one, |_| Ok(())),
            4..=5 => self.many_rows(one),
            6..=7 => self.savepoints(one),
            8 => {
                one.batch_execute("begin")?;
                self.insert(one, 5)?;
                one.batch_execute("rollback")
            }
            _ => {
                one.batch_execute("begin")?;
                self.insert(one, 3)?;
                for _ in 0..10 {
                    self.commit(other, |_| Ok(()))?;
                }
                self.insert(one, 2)?;
                one.batch_execute("commit")?;
                self.count_commit();
                Ok(())
            }
        }
    }

    fn many_rows(&mut self, session: &mut Client) -> Result<(), postgres::Error> {
        let rows = 1 + self.random.below(60);
        let sql = format!(
            "insert into {} (subscription, amount)
             select 'sub_' || n % {SUBSCRIPTIONS}, n * 0.0001 from generate_series(1, {rows}) n",
            self.shared.table
        );
        self.commit(session, |session| session.batch_execute(&sql))
    }

    fn savepoints(&mut self, session: &mut Client) -> Result<(), postgres::Error> {
        session.batch_execute("begin")?;
        self.insert(session, 1)?;
        for _ in 0..self.random.below(5) {
            session.batch_execute("savepoint s")?;
            self.insert(session, 2)?;
            let end = if self.random.chance(50) { "rollback to savepoint s" } else { "release savepoint s" };
            session.batch_execute(end)?;
        }
        session.batch_execute("commit")?;
        self.count_commit();
        Ok(())
    }

    /// One transaction of a row and whatever `more` adds.
    fn commit(
        &mut self,
        session: &mut Client,
        more: impl FnOnce(&mut Client) -> Result<(), postgres::Error>,
    ) -> Result<(), postgres::Error> {
        session.batch_execute("begin")?;
        self.insert(session, 1)?;
        more(session)?;
        session.batch_execute("commit")?;
        self.count_commit();
        Ok(())
    }

    fn insert(&mut self, session: &mut Client, rows: u64) -> Result<(), postgres::Error> {
        for _ in 0..rows {
            let subscription = self.random.below(SUBSCRIPTIONS as u64);
            let amount = self.random.below(1_000_000);
            session.batch_execute(&format!(
                "insert into {} (subscription, amount) values ('sub_{subscription}', {amount} * 0.0001)",
                self.shared.table
            ))?;
        }
        Ok(())
    }

    fn count_commit(&self) {
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
    }
}

//! A server of its own with one site on it and a stand-in of its own.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use delivery::cluster::{Cluster, Options};

use super::Both;
use crate::failure::{Doing, Failure, Outcome};
use crate::figures::counted_as_float;
use crate::figures::site::{self, INSERT_ONE, Site};
use crate::figures::stand_in::StandIn;
use crate::pgbench::Running;
use crate::session::Session;

/// Rows a second, each in a transaction of its own. Two servers, two workers, two stand-ins and two load
/// generators are to have room to spare on two processors.
const OFFERED: u32 = 5_000;
const DATABASE: &str = "billed";
const DELIVERED_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub struct Server {
    pub site: Site,
    pub lago: StandIn,
    cluster: Arc<Cluster>,
    /// Of all events that it has got rows for.
    written: u64,
}

/// What the outbox takes, and how much of it is only in the way.
pub struct Outbox {
    pub dead_rows: f64,
    pub table_megabytes: f64,
    pub index_megabytes: f64,
}

impl Server {
    /// Two that are equal in everything, each delivering what it gets.
    pub fn start_both(held: Duration) -> Outcome<Both<Self>> {
        // In half an hour autovacuum comes round thirty times, and in a shorter time as often, if it can.
        let naptime = (held.as_secs() / 30).clamp(1, 60);
        let options = site::server()
            .with("synchronous_commit", "off")
            .with("autovacuum_naptime", format!("{naptime}s"));
        thread::scope(|scope| {
            let clean = scope.spawn(|| Self::start(&options));
            let held = Self::start(&options)?;
            let clean = clean.join().map_err(|_| Failure::new("a server does not start"))??;
            Ok(Both { clean, held })
        })
    }

    fn start(options: &Options) -> Outcome<Self> {
        let cluster = Cluster::start(options);
        let lago = StandIn::start()?;
        let mut site = Site::prepare(&cluster, DATABASE, &lago.url())?;
        site.db.run("create extension pgstattuple")?;
        site.release()?;
        fs::write(script(&cluster), format!("{INSERT_ONE};\n")).doing("write pgbench's script")?;
        Ok(Self { site, lago, cluster, written: 0 })
    }

    /// A transaction that is left open: it has a snapshot and has written.
    pub fn open_transaction(&self) -> Outcome<Transaction> {
        let mut session = Session::open(&self.cluster, DATABASE)?;
        session.run(
            "begin isolation level repeatable read; select count(*) from usage; select txid_current()",
        )?;
        Ok(Transaction { session })
    }

    /// Writes rows at the rate that is the same for all.
    pub fn write(&self, seconds: u64) -> Outcome<Running> {
        let (rate, seconds, script) =
            (OFFERED.to_string(), seconds.to_string(), script(&self.cluster).display().to_string());
        let arguments = ["-n", "-c", "2", "-M", "prepared", "-R", &rate, "-T", &seconds, "-f", &script];
        Running::start(&self.cluster, DATABASE, &arguments)
    }

    /// Notes what was written, and gives how many of all events have not arrived.
    pub fn note_written(&mut self, rows: u64) -> Outcome<u64> {
        self.written += rows;
        Ok(self.written.saturating_sub(self.lago.stored()?))
    }

    /// Waits until every event has arrived, and is known to have.
    pub fn catch_up(&mut self) -> Outcome<()> {
        let give_up_at = Instant::now() + DELIVERED_WITHIN;
        loop {
            let (stored, counted) = (self.lago.stored()?, self.site.delivered()?);
            if stored == self.written && counted == self.written {
                return self.site.rest();
            }
            if Instant::now() >= give_up_at || stored > self.written {
                return Err(Failure::new(format!(
                    "{} rows were written, {stored} events accepted and {counted} counted as delivered",
                    self.written
                )));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Delivers a backlog as fast as it can; events a second.
    pub fn drain(&mut self, backlog: usize) -> Outcome<f64> {
        self.site.hold()?;
        self.site.insert(backlog)?;
        self.site.rest()?;
        let start = Instant::now();
        self.site.release()?;
        self.written += backlog as u64;
        while self.lago.stored()? < self.written {
            if start.elapsed() >= DELIVERED_WITHIN {
                return Err(Failure::new("a backlog was not delivered in time"));
            }
            thread::sleep(LOOK_EVERY);
        }
        let took = start.elapsed();
        self.catch_up()?;
        Ok(counted_as_float(backlog) / took.as_secs_f64())
    }

    pub fn outbox(&mut self) -> Outcome<Outbox> {
        let row = self.site.db.row(
            "select dead_tuple_count::float8, table_len / 1048576.0::float8,
                    pg_relation_size('lago_push.message_is_numbered') / 1048576.0::float8
             from pgstattuple('lago_push.message')",
        )?;
        Ok(Outbox { dead_rows: row.get(0), table_megabytes: row.get(1), index_megabytes: row.get(2) })
    }
}

fn script(cluster: &Cluster) -> PathBuf {
    cluster.folder().join("one-insert.sql")
}

pub struct Transaction {
    session: Session,
}

impl Transaction {
    pub fn end(mut self) -> Outcome<()> {
        self.session.run("commit")
    }
}

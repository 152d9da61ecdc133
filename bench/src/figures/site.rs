//! A database with everything of its own: a table, the extension, a destination, a sync and a worker.
//!
//! The event is the same as on the common ground. Its `transaction_id` begins with the database's name, so
//! that several of them may deliver to one stand-in.

use std::sync::Arc;
use std::time::Duration;

use delivery::cluster::{Cluster, Options};
use delivery::scene::insert_rows;

use super::ground::{self, CONNECTIONS};
use super::stand_in::API_KEY;
use crate::failure::{Failure, Outcome};
use crate::session::Session;

const TABLE: &str = "usage";

/// A server for sites alone, which is thrown away with them.
pub fn server() -> Options {
    Options::durable()
        .with("shared_buffers", "512MB")
        .with("max_wal_size", "4GB")
        .with("autovacuum", "on")
        .with("jit", "off")
}

pub struct Site {
    pub name: String,
    pub db: Session,
    cluster: Arc<Cluster>,
}

impl Site {
    /// Makes the database. Its rows are captured, and the destination is held.
    pub fn prepare(cluster: &Arc<Cluster>, name: &str, url: &str) -> Outcome<Self> {
        cluster.create_database(name);
        let mut db = Session::open(cluster, name)?;
        db.run(&format!(
            r#"create table {TABLE} (
                   id bigint generated always as identity primary key,
                   subscription text not null,
                   amount numeric not null,
                   created_at timestamptz not null default now());
               create extension lago_push;
               select lago_push.create_destination('lago', url => '{url}', api_key => '{API_KEY}',
                   connections => {CONNECTIONS}, headers => '{{"{HEADER}": "{name}"}}');
               select lago_push.hold('lago');
               select lago_push.create_sync('usage', source => '{TABLE}', template => '{{
                   "transaction_id": "{name}-{{{{ row.id }}}}",
                   "external_subscription_id": "{{{{ row.subscription }}}}",
                   "code": "usage",
                   "timestamp": {{{{ row.created_at }}}},
                   "properties": {{"amount": "{{{{ row.amount }}}}"}}}}');
               select lago_push.activate('usage')"#
        ))?;
        Ok(Self { name: name.to_owned(), db, cluster: Arc::clone(cluster) })
    }

    pub fn hold(&mut self) -> Outcome<()> {
        self.db.run("select lago_push.hold('lago')")
    }

    pub fn release(&mut self) -> Outcome<()> {
        self.db.run("select lago_push.release('lago')")
    }

    /// Waits until its worker has nothing to do.
    pub fn rest(&mut self) -> Outcome<()> {
        ground::rest(&mut self.db)
    }

    pub fn deliver_to(&mut self, url: &str) -> Outcome<()> {
        self.db.run(&format!("select lago_push.alter_destination('lago', url => '{url}')"))
    }

    /// Rows in one transaction.
    pub fn insert(&mut self, rows: usize) -> Outcome<()> {
        self.db.run(&insert_rows(TABLE, rows))
    }

    /// A row in a transaction of its own.
    pub fn insert_one(&mut self) -> Outcome<()> {
        self.db.run(INSERT_ONE)
    }

    /// What it counts as delivered, ever.
    pub fn delivered(&mut self) -> Outcome<u64> {
        let delivered: i64 = self.db.value("select delivered from lago_push.status")?;
        u64::try_from(delivered).map_err(|_| Failure::new("fewer than none are delivered"))
    }

    /// Counts what waits, one by one.
    pub fn count_waiting(&mut self) -> Outcome<u64> {
        let waiting: i64 = self.db.value("select count(*) from lago_push.message")?;
        u64::try_from(waiting).map_err(|_| Failure::new("fewer than none wait"))
    }

    /// Waits until the outbox is empty, as a person would.
    pub fn flush(&mut self) -> Outcome<Duration> {
        self.db.timed("select lago_push.flush(timeout => '60 s')")
    }

    /// The process of its worker, if one is connected.
    pub fn worker(&self) -> Option<i32> {
        self.cluster.worker_pid(&self.name)
    }

    /// Removes the database with all that is in it.
    pub fn remove(self) -> Outcome<()> {
        let Self { name, db, cluster } = self;
        drop(db);
        Session::open(&cluster, "postgres")?.run(&format!("drop database {name} with (force)"))
    }
}

/// What the requests of a site say which one they come from.
pub const HEADER: &str = "x-site";
/// The statement of [`Site::insert_one`], for others to run.
pub const INSERT_ONE: &str = "insert into usage (subscription, amount) values ('sub_1', 12.50)";

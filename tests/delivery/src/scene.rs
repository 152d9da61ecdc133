//! What a test starts from: a database of its own with the extension in it, a fake Lago of its own, and a
//! destination called `lago` that leads from the one to the other.
//!
//! A scene promises isolation (scenes on one cluster share nothing but the server) and, when a test fails,
//! the evidence: the end of the server's log, the status of every sync, what waits and what died.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use fake_lago::{Config, FakeLago, Metric, Store, Subscription};
use postgres::types::{FromSqlOwned, ToSql};
use postgres::{Client, Row};

use crate::cluster::{Cluster, database_name};
use crate::wait::{PATIENCE, wait_until};

/// The subscriptions fake-lago knows, all of them active for years.
pub const SUBSCRIPTIONS: usize = 8;

/// The billable metric of the usage tables: the sum of `properties.amount`.
pub const METRIC: &str = "usage";

pub struct Scene {
    pub cluster: Arc<Cluster>,
    pub lago: FakeLago,
    pub database: String,
    /// The session that looks; what a test does, it does in sessions of its own.
    observer: Mutex<Option<Client>>,
}

/// One line of `lago_push.status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub state: String,
    pub pending: i64,
    pub retrying: i64,
    pub delivered: i64,
    pub dead: i64,
    pub last_error: Option<String>,
}

impl Scene {
    /// On the cluster all tests of the file share, with Lago's default event store.
    pub fn new() -> Self {
        Self::with_store(Store::Postgres)
    }

    pub fn with_store(store: Store) -> Self {
        Self::on(Cluster::shared(), store)
    }

    pub fn on(cluster: Arc<Cluster>, store: Store) -> Self {
        let scene = Self::without_destination(cluster, store);
        scene.create_destination("lago");
        scene
    }

    /// The extension is there and Lago is up, but nothing connects them yet.
    pub fn without_destination(cluster: Arc<Cluster>, store: Store) -> Self {
        Self::in_database(cluster, store, "")
    }

    /// The same, in a database made with these options of CREATE DATABASE.
    pub fn in_database(cluster: Arc<Cluster>, store: Store, options: &str) -> Self {
        let scene = Self::without_extension(cluster, store, options);
        scene.sql("create extension lago_push");
        scene
    }

    /// A database without the extension and a Lago that nothing delivers to.
    pub fn without_extension(cluster: Arc<Cluster>, store: Store, options: &str) -> Self {
        let database = database_name();
        cluster.create_database_with(&database, options);
        let lago = start_lago(store, &key_for(&database));
        Self { cluster, lago, database, observer: Mutex::new(None) }
    }

    pub fn create_destination(&self, name: &str) {
        let sql = "select lago_push.create_destination($1, url => $2, api_key => $3)";
        self.run(sql, &[&name, &self.lago.url(), &self.api_key()]);
    }

    /// The key this scene's Lago accepts, unlike any other text in the cluster.
    pub fn api_key(&self) -> String {
        key_for(&self.database)
    }

    pub fn db(&self) -> Client {
        self.cluster.connect(&self.database)
    }

    /// Runs statements in a session of their own.
    #[track_caller]
    pub fn sql(&self, statements: &str) {
        if let Err(error) = self.db().batch_execute(statements) {
            panic!("{error:?}\nin: {}", head(statements));
        }
    }

    /// Runs statements that must fail, and returns the server's message.
    #[track_caller]
    pub fn sql_error(&self, statements: &str) -> String {
        match self.db().batch_execute(statements) {
            Ok(()) => panic!("no error from: {}", head(statements)),
            Err(error) => error_text(&error),
        }
    }

    #[track_caller]
    pub fn run(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) {
        if let Err(error) = self.db().query(sql, parameters) {
            panic!("{error:?}\nin: {}", head(sql));
        }
    }

    /// Looks with a session that is kept, and made anew after the server was stopped or has crashed.
    fn look<T>(
        &self,
        look: impl Fn(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, postgres::Error> {
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(db) = observer.as_mut() {
            let seen = look(db);
            let lost =
                |error: &postgres::Error| error.as_db_error().is_none_or(|db| db.severity() == "FATAL");
            if !seen.as_ref().is_err_and(|error| db.is_closed() || lost(error)) {
                return seen;
            }
        }
        look(observer.insert(self.cluster.try_connect(&self.database)?))
    }

    /// Ends the session that looks, so that nobody but the worker is connected.
    pub fn disconnect(&self) {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The database is on another server from here on.
    pub fn move_to(&mut self, cluster: Arc<Cluster>) {
        self.disconnect();
        self.cluster = cluster;
    }

    /// The rows of a query.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<Row> {
        self.look(|db| db.query(sql, &[])).unwrap_or_else(|e| panic!("{e:?}\nin: {}", head(sql)))
    }

    /// The only value of a query's only row.
    #[track_caller]
    pub fn value<T: FromSqlOwned>(&self, sql: &str) -> T {
        let row =
            self.look(|db| db.query_one(sql, &[])).unwrap_or_else(|e| panic!("{e:?}\nin: {}", head(sql)));
        row.get(0)
    }

    /// A table whose rows say who used how much.
    pub fn usage_table(&self, name: &str) {
        self.sql(&format!(
            "create table {name} (
                id bigint generated always as identity primary key,
                subscription text not null,
                amount numeric not null,
                created_at timestamptz not null default now())"
        ));
    }

    /// A sync with the name of its table, as a draft. `more` is further arguments of `create_sync`.
    #[track_caller]
    pub fn draft(&self, table: &str, more: &str) {
        self.draft_with(table, &usage_template(table), more);
    }

    #[track_caller]
    pub fn draft_with(&self, table: &str, template: &str, more: &str) {
        let more = if more.is_empty() { String::new() } else { format!(", {more}") };
        let sql = format!(
            "select lago_push.create_sync('{table}', source => '{table}', template => $1::text{more})"
        );
        self.run(&sql, &[&template]);
    }

    #[track_caller]
    pub fn activate(&self, sync: &str) {
        self.run("select lago_push.activate($1)", &[&sync]);
    }

    /// A usage table whose inserts are billed from here on.
    pub fn billed_table(&self, name: &str) {
        self.usage_table(name);
        self.draft(name, "");
        self.activate(name);
    }

    pub fn status(&self, sync: &str) -> Status {
        let sql = "select state::text, pending::bigint, retrying::bigint, delivered::bigint, dead::bigint,
                          last_error::text
                   from lago_push.status where sync = $1";
        let row = self.look(|db| db.query_one(sql, &[&sync]));
        let row = row.unwrap_or_else(|e| panic!("no status of {sync}: {e:?}"));
        Status {
            state: row.get(0),
            pending: row.get(1),
            retrying: row.get(2),
            delivered: row.get(3),
            dead: row.get(4),
            last_error: row.get(5),
        }
    }

    /// What the destination `lago` complained about last.
    pub fn destination_error(&self) -> Option<String> {
        self.value("select last_error::text from lago_push.destinations where name = 'lago'")
    }

    /// How many messages wait, of all syncs.
    pub fn waiting(&self) -> i64 {
        self.value("select count(*) from lago_push.outbox")
    }

    #[track_caller]
    pub fn wait_until_outbox_is_empty(&self, deadline: Duration) {
        let empty = || self.value::<bool>("select not exists (select from lago_push.outbox)");
        wait_until("the outbox is empty", deadline, empty);
    }

    /// Waits until exactly these usage events, and no others, are stored in Lago.
    #[track_caller]
    pub fn wait_for_exactly(&self, transaction_ids: &[&str]) {
        let mut wanted: Vec<String> = transaction_ids.iter().map(ToString::to_string).collect();
        wanted.sort();
        wait_until("the events have arrived", PATIENCE, || self.lago.stored_count() >= wanted.len() as u64);
        self.wait_until_outbox_is_empty(PATIENCE);
        assert_eq!(self.arrived(), wanted);
    }

    #[track_caller]
    pub fn wait_for_event(&self, transaction_id: &str) {
        let what = format!("the event {transaction_id} has arrived");
        wait_until(&what, PATIENCE, || self.arrived().iter().any(|id| id == transaction_id));
    }

    /// The transaction ids stored in Lago, sorted; one that is stored twice is there twice.
    pub fn arrived(&self) -> Vec<String> {
        let mut ids: Vec<String> =
            self.lago.stored().iter().map(|event| event.transaction_id.clone()).collect();
        ids.sort();
        ids
    }

    /// How many events each request held.
    pub fn batch_sizes(&self) -> Vec<usize> {
        self.lago.requests().iter().map(|request| request.events).collect()
    }

    /// How many requests were certainly under way at once, given that each took at least `latency`: those
    /// that arrived less than that apart.
    pub fn most_at_once(&self, latency: Duration) -> usize {
        let mut arrivals: Vec<SystemTime> = self.lago.requests().iter().map(|request| request.at).collect();
        arrivals.sort_unstable();
        let overlapping = |&first: &SystemTime| {
            let until = first + latency;
            arrivals.iter().filter(|&&at| at >= first && at < until).count()
        };
        arrivals.iter().map(overlapping).max().unwrap_or(0)
    }

    /// The worker's process, once there is one.
    #[track_caller]
    pub fn wait_for_worker(&self) -> i32 {
        wait_until("a worker is connected", PATIENCE, || self.cluster.worker_pid(&self.database))
    }

    #[track_caller]
    pub fn wait_for_launcher(&self) -> i32 {
        wait_until("the launcher is there", PATIENCE, || self.cluster.launcher_pid())
    }

    /// What a person would look at first.
    fn evidence(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "── Lago got {} requests and stored {} events",
            self.lago.request_count(),
            self.lago.stored_count()
        );
        for (title, sql) in [
            ("status", "select s::text from lago_push.status s"),
            (
                "first in the outbox",
                "select o::text from (select * from lago_push.outbox order by id limit 3) o",
            ),
            (
                "first dead letters",
                "select d::text from (select * from lago_push.dead_letters order by id limit 3) d",
            ),
        ] {
            let _ = writeln!(text, "── {title}");
            match self.look(|db| db.query(sql, &[])) {
                Ok(rows) => rows.iter().for_each(|row| {
                    let _ = writeln!(text, "{}", row.get::<_, String>(0));
                }),
                Err(error) => {
                    let _ = writeln!(text, "{}", error_text(&error));
                }
            }
        }
        let log = self.cluster.log_tail(Some(&self.database));
        let _ = writeln!(text, "── the server's log ends\n{log}");
        text
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.evidence());
        }
        // A worker slot and some megabytes less for the tests still to come. A server that a test left
        // stopped needs no tidying.
        if let Ok(mut db) = self.cluster.try_connect("postgres") {
            let _ = db.batch_execute(&format!("drop database if exists \"{}\" with (force)", self.database));
        }
    }
}

/// One usage event per row of `table`.
pub fn usage_template(table: &str) -> String {
    format!(
        r#"{{
            "transaction_id": "{table}-{{{{ row.id }}}}",
            "external_subscription_id": "{{{{ row.subscription }}}}",
            "code": "usage",
            "timestamp": {{{{ row.created_at }}}},
            "properties": {{"amount": "{{{{ row.amount }}}}"}}}}"#
    )
}

/// Inserts `count` rows over all subscriptions in one statement.
pub fn insert_rows(table: &str, count: usize) -> String {
    format!(
        "insert into {table} (subscription, amount)
         select 'sub_' || n % {SUBSCRIPTIONS}, n % 1000 * 0.01 from generate_series(1, {count}) n"
    )
}

/// Message, detail and hint of an error, as psql would show them.
pub fn error_text(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            [Some(db.message()), db.detail(), db.hint()].into_iter().flatten().collect::<Vec<_>>().join("\n")
        }
        None => error.to_string(),
    }
}

fn key_for(database: &str) -> String {
    format!("key-of-{database}")
}

fn start_lago(store: Store, api_key: &str) -> FakeLago {
    let lago = FakeLago::start(Config { store, api_key: api_key.into(), ..Config::default() });
    let lago = lago.unwrap_or_else(|e| panic!("fake-lago does not start: {e}"));
    lago.define_metric(Metric::sum(METRIC, "amount"));
    for n in 0..SUBSCRIPTIONS {
        lago.define_subscription(Subscription::always(&format!("sub_{n}"), &format!("customer_{n}")));
    }
    lago
}

fn head(sql: &str) -> &str {
    sql.get(..400).unwrap_or(sql)
}

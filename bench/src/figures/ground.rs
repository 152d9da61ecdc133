//! What all figures are measured on: one server, the stand-in for Lago, and the same table once for each
//! contestant.
//!
//! `plain` has no trigger. Two have the triggers somebody would write by hand, one for each row and one for each
//! statement, which write into an outbox like ours. `logutriga` has PgQ's trigger. `ours` has a sync.
//! Everything else about the five is equal.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use delivery::cluster::{Cluster, Options};

use super::stand_in::{API_KEY, StandIn};
use crate::failure::{Failure, Outcome};
use crate::session::Session;

pub const DATABASE: &str = "bench";
/// The same number for our worker and for the raw client.
pub const CONNECTIONS: usize = 16;
pub const BATCH: usize = 100;

const AT_REST_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A worker that was just woken may not have said yet that it works.
const WAKING_UP: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    Plain,
    RowTrigger,
    StatementTrigger,
    /// What PgQ queues is the row in the form of a URL's query. Rendering the event is left to its reader.
    Logutriga,
    Ours,
}

impl Contestant {
    pub fn table(self) -> &'static str {
        match self {
            Self::Plain => "usage_plain",
            Self::RowTrigger => "usage_row_trigger",
            Self::StatementTrigger => "usage_statement_trigger",
            Self::Logutriga => "usage_logutriga",
            Self::Ours => "usage_ours",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "no trigger",
            Self::RowTrigger => "PL/pgSQL row trigger",
            Self::StatementTrigger => "PL/pgSQL statement trigger",
            Self::Logutriga => "PgQ's logutriga",
            Self::Ours => "lago_push",
        }
    }
}

pub struct Ground {
    pub cluster: Arc<Cluster>,
    pub db: Session,
    pub lago: StandIn,
    /// Where PgQ, if it is installed, keeps its events until its tables are rotated. Nobody does that here.
    pgq_events: Option<String>,
}

const TABLES: &str = "
create table usage_plain (
    id bigint generated always as identity primary key,
    subscription text not null,
    amount numeric not null,
    created_at timestamptz not null default now());
create table usage_row_trigger (like usage_plain including all);
create table usage_statement_trigger (like usage_plain including all);
create table usage_logutriga (like usage_plain including all);
create table usage_ours (like usage_plain including all);

-- Stored as in our outbox: payloads uncompressed, and in line up to a page.
create sequence peer_message_id;
create table peer_outbox (
    id bigint default nextval('peer_message_id') primary key,
    enqueued_at timestamptz not null default now(),
    sync_id integer not null,
    operation \"char\" not null,
    payload text not null) with (toast_tuple_target = 8160);
alter table peer_outbox alter payload set storage external;
create sequence floor_message_id;
create table floor_outbox (
    id bigint default nextval('floor_message_id') primary key,
    enqueued_at timestamptz not null default now(),
    sync_id integer not null,
    operation \"char\" not null,
    payload text not null) with (toast_tuple_target = 8160);
alter table floor_outbox alter payload set storage external;

create function bill_row() returns trigger language plpgsql as $$
begin
    insert into peer_outbox (sync_id, operation, payload)
    values (1, 'i', jsonb_build_object(
        'transaction_id', 'usage-' || new.id,
        'external_subscription_id', new.subscription,
        'code', 'usage',
        'timestamp', extract(epoch from new.created_at),
        'properties', jsonb_build_object('amount', new.amount::text))::text);
    return null;
end $$;
create trigger bill after insert on usage_row_trigger for each row execute function bill_row();

create function bill_statement() returns trigger language plpgsql as $$
begin
    insert into peer_outbox (sync_id, operation, payload)
    select 1, 'i', jsonb_build_object(
        'transaction_id', 'usage-' || added.id,
        'external_subscription_id', added.subscription,
        'code', 'usage',
        'timestamp', extract(epoch from added.created_at),
        'properties', jsonb_build_object('amount', added.amount::text))::text
    from added;
    return null;
end $$;
create trigger bill after insert on usage_statement_trigger referencing new table as added
    for each statement execute function bill_statement();
";

const CLEARED: [&str; 9] = [
    "usage_plain",
    "usage_row_trigger",
    "usage_statement_trigger",
    "usage_logutriga",
    "usage_ours",
    "peer_outbox",
    "floor_outbox",
    "lago_push.message",
    "lago_push.retry",
];

const QUEUE: &str = "
create extension pgq;
select pgq.create_queue('usage');
create trigger queue after insert on usage_logutriga for each row execute function pgq.logutriga('usage');
";

/// The same event as `bill_row` and `bill_statement` build.
const SYNC: &str = r#"
select lago_push.create_sync('usage', source => 'usage_ours', template => '{
    "transaction_id": "usage-{{ row.id }}",
    "external_subscription_id": "{{ row.subscription }}",
    "code": "usage",
    "timestamp": {{ row.created_at }},
    "properties": {"amount": "{{ row.amount }}"}}');
select lago_push.activate('usage');
"#;

impl Ground {
    pub fn prepare() -> Outcome<Self> {
        let options = Options::durable()
            .with("shared_buffers", "1GB")
            // No checkpoint but those asked for: where one falls would decide a round.
            .with("max_wal_size", "16GB")
            // Log files are used again and not made anew, which would cost whoever comes first.
            .with("min_wal_size", "8GB")
            .with("checkpoint_timeout", "1h")
            .with("autovacuum", "on")
            .with("jit", "off");
        Self::on(Cluster::start(&options))
    }

    /// The same tables and syncs on another server.
    pub fn on(cluster: Arc<Cluster>) -> Outcome<Self> {
        cluster.create_database(DATABASE);
        let lago = StandIn::start()?;
        let mut db = Session::open(&cluster, DATABASE)?;
        db.run(TABLES)?;
        db.run("create extension lago_push")?;
        db.run(&format!(
            "select lago_push.create_destination('lago', url => '{}', api_key => '{API_KEY}',
                 connections => {CONNECTIONS})",
            lago.url()
        ))?;
        db.run(SYNC)?;
        let pgq_events = queue_with_pgq(&mut db)?;
        let mut ground = Self { cluster, db, lago, pgq_events };
        ground.hold()?;
        Ok(ground)
    }

    /// Who can take part on this machine. If somebody cannot, that is said.
    pub fn contestants(&self) -> Vec<Contestant> {
        use Contestant::{Logutriga, Ours, Plain, RowTrigger, StatementTrigger};
        if self.pgq_events.is_some() {
            return vec![Plain, RowTrigger, StatementTrigger, Logutriga, Ours];
        }
        eprint!("without PgQ, which is not installed here … ");
        vec![Plain, RowTrigger, StatementTrigger, Ours]
    }

    /// The table a contestant queues into.
    pub fn outbox(&self, contestant: Contestant) -> Option<String> {
        match contestant {
            Contestant::Plain => None,
            Contestant::RowTrigger | Contestant::StatementTrigger => Some("peer_outbox".to_owned()),
            Contestant::Logutriga => self.pgq_events.clone(),
            Contestant::Ours => Some("lago_push.message".to_owned()),
        }
    }

    pub fn expect_captured(&mut self, contestant: Contestant, rows: u64) -> Outcome<()> {
        self.outbox(contestant).map_or(Ok(()), |outbox| self.expect(rows, &outbox))
    }

    /// Somebody who queued less would win without having done the work.
    pub fn expect(&mut self, rows: u64, outbox: &str) -> Outcome<()> {
        let count: i64 = self.db.value(&format!("select count(*) from {outbox}"))?;
        if u64::try_from(count).ok() == Some(rows) {
            return Ok(());
        }
        Err(Failure::new(format!("{rows} rows were written, and {outbox} has {count}")))
    }

    /// Ours must have queued the same events as a trigger by hand. The statements ran one after the other, so the
    /// time of their rows differs.
    pub fn expect_same_events(&mut self, as_whose: &str) -> Outcome<()> {
        let different: i64 = self.db.value(
            "select count(*) from (
                 (select payload::jsonb - 'timestamp' from lago_push.message)
                 except
                 (select payload::jsonb - 'timestamp' from peer_outbox)) different",
        )?;
        if different > 0 {
            return Err(Failure::new(format!("{different} events differ from those of the {as_whose}")));
        }
        Ok(())
    }

    /// Our worker delivers nothing until released.
    pub fn hold(&mut self) -> Outcome<()> {
        self.db.run("select lago_push.hold('lago')")
    }

    pub fn release(&mut self) -> Outcome<()> {
        self.db.run("select lago_push.release('lago')")
    }

    /// Back to empty tables, and nobody busy. Messages that were never sent are taken out
    /// of the outbox in the quickest way there is, which is fit for benchmarks only.
    pub fn clear(&mut self) -> Outcome<()> {
        self.rest()?;
        let tables = CLEARED.into_iter().chain(self.pgq_events.as_deref());
        // A new file for a table that is empty anyway would cost time between the turns.
        let filled = tables.map(|table| format!("('{table}')")).collect::<Vec<_>>().join(", ");
        let filled: Option<String> = self.db.value(&format!(
            "select string_agg(name, ', ') from (values {filled}) as tables (name) where pg_relation_size(name) > 0"
        ))?;
        if let Some(tables) = filled {
            self.db.run(&format!("truncate {tables} restart identity"))?;
        }
        self.lago.forget()?;
        self.rest()
    }

    /// Waits until our worker has nothing to do.
    pub fn rest(&mut self) -> Outcome<()> {
        rest(&mut self.db)
    }

    /// Waits until the stand-in has accepted so many events.
    pub fn wait_until_stored(&mut self, events: u64, deadline: Duration) -> Outcome<()> {
        let give_up_at = Instant::now() + deadline;
        loop {
            let stored = self.lago.stored()?;
            if stored >= events {
                return Ok(());
            }
            if Instant::now() >= give_up_at {
                return Err(Failure::new(format!(
                    "only {stored} of {events} events have arrived after {} s",
                    deadline.as_secs()
                )));
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// Gives the table of the events, if PgQ is there. Its ticker is not needed for writing them.
fn queue_with_pgq(db: &mut Session) -> Outcome<Option<String>> {
    let installed = "select exists (select from pg_available_extensions where name = 'pgq')";
    if !db.value::<bool>(installed)? {
        return Ok(None);
    }
    db.run(QUEUE)?;
    db.value("select pgq.current_event_table('usage')").map(Some)
}

/// Waits until the worker of the session's database has nothing to do.
pub fn rest(db: &mut Session) -> Outcome<()> {
    let give_up_at = Instant::now() + AT_REST_WITHIN;
    thread::sleep(WAKING_UP);
    let busy = "select exists (
        select from lago_push.workers where database = current_database() and state = 'working')";
    while db.value::<bool>(busy)? {
        if Instant::now() >= give_up_at {
            return Err(Failure::new("the worker does not come to rest"));
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Each round begins with another contestant, so that none is always the first or always follows the same one.
pub fn rotated<T: Copy>(contestants: &[T], round: usize) -> Vec<T> {
    let first = round % contestants.len();
    contestants.iter().cycle().skip(first).take(contestants.len()).copied().collect()
}

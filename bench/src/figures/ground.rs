//! What all figures are measured on: one server, the stand-in for Lago, and the same table once for each
//! contestant.
//!
//! `plain` has no trigger. `peer` has the trigger somebody would write by hand, with an outbox of the same
//! columns. `ours` has a sync. Everything else about the three is equal.

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
    Peer,
    Ours,
}

impl Contestant {
    pub fn table(self) -> &'static str {
        match self {
            Self::Plain => "usage_plain",
            Self::Peer => "usage_peer",
            Self::Ours => "usage_ours",
        }
    }
}

pub struct Ground {
    pub cluster: Arc<Cluster>,
    pub db: Session,
    pub lago: StandIn,
}

const TABLES: &str = "
create table usage_plain (
    id bigint generated always as identity primary key,
    subscription text not null,
    amount numeric not null,
    created_at timestamptz not null default now());
create table usage_peer (like usage_plain including all);
create table usage_ours (like usage_plain including all);

create sequence peer_message_id;
create table peer_outbox (
    id bigint default nextval('peer_message_id') primary key,
    enqueued_at timestamptz not null default now(),
    sync_id integer not null,
    operation \"char\" not null,
    payload text not null);
create sequence floor_message_id;
create table floor_outbox (
    id bigint default nextval('floor_message_id') primary key,
    enqueued_at timestamptz not null default now(),
    sync_id integer not null,
    operation \"char\" not null,
    payload text not null);

create function bill_usage() returns trigger language plpgsql as $$
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
create trigger bill after insert on usage_peer for each row execute function bill_usage();
";

/// The same event as `bill_usage` builds.
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
        let cluster = Cluster::start(&options);
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
        let mut ground = Self { cluster, db, lago };
        ground.hold()?;
        Ok(ground)
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
        self.db.run(
            "truncate usage_plain, usage_peer, usage_ours, peer_outbox, floor_outbox restart identity;
             truncate lago_push.message, lago_push.retry",
        )?;
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

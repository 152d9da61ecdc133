//! What a run plays on: a server, a database with five tables and a sync for each, a fake Lago with the same
//! customers in mind, and a table that remembers what was committed.
//!
//! The tables' own memory is filled by an ordinary trigger in the transaction of each write, so that it is
//! right about savepoints, prepared transactions and crashes without knowing of lago_push. Each of its rows
//! has the name the message has in Lago.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use postgres::error::SqlState;
use postgres::{Client, Row};
use serde_json::json;

use super::End;
use super::lago::Lago;
use crate::cluster::{Cluster, Options};
use crate::wait::{PATIENCE, try_until};

/// Subscriptions that usage is written for.
pub const KEYS: u64 = 6;
/// Customers, and subscriptions made by writing.
pub const CUSTOMERS: u64 = 20;

pub const SYNCS: [&str; 5] = ["calls", "jobs", "customers", "subscriptions", "top_ups"];
/// Those whose messages are usage.
pub const USAGE: [&str; 2] = ["calls", "jobs"];

const DATABASE: &str = "soak";
const FIRST_KEY: &str = "key-0";

pub struct Stage {
    // Before the cluster: what is declared first is dropped first, and the file lies in the cluster's folder.
    pub lago: Lago,
    pub cluster: Arc<Cluster>,
    pub store: &'static str,
    wrong: Mutex<Vec<String>>,
}

const TABLES: &str = "
    create table truth (
        seq    bigint generated always as identity primary key,
        sync   text not null,
        name   text not null unique,
        key    text not null,
        amount numeric,
        code   text);
    create table discarded (sync text not null, name text not null, reason text not null);
    create table poisoned (name text not null);
    create table redriven (sync text not null, name text not null);
    create table keys (subscription text primary key);

    create function remember() returns trigger language plpgsql as $$
    declare
        written jsonb := case tg_op when 'DELETE' then to_jsonb(old) else to_jsonb(new) end;
    begin
        insert into truth (sync, name, key, amount, code) values (
            tg_table_name,
            format('%s-%s-%s-%s', tg_table_name, written ->> 'id', written ->> 'version', lower(tg_op)),
            coalesce(written ->> 'subscription', written ->> 'id'),
            (written ->> 'amount')::numeric,
            written ->> 'code');
        return null;
    end
    $$;

    -- What a message is called, by its payload.
    create function name_of(sync text, payload jsonb) returns text language sql immutable as $$
        select coalesce(payload ->> 'transaction_id',
                        payload #>> '{metadata,0,value}',
                        payload ->> 'name')
    $$;

    create table calls (
        id           bigint generated always as identity primary key,
        version      integer not null default 1,
        subscription text not null,
        amount       numeric not null,
        code         text not null default 'usage',
        note         text,
        created_at   timestamptz not null default clock_timestamp());
    create table jobs (
        id           bigint generated always as identity primary key,
        version      integer not null default 1,
        subscription text not null,
        amount       numeric not null,
        code         text not null default 'usage',
        created_at   timestamptz not null default clock_timestamp());
    create table customers (
        id           text primary key,
        version      integer not null default 1);
    create table subscriptions (
        id           text primary key,
        version      integer not null default 1,
        customer     text not null);
    create table top_ups (
        id           bigint generated always as identity primary key,
        version      integer not null default 1,
        wallet       text not null,
        amount       numeric not null);";

/// Table, endpoint, operations, order and template of each sync.
const DEFINITIONS: [(&str, &str, &str, Option<&str>, &str); 5] = [
    (
        "calls",
        "event",
        "{insert}",
        None,
        r#"{"transaction_id": "calls-{{ row.id }}-{{ row.version }}-{{ op }}",
            "external_subscription_id": "{{ row.subscription }}", "code": "{{ row.code }}",
            "timestamp": {{ row.created_at }},
            "properties": {"amount": "{{ row.amount }}", "note": "{{ row.note }}"}}"#,
    ),
    (
        "jobs",
        "event",
        "{insert,update,delete}",
        Some("subscription"),
        r#"{"transaction_id": "jobs-{{ row.id }}-{{ row.version }}-{{ op }}",
            "external_subscription_id": "{{ row.subscription }}", "code": "{{ row.code }}",
            "timestamp": {{ row.created_at }},
            "properties": {"amount": "{{ row.amount }}"}}"#,
    ),
    (
        "customers",
        "customer",
        "{insert,update}",
        Some("id"),
        r#"{"external_id": "{{ row.id }}", "name": "Customer {{ row.id }}",
            "metadata": [{"key": "message", "value": "customers-{{ row.id }}-{{ row.version }}-{{ op }}",
                          "display_in_invoice": false}]}"#,
    ),
    (
        "subscriptions",
        "subscription",
        "{insert,update}",
        Some("id"),
        r#"{"external_id": "{{ row.id }}", "external_customer_id": "{{ row.customer }}", "plan_code": "basic",
            "name": "subscriptions-{{ row.id }}-{{ row.version }}-{{ op }}"}"#,
    ),
    (
        "top_ups",
        "wallet_transaction",
        "{insert}",
        None,
        r#"{"wallet_id": "{{ row.wallet }}", "granted_credits": "{{ row.amount }}",
            "metadata": [{"key": "lago_push", "value": "top_ups-{{ row.id }}-{{ row.version }}-{{ op }}"}]}"#,
    ),
];

impl Stage {
    /// Everything in place, and all syncs active.
    pub fn set(program: &Path, store: &'static str) -> Self {
        // Without fsync: processes die here, not machines, so what was written is still there, and a recovery need
        // not first sync a thousand files. Seconds of that would be seconds without trouble.
        let cluster = Cluster::start(&Options::default().with("max_connections", "40"));
        cluster.create_database(DATABASE);
        let lago = Lago::start(program, cluster.folder().join("lago.data"), store, FIRST_KEY);
        let stage = Self { store, lago, cluster, wrong: Mutex::new(Vec::new()) };
        let wallet = stage.furnish_lago();
        stage.furnish_database(&wallet);
        stage
    }

    /// Defines what usage is billed with; gives the wallet that top-ups go to.
    fn furnish_lago(&self) -> String {
        let usage = json!({"code": "usage", "aggregation_type": "sum_agg", "field_name": "amount"});
        let mut weighed = usage.clone();
        weighed["code"] = json!("weighed");
        weighed["expression_variables"] = json!(["weight"]);
        self.lago.tell("metrics", &json!([usage, weighed]));
        let subscriptions: Vec<_> = (0..KEYS)
            .map(|n| json!({"external_id": format!("sub_{n}"), "external_customer_id": format!("owner_{n}")}))
            .collect();
        self.lago.tell("subscriptions", &json!(subscriptions));
        self.lago.tell("objects/plan", &json!({"code": "basic"}));
        self.lago.tell("objects/wallet", &json!({"external_customer_id": "payer"}));
        let wallets = self.lago.ask_all("objects/wallets");
        wallets.first().and_then(|wallet| wallet["lago_id"].as_str()).expect("a wallet").to_owned()
    }

    fn furnish_database(&self, wallet: &str) {
        let mut db = self.cluster.connect(DATABASE);
        let mut run = |sql: &str| db.batch_execute(sql).unwrap_or_else(|e| panic!("{e:?}\nin: {sql}"));
        run("create extension lago_push");
        run(TABLES);
        run(&format!("insert into keys select 'sub_' || n from generate_series(0, {}) n", KEYS - 1));
        run(&format!("alter table top_ups alter wallet set default '{wallet}'"));
        run(&format!(
            "select lago_push.create_destination('lago', url => '{}', api_key => '{FIRST_KEY}',
                                                 timeout => '1 s', connections => 8)",
            self.lago.url()
        ));
        for (table, endpoint, operations, order_by, template) in DEFINITIONS {
            let triggers = operations.trim_matches(['{', '}']).replace(',', " or ");
            let order = order_by.map(|column| format!(", order_by => '{column}'")).unwrap_or_default();
            let sql = format!(
                "create trigger remember after {triggers} on {table} for each row execute function remember();
                 select lago_push.create_sync('{table}', source => '{table}', endpoint => '{endpoint}',
                                              operations => '{operations}', template => $soak${template}$soak${order});
                 select lago_push.activate('{table}')"
            );
            run(&sql);
        }
    }

    /// A session, once the server takes one.
    pub fn connect(&self) -> Option<Client> {
        try_until(PATIENCE, || self.cluster.try_connect(DATABASE).ok())
    }

    /// The rows of a query, by a session of its own; asked again while trouble explains that there are none.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<Row> {
        let rows = try_until(PATIENCE, || {
            let mut db = self.cluster.try_connect(DATABASE).ok()?;
            match db.query(sql, &[]) {
                Ok(rows) => Some(rows),
                Err(error) if is_explained(&error) => None,
                Err(error) => panic!("{error:?}\nin: {sql}"),
            }
        });
        rows.unwrap_or_else(|| panic!("the server does not answer: {sql}"))
    }

    /// The first column of the rows, as text.
    #[track_caller]
    pub fn texts(&self, sql: &str) -> Vec<String> {
        self.rows(sql).iter().map(|row| row.get(0)).collect()
    }

    pub fn is_flushed(&self, end: End) -> bool {
        let waiting = match end {
            End::AllSettled => "true",
            End::AllButQuestions => "sync <> 'top_ups' or last_error is null",
        };
        self.texts(&format!("select 'waiting' from lago_push.outbox where {waiting} limit 1")).is_empty()
    }

    pub fn worker(&self) -> Option<i32> {
        self.cluster.worker_pid(DATABASE)
    }

    /// Notes something that must not be.
    pub fn wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// Notes an error that no trouble explains.
    pub fn excuse(&self, who: &str, error: &postgres::Error) {
        if !is_explained(error) {
            self.wrong(format!("{who}: {error:?}"));
        }
    }

    pub fn everything_wrong(&self) -> Vec<String> {
        const MOST: usize = 40;
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let more = wrong.len().saturating_sub(MOST);
        wrong.truncate(MOST);
        if more > 0 {
            wrong.push(format!("… and {more} more"));
        }
        wrong
    }

    /// What a person would look at first.
    pub fn evidence(&self) -> String {
        let mut text = String::new();
        for (title, sql) in [
            ("status", "select s::text from lago_push.status s"),
            ("destination", "select d::text from lago_push.destinations d"),
            ("ledger", "select l::text from lago_push.ledger l"),
            (
                "first in the outbox",
                "select o::text from (select * from lago_push.outbox order by id limit 3) o",
            ),
            (
                "dead letters",
                "select sync || ': ' || reason || ' × ' || count(*) from lago_push.dead_letters group by sync, reason",
            ),
        ] {
            let _ = writeln!(text, "── {title}");
            for line in self.texts(sql) {
                let _ = writeln!(text, "{line}");
            }
        }
        let _ = writeln!(text, "── the server's log ends\n{}", self.cluster.log_tail(Some(DATABASE)));
        text
    }
}

/// Whether an error is what somebody must expect who writes while servers crash: lost connections, deadlocks, locks
/// held by transactions that are prepared and not decided, and too many of those.
fn is_explained(error: &postgres::Error) -> bool {
    let Some(error) = error.as_db_error() else { return true };
    let expected = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        SqlState::OUT_OF_MEMORY,
    ];
    let out_of_slots =
        error.code() == &SqlState::OUT_OF_MEMORY && error.message().contains("prepared transactions");
    expected.contains(error.code()) && (error.code() != &SqlState::OUT_OF_MEMORY || out_of_slots)
}

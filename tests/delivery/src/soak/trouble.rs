//! What goes wrong, one thing after the other while the writers write: faults of every kind on Lago's side, killed
//! processes, and operators who change things.
//!
//! It keeps to what can happen. A gateway may lose the answer of a call Lago has made, but it does not answer such a
//! call with 429, or with a login page: those say that Lago was not asked, and a top-up may be repeated after
//! them.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use postgres::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::stage::{SYNCS, Stage};
use crate::cluster::Stop;
use crate::random::Random;
use crate::wait::{PATIENCE, try_until};

/// Between two troubles.
const SHORTEST_PEACE_MILLIS: u64 = 20;
const LONGEST_PEACE_MILLIS: u64 = 350;
/// How long a killed process may go unnoticed, if it was still there when it was killed.
const NOTICE: Duration = Duration::from_secs(10);

/// A body with more bytes holds more than one event: a refusal nobody can read is the end of one that was alone.
const SEVERAL_EVENTS: u64 = 400;

pub struct Trouble<'a> {
    stage: &'a Stage,
    random: Random,
    began: Instant,
    told: String,
    counted: [u64; Kind::ALL.len()],
    keys: u64,
    /// The key Lago has and the destination has not been told yet.
    untold_key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Faults,
    Outage,
    Poison,
    Limits,
    Permission,
    KillWorker,
    CrashServer,
    RestartServer,
    KillLago,
    Hold,
    Pause,
    Alter,
    Key,
    Reload,
    Redrive,
    Discard,
    Decide,
    Calm,
}

impl Kind {
    const ALL: [Kind; 18] = [
        Kind::Faults,
        Kind::Outage,
        Kind::Poison,
        Kind::Limits,
        Kind::Permission,
        Kind::KillWorker,
        Kind::CrashServer,
        Kind::RestartServer,
        Kind::KillLago,
        Kind::Hold,
        Kind::Pause,
        Kind::Alter,
        Kind::Key,
        Kind::Reload,
        Kind::Redrive,
        Kind::Discard,
        Kind::Decide,
        Kind::Calm,
    ];

    fn weight(self) -> u64 {
        match self {
            Kind::Faults | Kind::Decide | Kind::Calm => 12,
            Kind::Poison | Kind::Hold | Kind::Pause | Kind::Alter | Kind::KillLago => 6,
            Kind::Redrive | Kind::Discard | Kind::Key | Kind::Reload | Kind::Limits => 5,
            Kind::KillWorker => 6,
            Kind::Permission | Kind::Outage | Kind::CrashServer => 4,
            Kind::RestartServer => 2,
        }
    }
}

impl<'a> Trouble<'a> {
    pub fn new(stage: &'a Stage, random: Random) -> Self {
        Self {
            stage,
            random,
            began: Instant::now(),
            told: String::new(),
            counted: [0; Kind::ALL.len()],
            keys: 0,
            untold_key: None,
        }
    }

    /// Makes trouble for so long.
    pub fn make(&mut self, length: Duration) {
        self.began = Instant::now();
        while self.began.elapsed() < length {
            let kind = self.choose();
            self.count(kind);
            self.cause(kind);
            let span = LONGEST_PEACE_MILLIS - SHORTEST_PEACE_MILLIS;
            let peace = Duration::from_millis(SHORTEST_PEACE_MILLIS + self.random.below(span));
            let _ = try_until(peace, || false);
        }
    }

    /// Ends everything that would go on by itself.
    pub fn end(&mut self) {
        self.note("the end");
        let calm =
            json!({"denied": [], "batch_limit": 100, "rate_limit": null, "rate_limit_of_others": null});
        self.stage.lago.clear_faults();
        self.stage.lago.tell("settings", &calm);
        self.tell_key();
        self.sql("select lago_push.alter_destination('lago', connections => 8, rate_limit => 1000)");
        for sync in SYNCS {
            self.sql(&format!("select lago_push.resume('{sync}')"));
        }
        self.decide();
        self.sql("select lago_push.release('lago')");
    }

    /// What an operator does who sees a destination that is held after its trouble has ended: an answer that was
    /// under way then may have come later.
    pub fn mend(&mut self) {
        let held = "select state from lago_push.destinations where state like 'held%'";
        if let Some(why) = self.stage.texts(held).pop() {
            self.note(&format!("still {why}"));
            self.sql("select lago_push.release('lago')");
        }
    }

    /// Everything that was done, one line each.
    pub fn told(&self) -> &str {
        &self.told
    }

    pub fn summary(&self) -> String {
        let count = |kind: Kind| self.counted.get(kind as usize).copied().unwrap_or_default();
        format!(
            "{} troubles ({} of the worker, {} of the server, {} of Lago)",
            self.counted.iter().sum::<u64>(),
            count(Kind::KillWorker),
            count(Kind::CrashServer) + count(Kind::RestartServer),
            count(Kind::KillLago)
        )
    }

    fn note(&mut self, what: &str) {
        let _ = writeln!(self.told, "{:7.3} s  {what}", self.began.elapsed().as_secs_f64());
    }

    fn count(&mut self, kind: Kind) {
        if let Some(count) = self.counted.get_mut(kind as usize) {
            *count += 1;
        }
    }

    fn choose(&mut self) -> Kind {
        let all: u64 = Kind::ALL.iter().map(|kind| kind.weight()).sum();
        let mut left = self.random.below(all);
        for kind in Kind::ALL {
            match left.checked_sub(kind.weight()) {
                Some(rest) => left = rest,
                None => return kind,
            }
        }
        Kind::Calm
    }

    fn one_of<'t>(&mut self, choices: &[&'t str]) -> &'t str {
        let at = usize::try_from(self.random.below(choices.len() as u64)).unwrap_or_default();
        choices.get(at).copied().unwrap_or_default()
    }

    fn cause(&mut self, kind: Kind) {
        match kind {
            Kind::Faults => self.faults(),
            Kind::Outage => {
                let status = [500, 502, 503][usize::try_from(self.random.below(3)).unwrap_or_default()];
                self.fault(json!({"next": 20, "do": "status", "status": status}));
            }
            Kind::Poison => self.poison(),
            Kind::Limits => self.limits(),
            Kind::Permission => {
                let resource = self.one_of(&["event", "customer", "subscription", "wallet_transaction"]);
                self.settings(json!({"denied": [format!("write {resource}")]}));
            }
            Kind::KillWorker => self.kill_worker(),
            Kind::CrashServer => self.restart(Stop::Immediate),
            Kind::RestartServer => self.restart(Stop::Fast),
            Kind::KillLago => self.kill_lago(),
            Kind::Hold => {
                self.sql("select lago_push.hold('lago')");
                if self.random.chance(70) {
                    let _ = try_until(Duration::from_millis(self.random.below(400)), || false);
                    self.sql("select lago_push.release('lago')");
                }
            }
            Kind::Pause => {
                let sync = self.one_of(&SYNCS);
                self.sql(&format!("select lago_push.pause('{sync}')"));
            }
            Kind::Alter => {
                let connections = 1 + self.random.below(16);
                let rate = [5, 20, 50, 1000][usize::try_from(self.random.below(4)).unwrap_or_default()];
                self.sql(&format!(
                    "select lago_push.alter_destination('lago', connections => {connections}, rate_limit => {rate})"
                ));
            }
            Kind::Key => self.change_key(),
            Kind::Reload => self.reload(),
            Kind::Redrive => self.redrive(),
            Kind::Discard => self.discard(),
            Kind::Decide => self.decide(),
            Kind::Calm => self.calm(),
        }
    }

    /// An hour of peace for those who wait: everything that was stopped goes on.
    fn calm(&mut self) {
        self.note("calm");
        self.stage.lago.clear_faults();
        self.settings(json!({"denied": [], "batch_limit": 100}));
        self.tell_key();
        for sync in SYNCS {
            self.sql(&format!("select lago_push.resume('{sync}')"));
        }
        self.sql("select lago_push.release('lago')");
    }

    fn fault(&mut self, fault: Value) {
        self.note(&format!("fault {fault}"));
        self.stage.lago.tell("fault", &fault);
    }

    fn settings(&mut self, settings: Value) {
        self.note(&format!("settings {settings}"));
        self.stage.lago.tell("settings", &settings);
    }

    /// Some kinds of faults, each for a share of all requests.
    fn faults(&mut self) {
        self.stage.lago.clear_faults();
        let kinds = [
            json!({"do": "status", "status": 500}),
            json!({"do": "status", "status": 500, "storing": "done"}),
            json!({"do": "status", "status": 502}),
            json!({"do": "status", "status": 502, "storing": "done"}),
            json!({"do": "status", "status": 503}),
            json!({"do": "status", "status": 503, "retry_after": 1}),
            json!({"do": "status", "status": 504, "storing": "done"}),
            json!({"do": "status", "status": 408}),
            json!({"do": "status", "status": 418, "page": "<p>short and stout</p>"}),
            json!({"do": "status", "status": 429, "retry_after": 1}),
            json!({"do": "rate_limited", "reset": 1}),
            json!({"do": "provider_throttled"}),
            json!({"do": "contention"}),
            json!({"do": "status", "status": 401}),
            json!({"do": "status", "status": 403}),
            json!({"do": "status", "status": 404}),
            json!({"do": "status", "status": 413, "body_over": 3000}),
            json!({"do": "hang"}),
            json!({"do": "hang", "storing": "done"}),
            json!({"do": "reset"}),
            json!({"do": "reset", "storing": "done"}),
            json!({"do": "truncated"}),
            json!({"do": "status", "status": 503, "cut": true}),
            json!({"do": "drip", "bytes": 64, "pause_ms": 2}),
            json!({"do": "close"}),
            json!({"do": "empty", "storing": "done"}),
            json!({"do": "empty"}),
            json!({"do": "html"}),
            json!({"do": "invalid", "details": "soon", "path": "/events/batch", "body_over": SEVERAL_EVENTS}),
            json!({"do": "invalid", "details": {"first": 1}, "path": "/events/batch", "body_over": SEVERAL_EVENTS}),
            json!({"do": "invalid", "details": {"0": "expression"}, "cut": true, "path": "/events/batch", "body_over": SEVERAL_EVENTS}),
        ];
        let mut chosen = Vec::new();
        for mut kind in kinds {
            if self.random.chance(25) {
                kind["per_mille"] = json!(5 + self.random.below(80));
                chosen.push(kind);
            }
        }
        let seed = self.random.below(1 << 32);
        self.settings(json!({"seed": seed}));
        self.fault(Value::Array(chosen));
    }

    /// One of the next events makes Lago fail, for a while or for ever.
    fn poison(&mut self) {
        let newest = self.stage.texts("select coalesce(max(id), 0)::text from calls");
        let newest: u64 = newest.first().and_then(|id| id.parse().ok()).unwrap_or_default();
        let id = format!("calls-{}-1-insert", newest + 1 + self.random.below(20));
        self.sql(&format!("insert into poisoned values ('{id}')"));
        let mut poison = json!({"do": "status", "status": 500, "transaction_id": id});
        if self.random.chance(50) {
            poison["always"] = json!(true);
        } else {
            poison["next"] = json!(1 + self.random.below(6));
        }
        self.fault(poison);
    }

    fn limits(&mut self) {
        let requests = 5 + self.random.below(40);
        let limit = json!({"requests": requests, "seconds": 1});
        let batch_limit = 1 + self.random.below(100);
        match self.random.below(5) {
            0 => self.settings(json!({"batch_limit": batch_limit})),
            // An old version keeps what it refuses.
            4 => self.settings(json!({"legacy_partial_batch": true})),
            1 => self.settings(json!({"rate_limit": limit, "rate_limit_of_others": null})),
            2 => self.settings(json!({"rate_limit": limit, "rate_limit_of_others": limit})),
            _ => self.settings(json!({"rate_limit": null, "rate_limit_of_others": null})),
        }
    }

    fn kill_worker(&mut self) {
        let Some(pid) = self.stage.worker() else { return self.note("no worker to kill") };
        self.note("kill -9 of the worker");
        let mut witness = self.stage.connect();
        // It may have ended by itself.
        let killed = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        if let (Some(Ok(())), Some(witness)) = (killed, witness.as_mut()) {
            let _ = try_until(NOTICE, || witness.simple_query("select 1").is_err());
        }
        self.stage.cluster.wait_until_ready();
    }

    fn restart(&mut self, how: Stop) {
        self.note(&format!("{how:?} stop of the server"));
        self.stage.cluster.stop(how);
        self.stage.cluster.start_again();
    }

    /// Its faults and settings are gone with it.
    fn kill_lago(&mut self) {
        self.note("kill -9 of Lago");
        self.stage.lago.kill();
        let _ = try_until(Duration::from_millis(self.random.below(300)), || false);
        self.stage.lago.start_again();
    }

    /// Lago gets another key; the destination is told now, or later.
    fn change_key(&mut self) {
        self.keys += 1;
        let key = format!("key-{}", self.keys);
        self.note("another key");
        self.stage.lago.change_key(&key);
        self.untold_key = Some(key);
        if self.random.chance(50) {
            self.tell_key();
        }
    }

    fn tell_key(&mut self) {
        if let Some(key) = self.untold_key.take() {
            self.note("the destination gets the key");
            let told = self.session().query("select lago_push.set_api_key('lago', $1)", &[&key]);
            if let Err(error) = told {
                self.stage.excuse("set_api_key", &error);
                self.untold_key = Some(key);
            }
        }
    }

    fn reload(&mut self) {
        let (name, value) = [
            ("worker_memory", "1024"),
            ("worker_memory", "16384"),
            ("idle_timeout", "0"),
            ("idle_timeout", "60"),
            ("shutdown_patience", "100"),
        ][usize::try_from(self.random.below(5)).unwrap_or_default()];
        self.sql(&format!("alter system set lago_push.{name} = {value}"));
        self.sql("select pg_reload_conf()");
    }

    /// Which letters of a sync may be touched: never a top-up that may have happened.
    const KNOWN: &'static str = "reason not like '%outcome is unknown%'";

    fn redrive(&mut self) {
        let sync = self.one_of(&SYNCS);
        self.sql(&format!(
            "begin isolation level repeatable read;
             insert into redriven select sync, name_of(sync, payload::jsonb) from lago_push.dead_letters
              where sync = '{sync}' and {known};
             select lago_push.redrive('{sync}', filter => $$ {known} $$);
             commit",
            known = Self::KNOWN
        ));
    }

    fn discard(&mut self) {
        let sync = self.one_of(&SYNCS);
        let half = if self.random.chance(50) { "id % 2 = 0" } else { "true" };
        let filter = format!("{} and {half}", Self::KNOWN);
        self.sql(&format!(
            "begin isolation level repeatable read;
             insert into discarded select sync, name_of(sync, payload::jsonb), reason from lago_push.dead_letters
              where sync = '{sync}' and {filter};
             select lago_push.discard('{sync}', filter => $$ {filter} $$);
             commit"
        ));
    }

    /// Decides every transaction that is prepared.
    fn decide(&mut self) {
        let prepared =
            "select gid::text from pg_prepared_xacts where database = current_database() order by 1";
        for gid in self.stage.texts(prepared) {
            let end = if self.random.chance(60) { "commit" } else { "rollback" };
            // The writer may have decided it just now.
            let _ = self.session().batch_execute(&format!("{end} prepared '{gid}'"));
        }
    }

    fn session(&self) -> Client {
        let session = try_until(PATIENCE, || self.stage.connect());
        session.unwrap_or_else(|| panic!("the server takes no session:\n{}", self.told))
    }

    fn sql(&mut self, sql: &str) {
        self.note(sql);
        if let Err(error) = self.session().batch_execute(sql) {
            self.note(&format!("… {error}"));
            self.stage.excuse(sql, &error);
        }
    }
}

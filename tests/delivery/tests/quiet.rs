//! Promises 7 and 8: an idle worker is not noticed, a busy one steps aside, and the API key is nowhere a
//! person or a program could find it.
#![forbid(unsafe_code)]

use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use delivery::cluster::{Cluster, Options};
use delivery::oracle::assert_billed_exactly_once;
use delivery::scene::{Scene, error_text, insert_rows};
use delivery::wait::{PATIENCE, try_until, wait_until};
use fake_lago::Store;
use postgres::Client;

const ONE_ROW: &str = "insert into usage (subscription, amount) values ('sub_1', 2.50)";

/// Long enough to catch a worker that polls every few seconds.
const WINDOW: Duration = Duration::from_secs(5);

/// A cluster in which nothing happens on its own.
fn still_cluster() -> Arc<Cluster> {
    let options = Options::default().with("autovacuum", "off").with("lago_push.idle_timeout", "10min");
    Cluster::start(&options)
}

/// A cluster that logs everything PostgreSQL can log.
fn talkative_cluster() -> Arc<Cluster> {
    static SHARED: OnceLock<Arc<Cluster>> = OnceLock::new();
    let options = || {
        Options::default()
            .with("log_statement", "all")
            .with("log_min_duration_statement", "0")
            .with("log_min_messages", "debug2")
            .with("log_min_error_statement", "info")
            .with("log_parameter_max_length", "-1")
            .with("log_parameter_max_length_on_error", "-1")
            .with("log_error_verbosity", "verbose")
            .with("log_connections", "on")
    };
    Arc::clone(SHARED.get_or_init(|| Cluster::start(&options())))
}

/// What a process leaves behind when it does something, however little.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    /// Transactions of anybody in the scene's database.
    transactions: i64,
    /// The worker as the server sees it.
    activity: String,
    /// How often the threads of worker and launcher were woken, where the system tells.
    wake_ups: Vec<Option<u64>>,
}

/// Looks without touching the scene's own database.
fn trace(observer: &mut Client, scene: &Scene, worker: i32, launcher: i32) -> Trace {
    let sql = "select (select xact_commit + xact_rollback from pg_stat_database where datname = $1),
                      (select concat_ws('/', state, wait_event, query, xact_start, query_start, state_change)
                       from pg_stat_activity where pid = $2)";
    let row = observer.query_one(sql, &[&scene.database, &worker]).unwrap();
    Trace {
        transactions: row.get(0),
        activity: row.get(1),
        wake_ups: [worker, launcher].map(wake_ups).into(),
    }
}

fn wake_ups(pid: i32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let woken = |status: String| -> Option<u64> {
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
    };
    Some(
        threads
            .flatten()
            .filter_map(|thread| woken(fs::read_to_string(thread.path().join("status")).ok()?))
            .sum(),
    )
}

#[test]
fn an_idle_worker_does_nothing_at_all() {
    let scene = Scene::on(still_cluster(), Store::Postgres);
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 300));
    assert_billed_exactly_once(&scene);
    let worker = scene.wait_for_worker();
    let launcher = scene.wait_for_launcher();

    scene.cluster.create_database("elsewhere");
    let (mut observer, mut busy) = (scene.cluster.connect("postgres"), scene.cluster.connect("elsewhere"));
    busy.batch_execute("create table t (n int)").unwrap();
    // The first window may still see the tail of the delivery: closing connections, last statistics. One
    // whole window without a trace is the proof.
    wait_until("for a whole window the worker has left no trace", WINDOW * 6, || {
        let before = trace(&mut observer, &scene, worker, launcher);
        let _ = try_until(WINDOW, || busy.batch_execute("insert into t values (1)").is_err());
        trace(&mut observer, &scene, worker, launcher) == before
    });
    assert_eq!(scene.cluster.worker_pid(&scene.database), Some(worker));
    // Not because it is dead:
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
}

#[test]
fn an_idle_worker_leaves_and_a_commit_brings_one_back() {
    let options = Options::default().with("lago_push.idle_timeout", "1s");
    let scene = Scene::on(Cluster::start(&options), Store::Postgres);
    scene.billed_table("usage");
    for _ in 0..3 {
        scene.sql(ONE_ROW);
        assert_billed_exactly_once(&scene);
        wait_until("the worker has left", PATIENCE, || scene.cluster.worker_pid(&scene.database).is_none());
    }
    assert_eq!(scene.lago.stored_count(), 3);
}

#[test]
fn a_worker_does_not_leave_while_messages_wait() {
    let options = Options::default().with("lago_push.idle_timeout", "1s");
    let scene = Scene::on(Cluster::start(&options), Store::Postgres);
    scene.billed_table("usage");
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 10));
    wait_until("the outage is noticed", PATIENCE, || scene.destination_error().is_some());
    let _ = try_until(Duration::from_secs(3), || scene.cluster.worker_pid(&scene.database).is_none());
    scene.lago.resume().unwrap();
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_database_is_dropped_although_a_worker_is_connected() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.sql(ONE_ROW);
    scene.wait_for_exactly(&["usage-1"]);
    let worker = scene.wait_for_worker();
    scene.disconnect();
    scene.cluster.connect("postgres").batch_execute(&format!("drop database {}", scene.database)).unwrap();
    wait_until("the worker is gone", PATIENCE, || !process_exists(&scene, worker));
}

#[test]
fn a_database_is_dropped_although_its_worker_is_busy() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.lago.set_latency(Duration::from_millis(200));
    scene.sql(&insert_rows("usage", 20_000));
    wait_until("the delivery is under way", PATIENCE, || scene.lago.stored_count() > 0);
    scene.disconnect();
    scene.cluster.connect("postgres").batch_execute(&format!("drop database {}", scene.database)).unwrap();
    let log = scene.cluster.log();
    assert!(!log.contains("PANIC"), "{}", scene.cluster.log_tail(None));
}

#[test]
fn a_database_is_dropped_although_its_lago_is_gone() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 300));
    wait_until("the outage is noticed", PATIENCE, || scene.destination_error().is_some());
    scene.disconnect();
    scene.cluster.connect("postgres").batch_execute(&format!("drop database {}", scene.database)).unwrap();
}

#[test]
fn a_database_serves_as_a_template_although_a_worker_is_connected() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.sql(ONE_ROW);
    scene.wait_for_exactly(&["usage-1"]);
    let copy = format!("copy_{}", scene.value::<i64>("select txid_current()"));
    scene.wait_for_worker();
    scene.disconnect();
    let mut server = scene.cluster.connect("postgres");
    server.batch_execute(&format!("create database {copy} template {}", scene.database)).unwrap();
    // Both go on.
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    server.batch_execute(&format!("drop database {copy}")).unwrap();
}

#[test]
fn the_extension_is_dropped_and_made_again_while_a_worker_is_connected() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.sql(ONE_ROW);
    scene.wait_for_exactly(&["usage-1"]);
    scene.wait_for_worker();
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 10));
    scene.sql("drop extension lago_push cascade");
    scene.lago.resume().unwrap();
    // The table is an ordinary one again.
    scene.sql(ONE_ROW);
    assert_eq!(scene.value::<i64>("select count(*) from usage"), 12);

    scene.sql("create extension lago_push");
    scene.create_destination("lago");
    scene.billed_table("again");
    scene.sql("insert into again (subscription, amount) values ('sub_1', 1)");
    scene.wait_for_event("again-1");
    assert!(!scene.cluster.log().contains("terminated by signal"), "{}", scene.cluster.log_tail(None));
}

#[test]
fn a_drop_of_the_extension_does_not_meet_the_worker_at_its_tables() {
    let scene = Scene::new();
    for round in 0..15 {
        let table = format!("usage{round}");
        scene.billed_table(&table);
        scene.sql(&insert_rows(&table, 300));
        // The worker reads, sends and settles while its tables go. The two used to deadlock.
        scene.sql(&format!("select lago_push.pause('{table}'); drop extension lago_push cascade"));
        scene.sql("create extension lago_push");
        scene.create_destination("lago");
    }
}

#[test]
fn a_drop_of_the_extension_that_is_rolled_back_changes_nothing() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.sql("begin; drop extension lago_push cascade; rollback");
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
}

fn process_exists(scene: &Scene, pid: i32) -> bool {
    let row =
        scene.cluster.connect("postgres").query_opt("select from pg_stat_activity where pid = $1", &[&pid]);
    row.unwrap().is_some()
}

/// Text that is a secret in the tests below, unlike anything else in the log.
const SECRETS: [&str; 4] = ["first-5e4b2c", "second-91fa03", "third-c0ffee", "fourth-77d1a9"];

/// A scene whose destination `lago` had four different keys, given by every kind of call, some of which
/// failed.
fn scene_with_secrets() -> Scene {
    let scene = Scene::without_destination(talkative_cluster(), Store::Postgres);
    let url = scene.lago.url();
    let [first, second, third, fourth] = SECRETS;
    // As text of the statement, and as a parameter of a prepared one.
    scene.sql(&format!("select lago_push.create_destination('lago', url => '{url}', api_key => '{first}')"));
    scene.run("select lago_push.set_api_key('lago', $1)", &[&second]);
    scene.sql(&format!("select lago_push.alter_destination('lago', api_key => '{third}')"));
    scene.sql(&format!("begin; select lago_push.set_api_key('lago', '{fourth}'); commit"));
    let mut db = scene.db();
    let mut failing = |sql: &str, key: &str| {
        let literal = sql.replace("$1", &format!("'{key}'"));
        let error = error_text(&db.batch_execute(&literal).expect_err(&literal));
        assert!(!error.contains(key), "the key is in the message: {error}");
        let error = error_text(&db.query(sql, &[&key]).expect_err(sql));
        assert!(!error.contains(key), "the key is in the message: {error}");
    };
    failing(&format!("select lago_push.create_destination('lago', url => '{url}', api_key => $1)"), first);
    failing("select lago_push.create_destination('bad', url => 'not a url', api_key => $1)", second);
    failing("select lago_push.set_api_key('nobody', $1)", third);
    failing("select lago_push.alter_destination('nobody', api_key => $1)", fourth);
    // Used, and refused by Lago.
    scene.billed_table("usage");
    scene.sql(ONE_ROW);
    wait_until("Lago has refused the key", PATIENCE, || scene.destination_error().is_some());
    scene
}

#[track_caller]
fn assert_no_secret(place: &str, text: &str) {
    for secret in SECRETS {
        if let Some(at) = text.find(secret) {
            let from = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let to = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
            panic!("a key is in {place}: {}", &text[from..to]);
        }
    }
}

#[test]
fn no_key_is_in_the_log_whatever_is_logged() {
    let scene = scene_with_secrets();
    let log = scene.cluster.log();
    assert!(log.contains("create table usage"), "the log does not hold statements");
    assert_no_secret("the log", &log);
}

#[test]
fn no_key_is_in_any_view() {
    let scene = scene_with_secrets();
    let views = scene.rows("select viewname::text from pg_views where schemaname = 'lago_push'");
    assert!(views.len() >= 6, "only {} views", views.len());
    for view in views {
        let view: &str = view.get(0);
        let rows = scene.rows(&format!("select v::text from lago_push.{view} v"));
        let text: Vec<String> =
            rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect();
        assert_no_secret(view, &text.join("\n"));
    }
}

#[test]
fn no_key_is_in_a_dump() {
    let scene = scene_with_secrets();
    let out = scene.cluster.program("pg_dump").arg(&scene.database).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let dump = String::from_utf8_lossy(&out.stdout);
    assert!(dump.contains("lago_push"), "the dump lacks the extension");
    assert_no_secret("the dump", &dump);
}

#[test]
fn no_key_stays_in_the_activity_of_the_session_that_gave_it() {
    let scene = Scene::without_destination(talkative_cluster(), Store::Postgres);
    let (url, [first, second, third, fourth]) = (scene.lago.url(), SECRETS);
    let mut session = scene.db();
    let others_see = |what: &str| {
        // Of this database alone: beside it run tests that give the same keys.
        let rows = scene.rows("select a::text from pg_stat_activity a where a.datname = current_database()");
        let text: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        assert_no_secret(&format!("pg_stat_activity after {what}"), &text.join("\n"));
    };
    let create = format!("select lago_push.create_destination('lago', url => '{url}', api_key => '{first}')");
    session.batch_execute(&create).unwrap();
    others_see("create_destination");
    session.batch_execute(&format!("select lago_push.set_api_key('lago', '{second}')")).unwrap();
    others_see("set_api_key");
    session
        .batch_execute(&format!("begin; select lago_push.alter_destination('lago', api_key => '{third}')"))
        .unwrap();
    others_see("alter_destination inside a transaction");
    session.batch_execute("commit").unwrap();
    assert!(session.batch_execute(&format!("select lago_push.set_api_key('nobody', '{fourth}')")).is_err());
    others_see("a call that failed");
}

#[test]
fn no_key_can_be_read_by_somebody_who_may_look_at_everything() {
    let scene = scene_with_secrets();
    let role = format!("reader_{}", scene.value::<i64>("select txid_current()"));
    scene.sql(&format!("create role {role} login; grant pg_monitor to {role}"));
    let mut reader = scene.cluster.try_connect_as(&role, &scene.database).unwrap();
    let tables = scene.rows(
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'lago_push' and c.relkind in ('r', 'v', 'm', 'p')",
    );
    for table in tables {
        let table: &str = table.get(0);
        // Refusing to show the table is as good.
        if let Ok(rows) = reader.query(&format!("select t::text from {table} t"), &[]) {
            let text: Vec<String> =
                rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect();
            assert_no_secret(table, &text.join("\n"));
        }
    }
    drop(reader);
    scene.sql(&format!("drop role {role}"));
}

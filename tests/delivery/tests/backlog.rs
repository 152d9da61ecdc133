//! What is said of the backlog while it grows and goes: figures that stay true behind a snapshot held open, across
//! restarts and crashes, and in one snapshot; and what the worker says it does.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use delivery::cluster::{Cluster, Options, Stop};
use delivery::oracle::assert_billed_exactly_once;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;
use postgres::Client;

/// The figures whose names end so, by name and labels.
fn metrics(scene: &Scene, ending: &str) -> BTreeMap<String, f64> {
    let rows = scene
        .rows(&format!("select name || labels, value from lago_push.metrics where name like '%{ending}'"));
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn metric(scene: &Scene, name: &str) -> f64 {
    scene.value(&format!("select max(value) from lago_push.metrics where name = '{name}'"))
}

/// 40,000 rows are billed, and a transaction is open that began before.
fn delivered_behind_an_open_snapshot() -> (Scene, Client) {
    let scene = Scene::new();
    scene.billed_table("usage");
    let mut holder = scene.db();
    holder.batch_execute("begin isolation level repeatable read; select count(*) from usage").unwrap();
    scene.sql(&insert_rows("usage", 40_000));
    assert_billed_exactly_once(&scene);
    (scene, holder)
}

#[test]
fn what_was_delivered_behind_an_open_snapshot_is_not_read_again() {
    let (scene, mut holder) = delivered_behind_an_open_snapshot();
    let figures = "select concat_ws(' ', pending, oldest_pending, bytes_waiting, delivered, estimated) from lago_push.status";
    assert_eq!(
        scene.value::<String>(figures),
        "0 0 40000 f",
        "exact, so the entries left behind were passed over"
    );
    assert!(scene.value::<i64>("select id from lago_push.outbox_start") > 20_000);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.message"), 0);
    // The holder sees what was, and has to pass them.
    let old = holder.query_one("select captured, pending, balanced from lago_push.ledger", &[]).unwrap();
    assert_eq!((old.get::<_, i64>(0), old.get::<_, i64>(1)), (0, 0));
    assert_ne!(old.get::<_, Option<bool>>(2), Some(false));
    holder.batch_execute("rollback").unwrap();
}

#[test]
fn flush_does_not_pass_what_was_delivered_behind_an_open_snapshot() {
    let (scene, mut holder) = delivered_behind_an_open_snapshot();
    // The worker notes where the outbox begins when it settles, and not each time.
    wait_until("the worker has noted where the outbox begins", PATIENCE, || {
        scene.sql(&insert_rows("usage", 1));
        scene.wait_until_outbox_is_empty(PATIENCE);
        scene.value::<i64>("select id from lago_push.outbox_start") > 39_000
    });
    let pages = |query: &str| -> i64 {
        scene.value(&format!(
            "select (public.plan_of($${query}$$) -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::bigint"
        ))
    };
    scene.sql(
        "create function public.plan_of(query text) returns json language plpgsql as $$
         declare plan json;
         begin
             execute 'explain (analyze, buffers, format json) ' || query into plan;
             return plan;
         end $$",
    );
    let all = pages("select max(id) from lago_push.message");
    let flush = pages("select lago_push.flush()");
    assert!(flush * 10 < all, "flush() looked at {flush} pages, and to pass all dead entries takes {all}");
    holder.batch_execute("rollback").unwrap();
}

#[test]
fn what_a_busy_worker_deletes_is_known_to_autovacuum() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.sql("select lago_push.alter_destination('lago', connections => 1)");
    scene.lago.set_latency(Duration::from_millis(200));
    scene.sql(&insert_rows("usage", 5000));
    wait_until("deletions are reported while there is more to deliver", PATIENCE, || {
        scene.value::<bool>(
            "select n_tup_del > 0 and exists (select from lago_push.message)
               from pg_stat_all_tables where relid = 'lago_push.message'::regclass",
        )
    });
    scene.lago.set_latency(Duration::ZERO);
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_snapshot_of_a_backlog_stays_true_while_it_is_delivered() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.sql("select lago_push.hold('lago')");
    scene.sql(&insert_rows("usage", 20_000));
    let mut holder = scene.db();
    let look = "select captured, pending, delivered, balanced from lago_push.ledger";
    holder.batch_execute("begin isolation level repeatable read").unwrap();
    let mut seen = || {
        let row = holder.query_one(look, &[]).unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2), row.get::<_, bool>(3))
    };
    assert_eq!(seen(), (20_000, 20_000, 0, true));
    scene.sql("select lago_push.release('lago')");
    assert_billed_exactly_once(&scene);
    assert_eq!(seen(), (20_000, 20_000, 0, true));
    assert!(
        scene.value::<bool>("select balanced and pending = 0 and delivered = 20000 from lago_push.ledger")
    );
}

#[test]
fn counters_never_fall_across_restarts_and_crashes() {
    let scene = Scene::on(Cluster::start(&Options::durable()), Store::Postgres);
    scene.billed_table("usage");
    let mut before = metrics(&scene, "_total");
    assert!(before.len() >= 7, "{before:?}");
    let mut grown = 0;
    for round in 0..4 {
        scene.sql(&insert_rows("usage", 2000));
        match round {
            0 => {}
            1 => {
                scene.cluster.stop(Stop::Fast);
                scene.cluster.start_again();
            }
            2 => {
                scene.cluster.stop(Stop::Immediate);
                scene.cluster.start_again();
            }
            _ => {
                let (worker, mut witness) = (scene.wait_for_worker(), scene.db());
                scene.cluster.kill9(worker);
                wait_until("the server has noticed", PATIENCE, || witness.simple_query("select 1").is_err());
                scene.cluster.wait_until_ready();
            }
        }
        scene.wait_until_outbox_is_empty(PATIENCE);
        let after = metrics(&scene, "_total");
        for (name, value) in &before {
            assert!(after[name] >= *value, "{name} fell from {value} to {}", after[name]);
            grown += usize::from(after[name] > *value);
        }
        before = after;
    }
    assert!(grown >= 8, "only {grown} counters grew");
    assert_billed_exactly_once(&scene);
    let delivered: Vec<f64> = metrics(&scene, "_delivered_total").into_values().collect();
    assert_eq!(delivered, [8000.0]);
}

#[test]
fn a_destination_with_enough_to_do_shows_its_pace() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.sql("select lago_push.alter_destination('lago', connections => 2)");
    scene.lago.set_latency(Duration::from_millis(20));
    scene.sql(&insert_rows("usage", 10_000));
    assert_billed_exactly_once(&scene);
    let pace: f64 = scene.value("select messages_per_second from lago_push.destinations");
    // Two requests of a hundred each 20 ms at most.
    assert!(pace > 0.0 && pace <= 12_000.0, "{pace}");
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 5000));
    wait_until("the outage is noticed", PATIENCE, || scene.destination_error().is_some());
    let drains: f64 = scene.value("select extract(epoch from drains_in)::float8 from lago_push.status");
    assert!(drains > 0.0, "{drains}");
    scene.lago.resume().unwrap();
    assert_billed_exactly_once(&scene);
}

/// What pg_stat_activity says of the worker: query and wait event.
fn activity(scene: &Scene) -> (String, String) {
    let rows = scene.rows(
        "select query, coalesce(wait_event, '') from pg_stat_activity
          where datname = current_database() and backend_type = 'lago_push worker'",
    );
    rows.first().map(|row| (row.get(0), row.get(1))).unwrap_or_default()
}

#[test]
fn the_worker_says_what_it_does_and_waits_for() {
    let scene = Scene::new();
    let named =
        |name: &str| if scene.cluster.version() >= 17 { name.to_owned() } else { "Extension".to_owned() };
    let says = || {
        scene.value::<Option<String>>(
            "select activity from lago_push.workers where database = current_database()",
        )
    };
    scene.billed_table("usage");
    scene.sql("insert into usage (subscription, amount) values ('sub_1', 1)");
    scene.wait_for_exactly(&["usage-1"]);
    wait_until("it waits for something to do", PATIENCE, || {
        activity(&scene).1 == named("LagoPushIdle") && says().as_deref() == Some("idle")
    });
    scene.lago.set_latency(Duration::from_secs(2));
    scene.sql("insert into usage (subscription, amount) values ('sub_1', 1)");
    wait_until("it waits for Lago", PATIENCE, || {
        activity(&scene) == ("waiting for Lago: 1 requests under way".into(), named("LagoPushReply"))
            && says().as_deref() == Some("waiting for Lago")
    });
    scene.lago.set_latency(Duration::ZERO);
    scene.lago.stop();
    scene.sql("insert into usage (subscription, amount) values ('sub_1', 1)");
    wait_until("it waits for the next attempt", PATIENCE, || {
        activity(&scene) == ("waiting for the next attempt".into(), named("LagoPushPause"))
            && says().as_deref() == Some("waiting for the next attempt")
    });
    let launcher: String = scene.value(
        "select wait_event from pg_stat_activity where backend_type = 'lago_push launcher' and wait_event is not null",
    );
    assert_eq!(launcher, named("LagoPushLauncher"));
    scene.lago.resume().unwrap();
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_worker_that_cannot_be_started_is_missed() {
    let options = Options::default().with("lago_push.idle_timeout", "0");
    let scene = Scene::on(Cluster::start(&options), Store::Postgres);
    scene.billed_table("usage");
    let mut writer = scene.db();
    wait_until("the worker has left", PATIENCE, || metric(&scene, "lago_push_worker_up") == 0.0);
    let mut operator = scene.cluster.connect("postgres");
    let allow = |allowed: bool| format!("alter database {} allow_connections {allowed}", scene.database);
    operator.batch_execute(&allow(false)).unwrap();
    writer.batch_execute("insert into usage (subscription, amount) values ('sub_1', 1)").unwrap();
    let failed = || scene.cluster.log().contains("is not currently accepting connections");
    wait_until("a worker could not connect", PATIENCE, failed);
    assert_eq!(metric(&scene, "lago_push_worker_up"), 0.0);
    assert_eq!(metric(&scene, "lago_push_worker_wanted"), 1.0);
    // What waits where nothing may go needs nobody.
    writer.batch_execute("select lago_push.hold('lago')").unwrap();
    assert_eq!(metric(&scene, "lago_push_held"), 1.0);
    operator.batch_execute(&allow(true)).unwrap();
    writer.batch_execute("select lago_push.release('lago')").unwrap();
    assert_billed_exactly_once(&scene);
    wait_until("nobody is missed", PATIENCE, || metric(&scene, "lago_push_worker_wanted") == 0.0);
}

#[test]
fn a_worker_with_nothing_to_do_is_not_missed() {
    let options = Options::default().with("lago_push.idle_timeout", "0");
    let scene = Scene::on(Cluster::start(&options), Store::Postgres);
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 10));
    assert_billed_exactly_once(&scene);
    wait_until("it has left", PATIENCE, || scene.cluster.worker_pid(&scene.database).is_none());
    wait_until("nobody is missed", PATIENCE, || metric(&scene, "lago_push_worker_wanted") == 0.0);
    assert_eq!(metric(&scene, "lago_push_worker_up"), 0.0);
    scene.sql("select lago_push.hold('lago')");
    scene.sql(&insert_rows("usage", 10));
    wait_until("it has left again", PATIENCE, || {
        scene.cluster.worker_pid(&scene.database).is_none()
            && metric(&scene, "lago_push_worker_wanted") == 0.0
    });
}

#[test]
fn what_a_full_lane_passed_over_is_delivered_after_a_pause() {
    // Room for some four thousand messages, so that it ends within the last page that is read.
    let options =
        Options::default().with("lago_push.worker_memory", "1200kB").with("lago_push.idle_timeout", "10min");
    let scene = Scene::on(Cluster::start(&options), Store::Postgres);
    scene.billed_table("usage");
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 4500));
    wait_until("the outage is noticed", PATIENCE, || scene.destination_error().is_some());
    let worker = scene.wait_for_worker();
    scene.sql("select lago_push.pause('usage')");
    // A second sync shows that the worker has come to know of it.
    scene.billed_table("other");
    scene.sql("insert into other (subscription, amount) values ('sub_1', 1)");
    scene.lago.resume().unwrap();
    wait_until("the other sync's row has arrived", PATIENCE, || scene.lago.stored_count() > 0);
    scene.sql("select lago_push.resume('usage')");
    wait_until("all have arrived", PATIENCE, || scene.lago.stored_count() >= 4501);
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(scene.cluster.worker_pid(&scene.database), Some(worker), "and not because it began anew");
}

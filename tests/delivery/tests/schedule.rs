//! Scheduled syncs: rows wait for the clock, wherever the worker and the server are meanwhile, and hinder
//! no other.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use delivery::cluster::{Cluster, Options, Stop};
use delivery::oracle::assert_billed;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;

/// A tick that no test run meets but one on New Year's Eve.
const YEARLY: &str = "0 0 1 1 *";

fn schedule(scene: &Scene, name: &str, schedule: Option<&str>) {
    scene.run("update lago_push.sync set schedule = $2 where name = $1", &[&name, &schedule]);
    scene.sql("select lago_push._wake()");
}

fn scheduled_table(scene: &Scene, name: &str, text: &str) {
    scene.usage_table(name);
    scene.draft(name, "");
    schedule(scene, name, Some(text));
    scene.activate(name);
}

/// Shows that a row of `usage`, committed now, goes at once.
fn other_rows_pass(scene: &Scene) {
    if !scene.value::<bool>("select to_regclass('usage') is not null") {
        scene.billed_table("usage");
    }
    scene.sql(&insert_rows("usage", 1));
    wait_until("the unscheduled row has passed", PATIENCE, || scene.status("usage").pending == 0);
}

/// Every row of these tables is billed, each once.
fn assert_all_billed(scene: &Scene, tables: &[&str]) {
    let rows: Vec<String> =
        tables.iter().map(|table| format!("select subscription, amount from {table}")).collect();
    assert_billed(scene, &rows.join(" union all "));
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

#[test]
fn rows_go_together_at_the_next_tick_and_not_before() {
    let scene = Scene::new();
    scheduled_table(&scene, "calls", "every 3 s");
    for _ in 0..5 {
        scene.sql(&insert_rows("calls", 3));
    }
    let last: f64 = scene.value("select extract(epoch from max(enqueued_at))::float8 from lago_push.outbox");
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_all_billed(&scene, &["calls"]);
    for request in scene.lago.requests() {
        let tick = seconds(request.at) / 3;
        assert!(tick >= 1 && seconds(request.at) % 3 <= 1, "it went between two ticks: {:?}", request.at);
    }
    let newest = scene.lago.requests().iter().map(|request| seconds(request.at)).max().expect("a request");
    assert!(newest / 3 > last as u64 / 3, "the last row went before its tick");
    assert!(scene.lago.request_count() <= 2, "they did not go together: {:?}", scene.batch_sizes());
}

#[test]
fn rows_that_wait_hinder_no_other_sync() {
    let scene = Scene::new();
    scheduled_table(&scene, "calls", YEARLY);
    scene.sql(&insert_rows("calls", 30_000));
    other_rows_pass(&scene);
    assert_eq!(scene.status("calls").pending, 30_000);
    assert_eq!(scene.lago.stored_count(), 1);
}

#[test]
fn without_its_schedule_a_sync_delivers_what_waited() {
    let scene = Scene::new();
    scheduled_table(&scene, "calls", YEARLY);
    scene.sql(&insert_rows("calls", 2000));
    other_rows_pass(&scene);
    assert_eq!(scene.status("calls").delivered, 0);
    schedule(&scene, "calls", None);
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_all_billed(&scene, &["calls", "usage"]);
}

#[test]
fn a_changed_schedule_holds_for_what_waits() {
    let scene = Scene::new();
    scheduled_table(&scene, "calls", YEARLY);
    scene.sql(&insert_rows("calls", 10));
    other_rows_pass(&scene);
    schedule(&scene, "calls", Some("every 1 s"));
    scene.wait_until_outbox_is_empty(PATIENCE);
    schedule(&scene, "calls", Some(YEARLY));
    scene.sql(&insert_rows("calls", 10));
    other_rows_pass(&scene);
    assert_eq!(scene.status("calls").pending, 10);
}

#[test]
fn the_worker_leaves_while_rows_wait_and_is_back_at_their_tick() {
    let cluster = Cluster::start(&Options::default().with("lago_push.idle_timeout", "0"));
    let scene = Scene::on(cluster, Store::Postgres);
    scheduled_table(&scene, "calls", "every 4 s");
    scene.sql(&insert_rows("calls", 10));
    let last: f64 =
        scene.value("select coalesce(extract(epoch from max(enqueued_at)), 0)::float8 from lago_push.outbox");
    let left = || {
        let gone = scene.cluster.worker_pid(&scene.database).is_none();
        gone && scene
            .value::<bool>("select not exists (select from lago_push.workers where state <> 'asleep')")
    };
    wait_until("the worker has left", PATIENCE, left);
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_all_billed(&scene, &["calls"]);
    let first = scene.lago.requests().iter().map(|request| seconds(request.at)).min().expect("a request");
    assert!(first / 4 >= last as u64 / 4, "it went before its tick");
    wait_until("the worker has left again", PATIENCE, left);
}

#[test]
fn rows_still_wait_after_a_crash_and_a_tick_that_passed_meanwhile_is_made_up_for() {
    let cluster = Cluster::start(&Options::durable());
    let scene = Scene::on(cluster, Store::Postgres);
    scheduled_table(&scene, "later", YEARLY);
    scheduled_table(&scene, "missed", "every 86400 s");
    scene.sql(&insert_rows("later", 10));
    scene.sql(&insert_rows("missed", 10));
    other_rows_pass(&scene);
    assert_eq!((scene.status("later").pending, scene.status("missed").pending), (10, 10));
    // As if they had been written the day before yesterday.
    scene.sql(
        "update lago_push.message set enqueued_at = enqueued_at - interval '2 days'
          where sync_id = (select id from lago_push.sync where name = 'missed')",
    );
    scene.cluster.stop(Stop::Immediate);
    scene.cluster.start_again();
    wait_until("the tick was made up for", PATIENCE, || scene.status("missed").pending == 0);
    other_rows_pass(&scene);
    assert_eq!(scene.status("later").pending, 10);
    schedule(&scene, "later", None);
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_all_billed(&scene, &["later", "missed", "usage"]);
}

#[test]
fn a_paused_sync_misses_its_ticks_and_delivers_when_it_resumes() {
    let scene = Scene::new();
    scheduled_table(&scene, "calls", "every 1 s");
    scene.sql("select lago_push.pause('calls')");
    scene.sql(&insert_rows("calls", 10));
    let two_ticks_later = SystemTime::now() + Duration::from_secs(2);
    wait_until("two ticks have passed", PATIENCE, || SystemTime::now() > two_ticks_later);
    other_rows_pass(&scene);
    assert_eq!(scene.status("calls").pending, 10);
    scene.sql("select lago_push.resume('calls')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_all_billed(&scene, &["calls", "usage"]);
}

#[test]
fn a_scheduled_sync_can_be_dropped_while_its_rows_wait() {
    let scene = Scene::new();
    scheduled_table(&scene, "calls", "every 2 s");
    scene.sql(&insert_rows("calls", 10));
    scene.sql("select lago_push.drop_sync('calls', discard => true)");
    other_rows_pass(&scene);
    assert_eq!(scene.waiting(), 0);
}

#[test]
fn a_schedule_that_is_none_is_no_schedule() {
    let scene = Scene::new();
    scheduled_table(&scene, "calls", "whenever it suits");
    scene.sql(&insert_rows("calls", 10));
    scene.wait_until_outbox_is_empty(PATIENCE);
    let log = scene.cluster.log();
    assert!(log.contains("cannot deliver sync \"calls\" as defined: its schedule is not followed"), "{log}");
}

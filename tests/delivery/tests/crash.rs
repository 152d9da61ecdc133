//! Promise 2 at its hardest: processes killed and the server stopped without warning, in the middle of
//! delivering and of writing. Afterwards everything that committed is billed, exactly once.
//!
//! Every test has a cluster of its own, with durable writes. What the writers believe they committed does not
//! count, what the table holds does: a commit whose answer was lost may have happened.
#![forbid(unsafe_code)]

use std::time::Duration;

use delivery::cluster::{Cluster, Options, Stop};
use delivery::oracle::assert_billed_exactly_once;
use delivery::random::Random;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{LONG_PATIENCE, PATIENCE, wait_until};
use delivery::writers::Writers;
use fake_lago::{Effect, Fault, Store, Storing};

const ONE_ROW: &str = "insert into usage (subscription, amount) values ('sub_1', 2.50)";

fn durable_scene(store: Store) -> Scene {
    let scene = Scene::on(Cluster::start(&Options::durable()), store);
    scene.billed_table("usage");
    scene
}

fn crash_server(scene: &Scene) {
    scene.cluster.stop(Stop::Immediate);
    scene.cluster.start_again();
}

fn wait_for_stored(scene: &Scene, events: u64) {
    wait_until("the delivery is under way", LONG_PATIENCE, || scene.lago.stored_count() >= events);
}

fn a_large_delivery_interrupted(store: Store) {
    let scene = durable_scene(store);
    scene.sql(&insert_rows("usage", 200_000));
    wait_for_stored(&scene, 20_000);
    scene.cluster.kill9_and_recover(scene.wait_for_worker());
    wait_for_stored(&scene, 70_000);
    crash_server(&scene);
    wait_for_stored(&scene, 120_000);
    scene.cluster.kill9_and_recover(scene.wait_for_worker());
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_large_delivery_survives_kill_9_and_an_immediate_stop_with_the_postgres_store() {
    a_large_delivery_interrupted(Store::Postgres);
}

#[test]
fn a_large_delivery_survives_kill_9_and_an_immediate_stop_with_the_clickhouse_store() {
    a_large_delivery_interrupted(Store::ClickHouse);
}

fn eight_writers_interrupted(store: Store, seed: u64) {
    let scene = durable_scene(store);
    let writers = Writers::start(&scene, "usage", 8, &mut Random::seeded(seed));
    let mut commits = 0;
    for round in 0..4 {
        commits += 150;
        wait_until("the writers are writing", PATIENCE, || writers.commits() >= commits);
        let worker = scene.wait_for_worker();
        if round % 2 == 0 {
            scene.cluster.kill9_and_recover(worker)
        } else {
            crash_server(&scene)
        }
        commits = writers.commits();
    }
    wait_until("the writers have recovered", PATIENCE, || writers.commits() >= commits + 150);
    writers.stop();
    assert_billed_exactly_once(&scene);
}

#[test]
fn eight_writers_survive_kill_9_and_an_immediate_stop_with_the_postgres_store() {
    eight_writers_interrupted(Store::Postgres, 88);
}

#[test]
fn eight_writers_survive_kill_9_and_an_immediate_stop_with_the_clickhouse_store() {
    eight_writers_interrupted(Store::ClickHouse, 89);
}

#[test]
fn a_killed_worker_is_replaced_and_the_next_commit_arrives() {
    let scene = durable_scene(Store::Postgres);
    scene.sql(ONE_ROW);
    scene.wait_for_exactly(&["usage-1"]);
    let killed = scene.wait_for_worker();
    scene.cluster.kill9_and_recover(killed);
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    assert_ne!(scene.wait_for_worker(), killed);
}

#[test]
fn a_killed_launcher_is_replaced() {
    let scene = durable_scene(Store::Postgres);
    scene.cluster.kill9_and_recover(scene.wait_for_launcher());
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_killed_writer_leaves_only_what_it_committed() {
    let scene = durable_scene(Store::Postgres);
    let mut writer = scene.db();
    let pid: i32 = writer.query_one("select pg_backend_pid()", &[]).unwrap().get(0);
    writer.batch_execute(ONE_ROW).unwrap();
    writer.batch_execute("set lago_push.capture_memory = '1MB'").unwrap();
    writer.batch_execute(&format!("begin; {}", insert_rows("usage", 10_000))).unwrap();
    scene.cluster.kill9_and_recover(pid);
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.lago.stored_count(), 2);
}

#[test]
fn what_waited_when_the_server_crashed_is_delivered_without_another_commit() {
    let scene = durable_scene(Store::Postgres);
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 500));
    crash_server(&scene);
    scene.lago.resume().unwrap();
    // Only looking, so that nothing but the start itself can have woken the worker.
    wait_until("all has arrived", PATIENCE, || scene.lago.stored_count() == 500);
    assert_billed_exactly_once(&scene);
}

#[test]
fn replies_lost_in_a_crash_do_not_bill_twice() {
    let scene = durable_scene(Store::Postgres);
    // Stored by Lago, but no reply has come when the server goes down.
    scene.lago.fault(Fault::next(1, Effect::Hang(Storing::Done)));
    scene.sql(&insert_rows("usage", 50));
    wait_until("Lago has stored the events", PATIENCE, || scene.lago.stored_count() > 0);
    assert_eq!(scene.waiting(), 50);
    crash_server(&scene);
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_clean_restart_in_the_middle_loses_nothing() {
    let scene = durable_scene(Store::Postgres);
    scene.lago.set_latency(Duration::from_millis(30));
    scene.sql(&insert_rows("usage", 20_000));
    wait_for_stored(&scene, 1000);
    scene.cluster.stop(Stop::Fast);
    scene.cluster.start_again();
    assert_billed_exactly_once(&scene);
}

//! High availability, with real pairs of servers: a standby idles, takes over, and hands back; and with
//! synchronous replication what was committed is billed once, whoever dies when.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use delivery::cluster::{Cluster, Stop};
use delivery::oracle::assert_billed_exactly_once;
use delivery::scene::{Scene, insert_rows};
use delivery::standby::{move_scene, primary_options, standby_of};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;

const ONE_ROW: &str = "insert into usage (subscription, amount) values ('sub_1', 2.50)";

const STATE: &str = "select state from lago_push.destinations where name = 'lago'";

fn primary_scene(store: Store) -> Scene {
    let scene = Scene::on(Cluster::start(&primary_options()), store);
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 20));
    assert_billed_exactly_once(&scene);
    scene
}

fn require_a_standby(primary: &Cluster) {
    primary.alter_system("synchronous_standby_names", "*");
    wait_until("the standby is synchronous", PATIENCE, || {
        primary.psql("postgres", "select sync_state from pg_stat_replication").trim() == "sync"
    });
}

#[test]
fn a_standby_idles_and_takes_over_when_it_is_promoted() {
    let mut scene = primary_scene(Store::Postgres);
    let standby = standby_of(&scene.cluster);
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 30));
    standby.wait_until_it_follows(&scene.cluster);
    assert_eq!(standby.processes(), Vec::<String>::new());
    let pending = "select pending from lago_push.status where sync = 'usage'";
    assert_eq!(standby.psql(&scene.database, pending).trim(), "30", "what the views show on a standby");

    scene.cluster.stop(Stop::Kill);
    scene.lago.resume().unwrap();
    let requests = scene.lago.request_count();
    standby.promote();
    move_scene(&mut scene, &standby);
    // Nobody has written anything: the promotion alone is what brings the worker.
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert!(scene.lago.request_count() > requests);
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.value::<String>(STATE), "open");
}

#[test]
fn a_standby_that_was_restarted_without_its_primary_is_still_one() {
    let mut scene = primary_scene(Store::Postgres);
    let standby = standby_of(&scene.cluster);
    let testimony = standby.folder().join("data/lago_push.standby");
    wait_until("the standby has noted what it is", PATIENCE, || testimony.exists());
    scene.cluster.stop(Stop::Kill);
    standby.stop(Stop::Fast);
    standby.start_again();
    standby.promote();
    move_scene(&mut scene, &standby);
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.value::<String>(STATE), "open");
}

#[test]
fn an_old_primary_that_was_rewound_idles_and_takes_over_again() {
    let mut scene = primary_scene(Store::Postgres);
    let first = Arc::clone(&scene.cluster);
    let second = standby_of(&first);
    first.stop(Stop::Kill);
    second.promote();
    move_scene(&mut scene, &second);
    scene.sql(&insert_rows("usage", 10));
    assert_billed_exactly_once(&scene);

    first.rewind_to(&second);
    first.start_again();
    first.wait_until_it_follows(&second);
    assert_eq!(first.processes(), Vec::<String>::new());
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 10));
    first.wait_until_it_follows(&second);
    second.stop(Stop::Fast);
    scene.lago.resume().unwrap();
    first.promote();
    move_scene(&mut scene, &first);
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.value::<String>(STATE), "open");
}

#[test]
fn a_standby_of_a_standby_takes_over() {
    let mut scene = primary_scene(Store::Postgres);
    let middle = standby_of(&scene.cluster);
    let last = {
        let last = delivery::standby::copy_of(&middle);
        last.follow(&middle);
        last.start_again();
        Arc::new(last)
    };
    wait_until("the last one streams", PATIENCE, || {
        last.psql("postgres", "select count(*) from pg_stat_wal_receiver where status = 'streaming'").trim()
            == "1"
    });
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    let rows = || last.psql(&scene.database, "select count(*) from usage").trim() == "21";
    wait_until("the last one has the row", PATIENCE, rows);
    scene.cluster.stop(Stop::Kill);
    middle.stop(Stop::Kill);
    last.promote();
    move_scene(&mut scene, &last);
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.value::<String>(STATE), "open");
}

/// Sessions that remember what they were told is committed.
struct Remembering {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<i64>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Remembering {
    fn start(scene: &Scene, sessions: usize) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let threads = (0..sessions)
            .map(|session| {
                let mut db = scene.db();
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                let sql = format!(
                    "insert into usage (subscription, amount) values ('sub_{session}', {session} + 0.25) returning id"
                );
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(row) = db.query_one(&sql, &[]) else { return };
                        acknowledged.lock().unwrap().push(row.get(0));
                    }
                })
            })
            .collect();
        Self { stop, acknowledged, threads }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    fn finish(self) -> Vec<i64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a writer does not panic");
        }
        self.acknowledged.lock().unwrap().clone()
    }
}

fn a_primary_killed_under_load(store: Store) {
    let mut scene = primary_scene(store);
    let standby = standby_of(&scene.cluster);
    require_a_standby(&scene.cluster);
    let writers = Remembering::start(&scene, 6);
    let delivered = scene.lago.stored_count();
    wait_until("rows are written and delivered", PATIENCE, || {
        writers.count() > 500 && scene.lago.stored_count() > delivered + 200
    });
    scene.cluster.stop(Stop::Kill);
    let acknowledged = writers.finish();
    standby.promote();
    move_scene(&mut scene, &standby);
    let ids: Vec<String> = acknowledged.iter().map(ToString::to_string).collect();
    let lost: i64 = scene.value(&format!(
        "select count(*) from unnest('{{{}}}'::bigint[]) a(id) where not exists (select from usage u where u.id = a.id)",
        ids.join(",")
    ));
    assert_eq!(lost, 0, "of {} acknowledged rows", ids.len());
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_primary_killed_under_load_loses_and_doubles_nothing_with_the_postgres_store() {
    a_primary_killed_under_load(Store::Postgres);
}

#[test]
fn a_primary_killed_under_load_loses_and_doubles_nothing_with_the_clickhouse_store() {
    a_primary_killed_under_load(Store::ClickHouse);
}

/// Rows that are committed and visible on the primary, while no standby has them.
fn write_what_no_standby_has(scene: &Scene) {
    scene.sql(&format!("set synchronous_commit = local; {}", insert_rows("usage", 10)));
    wait_until("the worker waits for the standby", PATIENCE, || {
        scene.value::<bool>(
            "select exists (select from pg_stat_activity
               where backend_type = 'lago_push worker' and query = 'waiting for a synchronous standby')",
        )
    });
}

#[test]
fn what_a_synchronous_standby_does_not_have_is_sent_when_it_has() {
    let scene = primary_scene(Store::Postgres);
    let standby = standby_of(&scene.cluster);
    require_a_standby(&scene.cluster);
    let delivered = scene.lago.stored_count();
    standby.stop(Stop::Fast);
    write_what_no_standby_has(&scene);
    assert_eq!(scene.lago.stored_count(), delivered);
    standby.start_again();
    assert_billed_exactly_once(&scene);
    // Nor does it wait where no standby is asked for any more.
    standby.stop(Stop::Fast);
    write_what_no_standby_has(&scene);
    scene.cluster.alter_system("synchronous_standby_names", "");
    assert_billed_exactly_once(&scene);
}

#[test]
fn what_is_lost_in_a_failover_was_not_billed() {
    let mut scene = primary_scene(Store::Postgres);
    let standby = standby_of(&scene.cluster);
    require_a_standby(&scene.cluster);
    standby.stop(Stop::Fast);
    write_what_no_standby_has(&scene);
    // A worker that waits for a standby does not hold up a shutdown.
    scene.cluster.stop(Stop::Fast);
    standby.start_again();
    standby.promote();
    move_scene(&mut scene, &standby);
    assert_eq!(scene.value::<i64>("select count(*) from usage"), 20);
    assert_billed_exactly_once(&scene);
}

//! A copy of the database must not bill: whatever it was made with, it holds its destinations until somebody
//! releases them. Everything here is copied by the tools people copy with.
#![forbid(unsafe_code)]

use std::fs;
use std::process::Stdio;
use std::sync::Arc;

use delivery::cluster::{Cluster, Options, Stop};
use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::scene::{Scene, insert_rows};
use delivery::standby::{copy_of, file_copy_of, move_scene, primary_options, standby_of};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;

const ONE_ROW: &str = "insert into usage (subscription, amount) values ('sub_1', 2.50)";

const STATE: &str = "select state from lago_push.destinations where name = 'lago'";

fn scene_with(options: &Options) -> Scene {
    let scene = Scene::on(Cluster::start(options), Store::Postgres);
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 20));
    assert_billed_exactly_once(&scene);
    scene
}

/// Rows that wait because Lago is not there.
fn leave_rows_waiting(scene: &Scene) {
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 30));
}

fn wait_for_hold(scene: &Scene, why: &str) {
    let state = wait_until("the destination is held", PATIENCE, || {
        Some(scene.value::<String>(STATE)).filter(|state| state.starts_with("held: "))
    });
    let advice = "; if this server is to bill: select lago_push.release('lago')";
    assert_eq!(state, format!("held: {why}{advice}"));
}

/// The scene's server is a copy now: nothing goes until it is released, and then everything does.
fn assert_it_holds_until_released(scene: &Scene, why: &str) {
    let requests = scene.lago.request_count();
    scene.lago.resume().unwrap();
    wait_for_hold(scene, why);
    // Neither a commit nor a restart makes it forget.
    scene.sql(ONE_ROW);
    scene.cluster.stop(Stop::Fast);
    scene.cluster.start_again();
    wait_for_hold(scene, why);
    assert_eq!(scene.lago.request_count(), requests);
    scene.run("select lago_push.release('lago')", &[]);
    assert_billed_exactly_once(scene);
    assert!(scene.lago.request_count() > requests);
    // And it stays released.
    scene.cluster.stop(Stop::Fast);
    scene.cluster.start_again();
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(scene);
}

#[test]
fn a_base_backup_started_as_a_server_of_its_own_holds_until_released() {
    let mut scene = scene_with(&Options::default());
    leave_rows_waiting(&scene);
    let copy = Arc::new(copy_of(&scene.cluster));
    scene.cluster.stop(Stop::Immediate);
    copy.start_again();
    move_scene(&mut scene, &copy);
    let why = "this data directory is a copy of the one that delivered before";
    assert_it_holds_until_released(&scene, why);
}

#[test]
fn a_backup_recovered_from_an_archive_and_promoted_holds_until_released() {
    let mut scene = scene_with(&Options::default().with("archive_mode", "on").with("wal_level", "replica"));
    let archive = scene.cluster.make_folder("archive").display().to_string();
    scene.cluster.alter_system("archive_command", &format!("cp %p {archive}/%f"));
    let copy = Arc::new(copy_of(&scene.cluster));
    leave_rows_waiting(&scene);
    let last: String = scene.value("select pg_walfile_name(pg_switch_wal())");
    wait_until("the log is archived", PATIENCE, || {
        scene.value::<Option<String>>("select last_archived_wal from pg_stat_archiver") >= Some(last.clone())
    });
    scene.cluster.stop(Stop::Immediate);
    copy.recover_from(&archive);
    copy.start_again();
    wait_until("the copy has promoted itself", PATIENCE, || !copy.is_in_recovery());
    move_scene(&mut scene, &copy);
    assert_eq!(scene.value::<i64>("select count(*) from usage"), 50, "what the archive has");
    let why = "this server was promoted and was never seen streaming from a primary, as a failover standby would be";
    assert_it_holds_until_released(&scene, why);
}

#[test]
fn a_copy_of_a_standby_holds_though_the_standby_would_not() {
    let mut scene = scene_with(&primary_options());
    let standby = standby_of(&scene.cluster);
    leave_rows_waiting(&scene);
    standby.wait_until_it_follows(&scene.cluster);
    let testimony = standby.folder().join("data/lago_push.standby");
    wait_until("the standby has noted what it is", PATIENCE, || testimony.exists());
    standby.stop(Stop::Fast);
    let copy = Arc::new(file_copy_of(&standby));
    scene.cluster.stop(Stop::Immediate);
    copy.stand_by_alone();
    copy.start_again();
    copy.promote();
    move_scene(&mut scene, &copy);
    let why = "this server was promoted and was never seen streaming from a primary, as a failover standby would be";
    assert_it_holds_until_released(&scene, why);
}

#[test]
fn a_setting_says_that_a_promoted_server_delivers_or_holds() {
    let mut scene = scene_with(&primary_options());
    leave_rows_waiting(&scene);
    let shipped = Arc::new(copy_of(&scene.cluster));
    let branch = standby_of(&scene.cluster);
    scene.cluster.stop(Stop::Immediate);
    scene.lago.resume().unwrap();

    branch.alter_system("lago_push.on_promotion", "hold");
    branch.promote();
    move_scene(&mut scene, &branch);
    wait_for_hold(&scene, "this server was promoted and lago_push.on_promotion is hold");
    branch.stop(Stop::Immediate);

    // One that is fed by other means than streaming, and is the standby all the same.
    shipped.stand_by_alone();
    shipped.reconfigure("lago_push.on_promotion", "deliver");
    shipped.start_again();
    shipped.promote();
    move_scene(&mut scene, &shipped);
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.value::<String>(STATE), "open");
}

#[test]
fn a_database_made_from_another_as_a_template_holds_and_the_other_goes_on() {
    let scene = scene_with(&Options::default());
    let copy = format!("{}_copy", scene.database);
    scene.disconnect();
    scene.cluster.create_database_with(&copy, &format!("template \"{}\"", scene.database));
    let requests = scene.lago.request_count();
    let mut db = scene.cluster.connect(&copy);
    db.batch_execute(ONE_ROW).unwrap();
    let held = "held: this database is a copy of another one on its server; \
                if this server is to bill: select lago_push.release('lago')";
    wait_until("the copy's destination is held", PATIENCE, || {
        db.query_one(STATE, &[]).unwrap().get::<_, &str>(0) == held
    });
    assert_eq!(scene.lago.request_count(), requests);
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.value::<String>(STATE), "open");
}

/// A dump of the scene's database, taken while rows wait, as SQL.
fn dump(scene: &Scene) -> String {
    let out = scene.cluster.program("pg_dump").args(["-d", &scene.database]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn restore(cluster: &Cluster, database: &str, dump: &str) {
    let file = cluster.folder().join("dump.sql");
    fs::write(&file, dump).unwrap();
    let mut psql = cluster.program("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f"]).arg(&file);
    let out = psql.stdout(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// A scene whose key is in a file, which a dump does not need to carry.
fn scene_with_a_key_file() -> Scene {
    let cluster = Cluster::start(&Options::default());
    let scene = Scene::without_destination(cluster, Store::Postgres);
    let file = scene.cluster.folder().join("key");
    fs::write(&file, scene.api_key()).unwrap();
    scene.run(
        "select lago_push.create_destination('lago', url => $1, api_key_file => $2)",
        &[&scene.lago.url(), &file.display().to_string()],
    );
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 20));
    assert_billed_exactly_once(&scene);
    scene
}

#[test]
fn a_restored_dump_holds_although_its_key_is_there() {
    let mut scene = scene_with_a_key_file();
    leave_rows_waiting(&scene);
    let dump = dump(&scene);
    let elsewhere = Cluster::start(&Options::default());
    elsewhere.create_database(&scene.database);
    restore(&elsewhere, &scene.database, &dump);
    scene.cluster.stop(Stop::Fast);
    // The key's file is in the folder of the old server, which stands still as long as the scene's variable holds it.
    let _old = Arc::clone(&scene.cluster);
    move_scene(&mut scene, &elsewhere);
    scene.sql(ONE_ROW);
    assert_it_holds_until_released(&scene, "this database was restored from a dump");
}

#[test]
fn a_dump_restored_under_the_eyes_of_a_worker_holds_too() {
    let scene = scene_with_a_key_file();
    leave_rows_waiting(&scene);
    let dump = dump(&scene);
    let copy = format!("{}_copy", scene.database);
    scene.cluster.create_database(&copy);
    let mut db = scene.cluster.connect(&copy);
    // What psql is told at the ends stands for the whole.
    let dump: String = dump
        .lines()
        .filter(|line| !line.starts_with('\\') || *line == "\\.")
        .map(|line| format!("{line}\n"))
        .collect();
    let (definitions, data) = dump.split_at(dump.find("\nCOPY ").unwrap());
    restore(&scene.cluster, &copy, definitions);
    db.batch_execute("select lago_push._wake()").unwrap();
    wait_until("a worker looks", PATIENCE, || scene.cluster.worker_pid(&copy));
    scene.run("select lago_push.hold('lago')", &[]);
    scene.lago.resume().unwrap();
    let requests = scene.lago.request_count();
    restore(&scene.cluster, &copy, data);
    // What any change of a definition does, too.
    db.batch_execute(ONE_ROW).unwrap();
    db.batch_execute("select lago_push._wake()").unwrap();
    wait_until("the copy's destination is held", PATIENCE, || {
        db.query_one(STATE, &[])
            .unwrap()
            .get::<_, &str>(0)
            .starts_with("held: this database was restored from a dump;")
    });
    assert_eq!(scene.lago.request_count(), requests);
    scene.run("select lago_push.release('lago')", &[]);
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_key_given_to_a_copy_releases_it() {
    let mut scene = scene_with(&Options::default());
    leave_rows_waiting(&scene);
    let dump = dump(&scene);
    let elsewhere = Cluster::start(&Options::default());
    elsewhere.create_database(&scene.database);
    restore(&elsewhere, &scene.database, &dump);
    scene.cluster.stop(Stop::Fast);
    move_scene(&mut scene, &elsewhere);
    scene.lago.resume().unwrap();
    scene.sql(ONE_ROW);
    wait_for_hold(&scene, "this database was restored from a dump");
    scene.run("select lago_push.set_api_key('lago', $1)", &[&scene.api_key()]);
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_release_before_anybody_has_looked_is_not_overtaken_and_frees_one_destination_alone() {
    let mut scene = scene_with_a_key_file();
    scene
        .run("select lago_push.create_destination('other', url => $1, api_key => 'k')", &[&scene.lago.url()]);
    leave_rows_waiting(&scene);
    let dump = dump(&scene);
    let elsewhere = Cluster::start(&Options::default());
    elsewhere.create_database(&scene.database);
    restore(&elsewhere, &scene.database, &dump);
    scene.cluster.stop(Stop::Fast);
    let _old = Arc::clone(&scene.cluster);
    move_scene(&mut scene, &elsewhere);
    scene.lago.resume().unwrap();
    scene.sql("select lago_push.release('lago')");
    assert_billed_exactly_once(&scene);
    let other = "select state from lago_push.destinations where name = 'other'";
    assert!(scene.value::<String>(other).starts_with("held: this database was restored from a dump;"));
}

#[test]
fn what_is_held_on_a_copy_says_so_even_where_somebody_held_it_before() {
    let mut scene = scene_with(&Options::default());
    leave_rows_waiting(&scene);
    scene.sql(
        "insert into lago_push.destination_hold (destination_id, why)
         select id, 'something of yesterday' from lago_push.destination",
    );
    let copy = Arc::new(copy_of(&scene.cluster));
    scene.cluster.stop(Stop::Immediate);
    copy.start_again();
    move_scene(&mut scene, &copy);
    let why = "this data directory is a copy of the one that delivered before";
    assert_it_holds_until_released(&scene, why);
}

#[test]
fn a_data_directory_that_moves_is_no_copy() {
    let scene = scene_with(&Options::default());
    scene.cluster.stop(Stop::Fast);
    scene.cluster.move_data();
    scene.cluster.start_again();
    scene.sql(ONE_ROW);
    assert_billed_exactly_once(&scene);
    assert_eq!(scene.value::<String>(STATE), "open");
}

#[test]
fn destinations_made_on_a_copy_are_its_own() {
    let mut scene = scene_with(&Options::default());
    let copy = Arc::new(copy_of(&scene.cluster));
    scene.cluster.stop(Stop::Immediate);
    copy.start_again();
    move_scene(&mut scene, &copy);
    wait_for_hold(&scene, "this data directory is a copy of the one that delivered before");
    scene.create_destination("staging");
    scene.usage_table("trial");
    scene.draft("trial", "destination => 'staging'");
    scene.activate("trial");
    scene.sql(&insert_rows("trial", 5));
    assert_billed(
        &scene,
        "select subscription, amount from usage union all select subscription, amount from trial",
    );
}

#[test]
fn a_copy_runs_no_query_until_it_is_released() {
    let mut scene = scene_with(&Options::default());
    scene.sql(
        "select lago_push.create_sync('queried', query => 'select * from usage', key => '{id}', template =>
             '{\"external_subscription_id\": \"{{ row.subscription }}\", \"code\": \"usage\", \"timestamp\": 1760000000}')",
    );
    scene.activate("queried");
    let copy = Arc::new(copy_of(&scene.cluster));
    scene.cluster.stop(Stop::Immediate);
    copy.start_again();
    move_scene(&mut scene, &copy);
    wait_for_hold(&scene, "this data directory is a copy of the one that delivered before");
    scene.sql("select lago_push.run_now('queried')");
    scene.sql("select lago_push._wake()");
    wait_until("the worker has looked", PATIENCE, || {
        scene.value::<bool>("select not bool_or(wanted) from lago_push._workers()")
    });
    scene.cluster.stop(Stop::Fast);
    scene.cluster.start_again();
    let runs = "select count(*) from lago_push.runs";
    assert_eq!(scene.value::<i64>(runs), 0);
    scene.run("select lago_push.release('lago')", &[]);
    wait_until("the query has run", PATIENCE, || {
        scene.value::<i64>("select count(*) from lago_push.runs where state = 'succeeded'") == 1
    });
}

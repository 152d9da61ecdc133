//! Dumps: what `pg_dump` carries into another database or server is all but the key, so nothing is lost and the
//! copy bills nobody; and what the partial ways to dump leave behind.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use delivery::cluster::{Cluster, Options};
use delivery::oracle::assert_billed;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;

/// No number of seconds says this, so no timestamp can be made of it.
const BAD_ROW: &str = "insert into usage (subscription, amount, created_at) values ('sub_1', 42, 'infinity')";

/// Every table a dump carries, row by row.
const CARRIED: [&str; 14] = [
    "destination",
    "sync",
    "account",
    "intervention",
    "message",
    "retry",
    "dead_letter",
    "reply",
    "backfill",
    "destination_health",
    "run",
    "run_request",
    "memory",
    "remembered",
];

/// A database in the middle of its life: syncs in every state, messages that wait, one that failed before, dead
/// letters, replies, a backfill, interventions. Its own destination is held, so nothing moves while it is dumped.
fn lived_in() -> Scene {
    let scene = Scene::new();
    for table in ["usage", "paused", "drafted", "ordered"] {
        scene.usage_table(table);
    }
    scene.draft("usage", "keep_replies => '1 day', filter => 'new.amount >= 0'");
    scene.draft("paused", "operations => '{insert,update,delete}'");
    scene.draft("drafted", "");
    scene.draft("ordered", "order_by => '{{ row.subscription }}', schedule => '1 hour'");
    for sync in ["usage", "paused", "ordered"] {
        scene.activate(sync);
    }
    scene.sql("call lago_push.backfill('paused', filter => 'id < 0')");
    scene.sql("select lago_push.pause('paused')");
    scene.sql(&insert_rows("usage", 5));
    for _ in 0..3 {
        scene.sql(BAD_ROW);
    }
    assert!(scene.value::<bool>("select lago_push.flush('usage')"));
    assert_eq!(scene.value::<i64>("select lago_push.discard('usage', 'id % 3 = 0')"), 1);
    scene.run(
        "select lago_push.create_sync('queried', query => 'select * from usage', key => '{id}', first_run => 'remember', template => $1)",
        &[&delivery::scene::usage_template("usage")],
    );
    scene.activate("queried");
    scene.sql("select lago_push.run_now('queried')");
    wait_until("the query has run", PATIENCE, || {
        scene.value::<bool>(
            "select exists (select from lago_push.runs where state = 'succeeded' and added > 0)",
        )
    });
    scene.sql("select lago_push.hold('lago')");
    for table in ["usage", "paused", "ordered"] {
        scene.sql(&insert_rows(table, 20));
    }
    scene.sql(
        "insert into lago_push.retry (message_id, attempts, next_attempt_at, last_error)
         select min(m.id), 2, now(), 'the test says so' from lago_push.message m;
         insert into lago_push.backfill (sync_id, chunk, by, walked_by, position, rows_done)
         select s.id, 1000, 'somebody', '{id}', '{17}', 17 from lago_push.sync s where s.name = 'drafted';
         insert into lago_push.run_request (sync_id, removals)
         select s.id, 'limited' from lago_push.sync s where s.name = 'drafted'",
    );
    scene
}

/// What pg_dump writes, given these options.
fn dump(scene: &Scene, options: &[&str]) -> String {
    let out = scene.cluster.program("pg_dump").args(options).arg(&scene.database).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A database made of a dump, dropped in the end.
struct Copy {
    cluster: Arc<Cluster>,
    database: String,
}

impl Copy {
    fn empty(cluster: &Arc<Cluster>, scene: &Scene, what: &str) -> Self {
        let database = format!("{}_{what}", &scene.database[..scene.database.len().min(50)]);
        cluster.create_database(&database);
        Self { cluster: Arc::clone(cluster), database }
    }

    fn of(cluster: &Arc<Cluster>, scene: &Scene, dump: &str) -> Self {
        let copy = Self::empty(cluster, scene, "copy");
        copy.cluster.psql_script(&copy.database, dump);
        copy
    }

    fn psql(&self, sql: &str) -> String {
        self.cluster.psql(&self.database, sql).trim().to_owned()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Ok(mut db) = self.cluster.try_connect("postgres") {
            let _ = db.batch_execute(&format!("drop database if exists \"{}\" with (force)", self.database));
        }
    }
}

fn contents(cluster: &Cluster, database: &str) -> Vec<(&'static str, String)> {
    let rows = |table| format!("select count(*), jsonb_agg(t order by t::text) from lago_push.{table} t");
    CARRIED.iter().map(|table| (*table, cluster.psql(database, &rows(table)))).collect()
}

/// Whatever the original has is in the copy; the key is not, and the copy sends nothing that Lago takes. Given the
/// key, it goes on where the original was.
fn assert_complete_and_mute(scene: &Scene, copy: &Copy) {
    let stored = scene.lago.stored_count();
    let original = contents(&scene.cluster, &scene.database);
    for ((table, was), (_, is)) in original.iter().zip(contents(&copy.cluster, &copy.database)) {
        assert!(!was.starts_with("0|"), "there is nothing in {table}: nothing is proven");
        assert_eq!(&is, was, "{table}");
    }
    assert_eq!(copy.psql("select count(*) from lago_push.api_key"), "0");
    assert_eq!(copy.psql("select bool_and(balanced) from lago_push.ledger"), "t");
    // The next number is above all that were given.
    let highest = "select greatest((select max(id) from lago_push.message), (select max(id) from lago_push.dead_letter))";
    let highest: i64 = copy.psql(highest).parse().unwrap();
    copy.psql("insert into usage (subscription, amount) values ('sub_1', 1)");
    let newest: i64 = copy.psql("select max(id) from lago_push.message").parse().unwrap();
    assert!(newest > highest, "{newest} was given before: {highest}");
    assert_eq!(copy.psql("select count(*) from lago_push.message"), "61", "the trigger captures");
    assert_eq!(
        copy.psql("select lago_push.create_sync('another', source => 'drafted', template => '{\"transaction_id\": \"{{ row.id }}\", \"code\": \"usage\", \"external_subscription_id\": \"{{ row.subscription }}\"}')"),
        ""
    );
    // It wants to deliver, and may not.
    copy.psql("select lago_push.release('lago')");
    wait_until("the copy's destination is held", PATIENCE, || {
        copy.psql("select state from lago_push.destinations where name = 'lago'").starts_with("held: ")
    });
    assert_eq!(scene.lago.stored_count(), stored, "the copy bills");
    let pending = copy.psql("select pending from lago_push.status where sync = 'usage'");
    assert_eq!(pending, "21", "and keeps what it has");
}

#[test]
fn a_plain_dump_restored_beside_the_original_is_complete_and_mute() {
    let scene = lived_in();
    let copy = Copy::of(&scene.cluster, &scene, &dump(&scene, &[]));
    assert_complete_and_mute(&scene, &copy);
}

#[test]
fn a_plain_dump_restored_on_another_server_is_complete_and_mute() {
    let scene = lived_in();
    let elsewhere = Cluster::start(&Options::default());
    let copy = Copy::of(&elsewhere, &scene, &dump(&scene, &["--no-owner"]));
    assert_complete_and_mute(&scene, &copy);
}

/// Where pg_dump and pg_restore, which run as this process, may write; removed with the cluster.
fn archive(scene: &Scene) -> PathBuf {
    scene.cluster.folder().join(format!("{}.archive", scene.database))
}

fn restore(copy: &Copy, archive: &PathBuf, options: &[&str]) -> Output {
    let mut restore = copy.cluster.program("pg_restore");
    restore.args(["--exit-on-error", "--dbname", &copy.database]).args(options).arg(archive).output().unwrap()
}

#[test]
fn an_archive_is_restored_in_sections_by_several_processes_where_order_does_not_matter() {
    let scene = lived_in();
    let archive = archive(&scene);
    dump(&scene, &["--format=custom", "--file", archive.to_str().unwrap()]);
    let copy = Copy::empty(&scene.cluster, &scene, "copy");
    // pg_restore knows nothing of foreign keys between an extension's tables: several processes at once would
    // restore syncs before their destinations.
    for options in [&["--section=pre-data"][..], &["--section=data"], &["--section=post-data", "--jobs=3"]] {
        let out = restore(&copy, &archive, options);
        assert!(out.status.success(), "{options:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    assert_complete_and_mute(&scene, &copy);
}

#[test]
fn what_waits_in_a_restored_database_is_delivered_under_the_same_ids_once_it_may() {
    let scene = lived_in();
    let copy = Copy::of(&scene.cluster, &scene, &dump(&scene, &[]));
    // The original is no more: the copy is to take its place.
    scene.sql("drop extension lago_push cascade");
    take_over(&scene, &copy);
    copy.psql("select lago_push.resume('paused')");
    wait_until("all that waited is delivered", PATIENCE, || {
        copy.psql("select count(*) from lago_push.outbox where sync in ('usage', 'paused')") == "0"
    });
    assert_eq!(copy.psql("select bool_and(balanced) from lago_push.ledger"), "t");
    let mut wanted: Vec<String> = (1..=5).chain(9..=28).map(|id| format!("usage-{id}")).collect();
    wanted.extend((1..=20).map(|id| format!("paused-{id}")));
    wanted.sort();
    let arrived: Vec<String> = scene.arrived().into_iter().filter(|id| !id.starts_with("ordered")).collect();
    assert_eq!(arrived, wanted);
}

/// What an operator does so that a restored database delivers.
fn take_over(scene: &Scene, copy: &Copy) {
    copy.psql(&format!("select lago_push.set_api_key('lago', '{}')", scene.api_key()));
    // Somebody holds it in the original. That it is a copy needs no release any more: it has a key of its own.
    copy.psql("select lago_push.release('lago')");
}

#[test]
fn a_schema_without_data_captures_nothing_it_could_send() {
    let scene = lived_in();
    let copy = Copy::of(&scene.cluster, &scene, &dump(&scene, &["--schema-only"]));
    assert_eq!(copy.psql("select count(*) from lago_push.destination"), "0");
    // The triggers are part of the tables. They find no sync and say so; the write goes through.
    copy.psql("insert into usage (subscription, amount) values ('sub_1', 1)");
    let letter = copy.psql("select sync || ': ' || reason from lago_push.dead_letters");
    assert!(letter.starts_with("usage: no sync is named \"usage\""), "{letter}");
    // As the README says: this is an ordinary table again.
    copy.psql("drop extension lago_push cascade");
    copy.psql("insert into usage (subscription, amount) values ('sub_1', 1)");
}

#[test]
fn one_table_dumped_alone_comes_without_its_trigger_where_lago_push_is_not() {
    let scene = lived_in();
    let table = dump(&scene, &["--table=usage"]);
    assert!(!table.contains("create extension") && !table.contains("CREATE EXTENSION"), "{table}");
    let copy = Copy::empty(&scene.cluster, &scene, "table");
    // psql goes on after the one error there is.
    let archive = archive(&scene);
    dump(&scene, &["--table=usage", "--format=custom", "--file", archive.to_str().unwrap()]);
    let mut restore = copy.cluster.program("pg_restore");
    let out = restore.args(["--dbname", &copy.database]).arg(&archive).output().unwrap();
    let complaints = String::from_utf8_lossy(&out.stderr);
    assert!(complaints.contains("schema \"lago_push\" does not exist"), "{complaints}");
    assert!(complaints.contains("errors ignored on restore: 1"), "{complaints}");
    assert_eq!(copy.psql("select count(*) from usage"), "28");
    copy.psql("insert into usage (subscription, amount) values ('sub_1', 1)");
}

#[test]
fn one_table_dumped_alone_is_captured_where_a_sync_of_that_name_is() {
    let scene = lived_in();
    let table = dump(&scene, &["--table=usage"]);
    let elsewhere = Scene::new();
    elsewhere.cluster.psql_script(&elsewhere.database, &table);
    assert_eq!(
        elsewhere.value::<i64>("select count(*) from lago_push.outbox"),
        0,
        "restored rows are not new"
    );
    elsewhere.sql("insert into usage (subscription, amount) values ('sub_1', 1)");
    let letters = "select count(*) from lago_push.dead_letters where reason like 'no sync is named%'";
    assert_eq!(elsewhere.value::<i64>(letters), 1);
    elsewhere.draft("usage", "");
    elsewhere.activate("usage");
    elsewhere.sql("insert into usage (subscription, amount) values ('sub_1', 1)");
    elsewhere.wait_for_exactly(&["usage-30"]);
}

#[test]
fn data_alone_is_restored_with_triggers_off_or_is_captured_again() {
    let scene = lived_in();
    let schema = dump(&scene, &["--schema-only"]);
    let copy = Copy::of(&scene.cluster, &scene, &schema);
    copy.cluster.psql_script(&copy.database, &dump(&scene, &["--data-only", "--disable-triggers"]));
    assert_complete_and_mute(&scene, &copy);
    drop(copy);

    let copy = Copy::of(&scene.cluster, &scene, &schema);
    copy.cluster.psql_script(&copy.database, &dump(&scene, &["--data-only", "--table=usage"]));
    let captured = copy.psql(
        "select (select count(*) from lago_push.message) + (select count(*) from lago_push.dead_letter)",
    );
    assert_eq!(captured, "28", "every restored row is a new one to the trigger");
}

#[test]
fn a_dump_of_the_old_version_is_restored_into_this_one() {
    let scene = Scene::without_extension(Cluster::shared(), Store::Postgres, "");
    scene.sql("create extension lago_push version '0.1.0'");
    scene.create_destination("lago");
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 5));
    assert!(scene.value::<bool>("select lago_push.flush()"));
    scene.sql("select lago_push.hold('lago')");
    scene.sql(&insert_rows("usage", 20));
    scene.sql(BAD_ROW);
    let copy = Copy::of(&scene.cluster, &scene, &dump(&scene, &[]));
    let version = "select extversion from pg_extension where extname = 'lago_push'";
    assert_eq!(
        copy.psql(version),
        copy.psql("select default_version from pg_available_extensions where name = 'lago_push'")
    );
    assert_ne!(copy.psql(version), "0.1.0");
    assert_eq!(copy.psql("select pending, dead, delivered from lago_push.status"), "20|1|5");
    assert_eq!(copy.psql("select bool_and(balanced) from lago_push.ledger"), "t");
    scene.sql("drop extension lago_push cascade");
    take_over(&scene, &copy);
    wait_until("all that waited is delivered", PATIENCE, || {
        copy.psql("select count(*) from lago_push.outbox") == "0"
    });
    scene.sql("create extension lago_push");
    assert_billed(&scene, "select subscription, amount from usage where created_at <> 'infinity'");
}

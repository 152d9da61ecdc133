//! Queries on what has no triggers: a view, a materialized view that somebody else refreshes, a table of another server,
//! a spreadsheet's file that is replaced, a partitioned table. Of each, what is added, changed and removed is billed
//! once, with its amounts.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use delivery::cluster::{Cluster, Options, Stop};
use delivery::runs::{self, last_run};
use delivery::scene::Scene;
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;

const TEMPLATE: &str = r#"{"external_subscription_id": "{{ row.subscription }}", "code": "usage", "timestamp": 1760000000,
    "properties": {"amount": "{{ row.amount }}", "was": "{{ old.amount }}"}}"#;

/// A sync that runs a query when it is asked to, and sends whatever becomes of its rows. `more` is further arguments.
fn query(scene: &Scene, query: &str, key: &str, more: &str) {
    let sql = format!(
        "select lago_push.create_sync('calls', query => $1, key => '{key}', template => $2,
            operations => '{{insert,update,delete}}'{more})"
    );
    scene.run(&sql, &[&query, &TEMPLATE]);
    scene.activate("calls");
}

/// Runs the query. Gives what the run came to.
#[track_caller]
fn run(scene: &Scene) -> String {
    runs::run(scene, "calls")
}

/// A run that fails leaves nothing: neither a message, nor anything that the next run would miss.
#[track_caller]
fn fails(scene: &Scene, why: &str) {
    let (billed_before, end) = (billed(scene), run(scene));
    assert!(end.starts_with("failed") && end.contains(why), "{end}");
    assert_eq!(billed(scene), billed_before);
    let told: String = scene.value("select last_error from lago_push.status where sync = 'calls'");
    assert!(told.contains(why), "{told}");
}

/// Every event Lago has: id, subscription and amounts. None is billed twice, and none is never billed.
#[track_caller]
fn billed(scene: &Scene) -> Vec<String> {
    scene.wait_until_outbox_is_empty(PATIENCE);
    let mut events: Vec<String> = scene
        .lago
        .stored()
        .iter()
        .map(|event| {
            let property =
                |name: &str| event.properties.get(name).and_then(|value| value.as_str()).unwrap_or("none");
            let subscription = event.external_subscription_id.as_deref().unwrap_or("none");
            let (amount, was) = (property("amount"), property("was"));
            format!("{} {subscription} {amount} {was}", event.transaction_id).trim_end().to_owned()
        })
        .collect();
    events.sort();
    let bill = scene.lago.bill();
    assert!(bill.never_billed.is_empty() && bill.billed_twice.is_empty(), "{bill:?}");
    assert_eq!(scene.lago.sent_differently(), Vec::<String>::new());
    assert_eq!(scene.status("calls").dead, 0);
    events
}

/// Runs the query, which must come to `counts`, and bill these events and no others than `all` had before.
#[track_caller]
fn bills(scene: &Scene, all: &mut Vec<String>, counts: &str, events: &[&str]) {
    assert_eq!(run(scene), format!("succeeded {counts}"));
    all.extend(events.iter().map(ToString::to_string));
    all.sort();
    assert_eq!(billed(scene), *all);
}

#[test]
fn a_view_that_sums_over_other_tables() {
    let scene = Scene::new();
    scene.sql(
        "create table customer (id bigint primary key, subscription text);
         create table call (customer bigint, day date, seconds numeric);
         create view per_day as
            select c.subscription, u.day, sum(u.seconds) as amount
              from call u join customer c on c.id = u.customer
             group by 1, 2;
         insert into customer values (1, 'sub_1'), (2, 'sub_2');
         insert into call values (1, '2026-01-01', 1.5), (1, '2026-01-01', 2), (1, '2026-01-02', 7), (2, '2026-01-01', 4)",
    );
    query(&scene, "select * from per_day", "{subscription,day}", "");
    let mut all = Vec::new();
    bills(
        &scene,
        &mut all,
        "3 3 0 0 0",
        &[
            "calls:insert:sub_1:2026-01-01:1 sub_1 3.5",
            "calls:insert:sub_1:2026-01-02:1 sub_1 7",
            "calls:insert:sub_2:2026-01-01:1 sub_2 4",
        ],
    );
    scene.sql(
        "insert into call values (1, '2026-01-01', 0.25), (2, '2026-01-02', 9);
         delete from call where customer = 2 and day = '2026-01-01'",
    );
    bills(
        &scene,
        &mut all,
        "3 1 1 1 1",
        &[
            "calls:update:sub_1:2026-01-01:2 sub_1 3.75 3.5",
            "calls:insert:sub_2:2026-01-02:2 sub_2 9",
            "calls:delete:sub_2:2026-01-01:2 sub_2 4 4",
        ],
    );
    // A row of another table than the one whose rows are summed.
    scene.sql("update customer set subscription = 'sub_3' where id = 2");
    bills(
        &scene,
        &mut all,
        "3 1 0 1 2",
        &["calls:insert:sub_3:2026-01-02:3 sub_3 9", "calls:delete:sub_2:2026-01-02:3 sub_2 9 9"],
    );
    bills(&scene, &mut all, "3 0 0 0 3", &[]);
}

#[test]
fn a_materialized_view_is_read_as_it_was_refreshed_last() {
    let scene = Scene::new();
    scene.sql(
        "create table call (id bigint, subscription text, amount numeric);
         insert into call values (1, 'sub_1', 1), (2, 'sub_2', 2), (3, 'sub_3', 3);
         create materialized view calls as select * from call;
         create unique index on calls (id)",
    );
    query(&scene, "select * from calls", "{id}", "");
    let mut all = Vec::new();
    bills(
        &scene,
        &mut all,
        "3 3 0 0 0",
        &["calls:insert:1:1 sub_1 1", "calls:insert:2:1 sub_2 2", "calls:insert:3:1 sub_3 3"],
    );
    scene.sql(
        "update call set amount = 2.5 where id = 2; delete from call where id = 3;
         insert into call values (4, 'sub_4', 4)",
    );
    bills(&scene, &mut all, "3 0 0 0 3", &[]);
    // Under way elsewhere, and not committed.
    let mut elsewhere = scene.db();
    elsewhere
        .batch_execute("begin; refresh materialized view concurrently calls")
        .expect("it can be refreshed");
    bills(&scene, &mut all, "3 0 0 0 3", &[]);
    elsewhere.batch_execute("commit").expect("it can be committed");
    bills(
        &scene,
        &mut all,
        "3 1 1 1 1",
        &["calls:update:2:4 sub_2 2.5 2", "calls:delete:3:4 sub_3 3 3", "calls:insert:4:4 sub_4 4"],
    );

    // The other kind of refresh lets nobody read: a run that meets it waits, and reads what comes of it.
    scene.sql("update call set amount = 5 where id = 4; delete from call where id = 1");
    elsewhere.batch_execute("begin; refresh materialized view calls").expect("it can be refreshed");
    let over: i64 = scene.value(runs::OVER);
    scene.sql("select lago_push.run_now('calls')");
    wait_until("the run waits for the refresh", PATIENCE, || {
        scene.value::<bool>(
            "select exists (select from pg_stat_activity where datname = current_database()
                               and backend_type = 'lago_push run' and wait_event_type = 'Lock')",
        )
    });
    elsewhere.batch_execute("commit").expect("it can be committed");
    wait_until("the run is over", PATIENCE, || scene.value::<i64>(runs::OVER) > over);
    assert_eq!(last_run(&scene), "succeeded 2 0 1 1 1");
    all.extend(["calls:update:4:5 sub_4 5 4", "calls:delete:1:5 sub_1 1 1"].map(str::to_owned));
    all.sort();
    assert_eq!(billed(&scene), all);
}

/// A server of its own without lago_push, which logs what it is asked for, and a table on it that is one of the scene's
/// too.
fn foreign(scene: &Scene) -> Scene {
    let options = Options { preload: false, ..Options::default() };
    let there = Cluster::start(&options.with("log_statement", "all"));
    let there = Scene::without_extension(there, Store::Postgres, "");
    there.sql(
        "create table calls (id bigint primary key, subscription text, amount numeric);
         insert into calls values (1, 'sub_1', 1), (2, 'sub_2', 2), (3, 'sub_3', 3), (10, 'sub_4', 10)",
    );
    let (host, database) = (there.cluster.folder().display(), &there.database);
    scene.sql(&format!(
        "create extension postgres_fdw;
         create server there foreign data wrapper postgres_fdw options (host '{host}', dbname '{database}');
         create user mapping for current_user server there options (user 'postgres');
         create foreign table calls (id bigint, subscription text, amount numeric) server there"
    ));
    there
}

#[test]
fn a_table_of_another_server() {
    let scene = Scene::new();
    let there = foreign(&scene);
    query(&scene, "select * from calls", "{id}", "");
    let mut all = Vec::new();
    bills(
        &scene,
        &mut all,
        "4 4 0 0 0",
        &[
            "calls:insert:1:1 sub_1 1",
            "calls:insert:2:1 sub_2 2",
            "calls:insert:3:1 sub_3 3",
            "calls:insert:10:1 sub_4 10",
        ],
    );
    there.sql(
        "update calls set amount = 2.5 where id = 2; delete from calls where id = 1;
         insert into calls values (11, 'sub_5', 11)",
    );
    bills(
        &scene,
        &mut all,
        "4 1 1 1 2",
        &["calls:update:2:2 sub_2 2.5 2", "calls:delete:1:2 sub_1 1 1", "calls:insert:11:2 sub_5 11"],
    );
    there.disconnect();
    there.cluster.stop(Stop::Immediate);
    fails(&scene, "could not connect to server \"there\"");
    there.cluster.start_again();
    there.sql("delete from calls where id = 10; insert into calls values (12, 'sub_6', 12)");
    bills(&scene, &mut all, "4 1 0 1 3", &["calls:delete:10:3 sub_4 10 10", "calls:insert:12:3 sub_6 12"]);
    bills(&scene, &mut all, "4 0 0 0 4", &[]);
}

#[test]
fn a_server_that_dies_while_it_is_read() {
    let scene = Scene::new();
    let there = foreign(&scene);
    query(&scene, "select * from calls", "{id}", "");
    let mut all = Vec::new();
    run(&scene);
    all.extend(billed(&scene));
    there.sql("update calls set amount = amount + 1");
    let mut writer = there.db();
    writer.batch_execute("begin; lock table calls").expect("it can be locked");
    let over: i64 = scene.value(runs::OVER);
    scene.sql("select lago_push.run_now('calls')");
    wait_until("the run is reading there", PATIENCE, || {
        there.value::<bool>("select exists (select from pg_stat_activity where wait_event_type = 'Lock')")
    });
    there.disconnect();
    there.cluster.stop(Stop::Immediate);
    wait_until("the run is over", PATIENCE, || scene.value::<i64>(runs::OVER) > over);
    let end = last_run(&scene);
    assert!(end.starts_with("failed"), "{end}");
    assert_eq!(billed(&scene), all);
    there.cluster.start_again();
    bills(
        &scene,
        &mut all,
        "4 0 4 0 0",
        &[
            "calls:update:1:2 sub_1 2 1",
            "calls:update:2:2 sub_2 3 2",
            "calls:update:3:2 sub_3 4 3",
            "calls:update:10:2 sub_4 11 10",
        ],
    );
}

#[test]
fn a_cursor_asks_another_server_for_no_more_than_it_needs() {
    let scene = Scene::new();
    let there = foreign(&scene);
    let asked = |condition: &str| {
        let log = there.cluster.log();
        let last =
            log.lines().rfind(|line| line.contains("FROM public.calls")).unwrap_or_default().to_owned();
        assert!(last.contains(condition), "{last}");
    };
    for (cursor, overlap, cut) in [
        ("id", "1", "id >= "),
        ("day", "1 day", "day >= '2025-01-09'"),
        ("at", "1 day", "at >= '2025-01-09 12:00:00'"),
        ("zoned", "1 day", "zoned >= '2025-01-09 12:00:00+00'"),
    ] {
        there.sql(
            "drop table calls;
             create table calls (id bigint, day date, at timestamp, zoned timestamptz, subscription text, amount numeric);
             insert into calls select n, date '2025-01-01' + n - 1, timestamp '2025-01-01 12:00' + (n - 1) * interval '1 day',
                timestamptz '2025-01-01 12:00Z' + (n - 1) * interval '1 day', 'sub_1', n from generate_series(1, 10) n",
        );
        scene.sql(
            "drop foreign table if exists calls;
             create foreign table calls (id bigint, day date, at timestamp, zoned timestamptz, subscription text, amount numeric)
                server there;
             select lago_push.drop_sync(sync, discard => true) from lago_push.status",
        );
        scene.run(
            &format!(
                "select lago_push.create_sync('calls', query => 'select * from calls', key => '{{id}}', template => $1,
                    operations => '{{insert,update}}', cursor => '{cursor}', overlap => '{overlap}')"
            ),
            &[&TEMPLATE],
        );
        scene.activate("calls");
        assert_eq!(run(&scene), "succeeded 10 10 0 0 0", "{cursor}");
        there.sql("insert into calls values (11, '2025-01-11', '2025-01-11 12:00', '2025-01-11 12:00Z', 'sub_1', 11)");
        assert_eq!(run(&scene), "succeeded 3 1 0 0 2", "{cursor}");
        asked(cut);
    }
}

/// A file as a spreadsheet program saves it.
struct Spreadsheet {
    path: PathBuf,
}

impl Spreadsheet {
    /// Beside the server's data, which can read it there.
    fn new(cluster: &Arc<Cluster>, name: &str) -> Spreadsheet {
        Spreadsheet { path: cluster.folder().join(name) }
    }

    fn text(rows: &[&str]) -> String {
        let mut text = String::from("id,subscription,amount\r\n");
        rows.iter().for_each(|row| text.extend([row, "\r\n"]));
        text
    }

    /// Replaced at once, as those should who can.
    fn replace(&self, rows: &[&str]) {
        let beside = self.path.with_extension("new");
        fs::write(&beside, Self::text(rows)).expect("the file can be written");
        fs::rename(beside, &self.path).expect("the file can be renamed");
    }

    /// Written in place, and only so far.
    fn write_up_to(&self, rows: &[&str], end: &str) {
        let text = Self::text(rows);
        let length = text.find(end).expect("it is in there") + end.len();
        fs::write(&self.path, &text[..length]).expect("the file can be written");
    }
}

#[test]
fn a_spreadsheet_that_is_saved_again_and_once_by_half() {
    let scene = Scene::new();
    let file = Spreadsheet::new(&scene.cluster, "calls.csv");
    file.replace(&[
        r#"1,sub_1,"1.50""#,
        r#"2,sub_2,"2.50""#,
        r#"3,sub_3,"3.50""#,
        r#"4,sub_4,"4.50""#,
        r#"5,"sub_5","5.50""#,
    ]);
    scene.sql(&format!(
        "create extension file_fdw;
         create server files foreign data wrapper file_fdw;
         create foreign table calls (id bigint, subscription text, amount numeric) server files
            options (filename '{}', format 'csv', header 'true')",
        file.path.display()
    ));
    query(&scene, "select * from calls", "{id}", "");
    let mut all = Vec::new();
    bills(
        &scene,
        &mut all,
        "5 5 0 0 0",
        &[
            "calls:insert:1:1 sub_1 1.50",
            "calls:insert:2:1 sub_2 2.50",
            "calls:insert:3:1 sub_3 3.50",
            "calls:insert:4:1 sub_4 4.50",
            "calls:insert:5:1 sub_5 5.50",
        ],
    );
    // Another order, other quotes: what the values are counts.
    let second = [
        r#"6,sub_6,"6.50""#,
        r#"5,sub_5,"5.50""#,
        r#"4,"sub_4","4.50""#,
        r#"2,sub_2,"20.50""#,
        r#"1,sub_1,1.50"#,
    ];
    file.replace(&second);
    bills(
        &scene,
        &mut all,
        "5 1 1 1 3",
        &[
            "calls:insert:6:2 sub_6 6.50",
            "calls:update:2:2 sub_2 20.50 2.50",
            "calls:delete:3:2 sub_3 3.50 3.50",
        ],
    );

    let third = [
        r#"1,sub_1,"10.50""#,
        r#"4,sub_4,"4.50""#,
        r#"5,sub_5,"5.50""#,
        r#"6,sub_6,"6.75""#,
        r#"7,sub_7,"7.50""#,
    ];
    // Saving was cut off: within a row, within a value, and between two rows.
    file.write_up_to(&third, "5,sub_5");
    fails(&scene, "missing data for column \"amount\": SQLSTATE 22P04");
    file.write_up_to(&third, "5,sub_5,\"5");
    fails(&scene, "unterminated CSV quoted field: SQLSTATE 22P04");
    file.write_up_to(&third, "\"10.50\"\r\n");
    fails(&scene, "at least 4 of 5 rows would be gone, more than the share of 0.5 that max_removed allows");
    file.write_up_to(&third, "id,subscription,amount\r\n");
    fails(&scene, "at least 5 of 5 rows would be gone");
    fs::remove_file(&file.path).expect("it is there");
    fails(&scene, "could not open file");

    file.replace(&third);
    bills(
        &scene,
        &mut all,
        "5 1 2 1 2",
        &[
            "calls:update:1:3 sub_1 10.50 1.50",
            "calls:delete:2:3 sub_2 20.50 20.50",
            "calls:update:6:3 sub_6 6.75 6.50",
            "calls:insert:7:3 sub_7 7.50",
        ],
    );
    bills(&scene, &mut all, "5 0 0 0 5", &[]);
}

#[test]
fn a_partitioned_table() {
    let scene = Scene::new();
    scene.sql(
        "create table calls (id bigint, day date, subscription text, amount numeric) partition by range (day);
         create table calls_january partition of calls for values from ('2026-01-01') to ('2026-02-01');
         create table calls_february partition of calls for values from ('2026-02-01') to ('2026-03-01');
         insert into calls values (1, '2026-01-05', 'sub_1', 1), (2, '2026-01-06', 'sub_2', 2),
            (3, '2026-02-05', 'sub_3', 3), (4, '2026-02-06', 'sub_4', 4), (5, '2026-02-07', 'sub_5', 5)",
    );
    query(&scene, "select * from calls", "{id}", "");
    let mut all = Vec::new();
    bills(
        &scene,
        &mut all,
        "5 5 0 0 0",
        &[
            "calls:insert:1:1 sub_1 1",
            "calls:insert:2:1 sub_2 2",
            "calls:insert:3:1 sub_3 3",
            "calls:insert:4:1 sub_4 4",
            "calls:insert:5:1 sub_5 5",
        ],
    );
    // A row that moves to another partition has changed, and not gone.
    scene.sql(
        "update calls set day = '2026-02-01', amount = 1.5 where id = 1;
         delete from calls where id = 4;
         create table calls_march partition of calls for values from ('2026-03-01') to ('2026-04-01');
         insert into calls values (6, '2026-03-01', 'sub_6', 6)",
    );
    bills(
        &scene,
        &mut all,
        "5 1 1 1 3",
        &["calls:update:1:2 sub_1 1.5 1", "calls:delete:4:2 sub_4 4 4", "calls:insert:6:2 sub_6 6"],
    );
    // What is detached is gone, what is attached is new.
    scene.sql(
        "alter table calls detach partition calls_january;
         create table calls_april (like calls);
         insert into calls_april values (7, '2026-04-01', 'sub_7', 7);
         alter table calls attach partition calls_april for values from ('2026-04-01') to ('2026-05-01')",
    );
    bills(&scene, &mut all, "5 1 0 1 4", &["calls:delete:2:3 sub_2 2 2", "calls:insert:7:3 sub_7 7"]);
    bills(&scene, &mut all, "5 0 0 0 5", &[]);
}

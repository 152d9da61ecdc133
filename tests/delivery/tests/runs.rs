//! Queries in the place of a table: what a run finds new, changed or gone is billed, once, whatever ends in between.
#![forbid(unsafe_code)]

use delivery::cluster::{Cluster, Options, Stop};
use delivery::runs::{self, last_run};
use delivery::scene::Scene;
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::Store;

const TEMPLATE: &str = r#"{"external_subscription_id": "{{ row.subscription }}", "code": "usage", "timestamp": 1760000000,
    "properties": {"amount": "{{ row.amount }}", "op": "{{ op }}"}}"#;

/// A source of its own, and a sync that runs a query on it when it is asked to.
fn source(scene: &Scene, more: &str) {
    scene.sql("create table source (id bigint, subscription text, amount numeric)");
    scene.run(
        &format!("select lago_push.create_sync('calls', query => 'select * from source', key => '{{id}}', template => $1{more})"),
        &[&TEMPLATE],
    );
    scene.activate("calls");
}

const ALL: &str = ", operations => '{insert,update,delete}', max_removed => 1";

/// Runs the query. Gives what the run came to.
#[track_caller]
fn run(scene: &Scene) -> String {
    runs::run(scene, "calls")
}

#[test]
fn what_is_new_changed_or_gone_is_billed_and_what_is_as_it_was_is_not() {
    let scene = Scene::new();
    source(&scene, ALL);
    scene.sql("insert into source select n, 'sub', n from generate_series(1, 5) n");
    assert_eq!(run(&scene), "succeeded 5 5 0 0 0");
    scene.sql("update source set amount = 20 where id = 2; delete from source where id = 3; insert into source values (6, 'sub', 6)");
    assert_eq!(run(&scene), "succeeded 5 1 1 1 3");
    assert_eq!(run(&scene), "succeeded 5 0 0 0 5");
    scene.wait_until_outbox_is_empty(PATIENCE);
    let mut arrived = scene.arrived();
    arrived.sort();
    assert_eq!(
        arrived,
        [
            "calls:delete:3:2",
            "calls:insert:1:1",
            "calls:insert:2:1",
            "calls:insert:3:1",
            "calls:insert:4:1",
            "calls:insert:5:1",
            "calls:insert:6:2",
            "calls:update:2:2",
        ]
    );
}

#[test]
fn an_old_value_is_what_the_run_before_read() {
    let scene = Scene::new();
    source(&scene, ALL);
    let with_old = TEMPLATE.replace("{{ op }}\"", "{{ op }}\", \"was\": \"{{ old.amount }}\"");
    scene.run("select lago_push.alter_sync('calls', template => $1)", &[&with_old]);
    scene.sql("insert into source values (1, 'sub', 1.50)");
    run(&scene);
    scene.sql("update source set amount = 2.25");
    run(&scene);
    scene.sql("delete from source");
    run(&scene);
    scene.wait_until_outbox_is_empty(PATIENCE);
    let mut told: Vec<String> = scene
        .lago
        .stored()
        .iter()
        .map(|event| serde_json::to_string(&event.properties).expect("JSON"))
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            r#"{"amount":"1.50","op":"insert","was":""}"#,
            r#"{"amount":"2.25","op":"delete","was":"2.25"}"#,
            r#"{"amount":"2.25","op":"update","was":"1.50"}"#,
        ]
    );
}

#[test]
fn a_row_that_comes_back_is_a_new_event() {
    let scene = Scene::new();
    source(&scene, ALL);
    scene.sql("insert into source values (1, 'sub', 1)");
    run(&scene);
    scene.sql("delete from source");
    run(&scene);
    scene.sql("insert into source values (1, 'sub', 1)");
    run(&scene);
    scene.wait_until_outbox_is_empty(PATIENCE);
    let mut arrived = scene.arrived();
    arrived.sort();
    assert_eq!(arrived, ["calls:delete:1:2", "calls:insert:1:1", "calls:insert:1:3"]);
}

/// A run that fails leaves everything as it was: the next one finds what it would have found.
#[track_caller]
fn fails(scene: &Scene, why: &str) {
    let remembered =
        "select md5(coalesce(string_agg(r::text, ',' order by key), '')) from lago_push.remembered r";
    let captured = "select captured from lago_push.ledger";
    let (before, captured_before) = (scene.value::<String>(remembered), scene.value::<i64>(captured));
    let end = run(scene);
    assert!(end.starts_with("failed") && end.contains(why), "{end}");
    assert_eq!(scene.value::<String>(remembered), before);
    assert_eq!(scene.value::<i64>(captured), captured_before);
    let last_error: String = scene.value("select last_error from lago_push.status");
    assert!(last_error.contains(why), "{last_error}");
}

#[test]
fn a_run_that_cannot_be_right_fails_and_says_why() {
    let scene = Scene::new();
    source(&scene, ", operations => '{insert,update,delete}'");
    scene.sql("insert into source select n, 'sub', n from generate_series(1, 10) n");
    run(&scene);
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.sql("insert into source values (null, 'sub', 1)");
    fails(&scene, "no value in its key (\"id\")");
    scene.sql("update source set id = 5 where id is null");
    fails(&scene, "the same key (\"id\")");
    scene.sql("delete from source where id > 4");
    fails(&scene, "of 10 rows would be gone");
    scene.sql("alter table source alter column amount type text");
    fails(&scene, "column \"amount\" of the query is of type text and was of type numeric");
    scene.sql("alter table source rename column amount to price");
    fails(&scene, "has a column \"price\" that it had not");
    scene.sql("drop table source");
    fails(&scene, "relation \"source\" does not exist");
    let log = scene.cluster.log();
    assert!(log.contains("lago_push: a run of sync \"calls\" failed: two rows of the query"), "{log}");
}

/// A sync on `source` whose runs wait at a gate as long as somebody holds it.
fn gated(scene: &Scene, more: &str) {
    scene.sql("create table source (id bigint, subscription text, amount numeric)");
    scene.run(
        &format!(
            "select lago_push.create_sync('calls', key => '{{id}}', template => $1,
                 query => 'select s.* from source s, (select pg_advisory_xact_lock_shared(7)) gate'{more})"
        ),
        &[&TEMPLATE],
    );
    scene.activate("calls");
}

/// Closes the gate, until the connection given back ends or opens it.
fn close_gate(scene: &Scene) -> postgres::Client {
    let mut keeper = scene.db();
    keeper.execute("select pg_advisory_lock(7)", &[]).expect("the gate is free");
    keeper
}

fn wait_for_the_gate(scene: &Scene) -> i32 {
    wait_until("a run waits at the gate", PATIENCE, || {
        scene
            .rows(
                "select a.pid from pg_stat_activity a
                  where a.backend_type = 'lago_push run' and a.wait_event_type = 'Lock' and a.datname = current_database()",
            )
            .first()
            .map(|row| row.get::<_, i32>(0))
    })
}

fn ended(scene: &Scene, most: i64) -> i64 {
    wait_until("the runs are over", PATIENCE, || {
        let ended: i64 = scene.value("select count(*) from lago_push.runs where finished_at is not null");
        (ended >= most).then_some(ended)
    })
}

fn states(scene: &Scene) -> String {
    scene.value("select string_agg(state, ' ' order by started_at) from lago_push.runs")
}

#[test]
fn a_query_runs_at_every_tick_of_its_schedule() {
    let scene = Scene::new();
    source(&scene, ", schedule => '1 second'");
    scene.sql("insert into source values (1, 'sub', 1)");
    ended(&scene, 2);
    scene.sql("insert into source values (2, 'sub', 2)");
    scene.wait_for_event("calls:insert:1:1");
    wait_until("the second row is billed", PATIENCE, || scene.lago.stored_count() == 2);
    let odd: i64 = scene.value(
        "select count(*) from (select date_trunc('second', started_at) = lag(date_trunc('second', started_at)) over (order by started_at) as twice
           from lago_push.runs) r where twice",
    );
    assert_eq!(odd, 0, "two runs at one tick");
}

#[test]
fn ticks_that_were_missed_while_the_server_was_down_are_made_up_once() {
    let cluster = Cluster::start(&Options::durable());
    let scene = Scene::on(cluster, Store::Postgres);
    source(&scene, ", schedule => '0 0 1 1 *'");
    scene.sql("insert into source values (1, 'sub', 1)");
    run(&scene);
    // As if it had run last three years ago.
    scene.sql("update lago_push.run set started_at = started_at - interval '3 years', finished_at = finished_at - interval '3 years'");
    scene.sql("update lago_push.memory set activated_at = activated_at - interval '3 years'");
    scene.sql("insert into source values (2, 'sub', 2)");
    scene.disconnect();
    scene.cluster.stop(Stop::Fast);
    scene.cluster.start_again();
    wait_until("the second row is billed", PATIENCE, || scene.lago.stored_count() == 2);
    scene.sql("select lago_push.run_now('calls')");
    ended(&scene, 2);
    assert_eq!(
        states(&scene),
        "succeeded succeeded",
        "once, however many ticks were missed; and the first is forgotten"
    );
}

#[test]
fn a_run_that_is_cut_off_has_done_nothing_and_is_begun_again() {
    let scene = Scene::new();
    gated(&scene, ALL);
    scene.sql("insert into source select n, 'sub', n from generate_series(1, 3) n");
    let mut keeper = close_gate(&scene);
    scene.sql("select lago_push.run_now('calls')");
    let pid = wait_for_the_gate(&scene);
    scene.run("select pg_terminate_backend($1)", &[&pid]);
    wait_until("another run waits", PATIENCE, || {
        scene.value::<i64>("select count(*) from lago_push.runs where state = 'interrupted'") == 1
            && scene.value::<i64>("select count(*) from lago_push.runs where state = 'running'") == 1
    });
    keeper.execute("select pg_advisory_unlock(7)", &[]).expect("the gate is ours");
    ended(&scene, 2);
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(states(&scene), "interrupted succeeded");
    scene.wait_for_exactly(&["calls:insert:1:1", "calls:insert:2:1", "calls:insert:3:1"]);
}

#[test]
fn deliveries_and_writers_do_not_wait_for_a_run_and_its_progress_shows() {
    let scene = Scene::new();
    gated(&scene, "");
    scene.billed_table("usage");
    let mut keeper = close_gate(&scene);
    scene.sql("insert into source values (1, 'sub', 1)");
    scene.sql("select lago_push.run_now('calls')");
    let pid = wait_for_the_gate(&scene);
    scene.sql("insert into usage (subscription, amount) values ('sub_1', 1)");
    wait_until("the other sync's row is billed", PATIENCE, || scene.lago.stored_count() == 1);
    let shown: i32 = scene.value(
        "select pid from lago_push.runs where state = 'running' and rows_read = 0 and finished_at is null",
    );
    assert_eq!(shown, pid);
    scene.sql(
        "update source set amount = 2; select lago_push.pause('usage'); select lago_push.resume('usage')",
    );
    keeper.execute("select pg_advisory_unlock(7)", &[]).expect("the gate is ours");
    ended(&scene, 1);
    wait_until("the run's row is billed", PATIENCE, || scene.lago.stored_count() == 2);
}

#[test]
fn a_run_that_takes_longer_than_it_may_fails() {
    let scene = Scene::new();
    gated(&scene, ", time_limit => '200 ms'");
    let _keeper = close_gate(&scene);
    let end = run(&scene);
    assert!(end.starts_with("failed") && end.contains("time_limit of 0.2 s"), "{end}");
}

#[test]
fn a_run_is_cancelled_like_any_query() {
    let scene = Scene::new();
    gated(&scene, "");
    let _keeper = close_gate(&scene);
    scene.sql("select lago_push.run_now('calls')");
    let pid = wait_for_the_gate(&scene);
    scene.run("select pg_cancel_backend($1)", &[&pid]);
    ended(&scene, 1);
    assert!(last_run(&scene).contains("the run was cancelled by hand"), "{}", last_run(&scene));
}

#[test]
fn a_database_can_be_dropped_while_a_query_runs() {
    let scene = Scene::on(Cluster::start(&Options::default()), Store::Postgres);
    gated(&scene, "");
    let keeper = close_gate(&scene);
    scene.sql("select lago_push.run_now('calls')");
    wait_for_the_gate(&scene);
    drop(keeper);
    let mut again = close_gate(&scene);
    again.execute("select pg_advisory_unlock_all()", &[]).expect("they are ours");
    drop(again);
    scene.sql("select lago_push.run_now('calls')");
    scene.disconnect();
    let mut elsewhere = scene.cluster.connect("postgres");
    let mut drop_it = || elsewhere.batch_execute(&format!("drop database {}", scene.database));
    wait_until("the database is dropped", PATIENCE, || drop_it().is_ok());
}

#[test]
fn a_sync_that_is_changed_during_its_run_runs_again_as_it_is_then() {
    let scene = Scene::new();
    gated(&scene, "");
    scene.sql("insert into source values (1, 'sub', 1)");
    let mut keeper = close_gate(&scene);
    scene.sql("select lago_push.run_now('calls')");
    wait_for_the_gate(&scene);
    scene.sql("select lago_push.alter_sync('calls', template => '{\"external_subscription_id\": \"{{ row.subscription }}\", \"code\": \"other\", \"timestamp\": 1760000000}')");
    keeper.execute("select pg_advisory_unlock(7)", &[]).expect("the gate is ours");
    ended(&scene, 2);
    wait_until("the row is billed", PATIENCE, || scene.lago.stored_count() == 1);
    assert_eq!(states(&scene), "failed succeeded");
    assert_eq!(scene.lago.stored()[0].code, "other");
}

#[test]
fn a_sync_can_be_dropped_while_it_runs() {
    let scene = Scene::new();
    gated(&scene, "");
    scene.sql("insert into source values (1, 'sub', 1)");
    let mut keeper = close_gate(&scene);
    scene.sql("select lago_push.run_now('calls')");
    wait_for_the_gate(&scene);
    scene.sql("select lago_push.drop_sync('calls')");
    keeper.execute("select pg_advisory_unlock(7)", &[]).expect("the gate is ours");
    wait_until("the run is over", PATIENCE, || {
        scene.value::<bool>("select not exists (select from pg_stat_activity where backend_type = 'lago_push run' and datname = current_database())")
    });
    assert_eq!(scene.waiting(), 0);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.remembered"), 0);
    assert_eq!(scene.lago.stored_count(), 0);
}

#[test]
fn a_finished_run_has_no_destination_tried_that_backs_off() {
    let scene = Scene::new();
    source(&scene, "");
    scene.lago.stop();
    scene.sql("insert into source values (1, 'sub', 1)");
    run(&scene);
    let waits = "select next_attempt_at::text from lago_push.destinations";
    let failures = "select failures from lago_push.destinations";
    wait_until("it backs off for more than a second", PATIENCE, || {
        scene.value::<bool>(
            "select coalesce(next_attempt_at > now() + interval '2 s', false) from lago_push.destinations",
        )
    });
    let (until, failed): (String, i64) = (scene.value(waits), scene.value(failures));
    run(&scene);
    assert_eq!((scene.value::<String>(waits), scene.value::<i64>(failures)), (until, failed));
}

#[test]
fn a_changed_row_whose_old_values_are_not_known_is_a_dead_letter() {
    let scene = Scene::new();
    source(&scene, "");
    scene.sql("insert into source values (1, 'sub', 1), (2, 'sub', 2)");
    run(&scene);
    scene.run(
        "select lago_push.alter_sync('calls', operations => '{insert,update}', template => $1)",
        &[&TEMPLATE.replace("{{ op }}", "{{ old.amount }}")],
    );
    scene.sql("update source set amount = 10 where id = 1");
    assert_eq!(run(&scene), "succeeded 2 0 1 0 1");
    let reason: String = scene.value("select reason from lago_push.dead_letters");
    assert!(reason.contains("what the row held before was not remembered"), "{reason}");
    scene.sql("update source set amount = 20 where id = 2");
    run(&scene);
    scene.wait_for_event("calls:update:2:3");
}

#[test]
fn a_table_that_is_truncated_and_filled_again_is_never_seen_empty() {
    let scene = Scene::new();
    source(&scene, ALL);
    scene.sql("create table part (like source); insert into part values (1, 'sub', 1)");
    scene.sql("create view both_parts as select * from source union all select * from part");
    scene.sql("select lago_push.alter_sync('calls', query => 'table both_parts')");
    scene.sql("insert into source values (2, 'sub', 2)");
    run(&scene);
    let mut filler = scene.db();
    filler
        .batch_execute("begin; truncate part; insert into part values (1, 'sub', 1), (3, 'sub', 3)")
        .expect("nobody is in the way");
    scene.sql("select lago_push.run_now('calls')");
    wait_for_the_gate(&scene);
    filler.batch_execute("commit").expect("it is the filler's own");
    ended(&scene, 2);
    assert_eq!(last_run(&scene), "succeeded 3 1 0 0 2");
}

#[test]
fn no_more_queries_run_at_once_than_may_and_each_has_its_turn() {
    let scene =
        Scene::on(Cluster::start(&Options::default().with("lago_push.max_runs", "1")), Store::Postgres);
    gated(&scene, "");
    scene.run(
        "select lago_push.create_sync('others', key => '{id}', template => $1, query => 'select * from source')",
        &[&TEMPLATE],
    );
    scene.activate("others");
    scene.sql("insert into source values (1, 'sub', 1)");
    let mut keeper = close_gate(&scene);
    scene.sql("select lago_push.run_now('calls')");
    wait_for_the_gate(&scene);
    scene.sql("select lago_push.run_now('others')");
    scene.billed_table("usage");
    scene.sql("insert into usage (subscription, amount) values ('sub_1', 1)");
    wait_until("the worker has seen what was asked for", PATIENCE, || scene.lago.stored_count() == 1);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.runs"), 1, "the other one waits");
    keeper.execute("select pg_advisory_unlock(7)", &[]).expect("the gate is ours");
    ended(&scene, 2);
    wait_until("both are billed", PATIENCE, || scene.lago.stored_count() == 3);
}

#[test]
fn a_cursor_reads_what_is_new_and_what_may_have_come_late() {
    let scene = Scene::new();
    scene.sql("create table source (id bigint, subscription text, amount numeric, at timestamptz)");
    scene.run(
        "select lago_push.create_sync('calls', query => 'select * from source', key => '{id}', template => $1,
             cursor => 'at', overlap => '1 hour', operations => '{insert,update}', columns => '{amount}')",
        &[&TEMPLATE],
    );
    scene.activate("calls");
    scene.sql("insert into source select n, 'sub', n, '2026-01-01 00:00Z'::timestamptz + n * interval '1 hour' from generate_series(1, 10) n");
    assert_eq!(run(&scene), "succeeded 10 10 0 0 0");
    assert_eq!(run(&scene), "succeeded 2 0 0 0 2", "the highest and what lies within the overlap");
    scene.sql("insert into source values (11, 'sub', 11, '2026-01-01 09:30Z'); update source set amount = 0, at = '2026-01-01 12:00Z' where id = 3");
    assert_eq!(run(&scene), "succeeded 4 1 1 0 2", "one that came late, and one that was changed");
    scene.sql(
        "delete from source where id < 3; insert into source values (12, 'sub', 12, '2026-01-01 00:00Z')",
    );
    assert_eq!(run(&scene), "succeeded 1 0 0 0 1", "nothing is gone, and what came too late is not read");
    scene.sql("insert into source values (13, 'sub', 13, 'infinity'), (14, 'sub', 14, '2026-01-01 13:00Z')");
    assert_eq!(run(&scene), "succeeded 3 2 0 0 1");
    scene.sql("insert into source values (15, 'sub', 15, '2026-01-01 14:00Z')");
    assert_eq!(run(&scene), "succeeded 4 1 0 0 3", "what lies ahead of the clock is no mark");
    scene.sql("insert into source values (16, 'sub', 16, null)");
    assert!(run(&scene).contains("no value in its cursor \"at\""));
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(scene.lago.stored_count(), 15);
}

#[test]
fn columns_may_change_places() {
    let scene = Scene::new();
    source(&scene, ", cursor => 'id', overlap => '0'");
    scene.sql("insert into source values (1, 'sub', 1), (2, 'sub', 2)");
    run(&scene);
    scene.sql("alter table source rename to before; create table source (amount numeric, subscription text, id bigint); insert into source select amount, subscription, id from before");
    scene.sql("insert into source values (3, 'sub', 3); update source set amount = 20 where id = 2");
    assert_eq!(run(&scene), "succeeded 2 1 1 0 0");
    scene.sql("insert into source values (4, 'sub', 4)");
    assert_eq!(run(&scene), "succeeded 2 1 0 0 1");
    scene.wait_for_event("calls:insert:4:3");
}

#[test]
fn a_number_is_a_cursor_too() {
    let scene = Scene::new();
    source(&scene, ", cursor => 'id', overlap => '2'");
    scene.sql("insert into source select n, 'sub', n from generate_series(1, 10) n");
    assert_eq!(run(&scene), "succeeded 10 10 0 0 0");
    scene.sql("insert into source values (9223372036854775807, 'sub', 1)");
    assert_eq!(run(&scene), "succeeded 4 1 0 0 3");
    assert_eq!(run(&scene), "succeeded 1 0 0 0 1");
}

#[test]
fn rows_that_are_there_at_first_can_be_taken_for_known() {
    let scene = Scene::new();
    source(&scene, ", first_run => 'remember', operations => '{insert,update}'");
    scene.sql("insert into source select n, 'sub', n from generate_series(1, 3) n");
    assert_eq!(run(&scene), "succeeded 3 3 0 0 0");
    scene.sql("insert into source values (4, 'sub', 4); update source set amount = 20 where id = 2");
    assert_eq!(run(&scene), "succeeded 4 1 1 0 2");
    scene.wait_for_exactly(&["calls:insert:4:2", "calls:update:2:2"]);
}

#[test]
fn an_empty_source_stops_the_run_until_somebody_accepts_it() {
    let scene = Scene::new();
    source(&scene, ", operations => '{insert,delete}'");
    scene.sql("insert into source select n, 'sub', n from generate_series(1, 10) n");
    run(&scene);
    scene.sql("delete from source");
    fails(&scene, "at least 10 of 10 rows would be gone");
    scene.sql("select lago_push.run_now('calls', removals => 'accept')");
    ended(&scene, 3);
    assert_eq!(last_run(&scene), "succeeded 0 0 0 10 0");
    wait_until("all ends are billed", PATIENCE, || scene.lago.stored_count() == 20);
    scene.sql("insert into source values (1, 'sub', 1)");
    run(&scene);
    scene.sql("delete from source");
    fails(&scene, "1 of 1 rows would be gone");
}

#[test]
fn another_set_of_columns_is_no_change_of_the_rows() {
    let scene = Scene::new();
    source(&scene, ", operations => '{insert,update}'");
    scene.sql("insert into source select n, 'sub', n from generate_series(1, 3) n");
    run(&scene);
    scene.sql("select lago_push.alter_sync('calls', query => 'select *, 1 as one from source')");
    scene.sql("insert into source values (4, 'sub', 4)");
    assert_eq!(run(&scene), "succeeded 4 1 0 0 3");
    let remark: String = scene.value("select remark from lago_push.runs order by started_at desc limit 1");
    assert!(remark.contains("other columns are compared"), "{remark}");
    scene.sql("update source set amount = 0 where id = 1");
    assert_eq!(run(&scene), "succeeded 4 0 1 0 3");
}

#[test]
fn rows_read_before_deletes_were_captured_are_remembered_whole_from_then_on() {
    let scene = Scene::new();
    source(&scene, ", max_removed => 1");
    scene.sql("insert into source select n, 'sub', n from generate_series(1, 3) n");
    run(&scene);
    scene.sql("select lago_push.alter_sync('calls', operations => '{insert,delete}')");
    scene.sql("delete from source where id = 1");
    assert_eq!(run(&scene), "succeeded 2 0 0 1 2");
    let reason: String = scene.value("select reason from lago_push.dead_letters");
    assert!(reason.contains("what it held was not remembered"), "{reason}");
    scene.sql("delete from source where id = 2");
    run(&scene);
    scene.wait_for_event("calls:delete:2:3");
}

#[test]
fn a_row_that_cannot_be_rendered_is_a_dead_letter_and_redriven() {
    let scene = Scene::new();
    source(&scene, "");
    scene.sql("insert into source values (1, null, 1), (2, 'sub', 2)");
    assert_eq!(run(&scene), "succeeded 2 2 0 0 0");
    scene.wait_for_event("calls:insert:2:1");
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.dead_letters"), 1);
    scene.sql("select lago_push.alter_sync('calls', template => '{\"external_subscription_id\": \"{{ row.subscription | default: ''none'' }}\", \"code\": \"usage\", \"timestamp\": 1760000000}')");
    assert_eq!(scene.value::<i64>("select lago_push.redrive('calls')"), 1);
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(scene.lago.stored_count(), 2);
    assert!(scene.value::<bool>("select balanced from lago_push.ledger"));
}

#[test]
fn a_sync_that_refuses_such_rows_fails_the_run() {
    let scene = Scene::new();
    source(&scene, ", on_error => 'raise'");
    scene.sql("insert into source values (1, null, 1)");
    fails(&scene, "a row cannot be billed");
}

#[test]
fn a_full_outbox_stops_the_run_or_keeps_its_rows_as_the_sync_says() {
    let scene = Scene::new();
    scene.sql("select lago_push.hold('lago')");
    source(&scene, ", max_pending => 2, when_full => 'raise'");
    scene.sql("insert into source select n, 'sub', n from generate_series(1, 3) n");
    fails(&scene, "takes no more rows: 2 of its messages wait");
    scene.sql("select lago_push.alter_sync('calls', when_full => 'dead_letter')");
    assert_eq!(run(&scene), "succeeded 3 3 0 0 0");
    assert_eq!(scene.waiting(), 2);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.dead_letters"), 1);
}

#[test]
fn the_query_has_the_rights_of_who_made_it_and_may_only_read() {
    let scene = Scene::new();
    let role = format!("{}_maker", scene.database);
    scene.sql(&format!(
        "create role {role}; create table source (id bigint, subscription text, amount numeric);
         insert into source values (1, 'sub', 1); grant select on source to {role}; create table written (n integer);
         grant insert on written to {role};
         create function sly() returns bigint language plpgsql as $$
         begin
             if current_setting('lago_push.sly', true) is null and current_setting('application_name') = 'lago_push run' then
                 insert into public.written values (1);
             end if;
             return 1;
         end $$;
         select lago_push.grant_access('{role}', 'maker')"
    ));
    let mut maker = scene.db();
    maker.batch_execute(&format!("set role {role}")).expect("the role is there");
    let create = "select lago_push.create_sync('calls', query => 'select *, public.sly() from public.source', key => '{id}', template => $1)";
    maker.execute(create, &[&TEMPLATE]).expect("it may read the source");
    maker.batch_execute("select lago_push.activate('calls')").expect("the sync is its own");
    drop(maker);
    fails(&scene, "cannot execute INSERT in a read-only transaction");
    scene.sql("create or replace function sly() returns bigint language sql as 'select 1'");
    assert_eq!(run(&scene), "succeeded 1 1 0 0 0");
    scene.sql(&format!("revoke select on source from {role}"));
    fails(&scene, "permission denied for table source");
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.sql(&format!("drop owned by {role}; drop role {role}"));
    fails(&scene, "the role with whose rights the query ran does not exist any more");
    scene.sql("select lago_push.drop_sync('calls')");
}

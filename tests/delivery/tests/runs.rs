//! Queries in the place of a table: what a run finds new, changed or gone is billed, once, whatever ends in between.
#![forbid(unsafe_code)]

use delivery::scene::Scene;
use delivery::wait::{PATIENCE, wait_until};

const TEMPLATE: &str = r#"{"external_subscription_id": "{{ row.subscription }}", "code": "usage", "timestamp": 1760000000,
    "properties": {"amount": "{{ row.amount }}", "op": "{{ op }}", "was": "{{ old.amount }}"}}"#;

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

/// Runs the query, and waits until the run is over. Gives what it came to.
fn run(scene: &Scene) -> String {
    let runs = "select count(*) from lago_push.runs where finished_at is not null";
    let before: i64 = scene.value(runs);
    scene.sql("select lago_push.run_now('calls')");
    wait_until("the run is over", PATIENCE, || scene.value::<i64>(runs) > before);
    last_run(scene)
}

fn last_run(scene: &Scene) -> String {
    scene.value(
        "select concat_ws(' ', state, rows_read, added, changed, removed, unchanged, error) from lago_push.runs
          order by started_at desc limit 1",
    )
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

/// The payloads of what waits or was sent, as text, by what they are of.
fn fates(scene: &Scene) -> Vec<String> {
    scene
        .rows("select error from lago_push.runs where error is not null order by started_at")
        .iter()
        .map(|row| row.get(0))
        .collect()
}

#[test]
fn an_old_value_is_what_the_run_before_read() {
    let scene = Scene::new();
    source(&scene, ALL);
    scene.sql("insert into source values (1, 'sub', 1.50)");
    run(&scene);
    scene.sql("update source set amount = 2.25");
    run(&scene);
    scene.sql("delete from source");
    run(&scene);
    scene.wait_until_outbox_is_empty(PATIENCE);
    let mut told: Vec<String> =
        scene.lago.stored().iter().map(|event| serde_json::to_string(&event.properties).expect("JSON")).collect();
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
    let remembered = "select md5(coalesce(string_agg(r::text, ',' order by key), '')) from lago_push.remembered r";
    let (before, waiting) = (scene.value::<String>(remembered), scene.waiting());
    let end = run(scene);
    assert!(end.starts_with("failed") && end.contains(why), "{end}");
    assert_eq!(scene.value::<String>(remembered), before);
    assert_eq!(scene.waiting(), waiting);
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
    assert_eq!(fates(&scene).len(), 6);
}

//! Finding out before it counts, and mending what was found out too late: preview, send_test, alter_sync
//! and redrive against a real server, a real worker and a real socket.
#![forbid(unsafe_code)]

use std::thread;

use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{LONG_PATIENCE, PATIENCE, wait_until};
use fake_lago::{Effect, Fault, Storing};

/// A draft over a usage table with one row.
fn draft_scene() -> Scene {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.draft("usage", "");
    scene.sql(&insert_rows("usage", 1));
    scene
}

/// What `send_test` says: status, verdict, message.
fn send_test(scene: &Scene, arguments: &str) -> (Option<i32>, String, String) {
    let rows = scene.rows(&format!("select status, verdict, message from lago_push.send_test({arguments})"));
    assert_eq!(rows.len(), 1, "send_test gives one row");
    (rows[0].get(0), rows[0].get(1), rows[0].get(2))
}

#[test]
fn a_preview_sends_nothing_and_leaves_nothing_behind() {
    let scene = draft_scene();
    let rows: i64 = scene.value("select count(*) from lago_push.preview('usage')");
    assert_eq!(rows, 1);
    assert_eq!((scene.lago.request_count(), scene.waiting()), (0, 0));
}

#[test]
fn send_test_sends_the_first_row_of_a_draft_once() {
    let scene = draft_scene();
    let (status, verdict, _) = send_test(&scene, "'usage'");
    assert_eq!((status, verdict.as_str()), (Some(200), "delivered"));
    assert_eq!(scene.arrived(), ["usage-1"]);
    assert_eq!(scene.lago.request_count(), 1);
    let again = send_test(&scene, "'usage'");
    assert_eq!((again.0, again.1.as_str()), (Some(422), "delivered"), "Lago has it already: {again:?}");
    assert_eq!(scene.status("usage").state, "draft");
    assert_eq!(scene.waiting(), 0);
}

#[test]
fn send_test_sends_the_bytes_the_worker_would_send() {
    let scene = draft_scene();
    send_test(&scene, "'usage'");
    scene.activate("usage");
    scene.sql(
        "insert into usage overriding system value select 2, subscription, amount, created_at from usage",
    );
    scene.wait_for_exactly(&["usage-1", "usage-2"]);
    let texts: Vec<String> = scene
        .lago
        .stored()
        .iter()
        .map(|event| String::from_utf8_lossy(&event.raw).replace("usage-2", "usage-1"))
        .collect();
    assert_eq!(texts[0], texts[1]);
}

#[test]
fn send_test_sends_an_edited_body() {
    let scene = draft_scene();
    let body = r#"{"transaction_id": "edited", "external_subscription_id": "sub_1", "code": "usage", "timestamp": 1700000000, "properties": {"amount": "1"}}"#;
    let (status, verdict, _) = send_test(&scene, &format!("'usage', body => '{body}'"));
    assert_eq!((status, verdict.as_str()), (Some(200), "delivered"));
    assert_eq!(scene.arrived(), ["edited"]);
}

#[test]
fn send_test_tells_what_each_answer_means() {
    let scene = draft_scene();
    let refused = send_test(&scene, r#"'usage', body => '{"transaction_id": "x"}'"#);
    assert_eq!((refused.0, refused.1.as_str()), (Some(422), "rejected"));
    assert!(refused.2.contains("value_is_mandatory"), "{refused:?}");
    scene.lago.fault(Fault::next(1, Effect::status(500)));
    assert_eq!(send_test(&scene, "'usage'").1, "retry");
    scene.lago.fault(Fault::next(1, Effect::rate_limited(7)));
    assert_eq!(send_test(&scene, "'usage'").1, "hold");
    scene.sql("select lago_push.set_api_key('lago', 'another')");
    let unknown = send_test(&scene, "'usage'");
    assert_eq!((unknown.0, unknown.1.as_str()), (Some(401), "hold"));
    scene.lago.stop();
    let (status, verdict, message) = send_test(&scene, "'usage'");
    assert_eq!((status, verdict.as_str()), (None, "hold"), "{message}");
    assert!(message.contains("connection refused"), "{message}");
}

#[test]
fn send_test_ends_with_the_statements_time_while_lago_is_silent() {
    let scene = draft_scene();
    scene.lago.fault(Fault::next(1, Effect::Hang(Storing::Skipped)));
    let error =
        scene.sql_error("set statement_timeout = '300ms'; select * from lago_push.send_test('usage')");
    assert!(error.contains("statement timeout"), "{error}");
    assert_eq!(send_test(&scene, "'usage'").1, "delivered");
}

#[test]
fn send_test_can_be_cancelled_and_its_session_goes_on() {
    let scene = draft_scene();
    scene.lago.fault(Fault::next(1, Effect::Hang(Storing::Skipped)));
    let mut session = scene.db();
    let pid: i32 = session.query_one("select pg_backend_pid()", &[]).unwrap().get(0);
    let waiting = thread::spawn(move || {
        let ended = session.query("select * from lago_push.send_test('usage')", &[]);
        let next: i32 = session.query_one("select 1", &[]).unwrap().get(0);
        (ended.is_err(), next)
    });
    wait_until("the request has arrived", PATIENCE, || scene.lago.request_count() == 1);
    scene.sql(&format!("select pg_cancel_backend({pid})"));
    assert_eq!(waiting.join().unwrap(), (true, 1));
}

#[test]
fn a_renamed_column_costs_no_row_and_is_mended_by_alter_sync_and_redrive() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 10));
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.sql("alter table usage rename column amount to quantity");
    scene.sql("insert into usage (subscription, quantity) select 'sub_1', n from generate_series(1, 20) n");
    wait_until("the rows are dead letters", PATIENCE, || scene.status("usage").dead == 20);
    let reason: String = scene.value("select min(reason) from lago_push.dead_letters");
    assert_eq!(reason, "column \"amount\" does not exist (any more)");
    let template: String = scene.value("select template from lago_push.sync");
    let mended = template.replace("row.amount", "row.quantity");
    scene.run("select lago_push.alter_sync('usage', template => $1)", &[&mended]);
    assert_eq!(scene.value::<i64>("select lago_push.redrive('usage')"), 20);
    assert_billed(&scene, "select subscription, quantity from usage");
    let status = scene.status("usage");
    assert_eq!((status.delivered, status.dead), (30, 0));
}

#[test]
fn a_letter_lago_refused_is_sent_again_as_it_was() {
    let scene = Scene::new();
    scene.billed_table("usage");
    let body = r#"{"status":422,"error":"Unprocessable Entity","code":"validation_errors","error_details":{"0":{"code":["value_is_invalid"]}}}"#;
    scene.lago.fault(Fault::next(1, Effect::json(422, body)));
    scene.sql(&insert_rows("usage", 1));
    wait_until("it is a dead letter", PATIENCE, || scene.status("usage").dead == 1);
    assert_eq!(scene.value::<i64>("select lago_push.redrive('usage', filter => 'reply_status = 500')"), 0);
    assert_eq!(scene.value::<i64>("select lago_push.redrive('usage', filter => 'reply_status = 422')"), 1);
    assert_billed(&scene, "select subscription, amount from usage");
    assert!(scene.lago.sent_differently().is_empty());
}

#[test]
fn a_sync_is_altered_under_writers_and_no_row_is_lost() {
    let scene = Scene::new();
    scene.billed_table("usage");
    let database = scene.database.clone();
    let cluster = std::sync::Arc::clone(&scene.cluster);
    let writer = thread::spawn(move || {
        let mut db = cluster.connect(&database);
        for _ in 0..300 {
            db.batch_execute(&insert_rows("usage", 3)).unwrap();
        }
    });
    let template: String = scene.value("select template from lago_push.sync");
    for round in 0..6 {
        let changed = template.replace(
            "\"{{ row.amount }}\"",
            if round % 2 == 0 { "\"{{ row.amount | plus: 0 }}\"" } else { "\"{{ row.amount }}\"" },
        );
        scene.run(
            "select lago_push.alter_sync('usage', template => $1, batch_size => $2)",
            &[&changed, &(10 + round)],
        );
        scene.sql("select lago_push.alter_sync('usage', filter => 'new.amount >= 0')");
        scene.sql("select lago_push.alter_sync('usage', filter => '')");
    }
    writer.join().unwrap();
    scene.wait_until_outbox_is_empty(LONG_PATIENCE);
    assert_billed_exactly_once(&scene);
}

#[test]
fn what_filters_and_conditions_make_is_billed_to_the_last_digit() {
    let scene = Scene::new();
    scene.usage_table("usage");
    let template = r#"{
        {%- assign id = row.id -%}
        "transaction_id": "usage-{{ id }}",
        {% if row.subscription contains "SUB" %}"external_subscription_id": "{{ row.subscription | downcase }}",{% endif %}
        "code": "{{ "USAGE" | downcase }}",
        "timestamp": {{ row.created_at }},
        "properties": {"amount": "{{ row.amount | times: 100 | divided_by: 100.0 }}", "of": "{{ row.created_at | date: "%Y-%m" }}"}}"#;
    scene.draft_with("usage", template, "");
    scene.activate("usage");
    scene.sql("insert into usage (subscription, amount)
               select 'SUB_' || n % 8, n * 0.000000000000001 + 123456789012345.5 from generate_series(1, 400) n");
    assert_billed(&scene, "select lower(subscription), amount from usage");
}

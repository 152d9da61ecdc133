//! Kept replies, and the triggers users put on them: whatever those do, it costs a reply at most.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, wait_until};

fn kept_table(scene: &Scene, name: &str) {
    scene.usage_table(name);
    scene.draft(name, "");
    scene.run("update lago_push.sync set keep_replies = '1 hour' where name = $1", &[&name]);
    scene.sql("select lago_push._wake()");
    scene.activate(name);
}

/// A trigger on the replies that runs `body` for each.
fn trigger(scene: &Scene, kind: &str, body: &str) {
    scene.sql(&format!(
        "create function on_reply() returns trigger language plpgsql as $$ begin {body} return new; end $$;
         create {kind} after insert on lago_push.reply {} for each row execute function on_reply()",
        if kind.starts_with("constraint") { "deferrable initially deferred" } else { "" }
    ));
}

fn count(scene: &Scene) -> i64 {
    scene.value("select count(*) from lago_push.replies")
}

#[test]
fn each_message_keeps_its_own_part_of_the_reply() {
    let scene = Scene::new();
    kept_table(&scene, "usage");
    scene.sql("select lago_push.hold('lago')");
    scene.sql(&insert_rows("usage", 5));
    scene.sql("select lago_push.release('lago')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(count(&scene), 5);
    let right: bool = scene.value(
        "select bool_and(payload ->> 'transaction_id' = reply ->> 'transaction_id'
                         and status = 200 and sync = 'usage' and operation = 'insert'
                         and keep_until - replied_at between '59 min' and '61 min')
           from lago_push.reply",
    );
    assert!(
        right,
        "{:?}",
        scene.rows("select r::text from lago_push.reply r limit 1")[0].get::<_, String>(0)
    );
}

#[test]
fn a_refusal_is_kept_with_the_message_it_refuses() {
    let scene = Scene::new();
    kept_table(&scene, "usage");
    scene.sql("select lago_push.hold('lago')");
    scene.sql(&insert_rows("usage", 3));
    scene.sql(
        r#"update lago_push.message set payload = replace(payload, '"code":"usage"', '"code":""')
            where id = (select min(id) from lago_push.message)"#,
    );
    scene.sql("select lago_push.release('lago')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    let refusal: String =
        scene.value("select (reply -> 'error_details')::text from lago_push.replies where status = 422");
    assert_eq!(refusal, r#"{"code": ["value_is_mandatory"]}"#);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.replies where status = 200"), 2);
}

#[test]
fn without_keep_replies_none_is_kept() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 3));
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(count(&scene), 0);
}

#[test]
fn a_trigger_that_fails_costs_its_reply_and_no_other_and_no_delivery() {
    let scene = Scene::new();
    kept_table(&scene, "usage");
    trigger(&scene, "trigger t", "if new.payload ->> 'transaction_id' like '%-2' then raise 'no'; end if;");
    scene.sql("select lago_push.hold('lago')");
    scene.sql(&insert_rows("usage", 3));
    let worker = scene.wait_for_worker();
    scene.sql("select lago_push.release('lago')");
    assert_billed_exactly_once(&scene);
    assert_eq!(count(&scene), 2);
    let error = scene.status("usage").last_error.unwrap_or_default();
    assert!(error.contains("a trigger on lago_push.reply failed: SQLSTATE P0001"), "{error}");
    assert_eq!(scene.cluster.worker_pid(&scene.database), Some(worker), "the worker failed");
}

#[test]
fn a_deferred_trigger_that_fails_costs_no_delivery_either() {
    let scene = Scene::new();
    kept_table(&scene, "usage");
    trigger(&scene, "constraint trigger t", "raise 'no';");
    scene.sql(&insert_rows("usage", 3));
    assert_billed_exactly_once(&scene);
    assert_eq!(count(&scene), 0);
    assert!(scene.status("usage").last_error.unwrap_or_default().contains("SQLSTATE P0001"));
}

#[test]
fn a_trigger_that_sleeps_is_woken_and_the_deliveries_go_on() {
    let scene = Scene::new();
    kept_table(&scene, "usage");
    trigger(&scene, "trigger t", "perform pg_sleep(86400);");
    scene.sql(&insert_rows("usage", 3));
    let worker = scene.wait_for_worker();
    assert_billed_exactly_once(&scene);
    assert!(scene.status("usage").last_error.unwrap_or_default().contains("SQLSTATE 57014"));
    let started = Instant::now();
    for _ in 0..5 {
        scene.sql(&insert_rows("usage", 3));
        scene.wait_until_outbox_is_empty(PATIENCE);
    }
    assert!(started.elapsed() < Duration::from_secs(20), "every request waited for the trigger");
    assert!(scene.status("usage").last_error.unwrap_or_default().contains("not kept for a minute"));
    scene.sql("drop trigger t on lago_push.reply; select lago_push._wake()");
    scene.sql(&insert_rows("usage", 3));
    assert_billed_exactly_once(&scene);
    assert_eq!(count(&scene), 3, "kept again as soon as somebody changes something");
    assert_eq!(scene.cluster.worker_pid(&scene.database), Some(worker), "the worker failed");
}

#[test]
fn rows_a_trigger_writes_to_a_captured_table_are_delivered() {
    let scene = Scene::new();
    kept_table(&scene, "usage");
    scene.billed_table("follow_up");
    trigger(&scene, "trigger t", "insert into public.follow_up (subscription, amount) values ('sub_1', 1);");
    scene.sql(&insert_rows("usage", 3));
    wait_until("what the trigger wrote is delivered", PATIENCE, || scene.status("follow_up").delivered == 3);
    assert_billed(
        &scene,
        "select subscription, amount from usage union all select subscription, amount from follow_up",
    );
}

#[test]
fn a_reply_is_removed_when_its_time_is_over() {
    let scene = Scene::new();
    kept_table(&scene, "usage");
    scene.sql(&insert_rows("usage", 3));
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(count(&scene), 3);
    scene.sql("update lago_push.reply set keep_until = now() - interval '1 s' where id > (select min(id) from lago_push.reply)");
    // The next worker looks at once, one that works on only now and then.
    let worker = scene.wait_for_worker();
    scene.run("select pg_terminate_backend($1)", &[&worker]);
    wait_until("the worker has gone", PATIENCE, || scene.cluster.worker_pid(&scene.database) != Some(worker));
    scene.sql(&insert_rows("usage", 1));
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(count(&scene), 2);
}

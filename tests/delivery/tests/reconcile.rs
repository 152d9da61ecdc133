//! Reconciliation against a Lago that loses, alters and makes up events: exactly those are found, and what is
//! missing can be sent again.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::thread;

use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{LONG_PATIENCE, PATIENCE, wait_until};
use fake_lago::{Denied, Effect, Fault, RateLimit, Store, Storing};
use serde_json::json;

/// What `reconcile` shows of one event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    finding: String,
    transaction_id: String,
    detail: String,
    resent: bool,
}

#[track_caller]
fn reconcile(scene: &Scene, arguments: &str) -> Vec<Found> {
    let sql = format!("select finding, transaction_id, detail, resent from lago_push.reconcile({arguments})");
    let rows = scene.rows(&sql);
    let mut found: Vec<Found> = rows
        .iter()
        .map(|row| Found {
            finding: row.get(0),
            transaction_id: row.get(1),
            detail: row.get(2),
            resent: row.get(3),
        })
        .collect();
    found.sort();
    found
}

/// Finding and id alone.
#[track_caller]
fn found(scene: &Scene, arguments: &str) -> Vec<(String, String)> {
    reconcile(scene, arguments).into_iter().map(|found| (found.finding, found.transaction_id)).collect()
}

fn missing(ids: &[&str]) -> Vec<(String, String)> {
    ids.iter().map(|id| ("missing".to_owned(), (*id).to_owned())).collect()
}

/// What psql prints besides the result.
fn notices(scene: &Scene, sql: &str) -> String {
    let mut psql = scene.cluster.program("psql");
    psql.args(["--no-psqlrc", "--quiet", "--dbname", &scene.database, "--command", sql]);
    let out = psql.output().expect("psql runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A billed table with `count` rows, a second apart, all of them delivered.
fn delivered(store: Store, count: usize) -> Scene {
    let scene = Scene::with_store(store);
    scene.billed_table("usage");
    write(&scene, count);
    scene
}

#[track_caller]
fn write(scene: &Scene, count: usize) {
    scene.sql(&format!(
        "insert into usage (subscription, amount, created_at)
         select 'sub_' || n % 8, n % 1000 * 0.01, now() - n * interval '1 s' from generate_series(1, {count}) n"
    ));
    scene.wait_until_outbox_is_empty(LONG_PATIENCE);
}

fn finds_exactly_what_is_lost_and_mends_it(store: Store) {
    let scene = delivered(store, 700);
    assert_eq!(found(&scene, "'usage'"), []);
    let lost: BTreeSet<String> = scene.lago.lose_some(31, 7).into_iter().collect();
    let shown = reconcile(&scene, "'usage'");
    assert!(shown.iter().all(|found| found.finding == "missing" && !found.resent), "{shown:?}");
    let ids: BTreeSet<String> = shown.iter().map(|found| found.transaction_id.clone()).collect();
    assert_eq!((shown.len(), ids), (31, lost.clone()));
    assert_eq!(scene.waiting(), 0, "looking sends nothing");

    let sent = reconcile(&scene, "'usage', resend => true");
    assert!(sent.iter().all(|found| found.finding == "missing" && found.resent), "{sent:?}");
    assert_eq!(sent.len(), 31);
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(found(&scene, "'usage'"), []);
    assert_billed(&scene, "select subscription, amount from usage");
    assert!(scene.lago.sent_differently().is_empty(), "sent again as it was");
    let ledger =
        scene.rows("select captured, delivered, balanced from lago_push.ledger where sync = 'usage'");
    assert_eq!((ledger[0].get::<_, i64>(0), ledger[0].get(1), ledger[0].get(2)), (731, 731i64, true));
}

#[test]
fn exactly_what_is_lost_is_found_and_mended_in_the_postgres_store() {
    finds_exactly_what_is_lost_and_mends_it(Store::Postgres);
}

#[test]
fn exactly_what_is_lost_is_found_and_mended_in_the_clickhouse_store() {
    finds_exactly_what_is_lost_and_mends_it(Store::ClickHouse);
}

#[test]
fn what_is_rolled_back_is_not_sent_again() {
    let scene = delivered(Store::Postgres, 3);
    scene.lago.lose_events("usage-2");
    scene.sql("begin; select * from lago_push.reconcile('usage', resend => true); rollback");
    assert_eq!((scene.waiting(), found(&scene, "'usage'")), (0, missing(&["usage-2"])));
}

#[test]
fn what_was_altered_is_told_by_its_fields() {
    let scene = delivered(Store::Postgres, 9);
    let alter = |id: &str, fields: serde_json::Value| scene.lago.alter_event(id, &fields).expect("altered");
    let time = |id: i32, shift: &str| {
        scene.value::<String>(&format!(
            "select extract(epoch from created_at {shift})::text from usage where id = {id}"
        ))
    };
    alter("usage-1", json!({"properties": {"amount": "77"}}));
    alter("usage-2", json!({"code": "other"}));
    alter("usage-3", json!({"timestamp": time(3, "- interval '3 s'")}));
    alter("usage-4", json!({"timestamp": time(4, "- interval '9 days'")}));
    alter("usage-5", json!({"precise_total_amount_cents": "12"}));
    alter(
        "usage-6",
        json!({"properties": {"amount": scene.value::<String>("select amount::text from usage where id = 6"), "computed": "1"}}),
    );
    alter("usage-7", json!({"code": "other", "timestamp": time(7, "- interval '9 days'")}));
    let shown: Vec<(String, String)> = reconcile(&scene, "'usage', resend => true")
        .into_iter()
        .map(|found| {
            assert_eq!((found.finding.as_str(), found.resent), ("differing", false), "{found:?}");
            (found.transaction_id, found.detail)
        })
        .collect();
    let with = |id: &str, what: &str| (id.to_owned(), format!("Lago has it, with another {what}"));
    let expected = [
        with("usage-1", "properties"),
        with("usage-2", "code"),
        with("usage-3", "timestamp"),
        with("usage-4", "timestamp"),
        with("usage-5", "precise_total_amount_cents"),
        with("usage-7", "code and timestamp"),
    ];
    let mut shown = shown;
    shown.sort();
    assert_eq!(shown, expected);
    assert_eq!(scene.waiting(), 0, "what differs is never sent again");
}

#[test]
fn an_event_nobody_sent_is_unexpected_whatever_its_subscription() {
    let scene = delivered(Store::Postgres, 5);
    let now: f64 = scene.value("select extract(epoch from now())::float8");
    let foreign = |id: &str, subscription: &str, code: &str, ago: f64| {
        let event = json!({"transaction_id": id, "external_subscription_id": subscription, "code": code,
            "timestamp": now - ago, "properties": {"amount": "1"}});
        scene.lago.add_event(&event).expect("added");
    };
    foreign("known", "sub_1", "usage", 60.0);
    foreign("unknown", "nobody", "usage", 60.0);
    foreign("elsewhere", "sub_1", "another", 60.0);
    foreign("before", "sub_1", "usage", 90_000.0);
    foreign("usage-1", "sub_7", "usage", 60.0);
    let unexpected = |ids: &[&str]| -> Vec<(String, String)> {
        ids.iter().map(|id| ("unexpected".to_owned(), (*id).to_owned())).collect()
    };
    assert_eq!(found(&scene, "'usage'"), unexpected(&["known", "unknown", "usage-1"]));
    assert_eq!(found(&scene, "'usage', subscription => 'sub_1'"), unexpected(&["known"]));
    let earlier = "'usage', since => now() - interval '2 days', until => now() - interval '1 day'";
    assert_eq!(found(&scene, earlier), unexpected(&["before"]));
}

#[test]
fn an_id_that_lago_has_twice_is_told() {
    let scene = delivered(Store::ClickHouse, 3);
    let copy = |seconds: i32| {
        let sql = format!(
            "select json_build_object('transaction_id', 'usage-2', 'external_subscription_id', subscription,
                 'code', 'usage', 'timestamp', extract(epoch from created_at - interval '{seconds} s'),
                 'properties', json_build_object('amount', amount::text))::text from usage where id = 2"
        );
        let event: String = scene.value(&sql);
        scene.lago.add_event(&serde_json::from_str(&event).expect("JSON")).expect("added");
    };
    copy(0);
    assert_eq!(found(&scene, "'usage'"), [], "a copy takes the place of the event");
    copy(5);
    let shown = reconcile(&scene, "'usage'");
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(shown[0].detail, "Lago has it, and once more with another timestamp");
}

#[test]
fn what_waits_or_is_dead_is_not_missing() {
    let scene = delivered(Store::Postgres, 2);
    let refused = json!({"0": {"code": ["value_is_invalid"]}});
    scene.lago.fault(Fault::next(1, Effect::invalid(refused)));
    scene.sql(&insert_rows("usage", 1));
    wait_until("it is a dead letter", PATIENCE, || scene.status("usage").dead == 1);
    scene.sql("alter table usage rename amount to quantity");
    scene.sql("insert into usage (subscription, quantity) values ('sub_1', 4)");
    scene.sql("alter table usage rename quantity to amount");
    wait_until("it could not be rendered", PATIENCE, || scene.status("usage").dead == 2);
    scene.sql("select lago_push.hold('lago')");
    scene.sql(&insert_rows("usage", 3));
    let until = "until => now() + interval '1 minute'";
    assert_eq!(found(&scene, &format!("'usage', {until}")), []);
    let told = notices(&scene, &format!("select * from lago_push.reconcile('usage', {until})"));
    assert!(told.contains("5 events of sync \"usage\" wait or are dead letters"), "{told}");
    scene.sql("select lago_push.release('lago')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.sql("select lago_push.discard('usage')");
    let gone = found(&scene, &format!("'usage', {until}"));
    assert_eq!(gone, missing(&["usage-3", "usage-4"]), "who discards gives the event up, and it is missing");
}

#[test]
fn rows_from_before_the_sync_are_missing_and_can_be_sent() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql(&insert_rows("usage", 5));
    scene.draft("usage", "");
    scene.activate("usage");
    assert_eq!(found(&scene, "'usage', resend => true, until => now() + interval '1 s'").len(), 5);
    assert_billed_exactly_once(&scene);
}

#[test]
fn thousands_of_events_are_listed_in_slices() {
    let scene = delivered(Store::Postgres, 5000);
    let first = scene.lago.request_count();
    assert_eq!(found(&scene, "'usage'"), []);
    let lists = scene.lago.requests_after(first);
    assert!(lists.len() < 100, "{} requests for 50 pages", lists.len());
    assert!(!lists.iter().any(|request| request.path.ends_with("page=21")), "no page lies deep");
}

#[test]
fn what_is_written_while_events_are_listed_is_neither_missing_nor_unexpected() {
    let scene = delivered(Store::Postgres, 1500);
    let cluster = std::sync::Arc::clone(&scene.cluster);
    let database = scene.database.clone();
    let writer = thread::spawn(move || {
        let mut db = cluster.connect(&database);
        for _ in 0..500 {
            db.batch_execute(
                "insert into usage (subscription, amount, created_at)
                 select 'sub_1', 1, now() - random() * 1500 * interval '1 s' from generate_series(1, 5)",
            )
            .expect("written");
        }
    });
    wait_until("rows arrive", PATIENCE, || scene.lago.stored_count() > 1500);
    while !writer.is_finished() {
        assert_eq!(found(&scene, "'usage'"), []);
    }
    writer.join().expect("the writer ends");
    scene.wait_until_outbox_is_empty(LONG_PATIENCE);
    assert_eq!(found(&scene, "'usage'"), []);
}

#[test]
fn lago_may_ask_to_slow_down_and_fail_now_and_then() {
    let scene = delivered(Store::Postgres, 450);
    scene.lago.lose_events("usage-7");
    scene.lago.fault(Fault::next(1, Effect::rate_limited(1)).on_path("/events"));
    scene.lago.fault(Fault::next(2, Effect::status(503)).on_path("/events"));
    scene.lago.fault(Fault::next(1, Effect::Reset(Storing::Skipped)).on_path("/events"));
    scene.lago.fault(Fault::next(1, Effect::Truncated).on_path("/events"));
    scene.lago.fault(Fault::next(1, Effect::status(500)).on_path("usage-7"));
    assert_eq!(found(&scene, "'usage'"), missing(&["usage-7"]));
}

#[test]
fn half_of_lagos_limit_is_left_to_others() {
    let scene = delivered(Store::Postgres, 1000);
    scene.lago.set_rate_limit_of_others(Some(RateLimit { requests: 8, window_seconds: 1 }));
    let first = scene.lago.request_count();
    assert_eq!(found(&scene, "'usage'"), []);
    let refused = scene.lago.requests_after(first).into_iter().filter(|request| request.status == Some(429));
    assert_eq!(refused.count(), 0);
    let traffic =
        scene.lago.traffic(fake_lago::Category::EverythingElse, std::time::Duration::from_millis(900));
    assert!(traffic.busiest_window <= 8, "{traffic:?}");
}

#[test]
fn what_somebody_must_put_right_is_said_without_key_or_values() {
    let scene = delivered(Store::Postgres, 3);
    let error = |scene: &Scene| {
        let error = scene.sql_error("select * from lago_push.reconcile('usage')");
        assert!(!error.contains(&scene.api_key()) && !error.contains("sub_"), "{error}");
        error
    };
    scene.lago.set_denied(vec![Denied::read("event")]);
    let denied = error(&scene);
    assert!(
        denied.contains("read_action_not_allowed_for_event") && denied.contains("permission to read events"),
        "{denied}"
    );
    scene.lago.set_denied(vec![]);
    scene.lago.set_api_key("another");
    assert!(error(&scene).contains("does not know the API key (401)"));
    scene.lago.set_api_key(&scene.api_key());
    scene.lago.fault(Fault::always(Effect::html_ok(Storing::Skipped)).on_path("/events"));
    assert!(error(&scene).contains("not one of Lago's"));
    scene.lago.clear_faults();
    scene.lago.stop();
    let silent = error(&scene);
    assert!(silent.contains("connection refused"), "{silent}");
}

#[test]
fn it_can_be_cancelled_while_lago_is_silent() {
    let scene = delivered(Store::Postgres, 3);
    scene.lago.fault(Fault::next(1, Effect::Hang(Storing::Skipped)).on_path("/events"));
    let first = scene.lago.request_count();
    let mut session = scene.db();
    let pid: i32 = session.query_one("select pg_backend_pid()", &[]).unwrap().get(0);
    let waiting = thread::spawn(move || {
        let ended = session.query("select * from lago_push.reconcile('usage')", &[]);
        let next: i32 = session.query_one("select 1", &[]).unwrap().get(0);
        (ended.is_err(), next)
    });
    wait_until("it has asked", PATIENCE, || scene.lago.request_count() > first);
    scene.sql(&format!("select pg_cancel_backend({pid})"));
    assert_eq!(waiting.join().unwrap(), (true, 1));
    assert_eq!(found(&scene, "'usage'"), []);
}

#[test]
fn a_filter_and_a_mapper_say_what_is_expected() {
    let scene = Scene::new();
    scene.usage_table("usage");
    scene.sql(
        "create function billable(new usage) returns jsonb language sql stable as $$
             select case when new.amount > 0 then jsonb_build_object('transaction_id', 'm-' || new.id,
                 'external_subscription_id', new.subscription, 'code', 'usage',
                 'timestamp', extract(epoch from new.created_at), 'properties', jsonb_build_object('amount', new.amount::text)) end
         $$;
         select lago_push.create_sync('usage', source => 'usage', mapper => 'billable(usage)', filter => 'new.subscription <> ''sub_3''');
         select lago_push.activate('usage')",
    );
    scene.sql(
        "insert into usage (subscription, amount)
         select 'sub_' || n % 8, n % 2 from generate_series(1, 40) n",
    );
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(scene.lago.stored_count(), 15);
    let until = "until => now() + interval '1 s'";
    assert_eq!(found(&scene, &format!("'usage', {until}")), []);
    scene.lago.lose_events("m-1");
    assert_eq!(found(&scene, &format!("'usage', {until}")), missing(&["m-1"]));
    assert_eq!(found(&scene, &format!("'usage', {until}, resend => true")), missing(&["m-1"]));
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(found(&scene, &format!("'usage', {until}")), []);
    assert!(scene.lago.sent_differently().is_empty());
}

#[test]
fn a_partitioned_source_is_read_as_a_whole() {
    let scene = Scene::new();
    scene.sql(
        "create table usage (
             id bigint not null, subscription text not null, amount numeric not null, created_at timestamp not null
         ) partition by range (id);
         create table usage_low partition of usage for values from (0) to (50);
         create table usage_high (amount numeric not null, created_at timestamp not null, id bigint not null, gone text, subscription text not null);
         alter table usage_high drop column gone;
         alter table usage attach partition usage_high for values from (50) to (100)",
    );
    scene.draft("usage", "");
    scene.activate("usage");
    scene.sql(
        "insert into usage select n, 'sub_' || n % 8, n, now() at time zone 'UTC' from generate_series(1, 99) n",
    );
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.lago.lose_events("usage-20");
    scene.lago.lose_events("usage-70");
    let arguments = "'usage', until => now() + interval '1 s'";
    assert_eq!(found(&scene, arguments), missing(&["usage-20", "usage-70"]));
    found(&scene, &format!("{arguments}, resend => true"));
    assert_billed(&scene, "select subscription, amount from usage");
}

#[test]
fn without_replies_only_missing_inserts_can_be_told_of_a_sync_that_captures_more() {
    let scene = Scene::new();
    scene.usage_table("usage");
    let template = r#"{"transaction_id": "{{ op }}-{{ row.id }}-{{ row.amount }}", "external_subscription_id": "{{ row.subscription }}",
        "code": "usage", "timestamp": {{ row.created_at }}, "properties": {"amount": "{{ row.amount }}"}}"#;
    scene.draft_with("usage", template, "operations => '{insert,update,delete}'");
    scene.activate("usage");
    scene.sql("insert into usage (subscription, amount) select 'sub_1', n from generate_series(1, 4) n");
    scene.sql("update usage set amount = 20 where id = 2");
    scene.sql("delete from usage where id = 3");
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.lago.lose_events("insert-1-1");
    let until = "until => now() + interval '1 s'";
    let mut shown = found(&scene, &format!("'usage', {until}"));
    shown.retain(|(_, id)| id != "insert-2-20");
    assert_eq!(shown, missing(&["insert-1-1"]));
    let told = notices(&scene, &format!("select * from lago_push.reconcile('usage', {until})"));
    assert!(told.contains("only missing events of inserts are shown"), "{told}");
}

#[test]
fn kept_replies_tell_exactly_what_was_sent() {
    let scene = Scene::new();
    scene.usage_table("usage");
    let template = r#"{"transaction_id": "{{ op }}-{{ row.id }}", "external_subscription_id": "{{ row.subscription }}",
        "code": "usage", "timestamp": {{ row.created_at }}, "properties": {"amount": "{{ row.amount }}"}}"#;
    scene.draft_with("usage", template, "operations => '{insert,update,delete}', keep_replies => '2 days'");
    scene.activate("usage");
    scene.sql("insert into usage (subscription, amount) select 'sub_1', n from generate_series(1, 5) n");
    scene.sql("update usage set amount = 20 where id = 2");
    scene.sql("delete from usage where id = 3");
    scene.wait_until_outbox_is_empty(PATIENCE);
    let arguments = "'usage', until => now() + interval '1 s'";
    assert_eq!(found(&scene, arguments), [], "what changed since was sent as it was then");
    for id in ["update-2", "delete-3", "insert-3", "insert-5"] {
        scene.lago.lose_events(id);
    }
    let lost = missing(&["delete-3", "insert-3", "insert-5", "update-2"]);
    assert_eq!(found(&scene, arguments), lost);
    let sent = reconcile(&scene, &format!("{arguments}, resend => true"));
    assert!(sent.len() == 4 && sent.iter().all(|found| found.resent), "{sent:?}");
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(found(&scene, arguments), []);
    let operations: String = scene.value(
        "select string_agg(operation, ' ' order by id) from (select * from lago_push.reply order by id desc limit 4) r",
    );
    assert_eq!(
        operations.split(' ').collect::<BTreeSet<_>>(),
        BTreeSet::from(["insert", "update", "delete"])
    );
}

#[test]
fn a_time_of_capture_is_known_from_replies_only() {
    let scene = Scene::new();
    scene.usage_table("usage");
    let template = r#"{"transaction_id": "t-{{ row.id }}", "external_subscription_id": "{{ row.subscription }}",
        "code": "usage", "properties": {"amount": "{{ row.amount }}"}}"#;
    scene.draft_with("usage", template, "");
    scene.activate("usage");
    let error = scene.sql_error("select * from lago_push.reconcile('usage')");
    assert!(error.contains("gives no timestamp") && error.contains("keep_replies"), "{error}");
    scene.sql("select lago_push.alter_sync('usage', keep_replies => '2 days')");
    scene.sql(&insert_rows("usage", 4));
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.lago.lose_events("t-3");
    assert_eq!(found(&scene, "'usage', until => now() + interval '1 s'"), missing(&["t-3"]));
}

#[test]
fn a_policy_that_hides_rows_is_an_error_and_hides_no_event() {
    let scene = delivered(Store::Postgres, 3);
    scene.sql(
        "create role reconciler; grant usage on schema lago_push to reconciler;
         grant execute on function lago_push.reconcile to reconciler;
         alter table usage owner to reconciler; grant usage, create on schema public to reconciler;
         create policy none on usage using (false);
         alter table usage enable row level security",
    );
    let as_owner = "set role reconciler; select * from lago_push.reconcile('usage')";
    scene.sql(as_owner);
    scene.sql("alter table usage force row level security");
    let error = scene.sql_error(as_owner);
    assert!(error.contains("row-level security"), "{error}");
    scene.sql("reset role; drop owned by reconciler cascade; drop role if exists reconciler");
}

//! Every answer of Lago's error catalogue, and of what may stand in front of Lago, over a real socket: what
//! becomes of the messages, what becomes of the destination, and that a sentence says so.
//!
//! The server of this file gives a message up after three attempts, so that the end of a failure that goes
//! on for ever can be seen.
#![forbid(unsafe_code)]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use delivery::cluster::{Cluster, Options};
use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::{Config, Denied, Effect, FakeLago, Fault, Metric, Store, Storing, Subscription};

fn cluster() -> Arc<Cluster> {
    static IMPATIENT: OnceLock<Arc<Cluster>> = OnceLock::new();
    let settings = vec![("lago_push.max_attempts", "3".into())];
    let options = || Options { settings, ..Options::default() };
    Arc::clone(IMPATIENT.get_or_init(|| Cluster::start(&options())))
}

fn scene() -> Scene {
    Scene::on(cluster(), Store::Postgres)
}

/// A scene with an active sync of usage events.
fn events() -> Scene {
    let scene = scene();
    scene.billed_table("usage");
    scene
}

/// A scene with a table whose every insert is one call of `endpoint`; the table is called as the endpoint.
fn calls(endpoint: &str, template: &str) -> Scene {
    let scene = scene();
    scene.sql(&format!(
        "create table {endpoint} (id bigint generated always as identity primary key, a text)"
    ));
    scene.draft_with(endpoint, template, &format!("endpoint => '{endpoint}'"));
    scene.activate(endpoint);
    scene
}

fn customers() -> Scene {
    calls("customer", r#"{"external_id": "{{ row.a }}"}"#)
}

fn insert(scene: &Scene, table: &str, a: &str) {
    scene.run(&format!("insert into {table} (a) values ($1)"), &[&a]);
}

/// The reason of the only dead letter, once there is one.
#[track_caller]
fn reason(scene: &Scene) -> String {
    let sql = "select min(reason) from lago_push.dead_letters";
    let reason = wait_until("there is a dead letter", PATIENCE, || scene.value::<Option<String>>(sql));
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.dead_letters"), 1);
    reason
}

#[track_caller]
fn assert_says(sentence: &str, parts: &[&str]) {
    for part in parts {
        assert!(sentence.contains(part), "\"{part}\" is missing in: {sentence}");
    }
}

fn state(scene: &Scene) -> String {
    scene.value("select state::text from lago_push.destinations where name = 'lago'")
}

/// Waits until the destination is held, and gives the reason.
#[track_caller]
fn held(scene: &Scene) -> String {
    wait_until("the destination is held", PATIENCE, || Some(state(scene)).filter(|s| s.starts_with("held: ")))
}

/// No message has paid for the destination's trouble.
#[track_caller]
fn assert_no_attempt_was_burnt(scene: &Scene) {
    assert_eq!(scene.value::<i64>("select coalesce(sum(attempts), 0)::bigint from lago_push.outbox"), 0);
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.dead_letters"), 0);
}

fn balanced(scene: &Scene) -> bool {
    scene.value("select bool_and(balanced) from lago_push.ledger")
}

fn json(status: u16, code: &str) -> Effect {
    let error = match status {
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        429 => "Too Many Provider Requests",
        _ => "Unprocessable Entity",
    };
    Effect::json(status, &format!(r#"{{"status":{status},"error":"{error}","code":"{code}"}}"#))
}

fn html(status: u16) -> Effect {
    match Effect::html_ok(Storing::Skipped) {
        Effect::Answer(mut reply, storing) => {
            reply.status = status;
            Effect::Answer(reply, storing)
        }
        other => other,
    }
}

// ---- the message's fault -----------------------------------------------------------------------

#[test]
fn a_final_refusal_of_a_single_call_is_a_dead_letter_that_says_why() {
    let details = |details: &str| {
        Effect::json(
            422,
            &format!(
                r#"{{"status":422,"error":"Unprocessable Entity","code":"validation_errors","error_details":{details}}}"#
            ),
        )
    };
    let bare = Effect::json(
        400,
        r#"{"status":400,"error":"BadRequest: param is missing or the value is empty or invalid: customer"}"#,
    );
    for (effect, parts) in [
        (bare, &["400"][..]),
        (json(403, "feature_unavailable"), &["feature_unavailable"]),
        (json(405, "no_active_subscription"), &["405", "no_active_subscription"]),
        (json(405, "plan_overlapping"), &["plan_overlapping"]),
        (html(413), &["413"]),
        (details(r#"{"currency":["value_is_invalid"]}"#), &["422", "currency: value_is_invalid"]),
        (details(r#"{"a":["invalid_date","invalid_amount"]}"#), &["invalid_date, invalid_amount"]),
        (
            details(r#""expression_evaluation_failed: Variable: b not found""#),
            &["expression_evaluation_failed"],
        ),
        (details("null"), &["422"]),
    ] {
        let scene = customers();
        scene.lago.fault(Fault::next(1, effect.clone()));
        insert(&scene, "customer", "acme");
        assert_says(&reason(&scene), parts);
        assert_eq!(state(&scene), "open", "{effect:?}");
        assert!(balanced(&scene));
    }
}

#[test]
fn what_another_sync_may_still_create_is_waited_for_and_then_given_up() {
    let template =
        r#"{"external_id": "{{ row.id }}", "external_customer_id": "acme", "plan_code": "{{ row.a }}"}"#;
    let scene = calls("subscription", template);
    insert(&scene, "subscription", "basic");
    wait_until("it waits for its plan", PATIENCE, || scene.status("subscription").retrying == 1);
    scene.sql("create table plan (id int primary key)");
    scene.draft_with(
        "plan",
        r#"{"name": "Basic", "code": "basic", "interval": "monthly", "amount_cents": 100, "amount_currency": "EUR", "pay_in_advance": false}"#,
        "endpoint => 'plan'",
    );
    scene.activate("plan");
    scene.sql("insert into plan values (1)");
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(scene.status("subscription").dead, 0, "{:?}", scene.status("subscription").last_error);
    insert(&scene, "subscription", "nonesuch");
    assert_says(&reason(&scene), &["404 plan_not_found", "redrive", "3 attempts"]);
}

#[test]
fn a_customer_is_awaited_by_what_belongs_to_it() {
    let scene = calls(
        "wallet",
        r#"{"external_customer_id": "{{ row.a }}", "rate_amount": "1", "currency": "EUR", "name": "w"}"#,
    );
    let not_yet = Fault::next(1, json(404, "customer_not_found"));
    scene.lago.fault(not_yet.on_path("/wallets"));
    scene.lago.fault(Fault::always(Effect::json(200, r#"{"wallet":{}}"#)).on_path("/wallets"));
    insert(&scene, "wallet", "acme");
    scene.wait_until_outbox_is_empty(PATIENCE);
    let status = scene.status("wallet");
    assert_eq!((status.delivered, status.dead), (1, 0), "{status:?}");
}

#[test]
fn a_deletion_of_what_is_gone_is_done() {
    let scene = calls("customer_delete", r#"{"external_id": "{{ row.a }}"}"#);
    insert(&scene, "customer_delete", "nobody");
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(scene.status("customer_delete").delivered, 1);
}

#[test]
fn a_payment_providers_refusal_is_retried_and_then_final() {
    for code in ["provider_error", "third_party_error"] {
        let scene = customers();
        scene.lago.fault(Fault::next(1, json(422, code)));
        insert(&scene, "customer", "acme");
        scene.wait_until_outbox_is_empty(PATIENCE);
        assert_eq!(scene.status("customer").delivered, 1, "{code}");
        scene.lago.fault(Fault::always(json(422, code)));
        insert(&scene, "customer", "bolt");
        assert_says(&reason(&scene), &[code, "3 attempts"]);
        assert_eq!(state(&scene), "open");
    }
}

#[test]
fn contention_and_a_throttled_provider_cost_no_attempt() {
    for effect in [Effect::lock_acquisition_failed(), json(429, "too_many_provider_requests")] {
        let scene = customers();
        // More often than the attempts a message has.
        scene.lago.fault(Fault::next(5, effect.clone()));
        insert(&scene, "customer", "acme");
        wait_until("it waits", PATIENCE, || scene.status("customer").last_error.is_some());
        assert_no_attempt_was_burnt(&scene);
        scene.wait_until_outbox_is_empty(PATIENCE);
        assert_eq!(scene.status("customer").delivered, 1, "{effect:?}");
        assert_eq!(scene.lago.request_count(), 6);
    }
}

#[test]
fn two_first_calls_for_one_customer_that_race_both_succeed() {
    let scene = customers();
    let race = r#"{"status":422,"error":"Unprocessable Entity","code":"validation_errors","error_details":{"external_id":["value_already_exist"]}}"#;
    scene.lago.fault(Fault::next(1, Effect::json(422, race)));
    insert(&scene, "customer", "acme");
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(scene.status("customer").delivered, 1);
}

// ---- the destination's fault -------------------------------------------------------------------

#[test]
fn what_only_an_operator_can_mend_holds_the_destination_until_it_is_released() {
    for (effect, parts) in [
        (Effect::status(401), &["401", "set_api_key"][..]),
        (Effect::status(403), &["write_action_not_allowed_for_event"]),
        (json(404, "resource_not_found"), &["404"]),
        (html(401), &["401"]),
        (html(403), &["403"]),
        (html(404), &["404"]),
        (html(405), &["405"]),
    ] {
        let scene = events();
        scene.lago.fault(Fault::always(effect.clone()));
        scene.sql(&insert_rows("usage", 250));
        assert_says(&held(&scene), parts);
        wait_until("nothing is under way", PATIENCE, || {
            scene.value::<i64>("select sum(in_flight)::bigint from lago_push.destinations") == 0
        });
        let before = scene.lago.request_count();
        scene.sql(&insert_rows("usage", 250));
        scene.lago.clear_faults();
        assert_no_attempt_was_burnt(&scene);
        assert_eq!(scene.waiting(), 500, "{effect:?}");
        assert_eq!(scene.lago.request_count(), before, "nothing is sent while it is held");
        scene.sql("select lago_push.release('lago')");
        assert_billed_exactly_once(&scene);
        assert_eq!(state(&scene), "open");
        assert!(balanced(&scene));
    }
}

#[test]
fn a_new_key_ends_the_hold_that_the_old_one_caused() {
    let scene = events();
    scene.lago.set_api_key("another-key");
    scene.sql(&insert_rows("usage", 30));
    assert_says(&held(&scene), &["401"]);
    scene.sql("select lago_push.set_api_key('lago', 'another-key')");
    assert_billed_exactly_once(&scene);
    assert_eq!(state(&scene), "open");
}

#[test]
fn an_answer_to_the_old_key_does_not_hold_a_destination_that_has_a_new_one() {
    let scene = events();
    scene.lago.set_latency(Duration::from_millis(600));
    scene.lago.set_api_key("another-key");
    scene.sql(&insert_rows("usage", 30));
    wait_until("a request with the old key is under way", PATIENCE, || {
        scene.value::<i64>("select sum(in_flight)::bigint from lago_push.destinations") > 0
    });
    scene.sql("select lago_push.set_api_key('lago', 'another-key')");
    assert_billed_exactly_once(&scene);
    assert_eq!(state(&scene), "open");
    let refused = scene.lago.requests().iter().filter(|request| request.status == Some(401)).count();
    assert_eq!(refused, 1, "the old key was answered");
}

#[test]
fn a_hold_outlasts_the_server_and_is_not_forgotten_by_a_new_worker() {
    let scene = Scene::on(Cluster::start(&Options::default()), Store::Postgres);
    scene.billed_table("usage");
    scene.lago.fault(Fault::next(1, Effect::status(401)));
    scene.sql(&insert_rows("usage", 3));
    held(&scene);
    let before = scene.lago.request_count();
    scene.cluster.stop(delivery::cluster::Stop::Fast);
    scene.cluster.start_again();
    scene.sql(&insert_rows("usage", 3));
    wait_until("a worker has come and gone or waits", PATIENCE, || scene.waiting() == 6);
    assert_says(&state(&scene), &["held: ", "401"]);
    assert_eq!(scene.lago.request_count(), before);
    scene.sql("select lago_push.release('lago')");
    assert_billed_exactly_once(&scene);
}

#[test]
fn an_operators_own_hold_is_not_ended_by_a_new_key() {
    let scene = events();
    scene.sql("select lago_push.hold('lago')");
    scene.sql("select lago_push.set_api_key('lago', 'fresh')");
    scene.lago.set_api_key("fresh");
    scene.sql(&insert_rows("usage", 3));
    assert_says(&state(&scene), &["held: by "]);
    assert_eq!(scene.waiting(), 3);
    scene.sql("select lago_push.release('lago')");
    assert_billed_exactly_once(&scene);
}

#[test]
fn trouble_on_the_way_costs_no_attempt_and_heals_by_itself() {
    for (effect, part) in [
        (html(301), "redirect"),
        (html(302), "redirect"),
        (html(408), "408"),
        (html(429), "429"),
        (html(502), "502"),
        (html(503), "503"),
        (html(504), "504"),
        (Effect::status(504).after_storing(), "504"),
        (Effect::html_ok(Storing::Skipped), "200"),
        (Effect::html_ok(Storing::Done), "200"),
        (Effect::empty_ok(Storing::Done), "200"),
        (Effect::Reset(Storing::Skipped), "reset"),
        (Effect::Reset(Storing::Done), "reset"),
    ] {
        let scene = events();
        scene.lago.fault(Fault::always(effect.clone()));
        scene.sql(&insert_rows("usage", 150));
        let error = wait_until("the destination shows its error", PATIENCE, || scene.destination_error());
        assert_says(&error, &[part]);
        // More often than the attempts a message has.
        wait_until("it was tried often", PATIENCE, || scene.lago.request_count() >= 5);
        assert_no_attempt_was_burnt(&scene);
        scene.lago.clear_faults();
        assert_billed_exactly_once(&scene);
    }
}

#[test]
fn an_outage_of_500s_costs_no_message_its_attempts() {
    for endpoint in ["event", "customer"] {
        let scene = if endpoint == "event" { events() } else { customers() };
        let table = if endpoint == "event" { "usage" } else { "customer" };
        scene.lago.fault(Fault::always(Effect::status(500)));
        match endpoint {
            "event" => scene.sql(&insert_rows("usage", 150)),
            _ => insert(&scene, "customer", "acme"),
        }
        wait_until("it was tried often", PATIENCE, || scene.lago.request_count() >= 6);
        assert_no_attempt_was_burnt(&scene);
        scene.lago.clear_faults();
        scene.wait_until_outbox_is_empty(PATIENCE);
        assert_eq!(scene.status(table).dead, 0);
        assert!(balanced(&scene));
    }
}

#[test]
fn a_single_message_at_which_lago_fails_is_found_and_parked_and_all_others_are_billed() {
    for effect in [Effect::status(500), html(500), html(418), html(400), Effect::json(418, "{}")] {
        let scene = events();
        scene.lago.fault(Fault::always(effect.clone()).on_body("usage-42\""));
        scene.sql(&insert_rows("usage", 150));
        assert_says(&reason(&scene), &["3 attempts"]);
        assert_billed(&scene, "select subscription, amount from usage where id <> 42");
        assert_eq!(scene.status("usage").dead, 1, "{effect:?}");
        assert!(balanced(&scene));
    }
}

#[test]
fn lagos_own_failures_at_a_payload_are_isolated_too() {
    // A transaction id that overflows Lago's index is a 500 on every try.
    let scene = scene();
    scene.sql("create table usage (id int primary key, subscription text, amount numeric, transaction text)");
    scene.draft_with(
        "usage",
        r#"{"transaction_id": "{{ row.transaction }}", "external_subscription_id": "{{ row.subscription }}",
            "code": "usage", "timestamp": 1710421740, "properties": {"amount": "{{ row.amount }}"}}"#,
        "",
    );
    scene.activate("usage");
    scene.sql(
        "insert into usage select n, 'sub_1', 1, case when n = 7 then (select string_agg(md5(i::text), '') from generate_series(1, 200) i) else 't' || n end
           from generate_series(1, 60) n",
    );
    assert_says(&reason(&scene), &["500"]);
    assert_billed(&scene, "select subscription, amount from usage where id <> 7");
}

#[test]
fn a_lone_message_at_which_lago_fails_is_parked_although_nothing_else_is_sent() {
    let scene = customers();
    scene.lago.fault(Fault::always(Effect::status(500)).on_path("/customers"));
    insert(&scene, "customer", "acme");
    assert_says(&reason(&scene), &["500", "3 attempts"]);
}

// ---- batches -----------------------------------------------------------------------------------

#[test]
fn a_batch_lago_cannot_read_goes_one_by_one() {
    let unreadable =
        Effect::json(422, r#"{"status":422,"error":"Unprocessable Entity","code":"validation_errors"}"#);
    let malformed = Effect::json(400, r#"{"status":400,"error":"Bad Request"}"#);
    for effect in [unreadable, malformed, Effect::json(422, "{\"status\":422,\"err"), html(422)] {
        let scene = events();
        scene.lago.fault(Fault::next(1, effect.clone()));
        scene.sql(&insert_rows("usage", 20));
        assert_billed_exactly_once(&scene);
        assert_eq!(scene.status("usage").dead, 0, "{effect:?}");
        let sizes = scene.batch_sizes();
        assert!(sizes.iter().skip(1).all(|size| *size == 1), "{sizes:?}");
    }
}

#[test]
fn a_server_that_takes_smaller_batches_is_obeyed_from_then_on() {
    let scene = events();
    scene.lago.set_batch_limit(30);
    scene.sql(&insert_rows("usage", 400));
    assert_billed_exactly_once(&scene);
    let sizes = scene.batch_sizes();
    let first_small = sizes.iter().position(|size| *size <= 30).expect("it was halved");
    let before = sizes.len();
    scene.sql("begin; insert into usage (subscription, amount) select 'sub_1', 1 from generate_series(1, 400); commit");
    assert_billed_exactly_once(&scene);
    let later = &scene.batch_sizes()[before..];
    assert!(first_small <= 20 && later.iter().all(|size| *size <= 30), "{sizes:?} and then {later:?}");
}

#[test]
fn a_proxy_that_takes_smaller_bodies_is_obeyed_from_then_on() {
    let scene = events();
    scene.lago.fault(Fault::next(1, html(413)));
    scene.sql(&insert_rows("usage", 100));
    assert_billed_exactly_once(&scene);
    let before = scene.batch_sizes().len();
    scene.sql(&insert_rows("usage", 200));
    assert_billed_exactly_once(&scene);
    let sizes = scene.batch_sizes();
    assert!(sizes[before..].iter().all(|size| *size <= 50), "{sizes:?}");
}

/// A Lago of its own that a test configures.
fn lago_with(config: Config) -> Scene {
    let mut scene = Scene::without_destination(cluster(), Store::Postgres);
    let lago = FakeLago::start(Config { api_key: scene.api_key(), ..config }).expect("fake-lago starts");
    lago.define_metric(Metric::sum("usage", "amount"));
    for n in 0..8 {
        lago.define_subscription(Subscription::always(&format!("sub_{n}"), &format!("customer_{n}")));
    }
    scene.lago = lago;
    scene.create_destination("lago");
    scene
}

#[test]
fn an_old_lago_that_keeps_part_of_a_refused_batch_bills_everything_once() {
    let scene = lago_with(Config { legacy_partial_batch: true, ..Config::default() });
    free_table(&scene, "usage");
    scene.sql("insert into usage (transaction) values ('a')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.sql(
        "insert into usage (transaction) select 'a' union all select 'b' || n from generate_series(1, 40) n",
    );
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(ledger(&scene, "usage"), (42, 41, 0), "what it kept is seen to be there");
    assert_eq!(scene.lago.stored_count(), 41);
}

// ---- duplicates --------------------------------------------------------------------------------

/// Rows say everything about their events.
fn any_events() -> Scene {
    let scene = scene();
    free_table(&scene, "usage");
    scene
}

fn free_table(scene: &Scene, name: &str) {
    scene.sql(&format!(
        "create table {name} (id bigint generated always as identity primary key, transaction text not null,
             subscription text not null default 'sub_1', code text not null default 'usage',
             at numeric not null default 1710421740.123456, amount numeric not null default 1)"
    ));
    let template = r#"{"transaction_id": "{{ row.transaction }}", "external_subscription_id": "{{ row.subscription }}",
        "code": "{{ row.code }}", "timestamp": "{{ row.at }}", "properties": {"amount": "{{ row.amount }}"}}"#;
    scene.draft_with(name, template, "");
    scene.activate(name);
}

fn ledger(scene: &Scene, sync: &str) -> (i64, i64, i64) {
    let row = &scene.rows(&format!(
        "select delivered, duplicate, dead from lago_push.ledger where sync = '{sync}' and balanced"
    ));
    let row = row.first().expect("the ledger is balanced");
    (row.get(0), row.get(1), row.get(2))
}

#[test]
fn a_first_attempt_that_lago_has_already_is_delivered_if_it_is_the_same_event() {
    let scene = any_events();
    scene.sql("insert into usage (transaction) values ('a')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.sql(
        "insert into usage (transaction) select 'a' union all select 'b' || n from generate_series(1, 9) n",
    );
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(ledger(&scene, "usage"), (11, 1, 0));
    assert_eq!(scene.lago.stored_count(), 10);
}

#[test]
fn a_first_attempt_that_collides_with_another_event_is_a_dead_letter() {
    for other in ["code = 'other'", "at = at + 0.001", "at = at + 3600"] {
        let scene = any_events();
        scene.lago.define_metric(Metric::sum("other", "amount"));
        scene.sql("insert into usage (transaction) values ('a')");
        scene.wait_until_outbox_is_empty(PATIENCE);
        let changed = format!(
            "begin; create temp table t as select * from usage; update t set {other};
             insert into usage (transaction, subscription, code, at) select transaction, subscription, code, at from t; commit"
        );
        scene.sql(&changed);
        let reason = reason(&scene);
        assert_says(&reason, &["id collision", "transaction_id"]);
        assert!(!reason.contains("1710421740"), "no values of rows: {reason}");
        assert_eq!(ledger(&scene, "usage"), (1, 0, 1), "{other}");
    }
}

#[test]
fn one_id_in_two_subscriptions_is_two_events_even_in_one_batch() {
    let scene = any_events();
    scene.sql(
        "insert into usage (transaction, subscription) values ('a', 'sub_1'), ('a', 'sub_2'), ('b', 'sub_1')",
    );
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(ledger(&scene, "usage"), (3, 0, 0));
    assert_eq!(scene.lago.stored_count(), 3);
    // Lago shows the first event of that id when it is asked for it.
    scene.sql("insert into usage (transaction, subscription) values ('a', 'sub_2')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(ledger(&scene, "usage"), (4, 1, 0));
    scene.sql("insert into usage (transaction, subscription, at) values ('a', 'sub_2', 1710421741)");
    assert_says(&reason(&scene), &["id collision"]);
}

#[test]
fn a_collision_that_the_key_may_not_look_into_does_not_count_as_delivered() {
    let scene = any_events();
    scene.lago.set_denied(vec![Denied::read("event")]);
    scene.sql("insert into usage (transaction) values ('a')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.sql("insert into usage (transaction) values ('a')");
    assert_says(&reason(&scene), &["id collision", "read"]);
    assert_eq!(state(&scene), "open", "a key that may only write is no reason to stop");
}

#[test]
fn what_is_sent_again_after_a_lost_reply_is_a_duplicate_that_needs_no_look() {
    let scene = any_events();
    scene.lago.set_denied(vec![Denied::read("event")]);
    scene.lago.fault(Fault::next(1, Effect::Reset(Storing::Done)));
    scene.sql("insert into usage (transaction) select 't' || n from generate_series(1, 50) n");
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(ledger(&scene, "usage"), (50, 50, 0));
    assert_eq!(scene.lago.stored_count(), 50);
}

#[test]
fn validation_and_duplicates_are_two_rounds_and_every_event_finds_its_end() {
    let scene = any_events();
    scene.lago.define_metric(Metric::sum("weighed", "amount").with_expression_over(&["weight"]));
    scene.sql("insert into usage (transaction) select 't' || n from generate_series(1, 5) n");
    scene.wait_until_outbox_is_empty(PATIENCE);
    // In one batch: two that Lago has, one that collides, one without what its expression needs, and new ones.
    scene.sql(
        "insert into usage (transaction, code, at) select 't' || n,
             case when n = 20 then 'weighed' else 'usage' end, case when n = 3 then 1710421999 else 1710421740.123456 end
           from generate_series(3, 30) n",
    );
    wait_until("the outbox is empty", PATIENCE, || scene.waiting() == 0);
    assert_eq!(ledger(&scene, "usage"), (5 + 26, 2, 2));
    let reasons: Vec<String> = scene
        .rows("select reason from lago_push.dead_letters order by reason")
        .iter()
        .map(|r| r.get(0))
        .collect();
    assert_says(&reasons.concat(), &["expression_evaluation_failed", "id collision"]);
    assert_eq!(scene.lago.stored_count(), 5 + 24);
}

#[test]
fn a_single_event_endpoint_is_answered_the_same_way() {
    let scene = scene();
    scene.sql("create table usage (id int primary key, a text, at numeric default 1710421740)");
    scene.draft_with(
        "usage",
        r#"{"transaction_id": "{{ row.a }}", "external_subscription_id": "sub_1", "code": "usage", "timestamp": "{{ row.at }}", "properties": {"amount": "1"}}"#,
        "endpoint => 'manual', path => '/events', root => 'event'",
    );
    scene.activate("usage");
    scene.sql("insert into usage values (1, 'a'), (2, 'a')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(ledger(&scene, "usage"), (2, 1, 0));
    scene.sql("insert into usage values (3, 'a', 1710421741)");
    assert_says(&reason(&scene), &["id collision"]);
}

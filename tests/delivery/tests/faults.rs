//! Whatever happens between here and Lago, every row is billed once: lost replies, refusals, overload,
//! silence, nonsense, and Lago being gone.
//!
//! The oracle also checks, in every one of these tests, that no event was ever sent with two different
//! bodies.
#![forbid(unsafe_code)]

use std::time::Duration;

use delivery::oracle::{assert_billed, assert_billed_exactly_once};
use delivery::random::Random;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, wait_until};
use delivery::writers::Writers;
use fake_lago::{Effect, Fault, Metric, Store, Storing};

fn billed_scene(store: Store) -> Scene {
    let scene = Scene::with_store(store);
    scene.billed_table("usage");
    scene
}

/// Two requests in a row meet `effect`; after that everything must arrive.
fn recovers_from(store: Store, effect: Effect) {
    let scene = billed_scene(store);
    scene.sql("select lago_push.alter_destination('lago', timeout => '1 s')");
    scene.lago.fault(Fault::next(2, effect));
    scene.sql(&insert_rows("usage", 350));
    assert_billed_exactly_once(&scene);
    assert!(scene.lago.requests().iter().any(|request| request.faulted), "no request met the fault");
}

#[test]
fn an_internal_error_is_retried() {
    recovers_from(Store::Postgres, Effect::status(500));
}

#[test]
fn a_bad_gateway_is_retried() {
    recovers_from(Store::Postgres, Effect::status(502));
}

#[test]
fn an_unavailable_server_is_retried() {
    recovers_from(Store::Postgres, Effect::status(503));
}

#[test]
fn a_gateway_that_gave_up_after_lago_stored_is_retried_and_billed_once() {
    recovers_from(Store::Postgres, Effect::status(504).after_storing());
    recovers_from(Store::ClickHouse, Effect::status(504).after_storing());
}

#[test]
fn a_request_time_out_is_retried() {
    recovers_from(Store::Postgres, Effect::status(408));
}

#[test]
fn throttling_is_waited_out() {
    recovers_from(Store::Postgres, Effect::rate_limited(1));
}

#[test]
fn a_status_lago_never_sends_is_retried() {
    recovers_from(Store::Postgres, Effect::status(418));
}

#[test]
fn silence_is_given_up_and_tried_again() {
    recovers_from(Store::Postgres, Effect::Hang(Storing::Skipped));
}

#[test]
fn silence_after_storing_is_billed_once() {
    recovers_from(Store::Postgres, Effect::Hang(Storing::Done));
    recovers_from(Store::ClickHouse, Effect::Hang(Storing::Done));
}

#[test]
fn a_connection_reset_before_storing_is_retried() {
    recovers_from(Store::Postgres, Effect::Reset(Storing::Skipped));
}

#[test]
fn a_reply_cut_in_half_is_billed_once() {
    recovers_from(Store::Postgres, Effect::Truncated);
    recovers_from(Store::ClickHouse, Effect::Truncated);
}

#[test]
fn a_web_page_instead_of_a_reply_is_no_delivery() {
    recovers_from(Store::Postgres, Effect::html_ok(Storing::Skipped));
    recovers_from(Store::ClickHouse, Effect::html_ok(Storing::Done));
}

#[test]
fn an_empty_reply_is_no_delivery() {
    recovers_from(Store::Postgres, Effect::empty_ok(Storing::Skipped));
    recovers_from(Store::ClickHouse, Effect::empty_ok(Storing::Done));
}

#[test]
fn a_connection_closed_between_requests_is_replaced() {
    let scene = billed_scene(Store::Postgres);
    scene.lago.fault(Fault::always(Effect::CloseAfterReply));
    for _ in 0..10 {
        scene.sql(&insert_rows("usage", 30));
        scene.wait_until_outbox_is_empty(PATIENCE);
    }
    assert_billed_exactly_once(&scene);
}

#[test]
fn a_slow_reply_is_awaited() {
    let scene = billed_scene(Store::Postgres);
    scene.lago.fault(Fault::next(2, Effect::Drip { bytes: 512, pause: Duration::from_millis(5) }));
    scene.sql(&insert_rows("usage", 150));
    assert_billed_exactly_once(&scene);
}

fn every_third_reply_is_lost(store: Store) {
    let scene = billed_scene(store);
    scene.lago.fault(Fault::every(3, Effect::Reset(Storing::Done)));
    scene.sql(&insert_rows("usage", 1000));
    assert_billed_exactly_once(&scene);
    assert!(scene.lago.request_count() > 10, "no reply was lost");
}

#[test]
fn lost_replies_do_not_bill_twice_in_the_postgres_store() {
    every_third_reply_is_lost(Store::Postgres);
}

#[test]
fn lost_replies_do_not_bill_twice_in_the_clickhouse_store() {
    every_third_reply_is_lost(Store::ClickHouse);
}

/// A table whose transaction ids and metric codes come from the application.
fn scene_of_any_events(store: Store) -> Scene {
    let scene = Scene::with_store(store);
    scene.lago.define_metric(Metric::sum("weighed", "amount").with_expression_over(&["weight"]));
    scene.sql(
        "create table usage (
             id bigint generated always as identity primary key,
             transaction text not null,
             code text not null default 'usage',
             subscription text not null default 'sub_1',
             amount numeric not null default 1)",
    );
    scene.draft_with(
        "usage",
        r#"{"transaction_id": "{{ row.transaction }}",
            "external_subscription_id": "{{ row.subscription }}",
            "code": "{{ row.code }}",
            "timestamp": 1710421740,
            "properties": {"amount": "{{ row.amount }}"}}"#,
        "",
    );
    scene.activate("usage");
    scene
}

fn the_same_transaction_id_twice(store: Store) {
    let scene = scene_of_any_events(store);
    // Twice in one request, in two requests, and once alone.
    scene.sql("insert into usage (transaction) select 'twin-' || n / 2 from generate_series(0, 59) n");
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.sql("insert into usage (transaction) select 'twin-' || n from generate_series(20, 49) n");
    scene.wait_until_outbox_is_empty(PATIENCE);
    scene.sql("insert into usage (transaction) values ('twin-0')");
    assert_billed(&scene, "select distinct on (transaction) subscription, amount from usage");
    assert_eq!(scene.status("usage").delivered, 91);
}

#[test]
fn the_same_transaction_id_twice_is_billed_once_by_the_postgres_store() {
    the_same_transaction_id_twice(Store::Postgres);
}

#[test]
fn the_same_transaction_id_twice_is_billed_once_by_the_clickhouse_store() {
    the_same_transaction_id_twice(Store::ClickHouse);
}

#[test]
fn a_rejected_event_dies_with_its_reason_and_its_neighbours_are_billed() {
    let scene = scene_of_any_events(Store::Postgres);
    // Lago works out a weight for this metric and refuses events that have none.
    scene.sql(
        "insert into usage (transaction, code)
         select 'tx-' || n, case when n % 10 = 3 then 'weighed' else 'usage' end
         from generate_series(1, 250) n",
    );
    assert_billed(&scene, "select subscription, amount from usage where code = 'usage'");
    let status = scene.status("usage");
    assert_eq!((status.delivered, status.dead), (225, 25));
    let letters = scene.rows(
        "select sync::text, operation::text, payload::text, reason::text, reply_status::int, reply::text,
                attempts::bigint, died_at between now() - interval '10 min' and now() + interval '1 min'
         from lago_push.dead_letters order by id",
    );
    assert_eq!(letters.len(), 25);
    let letter = &letters[0];
    assert_eq!(letter.get::<_, &str>(0), "usage");
    assert_eq!(letter.get::<_, &str>(1), "insert");
    let payload: serde_json::Value = serde_json::from_str(letter.get(2)).unwrap();
    assert_eq!(payload["code"], "weighed");
    assert!(
        letter.get::<_, &str>(3).contains("expression_evaluation_failed"),
        "{:?}",
        letter.get::<_, &str>(3)
    );
    assert_eq!(letter.get::<_, i32>(4), 422);
    assert!(
        letter.get::<_, &str>(5).contains("expression_evaluation_failed"),
        "{:?}",
        letter.get::<_, &str>(5)
    );
    assert!(letter.get::<_, i64>(6) >= 1);
    assert!(letter.get::<_, bool>(7));
}

#[test]
fn a_batch_of_nothing_but_rejected_events_dies_whole() {
    let scene = scene_of_any_events(Store::Postgres);
    scene.sql(
        "insert into usage (transaction, code) select 'tx-' || n, 'weighed' from generate_series(1, 120) n",
    );
    wait_until("all are dead", PATIENCE, || scene.status("usage").dead == 120);
    scene.sql("insert into usage (transaction, code) values ('alone', 'weighed')");
    wait_until("the lone one too", PATIENCE, || scene.status("usage").dead == 121);
    assert_eq!((scene.waiting(), scene.lago.stored_count()), (0, 0));
}

#[test]
fn a_batch_with_duplicates_and_rejected_events_is_settled_in_two_rounds() {
    for store in [Store::Postgres, Store::ClickHouse] {
        let scene = scene_of_any_events(store);
        scene.sql("insert into usage (transaction) select 'tx-' || n from generate_series(1, 30) n");
        scene.wait_until_outbox_is_empty(PATIENCE);
        scene.sql(
            "insert into usage (transaction, code)
             select 'tx-' || n, case when n % 10 = 3 and n > 30 then 'weighed' else 'usage' end
             from generate_series(21, 100) n",
        );
        assert_billed(
            &scene,
            "select distinct on (transaction) subscription, amount from usage where code = 'usage'",
        );
        let status = scene.status("usage");
        assert_eq!((status.delivered, status.dead), (103, 7));
    }
}

#[test]
fn a_timestamp_lago_cannot_read_is_a_dead_letter() {
    let scene = Scene::new();
    scene.sql("create table usage (id int primary key, subscription text, amount numeric, at text)");
    scene.draft_with(
        "usage",
        r#"{"transaction_id": "tx-{{ row.id }}", "external_subscription_id": "{{ row.subscription }}",
            "code": "usage", "timestamp": "{{ row.at }}", "properties": {"amount": "{{ row.amount }}"}}"#,
        "",
    );
    scene.activate("usage");
    scene.sql(
        "insert into usage values
             (1, 'sub_1', 1, '1710421740'), (2, 'sub_1', 2, 'yesterday'), (3, 'sub_1', 4, '1710421740.5')",
    );
    assert_billed(&scene, "select subscription, amount from usage where at <> 'yesterday'");
    assert_eq!(scene.status("usage").dead, 1);
}

#[test]
fn nothing_is_lost_while_lago_is_gone() {
    let scene = billed_scene(Store::Postgres);
    let writers = Writers::start(&scene, "usage", 4, &mut Random::seeded(404));
    wait_until("the first events have arrived", PATIENCE, || scene.lago.stored_count() > 100);
    scene.lago.stop();
    let before = writers.commits();
    wait_until("the outage is noticed", PATIENCE, || scene.destination_error().is_some());
    wait_until("the writers went on", PATIENCE, || writers.commits() > before + 200);
    scene.lago.resume().unwrap();
    wait_until("the writers went on", PATIENCE, || writers.commits() > before + 400);
    writers.stop();
    assert_billed_exactly_once(&scene);
}

#[test]
fn an_outage_is_told_to_the_operator() {
    let scene = billed_scene(Store::Postgres);
    scene.lago.fault(Fault::always(Effect::status(503)));
    scene.sql(&insert_rows("usage", 10));
    let error = wait_until("the destination shows its error", PATIENCE, || scene.destination_error());
    assert!(error.contains("503"), "{error}");
    let row = &scene
        .rows("select state::text, last_status::int from lago_push.destinations where name = 'lago'")[0];
    assert_eq!(row.get::<_, &str>(0), "backing off");
    assert_eq!(row.get::<_, i32>(1), 503);
    assert_eq!(scene.waiting(), 10);
    scene.lago.clear_faults();
    assert_billed_exactly_once(&scene);
}

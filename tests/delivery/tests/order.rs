//! Promise 5: with `order_by`, messages of one key reach Lago in commit order, one at a time, whatever
//! happens to requests, workers and servers; other keys go on meanwhile.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use delivery::cluster::{Cluster, Options, Stop};
use delivery::random::Random;
use delivery::scene::Scene;
use delivery::wait::{LONG_PATIENCE, PATIENCE, wait_until};
use fake_lago::{Effect, Fault, Metric, Store, Storing};

/// Rows with a key, and a number that grows within it.
fn ordered(scene: &Scene, more: &str) {
    scene.sql(
        "create table steps (id bigint generated always as identity primary key, key text, n bigint not null,
             code text not null default 'usage')",
    );
    scene.draft_with(
        "steps",
        r#"{"transaction_id": "{{ row.id }}", "external_subscription_id": "sub_1", "code": "{{ row.code }}",
            "timestamp": 1710421740, "properties": {"amount": "1", "key": "{{ row.key }}", "n": "{{ row.n }}"}}"#,
        &format!("order_by => 'key'{more}"),
    );
    scene.activate("steps");
}

fn insert(keys: usize, from: usize, to: usize) -> String {
    format!(
        "insert into steps (key, n) select 'key ' || k, n from generate_series({from}, {to}) n, generate_series(1, {keys}) k order by n"
    )
}

/// The numbers of each key in the order in which Lago stored them for the first time, with the requests
/// that brought them.
fn stored(scene: &Scene) -> BTreeMap<String, Vec<(i64, u64)>> {
    let mut found: BTreeMap<String, Vec<(i64, u64)>> = BTreeMap::new();
    let mut events: Vec<_> = scene.lago.stored().into_iter().filter(|event| !event.duplicate).collect();
    events.sort_by_key(|event| event.request);
    for event in events {
        let text =
            |name: &str| event.properties.get(name).and_then(|value| value.as_str()).unwrap_or_default();
        let n = text("n").parse().expect("a number");
        found.entry(text("key").to_owned()).or_default().push((n, event.request));
    }
    found
}

#[track_caller]
fn assert_in_order(scene: &Scene, keys: usize, each: usize) {
    let stored = stored(scene);
    assert_eq!(stored.len(), keys);
    for (key, steps) in stored {
        assert_eq!(steps.len(), each, "{key}");
        for pair in steps.windows(2) {
            assert!(pair[0].0 < pair[1].0, "{key}: {} came before {}", pair[0].0, pair[1].0);
            assert!(pair[0].1 < pair[1].1, "{key}: {} and {} in one request", pair[0].0, pair[1].0);
        }
    }
}

#[test]
fn messages_of_a_key_go_one_after_the_other_and_those_of_others_beside_them() {
    let scene = Scene::new();
    ordered(&scene, "");
    scene.sql(&insert(20, 1, 25));
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_in_order(&scene, 20, 25);
    assert!(scene.batch_sizes().iter().any(|size| *size >= 10), "{:?}", scene.batch_sizes());
}

#[test]
fn a_failing_message_holds_up_its_key_and_no_other() {
    let scene = Scene::new();
    ordered(&scene, "");
    scene.lago.define_metric(Metric::sum("late", "amount"));
    let contention = r#"{"status":422,"error":"Unprocessable Entity","code":"lock_acquisition_failed"}"#;
    scene.lago.fault(Fault::always(Effect::status(500)).on_body("\"code\":\"late\""));
    scene.lago.fault(Fault::next(3, Effect::json(422, contention)).on_body("no such"));
    scene.sql("insert into steps (key, n, code) values ('key 1', 0, 'late')");
    scene.sql(&insert(4, 1, 10));
    wait_until("the other keys have arrived", PATIENCE, || {
        let stored = stored(&scene);
        (2..=4).all(|key| stored.get(&format!("key {key}")).is_some_and(|steps| steps.len() == 10))
    });
    assert_eq!(stored(&scene).get("key 1"), None, "it waits for the one that fails");
    assert_eq!(scene.waiting(), 11);
    scene.lago.clear_faults();
    scene.wait_until_outbox_is_empty(LONG_PATIENCE);
    let first = stored(&scene).remove("key 1").expect("it has arrived");
    assert_eq!(first.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..=10).collect::<Vec<_>>());
}

#[test]
fn a_dead_letter_lets_its_key_go_on() {
    let scene = Scene::new();
    ordered(&scene, "");
    scene.lago.define_metric(Metric::sum("weighed", "amount").with_expression_over(&["weight"]));
    scene.sql(
        "insert into steps (key, n, code) values ('a', 1, 'usage'), ('a', 2, 'weighed'), ('a', 3, 'usage')",
    );
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(scene.status("steps").dead, 1);
    let steps = stored(&scene).remove("a").expect("the key has arrived");
    assert_eq!(steps.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 3]);
}

fn order_outlasts(store: Store, faults: &[Fault]) {
    let scene = Scene::with_store(store);
    ordered(&scene, "");
    scene.sql("select lago_push.alter_destination('lago', timeout => '1 s')");
    for fault in faults {
        scene.lago.fault(fault.clone());
    }
    for round in 0..5 {
        scene.sql(&insert(12, round * 5 + 1, round * 5 + 5));
    }
    scene.wait_until_outbox_is_empty(LONG_PATIENCE);
    assert_in_order(&scene, 12, 25);
    assert!(scene.lago.sent_differently().is_empty());
}

#[test]
fn order_outlasts_lost_replies_splits_and_failures_with_the_postgres_store() {
    order_outlasts(
        Store::Postgres,
        &[
            Fault::every(5, Effect::Reset(Storing::Done)),
            Fault::every(7, Effect::status(500)),
            Fault::every(11, Effect::status(503)),
            Fault::next(1, Effect::json(413, "{}")),
        ],
    );
}

#[test]
fn order_outlasts_lost_replies_splits_and_failures_with_the_clickhouse_store() {
    order_outlasts(
        Store::ClickHouse,
        &[Fault::every(4, Effect::status(500).after_storing()), Fault::every(6, Effect::Truncated)],
    );
}

#[test]
fn order_outlasts_the_death_of_worker_and_server() {
    let scene = Scene::on(Cluster::start(&Options::durable()), Store::Postgres);
    ordered(&scene, "");
    scene.lago.set_latency(Duration::from_millis(5));
    scene.lago.fault(Fault::every(9, Effect::Reset(Storing::Done)));
    let mut random = Random::seeded(5);
    for round in 0..6 {
        scene.sql(&insert(10, round * 5 + 1, round * 5 + 5));
        let stored = scene.lago.stored_count() + random.below(20);
        wait_until("some have arrived", PATIENCE, || {
            scene.lago.stored_count() >= stored || scene.waiting() == 0
        });
        if round % 2 == 0 {
            let mut witness = scene.cluster.connect("postgres");
            scene.cluster.kill9(scene.wait_for_worker());
            wait_until("the server has noticed", PATIENCE, || witness.simple_query("select 1").is_err());
            scene.cluster.wait_until_ready();
        } else {
            scene.cluster.stop(Stop::Immediate);
            scene.cluster.start_again();
        }
    }
    scene.wait_until_outbox_is_empty(LONG_PATIENCE);
    assert_in_order(&scene, 10, 30);
}

/// One writer's transactions: each takes the next number of a key, whose row it locks until it is decided.
fn write_steps(scene: &Scene, writer: u64, transactions: u64) {
    let mut random = Random::from_seed(writer);
    let mut db = scene.db();
    for number in 0..transactions {
        let key = format!("key {}", random.below(3) + 1);
        let step = format!(
            "begin; with next as (update counters set n = n + 1 where key = '{key}' returning key, n)
             insert into steps (key, n) select key, n from next"
        );
        let filler = "insert into steps (key, n) select 'filler ' || g, 0 from generate_series(1, 2500) g";
        let end = match random.below(3) {
            0 => format!("prepare transaction 'w{writer}_{number}'; commit prepared 'w{writer}_{number}'"),
            1 => format!("{filler}; commit"),
            _ => "commit".to_owned(),
        };
        for statement in step.split("; ").chain(end.split("; ")) {
            db.batch_execute(statement).unwrap_or_else(|e| panic!("{e:?}\nin: {statement}"));
        }
    }
}

#[test]
fn a_transaction_decided_late_keeps_its_turn_while_the_worker_reads_a_backlog() {
    let cluster = Cluster::start(&Options::default().with("lago_push.worker_memory", "1MB"));
    let scene = Scene::on(cluster, Store::ClickHouse);
    ordered(&scene, "");
    scene.lago.set_latency(Duration::from_millis(2));
    scene.sql(
        "create table counters (key text primary key, n bigint not null);
               insert into counters select 'key ' || k, 0 from generate_series(1, 3) k",
    );
    thread::scope(|scope| {
        for writer in 0..6 {
            let scene = &scene;
            scope.spawn(move || write_steps(scene, writer, 40));
        }
    });
    scene.wait_until_outbox_is_empty(LONG_PATIENCE);
    for (key, steps) in stored(&scene).into_iter().filter(|(key, _)| key.starts_with("key")) {
        let numbers: Vec<i64> = steps.iter().map(|(n, _)| *n).collect();
        let last: i64 = scene.value(&format!("select n from counters where key = '{key}'"));
        assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{key}");
    }
}

#[test]
fn order_outlasts_a_pause_and_a_hold_in_the_middle() {
    let scene = Scene::new();
    ordered(&scene, "");
    scene.lago.set_latency(Duration::from_millis(3));
    scene.sql(&insert(10, 1, 20));
    for _ in 0..4 {
        let before = scene.lago.stored_count();
        wait_until("some have arrived", PATIENCE, || {
            scene.lago.stored_count() > before || scene.waiting() == 0
        });
        scene.sql("select lago_push.pause('steps')");
        scene.sql("select lago_push.resume('steps')");
        scene.sql("select lago_push.hold('lago')");
        scene.sql("select lago_push.release('lago')");
    }
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_in_order(&scene, 10, 20);
}

#[test]
fn the_start_and_the_end_of_a_subscription_do_not_overtake_each_other() {
    let scene = Scene::new();
    scene.sql("create table plans (code text primary key)");
    scene.draft_with(
        "plans",
        r#"{"name": "p", "code": "{{ row.code }}", "interval": "monthly", "amount_cents": 1, "amount_currency": "EUR", "pay_in_advance": false}"#,
        "endpoint => 'plan'",
    );
    scene.activate("plans");
    scene.sql("insert into plans values ('p')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    // One row a change: what is to be done, in the order in which it happened.
    scene.sql("create table changes (id bigint generated always as identity primary key, subscription text, name text)");
    let template = r#"{"external_id": "{{ row.subscription }}", "external_customer_id": "acme", "plan_code": "p", "name": "{{ row.name }}"}"#;
    scene.draft_with("changes", template, "endpoint => 'subscription', order_by => '{{ row.subscription }}'");
    scene.activate("changes");
    scene.lago.fault(Fault::every(3, Effect::status(503)));
    scene.sql("insert into changes (subscription, name) select 's' || s, n from generate_series(1, 12) n, generate_series(1, 5) s order by n");
    scene.wait_until_outbox_is_empty(LONG_PATIENCE);
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for request in scene.lago.requests().iter().filter(|request| request.path.ends_with("/subscriptions")) {
        let Some(Ok(body)) = request.body.as_deref().map(serde_json::from_str::<serde_json::Value>) else {
            continue;
        };
        let subscription = &body["subscription"];
        let id = subscription["external_id"].as_str().expect("an id").to_owned();
        let n: i64 = subscription["name"].as_str().expect("a name").parse().expect("a number");
        let before = last.insert(id.clone(), n).unwrap_or(0);
        assert!(n == before || n == before + 1, "{id}: {n} after {before}");
    }
    assert!(last.values().all(|n| *n == 12) && last.len() == 5, "{last:?}");
}

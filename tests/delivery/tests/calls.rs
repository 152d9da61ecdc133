//! Calls that are not event batches: each goes as its sync says, shares requests with its like only, and
//! is never made twice where that would do harm.
#![forbid(unsafe_code)]

use delivery::cluster::{Cluster, Options};
use delivery::oracle::assert_billed_exactly_once;
use delivery::scene::{Scene, insert_rows};
use delivery::wait::{PATIENCE, wait_until};
use fake_lago::{Effect, Fault, RequestLog, Store, Storing};

/// An active sync of that name whose definition is then set as `set` says. Its messages are put into the
/// outbox as they are: what is tried here begins there.
fn sync(scene: &Scene, name: &str, set: &str) {
    scene.billed_table(name);
    change(scene, name, set);
}

fn change(scene: &Scene, name: &str, set: &str) {
    scene.sql(&format!("update lago_push.sync set {set} where name = '{name}'; select lago_push._wake()"));
}

/// A sync of single calls.
fn manual(scene: &Scene, name: &str, method: &str, path: &str, root: Option<&str>) {
    let root = root.map_or("null".to_owned(), |root| format!("'{root}'"));
    sync(scene, name, &format!("endpoint = 'manual', method = '{method}', path = '{path}', root = {root}"));
}

fn enqueue(scene: &Scene, name: &str, payload: &str, path: Option<&str>) {
    // The transaction has its id before the message has its own, as in capture.
    let sql = "with transaction as materialized (select txid_current())
               insert into lago_push.message (id, enqueued_at, sync_id, operation, payload, path)
               select nextval('lago_push.message_id'), now(), s.id, 'i', $2, $3
                 from transaction, lago_push.sync s where s.name = $1";
    scene.run(sql, &[&name, &payload, &path]);
    scene.sql("select lago_push._wake()");
}

/// The requests that match, once there are so many of them.
fn requests(scene: &Scene, count: usize, wanted: impl Fn(&RequestLog) -> bool) -> Vec<RequestLog> {
    wait_until("the requests have come", PATIENCE, || {
        let found: Vec<RequestLog> = scene.lago.requests().into_iter().filter(|r| wanted(r)).collect();
        (found.len() >= count).then_some(found)
    })
}

fn header<'a>(request: &'a RequestLog, name: &str) -> Vec<&'a str> {
    let named = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
    request.headers.iter().filter(named).map(|(_, value)| value.as_str()).collect()
}

/// On a server that gives a message up at its first failure.
fn impatient() -> Scene {
    Scene::on(Cluster::start(&Options::default().with("lago_push.max_attempts", "1")), Store::Postgres)
}

fn dead_letter(scene: &Scene, name: &str) -> String {
    let sql = format!("select min(reason) from lago_push.dead_letters where sync = '{name}'");
    wait_until("there is a dead letter", PATIENCE, || scene.value::<Option<String>>(&sql))
}

#[test]
fn single_calls_go_with_their_method_path_and_root() {
    let scene = Scene::new();
    manual(&scene, "customers", "POST", "/customers", Some("customer"));
    manual(&scene, "bare", "POST", "/customers", None);
    manual(&scene, "updates", "PUT", "/subscriptions/sub_0", Some("subscription"));
    enqueue(&scene, "customers", r#"{"external_id":"acme","name":"Acme"}"#, None);
    enqueue(&scene, "bare", r#"{"customer":{"external_id":"bolt"}}"#, None);
    enqueue(&scene, "updates", r#"{"name":"Basic"}"#, Some("/subscriptions/sub_1"));
    scene.wait_until_outbox_is_empty(PATIENCE);
    for name in ["customers", "bare", "updates"] {
        let status = scene.status(name);
        assert_eq!((status.delivered, status.dead), (1, 0), "{name}: {status:?}");
    }
    let sent = |method: &str, path: &str, body: &str| {
        let found = requests(&scene, 1, |r| r.method == method && r.path.ends_with(path));
        found.iter().any(|r| r.body.as_deref() == Some(body))
    };
    assert!(sent("POST", "/customers", r#"{"customer":{"external_id":"acme","name":"Acme"}}"#));
    assert!(sent("POST", "/customers", r#"{"customer":{"external_id":"bolt"}}"#));
    assert!(
        sent("PUT", "/subscriptions/sub_1", r#"{"subscription":{"name":"Basic"}}"#),
        "the row's own path"
    );
}

#[test]
fn a_table_of_customers_is_kept_up_to_date_in_lago() {
    let scene = Scene::new();
    scene.sql("create table customers (id text primary key, name text)");
    let template = r#"{"external_id": "{{ row.id }}", "name": "{{ row.name }}"}"#;
    scene.run(
        "select lago_push.create_sync('customers', source => 'customers', template => $1::text,
             endpoint => 'customer', operations => '{insert,update}', schedule => '1 s', keep_replies => '1 h')",
        &[&template],
    );
    scene.run(
        "select lago_push.create_sync('leavers', source => 'customers', template => $1::text,
             endpoint => 'customer_delete', operations => '{delete}')",
        &[&r#"{"external_id": "{{ old.id }}"}"#],
    );
    scene.activate("customers");
    scene.activate("leavers");
    scene.sql("insert into customers values ('a.b@c', 'A')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    let reply: String = scene.value("select reply #>> '{customer,external_id}' from lago_push.replies");
    assert_eq!(reply, "a.b@c");
    scene.sql("delete from customers");
    scene.wait_until_outbox_is_empty(PATIENCE);
    let deletion = requests(&scene, 1, |request| request.method == "DELETE").remove(0);
    assert!(deletion.path.ends_with("/customers/a%2Eb%40c"), "{}", deletion.path);
    assert_eq!((deletion.status, deletion.body_bytes), (Some(200), 0));
}

#[test]
fn a_deletion_has_no_body_goes_to_the_very_path_and_is_done_when_there_is_nothing() {
    let scene = Scene::new();
    manual(&scene, "leavers", "DELETE", "/customers/{{ row.id }}", None);
    enqueue(&scene, "leavers", "", Some("/customers/user%40example%2Ecom"));
    enqueue(&scene, "leavers", r#"{"ignored":true}"#, Some("/customers/nobody"));
    scene.wait_until_outbox_is_empty(PATIENCE);
    let status = scene.status("leavers");
    assert_eq!((status.delivered, status.dead), (2, 0), "{status:?}");
    let deletions = requests(&scene, 2, |request| request.method == "DELETE");
    assert!(deletions.iter().any(|request| request.path.ends_with("/customers/user%40example%2Ecom")));
    for request in &deletions {
        assert_eq!((request.body_bytes, &request.content_type), (0, &None), "{request:?}");
        assert_eq!(header(request, "transfer-encoding"), [""; 0]);
    }
}

#[test]
fn a_syncs_headers_win_over_the_destinations() {
    let scene = Scene::new();
    scene.sql(
        r#"select lago_push.alter_destination('lago', headers => '{"X-Tenant": "all", "X-Kind": "bill"}')"#,
    );
    sync(&scene, "usage", r#"headers = '{"x-tenant": "acme"}'"#);
    scene.sql(&insert_rows("usage", 1));
    scene.wait_until_outbox_is_empty(PATIENCE);
    let request = requests(&scene, 1, |request| request.events == 1).remove(0);
    assert_eq!(header(&request, "X-Tenant"), ["acme"]);
    assert_eq!(header(&request, "X-Kind"), ["bill"]);
}

#[test]
fn a_request_holds_events_of_syncs_with_the_same_headers_up_to_the_smallest_batch_size() {
    let scene = Scene::new();
    sync(&scene, "few", "batch_size = 10");
    sync(&scene, "many", "batch_size = 100");
    sync(&scene, "own", r#"headers = '{"X-Tenant": "own"}'"#);
    scene.sql("select lago_push.hold('lago')");
    for table in ["few", "many", "own"] {
        scene.sql(&insert_rows(table, 50));
    }
    scene.sql("select lago_push.release('lago')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    let all = scene.lago.requests();
    let (own, shared): (Vec<_>, Vec<_>) = all.iter().partition(|r| !header(r, "X-Tenant").is_empty());
    assert_eq!(own.iter().map(|request| request.events).collect::<Vec<_>>(), [50]);
    assert_eq!(shared.iter().map(|request| request.events).collect::<Vec<_>>(), [10; 10]);
}

#[test]
fn events_are_not_held_up_by_a_backlog_of_single_calls() {
    let scene = Scene::new();
    manual(&scene, "customers", "PUT", "/subscriptions/sub_0", Some("subscription"));
    scene.billed_table("usage");
    scene.sql("select lago_push.alter_destination('lago', connections => 1); select lago_push.hold('lago')");
    scene.sql(
        "insert into lago_push.message (id, enqueued_at, sync_id, operation, payload)
         select nextval('lago_push.message_id'), now(), s.id, 'i', '{\"name\":\"x\"}'
           from lago_push.sync s, generate_series(1, 300) where s.name = 'customers'",
    );
    scene.sql(&insert_rows("usage", 100));
    scene.sql("select lago_push.release('lago')");
    scene.wait_until_outbox_is_empty(PATIENCE);
    let order: Vec<usize> = scene.batch_sizes();
    let events_at = order.iter().position(|events| *events == 100).expect("one batch of events");
    assert!(events_at < 10, "the batch waited for {events_at} single calls");
}

#[test]
fn a_top_up_whose_reply_is_lost_is_not_made_again() {
    let scene = Scene::new();
    manual(&scene, "top_ups", "POST", "/wallet_transactions", Some("wallet_transaction"));
    scene.lago.fault(Fault::next(1, Effect::Reset(Storing::Done)));
    enqueue(&scene, "top_ups", r#"{"wallet_id":"w","granted_credits":"5"}"#, None);
    let reason = dead_letter(&scene, "top_ups");
    assert!(reason.contains("the outcome is unknown") && reason.contains("look it up in Lago"), "{reason}");
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 1));
    scene.wait_until_outbox_is_empty(PATIENCE);
    let made = requests(&scene, 1, |request| request.path.ends_with("/wallet_transactions"));
    assert_eq!(made.len(), 1);
}

#[test]
fn a_top_up_that_certainly_did_not_reach_lago_is_made_when_it_is_back() {
    let scene = impatient();
    manual(&scene, "top_ups", "POST", "/wallet_transactions", Some("wallet_transaction"));
    scene.lago.stop();
    enqueue(&scene, "top_ups", r#"{"wallet_id":"w","granted_credits":"5"}"#, None);
    wait_until("it was tried", PATIENCE, || scene.destination_error().is_some());
    assert_eq!(scene.waiting(), 1);
    scene.lago.fault(Fault::next(1, Effect::status(503)));
    scene.lago.resume().expect("the port is free");
    let reason = dead_letter(&scene, "top_ups");
    assert!(reason.contains("wallet_not_found"), "{reason}");
    assert_eq!(requests(&scene, 2, |request| request.method == "POST").len(), 2, "once refused by 503");
}

#[test]
fn a_top_up_under_way_when_the_worker_dies_is_not_made_again() {
    let scene = Scene::on(Cluster::start(&Options::durable()), Store::Postgres);
    manual(&scene, "top_ups", "POST", "/wallet_transactions", Some("wallet_transaction"));
    scene.lago.fault(Fault::next(1, Effect::Hang(Storing::Done)));
    enqueue(&scene, "top_ups", r#"{"wallet_id":"w","granted_credits":"5"}"#, None);
    let made = |request: &RequestLog| request.path.ends_with("/wallet_transactions");
    requests(&scene, 1, made);
    let mut witness = scene.cluster.connect("postgres");
    scene.cluster.kill9(scene.wait_for_worker());
    wait_until("the server has noticed the death", PATIENCE, || witness.simple_query("select 1").is_err());
    scene.cluster.wait_until_ready();
    let reason = dead_letter(&scene, "top_ups");
    assert!(reason.contains("the worker ended while the call was under way"), "{reason}");
    assert_eq!((requests(&scene, 1, made).len(), scene.waiting()), (1, 0));
    assert_eq!(scene.value::<i64>("select count(*) from lago_push.retry"), 0);
}

#[test]
fn a_worker_sent_away_in_the_middle_of_its_work_comes_back_without_a_commit() {
    let scene = Scene::new();
    scene.billed_table("usage");
    scene.lago.stop();
    scene.sql(&insert_rows("usage", 10));
    wait_until("it was tried", PATIENCE, || scene.destination_error().is_some());
    let worker = scene.wait_for_worker();
    scene.run("select pg_terminate_backend($1)", &[&worker]);
    wait_until("the worker has gone", PATIENCE, || scene.cluster.worker_pid(&scene.database) != Some(worker));
    scene.lago.resume().expect("the port is free");
    assert_billed_exactly_once(&scene);
}

#[test]
fn what_lago_will_never_take_is_a_dead_letter_that_says_why() {
    let scene = impatient();
    manual(&scene, "plans", "POST", "/plans", Some("plan"));
    manual(&scene, "subscriptions", "POST", "/subscriptions", Some("subscription"));
    manual(&scene, "nowhere", "POST", "/no_such_thing", None);
    let plan = r#"{"name":"p","code":"p","interval":"monthly","amount_cents":1,"amount_currency":"EUR","pay_in_advance":false}"#;
    enqueue(&scene, "plans", plan, None);
    scene.wait_until_outbox_is_empty(PATIENCE);
    assert_eq!(scene.status("plans").delivered, 1);
    enqueue(&scene, "plans", plan, None);
    let reason = dead_letter(&scene, "plans");
    assert!(reason.contains("code: value_already_exist; change what exists"), "{reason}");
    let subscription = r#"{"external_customer_id":"c","external_id":"s","plan_code":"missing"}"#;
    enqueue(&scene, "subscriptions", subscription, None);
    assert!(dead_letter(&scene, "subscriptions").contains("404 plan_not_found"));
    enqueue(&scene, "nowhere", r#"{"a":1}"#, None);
    assert!(dead_letter(&scene, "nowhere").contains("correct the path"));
    assert_eq!(scene.waiting(), 0);
}

#[test]
fn a_sync_whose_call_is_not_known_waits_and_hinders_no_other() {
    let scene = Scene::new();
    sync(&scene, "odd", "endpoint = 'no_such_endpoint'");
    enqueue(&scene, "odd", r#"{"a":1}"#, None);
    scene.billed_table("usage");
    scene.sql(&insert_rows("usage", 1));
    scene.wait_for_event("usage-1");
    wait_until("the event is settled, and the other message waits", PATIENCE, || scene.waiting() == 1);
    let log = scene.cluster.log();
    assert!(log.contains("cannot deliver sync \"odd\" as defined"), "{log}");
    change(&scene, "odd", "endpoint = 'manual', method = 'POST', path = '/customers', root = 'customer'");
    scene.wait_until_outbox_is_empty(PATIENCE);
}

//! `--data`: what was answered is there after `kill -9`, whatever was under way.

mod client;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use client::program::Program;
use client::*;
use fake_lago::{Config, FakeLago, Kind, Metric, Store, Subscription};
use serde_json::{Value, json};

/// A file that is gone when the test ends.
struct Data(PathBuf);

impl Data {
    fn new() -> Data {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Data(std::env::temp_dir().join(format!("fake-lago-data-{}-{number}", std::process::id())))
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("a text")
    }

    fn server(&self, store: Store) -> FakeLago {
        let config = Config { store, data: Some(self.0.clone()), ..Config::default() };
        FakeLago::start(config).expect("a free port and a sound file")
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Four senders post batches, single events and top-ups until the server is killed; everything that was answered
/// 200 must be there when it is back.
fn killed_in_a_stream_of_posts(store: &str) {
    let data = Data::new();
    let arguments = ["--data", data.text(), "--store", store];
    let mut program = Program::start(&arguments);
    let addr = program.addr;
    let wallet = json!({"external_customer_id": "c"});
    let wallet = Client::at(addr).admin("POST", "objects/wallet", &wallet)["lago_ids"][0].clone();
    let answered = Mutex::new(Vec::new());
    let top_ups = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for sender in 0..4 {
            let (answered, top_ups, wallet) = (&answered, &top_ups, &wallet);
            scope.spawn(move || {
                let mut client = Client::at(addr);
                for at in 0_u32.. {
                    let ids: Vec<String> = (0..=at % 3).map(|n| format!("{sender}:{at}:{n}")).collect();
                    let events: Vec<Value> = ids.iter().map(|id| event(id)).collect();
                    let posted = client.try_post(BATCH, &json!({"events": events}).to_string());
                    let Ok(answer) = posted else { return };
                    assert_eq!(answer.status, 200);
                    answered.lock().expect("sound").extend(ids);
                    let top_up = json!({"wallet_transaction": {
                        "wallet_id": wallet, "granted_credits": "1",
                        "metadata": [{"key": "id", "value": format!("{sender}:{at}")}],
                    }});
                    let Ok(answer) = client.try_post("/api/v1/wallet_transactions", &top_up.to_string())
                    else {
                        return;
                    };
                    assert_eq!(answer.status, 200);
                    top_ups.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while top_ups.load(Ordering::Relaxed) < 200 {
            std::thread::yield_now();
        }
        program.kill();
    });
    let top_ups = top_ups.into_inner();
    let answered = answered.into_inner().expect("sound");

    // As a process that died in the middle of a line leaves it.
    let mut bytes = std::fs::read(&data.0).expect("the file");
    bytes.extend_from_slice(b"[{\"event\":{\"lago_id\":\"");
    std::fs::write(&data.0, bytes).expect("written");

    let program = Program::start(&arguments);
    let mut client = Client::at(program.addr);
    for id in &answered {
        assert_eq!(client.get(&format!("/api/v1/events/{id}")).status, 200, "{id} was answered and is lost");
    }
    let made = client.admin("GET", "objects/wallet_transactions", &Value::Null);
    let made = u64::try_from(made.as_array().expect("an array").len()).expect("a number");
    // Each of the four may have made one more whose answer was lost.
    assert!((top_ups..=top_ups + 4).contains(&made), "{top_ups} answered, {made} made");
    let wallets = client.admin("GET", "objects/wallets", &Value::Null);
    assert_eq!(wallets[0]["credits_balance"], made.to_string());

    // The rules still hold, and what is new gets a new id.
    let again = client.event(&event(&answered[0]));
    assert_eq!(again.status, if store == "postgres" { 422 } else { 200 });
    assert_eq!(client.event(&event("new")).status, 200);
    let stored = client.admin("GET", "stored?limit=1000000", &Value::Null);
    let ids: Vec<&str> =
        stored["events"].as_array().expect("events").iter().filter_map(|e| e["lago_id"].as_str()).collect();
    let distinct: std::collections::HashSet<&str> = ids.iter().copied().collect();
    assert_eq!(distinct.len(), ids.len());
    assert!(client.admin("GET", "sent_twice", &Value::Null).as_array().is_some_and(Vec::is_empty));
    let other = event_with(&answered[0], "code", json!("tokens"));
    client.event(&other);
    assert_eq!(client.admin("GET", "sent_twice", &Value::Null)[0]["call"], "events");
}

#[test]
fn what_was_answered_survives_kill_9_in_the_postgres_store() {
    killed_in_a_stream_of_posts("postgres");
}

#[test]
fn what_was_answered_survives_kill_9_in_the_clickhouse_store() {
    killed_in_a_stream_of_posts("clickhouse");
}

#[test]
fn a_server_begins_where_the_last_one_ended() {
    for store in [Store::Postgres, Store::ClickHouse] {
        let data = Data::new();
        let before = data.server(store);
        before.define_metric(Metric::sum("priced", "n").with_expression_over(&["m"]));
        before.define_metric(Metric::count("calls"));
        before.define_subscription(Subscription::always("sub_1", "customer_1"));
        let mut client = Client::new(&before);
        let mut send = |path: &str, body: Value| client.post(path, &body.to_string());
        assert_eq!(
            send("/api/v1/customers", json!({"customer": {"external_id": "c", "name": "a"}})).status,
            200
        );
        assert_eq!(
            send("/api/v1/customers", json!({"customer": {"external_id": "c", "name": "b"}})).status,
            200
        );
        assert_eq!(send("/api/v1/customers", json!({"customer": {"external_id": "gone"}})).status, 200);
        assert_eq!(client.delete("/api/v1/customers/gone").status, 200);
        let metric = json!({"name": "m", "code": "made", "aggregation_type": "count_agg"});
        let mut send = |path: &str, body: Value| client.post(path, &body.to_string());
        assert_eq!(send("/api/v1/billable_metrics", json!({"billable_metric": metric})).status, 200);
        for id in ["a", "b"] {
            assert_eq!(send(EVENTS, json!({"event": event(id)})).status, 200);
        }
        assert_eq!(before.delete_events("b"), 1);
        assert_eq!(send(EVENTS, json!({"event": event_with("x", "code", json!("priced"))})).status, 422);

        let look = |server: &FakeLago| {
            let bill = server.bill();
            (
                server.stored(),
                server.counters().requests,
                server.requests(),
                server.copies(),
                server.customers(),
                server.objects(Kind::BillableMetric),
                (bill.lines, bill.never_billed.len()),
            )
        };
        let (events, requests, log, copies, customers, metrics, bill) = look(&before);
        drop(before);
        let after = data.server(store);
        let found = look(&after);
        let whole_micros = |mut events: Vec<fake_lago::StoredEvent>| {
            events.iter_mut().for_each(|event| event.received_at = std::time::SystemTime::UNIX_EPOCH);
            events
        };
        assert_eq!(whole_micros(found.0), whole_micros(events));
        assert_eq!((found.1, found.2.len()), (requests, log.len()));
        assert_eq!((found.3.len(), found.4, found.5, found.6), (copies.len(), customers, metrics, bill));
        assert_eq!(after.customer("c").expect("there")["name"], "b");

        // The expression of a metric is not part of its object.
        let mut client = Client::new(&after);
        assert_eq!(client.event(&event_with("x", "code", json!("priced"))).status, 422);
        assert_eq!(client.get("/api/v1/events/b").status, 404);
        assert_eq!(after.requests().last().expect("one").number, requests + 2);
        let blocked = client.event(&event("b"));
        assert_eq!(blocked.status, if store == Store::Postgres { 422 } else { 200 });
    }
}

#[test]
fn a_reset_is_kept() {
    let data = Data::new();
    let program = Program::start(&["--data", data.text()]);
    let mut client = Client::at(program.addr);
    client.admin("POST", "metrics", &json!({"code": "calls"}));
    assert_eq!(client.event(&event("a")).status, 200);
    client.admin("POST", "reset", &Value::Null);
    assert_eq!(client.event(&event("b")).status, 200);
    drop(program);
    let after = data.server(Store::Postgres);
    assert_eq!(ids(&after), ["b"]);
    assert_eq!(after.objects(Kind::BillableMetric).len(), 1);
    assert_eq!(after.bill().never_billed.len(), 1, "its subscription is unknown");
}

#[test]
fn a_file_that_is_something_else_is_refused() {
    let data = Data::new();
    std::fs::write(&data.0, "not ours\n").expect("written");
    let config = Config { data: Some(data.0.clone()), ..Config::default() };
    let error = FakeLago::start(config).err().expect("refused");
    assert!(error.to_string().starts_with("line 1 of"), "{error}");
}

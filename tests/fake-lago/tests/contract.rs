//! The facts of Lago's contract, one test each, over a real socket.

mod client;

use std::time::{Duration, SystemTime};

use client::*;
use fake_lago::{Config, Denied, FakeLago, Metric, RateLimit, Reason, Store, Subscription};
use serde_json::{Value, json};

fn duplicate() -> Value {
    json!({"transaction_id": ["value_already_exist"]})
}

// Transport

#[test]
fn an_event_is_answered_with_the_whole_event() {
    let (_server, mut client) = postgres();
    let body = r#"{"event": {"transaction_id": "txn_0001", "external_subscription_id": "sub_1", "code": "calls",
        "timestamp": "1710421740.123", "precise_total_amount_cents": "1234.56", "properties": {"tokens": "1500"}}}"#;
    let answer = client.post(EVENTS, body);
    assert_eq!(answer.status, 200);
    let event = &answer.json()["event"];
    let keys: Vec<&str> = event.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected = [
        "lago_id",
        "transaction_id",
        "lago_customer_id",
        "code",
        "timestamp",
        "precise_total_amount_cents",
        "properties",
        "lago_subscription_id",
        "external_subscription_id",
        "created_at",
    ];
    assert_eq!(keys, expected);
    assert_eq!(event["lago_id"].as_str().map(str::len), Some(36));
    assert_eq!(event["timestamp"], "2024-03-14T13:09:00.123Z");
    assert_eq!(event["precise_total_amount_cents"], "1234.56");
    assert_eq!(event["properties"], json!({"tokens": "1500"}));
    assert_eq!(event["external_subscription_id"], "sub_1");
}

#[test]
fn a_batch_is_answered_in_its_order() {
    let (server, mut client) = postgres();
    let answer = client.batch(&[event("b"), event("a"), event("c")]);
    assert_eq!(answer.status, 200);
    let answered: Vec<Value> = answer.json()["events"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|e| e["transaction_id"].clone())
        .collect();
    assert_eq!(answered, ["b", "a", "c"]);
    assert_eq!(ids(&server), ["b", "a", "c"]);
}

#[test]
fn in_clickhouse_an_answer_has_no_id_and_no_creation_time() {
    let (_server, mut client) = clickhouse();
    let event = &client.event(&event("a")).json()["event"];
    assert_eq!((&event["lago_id"], &event["created_at"]), (&Value::Null, &Value::Null));
    let shown = &client.get("/api/v1/events/a").json()["event"];
    assert!(shown["lago_id"].as_str().is_some_and(|id| id.len() != 36));
}

#[test]
fn the_second_word_of_the_authorization_is_the_key() {
    let (_server, mut client) = postgres();
    let headers = ["Authorization: Anything fake-lago-key", "Content-Type: application/json"];
    let body = json!({"event": event("a")}).to_string();
    assert_eq!(client.request("POST", EVENTS, &headers, &body).expect("an answer").status, 200);
}

#[test]
fn a_missing_or_wrong_key_is_401() {
    let (server, mut client) = postgres();
    let body = json!({"event": event("a")}).to_string();
    for key in ["X-None: 1", "Authorization: Bearer wrong", "Authorization: fake-lago-key"] {
        let answer = client
            .request("POST", EVENTS, &[key, "Content-Type: application/json"], &body)
            .expect("an answer");
        assert_eq!(answer.status, 401, "{key}");
        assert_eq!(answer.body, r#"{"status":401,"error":"Unauthorized"}"#);
    }
    assert_eq!(server.stored_count(), 0);
}

#[test]
fn malformed_json_is_400_before_the_key_is_looked_at() {
    let (_server, mut client) = postgres();
    for path in [EVENTS, BATCH] {
        let headers = ["Content-Type: application/json", "Accept: application/json"];
        let answer = client.request("POST", path, &headers, "{\"event").expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (400, r#"{"status":400,"error":"Bad Request"}"#));
    }
}

#[test]
fn malformed_json_gets_an_empty_page_unless_json_is_accepted() {
    let (_server, mut client) = postgres();
    for accept in ["X-None: 1", "Accept: */*", "Accept: text/html", "Accept: application/json, */*"] {
        let headers = [usual()[0], usual()[1], accept];
        let answer = client.request("POST", EVENTS, &headers, "{").expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (400, ""), "{accept}");
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    }
}

#[test]
fn invalid_utf_8_is_malformed() {
    let (_server, mut client) = postgres();
    let mut bytes = request("POST", EVENTS, &usual(), r#"{"event":{"code":"x"}}"#);
    let at = bytes.iter().rposition(|byte| *byte == b'x').expect("an x");
    bytes[at] = 0xff;
    assert_eq!(client.raw(&bytes).expect("an answer").status, 400);
}

#[test]
fn a_missing_root_key_is_400_after_the_key_was_checked() {
    let (_server, mut client) = postgres();
    let message = "BadRequest: param is missing or the value is empty or invalid: event";
    for body in ["", "{}", "[]", r#"{"event":{}}"#, r#"{"event":null}"#, r#"{"events":[]}"#] {
        let answer = client.post(EVENTS, body);
        assert_eq!((answer.status, answer.json()), (400, json!({"status": 400, "error": message})), "{body}");
        let unauthorized = client.request("POST", EVENTS, &["Content-Type: application/json"], body);
        assert_eq!(unauthorized.expect("an answer").status, 401);
    }
}

#[test]
fn a_body_without_a_json_content_type_is_not_parsed() {
    let (server, mut client) = postgres();
    for kind in ["X-None: 1", "Content-Type: text/plain"] {
        let body = json!({"event": event("a"), "events": [event("a")]}).to_string();
        let single = client.request("POST", EVENTS, &[usual()[0], kind], &body).expect("an answer");
        assert_eq!(single.status, 400);
        let batch = client.request("POST", BATCH, &[usual()[0], kind], &body).expect("an answer");
        assert_eq!(batch.details(), json!({"events": ["no_events"]}));
    }
    assert_eq!(server.stored_count(), 0);
}

#[test]
fn an_event_that_is_no_object_is_500() {
    let (_server, mut client) = postgres();
    let answer = client.post(EVENTS, r#"{"event":"text"}"#);
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (500, r#"{"status":500,"error":"Internal Server Error"}"#)
    );
}

#[test]
fn unknown_routes_and_verbs_are_404_without_a_key() {
    let (_server, mut client) = postgres();
    for (method, path) in
        [("POST", "/events"), ("PUT", EVENTS), ("GET", "/api/v1/nothing"), ("POST", "/api/v1/customer")]
    {
        let answer = client.request(method, path, &[], "").expect("an answer");
        assert_eq!(answer.status, 404, "{method} {path}");
        assert_eq!(answer.body, r#"{"status":404,"error":"Not Found","code":"resource_not_found"}"#);
    }
}

#[test]
fn a_key_without_permission_is_403() {
    let (server, mut client) = postgres();
    server.set_denied(vec![Denied::write("event")]);
    let answer = client.post(EVENTS, "{}");
    assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("write_action_not_allowed_for_event")));
    assert_eq!(client.get(EVENTS).status, 200);
    server.set_denied(vec![Denied::read("event")]);
    let answer = client.get("/api/v1/events/a");
    assert_eq!((answer.status, &answer.json()["code"]), (403, &json!("read_action_not_allowed_for_event")));
}

#[test]
fn health_needs_no_key() {
    let (_server, mut client) = postgres();
    let answer = client.request("GET", "/health", &[], "").expect("an answer");
    assert_eq!((answer.status, &answer.json()["message"]), (200, &json!("Success")));
    assert_eq!(client.request("GET", "/ready", &[], "").expect("an answer").status, 200);
}

#[test]
fn rate_limits_show_on_every_answer_and_refuse_what_exceeds_them() {
    let limit = RateLimit { requests: 2, window_seconds: 3600 };
    let server = server_with(Config { rate_limit: Some(limit), ..Config::default() });
    let mut client = Client::new(&server);
    let answer = client.event(&event("a"));
    let header = |name: &str| answer.header(name).map(str::to_owned);
    assert_eq!(header("X-RateLimit-Limit").as_deref(), Some("2"));
    assert_eq!(header("X-RateLimit-Remaining").as_deref(), Some("1"));
    assert_eq!(header("X-RateLimit-Reset").as_deref(), Some("3600"));
    assert_eq!(client.get("/api/v1/nothing").header("X-RateLimit-Remaining"), Some("0"));
    let refused = client.event(&event("b"));
    assert_eq!((refused.status, refused.header("X-RateLimit-Remaining")), (429, Some("0")));
    assert_eq!(ids(&server), ["a"]);
    server.set_rate_limit(None);
    assert_eq!(client.event(&event("b")).header("X-RateLimit-Limit"), None);
}

// Fields

#[test]
fn missing_fields_are_reported_together() {
    let (server, mut client) = postgres();
    let answer = client.post(EVENTS, r#"{"event":{"properties":{}}}"#);
    assert_eq!(
        answer.body,
        r#"{"status":422,"error":"Unprocessable Entity","code":"validation_errors","error_details":{"transaction_id":["value_is_mandatory"],"code":["value_is_mandatory"]}}"#
    );
    assert_eq!(
        client.event(&event_with("", "code", json!("c"))).details(),
        json!({"transaction_id": ["value_is_mandatory"]})
    );
    assert_eq!(server.stored_count(), 0);
}

#[test]
fn in_clickhouse_only_the_batch_looks_for_missing_fields() {
    let (server, mut client) = clickhouse();
    let bare = json!({"external_subscription_id": "sub_1"});
    let answer = client.event(&bare);
    assert_eq!((answer.status, &answer.json()["event"]["code"]), (200, &Value::Null));
    let both = json!({"transaction_id": ["value_is_mandatory"], "code": ["value_is_mandatory"]});
    assert_eq!(client.batch(&[bare]).details(), json!({"0": both}));
    assert_eq!(server.stored_count(), 1);
}

#[test]
fn a_numeric_transaction_id_becomes_text() {
    let (server, mut client) = postgres();
    assert_eq!(
        client.event(&event_with("", "transaction_id", json!(42))).json()["event"]["transaction_id"],
        "42"
    );
    assert_eq!(client.event(&event("42")).details(), duplicate());
    assert_eq!(ids(&server), ["42"]);
}

#[test]
fn a_transaction_id_too_long_for_the_index_is_500_in_postgres_on_every_try() {
    let (server, mut client) = postgres();
    for _ in 0..2 {
        assert_eq!(client.event(&event(&"x".repeat(2700))).status, 500);
    }
    assert_eq!(client.event(&event(&"x".repeat(2000))).status, 200);
    assert_eq!(server.stored_count(), 1);
    let (_server, mut client) = clickhouse();
    assert_eq!(client.event(&event(&"x".repeat(2700))).status, 200);
}

#[test]
fn timestamps_are_numbers_or_numeric_text() {
    let (server, mut client) = postgres();
    for (at, timestamp) in
        [json!(1_710_421_740), json!("1e9"), json!(" 12 "), json!("1_000"), json!(-5)].into_iter().enumerate()
    {
        assert_eq!(client.event(&event_with(&at.to_string(), "timestamp", timestamp)).status, 200);
    }
    let micros: Vec<i128> = server.stored().iter().map(|event| event.timestamp_micros).collect();
    assert_eq!(micros, [1_710_421_740_000_000, 1_000_000_000_000_000, 12_000_000, 1_000_000_000, -5_000_000]);
}

#[test]
fn timestamps_in_other_formats_are_invalid() {
    let (_server, mut client) = postgres();
    for timestamp in [json!("2024-12-10T10:00:00Z"), json!(""), json!("now"), json!(true)] {
        let answer = client.event(&event_with("a", "timestamp", timestamp));
        assert_eq!(answer.details(), json!({"timestamp": ["invalid_format"]}));
    }
}

#[test]
fn no_timestamp_means_the_time_of_receipt() {
    let (server, mut client) = postgres();
    for (id, timestamp) in [("a", json!(null)), ("b", json!(false))] {
        assert_eq!(client.event(&event_with(id, "timestamp", timestamp)).status, 200);
    }
    for event in server.stored() {
        let received =
            event.received_at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros();
        assert_eq!(u128::try_from(event.timestamp_micros), Ok(received));
    }
}

#[test]
fn timestamps_that_crash_the_server_are_500() {
    let (server, mut client) = postgres();
    for timestamp in
        [json!("NaN"), json!("Infinity"), json!(1_710_421_740_123_456_u64), json!("1710421740123456789")]
    {
        assert_eq!(client.event(&event_with("a", "timestamp", timestamp.clone())).status, 500, "{timestamp}");
        assert_eq!(client.batch(&[event("b"), event_with("a", "timestamp", timestamp)]).status, 500);
    }
    assert_eq!(server.stored_count(), 0);
}

#[test]
fn milliseconds_are_accepted_as_a_year_far_away_and_never_billed() {
    let (server, mut client) = postgres();
    let answer = client.event(&event_with("a", "timestamp", json!(1_710_421_740_123_u64)));
    assert_eq!(answer.status, 200);
    let timestamp = answer.json()["event"]["timestamp"].as_str().map(str::to_owned);
    assert!(timestamp.is_some_and(|text| text.starts_with("56")), "{}", answer.body);
    assert_eq!(server.bill().never_billed[0].reason, Reason::MillisecondsAsSeconds);
}

#[test]
fn amounts_that_are_no_numbers_become_zero_and_large_ones_crash() {
    let (_server, mut client) = postgres();
    let mut amount =
        |id: &str, amount: Value| client.event(&event_with(id, "precise_total_amount_cents", amount));
    assert_eq!(amount("a", json!("abc")).json()["event"]["precise_total_amount_cents"], "0.0");
    assert_eq!(amount("b", json!("10")).json()["event"]["precise_total_amount_cents"], "10.0");
    assert_eq!(amount("c", json!(null)).json()["event"]["precise_total_amount_cents"], Value::Null);
    assert_eq!(amount("d", json!("10000000000000000000000000")).status, 500);
}

#[test]
fn properties_that_are_no_object_are_dropped() {
    let (_server, mut client) = postgres();
    for (id, properties) in [("a", json!("text")), ("b", json!([1])), ("c", json!(null))] {
        let answer = client.event(&event_with(id, "properties", properties));
        assert_eq!((answer.status, &answer.json()["event"]["properties"]), (200, &json!({})));
    }
}

#[test]
fn null_elements_inside_properties_are_removed() {
    let (_server, mut client) = postgres();
    let answer =
        client.event(&event_with("a", "properties", json!({"a": [1, null, 2], "b": null, "c": true})));
    assert_eq!(answer.json()["event"]["properties"], json!({"a": [1, 2], "b": null, "c": true}));
}

#[test]
fn unknown_keys_are_dropped_without_a_word() {
    let (server, mut client) = postgres();
    let answer = client.event(&event_with("a", "external_customer_id", json!("customer_1")));
    assert_eq!((answer.status, answer.json()["event"].get("external_customer_id")), (200, None));
    let camel = json!({"transactionId": "b", "code": "calls"});
    assert_eq!(client.event(&camel).details(), json!({"transaction_id": ["value_is_mandatory"]}));
    assert!(server.stored()[0].raw_text().contains("external_customer_id"));
}

#[test]
fn a_nul_byte_is_500_in_properties_and_blamed_on_the_timestamp_in_text() {
    let (_server, mut client) = postgres();
    assert_eq!(client.event(&event_with("a", "properties", json!({"x": "\0"}))).status, 500);
    let invalid = json!({"timestamp": ["invalid_format"]});
    assert_eq!(client.event(&event_with("a", "code", json!("x\0"))).details(), invalid);
}

#[test]
fn the_code_is_not_checked() {
    let (server, mut client) = postgres();
    assert_eq!(client.event(&event_with("a", "code", json!("no_such_metric"))).status, 200);
    assert_eq!(server.bill().never_billed[0].reason, Reason::UnknownMetric);
}

// Batches

#[test]
fn a_batch_without_events_is_refused() {
    let (_server, mut client) = postgres();
    for body in ["", "{}", r#"{"events":[]}"#, r#"{"events":"x"}"#, r#"{"events":[null]}"#, r#"{"event":{}}"#]
    {
        assert_eq!(client.post(BATCH, body).details(), json!({"events": ["no_events"]}), "{body}");
    }
}

#[test]
fn a_batch_may_hold_a_hundred_events() {
    let (server, mut client) = postgres();
    let events: Vec<Value> = (0..101).map(|at| event(&at.to_string())).collect();
    assert_eq!(client.batch(&events).details(), json!({"events": ["too_many_events"]}));
    assert_eq!(server.stored_count(), 0);
    assert_eq!(client.batch(&events[..100]).status, 200);
    server.set_batch_limit(2);
    assert_eq!(client.batch(&events[..3]).details(), json!({"events": ["too_many_events"]}));
}

#[test]
fn a_batch_is_validated_as_a_whole_and_by_index() {
    let (server, mut client) = postgres();
    server.define_metric(Metric::sum("priced", "total").with_expression_over(&["foo"]));
    let bad_time = event_with("b", "timestamp", json!("x"));
    let no_code = event_with("c", "code", json!(null));
    let answer = client.batch(&[event_with("a", "code", json!("priced")), bad_time, event("d"), no_code]);
    assert_eq!(
        answer.details(),
        json!({
            "0": "expression_evaluation_failed: Variable: foo not found",
            "1": {"timestamp": ["invalid_format"]},
            "3": {"code": ["value_is_mandatory"]},
        })
    );
    assert_eq!(server.stored_count(), 0);
}

#[test]
fn an_expression_that_fails_is_reported_as_text() {
    let (server, mut client) = postgres();
    server.define_metric(Metric::sum("priced", "total").with_expression_over(&["a", "b"]));
    let mut priced = event_with("a", "code", json!("priced"));
    priced["properties"] = json!({"a": 1});
    assert_eq!(client.event(&priced).details(), json!("expression_evaluation_failed: Variable: b not found"));
}

#[test]
fn duplicates_are_not_looked_for_while_validation_fails() {
    let (_server, mut client) = postgres();
    client.event(&event("a"));
    let answer = client.batch(&[event("a"), event_with("b", "timestamp", json!("x"))]);
    assert_eq!(answer.details(), json!({"1": {"timestamp": ["invalid_format"]}}));
}

#[test]
fn a_batch_with_one_duplicate_stores_nothing() {
    let (server, mut client) = postgres();
    client.event(&event("a"));
    let answer = client.batch(&[event("b"), event("a"), event("c")]);
    assert_eq!(
        answer.body,
        r#"{"status":422,"error":"Unprocessable Entity","code":"validation_errors","error_details":{"1":{"transaction_id":["value_already_exist"]}}}"#
    );
    assert_eq!(ids(&server), ["a"]);
    assert_eq!(client.batch(&[event("b"), event("c")]).status, 200);
}

#[test]
fn within_a_batch_the_transaction_id_alone_decides() {
    let (server, mut client) = postgres();
    let other = event_with("a", "external_subscription_id", json!("sub_2"));
    assert_eq!(client.batch(&[event("a"), other.clone()]).details(), json!({"1": duplicate()}));
    assert_eq!(server.stored_count(), 0);
    assert_eq!(client.batch(&[event("a")]).status, 200);
    assert_eq!(client.batch(&[other]).status, 200);
}

#[test]
fn old_servers_keep_the_other_events_of_a_refused_batch() {
    let server = server_with(Config { legacy_partial_batch: true, ..Config::default() });
    let mut client = Client::new(&server);
    client.event(&event("a"));
    assert_eq!(client.batch(&[event("a"), event("b")]).details(), json!({"0": duplicate()}));
    assert_eq!(ids(&server), ["a", "b"]);
    assert_eq!(
        client.batch(&[event("a"), event("b")]).details(),
        json!({"0": duplicate(), "1": duplicate()})
    );
}

#[test]
fn null_elements_shift_the_indexes() {
    let (_server, mut client) = postgres();
    let answer =
        client.batch(&[Value::Null, event("a"), Value::Null, event_with("b", "timestamp", json!("x"))]);
    assert_eq!(answer.details(), json!({"1": {"timestamp": ["invalid_format"]}}));
}

// Duplicates

#[test]
fn in_postgres_the_same_id_is_refused_even_with_other_content() {
    let (server, mut client) = postgres();
    assert_eq!(client.event(&event("a")).status, 200);
    for again in [event("a"), event_with("a", "timestamp", json!(5)), event_with("a", "code", json!("other"))]
    {
        let answer = client.event(&again);
        assert_eq!(
            answer.body,
            r#"{"status":422,"error":"Unprocessable Entity","code":"validation_errors","error_details":{"transaction_id":["value_already_exist"]}}"#
        );
    }
    assert_eq!(server.stored_count(), 1);
    assert_eq!(client.event(&event_with("a", "external_subscription_id", json!("sub_2"))).status, 200);
}

#[test]
fn without_a_subscription_an_event_is_accepted_again_and_again_and_never_billed() {
    let (server, mut client) = postgres();
    for _ in 0..2 {
        assert_eq!(client.event(&event_with("a", "external_subscription_id", json!(null))).status, 200);
    }
    let bill = server.bill();
    let reasons: Vec<Reason> = bill.never_billed.iter().map(|event| event.reason).collect();
    assert_eq!(reasons, [Reason::MissingSubscription; 2]);
    assert_eq!(bill.events(), 0);
}

#[test]
fn in_clickhouse_a_copy_is_accepted_and_billed_once() {
    let (server, mut client) = clickhouse();
    for n in ["1", "7"] {
        let mut copy = event_with("a", "code", json!("tokens"));
        copy["properties"] = json!({"n": n});
        assert_eq!(client.event(&copy).status, 200);
    }
    assert_eq!(client.batch(&[event("b"), event("b")]).status, 200);
    let duplicates: Vec<bool> = server.stored().iter().map(|event| event.duplicate).collect();
    assert_eq!(duplicates, [false, true, false, true]);
    let bill = server.bill();
    assert_eq!(bill.line("sub_1", "tokens").map(|line| line.units.as_str()), Some("7"));
    assert_eq!(bill.events(), 2);
    assert!(bill.billed_twice.is_empty());
}

#[test]
fn in_clickhouse_a_retry_with_another_timestamp_bills_twice() {
    let (server, mut client) = clickhouse();
    client.event(&event("a"));
    client.event(&event_with("a", "timestamp", json!("1710421740.124")));
    let bill = server.bill();
    assert_eq!((bill.events(), bill.billed_twice.len()), (2, 1));
    assert_eq!((bill.billed_twice[0].transaction_id.as_str(), bill.billed_twice[0].times), ("a", 2));
}

#[test]
fn of_equal_batches_sent_at_once_one_is_stored() {
    let (server, _client) = postgres();
    let events: Vec<Value> = (0..50).map(|at| event(&at.to_string())).collect();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let sending: Vec<_> =
            (0..8).map(|_| scope.spawn(|| Client::new(&server).batch(&events).status)).collect();
        sending.into_iter().map(|sending| sending.join().expect("no panic")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(server.stored_count(), 50);
}

// Never billed

#[test]
fn the_subscription_must_be_running() {
    let (server, mut client) = postgres();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    server.define_subscription(Subscription {
        external_id: "short".to_owned(),
        external_customer_id: "customer_1".to_owned(),
        started_at: at(1000),
        ended_at: Some(at(2000)),
    });
    for (id, timestamp) in [("a", "999.999"), ("b", "1000"), ("c", "2000"), ("d", "2000.001")] {
        let mut event = event_with(id, "timestamp", json!(timestamp));
        event["external_subscription_id"] = json!("short");
        assert_eq!(client.event(&event).status, 200);
    }
    client.event(&event_with("e", "external_subscription_id", json!("unknown")));
    let bill = server.bill();
    assert_eq!(bill.line("short", "calls").map(|line| line.events), Some(2));
    let never: Vec<(&str, Reason)> =
        bill.never_billed.iter().map(|event| (event.transaction_id.as_str(), event.reason)).collect();
    assert_eq!(
        never,
        [("a", Reason::BeforeStart), ("d", Reason::AfterEnd), ("e", Reason::UnknownSubscription)]
    );
}

#[test]
fn properties_that_are_not_plain_decimals_are_never_billed() {
    let (server, mut client) = postgres();
    for (id, n) in [("a", json!("1e-07")), ("b", json!("12.50")), ("c", json!(1.25)), ("d", json!(null))] {
        let mut event = event_with(id, "code", json!("tokens"));
        event["properties"] = json!({"n": n});
        assert_eq!(client.event(&event).status, 200);
    }
    let bill = server.bill();
    let line = bill.line("sub_1", "tokens").expect("a line");
    assert_eq!((line.events, line.sum.as_deref(), line.max.as_deref()), (2, Some("13.75"), Some("12.5")));
    let reasons: Vec<Reason> = bill.never_billed.iter().map(|event| event.reason).collect();
    assert_eq!(reasons, [Reason::PropertyNotNumeric, Reason::PropertyMissing]);
}

// Reads

#[test]
fn an_event_can_be_read_by_its_id() {
    let (_server, mut client) = postgres();
    client.event(&event("table:1/2.5"));
    let answer = client.get("/api/v1/events/table%3A1%2F2.5");
    assert_eq!((answer.status, &answer.json()["event"]["transaction_id"]), (200, &json!("table:1/2.5")));
    let missing = client.get("/api/v1/events/other");
    assert_eq!((missing.status, &missing.json()["code"]), (404, &json!("event_not_found")));
}

#[test]
fn events_are_listed_newest_first_with_filters_and_pages() {
    let (_server, mut client) = postgres();
    for (id, timestamp) in [("a", 100), ("b", 300), ("c", 200)] {
        client.event(&event_with(id, "timestamp", json!(timestamp)));
    }
    client.event(&event_with("d", "code", json!("tokens")));
    let mut list = |query: &str| {
        let json = client.get(&format!("{EVENTS}?{query}")).json();
        let ids: Vec<String> = json["events"]
            .as_array()
            .expect("an array")
            .iter()
            .filter_map(|event| event["transaction_id"].as_str().map(str::to_owned))
            .collect();
        (ids.join(""), json["meta"].clone())
    };
    assert_eq!(list("").0, "dbca");
    assert_eq!(list("code=calls&external_subscription_id=sub_1").0, "bca");
    assert_eq!(list("timestamp_from=1970-01-01T00:02:30Z&timestamp_to=1970-01-01T00:05:00Z").0, "bc");
    assert_eq!(list("external_subscription_id=other").1["total_count"], 0);
    let (ids, meta) = list("per_page=3&page=2");
    assert_eq!(ids, "a");
    let expected =
        json!({"current_page": 2, "next_page": null, "prev_page": 1, "total_pages": 2, "total_count": 4});
    assert_eq!(meta, expected);
}

#[test]
fn a_list_wants_dates_and_not_unix_time() {
    let (_server, mut client) = postgres();
    let answer = client.get(&format!("{EVENTS}?timestamp_from=1710421740"));
    assert_eq!(answer.details(), json!({"timestamp_from": ["invalid_date"]}));
}

#[test]
fn clickhouse_lists_every_copy() {
    let (_server, mut client) = clickhouse();
    client.batch(&[event("a"), event("a")]);
    assert_eq!(client.get(EVENTS).json()["meta"]["total_count"], 2);
}

// The stand-in itself

#[test]
fn what_was_sent_is_kept_byte_for_byte_even_if_it_was_refused() {
    let (server, mut client) = postgres();
    let first = r#"{"transaction_id": "a",  "code":"calls"}"#;
    client.post(BATCH, &format!(r#"{{"events":[{first}]}}"#));
    assert_eq!(server.stored()[0].raw_text(), first);
    assert!(server.sent_differently().is_empty());
    server.set_api_key("another");
    let answer = client.post(EVENTS, r#"{"event":{"transaction_id":"a","code":"calls"}}"#);
    assert_eq!(answer.status, 401);
    assert_eq!(server.sent_differently(), ["a"]);
    assert_eq!(server.copies()["a"].len(), 2);
}

#[test]
fn every_request_is_logged() {
    let (server, mut client) = postgres();
    client.batch(&[event("a"), event("b")]);
    client.get("/api/v1/events?code=x");
    let log = server.requests();
    let seen: Vec<(&str, &str, Option<u16>, usize)> =
        log.iter().map(|r| (r.method.as_str(), r.path.as_str(), r.status, r.events)).collect();
    assert_eq!(seen, [("POST", BATCH, Some(200), 2), ("GET", "/api/v1/events?code=x", Some(200), 0)]);
    assert_eq!(server.request_count(), 2);
}

#[test]
fn a_benchmark_server_counts_without_keeping() {
    let config = Config { keep_events: false, accept_any: true, ..Config::default() };
    let server = FakeLago::start(config).expect("a free port");
    let mut client = Client::new(&server);
    assert_eq!(client.batch(&[event("a"), event("b")]).status, 200);
    assert_eq!(client.event(&event("a")).details(), duplicate());
    assert_eq!((server.stored_count(), server.stored().len()), (2, 0));
    assert_eq!(server.bill().line("sub_1", "calls").map(|line| line.events), Some(2));
}

#[test]
fn accepting_any_bills_what_is_unknown_as_a_count() {
    let server =
        FakeLago::start(Config { store: Store::Postgres, ..Config::default() }).expect("a free port");
    let mut client = Client::new(&server);
    client.event(&event("a"));
    assert_eq!(server.bill().events(), 0);
    server.accept_any(true);
    assert_eq!(server.bill().events(), 1);
}

#[test]
fn waiting_ends_as_soon_as_the_condition_holds() {
    let (server, mut client) = postgres();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            server.wait_for("three events", Duration::from_secs(20), |server| server.stored_count() == 3)
        });
        for id in ["a", "b", "c"] {
            client.event(&event(id));
        }
        assert_eq!(waiting.join().expect("no panic"), Ok(()));
    });
    let in_vain =
        server.wait_for("a fourth event", Duration::from_millis(1), |server| server.stored_count() == 4);
    assert!(in_vain.is_err_and(|error| error.contains("a fourth event")));
}

// What a store that can be trusted never does

#[test]
fn events_are_lost_altered_and_made_up_on_demand() {
    for (server, mut client) in [postgres(), clickhouse()] {
        client.batch(&[event("a"), event("b"), event("c"), event("d")]);
        let lost = client.post("/_fake/lose_events", r#""a""#).json();
        assert_eq!(lost["lost"], json!(["a"]));
        assert_eq!(client.post("/_fake/lose_events", r#"["a", "b"]"#).json()["lost"], json!(["b"]));
        let by_chance = client.post("/_fake/lose_events", r#"{"random": 1, "seed": 3}"#).json();
        assert_eq!(by_chance["lost"].as_array().map(Vec::len), Some(1));
        let left = if by_chance["lost"][0] == "c" { "d" } else { "c" };
        assert_eq!(client.get("/api/v1/events/a").status, 404);
        assert_eq!(client.batch(&[event("a")]).status, 200, "its id is free again");

        let change = json!({"transaction_id": left, "set": {"code": "other", "timestamp": "1700000000.5"}});
        assert_eq!(client.post("/_fake/alter_event", &change.to_string()).status, 200);
        let altered = client.get(&format!("/api/v1/events/{left}")).json();
        assert_eq!(altered["event"]["code"], "other");
        assert_eq!(altered["event"]["timestamp"], "2023-11-14T22:13:20.500Z");
        assert_eq!(client.post("/_fake/alter_event", r#"{"transaction_id":"b","set":{}}"#).status, 400);

        assert_eq!(client.post("/_fake/add_event", &event("made up").to_string()).status, 200);
        assert_eq!(client.post("/_fake/add_event", "{}").status, 400);
        let listed = client.get("/api/v1/events?per_page=10").json();
        assert_eq!(listed["meta"]["total_count"], 3);
        assert!(ids(&server).contains(&"made up".to_owned()));
    }
}

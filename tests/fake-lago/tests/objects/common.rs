//! What all endpoints have in common: order of checks, permissions, faults, limits, the log.

use std::io::ErrorKind;

use fake_lago::{Config, Denied, Effect, Fault, Kind, RateLimit, Storing};
use serde_json::json;

use crate::client::*;
use crate::{customer, not_found, organization, texts};

const CUSTOMERS: &str = "/api/v1/customers";
const BODY: &str = r#"{"customer":{"external_id":"c"}}"#;

#[test]
fn malformed_json_is_400_before_the_key_and_a_missing_root_key_is_400_after_it() {
    let (_server, mut client) = organization();
    let keyless = ["Content-Type: application/json", "Accept: application/json"];
    for (method, path) in [
        ("POST", CUSTOMERS),
        ("PUT", "/api/v1/subscriptions/s"),
        ("DELETE", "/api/v1/customers/c"),
        ("POST", "/api/v1/wallet_transactions"),
    ] {
        let answer = client.request(method, path, &keyless, "{\"customer").expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (400, r#"{"status":400,"error":"Bad Request"}"#));
        assert_eq!(client.request(method, path, &keyless, "{}").expect("an answer").status, 401, "{path}");
    }
    for (path, root) in [("customers", "customer"), ("wallet_transactions", "wallet_transaction")] {
        for body in ["", "{}", r#"{"customers":{}}"#, r#"{"external_id":"c"}"#] {
            let answer = client.post(&format!("/api/v1/{path}"), body);
            let error = format!("BadRequest: param is missing or the value is empty or invalid: {root}");
            assert_eq!((answer.status, answer.json()), (400, json!({"status": 400, "error": error})));
        }
    }
}

#[test]
fn a_root_that_is_no_object_and_u_0000_crash_the_server() {
    let (server, mut client) = organization();
    for body in [
        r#"{"customer":"c"}"#,
        r#"{"customer":{"external_id":"a\u0000"}}"#,
        r#"{"customer":{"external_id":"a","metadata":[{"key":"\u0000"}]}}"#,
        r#"{"customer":{"external_id":"a","\u0000":1}}"#,
    ] {
        assert_eq!(client.post(CUSTOMERS, body).status, 500, "{body}");
    }
    assert!(server.customers().is_empty());
}

#[test]
fn a_body_of_another_content_type_is_not_read() {
    let (server, mut client) = organization();
    for kind in ["X-None: 1", "Content-Type: text/plain"] {
        let answer = client.request("POST", CUSTOMERS, &[usual()[0], kind], BODY).expect("an answer");
        assert_eq!(answer.status, 400, "{kind}");
    }
    assert!(server.customers().is_empty());
}

#[test]
fn unknown_routes_are_404_without_a_key() {
    let (_server, mut client) = organization();
    for (method, path) in [
        ("POST", "/api/v1/applied_add_ons"),
        ("POST", "/api/v1/fees"),
        ("PUT", "/api/v1/customers/c"),
        ("DELETE", "/api/v1/plans/p"),
        ("POST", "/customers"),
        ("POST", "/api/v1/customer"),
        ("PUT", "/api/v1/invoices"),
    ] {
        let answer = client.request(method, path, &[], "").expect("an answer");
        assert_eq!(answer.refusal(), not_found("resource"), "{method} {path}");
    }
}

#[test]
fn a_key_without_permission_is_403_for_that_resource_alone() {
    let (server, mut client) = organization();
    server.set_denied(vec![Denied::write("customer"), Denied::read("wallet_transaction")]);
    let refused = (403, "write_action_not_allowed_for_customer".to_owned());
    assert_eq!(client.post(CUSTOMERS, "{}").refusal(), refused);
    assert_eq!(client.delete("/api/v1/customers/c").refusal(), refused);
    let wallet = server.define_wallet("c");
    let listed = client.get(&format!("/api/v1/wallets/{wallet}/wallet_transactions"));
    assert_eq!(listed.refusal(), (403, "read_action_not_allowed_for_wallet_transaction".to_owned()));
    let credit = json!({"wallet_id": wallet, "granted_credits": "1"});
    assert_eq!(client.create("wallet_transactions", "wallet_transaction", &credit).status, 200);
}

#[test]
fn a_fault_loses_the_request_or_only_its_answer() {
    for (storing, made) in [(Storing::Skipped, 0), (Storing::Done, 1)] {
        let (server, mut client) = organization();
        server.fault(Fault::next(1, Effect::Reset(storing)).on_path("/customers"));
        let error = client.try_post(CUSTOMERS, BODY).expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(server.customers().len(), made);
    }
    for effect in [Effect::status(500), Effect::status(502), Effect::rate_limited(1)] {
        let (server, mut client) = organization();
        server.define_customer("c");
        server.fault(Fault::next(1, effect.clone()));
        server.fault(Fault::next(1, effect.after_storing()));
        assert_ne!(client.delete("/api/v1/customers/c").status, 200);
        assert_eq!(server.customers().len(), 1);
        assert_ne!(client.delete("/api/v1/customers/c").status, 200);
        assert_eq!(server.customers().len(), 0);
    }
}

#[test]
fn contention_and_a_providers_refusal_have_their_bodies() {
    let (server, mut client) = organization();
    server.fault(Fault::next(1, Effect::lock_acquisition_failed()));
    server.fault(Fault::next(1, Effect::provider_error("stripe_eu")));
    let contended = client.post(CUSTOMERS, BODY);
    assert_eq!(contended.refusal(), (422, "lock_acquisition_failed".to_owned()));
    assert_eq!(contended.json().get("error_details"), None);
    let refused = client.post(CUSTOMERS, BODY);
    assert_eq!(refused.refusal(), (422, "provider_error".to_owned()));
    assert_eq!(refused.json()["provider"], json!({"code": "stripe_eu"}));
    assert!(server.customers().is_empty());
}

#[test]
fn rate_limits_hold_for_every_endpoint() {
    let limit = RateLimit { requests: 1, window_seconds: 3600 };
    let server = fake_lago::FakeLago::start(Config { rate_limit: Some(limit), ..Config::default() });
    let server = server.expect("a free port");
    let mut client = Client::new(&server);
    let first = client.post(CUSTOMERS, BODY);
    assert_eq!((first.status, first.header("x-ratelimit-remaining")), (200, Some("0")));
    assert_eq!(client.delete("/api/v1/customers/c").status, 429);
    assert_eq!(server.customers().len(), 1);
}

#[test]
fn the_log_has_what_was_sent_but_for_the_key() {
    let (server, mut client) = organization();
    let headers = [usual()[0], usual()[1], "User-Agent: test/1", "X-Team: billing", "Accept-Encoding: gzip"];
    let path = "/api/v1/customers/user%2Ename?a=b";
    client.request("DELETE", path, &headers, r#"{"a": 1}"#).expect("an answer");
    client.event(&event("t"));
    let log = server.requests();
    assert_eq!(
        (log[0].method.as_str(), log[0].path.as_str(), log[0].query.as_str()),
        ("DELETE", path, "a=b")
    );
    assert_eq!(log[0].body.as_deref(), Some(r#"{"a": 1}"#));
    assert_eq!(log[0].content_type.as_deref(), Some("application/json"));
    assert_eq!(log[0].user_agent.as_deref(), Some("test/1"));
    assert_eq!(log[0].headers, [("X-Team".to_owned(), "billing".to_owned())]);
    assert_eq!(log[0].header("x-team"), Some("billing"));
    assert!(!format!("{log:?}").contains(KEY));
    // Events are remembered by `copies`, once.
    assert_eq!(log[1].body, None);
    let name = "x".repeat(64 * 1024);
    client.create("customers", "customer", &json!({"external_id": "c", "name": name}));
    assert_eq!((server.requests()[2].body.as_deref(), server.customers().len()), (None, 1));
}

#[test]
fn a_reset_forgets_what_came_in_and_undoes_what_became_of_definitions() {
    let (server, mut client) = organization();
    server.define_customer("defined");
    server.define_plan("plan");
    customer(&mut client, "made");
    client.delete("/api/v1/customers/defined");
    assert_eq!(texts(&server.customers(), "external_id"), ["made"]);
    server.reset();
    assert_eq!(texts(&server.customers(), "external_id"), ["defined"]);
    assert_eq!(texts(&server.objects(Kind::Plan), "code"), ["plan"]);
}

#[test]
fn a_definition_that_is_repeated_is_what_a_reset_brings_back() {
    let (server, _client) = organization();
    let id = server.define_plan("plan");
    assert_eq!(server.define_object(Kind::Plan, &json!({"code": "plan", "amount_cents": 5})), id);
    server.reset();
    assert_eq!(server.objects(Kind::Plan)[0]["amount_cents"], 5);
}

#[test]
fn every_object_has_an_id_of_its_own() {
    let (server, mut client) = organization();
    client.event(&event("t"));
    let ids: Vec<String> =
        ["a", "b"].map(|id| customer(&mut client, id).object("customer")["lago_id"].to_string()).into();
    let stored = format!("{:?}", server.stored()[0].lago_id);
    assert_ne!(ids[0], ids[1]);
    assert!(ids.iter().all(|id| id.len() == 38 && *id != stored), "{ids:?}");
}

#[test]
fn the_administration_defines_and_lists_objects_and_requests() {
    let (server, mut client) = organization();
    let ids = client.post("/_fake/objects/plans", r#"[{"code":"a"},{"code":"b","amount_cents":5}]"#);
    assert_eq!(ids.json()["lago_ids"].as_array().map(Vec::len), Some(2));
    let listed = client.get("/_fake/objects/plan").json();
    assert_eq!((&listed[1]["code"], &listed[1]["amount_cents"]), (&json!("b"), &json!(5)));
    assert_eq!(server.objects(Kind::Plan).len(), 2);
    for (path, body) in [("objects/planet", "{}"), ("objects/plan", "1"), ("license", "1")] {
        assert_eq!(client.post(&format!("/_fake/{path}"), body).status, 400, "{path}");
    }
    assert_eq!(client.get("/_fake/objects/planet").status, 400);

    customer(&mut client, "c");
    customer(&mut client, "d");
    let requests = client.get("/_fake/requests?limit=1").json();
    assert_eq!(requests.as_array().map(Vec::len), Some(1));
    assert_eq!((&requests[0]["path"], &requests[0]["status"]), (&json!(CUSTOMERS), &json!(200)));
    assert_eq!(requests[0]["body"], r#"{"customer":{"external_id":"d"}}"#);

    let invoice = server.define_invoice("c", 10);
    let payment = json!({"invoice_id": invoice, "amount_cents": 10, "reference": "r"});
    assert_eq!(client.create("payments", "payment", &payment).status, 403);
    client.post("/_fake/license", r#""premium""#);
    assert_eq!(client.create("payments", "payment", &payment).status, 200);
}

#[test]
fn a_metric_defined_as_an_object_counts_for_the_bill_and_survives_a_reset() {
    let (server, mut client) = organization();
    server.define_object(Kind::Subscription, &json!({"external_id": "sub_1", "external_customer_id": "c"}));
    let metric = json!({"code": "calls", "aggregation_type": "count_agg"});
    server.define_object(Kind::BillableMetric, &metric);
    server.reset();
    client.event(&event("t"));
    assert_eq!(server.bill().line("sub_1", "calls").map(|line| line.events), Some(1));
}

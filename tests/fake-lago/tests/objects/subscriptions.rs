//! Subscriptions, and what their life means for the bill of events.

use std::time::{Duration, SystemTime};

use fake_lago::{Config, FakeLago, License, Metric, Reason, Subscription};
use serde_json::{Value, json};

use crate::client::*;
use crate::{not_found, organization, texts};

/// An organization with the plans `small` and `large`.
fn with_plans() -> (FakeLago, Client) {
    let (server, client) = organization();
    define_plans(&server);
    (server, client)
}

fn define_plans(server: &FakeLago) {
    server.define_object(fake_lago::Kind::Plan, &json!({"code": "small", "amount_cents": 100}));
    server.define_object(
        fake_lago::Kind::Plan,
        &json!({"code": "large", "amount_cents": 900, "interval": "yearly"}),
    );
    server.define_object(fake_lago::Kind::Plan, &json!({"code": "huge", "amount_cents": 5000}));
}

fn sent(plan: &str) -> Value {
    json!({"external_customer_id": "c", "plan_code": plan, "external_id": "s"})
}

fn with(plan: &str, field: &str, value: Value) -> Value {
    let mut sent = sent(plan);
    sent[field] = value;
    sent
}

fn subscribe(client: &mut Client, sent: &Value) -> Answer {
    client.create("subscriptions", "subscription", sent)
}

#[test]
fn an_unknown_customer_is_created_and_the_ids_are_trimmed() {
    let (server, mut client) = with_plans();
    let sent = json!({"external_customer_id": " c ", "plan_code": "small", "external_id": "  s  "});
    let made = subscribe(&mut client, &sent).object("subscription");
    assert_eq!((&made["external_id"], &made["external_customer_id"]), (&json!("s"), &json!("c")));
    assert_eq!((&made["status"], &made["plan_code"]), (&json!("active"), &json!("small")));
    assert_eq!(made["lago_customer_id"], server.customer("c").expect("created")["lago_id"]);
}

#[test]
fn an_unknown_plan_is_not_found_and_creates_no_customer() {
    let (server, mut client) = with_plans();
    assert_eq!(subscribe(&mut client, &sent("none")).refusal(), not_found("plan"));
    let planless = json!({"external_customer_id": "c", "external_id": "s"});
    assert_eq!(subscribe(&mut client, &planless).refusal(), not_found("plan"));
    assert!(server.customers().is_empty() && server.subscriptions().is_empty());
}

#[test]
fn both_ids_are_mandatory() {
    let (server, mut client) = with_plans();
    for field in ["external_customer_id", "external_id"] {
        let answer = subscribe(&mut client, &with("small", field, json!(" ")));
        assert_eq!(answer.details(), json!({field: ["value_is_mandatory"]}));
    }
    assert!(server.subscriptions().is_empty());
}

#[test]
fn dates_must_be_iso_8601_and_in_order() {
    let (_server, mut client) = with_plans();
    for (field, value) in [
        ("subscription_at", json!("tomorrow")),
        ("subscription_at", json!(1_700_000_000)),
        ("ending_at", json!("2020-01-01T00:00:00Z")),
        ("ending_at", json!("soon")),
    ] {
        let answer = subscribe(&mut client, &with("small", field, value));
        assert_eq!(answer.details(), json!({field: ["invalid_date"]}));
    }
    let mut over = with("small", "subscription_at", json!("2019-01-01T00:00:00Z"));
    over["ending_at"] = json!("2020-01-01T00:00:00Z");
    assert_eq!(subscribe(&mut client, &over).details(), json!({"ending_at": ["invalid_date"]}));
}

#[test]
fn a_billing_time_is_one_of_two() {
    let (server, mut client) = with_plans();
    let answer = subscribe(&mut client, &with("small", "billing_time", json!("daily")));
    assert_eq!(answer.details(), json!({"billing_time": ["value_is_invalid"]}));
    assert!(server.subscriptions().is_empty());
}

#[test]
fn a_second_create_with_the_same_plan_returns_the_first_and_ignores_changes() {
    let (server, mut client) = with_plans();
    let first = subscribe(&mut client, &with("small", "name", json!("A"))).object("subscription");
    let second = subscribe(&mut client, &with("small", "name", json!("B"))).object("subscription");
    assert_eq!(second, first);
    assert_eq!(server.subscriptions().len(), 1);
}

#[test]
fn a_dearer_plan_is_an_upgrade_at_once() {
    let (server, mut client) = with_plans();
    subscribe(&mut client, &sent("small"));
    let upgraded = subscribe(&mut client, &sent("huge")).object("subscription");
    assert_eq!((&upgraded["plan_code"], &upgraded["previous_plan_code"]), (&json!("huge"), &json!("small")));
    assert_eq!(texts(&server.subscriptions(), "status"), ["terminated", "active"]);
}

#[test]
fn a_cheaper_plan_waits_for_the_end_of_the_period() {
    let (server, mut client) = with_plans();
    subscribe(&mut client, &sent("small"));
    // 900 cents a year are less than 100 a month.
    let kept = subscribe(&mut client, &sent("large")).object("subscription");
    assert_eq!((&kept["plan_code"], &kept["next_plan_code"]), (&json!("small"), &json!("large")));
    assert_eq!(texts(&server.subscriptions(), "status"), ["active", "pending"]);
    subscribe(&mut client, &sent("large"));
    assert_eq!(texts(&server.subscriptions(), "status"), ["active", "canceled", "pending"]);
    client.delete("/api/v1/subscriptions/s");
    assert_eq!(texts(&server.subscriptions(), "status"), ["terminated", "canceled", "canceled"]);
}

#[test]
fn after_its_end_the_same_create_starts_a_new_one() {
    let (server, mut client) = with_plans();
    let first = subscribe(&mut client, &sent("small")).object("subscription");
    let ended = client.delete("/api/v1/subscriptions/s").object("subscription");
    assert_eq!((&ended["lago_id"], &ended["status"]), (&first["lago_id"], &json!("terminated")));
    assert_eq!(client.delete("/api/v1/subscriptions/s").refusal(), not_found("subscription"));
    let second = subscribe(&mut client, &sent("small")).object("subscription");
    assert_ne!(second["lago_id"], first["lago_id"]);
    assert_eq!(texts(&server.subscriptions(), "status"), ["terminated", "active"]);
}

#[test]
fn an_id_active_under_another_customer_is_taken() {
    let (server, mut client) = with_plans();
    subscribe(&mut client, &sent("small"));
    let answer = subscribe(&mut client, &with("small", "external_customer_id", json!("other")));
    assert_eq!(answer.details(), json!({"external_id": ["value_already_exist"]}));
    assert_eq!(server.subscriptions().len(), 1);
}

#[test]
fn a_future_subscription_is_pending_and_its_status_must_be_asked_for() {
    let (_server, mut client) = with_plans();
    let made = subscribe(&mut client, &with("small", "subscription_at", json!("2999-01-01T00:00:00Z")));
    assert_eq!(made.object("subscription")["status"], "pending");
    let changes = json!({"subscription": {"name": "later", "subscription_at": "2999-02-01T00:00:00Z"}});
    assert_eq!(client.put("/api/v1/subscriptions/s", &changes).refusal(), not_found("subscription"));
    let changed = client.put("/api/v1/subscriptions/s?status=pending", &changes).object("subscription");
    assert_eq!(changed["subscription_at"], "2999-02-01T00:00:00.000Z");
    assert_eq!(client.delete("/api/v1/subscriptions/s").refusal(), not_found("subscription"));
    let ended = client.delete("/api/v1/subscriptions/s?status=pending").object("subscription");
    assert_eq!(ended["status"], "canceled");
}

#[test]
fn an_update_changes_what_it_names_and_needs_its_root_key_first() {
    let (_server, mut client) = with_plans();
    subscribe(&mut client, &sent("small"));
    let changes = json!({"subscription": {"name": "B", "plan_code": "huge", "ending_at": "2999-01-01"}});
    let changed = client.put("/api/v1/subscriptions/s", &changes).object("subscription");
    assert_eq!((&changed["name"], &changed["plan_code"]), (&json!("B"), &json!("small")));
    assert_eq!(client.put("/api/v1/subscriptions/none", &changes).refusal(), not_found("subscription"));
    assert_eq!(client.put("/api/v1/subscriptions/none", &json!({})).status, 400);
}

#[test]
fn a_termination_takes_its_choices_from_the_query() {
    let (_server, mut client) = with_plans();
    subscribe(&mut client, &sent("small"));
    let refused = client.delete("/api/v1/subscriptions/s?on_termination_credit_note=keep");
    assert_eq!(refused.details(), json!({"on_termination_credit_note": ["invalid_value"]}));
    let query = "on_termination_credit_note=refund&on_termination_invoice=skip";
    let ended = client.delete(&format!("/api/v1/subscriptions/s?{query}")).object("subscription");
    assert_eq!(ended["on_termination_credit_note"], "refund");
    assert_eq!((&ended["on_termination_invoice"], &ended["status"]), (&json!("skip"), &json!("terminated")));
}

#[test]
fn subscriptions_take_raw_dots_in_their_path() {
    let (server, mut client) = with_plans();
    subscribe(&mut client, &with("small", "external_id", json!("s.v1.x")));
    assert_eq!(client.delete("/api/v1/subscriptions/s.v1.x").status, 200);
    assert_eq!(texts(&server.subscriptions(), "status"), ["terminated"]);
}

#[test]
fn plan_overrides_are_a_premium_feature() {
    let (server, mut client) = with_plans();
    let overridden = with("small", "plan_overrides", json!({"amount_cents": 1}));
    assert_eq!(subscribe(&mut client, &overridden).refusal(), (403, "feature_unavailable".to_owned()));
    assert!(server.subscriptions().is_empty());
    let config = Config { license: License::Premium, ..Config::default() };
    let server = FakeLago::start(config).expect("a free port");
    define_plans(&server);
    assert_eq!(subscribe(&mut Client::new(&server), &overridden).status, 200);
}

fn event_at(id: &str, seconds: u64) -> Value {
    json!({"transaction_id": id, "external_subscription_id": "s", "code": "calls", "timestamp": seconds})
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

#[test]
fn events_are_billed_from_the_start_of_a_subscription_to_its_end() {
    let (server, mut client) = with_plans();
    server.define_metric(Metric::count("calls"));
    client.event(&event_at("unknown", now()));
    assert_eq!(server.bill().never_billed[0].reason, Reason::UnknownSubscription);
    subscribe(&mut client, &with("small", "subscription_at", json!("2024-01-01T00:00:00Z")));
    client.event(&event_at("before", 1_700_000_000));
    client.event(&event_at("within", 1_710_000_000));
    client.delete("/api/v1/subscriptions/s");
    client.event(&event_at("after", now() + 100));
    let bill = server.bill();
    assert_eq!(bill.line("s", "calls").map(|line| line.events), Some(2));
    let never: Vec<(&str, Reason)> =
        bill.never_billed.iter().map(|event| (event.transaction_id.as_str(), event.reason)).collect();
    assert_eq!(never, [("before", Reason::BeforeStart), ("after", Reason::AfterEnd)]);
}

#[test]
fn a_pending_subscription_is_billed_from_its_day() {
    let (server, mut client) = with_plans();
    server.define_metric(Metric::count("calls"));
    subscribe(&mut client, &with("small", "subscription_at", json!("2999-01-01T00:00:00Z")));
    client.event(&event_at("now", now()));
    client.event(&event_at("then", 32_472_144_000 + 86_400));
    let bill = server.bill();
    assert_eq!(bill.line("s", "calls").map(|line| line.events), Some(1));
    assert_eq!(bill.never_billed[0].reason, Reason::BeforeStart);
}

#[test]
fn a_downgrade_that_waits_is_not_billed_twice() {
    let (server, mut client) = with_plans();
    server.define_metric(Metric::count("calls"));
    subscribe(&mut client, &sent("small"));
    subscribe(&mut client, &sent("large"));
    client.event(&event_at("a", now() + 100));
    assert_eq!(server.bill().events(), 1);
    client.delete("/api/v1/subscriptions/s");
    client.event(&event_at("b", now() + 100));
    assert_eq!(server.bill().never_billed.len(), 2);
}

#[test]
fn a_subscription_without_a_date_starts_now() {
    let (server, mut client) = with_plans();
    server.define_metric(Metric::count("calls"));
    subscribe(&mut client, &sent("small"));
    client.event(&event_at("hour ago", now() - 3600));
    client.event(&event_at("in an hour", now() + 3600));
    assert_eq!(server.bill().never_billed.len(), 1);
    assert_eq!(server.bill().never_billed[0].reason, Reason::BeforeStart);
}

#[test]
fn a_defined_subscription_is_there_for_requests_too() {
    let (server, mut client) = with_plans();
    server.define_subscription(Subscription::always("s", "c"));
    let taken = subscribe(&mut client, &with("small", "external_customer_id", json!("other")));
    assert_eq!(taken.details(), json!({"external_id": ["value_already_exist"]}));
    assert_eq!(client.delete("/api/v1/subscriptions/s").status, 200);
    let end = server.subscription("s").expect("kept")["terminated_at"].clone();
    assert_ne!(end, Value::Null);
    let ended = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
    server.define_subscription(Subscription { ended_at: Some(ended), ..Subscription::always("s", "c") });
    assert_eq!(texts(&server.subscriptions(), "terminated_at"), ["1970-01-01T00:00:10.000Z"]);
}

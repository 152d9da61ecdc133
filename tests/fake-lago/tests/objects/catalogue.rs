//! Metrics, plans, add-ons, coupons, taxes, and the estimate of fees.

use fake_lago::{Aggregation, FakeLago, Kind, Metric, Subscription};
use serde_json::{Value, json};

use crate::client::*;
use crate::{not_found, organization};

/// Path, root key, and a complete object of each kind that has a code.
fn complete() -> [(&'static str, &'static str, Value); 5] {
    [
        (
            "billable_metrics",
            "billable_metric",
            json!({"name": "A", "code": "x.y", "aggregation_type": "sum_agg", "field_name": "n"}),
        ),
        (
            "plans",
            "plan",
            json!({"name": "A", "code": "x.y", "interval": "monthly", "amount_cents": 100, "amount_currency": "USD", "pay_in_advance": false}),
        ),
        (
            "add_ons",
            "add_on",
            json!({"name": "A", "code": "x.y", "amount_cents": "100", "amount_currency": "USD"}),
        ),
        (
            "coupons",
            "coupon",
            json!({"name": "A", "code": "x.y", "amount_cents": 100, "amount_currency": "USD"}),
        ),
        ("taxes", "tax", json!({"name": "A", "code": "x.y", "rate": "20.0"})),
    ]
}

#[test]
fn a_code_is_created_once_and_then_changed_by_put() {
    for (path, root, object) in complete() {
        let (server, mut client) = organization();
        let kind = Kind::from_name(root).expect(root);
        let made = client.create(path, root, &object).object(root);
        assert_eq!((&made["code"], made["lago_id"].as_str().map(str::len)), (&json!("x.y"), Some(36)));
        let again = client.create(path, root, &object);
        assert_eq!(again.details(), json!({"code": ["value_already_exist"]}), "{root}");
        let changes = json!({root: {"name": "B", "unknown": 1}});
        let changed = client.put(&format!("/api/v1/{path}/x.y"), &changes).object(root);
        assert_eq!((&changed["name"], &changed["lago_id"]), (&json!("B"), &made["lago_id"]), "{root}");
        assert_eq!(changed.get("unknown"), None);
        assert_eq!(client.put(&format!("/api/v1/{path}/none"), &changes).refusal(), not_found(root));
        assert_eq!(client.put(&format!("/api/v1/{path}/none"), &json!({})).status, 400);
        assert_eq!(server.objects(kind), [changed]);
    }
}

#[test]
fn every_required_field_is_mandatory() {
    for (path, root, object) in complete() {
        let (server, mut client) = organization();
        for field in object.as_object().expect("an object").keys() {
            let mut without = object.clone();
            without.as_object_mut().expect("an object").remove(field);
            let refused = client.create(path, root, &without);
            assert_eq!(refused.details(), json!({field: ["value_is_mandatory"]}), "{root}");
        }
        assert!(server.objects(Kind::from_name(root).expect(root)).is_empty());
    }
}

#[test]
fn an_update_cannot_blank_a_field_or_take_anothers_code() {
    let (_server, mut client) = organization();
    let (path, root, mut object) = complete()[4].clone();
    client.create(path, root, &object);
    object["code"] = json!("other");
    client.create(path, root, &object);
    let put = |client: &mut Client, code: &str, changes: Value| {
        client.put(&format!("/api/v1/taxes/{code}"), &json!({"tax": changes}))
    };
    let refused = put(&mut client, "other", json!({"code": "x.y"}));
    assert_eq!(refused.details(), json!({"code": ["value_already_exist"]}));
    let refused = put(&mut client, "other", json!({"rate": ""}));
    assert_eq!(refused.details(), json!({"rate": ["value_is_mandatory"]}));
    assert_eq!(put(&mut client, "other", json!({"code": "third"})).status, 200);
    assert_eq!(put(&mut client, "other", json!({"name": "B"})).refusal(), not_found("tax"));
}

#[test]
fn values_out_of_their_set_are_refused() {
    let (_server, mut client) = organization();
    for (index, field, value, code) in [
        (0, "aggregation_type", json!("median"), "value_is_invalid"),
        (1, "interval", json!("daily"), "value_is_invalid"),
        (1, "amount_cents", json!("free"), "value_is_invalid"),
        (1, "amount_cents", json!(-1), "value_is_out_of_range"),
        (2, "amount_currency", json!("dollar"), "value_is_invalid"),
        (3, "coupon_type", json!("gift"), "value_is_invalid"),
        (4, "rate", json!("x"), "value_is_invalid"),
    ] {
        let (path, root, mut object) = complete()[index].clone();
        object[field] = value;
        assert_eq!(client.create(path, root, &object).details(), json!({field: [code]}), "{root}");
    }
}

#[test]
fn a_percentage_coupon_needs_a_rate_and_no_amount() {
    let (_server, mut client) = organization();
    let mut coupon = json!({"name": "A", "code": "a", "coupon_type": "percentage"});
    let refused = client.create("coupons", "coupon", &coupon);
    assert_eq!(refused.details(), json!({"percentage_rate": ["value_is_mandatory"]}));
    coupon["percentage_rate"] = json!("10");
    assert_eq!(client.create("coupons", "coupon", &coupon).object("coupon")["reusable"], true);
}

#[test]
fn a_count_needs_no_field() {
    let (_server, mut client) = organization();
    let metric = json!({"name": "A", "code": "a", "aggregation_type": "count_agg"});
    assert_eq!(client.create("billable_metrics", "billable_metric", &metric).status, 200);
}

fn usage(client: &mut Client, id: &str) {
    let event = json!({"transaction_id": id, "external_subscription_id": "sub_1", "code": "tokens", "properties": {"n": "2"}});
    assert_eq!(client.event(&event).status, 200);
}

#[test]
fn a_metric_made_by_a_request_counts_for_the_bill_until_a_reset() {
    let (server, mut client) = organization();
    server.define_subscription(Subscription::always("sub_1", "c"));
    let mut metric = json!({"name": "A", "code": "tokens", "aggregation_type": "sum_agg", "field_name": "n"});
    client.create("billable_metrics", "billable_metric", &metric);
    usage(&mut client, "a");
    assert_eq!(server.bill().line("sub_1", "tokens").map(|line| line.units.as_str()), Some("2"));
    metric["code"] = json!("renamed");
    client.put("/api/v1/billable_metrics/tokens", &json!({"billable_metric": metric}));
    assert_eq!(server.bill().events(), 0);
    server.reset();
    server.define_metric(Metric::count("renamed"));
    assert_eq!(server.objects(Kind::BillableMetric).len(), 1);
    let again = client.create("billable_metrics", "billable_metric", &metric);
    assert_eq!(again.details(), json!({"code": ["value_already_exist"]}));
}

#[test]
fn a_reset_brings_a_defined_metric_back_as_it_was() {
    let (server, mut client) = organization();
    server.define_subscription(Subscription::always("sub_1", "c"));
    server.define_metric(Metric::sum("tokens", "n"));
    let changes = json!({"billable_metric": {"aggregation_type": "count_agg"}});
    assert_eq!(client.put("/api/v1/billable_metrics/tokens", &changes).status, 200);
    let aggregation = |server: &FakeLago| server.bill().lines.first().map(|line| line.aggregation);
    usage(&mut client, "a");
    assert_eq!(aggregation(&server), Some(Aggregation::Count));
    server.reset();
    usage(&mut client, "a");
    assert_eq!(aggregation(&server), Some(Aggregation::Sum));
}

#[test]
fn a_metric_made_with_an_expression_refuses_events_without_its_properties() {
    let (_server, mut client) = organization();
    let metric = json!({"name": "A", "code": "tokens", "aggregation_type": "sum_agg", "field_name": "total",
        "expression": "event.properties.n * event.properties.price"});
    client.create("billable_metrics", "billable_metric", &metric);
    let event = json!({"transaction_id": "a", "external_subscription_id": "s", "code": "tokens", "properties": {"n": "2"}});
    assert_eq!(client.event(&event).details(), "expression_evaluation_failed: Variable: price not found");
}

/// A plan with one in-advance and one in-arrears charge, for the metrics `now` and `later`.
fn with_charges() -> (FakeLago, Client, Value) {
    let (server, mut client) = organization();
    let metric = |code: &str| {
        server.define_object(Kind::BillableMetric, &json!({"code": code, "aggregation_type": "count_agg"}))
    };
    let (now, later) = (metric("now"), metric("later"));
    let (path, root, mut plan) = complete()[1].clone();
    plan["charges"] = json!([
        {"billable_metric_id": now, "charge_model": "standard", "pay_in_advance": true, "unknown": 1},
        {"billable_metric_id": later, "charge_model": "standard"},
    ]);
    let plan = client.create(path, root, &plan).object(root);
    (server, client, plan)
}

#[test]
fn charges_that_do_not_name_their_id_are_replaced() {
    let (_server, mut client, plan) = with_charges();
    let charge = plan["charges"][0].clone();
    assert_eq!((&charge["billable_metric_code"], charge.get("unknown")), (&json!("now"), None));
    let same = json!({"billable_metric_id": charge["lago_billable_metric_id"], "charge_model": "standard"});
    let put = |client: &mut Client, charges: Value| {
        client.put("/api/v1/plans/x.y", &json!({"plan": {"charges": charges}})).object("plan")["charges"]
            .clone()
    };
    let kept = put(&mut client, json!([{"id": charge["lago_id"], "invoice_display_name": "N"}]));
    assert_eq!((&kept[0]["lago_id"], &kept[0]["billable_metric_code"]), (&charge["lago_id"], &json!("now")));
    assert_eq!(kept.as_array().map(Vec::len), Some(1));
    let replaced = put(&mut client, json!([same]));
    assert_ne!(replaced[0]["lago_id"], charge["lago_id"]);
    let untouched = client.put("/api/v1/plans/x.y", &json!({"plan": {"name": "B"}})).object("plan");
    assert_eq!(untouched["charges"], replaced);
}

#[test]
fn a_charge_needs_a_metric_that_exists() {
    let (server, mut client) = organization();
    let (path, root, mut plan) = complete()[1].clone();
    plan["charges"] = json!([{"billable_metric_id": "none"}]);
    assert_eq!(client.create(path, root, &plan).refusal(), not_found("billable_metrics"));
    assert!(server.objects(Kind::Plan).is_empty());
}

#[test]
fn an_estimate_validates_and_stores_nothing() {
    let (server, mut client, _) = with_charges();
    let estimate = |client: &mut Client, subscription: &str, code: &str| {
        let event = json!({"code": code, "external_subscription_id": subscription, "transaction_id": "t"});
        client.create("events/estimate_fees", "event", &event)
    };
    assert_eq!(estimate(&mut client, "s", "now").refusal(), not_found("subscription"));
    let sent = json!({"external_customer_id": "c", "plan_code": "x.y", "external_id": "s"});
    client.create("subscriptions", "subscription", &sent);
    assert_eq!(estimate(&mut client, "s", "none").refusal(), not_found("billable_metric"));
    let arrears = estimate(&mut client, "s", "later");
    assert_eq!(arrears.details(), json!({"code": ["does_not_match_an_instant_charge"]}));
    let fees = estimate(&mut client, "s", "now").object("fees");
    assert_eq!((fees.as_array().map(Vec::len), &fees[0]["item"]["code"]), (Some(1), &json!("now")));
    assert_eq!((server.stored_count(), server.copies().len()), (0, 0));
    assert_eq!(client.post("/api/v1/events/estimate_fees", "{}").status, 400);
}

//! Coupons applied to customers.

use fake_lago::{FakeLago, Kind, Reusable};
use serde_json::{Value, json};

use crate::client::*;
use crate::{not_found, organization, texts};

fn with_coupons() -> (FakeLago, Client) {
    let (server, client) = organization();
    server.define_customer("c");
    server.define_coupon("many", Reusable::Yes);
    server.define_coupon("once", Reusable::No);
    (server, client)
}

fn apply(client: &mut Client, customer: &str, coupon: &str) -> Answer {
    let sent = json!({"external_customer_id": customer, "coupon_code": coupon, "amount_cents": 500});
    client.create("applied_coupons", "applied_coupon", &sent)
}

#[test]
fn a_reusable_coupon_is_applied_twice_by_two_requests() {
    let (server, mut client) = with_coupons();
    let first = apply(&mut client, "c", "many").object("applied_coupon");
    assert_eq!((&first["status"], &first["amount_cents"]), (&json!("active"), &json!(500)));
    apply(&mut client, "c", "many");
    assert_eq!(server.objects_of(Kind::AppliedCoupon, "c").len(), 2);
}

#[test]
fn a_coupon_that_is_not_reusable_is_refused_the_second_time_to_the_same_customer() {
    let (server, mut client) = with_coupons();
    server.define_customer("other");
    assert_eq!(apply(&mut client, "c", "once").status, 200);
    let refused = apply(&mut client, "c", "once");
    assert_eq!(refused.details(), json!({"coupon": ["coupon_is_not_reusable"]}));
    assert_eq!(apply(&mut client, "other", "once").status, 200);
}

#[test]
fn customer_and_coupon_must_exist() {
    let (server, mut client) = with_coupons();
    assert_eq!(apply(&mut client, "none", "many").refusal(), not_found("customer"));
    assert_eq!(apply(&mut client, "c", "none").refusal(), not_found("coupon"));
    assert!(server.objects(Kind::AppliedCoupon).is_empty());
}

#[test]
fn an_applied_coupon_is_removed_from_its_own_customer_by_its_id() {
    let (server, mut client) = with_coupons();
    server.define_customer("other");
    let applied: Value = apply(&mut client, "c", "many").object("applied_coupon");
    let id = applied["lago_id"].as_str().expect("a text");
    let path = |customer: &str, id: &str| format!("/api/v1/customers/{customer}/applied_coupons/{id}");
    assert_eq!(client.delete(&path("none", id)).refusal(), not_found("customer"));
    assert_eq!(client.delete(&path("other", id)).refusal(), not_found("applied_coupon"));
    assert_eq!(client.delete(&path("c", "none")).refusal(), not_found("applied_coupon"));
    assert_eq!(texts(&server.objects(Kind::AppliedCoupon), "status"), ["active"]);
    assert_eq!(client.delete(&path("c", id)).object("applied_coupon")["status"], "terminated");
}

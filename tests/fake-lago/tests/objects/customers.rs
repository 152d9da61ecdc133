//! Customers.

use serde_json::json;

use crate::{customer, not_found, organization, texts};

#[test]
fn a_second_post_changes_only_the_keys_present() {
    let (server, mut client) = organization();
    let sent =
        json!({"external_id": "c", "name": "A", "email": "a@b.c", "metadata": [{"key": "k", "value": "v"}]});
    let first = client.create("customers", "customer", &sent).object("customer");
    assert_eq!((&first["name"], &first["metadata"][0]["value"]), (&json!("A"), &json!("v")));
    let changes = json!({"external_id": "c", "name": null, "city": "Paris"});
    let second = client.create("customers", "customer", &changes).object("customer");
    assert_eq!(second["lago_id"], first["lago_id"]);
    assert_eq!(
        (&second["name"], &second["email"], &second["city"]),
        (&json!(null), &json!("a@b.c"), &json!("Paris"))
    );
    assert_eq!(server.customers(), [second]);
}

#[test]
fn unknown_keys_are_dropped_without_a_word() {
    let (server, mut client) = organization();
    let sent =
        json!({"external_id": 42, "externalId": "x", "lago_id": "mine", "plan": {"a": 1}, "name": ["A"]});
    let made = client.create("customers", "customer", &sent).object("customer");
    for key in ["externalId", "plan", "name"] {
        assert_eq!(made.get(key), None, "{key}");
    }
    assert_ne!(made["lago_id"], "mine");
    assert!(server.customer("42").is_some());
}

#[test]
fn a_customer_needs_an_external_id_and_a_currency_that_is_one() {
    let (server, mut client) = organization();
    for sent in [json!({"name": "A"}), json!({"external_id": " ", "name": "A"}), json!({"external_id": null})]
    {
        let answer = client.create("customers", "customer", &sent);
        assert_eq!(answer.details(), json!({"external_id": ["value_is_mandatory"]}));
    }
    let answer = client.create("customers", "customer", &json!({"external_id": "c", "currency": "euro"}));
    assert_eq!(answer.details(), json!({"currency": ["value_is_invalid"]}));
    assert!(server.customers().is_empty());
}

#[test]
fn a_deleted_customer_is_answered_once_and_then_not_found() {
    let (server, mut client) = organization();
    let first = customer(&mut client, "c").object("customer");
    assert_eq!(client.delete("/api/v1/customers/c").object("customer")["lago_id"], first["lago_id"]);
    assert_eq!(client.delete("/api/v1/customers/c").refusal(), not_found("customer"));
    assert_ne!(customer(&mut client, "c").object("customer")["lago_id"], first["lago_id"]);
    assert_eq!(server.customers().len(), 1);
}

#[test]
fn deleting_a_customer_ends_its_subscriptions_and_wallets() {
    let (server, mut client) = organization();
    server.define_plan("p");
    server.define_wallet("c");
    let sent = json!({"external_customer_id": "c", "plan_code": "p", "external_id": "s"});
    client.create("subscriptions", "subscription", &sent);
    assert_eq!(client.delete("/api/v1/customers/c").status, 200);
    assert_eq!(server.subscription("s").expect("kept")["status"], "terminated");
    assert_eq!(texts(&server.wallets("c"), "status"), ["terminated"]);
}

#[test]
fn a_raw_dot_in_a_customers_path_cuts_the_id() {
    let (server, mut client) = organization();
    for id in ["user@example.com", "user@example", "a/b c%"] {
        customer(&mut client, id);
    }
    client.delete("/api/v1/customers/user@example.com");
    assert_eq!(texts(&server.customers(), "external_id"), ["user@example.com", "a/b c%"]);
    client.delete("/api/v1/customers/user%40example%2Ecom");
    client.delete("/api/v1/customers/a%2Fb%20c%25");
    assert!(server.customers().is_empty());
}

#[test]
fn a_delete_may_carry_a_body() {
    let (server, mut client) = organization();
    customer(&mut client, "c");
    let answer =
        client.request("DELETE", "/api/v1/customers/c", &crate::client::usual(), r#"{"customer":{}}"#);
    assert_eq!(answer.expect("an answer").status, 200);
    assert!(server.customers().is_empty());
}

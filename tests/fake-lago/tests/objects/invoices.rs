//! One-off invoices, fees, credit notes and manual payments.

use fake_lago::{Config, FakeLago, Kind, License};
use serde_json::{Value, json};

use crate::client::*;
use crate::{not_found, organization, texts};

fn with_add_on() -> (FakeLago, Client) {
    let (server, client) = organization();
    server.define_customer("c");
    server.define_add_on("setup", 1000);
    (server, client)
}

/// A premium organization with an invoice of 1000 cents, its id and its fee's.
fn with_invoice() -> (FakeLago, Client, String, String) {
    let config = Config { license: License::Premium, ..Config::default() };
    let server = FakeLago::start(config).expect("a free port");
    let client = Client::new(&server);
    let invoice = server.define_invoice("c", 1000);
    let fee = server.objects_of(Kind::Fee, &invoice)[0]["lago_id"].as_str().expect("a text").to_owned();
    (server, client, invoice, fee)
}

fn bill(client: &mut Client, customer: &str, fees: Value) -> Answer {
    client.create("invoices", "invoice", &json!({"external_customer_id": customer, "fees": fees}))
}

#[test]
fn the_same_one_off_invoice_again_is_a_second_invoice() {
    let (server, mut client) = with_add_on();
    let fees = json!([{"add_on_code": "setup", "units": "2.5", "note": "x"}, {"add_on_code": "setup", "unit_amount_cents": 7}]);
    let invoice = bill(&mut client, "c", fees.clone()).object("invoice");
    assert_eq!(
        (&invoice["total_amount_cents"], &invoice["payment_status"]),
        (&json!(2507), &json!("pending"))
    );
    assert_eq!(invoice["fees"][0]["amount_cents"], 2500);
    assert_eq!(invoice["fees"][0].get("note"), None);
    assert_eq!(bill(&mut client, "c", fees).status, 200);
    assert_eq!((server.invoices().len(), server.objects(Kind::Fee).len()), (2, 4));
}

#[test]
fn an_invoice_needs_a_customer_fees_and_their_add_ons() {
    let (server, mut client) = with_add_on();
    let fees = json!([{"add_on_code": "setup"}]);
    assert_eq!(bill(&mut client, "none", fees.clone()).refusal(), not_found("customer"));
    for none in [json!([]), json!(null), json!("setup"), json!({"add_on_code": "setup"})] {
        assert_eq!(bill(&mut client, "c", none).refusal(), not_found("fees"));
    }
    for unknown in [json!([{"add_on_code": "none"}]), json!([{"add_on_code": "setup"}, {"units": 1}])] {
        assert_eq!(bill(&mut client, "c", unknown).refusal(), not_found("add_on"));
    }
    let wrong = bill(&mut client, "c", json!([{"add_on_code": "setup", "units": "many"}]));
    assert_eq!(wrong.details(), json!({"units": ["value_is_invalid"]}));
    let negative = bill(&mut client, "c", json!([{"add_on_code": "setup", "unit_amount_cents": -1}]));
    assert_eq!(negative.details(), json!({"unit_amount_cents": ["value_is_out_of_range"]}));
    assert!(server.invoices().is_empty());
}

#[test]
fn an_invoices_payment_status_and_metadata_can_be_set() {
    let (server, mut client) = organization();
    let id = server.define_invoice("c", 1000);
    let path = format!("/api/v1/invoices/{id}");
    let changes = json!({"invoice": {"payment_status": "succeeded", "metadata": [{"key": "k", "value": "v"}], "currency": "X"}});
    for _ in 0..2 {
        let invoice = client.put(&path, &changes).object("invoice");
        assert_eq!((&invoice["payment_status"], &invoice["currency"]), (&json!("succeeded"), &json!("USD")));
    }
    let wrong = client.put(&path, &json!({"invoice": {"payment_status": "paid"}}));
    assert_eq!(wrong.details(), json!({"payment_status": ["value_is_invalid"]}));
    let six: Vec<Value> = (0..6).map(|key| json!({"key": key.to_string(), "value": "v"})).collect();
    let many = client.put(&path, &json!({"invoice": {"metadata": six}}));
    assert_eq!(many.details(), json!({"metadata": ["invalid_count"]}));
    assert_eq!(client.put("/api/v1/invoices/none", &changes).refusal(), not_found("invoice"));
    assert_eq!(server.invoices()[0]["metadata"][0]["value"], "v");
}

#[test]
fn a_fees_status_can_be_set_until_it_is_invoiced() {
    let (server, mut client) = organization();
    let free = server.define_fee(100);
    let invoice = server.define_invoice("c", 1000);
    let invoiced = server.objects_of(Kind::Fee, &invoice)[0]["lago_id"].as_str().expect("a text").to_owned();
    let put = |client: &mut Client, id: &str, status: &str| {
        client.put(&format!("/api/v1/fees/{id}"), &json!({"fee": {"payment_status": status}}))
    };
    assert_eq!(put(&mut client, &free, "succeeded").object("fee")["payment_status"], "succeeded");
    assert_eq!(put(&mut client, &free, "gone").details(), json!({"payment_status": ["value_is_invalid"]}));
    let refused = put(&mut client, &invoiced, "succeeded");
    assert_eq!(refused.body, r#"{"status":405,"error":"Method Not Allowed","code":"invoiced_fee"}"#);
    assert_eq!(put(&mut client, "none", "succeeded").refusal(), not_found("fee"));
}

fn note(client: &mut Client, invoice: &str, fee: &str, amount: Value) -> Answer {
    let sent = json!({"invoice_id": invoice, "items": [{"fee_id": fee, "amount_cents": amount}]});
    client.create("credit_notes", "credit_note", &sent)
}

#[test]
fn the_same_credit_note_again_is_a_second_one_until_the_invoice_is_used_up() {
    let (server, mut client, invoice, fee) = with_invoice();
    for _ in 0..2 {
        assert_eq!(
            note(&mut client, &invoice, &fee, json!(500)).object("credit_note")["total_amount_cents"],
            500
        );
    }
    let refused = note(&mut client, &invoice, &fee, json!(1));
    assert_eq!(refused.details(), json!({"amount_cents": ["higher_than_remaining_fee_amount"]}));
    assert_eq!(server.objects_of(Kind::CreditNote, &invoice).len(), 2);
}

#[test]
fn a_credit_note_needs_its_invoice_its_fees_and_amounts_that_agree() {
    let (server, mut client, invoice, fee) = with_invoice();
    assert_eq!(note(&mut client, "none", &fee, json!(1)).refusal(), not_found("invoice"));
    assert_eq!(note(&mut client, &invoice, "none", json!(1)).refusal(), not_found("fee"));
    assert_eq!(note(&mut client, &invoice, &fee, json!("1")).status, 500);
    assert_eq!(
        note(&mut client, &invoice, &fee, json!(-1)).details(),
        json!({"amount_cents": ["invalid_value"]})
    );
    let twice = json!([{"fee_id": fee, "amount_cents": 600}, {"fee_id": fee, "amount_cents": 600}]);
    let refused =
        client.create("credit_notes", "credit_note", &json!({"invoice_id": invoice, "items": twice}));
    assert_eq!(refused.details(), json!({"amount_cents": ["higher_than_remaining_fee_amount"]}));
    let bored = json!({"invoice_id": invoice, "reason": "bored", "items": []});
    let refused = client.create("credit_notes", "credit_note", &bored);
    assert_eq!(refused.details(), json!({"reason": ["value_is_invalid"]}));
    let itemless = client.create("credit_notes", "credit_note", &json!({"invoice_id": invoice}));
    assert_eq!(itemless.details(), json!({"items": ["must_be_an_array"]}));
    let mut sent = json!({"invoice_id": invoice, "items": [{"fee_id": fee, "amount_cents": 10}], "credit_amount_cents": 9});
    let refused = client.create("credit_notes", "credit_note", &sent);
    assert_eq!(refused.details(), json!({"base": ["does_not_match_item_amounts"]}));
    sent["refund_amount_cents"] = json!(1);
    assert_eq!(client.create("credit_notes", "credit_note", &sent).status, 200);
    assert_eq!(server.objects(Kind::CreditNote).len(), 1);
}

fn pay(client: &mut Client, invoice: &str, amount: Value, reference: &str) -> Answer {
    let sent = json!({"invoice_id": invoice, "amount_cents": amount, "reference": reference});
    client.create("payments", "payment", &sent)
}

#[test]
fn the_same_payment_again_is_a_second_one_while_an_amount_is_due() {
    let (server, mut client, invoice, _) = with_invoice();
    for status in ["pending", "succeeded"] {
        assert_eq!(pay(&mut client, &invoice, json!(500), "ref").object("payment")["amount_cents"], 500);
        assert_eq!(texts(&server.invoices(), "payment_status"), [status]);
    }
    let refused = pay(&mut client, &invoice, json!(1), "ref");
    assert_eq!(refused.details(), json!({"amount_cents": ["value_is_out_of_range"]}));
    assert_eq!(server.objects_of(Kind::Payment, &invoice).len(), 2);
}

#[test]
fn a_payment_needs_an_invoice_and_a_reference_of_forty_characters_at_most() {
    let (server, mut client, invoice, _) = with_invoice();
    assert_eq!(pay(&mut client, "none", json!(1), "ref").refusal(), not_found("invoice"));
    assert_eq!(
        pay(&mut client, &invoice, json!(1), "").details(),
        json!({"reference": ["value_is_mandatory"]})
    );
    let long = "x".repeat(41);
    assert_eq!(
        pay(&mut client, &invoice, json!(1), &long).details(),
        json!({"reference": ["value_is_too_long"]})
    );
    assert_eq!(
        pay(&mut client, &invoice, json!("x"), "r").details(),
        json!({"amount_cents": ["value_is_invalid"]})
    );
    let dated = json!({"invoice_id": invoice, "amount_cents": 1, "reference": "r", "paid_at": "today"});
    let refused = client.create("payments", "payment", &dated);
    assert_eq!(refused.details(), json!({"paid_at": ["invalid_date"]}));
    assert!(server.objects(Kind::Payment).is_empty());
    assert_eq!(pay(&mut client, &invoice, json!("1"), &long[1..]).status, 200);
}

#[test]
fn credit_notes_and_payments_are_premium_features() {
    let (server, mut client) = organization();
    let invoice = server.define_invoice("c", 1000);
    let unavailable = (403, "feature_unavailable".to_owned());
    assert_eq!(note(&mut client, &invoice, "f", json!(1)).refusal(), unavailable);
    assert_eq!(pay(&mut client, &invoice, json!(1), "r").refusal(), unavailable);
    assert_eq!(pay(&mut client, "none", json!(1), "r").refusal(), not_found("invoice"));
    server.set_license(License::Premium);
    assert_eq!(pay(&mut client, &invoice, json!(1), "r").status, 200);
}

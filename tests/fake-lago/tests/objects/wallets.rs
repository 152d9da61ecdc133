//! Wallets and the credits in them.

use fake_lago::FakeLago;
use serde_json::{Value, json};

use crate::client::*;
use crate::{not_found, organization, texts};

fn sent() -> Value {
    json!({"external_customer_id": "c", "rate_amount": "2", "currency": "EUR"})
}

fn open(client: &mut Client, field: &str, value: Value) -> Answer {
    let mut sent = sent();
    sent[field] = value;
    client.create("wallets", "wallet", &sent)
}

fn with_customer() -> (FakeLago, Client) {
    let (server, client) = organization();
    server.define_customer("c");
    (server, client)
}

#[test]
fn the_same_create_again_makes_a_second_wallet() {
    let (server, mut client) = with_customer();
    let first = client.create("wallets", "wallet", &sent()).object("wallet");
    assert_eq!((&first["status"], &first["credits_balance"]), (&json!("active"), &json!("0")));
    let second = client.create("wallets", "wallet", &sent()).object("wallet");
    assert_ne!(second["lago_id"], first["lago_id"]);
    assert_eq!(server.wallets("c").len(), 2);
}

#[test]
fn a_customer_has_six_active_wallets_at_most() {
    let (server, mut client) = with_customer();
    for _ in 0..6 {
        assert_eq!(client.create("wallets", "wallet", &sent()).status, 200);
    }
    let refused = client.create("wallets", "wallet", &sent());
    assert_eq!(refused.details(), json!({"customer": ["wallet_limit_reached"]}));
    let id = server.wallets("c")[0]["lago_id"].as_str().expect("a text").to_owned();
    client.delete(&format!("/api/v1/wallets/{id}"));
    assert_eq!(client.create("wallets", "wallet", &sent()).status, 200);
}

#[test]
fn an_unknown_customer_is_a_problem_of_the_field_or_of_the_path() {
    let (_server, mut client) = organization();
    let refused = client.create("wallets", "wallet", &sent());
    assert_eq!(refused.details(), json!({"customer": ["customer_not_found"]}));
    let refused = client.create("customers/c/wallets", "wallet", &sent());
    assert_eq!(refused.refusal(), not_found("customer"));
}

#[test]
fn a_wallet_needs_a_rate_and_a_currency() {
    let (server, mut client) = with_customer();
    for (field, value, code) in [
        ("rate_amount", json!(null), "value_is_mandatory"),
        ("rate_amount", json!("much"), "value_is_invalid"),
        ("rate_amount", json!("0"), "value_is_out_of_range"),
        ("currency", json!(""), "value_is_mandatory"),
        ("currency", json!("euro"), "value_is_invalid"),
    ] {
        assert_eq!(open(&mut client, field, value).details(), json!({field: [code]}));
    }
    assert!(server.wallets("c").is_empty());
    let rate = open(&mut client, "rate_amount", json!(1.5));
    assert_eq!(rate.status, 200);
}

#[test]
fn an_explicit_code_must_be_free_or_the_server_crashes() {
    let (_server, mut client) = with_customer();
    assert_eq!(open(&mut client, "code", json!("gold")).status, 200);
    assert_eq!(open(&mut client, "code", json!("gold")).status, 500);
    client.delete("/api/v1/customers/c/wallets/gold");
    assert_eq!(open(&mut client, "code", json!("gold")).status, 200);
}

#[test]
fn a_wallet_is_reached_by_its_id_and_by_its_customers_code() {
    let (server, mut client) = with_customer();
    let wallet = client.create(
        "customers/c/wallets",
        "wallet",
        &json!({"rate_amount": 1, "currency": "USD", "code": "gold"}),
    );
    let id = wallet.object("wallet")["lago_id"].as_str().expect("a text").to_owned();
    let named = |name: &str| json!({"wallet": {"name": name, "rate_amount": "9"}});
    let by_id = client.put(&format!("/api/v1/wallets/{id}"), &named("A")).object("wallet");
    assert_eq!((&by_id["name"], &by_id["rate_amount"]), (&json!("A"), &json!(1)));
    let by_code = client.put("/api/v1/customers/c/wallets/gold", &named("B")).object("wallet");
    assert_eq!((by_code["lago_id"].as_str(), &by_code["name"]), (Some(id.as_str()), &json!("B")));
    for _ in 0..2 {
        assert_eq!(
            client.delete("/api/v1/customers/c/wallets/gold").object("wallet")["status"],
            "terminated"
        );
        assert_eq!(client.delete(&format!("/api/v1/wallets/{id}")).object("wallet")["status"], "terminated");
    }
    assert_eq!(texts(&server.wallets("c"), "status"), ["terminated"]);
}

#[test]
fn unknown_wallets_and_customers_in_a_path_are_not_found() {
    let (_server, mut client) = with_customer();
    let changes = json!({"wallet": {"name": "A"}});
    assert_eq!(client.put("/api/v1/wallets/none", &changes).refusal(), not_found("wallet"));
    assert_eq!(client.delete("/api/v1/wallets/none").refusal(), not_found("wallet"));
    assert_eq!(client.put("/api/v1/customers/c/wallets/none", &changes).refusal(), not_found("wallet"));
    assert_eq!(client.delete("/api/v1/customers/none/wallets/x").refusal(), not_found("customer"));
    assert_eq!(client.get("/api/v1/wallets/none/wallet_transactions").refusal(), not_found("wallet"));
}

fn top_up(client: &mut Client, wallet: &str, field: &str, credits: Value) -> Answer {
    let metadata = json!([{"key": "row", "value": "7"}]);
    let sent = json!({"wallet_id": wallet, field: credits, "metadata": metadata});
    client.create("wallet_transactions", "wallet_transaction", &sent)
}

fn balance(server: &FakeLago) -> Value {
    server.wallets("c")[0]["credits_balance"].clone()
}

#[test]
fn the_same_top_up_again_doubles_the_credit() {
    let (server, mut client) = organization();
    let wallet = server.define_wallet("c");
    for _ in 0..2 {
        let made =
            top_up(&mut client, &wallet, "granted_credits", json!("10.50")).object("wallet_transactions");
        assert_eq!(made.as_array().map(Vec::len), Some(1));
        assert_eq!(
            (&made[0]["credit_amount"], &made[0]["transaction_status"]),
            (&json!("10.5"), &json!("granted"))
        );
    }
    assert_eq!(server.wallet_transactions().len(), 2);
    assert_eq!(balance(&server), "21");
    top_up(&mut client, &wallet, "voided_credits", json!("1"));
    assert_eq!(balance(&server), "20");
    let pending = top_up(&mut client, &wallet, "paid_credits", json!("5")).object("wallet_transactions");
    assert_eq!((&pending[0]["status"], balance(&server)), (&json!("pending"), json!("20")));
}

#[test]
fn credits_must_be_texts() {
    let (server, mut client) = organization();
    let wallet = server.define_wallet("c");
    for field in ["paid_credits", "granted_credits", "voided_credits"] {
        for credits in [json!(10), json!(1.5), json!("ten"), json!("-1"), json!("")] {
            let refused = top_up(&mut client, &wallet, field, credits);
            assert_eq!(refused.details(), json!({field: [format!("invalid_{field}"), "invalid_amount"]}));
        }
    }
    assert!(server.wallet_transactions().is_empty());
    assert_eq!(
        top_up(&mut client, &wallet, "paid_credits", json!(null)).object("wallet_transactions"),
        json!([])
    );
    let two = json!({"wallet_id": wallet, "paid_credits": "1", "granted_credits": "2"});
    let made = client.create("wallet_transactions", "wallet_transaction", &two).object("wallet_transactions");
    assert_eq!(made.as_array().map(Vec::len), Some(2));
}

#[test]
fn a_top_up_needs_a_wallet_that_is_open_and_holds_enough() {
    let (server, mut client) = organization();
    let wallet = server.define_wallet("c");
    let refused = top_up(&mut client, &wallet, "voided_credits", json!("1"));
    assert_eq!(refused.details(), json!({"voided_credits": ["insufficient_credits"]}));
    let refused = top_up(&mut client, "none", "paid_credits", json!("1"));
    assert_eq!(refused.details(), json!({"wallet_id": ["wallet_not_found"]}));
    client.delete(&format!("/api/v1/wallets/{wallet}"));
    let refused = top_up(&mut client, &wallet, "paid_credits", json!("1"));
    assert_eq!(refused.details(), json!({"wallet_id": ["wallet_is_terminated"]}));
}

#[test]
fn a_top_up_can_be_looked_for_by_its_metadata() {
    let (server, mut client) = organization();
    let wallet = server.define_wallet("c");
    let path = format!("/api/v1/wallets/{wallet}/wallet_transactions");
    let found = |client: &mut Client, query: &str| {
        client.get(&format!("{path}?{query}")).json()["meta"]["total_count"].clone()
    };
    assert_eq!(found(&mut client, "metadata[row]=7"), 0);
    top_up(&mut client, &wallet, "granted_credits", json!("1"));
    let other = json!({"wallet_id": wallet, "paid_credits": "2"});
    client.create("wallet_transactions", "wallet_transaction", &other);
    assert_eq!(found(&mut client, ""), 2);
    assert_eq!(found(&mut client, "metadata[row]=7"), 1);
    assert_eq!(found(&mut client, "metadata%5Brow%5D=7"), 1);
    assert_eq!(found(&mut client, "metadata[row]=8"), 0);
    assert_eq!(found(&mut client, "metadata[other]=7"), 0);
    assert_eq!(found(&mut client, "status=pending"), 1);
    let first = client.get(&format!("{path}?per_page=1")).json();
    assert_eq!(
        (&first["wallet_transactions"][0]["credit_amount"], &first["meta"]["next_page"]),
        (&json!("2"), &json!(2))
    );
}

#[test]
fn the_first_credits_of_a_wallet_are_transactions_too() {
    let (server, mut client) = with_customer();
    assert_eq!(open(&mut client, "granted_credits", json!("3")).object("wallet")["credits_balance"], "3");
    assert_eq!(server.wallet_transactions().len(), 1);
    let refused = open(&mut client, "paid_credits", json!(3));
    assert_eq!(refused.details(), json!({"paid_credits": ["invalid_paid_credits", "invalid_amount"]}));
}

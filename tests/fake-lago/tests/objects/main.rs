//! The facts of Lago's other write endpoints, one test each, over a real socket.

#[path = "../client/mod.rs"]
mod client;

mod catalogue;
mod common;
mod coupons;
mod customers;
mod invoices;
mod subscriptions;
mod wallets;

use fake_lago::FakeLago;
use serde_json::{Value, json};

use client::{Answer, Client};

/// An empty organization.
fn organization() -> (FakeLago, Client) {
    let server = FakeLago::start(fake_lago::Config::default()).expect("a free port");
    let client = Client::new(&server);
    (server, client)
}

/// `{status, code}` of a 404.
fn not_found(resource: &str) -> (u16, String) {
    (404, format!("{resource}_not_found"))
}

fn texts(objects: &[Value], field: &str) -> Vec<String> {
    objects.iter().map(|object| object[field].as_str().unwrap_or("null").to_owned()).collect()
}

fn customer(client: &mut Client, external_id: &str) -> Answer {
    client.create("customers", "customer", &json!({"external_id": external_id}))
}

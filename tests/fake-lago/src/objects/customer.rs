//! Customers: created and updated by one call, found by `external_id`.

use serde_json::{Value, json};

use super::books::{Books, Outcome};
use super::input::{Permitted, Problems};
use super::kind::Kind;
use super::table::{At, Fields, text};
use crate::reply::{self, Reply};

const PERMITTED: Permitted = Permitted {
    texts: &[
        "external_id",
        "name",
        "firstname",
        "lastname",
        "customer_type",
        "account_type",
        "country",
        "address_line1",
        "address_line2",
        "state",
        "zipcode",
        "email",
        "city",
        "url",
        "phone",
        "logo_url",
        "legal_name",
        "legal_number",
        "tax_identification_number",
        "currency",
        "timezone",
        "external_salesforce_id",
        "finalize_zero_amount_invoice",
        "billing_entity_code",
    ],
    scalars: &["net_payment_term", "skip_invoice_custom_sections"],
    nested: &[
        "integration_customers",
        "billing_configuration",
        "metadata",
        "shipping_address",
        "tax_codes",
        "invoice_custom_section_codes",
    ],
};

/// Creates the customer or changes the keys that were sent.
pub fn upsert(books: &mut Books<'_>, sent: Fields) -> Outcome {
    let sent = PERMITTED.read(sent);
    let mut problems = Problems::default();
    problems.require(&sent, &["external_id"]);
    problems.check_currency(&sent, "currency");
    problems.check()?;
    let at = match books.objects.first(Kind::Customer, text(&sent, "external_id")) {
        Some(at) => {
            books.objects.change(at, sent);
            at
        }
        None => books.add(Kind::Customer, sent),
    };
    let now = books.stamp();
    books.objects.set(at, "updated_at", now);
    Ok(books.value(at))
}

pub fn find(books: &Books<'_>, external_id: &str) -> Result<At, Reply> {
    books.objects.first(Kind::Customer, external_id).ok_or_else(|| reply::not_found("customer"))
}

/// As `POST /subscriptions` does it.
pub fn find_or_create(books: &mut Books<'_>, external_id: &str) -> At {
    find(books, external_id).unwrap_or_else(|_| {
        let fields = Fields::from_iter([("external_id".to_owned(), json!(external_id))]);
        books.add(Kind::Customer, fields)
    })
}

/// Deletes the customer and ends what runs under it.
pub fn delete(books: &mut Books<'_>, external_id: &str) -> Outcome {
    let at = find(books, external_id)?;
    let now = books.stamp();
    for wallet in books.objects.by_key(Kind::Wallet, external_id) {
        if books.text(wallet, "status") == "active" {
            books.objects.set(wallet, "status", "terminated");
            books.objects.set(wallet, "terminated_at", now.clone());
        }
    }
    let running: Vec<(String, String)> = books
        .objects
        .all(Kind::Subscription)
        .filter(|fields| text(fields, "external_customer_id") == external_id)
        .map(|fields| (text(fields, "lago_id").to_owned(), text(fields, "status").to_owned()))
        .collect();
    for (lago_id, status) in running {
        let Some(subscription) = books.objects.by_id(Kind::Subscription, &lago_id) else { continue };
        match status.as_str() {
            "active" => super::subscription::terminate(books, subscription),
            "pending" => super::subscription::cancel(books, subscription),
            _ => {}
        }
    }
    let deleted: Value = books.value(at);
    books.objects.remove(at);
    Ok(deleted)
}

//! Wallets: each create makes another one, up to the limit.

use serde_json::json;

use super::books::{self, Books, Outcome};
use super::customer;
use super::input::{self, Permitted, Problems};
use super::kind::Kind;
use super::table::{At, Fields, text};
use super::wallet_transaction;
use crate::reply::{self, Reply};

const MOST_ACTIVE: usize = 6;

const CREATED: Permitted = Permitted {
    texts: &["external_customer_id", "name", "code", "currency", "transaction_name"],
    scalars: &[
        "rate_amount",
        "priority",
        "paid_credits",
        "granted_credits",
        "expiration_at",
        "invoice_requires_successful_payment",
        "paid_top_up_min_amount_cents",
        "paid_top_up_max_amount_cents",
        "ignore_paid_top_up_limits_on_creation",
        "transaction_priority",
    ],
    nested: &[
        "metadata",
        "transaction_metadata",
        "recurring_transaction_rules",
        "applies_to",
        "invoice_custom_section",
        "payment_method",
    ],
};

const UPDATED: Permitted = Permitted {
    texts: &["name", "code"],
    scalars: &[
        "priority",
        "expiration_at",
        "invoice_requires_successful_payment",
        "paid_top_up_min_amount_cents",
        "paid_top_up_max_amount_cents",
    ],
    nested: &[
        "metadata",
        "recurring_transaction_rules",
        "applies_to",
        "invoice_custom_section",
        "payment_method",
    ],
};

/// `POST /wallets` reports an unknown customer as a problem of the field, with 422.
pub fn create(books: &mut Books<'_>, sent: Fields) -> Outcome {
    let mut sent = CREATED.read(sent);
    let customer = books.objects.first(Kind::Customer, text(&sent, "external_customer_id"));
    let mut problems = Problems::default();
    match customer {
        None => problems.add("customer", "customer_not_found"),
        Some(at) if active_of(books, at).count() >= MOST_ACTIVE => {
            problems.add("customer", "wallet_limit_reached");
        }
        Some(_) => {}
    }
    wallet_transaction::check_credits(&sent, &mut problems);
    problems.check()?;
    let Some(customer) = customer else { return Err(reply::not_found("customer")) };

    let currency = books.field(customer, "currency");
    books::complete(&mut sent, [("currency", currency)]);
    let mut problems = Problems::default();
    problems.require(&sent, &["rate_amount", "currency"]);
    problems.check_currency(&sent, "currency");
    if let Some(rate) = sent.get("rate_amount").filter(|rate| !input::is_blank(Some(rate))) {
        match input::number(rate) {
            None => problems.add("rate_amount", "value_is_invalid"),
            Some(rate) if rate <= 0 => problems.add("rate_amount", "value_is_out_of_range"),
            Some(_) => {}
        }
    }
    problems.check()?;
    if input::is_blank(sent.get("code")) {
        sent.insert("code".to_owned(), json!(free_code(books, customer)));
    } else if active_of(books, customer).any(|at| books.text(at, "code") == text(&sent, "code")) {
        // The unique index of active wallets; the server does not translate the violation.
        return Err(reply::internal_error());
    }

    let first_credits = wallet_transaction::take(&mut sent);
    let at = open(books, customer, sent);
    wallet_transaction::apply(books, at, first_credits);
    Ok(books.value(at))
}

pub fn create_of(books: &mut Books<'_>, customer: &str, mut sent: Fields) -> Outcome {
    customer::find(books, customer)?;
    sent.insert("external_customer_id".to_owned(), json!(customer));
    create(books, sent)
}

/// An active wallet without credits.
pub fn open(books: &mut Books<'_>, customer: At, sent: Fields) -> At {
    let mut fields = Fields::from_iter([
        ("lago_customer_id".to_owned(), books.field(customer, "lago_id")),
        ("external_customer_id".to_owned(), books.field(customer, "external_id")),
        ("status".to_owned(), json!("active")),
    ]);
    fields.extend(sent);
    let defaults = [("credits_balance", json!("0")), ("terminated_at", json!(null))];
    books::complete(&mut fields, defaults);
    books.add(Kind::Wallet, fields)
}

fn active_of(books: &Books<'_>, customer: At) -> impl Iterator<Item = At> {
    let wallets = books.objects.by_key(Kind::Wallet, &books.text(customer, "external_id"));
    wallets.into_iter().filter(|at| books.text(*at, "status") == "active")
}

fn free_code(books: &Books<'_>, customer: At) -> String {
    let taken: Vec<String> = active_of(books, customer).map(|at| books.text(at, "code")).collect();
    let numbered = (2..).map(|number| format!("default_{number}"));
    let mut codes = std::iter::once("default".to_owned()).chain(numbered);
    codes.find(|code| !taken.contains(code)).unwrap_or_default()
}

pub fn find(books: &Books<'_>, lago_id: &str) -> Result<At, Reply> {
    books.objects.by_id(Kind::Wallet, lago_id).ok_or_else(|| reply::not_found("wallet"))
}

/// The wallet of a customer's path: the active one of those with this code, else the latest.
pub fn find_of(books: &Books<'_>, customer: &str, code: &str) -> Result<At, Reply> {
    customer::find(books, customer)?;
    let wallets = books.objects.by_key(Kind::Wallet, customer);
    let coded = wallets.into_iter().filter(|at| books.text(*at, "code") == code);
    let found = coded.max_by_key(|at| books.text(*at, "status") == "active");
    found.ok_or_else(|| reply::not_found("wallet"))
}

pub fn update(books: &mut Books<'_>, found: Result<At, Reply>, sent: Fields) -> Outcome {
    let at = found?;
    books.objects.change(at, UPDATED.read(sent));
    Ok(books.value(at))
}

/// Ending a wallet that has ended changes nothing.
pub fn end(books: &mut Books<'_>, found: Result<At, Reply>) -> Outcome {
    let at = found?;
    if books.text(at, "status") == "active" {
        let now = books.stamp();
        books.objects.set(at, "status", "terminated");
        books.objects.set(at, "terminated_at", now);
    }
    Ok(books.value(at))
}

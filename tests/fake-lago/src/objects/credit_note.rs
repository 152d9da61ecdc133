//! Credit notes: each request another one, until the invoice's fees are used up.

use bigdecimal::BigDecimal;
use serde_json::{Value, json};

use super::books::{self, Books, Outcome};
use super::input::{self, Permitted, problem};
use super::kind::Kind;
use super::table::{Fields, text};
use crate::config::License;
use crate::reply;

const CREATED: Permitted = Permitted {
    texts: &["invoice_id", "reason", "description"],
    scalars: &["credit_amount_cents", "refund_amount_cents", "offset_amount_cents"],
    nested: &["items"],
};

const REASONS: [&str; 6] = [
    "duplicated_charge",
    "product_unsatisfactory",
    "order_change",
    "order_cancellation",
    "fraudulent_charge",
    "other",
];

pub fn create(books: &mut Books<'_>, sent: Fields) -> Outcome {
    let mut sent = CREATED.read(sent);
    let invoice = books.objects.by_id(Kind::Invoice, text(&sent, "invoice_id"));
    let invoice = invoice.ok_or_else(|| reply::not_found("invoice"))?;
    if books.license == License::Free {
        return Err(reply::feature_unavailable());
    }
    books::complete(&mut sent, [("reason", json!("other"))]);
    if !REASONS.contains(&text(&sent, "reason")) {
        return Err(problem("reason", "value_is_invalid"));
    }
    let Some(Value::Array(items)) = sent.remove("items") else {
        return Err(problem("items", "must_be_an_array"));
    };
    let invoice_id = books.text(invoice, "lago_id");
    let mut noted: Vec<Value> = Vec::new();
    let mut total = BigDecimal::from(0);
    for item in items {
        let fee_id = item.get("fee_id").and_then(Value::as_str).unwrap_or_default();
        let fee = books.objects.by_id(Kind::Fee, fee_id);
        let fee = fee.filter(|at| books.text(*at, "lago_invoice_id") == invoice_id);
        let fee = fee.ok_or_else(|| reply::not_found("fee"))?;
        // The server rounds the amount, which a text cannot do.
        let amount = match item.get("amount_cents") {
            None | Some(Value::Null) => BigDecimal::from(0),
            Some(amount) if amount.is_number() => input::number(amount).unwrap_or_default().round(0),
            Some(_) => return Err(reply::internal_error()),
        };
        let whole = input::number(&books.field(fee, "amount_cents")).unwrap_or_default();
        let used = credited(books, &invoice_id, fee_id) + credited_by(&noted, fee_id);
        if amount < 0 {
            return Err(problem("amount_cents", "invalid_value"));
        }
        if amount > whole - used {
            return Err(problem("amount_cents", "higher_than_remaining_fee_amount"));
        }
        total += &amount;
        noted.push(json!({"fee_id": fee_id, "amount_cents": input::whole(&amount)}));
    }
    let parts = ["credit_amount_cents", "refund_amount_cents", "offset_amount_cents"];
    let parts: Vec<BigDecimal> =
        parts.iter().filter_map(|name| sent.get(*name)).filter_map(input::number).collect();
    if !parts.is_empty() && parts.iter().sum::<BigDecimal>() != total {
        return Err(problem("base", "does_not_match_item_amounts"));
    }
    sent.remove("invoice_id");
    sent.insert("lago_invoice_id".to_owned(), json!(invoice_id));
    sent.insert("items".to_owned(), Value::Array(noted));
    sent.insert("total_amount_cents".to_owned(), input::whole(&total));
    books::complete(
        &mut sent,
        [("credit_status", json!("available")), ("currency", books.field(invoice, "currency"))],
    );
    let at = books.add(Kind::CreditNote, sent);
    Ok(books.value(at))
}

/// What earlier notes have credited of a fee.
fn credited(books: &Books<'_>, invoice_id: &str, fee_id: &str) -> BigDecimal {
    let notes = books.objects.by_key(Kind::CreditNote, invoice_id).into_iter();
    let items = notes.map(|at| books.field(at, "items"));
    items.map(|items| credited_by(items.as_array().map_or(&[], Vec::as_slice), fee_id)).sum()
}

fn credited_by(items: &[Value], fee_id: &str) -> BigDecimal {
    let of_fee = items.iter().filter(|item| item["fee_id"] == fee_id);
    of_fee.filter_map(|item| input::number(&item["amount_cents"])).sum()
}

//! Manual payments: each request another one, while an amount is due.

use bigdecimal::BigDecimal;
use serde_json::json;

use super::books::{self, Books, Outcome};
use super::input::{self, Permitted, Problems, problem};
use super::kind::Kind;
use super::table::{Fields, text};
use crate::config::License;
use crate::reply;

const CREATED: Permitted =
    Permitted { texts: &["invoice_id", "reference"], scalars: &["amount_cents", "paid_at"], nested: &[] };

const LONGEST_REFERENCE: usize = 40;

pub fn create(books: &mut Books<'_>, sent: Fields) -> Outcome {
    let mut sent = CREATED.read(sent);
    let invoice = books.objects.by_id(Kind::Invoice, text(&sent, "invoice_id"));
    let invoice = invoice.ok_or_else(|| reply::not_found("invoice"))?;
    if books.license == License::Free {
        return Err(reply::feature_unavailable());
    }
    let paid_at = sent.get("paid_at").filter(|value| !input::is_blank(Some(value)));
    if paid_at.is_some_and(|value| input::instant(value).is_none()) {
        return Err(problem("paid_at", "invalid_date"));
    }
    let mut problems = Problems::default();
    problems.require(&sent, &["amount_cents", "reference"]);
    if text(&sent, "reference").chars().count() > LONGEST_REFERENCE {
        problems.add("reference", "value_is_too_long");
    }
    let amount = sent.get("amount_cents").filter(|amount| !input::is_blank(Some(amount)));
    let amount = match amount.map(input::number) {
        Some(None) => {
            problems.add("amount_cents", "value_is_invalid");
            BigDecimal::from(0)
        }
        read => read.flatten().unwrap_or_default(),
    };
    let of_invoice = |name: &str| input::number(&books.field(invoice, name)).unwrap_or_default();
    let (total, paid) = (of_invoice("total_amount_cents"), of_invoice("total_paid_amount_cents") + &amount);
    if paid > total {
        problems.add("amount_cents", "value_is_out_of_range");
    }
    problems.check()?;

    let invoice_id = sent.remove("invoice_id").unwrap_or_default();
    sent.insert("lago_invoice_id".to_owned(), invoice_id.clone());
    sent.insert("invoice_ids".to_owned(), json!([invoice_id]));
    sent.insert("amount_cents".to_owned(), input::whole(&amount));
    let currency = books.field(invoice, "currency");
    books::complete(
        &mut sent,
        [
            ("amount_currency", currency),
            ("type", json!("manual")),
            ("payment_status", json!("succeeded")),
            ("status", json!("succeeded")),
        ],
    );
    let at = books.add(Kind::Payment, sent);
    if paid == total {
        books.objects.set(invoice, "payment_status", "succeeded");
    }
    books.objects.set(invoice, "total_paid_amount_cents", input::whole(&paid));
    Ok(books.value(at))
}

//! One-off invoices, each request another one, and the payment status of invoices and fees.

use bigdecimal::BigDecimal;
use serde_json::{Value, json};

use super::books::{self, Books, Outcome};
use super::customer;
use super::input::{self, Permitted, Problems, problem};
use super::kind::Kind;
use super::table::{At, Fields, text};
use crate::reply;

const CREATED: Permitted = Permitted {
    texts: &["external_customer_id", "currency"],
    scalars: &["skip_psp", "net_payment_term"],
    nested: &["fees", "payment_method", "invoice_custom_section"],
};

const LINE: Permitted = Permitted {
    texts: &["add_on_code", "invoice_display_name", "description"],
    scalars: &["unit_amount_cents", "units", "from_datetime", "to_datetime"],
    nested: &["tax_codes"],
};

const UPDATED: Permitted = Permitted { texts: &["payment_status"], scalars: &[], nested: &["metadata"] };
const FEE_UPDATED: Permitted = Permitted { texts: &["payment_status"], scalars: &[], nested: &[] };

const INVOICE_STATUSES: [&str; 3] = ["pending", "succeeded", "failed"];
const FEE_STATUSES: [&str; 4] = ["pending", "succeeded", "failed", "refunded"];
const MOST_METADATA: usize = 5;

/// One fee of an invoice about to be made.
pub struct Line {
    fields: Fields,
    amount_cents: BigDecimal,
}

impl Line {
    pub fn of(amount_cents: BigDecimal) -> Line {
        Line { fields: Fields::new(), amount_cents }
    }
}

pub fn create(books: &mut Books<'_>, sent: Fields) -> Outcome {
    let mut sent = CREATED.read(sent);
    let customer = customer::find(books, text(&sent, "external_customer_id"))?;
    let Some(Value::Array(fees)) = sent.remove("fees").filter(|fees| !input::is_blank(Some(fees))) else {
        return Err(reply::not_found("fees"));
    };
    let fees = fees.into_iter().filter_map(|fee| match fee {
        Value::Object(fields) => Some(LINE.read(fields)),
        _ => None,
    });
    let mut priced = Vec::new();
    for fields in fees {
        let add_on = books.objects.first(Kind::AddOn, text(&fields, "add_on_code"));
        priced.push((add_on.ok_or_else(|| reply::not_found("add_on"))?, fields));
    }
    let mut problems = Problems::default();
    let lines = priced.into_iter().map(|(add_on, fields)| price(books, add_on, fields, &mut problems));
    let lines: Vec<Line> = lines.collect();
    problems.check_currency(&sent, "currency");
    problems.check()?;
    books::complete(&mut sent, [("currency", books.field(customer, "currency"))]);
    books::complete(&mut sent, [("currency", json!("USD"))]);
    let at = issue(books, customer, sent.remove("currency").unwrap_or_default(), lines);
    Ok(books.value(at))
}

fn price(books: &Books<'_>, add_on: At, mut fields: Fields, problems: &mut Problems) -> Line {
    let defaults = [
        ("units", json!(1)),
        ("unit_amount_cents", books.field(add_on, "amount_cents")),
        ("lago_add_on_id", books.field(add_on, "lago_id")),
    ];
    books::complete(&mut fields, defaults);
    let mut read = |name: &str| match fields.get(name).and_then(input::number) {
        Some(number) if number >= 0 => number,
        Some(_) => {
            problems.add(name, "value_is_out_of_range");
            BigDecimal::from(0)
        }
        None => {
            problems.add(name, "value_is_invalid");
            BigDecimal::from(0)
        }
    };
    let amount_cents = (read("units") * read("unit_amount_cents")).round(0);
    Line { fields, amount_cents }
}

/// A finalized invoice of these fees.
pub fn issue(books: &mut Books<'_>, customer: At, currency: Value, lines: Vec<Line>) -> At {
    let total: BigDecimal = lines.iter().map(|line| &line.amount_cents).sum();
    let payment_status = if total > 0 { "pending" } else { "succeeded" };
    let invoice = books.add(
        Kind::Invoice,
        Fields::from_iter(
            [
                ("lago_customer_id", books.field(customer, "lago_id")),
                ("external_customer_id", books.field(customer, "external_id")),
                ("invoice_type", json!("one_off")),
                ("status", json!("finalized")),
                ("payment_status", json!(payment_status)),
                ("currency", currency),
                ("total_amount_cents", input::whole(&total)),
                ("total_paid_amount_cents", json!(0)),
                ("metadata", json!([])),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        ),
    );
    let invoice_id = books.field(invoice, "lago_id");
    let mut fees = Vec::new();
    for line in lines {
        let mut fields = line.fields;
        fields.insert("lago_invoice_id".to_owned(), invoice_id.clone());
        fields.insert("amount_cents".to_owned(), input::whole(&line.amount_cents));
        fields.insert("payment_status".to_owned(), json!(payment_status));
        let fee = books.add(Kind::Fee, fields);
        fees.push(books.value(fee));
    }
    books.objects.set(invoice, "fees", fees);
    invoice
}

pub fn update(books: &mut Books<'_>, lago_id: &str, sent: Fields) -> Outcome {
    let sent = UPDATED.read(sent);
    let found = books.objects.by_id(Kind::Invoice, lago_id);
    let at = found.ok_or_else(|| reply::not_found("invoice"))?;
    let metadata = sent.get("metadata").and_then(Value::as_array);
    if metadata.is_some_and(|pairs| pairs.len() > MOST_METADATA) {
        return Err(problem("metadata", "invalid_count"));
    }
    let mut problems = Problems::default();
    problems.check_choice(&sent, "payment_status", &INVOICE_STATUSES);
    problems.check()?;
    books.objects.change(at, sent);
    Ok(books.value(at))
}

/// A fee follows its invoice, once it has one.
pub fn update_fee(books: &mut Books<'_>, lago_id: &str, sent: Fields) -> Outcome {
    let sent = FEE_UPDATED.read(sent);
    let found = books.objects.by_id(Kind::Fee, lago_id);
    let at = found.ok_or_else(|| reply::not_found("fee"))?;
    if !books.field(at, "lago_invoice_id").is_null() {
        return Err(reply::not_allowed("invoiced_fee"));
    }
    let mut problems = Problems::default();
    problems.check_choice(&sent, "payment_status", &FEE_STATUSES);
    problems.check()?;
    books.objects.change(at, sent);
    Ok(books.value(at))
}

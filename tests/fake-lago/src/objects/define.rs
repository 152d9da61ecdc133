//! Objects a test puts there itself, without a request.

use serde_json::{Value, json};

use super::books::{self, Books};
use super::customer;
use super::input;
use super::invoice;
use super::kind::Kind;
use super::table::{At, Fields, text};
use super::wallet;
use crate::catalog;
use crate::time;

/// Whether a coupon can be applied to one customer more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reusable {
    Yes,
    No,
}

/// Adds an object with these fields and the defaults of its kind. Customers and what has a code are found
/// by their key, and changed, if they exist.
pub fn object(books: &mut Books<'_>, kind: Kind, mut fields: Fields) -> At {
    let named = matches!(
        kind,
        Kind::Customer | Kind::BillableMetric | Kind::Plan | Kind::AddOn | Kind::Coupon | Kind::Tax
    );
    if let Some(at) = books.objects.first(kind, text(&fields, kind.key())).filter(|_| named) {
        books.objects.change(at, fields);
        books.objects.keep(at);
        return at;
    }
    let name = fields.get("code").cloned().unwrap_or_default();
    match kind {
        Kind::Wallet => {
            let owner = customer::find_or_create(books, text(&fields, "external_customer_id"));
            let defaults =
                [("rate_amount", json!("1")), ("currency", json!("USD")), ("code", json!("default"))];
            books::complete(&mut fields, defaults);
            return wallet::open(books, owner, fields);
        }
        Kind::Plan => books::complete(
            &mut fields,
            [
                ("name", name),
                ("interval", json!("monthly")),
                ("amount_cents", json!(0)),
                ("amount_currency", json!("USD")),
                ("pay_in_advance", json!(false)),
                ("charges", json!([])),
            ],
        ),
        Kind::AddOn => books::complete(
            &mut fields,
            [("name", name), ("amount_cents", json!(0)), ("amount_currency", json!("USD"))],
        ),
        Kind::Coupon => books::complete(&mut fields, [("name", name), ("reusable", json!(true))]),
        Kind::Invoice => {
            let owner = customer::find_or_create(books, text(&fields, "external_customer_id"));
            let amount = fields.remove("amount_cents").as_ref().and_then(input::number).unwrap_or_default();
            let at = invoice::issue(books, owner, json!("USD"), vec![invoice::Line::of(amount)]);
            books.objects.change(at, fields);
            books.objects.keep(at);
            return at;
        }
        Kind::Fee => {
            let defaults = [("lago_invoice_id", Value::Null), ("payment_status", json!("pending"))];
            books::complete(&mut fields, defaults);
        }
        Kind::Subscription => {
            let start = books::stamp(0);
            let defaults =
                [("status", json!("active")), ("subscription_at", start.clone()), ("started_at", start)];
            books::complete(&mut fields, defaults);
        }
        _ => {}
    }
    books.add(kind, fields)
}

/// Adds a subscription, or replaces the one with the same id and start, and sees to its customer.
pub fn subscription(books: &mut Books<'_>, defined: &catalog::Subscription) {
    let at = |time| books::stamp(time::micros_of(time));
    let (started_at, ended_at) = (at(defined.started_at), defined.ended_at.map(at));
    if !defined.external_customer_id.is_empty() {
        customer::find_or_create(books, &defined.external_customer_id);
    }
    let fields = [
        ("external_id", json!(defined.external_id)),
        ("external_customer_id", json!(defined.external_customer_id)),
        ("status", json!(if ended_at.is_some() { "terminated" } else { "active" })),
        ("subscription_at", started_at.clone()),
        ("started_at", started_at.clone()),
        ("terminated_at", ended_at.unwrap_or_default()),
    ];
    let fields = Fields::from_iter(fields.map(|(name, value)| (name.to_owned(), value)));
    let known = books.objects.by_key(Kind::Subscription, &defined.external_id);
    match known.into_iter().find(|at| books.field(*at, "started_at") == started_at) {
        Some(at) => {
            books.objects.change(at, fields);
            books.objects.keep(at);
        }
        None => {
            books.add(Kind::Subscription, fields);
        }
    }
}

/// The object of a metric a test has defined for the bill.
pub fn metric(books: &mut Books<'_>, metric: &catalog::Metric) {
    let fields = [
        ("name", json!(metric.code)),
        ("code", json!(metric.code)),
        ("aggregation_type", json!(format!("{}_agg", metric.aggregation.name()))),
        ("field_name", json!(metric.field_name)),
    ];
    object(
        books,
        Kind::BillableMetric,
        Fields::from_iter(fields.map(|(name, value)| (name.to_owned(), value))),
    );
}

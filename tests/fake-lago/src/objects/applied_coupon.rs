//! Coupons applied to customers: a reusable one is applied again by each repeat.

use serde_json::json;

use super::books::{self, Books, Outcome};
use super::customer;
use super::input::{Permitted, problem};
use super::kind::Kind;
use super::table::{Fields, text};
use crate::reply;

const CREATED: Permitted = Permitted {
    texts: &["external_customer_id", "coupon_code", "frequency", "amount_currency"],
    scalars: &["frequency_duration", "amount_cents", "percentage_rate"],
    nested: &[],
};

/// What an application takes from its coupon, unless the request says otherwise.
const INHERITED: [&str; 5] =
    ["amount_cents", "amount_currency", "percentage_rate", "frequency", "frequency_duration"];

pub fn create(books: &mut Books<'_>, sent: Fields) -> Outcome {
    let mut sent = CREATED.read(sent);
    let customer = customer::find(books, text(&sent, "external_customer_id"))?;
    let coupon = books.objects.first(Kind::Coupon, text(&sent, "coupon_code"));
    let coupon = coupon.ok_or_else(|| reply::not_found("coupon"))?;
    let coupon_id = books.field(coupon, "lago_id");
    let applied = books.objects.by_key(Kind::AppliedCoupon, text(&sent, "external_customer_id"));
    let again = applied.into_iter().any(|at| books.field(at, "lago_coupon_id") == coupon_id);
    if again && books.field(coupon, "reusable") == json!(false) {
        return Err(problem("coupon", "coupon_is_not_reusable"));
    }
    let lago_customer_id = books.field(customer, "lago_id");
    let inherited = INHERITED.map(|name| (name, books.field(coupon, name)));
    books::complete(&mut sent, inherited);
    sent.insert("lago_coupon_id".to_owned(), coupon_id);
    sent.insert("lago_customer_id".to_owned(), lago_customer_id);
    books::complete(&mut sent, [("status", json!("active")), ("terminated_at", json!(null))]);
    let at = books.add(Kind::AppliedCoupon, sent);
    Ok(books.value(at))
}

/// Removing a coupon that was removed changes nothing.
pub fn end(books: &mut Books<'_>, customer: &str, lago_id: &str) -> Outcome {
    customer::find(books, customer)?;
    let found = books.objects.by_id(Kind::AppliedCoupon, lago_id);
    let owned = found.filter(|at| books.text(*at, "external_customer_id") == customer);
    let at = owned.ok_or_else(|| reply::not_found("applied_coupon"))?;
    if books.text(at, "status") == "active" {
        let now = books.stamp();
        books.objects.set(at, "status", "terminated");
        books.objects.set(at, "terminated_at", now);
    }
    Ok(books.value(at))
}

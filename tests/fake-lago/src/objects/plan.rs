//! A plan's charges, and the fees an event would cause at once.

use serde_json::{Value, json};

use super::books::{self, Books};
use super::input::{Permitted, problem};
use super::kind::Kind;
use super::table::{Fields, text};
use crate::reply::{self, Reply};

const CHARGE: Permitted = Permitted {
    texts: &["id", "code", "invoice_display_name", "billable_metric_id", "charge_model", "regroup_paid_fees"],
    scalars: &["pay_in_advance", "prorated", "invoiceable", "min_amount_cents"],
    nested: &["properties", "filters", "tax_codes", "applied_pricing_unit"],
};

const ESTIMATED: Permitted = Permitted {
    texts: &["transaction_id", "code", "external_subscription_id"],
    scalars: &["timestamp"],
    nested: &["properties"],
};

/// The charges a plan will have: those that name one of the `known` by its id change it, all others are
/// created anew, and the known ones that are not named are gone.
pub fn settle_charges(books: &Books<'_>, known: &[Value], fields: &mut Fields) -> Result<(), Reply> {
    let Some(Value::Array(sent)) = fields.remove("charges") else { return Ok(()) };
    let mut charges = Vec::new();
    for charge in sent {
        let Value::Object(charge) = charge else { continue };
        let mut charge = CHARGE.read(charge);
        let id = charge.remove("id").unwrap_or_default();
        let earlier = known.iter().find(|charge| charge["lago_id"] == id && !id.is_null());
        let mut settled = match earlier.and_then(Value::as_object) {
            Some(earlier) => earlier.clone(),
            None => Fields::from_iter([("lago_id".to_owned(), json!(books.app.next_uuid()))]),
        };
        if let Some(metric) = charge.remove("billable_metric_id") {
            let found = books.objects.by_id(Kind::BillableMetric, metric.as_str().unwrap_or_default());
            let at = found.ok_or_else(|| reply::not_found("billable_metrics"))?;
            settled.insert("billable_metric_code".to_owned(), books.field(at, "code"));
            settled.insert("lago_billable_metric_id".to_owned(), metric);
        }
        settled.extend(charge);
        books::complete(&mut settled, [("pay_in_advance", json!(false))]);
        charges.push(Value::Object(settled));
    }
    fields.insert("charges".to_owned(), Value::Array(charges));
    Ok(())
}

/// The fees an event would cause, unpriced. Nothing is stored.
pub fn estimate(books: &Books<'_>, sent: Fields) -> Result<Vec<Value>, Reply> {
    let sent = ESTIMATED.read(sent);
    let subscriptions = books.objects.by_key(Kind::Subscription, text(&sent, "external_subscription_id"));
    let active = subscriptions.into_iter().find(|at| books.text(*at, "status") == "active");
    let subscription = active.ok_or_else(|| reply::not_found("subscription"))?;
    let metric = books.objects.first(Kind::BillableMetric, text(&sent, "code"));
    let metric = metric.ok_or_else(|| reply::not_found("billable_metric"))?;
    let metric_id = books.field(metric, "lago_id");
    let plan = books.objects.first(Kind::Plan, &books.text(subscription, "plan_code"));
    let charges = plan.map(|plan| books.field(plan, "charges")).unwrap_or_default();
    let charges = charges.as_array().map_or(&[][..], Vec::as_slice).iter();
    let instant = charges
        .filter(|charge| charge["lago_billable_metric_id"] == metric_id && charge["pay_in_advance"] == true);
    let fees: Vec<Value> = instant
        .map(|charge| {
            json!({
                "lago_id": null,
                "lago_charge_id": charge["lago_id"],
                "item": {"type": "charge", "code": text(&sent, "code")},
                "external_subscription_id": text(&sent, "external_subscription_id"),
                "event_transaction_id": sent.get("transaction_id"),
                "pay_in_advance": true,
                "events_count": 1,
            })
        })
        .collect();
    if fees.is_empty() { Err(problem("code", "does_not_match_an_instant_charge")) } else { Ok(fees) }
}

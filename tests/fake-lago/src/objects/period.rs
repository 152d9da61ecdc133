//! When events are billed: the subscriptions as the bill sees them.

use serde_json::Value;

use super::input;
use super::kind::Kind;
use super::table::{Fields, Objects, text};
use crate::catalog;
use crate::time;

/// Every period of one subscription id, in the order of their creation.
pub fn of(objects: &Objects, external_id: &str) -> Vec<catalog::Subscription> {
    let known = objects.by_key(Kind::Subscription, external_id);
    known.into_iter().filter_map(|at| objects.get(at)).filter_map(period).collect()
}

pub fn all(objects: &Objects) -> impl Iterator<Item = catalog::Subscription> {
    objects.all(Kind::Subscription).filter_map(period)
}

fn period(fields: &Fields) -> Option<catalog::Subscription> {
    let at = |name: &str| fields.get(name).and_then(input::instant).and_then(time::system_time);
    let started_at = match text(fields, "status") {
        "active" | "terminated" => at("started_at")?,
        "pending" if fields.get("previous_plan_code").is_none_or(Value::is_null) => at("subscription_at")?,
        _ => return None,
    };
    Some(catalog::Subscription {
        external_id: text(fields, "external_id").to_owned(),
        external_customer_id: text(fields, "external_customer_id").to_owned(),
        started_at,
        ended_at: at("terminated_at"),
    })
}

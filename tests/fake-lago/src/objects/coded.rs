//! What has a code and is created once: metrics, plans, add-ons, coupons and taxes.
//!
//! A second create is refused; changes go by code.

use serde_json::{Value, json};

use super::books::{self, Books, Outcome};
use super::input::{self, Permitted, Problems};
use super::kind::Kind;
use super::table::{Fields, text};
use super::{billable_metric, plan};
use crate::reply;

struct Rules {
    permitted: Permitted,
    required: &'static [&'static str],
    /// Not negative.
    numbers: &'static [&'static str],
    choices: &'static [(&'static str, &'static [&'static str])],
}

const METRIC: Rules = Rules {
    permitted: Permitted {
        texts: &[
            "name",
            "code",
            "description",
            "aggregation_type",
            "weighted_interval",
            "field_name",
            "expression",
            "rounding_function",
        ],
        scalars: &["recurring", "rounding_precision"],
        nested: &["filters"],
    },
    required: &["name", "code", "aggregation_type"],
    numbers: &[],
    choices: &[("aggregation_type", &billable_metric::AGGREGATIONS)],
};

const PLAN: Rules = Rules {
    permitted: Permitted {
        texts: &["name", "invoice_display_name", "code", "interval", "description", "amount_currency"],
        scalars: &[
            "amount_cents",
            "trial_period",
            "pay_in_advance",
            "bill_charges_monthly",
            "bill_fixed_charges_monthly",
            "cascade_updates",
        ],
        nested: &[
            "tax_codes",
            "minimum_commitment",
            "charges",
            "fixed_charges",
            "usage_thresholds",
            "metadata",
        ],
    },
    required: &["name", "code", "interval", "amount_cents", "amount_currency", "pay_in_advance"],
    numbers: &["amount_cents"],
    choices: &[("interval", &["weekly", "monthly", "quarterly", "semiannual", "yearly"])],
};

const ADD_ON: Rules = Rules {
    permitted: Permitted {
        texts: &["name", "invoice_display_name", "code", "description", "amount_currency"],
        scalars: &["amount_cents"],
        nested: &["tax_codes"],
    },
    required: &["name", "code", "amount_cents", "amount_currency"],
    numbers: &["amount_cents"],
    choices: &[],
};

const COUPON: Rules = Rules {
    permitted: Permitted {
        texts: &["name", "code", "description", "coupon_type", "amount_currency", "frequency", "expiration"],
        scalars: &["amount_cents", "percentage_rate", "frequency_duration", "expiration_at", "reusable"],
        nested: &["applies_to"],
    },
    required: &["name", "code"],
    numbers: &["amount_cents", "percentage_rate"],
    choices: &[
        ("coupon_type", &["fixed_amount", "percentage"]),
        ("frequency", &["once", "recurring", "forever"]),
        ("expiration", &["no_expiration", "time_limit"]),
    ],
};

const TAX: Rules = Rules {
    permitted: Permitted {
        texts: &["name", "code", "description"],
        scalars: &["rate", "applied_to_organization"],
        nested: &[],
    },
    required: &["name", "code", "rate"],
    numbers: &["rate"],
    choices: &[],
};

fn rules(kind: Kind) -> Option<Rules> {
    match kind {
        Kind::BillableMetric => Some(METRIC),
        Kind::Plan => Some(PLAN),
        Kind::AddOn => Some(ADD_ON),
        Kind::Coupon => Some(COUPON),
        Kind::Tax => Some(TAX),
        _ => None,
    }
}

pub fn create(books: &mut Books<'_>, kind: Kind, sent: Fields) -> Outcome {
    let rules = rules(kind).ok_or_else(|| reply::not_found("resource"))?;
    let mut fields = rules.permitted.read(sent);
    if kind == Kind::Coupon {
        let defaults = [
            ("coupon_type", json!("fixed_amount")),
            ("frequency", json!("once")),
            ("expiration", json!("no_expiration")),
            ("reusable", json!(true)),
        ];
        books::complete(&mut fields, defaults);
    }
    let mut problems = check(&rules, kind, &fields);
    if books.objects.first(kind, text(&fields, "code")).is_some() {
        problems.add("code", "value_already_exist");
    }
    problems.check()?;
    if kind == Kind::Plan {
        plan::settle_charges(books, &[], &mut fields)?;
    }
    let at = books.add(kind, fields);
    if kind == Kind::BillableMetric {
        billable_metric::publish(books, at, None);
    }
    Ok(books.value(at))
}

pub fn update(books: &mut Books<'_>, kind: Kind, code: &str, sent: Fields) -> Outcome {
    let rules = rules(kind).ok_or_else(|| reply::not_found("resource"))?;
    let mut changes = rules.permitted.read(sent);
    let at = books.objects.first(kind, code).ok_or_else(|| reply::not_found(kind.name()))?;
    let mut changed = books.objects.get(at).cloned().unwrap_or_default();
    let charges = changed.get("charges").and_then(Value::as_array).cloned().unwrap_or_default();
    changed.extend(changes.clone());
    let mut problems = check(&rules, kind, &changed);
    let other = books.objects.first(kind, text(&changed, "code"));
    if other.is_some_and(|other| other != at) {
        problems.add("code", "value_already_exist");
    }
    problems.check()?;
    if kind == Kind::Plan && changes.contains_key("charges") {
        plan::settle_charges(books, &charges, &mut changes)?;
    }
    books.objects.change(at, changes);
    if kind == Kind::BillableMetric {
        billable_metric::publish(books, at, Some(code));
    }
    Ok(books.value(at))
}

fn check(rules: &Rules, kind: Kind, fields: &Fields) -> Problems {
    let mut problems = Problems::default();
    problems.require(fields, rules.required);
    problems.check_currency(fields, "amount_currency");
    for (name, choices) in rules.choices {
        problems.check_choice(fields, name, choices);
    }
    for name in rules.numbers {
        match fields.get(*name).filter(|value| !input::is_blank(Some(value))).map(input::number) {
            Some(None) => problems.add(name, "value_is_invalid"),
            Some(Some(number)) if number < 0 => problems.add(name, "value_is_out_of_range"),
            _ => {}
        }
    }
    match (kind, text(fields, "coupon_type")) {
        (Kind::Coupon, "percentage") => problems.require(fields, &["percentage_rate"]),
        (Kind::Coupon, _) => problems.require(fields, &["amount_cents", "amount_currency"]),
        (Kind::BillableMetric, _) if billable_metric::needs_a_field(fields) => {
            problems.require(fields, &["field_name"]);
        }
        _ => {}
    }
    problems
}

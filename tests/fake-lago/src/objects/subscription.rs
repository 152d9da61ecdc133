//! Subscriptions: when a repeated create returns the old one, replaces its plan, or starts a new one.

use serde_json::{Value, json};

use super::books::{self, Books, Outcome};
use super::customer;
use super::input::{self, Permitted, Problems, problem};
use super::kind::Kind;
use super::table::{At, Fields, text};
use crate::config::License;
use crate::http;
use crate::reply::{self, Reply};
use crate::time;

const CREATED: Permitted = Permitted {
    texts: &["external_customer_id", "plan_code", "name", "external_id", "billing_time"],
    scalars: &["subscription_at", "ending_at", "progressive_billing_disabled"],
    nested: &["plan_overrides", "usage_thresholds", "payment_method", "activation_rules"],
};

const UPDATED: Permitted = Permitted {
    texts: &["name", "on_termination_credit_note", "on_termination_invoice"],
    scalars: &["subscription_at", "ending_at", "progressive_billing_disabled"],
    nested: &["plan_overrides", "usage_thresholds", "payment_method"],
};

const CREDIT_NOTES: [&str; 4] = ["credit", "skip", "refund", "offset"];
const INVOICES: [&str; 2] = ["generate", "skip"];
const DAY: i128 = 86_400 * time::MICROS;

pub fn create(books: &mut Books<'_>, sent: Fields) -> Outcome {
    let mut sent = CREATED.read(sent);
    // The ids are trimmed here; in events they are not.
    for name in ["external_customer_id", "external_id", "name"] {
        if let Some(Value::String(text)) = sent.get_mut(name) {
            *text = text.trim().to_owned();
        }
    }
    let plan = books.objects.first(Kind::Plan, text(&sent, "plan_code"));
    let plan = plan.ok_or_else(|| reply::not_found("plan"))?;
    let mut problems = Problems::default();
    check_dates(books.now, &sent, &mut problems);
    problems.check()?;
    check_overrides(books, &sent)?;
    let mut problems = Problems::default();
    problems.require(&sent, &["external_customer_id"]);
    problems.check()?;

    let customer = text(&sent, "external_customer_id").to_owned();
    let external_id = text(&sent, "external_id").to_owned();
    // The customer is saved first and stays, whatever becomes of the subscription.
    customer::find_or_create(books, &customer);
    let mut problems = Problems::default();
    problems.require(&sent, &["external_id"]);
    problems.check_choice(&sent, "billing_time", &["calendar", "anniversary"]);
    problems.check()?;

    let known = books.objects.by_key(Kind::Subscription, &external_id);
    let owned = |at: &At| books.text(*at, "external_customer_id") == customer;
    let current = known.iter().copied().filter(owned);
    let current = current.filter(|at| is_running(books, *at)).max_by_key(|at| is_active(books, *at));
    let Some(current) = current else {
        if known.iter().any(|at| is_active(books, *at)) {
            return Err(problem("external_id", "value_already_exist"));
        }
        let started = started_at(books, &sent);
        let at = start(books, sent, started);
        return Ok(books.value(at));
    };
    let current_plan = books.objects.first(Kind::Plan, &books.text(current, "plan_code"));
    // A subscription a test has defined without a plan has whichever plan is asked for.
    let at = match current_plan {
        Some(current_plan) if current_plan != plan => {
            let plans = Plans { current: current_plan, wanted: plan };
            replace_plan(books, current, plans, sent)
        }
        _ => current,
    };
    Ok(books.value(at))
}

/// Active, or waiting for its first day. What waits for the end of another plan is not there yet.
fn is_running(books: &Books<'_>, at: At) -> bool {
    let pending = books.text(at, "status") == "pending" && books.field(at, "previous_plan_code").is_null();
    is_active(books, at) || pending
}

fn is_active(books: &Books<'_>, at: At) -> bool {
    books.text(at, "status") == "active"
}

/// An upgrade takes effect at once, a downgrade at the end of the period, which does not come here.
#[derive(Clone, Copy)]
struct Plans {
    current: At,
    wanted: At,
}

fn replace_plan(books: &mut Books<'_>, current: At, plans: Plans, mut sent: Fields) -> At {
    let plan_code = books.text(plans.wanted, "code");
    if !is_active(books, current) {
        books.objects.set(current, "plan_code", plan_code);
        return current;
    }
    let external_id = books.text(current, "external_id");
    for at in books.objects.by_key(Kind::Subscription, &external_id) {
        if books.text(at, "status") == "pending" {
            cancel(books, at);
        }
    }
    let previous = books.field(current, "plan_code");
    sent.insert("previous_plan_code".to_owned(), previous);
    sent.insert("subscription_at".to_owned(), books.field(current, "subscription_at"));
    if yearly(books, plans.wanted) >= yearly(books, plans.current) {
        terminate(books, current);
        let now = books.now;
        return start(books, sent, Started::At(now));
    }
    start(books, sent, Started::Later);
    books.objects.set(current, "next_plan_code", plan_code);
    current
}

fn yearly(books: &Books<'_>, plan: At) -> bigdecimal::BigDecimal {
    let times = match books.text(plan, "interval").as_str() {
        "weekly" => 52,
        "monthly" => 12,
        "quarterly" => 4,
        "semiannual" => 2,
        _ => 1,
    };
    input::number(&books.field(plan, "amount_cents")).unwrap_or_default() * times
}

#[derive(Clone, Copy)]
enum Started {
    /// Microseconds since 1970.
    At(i128),
    Later,
}

/// A subscription whose day has come has started at the very instant it names.
fn started_at(books: &Books<'_>, sent: &Fields) -> Started {
    let at = sent.get("subscription_at").and_then(input::instant).unwrap_or(books.now);
    if at.div_euclid(DAY) <= books.now.div_euclid(DAY) { Started::At(at) } else { Started::Later }
}

fn start(books: &mut Books<'_>, sent: Fields, started: Started) -> At {
    let customer = books.objects.first(Kind::Customer, text(&sent, "external_customer_id"));
    let lago_customer_id = customer.map(|at| books.field(at, "lago_id")).unwrap_or_default();
    let subscription_at = sent.get("subscription_at").and_then(input::instant).unwrap_or(books.now);
    let (status, started_at) = match started {
        Started::At(at) => ("active", books::stamp(at)),
        Started::Later => ("pending", Value::Null),
    };
    let mut fields = sent;
    fields.insert("subscription_at".to_owned(), books::stamp(subscription_at));
    fields.insert("lago_customer_id".to_owned(), lago_customer_id);
    fields.insert("status".to_owned(), json!(status));
    fields.insert("started_at".to_owned(), started_at);
    let defaults = [
        ("billing_time", json!("calendar")),
        ("ending_at", Value::Null),
        ("terminated_at", Value::Null),
        ("canceled_at", Value::Null),
        ("previous_plan_code", Value::Null),
        ("next_plan_code", Value::Null),
        ("on_termination_credit_note", Value::Null),
        ("on_termination_invoice", json!("generate")),
    ];
    books::complete(&mut fields, defaults);
    books.add(Kind::Subscription, fields)
}

fn check_dates(now: i128, sent: &Fields, problems: &mut Problems) {
    let day = |at: i128| at.div_euclid(DAY);
    let subscription_at = match sent.get("subscription_at").filter(|value| !value.is_null()) {
        None => Some(now),
        Some(value) => input::instant(value),
    };
    if subscription_at.is_none() {
        problems.add("subscription_at", "invalid_date");
    }
    let Some(ending_at) = sent.get("ending_at").filter(|value| !input::is_blank(Some(value))) else { return };
    let later = |end: i128| day(end) > day(now) && subscription_at.is_some_and(|start| day(end) > day(start));
    if !input::instant(ending_at).is_some_and(later) {
        problems.add("ending_at", "invalid_date");
    }
}

fn check_overrides(books: &Books<'_>, sent: &Fields) -> Result<(), Reply> {
    match (books.license, sent.get("plan_overrides")) {
        (License::Free, Some(_)) => Err(reply::feature_unavailable()),
        _ => Ok(()),
    }
}

/// The subscription of a path: an active one, unless the query asks for another status.
fn find(books: &Books<'_>, external_id: &str, query: &str) -> Result<At, Reply> {
    let status = parameter(query, "status").unwrap_or_else(|| "active".to_owned());
    let mut known = books.objects.by_key(Kind::Subscription, external_id).into_iter().rev();
    known.find(|at| books.text(*at, "status") == status).ok_or_else(|| reply::not_found("subscription"))
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let pair = http::query_pairs(query).into_iter().find(|(known, value)| known == name && !value.is_empty());
    pair.map(|(_, value)| value)
}

pub fn update(books: &mut Books<'_>, external_id: &str, query: &str, sent: Fields) -> Outcome {
    let mut sent = UPDATED.read(sent);
    let at = find(books, external_id, query)?;
    check_overrides(books, &sent)?;
    let mut problems = Problems::default();
    let mut dates = sent.clone();
    books::complete(&mut dates, [("subscription_at", books.field(at, "subscription_at"))]);
    check_dates(books.now, &dates, &mut problems);
    for (name, choices) in
        [("on_termination_credit_note", &CREDIT_NOTES[..]), ("on_termination_invoice", &INVOICES[..])]
    {
        let value = sent.get(name).filter(|value| !input::is_blank(Some(value)));
        if value.is_some_and(|value| !value.as_str().is_some_and(|text| choices.contains(&text))) {
            problems.add(name, "invalid_value");
        }
    }
    problems.check()?;
    // The first day of a subscription that has begun cannot be moved; the key is ignored.
    let moved = sent.remove("subscription_at").as_ref().and_then(input::instant);
    books.objects.change(at, sent);
    if let Some(day) = moved.filter(|_| books.text(at, "status") == "pending") {
        books.objects.set(at, "subscription_at", books::stamp(day));
        let wanted = Fields::from_iter([("subscription_at".to_owned(), books::stamp(day))]);
        if let Started::At(day) = started_at(books, &wanted) {
            books.objects.set(at, "status", "active");
            books.objects.set(at, "started_at", books::stamp(day));
        }
    }
    Ok(books.value(at))
}

/// Terminates an active subscription, cancels a pending one.
pub fn end(books: &mut Books<'_>, external_id: &str, query: &str) -> Outcome {
    let at = find(books, external_id, query)?;
    let mut problems = Problems::default();
    let mut chosen = Fields::new();
    for (name, choices) in
        [("on_termination_credit_note", &CREDIT_NOTES[..]), ("on_termination_invoice", &INVOICES[..])]
    {
        let Some(value) = parameter(query, name) else { continue };
        if !choices.contains(&value.as_str()) {
            problems.add(name, "invalid_value");
        }
        chosen.insert(name.to_owned(), json!(value));
    }
    problems.check()?;
    books.objects.change(at, chosen);
    if books.text(at, "status") == "pending" {
        cancel(books, at);
    } else if is_active(books, at) {
        terminate(books, at);
        for next in books.objects.by_key(Kind::Subscription, external_id) {
            if books.text(next, "status") == "pending" {
                cancel(books, next);
            }
        }
    }
    Ok(books.value(at))
}

pub fn terminate(books: &mut Books<'_>, at: At) {
    let now = books.stamp();
    books.objects.set(at, "status", "terminated");
    books.objects.set(at, "terminated_at", now);
}

pub fn cancel(books: &mut Books<'_>, at: At) {
    let now = books.stamp();
    books.objects.set(at, "status", "canceled");
    books.objects.set(at, "canceled_at", now);
}

//! The administration below `/_fake/`, for those who run the binary: the same as the library offers.
//!
//! No key, no faults, no latency, no rate limit, and not part of what Lago has.

mod objects;
mod settings;

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::app::{App, lock};
use crate::bill::{self, Bill, Unknown};
use crate::catalog::{Aggregation, Metric, Subscription};
use crate::decimal::{self, Read};
use crate::fault::Fault;
use crate::http::{self, Request};
use crate::objects as kept;
use crate::reply::Reply;
use crate::sent::SentTwice;
use crate::store::StoredEvent;
use crate::tampering;
use crate::time::{self, Fraction};
use crate::traffic::{Category, Traffic, busiest_window};

const DEFAULT_LISTED: usize = 100;

pub fn answer(app: &App, path: &str, request: &Request) -> Reply {
    let method = request.method.as_str();
    let kind = path.strip_prefix("objects/").unwrap_or_default();
    let outcome = match (method, path) {
        ("GET", _) if !kind.is_empty() => objects::list(app, kind),
        ("POST", _) if !kind.is_empty() => objects::define(app, kind, request),
        ("GET", "requests") => Ok(objects::requests(app, limit(&request.query))),
        ("POST", "license") => change(request, objects::license, |license| {
            app.change_settings(|settings| settings.config.license = license);
        }),
        ("GET", "bill") => Ok(bill_of(app).to_json()),
        ("GET", "stats") => Ok(stats(app)),
        ("GET", "stored") => Ok(stored(app, &request.query)),
        ("GET", "sent_differently") => Ok(json!(lock(&app.state).sent.differently())),
        ("GET", "sent_twice") => Ok(sent_twice(app)),
        ("GET", "traffic") => Ok(traffic(app, &request.query)),
        ("POST", "settings") => change(request, settings::Change::read, |change| change.apply(app)),
        ("POST", "delete_events") => change(request, transaction_id, |transaction_id| {
            lock(&app.state).delete_events(&transaction_id);
        }),
        ("POST", "lose_events") => tampering::lose_from_json(app, request),
        ("POST", "alter_event") => tampering::alter_from_json(app, request),
        ("POST", "add_event") => tampering::add_from_json(app, request),
        ("POST", "fault") => change(request, Fault::from_json, |fault| lock(&app.faults).push(fault)),
        ("DELETE", "fault") => {
            lock(&app.faults).clear();
            Ok(done())
        }
        ("POST", "metrics") => change(request, metric, |metric| app.define_metric(metric)),
        ("POST", "subscriptions") => change(request, subscription, |subscription| {
            app.define(|books| kept::define::subscription(books, &subscription));
        }),
        ("POST", "accept_any") => change(request, accept_any, |accept| {
            app.change_settings(|settings| settings.config.accept_any = accept);
        }),
        ("POST", "latency") => change(request, latency, |latency| {
            app.change_settings(|settings| settings.config.latency = latency);
        }),
        ("POST", "reset") => {
            app.reset();
            Ok(done())
        }
        _ => return Reply::value(404, &json!({"error": "there is no such thing below /_fake/"})),
    };
    match outcome {
        Ok(value) => Reply::value(200, &value),
        Err(error) => Reply::value(400, &json!({"error": error})),
    }
}

fn done() -> Value {
    json!({"done": true})
}

/// Applies the body's object, or each object of its array once all of them have been read.
fn change<T>(
    request: &Request,
    read: impl Fn(&Value) -> Result<T, String>,
    apply: impl Fn(T),
) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(&request.body).map_err(|error| error.to_string())?;
    let values = match value {
        Value::Array(values) => values,
        value => vec![value],
    };
    let read: Vec<T> = values.iter().map(read).collect::<Result<_, _>>()?;
    read.into_iter().for_each(apply);
    Ok(done())
}

/// What Lago would bill now.
pub fn bill_of(app: &App) -> Bill {
    let settings = app.settings();
    let config = &settings.config;
    if !config.keep_events {
        return bill::counted(lock(&app.state).counted());
    }
    let mut catalog = settings.catalog.clone();
    let events = {
        let state = lock(&app.state);
        for subscription in kept::all_periods(&state.objects) {
            catalog.define_subscription(subscription);
        }
        state.live_events()
    };
    let unknown = if config.accept_any { Unknown::Billed } else { Unknown::NotBilled };
    bill::bill(&events, config.store, &catalog, unknown)
}

fn stats(app: &App) -> Value {
    let counters = lock(&app.state).counters;
    json!({
        "requests": counters.requests,
        "stored": counters.stored,
        "duplicates": counters.duplicates,
        "refused_duplicates": counters.refused_duplicates,
        "events_per_second": counters.events_per_second().round(),
    })
}

fn limit(query: &str) -> usize {
    parameter(query, "limit").unwrap_or(DEFAULT_LISTED)
}

fn parameter<T: std::str::FromStr>(query: &str, name: &str) -> Option<T> {
    let pair = http::query_pairs(query).into_iter().find(|(known, _)| known == name);
    pair.and_then(|(_, value)| value.parse().ok())
}

pub fn traffic_of(app: &App, category: Category, window: Duration) -> Traffic {
    let (under_way, most_under_way) = app.gauges.read(category);
    let log = lock(&app.state).requests_after(0);
    let of_category = log.iter().filter(|request| Category::of(&request.method, &request.path) == category);
    let arrivals: Vec<SystemTime> = of_category.map(|request| request.at).collect();
    let requests = u64::try_from(arrivals.len()).unwrap_or(u64::MAX);
    Traffic { requests, under_way, most_under_way, busiest_window: busiest_window(arrivals, window) }
}

fn traffic(app: &App, query: &str) -> Value {
    let window = parameter(query, "window_ms").map_or(Duration::from_secs(1), Duration::from_millis);
    let describe = |category| {
        let traffic = traffic_of(app, category, window);
        json!({
            "requests": traffic.requests,
            "under_way": traffic.under_way,
            "most_under_way": traffic.most_under_way,
            "busiest_window": traffic.busiest_window,
        })
    };
    json!({
        "window_ms": u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
        "events": describe(Category::Events),
        "everything_else": describe(Category::EverythingElse),
    })
}

fn sent_twice(app: &App) -> Value {
    let twice = lock(&app.state).sent.twice();
    let describe = |sent: &SentTwice| json!({"call": sent.call, "name": sent.name, "bodies": sent.bodies});
    twice.iter().map(describe).collect()
}

fn transaction_id(value: &Value) -> Result<String, String> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| "the body is a transaction id, or an array of them".to_owned())
}

/// The latest events, in the order of acceptance.
fn stored(app: &App, query: &str) -> Value {
    let limit = limit(query);
    let (total, events) = {
        let state = lock(&app.state);
        (state.counters.stored, state.last_events(limit))
    };
    let events: Vec<Value> = events.iter().map(|event| describe(event)).collect();
    json!({"total": total, "events": events})
}

fn describe(event: &StoredEvent) -> Value {
    json!({
        "lago_id": event.lago_id,
        "transaction_id": event.transaction_id,
        "external_subscription_id": event.external_subscription_id,
        "code": event.code,
        "timestamp": time::iso(event.timestamp_micros, Fraction::Millis),
        "precise_total_amount_cents": event.precise_total_amount_cents,
        "properties": event.properties,
        "raw": event.raw_text(),
        "received_at": time::iso(time::micros_of(event.received_at), Fraction::Millis),
        "request": event.request,
        "duplicate": event.duplicate,
    })
}

fn required<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    value.get(name).and_then(Value::as_str).ok_or_else(|| format!("{name} is missing"))
}

fn metric(value: &Value) -> Result<Metric, String> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let aggregation = text("aggregation_type").or(text("aggregation")).unwrap_or("count");
    let aggregation =
        Aggregation::from_name(aggregation).ok_or_else(|| format!("unknown aggregation {aggregation:?}"))?;
    let variables = value.get("expression_variables").and_then(Value::as_array);
    let variables = variables.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    Ok(Metric {
        code: required(value, "code")?.to_owned(),
        aggregation,
        field_name: text("field_name").map(str::to_owned),
        expression_variables: variables.collect(),
    })
}

fn subscription(value: &Value) -> Result<Subscription, String> {
    let at = |name: &str| match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            instant(value).map(Some).ok_or_else(|| format!("{name} is neither ISO 8601 nor seconds"))
        }
    };
    let customer = value.get("external_customer_id").and_then(Value::as_str).unwrap_or_default();
    Ok(Subscription {
        external_id: required(value, "external_id")?.to_owned(),
        external_customer_id: customer.to_owned(),
        started_at: at("started_at")?.unwrap_or(SystemTime::UNIX_EPOCH),
        ended_at: at("ended_at")?,
    })
}

fn instant(value: &Value) -> Option<SystemTime> {
    let micros = match value {
        Value::String(text) => time::parse_iso(text)?,
        Value::Number(number) => match decimal::read_strict(&number.to_string()) {
            Read::Number(number) => number.scaled_floor(6)?,
            Read::NotFinite | Read::Invalid => return None,
        },
        _ => return None,
    };
    time::system_time(micros)
}

fn accept_any(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "the body is true or false".to_owned())
}

fn latency(value: &Value) -> Result<Duration, String> {
    let millis = value.get("ms").and_then(Value::as_u64).ok_or("ms is missing")?;
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_subscriptions_are_read_from_json() {
        let mut sum = json!({"code": "t", "aggregation_type": "sum_agg", "field_name": "n"});
        sum["expression_variables"] = json!(["a"]);
        assert_eq!(metric(&sum), Ok(Metric::sum("t", "n").with_expression_over(&["a"])));
        assert!(metric(&json!({"aggregation": "sum"})).is_err());
        assert!(metric(&json!({"code": "t", "aggregation": "median"})).is_err());

        let read =
            subscription(&json!({"external_id": "s", "started_at": 10, "ended_at": "1970-01-01T00:00:20Z"}));
        let read = read.expect("valid");
        assert_eq!(read.started_at, SystemTime::UNIX_EPOCH + Duration::from_secs(10));
        assert_eq!(read.ended_at, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(20)));
        assert!(subscription(&json!({"external_id": "s", "started_at": "soon"})).is_err());
    }
}

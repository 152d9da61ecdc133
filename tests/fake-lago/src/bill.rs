//! What Lago would bill for the accepted events, and what it would silently not bill.
//!
//! Pure: accepted events and catalog in, bill out. An event that is accepted and matches nothing costs
//! nobody anything, without an error anywhere; this is where that becomes visible.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use bigdecimal::BigDecimal;
use serde_json::{Value, json};

use crate::catalog::{Aggregation, Catalog, Metric, Subscription};
use crate::config::Store;
use crate::decimal::{self, ClickHouseNumber};
use crate::store::StoredEvent;
use crate::time;

/// Timestamps from this year on are taken for milliseconds (or finer) sent as seconds.
const FIRST_INSANE_YEAR: i128 = 3000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    MissingSubscription,
    UnknownSubscription,
    UnknownMetric,
    MillisecondsAsSeconds,
    BeforeStart,
    AfterEnd,
    PropertyMissing,
    PropertyNotNumeric,
    /// Does not fit ClickHouse's `Decimal(38,26)` and counts as 0.
    PropertyOutOfRange,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::MissingSubscription => "missing_subscription",
            Reason::UnknownSubscription => "unknown_subscription",
            Reason::UnknownMetric => "unknown_metric",
            Reason::MillisecondsAsSeconds => "milliseconds_as_seconds",
            Reason::BeforeStart => "before_start",
            Reason::AfterEnd => "after_end",
            Reason::PropertyMissing => "property_missing",
            Reason::PropertyNotNumeric => "property_not_numeric",
            Reason::PropertyOutOfRange => "property_out_of_range",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// One subscription's usage of one metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillLine {
    pub external_subscription_id: String,
    pub code: String,
    pub aggregation: Aggregation,
    /// Events that count.
    pub events: u64,
    /// The exact sum of the aggregated property, in plain notation without trailing zeros; `None` for
    /// metrics without a numeric property.
    pub sum: Option<String>,
    pub max: Option<String>,
    /// What the metric's aggregation makes of them.
    pub units: String,
}

/// An event that was accepted and is not billed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeverBilled {
    pub transaction_id: String,
    pub external_subscription_id: Option<String>,
    pub code: String,
    pub reason: Reason,
}

/// A transaction id that is billed more than once for one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BilledTwice {
    pub transaction_id: String,
    pub external_subscription_id: String,
    pub times: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bill {
    /// Ordered by subscription and code.
    pub lines: Vec<BillLine>,
    pub never_billed: Vec<NeverBilled>,
    pub billed_twice: Vec<BilledTwice>,
}

impl Bill {
    pub fn line(&self, external_subscription_id: &str, code: &str) -> Option<&BillLine> {
        self.lines
            .iter()
            .find(|line| line.external_subscription_id == external_subscription_id && line.code == code)
    }

    /// Events billed under all subscriptions and metrics.
    pub fn events(&self) -> u64 {
        self.lines.iter().map(|line| line.events).sum()
    }

    pub fn to_json(&self) -> Value {
        let lines = self.lines.iter().map(|line| {
            json!({
                "external_subscription_id": line.external_subscription_id,
                "code": line.code,
                "aggregation": line.aggregation.name(),
                "events": line.events,
                "sum": line.sum,
                "max": line.max,
                "units": line.units,
            })
        });
        let never = self.never_billed.iter().map(|event| {
            json!({
                "transaction_id": event.transaction_id,
                "external_subscription_id": event.external_subscription_id,
                "code": event.code,
                "reason": event.reason.name(),
            })
        });
        let twice = self.billed_twice.iter().map(|event| {
            json!({
                "transaction_id": event.transaction_id,
                "external_subscription_id": event.external_subscription_id,
                "times": event.times,
            })
        });
        json!({
            "lines": lines.collect::<Vec<_>>(),
            "never_billed": never.collect::<Vec<_>>(),
            "billed_twice": twice.collect::<Vec<_>>(),
        })
    }
}

/// Whether metrics and subscriptions the catalog lacks are treated as existing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    NotBilled,
    Billed,
}

#[derive(Debug, Default)]
struct Tally {
    events: u64,
    sum: BigDecimal,
    max: Option<BigDecimal>,
    latest: Option<(i128, BigDecimal)>,
    distinct: BTreeSet<String>,
}

pub fn bill(events: &[Arc<StoredEvent>], store: Store, catalog: &Catalog, unknown: Unknown) -> Bill {
    let mut tallies: BTreeMap<(&str, &str), Tally> = BTreeMap::new();
    let mut times: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut never_billed = Vec::new();
    for event in resolved(events, store) {
        match judge(event, store, catalog, unknown) {
            Ok(value) => {
                let subscription = event.external_subscription_id.as_deref().unwrap_or("");
                let tally = tallies.entry((subscription, &event.code)).or_default();
                tally.add(event.timestamp_micros, value);
                *times.entry((subscription, &event.transaction_id)).or_default() += 1;
            }
            Err(reason) => never_billed.push(NeverBilled {
                transaction_id: event.transaction_id.clone(),
                external_subscription_id: event.external_subscription_id.clone(),
                code: event.code.clone(),
                reason,
            }),
        }
    }
    let lines = tallies
        .into_iter()
        .map(|((subscription, code), tally)| {
            let metric = catalog.metric(code).cloned().unwrap_or_else(|| Metric::count(code));
            tally.into_line(subscription, &metric)
        })
        .collect();
    let billed_twice = times
        .into_iter()
        .filter(|(_, times)| *times > 1)
        .map(|((subscription, id), times)| BilledTwice {
            transaction_id: id.to_owned(),
            external_subscription_id: subscription.to_owned(),
            times,
        })
        .collect();
    Bill { lines, never_billed, billed_twice }
}

/// The bill of a server that kept no events: counts only.
pub fn counted(counts: &BTreeMap<String, BTreeMap<String, u64>>) -> Bill {
    let line = |subscription: &String, code: &String, events: u64| BillLine {
        external_subscription_id: subscription.clone(),
        code: code.clone(),
        aggregation: Aggregation::Count,
        events,
        sum: None,
        max: None,
        units: events.to_string(),
    };
    let lines = counts
        .iter()
        .flat_map(|(subscription, codes)| {
            codes.iter().map(move |(code, events)| line(subscription, code, *events))
        })
        .collect();
    Bill { lines, ..Bill::default() }
}

/// In ClickHouse, rows with the same subscription, code, transaction id and timestamp (by the millisecond)
/// are one event, and the last of them counts.
fn resolved(events: &[Arc<StoredEvent>], store: Store) -> Vec<&StoredEvent> {
    if store == Store::Postgres {
        return events.iter().map(Arc::as_ref).collect();
    }
    let mut order: Vec<&StoredEvent> = Vec::with_capacity(events.len());
    let mut at = HashMap::with_capacity(events.len());
    for event in events.iter().map(Arc::as_ref) {
        let timestamp = time::floor_to_millis(event.timestamp_micros);
        let key = (event.external_subscription_id.as_deref(), &event.code, &event.transaction_id, timestamp);
        match at.get(&key) {
            Some(index) => order[*index] = event,
            None => {
                at.insert(key, order.len());
                order.push(event);
            }
        }
    }
    order
}

/// What an event contributes.
#[derive(Debug, PartialEq)]
enum Contribution {
    Occurrence,
    Number(BigDecimal),
    Distinct(String),
}

fn judge(
    event: &StoredEvent,
    store: Store,
    catalog: &Catalog,
    unknown: Unknown,
) -> Result<Contribution, Reason> {
    let subscription = event.external_subscription_id.as_deref().filter(|id| !id.is_empty());
    let subscription = subscription.ok_or(Reason::MissingSubscription)?;
    let periods = catalog.subscriptions(subscription);
    if periods.is_empty() && unknown == Unknown::NotBilled {
        return Err(Reason::UnknownSubscription);
    }
    let metric = catalog.metric(&event.code);
    if metric.is_none() && unknown == Unknown::NotBilled {
        return Err(Reason::UnknownMetric);
    }
    if time::year_of(event.timestamp_micros) >= FIRST_INSANE_YEAR {
        return Err(Reason::MillisecondsAsSeconds);
    }
    if !periods.is_empty() {
        within(periods, event.timestamp_micros)?;
    }
    let Some(metric) = metric else { return Ok(Contribution::Occurrence) };
    contribution(metric, event, store)
}

/// Boundaries are compared by the millisecond and belong to the subscription.
fn within(periods: &[Subscription], timestamp: i128) -> Result<(), Reason> {
    let millis = |at| time::floor_to_millis(time::micros_of(at));
    let timestamp = time::floor_to_millis(timestamp);
    let started = |period: &&Subscription| millis(period.started_at) <= timestamp;
    let running = |period: &Subscription| period.ended_at.is_none_or(|end| timestamp <= millis(end));
    let mut started = periods.iter().filter(started).peekable();
    if started.peek().is_none() {
        return Err(Reason::BeforeStart);
    }
    if started.any(running) { Ok(()) } else { Err(Reason::AfterEnd) }
}

fn contribution(metric: &Metric, event: &StoredEvent, store: Store) -> Result<Contribution, Reason> {
    if metric.aggregation == Aggregation::Count {
        return Ok(Contribution::Occurrence);
    }
    let property = metric.field_name.as_deref().and_then(|name| event.properties.get(name));
    let property = property.filter(|value| !value.is_null()).ok_or(Reason::PropertyMissing)?;
    let text = match property {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if metric.aggregation == Aggregation::UniqueCount {
        return Ok(Contribution::Distinct(text));
    }
    let number = match (store, property) {
        (Store::Postgres, Value::Number(_)) => {
            decimal::json_number(&text).ok_or(Reason::PropertyNotNumeric)?
        }
        (Store::Postgres, _) => decimal::counted_by_postgres(&text).ok_or(Reason::PropertyNotNumeric)?,
        (Store::ClickHouse, property) => {
            let text = if property.is_number() { through_a_double(&text) } else { text };
            match decimal::counted_by_clickhouse(&text) {
                ClickHouseNumber::Value(value) => value,
                ClickHouseNumber::DoesNotFit => return Err(Reason::PropertyOutOfRange),
                ClickHouseNumber::NotNumeric => return Err(Reason::PropertyNotNumeric),
            }
        }
    };
    Ok(Contribution::Number(number))
}

/// On the ClickHouse path every JSON number becomes a double, integers included.
fn through_a_double(text: &str) -> String {
    text.parse::<f64>().map_or_else(|_| text.to_owned(), |value| format!("{value:e}"))
}

impl Tally {
    fn add(&mut self, timestamp: i128, contribution: Contribution) {
        self.events += 1;
        match contribution {
            Contribution::Occurrence => {}
            Contribution::Distinct(text) => {
                self.distinct.insert(text);
            }
            Contribution::Number(number) => {
                self.sum += &number;
                if self.latest.as_ref().is_none_or(|(at, _)| *at <= timestamp) {
                    self.latest = Some((timestamp, number.clone()));
                }
                if self.max.as_ref().is_none_or(|max| *max < number) {
                    self.max = Some(number);
                }
            }
        }
    }

    fn into_line(self, subscription: &str, metric: &Metric) -> BillLine {
        let max = self.max.as_ref().map(decimal::plain_text);
        let sum = max.is_some().then(|| decimal::plain_text(&self.sum));
        let zero = || "0".to_owned();
        let units = match metric.aggregation {
            Aggregation::Count => self.events.to_string(),
            Aggregation::Sum => sum.clone().unwrap_or_else(zero),
            Aggregation::Max => max.clone().unwrap_or_else(zero),
            Aggregation::Latest => self.latest.map_or_else(zero, |(_, value)| decimal::plain_text(&value)),
            Aggregation::UniqueCount => self.distinct.len().to_string(),
        };
        BillLine {
            external_subscription_id: subscription.to_owned(),
            code: metric.code.clone(),
            aggregation: metric.aggregation,
            events: self.events,
            sum,
            max,
            units,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    const AT: i128 = 1_700_000_000_000_000;

    fn event(subscription: Option<&str>, code: &str, id: &str, properties: Value) -> StoredEvent {
        let Value::Object(properties) = properties else { panic!("not an object") };
        StoredEvent {
            lago_id: String::new(),
            transaction_id: id.to_owned(),
            external_subscription_id: subscription.map(str::to_owned),
            code: code.to_owned(),
            timestamp_micros: AT,
            precise_total_amount_cents: None,
            properties,
            raw: Vec::new(),
            received_at: SystemTime::UNIX_EPOCH,
            request: 1,
            duplicate: false,
        }
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        catalog.define_metric(Metric::count("calls"));
        catalog.define_metric(Metric::sum("tokens", "n"));
        catalog.define_metric(Metric::max("peak", "n"));
        catalog.define_metric(Metric::over(Aggregation::UniqueCount, "users", "n"));
        catalog.define_metric(Metric::over(Aggregation::Latest, "level", "n"));
        catalog.define_subscription(Subscription::always("s", "customer"));
        let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        catalog.define_subscription(Subscription {
            external_id: "bounded".to_owned(),
            external_customer_id: "customer".to_owned(),
            started_at: second(1_700_000_000),
            ended_at: Some(second(1_700_000_010)),
        });
        catalog
    }

    fn billed(events: Vec<StoredEvent>, store: Store, unknown: Unknown) -> Bill {
        let events: Vec<Arc<StoredEvent>> = events.into_iter().map(Arc::new).collect();
        bill(&events, store, &catalog(), unknown)
    }

    fn reason(event: StoredEvent) -> Option<Reason> {
        reason_in(Store::Postgres, event)
    }

    fn reason_in(store: Store, event: StoredEvent) -> Option<Reason> {
        billed(vec![event], store, Unknown::NotBilled).never_billed.first().map(|event| event.reason)
    }

    #[test]
    fn sums_are_exact() {
        let events = ["0.1", "0.2", "1000000000000000000000.00000001"]
            .iter()
            .enumerate()
            .map(|(at, n)| event(Some("s"), "tokens", &at.to_string(), json!({"n": n})))
            .collect();
        let bill = billed(events, Store::Postgres, Unknown::NotBilled);
        let line = bill.line("s", "tokens").expect("a line");
        assert_eq!(line.sum.as_deref(), Some("1000000000000000000000.30000001"));
        assert_eq!(line.max.as_deref(), Some("1000000000000000000000.00000001"));
        assert_eq!((line.events, line.units.as_str()), (3, "1000000000000000000000.30000001"));
    }

    #[test]
    fn each_aggregation_has_its_units() {
        let mut events = Vec::new();
        for code in ["calls", "tokens", "peak", "users", "level"] {
            for (at, n) in [2, 5, 2].into_iter().enumerate() {
                let id = format!("{code}{at}");
                let later = i128::try_from(at).expect("small");
                events.push(StoredEvent {
                    timestamp_micros: AT + later,
                    ..event(Some("s"), code, &id, json!({"n": n}))
                });
            }
        }
        let bill = billed(events, Store::Postgres, Unknown::NotBilled);
        let units = |code| bill.line("s", code).expect(code).units.clone();
        let all = ["calls", "tokens", "peak", "users", "level"].map(units);
        assert_eq!(all, ["3", "9", "5", "2", "2"]);
        assert_eq!(bill.events(), 15);
    }

    #[test]
    fn every_way_not_to_be_billed_has_its_reason() {
        let at = |seconds: i128, subscription: &str| StoredEvent {
            timestamp_micros: seconds * time::MICROS,
            ..event(Some(subscription), "calls", "t", json!({}))
        };
        assert_eq!(reason(event(None, "calls", "t", json!({}))), Some(Reason::MissingSubscription));
        assert_eq!(reason(event(Some(""), "calls", "t", json!({}))), Some(Reason::MissingSubscription));
        assert_eq!(reason(event(Some("other"), "calls", "t", json!({}))), Some(Reason::UnknownSubscription));
        assert_eq!(reason(event(Some("s"), "other", "t", json!({}))), Some(Reason::UnknownMetric));
        assert_eq!(reason(at(1_700_000_000_000, "s")), Some(Reason::MillisecondsAsSeconds));
        assert_eq!(reason(at(1_699_999_999, "bounded")), Some(Reason::BeforeStart));
        assert_eq!(reason(at(1_700_000_000, "bounded")), None);
        assert_eq!(reason(at(1_700_000_010, "bounded")), None);
        assert_eq!(reason(at(1_700_000_011, "bounded")), Some(Reason::AfterEnd));
        assert_eq!(reason(event(Some("s"), "tokens", "t", json!({}))), Some(Reason::PropertyMissing));
        assert_eq!(
            reason(event(Some("s"), "tokens", "t", json!({"n": null}))),
            Some(Reason::PropertyMissing)
        );
        for n in [json!("1e-07"), json!(".5"), json!("+3"), json!("1,000"), json!(true), json!({"x": 1})] {
            let event = event(Some("s"), "tokens", "t", json!({"n": n}));
            assert_eq!(reason(event), Some(Reason::PropertyNotNumeric));
        }
        let large = event(Some("s"), "tokens", "t", json!({"n": "1000000000000"}));
        assert_eq!(reason_in(Store::ClickHouse, large.clone()), Some(Reason::PropertyOutOfRange));
        assert_eq!(reason(large), None);
    }

    #[test]
    fn json_numbers_count_in_any_notation() {
        let n: Value = serde_json::from_str(r#"{"n": 1e-7}"#).expect("JSON");
        assert_eq!(reason(event(Some("s"), "tokens", "t", n)), None);
    }

    #[test]
    fn in_clickhouse_the_last_copy_wins() {
        let copy = |n: &str| event(Some("s"), "tokens", "t", json!({"n": n}));
        let bill = billed(vec![copy("1"), copy("7")], Store::ClickHouse, Unknown::NotBilled);
        let line = bill.line("s", "tokens").expect("a line");
        assert_eq!((line.events, line.units.as_str()), (1, "7"));
        assert!(bill.billed_twice.is_empty());
    }

    #[test]
    fn in_clickhouse_another_timestamp_bills_twice() {
        let first = event(Some("s"), "calls", "t", json!({}));
        let second = StoredEvent { timestamp_micros: AT + 1000, ..first.clone() };
        let bill = billed(vec![first, second], Store::ClickHouse, Unknown::NotBilled);
        let twice = BilledTwice {
            transaction_id: "t".to_owned(),
            external_subscription_id: "s".to_owned(),
            times: 2,
        };
        assert_eq!(bill.billed_twice, [twice]);
    }

    #[test]
    fn accepting_any_counts_what_is_unknown() {
        let events = vec![event(Some("other"), "other", "t", json!({}))];
        let bill = billed(events, Store::Postgres, Unknown::Billed);
        assert_eq!(bill.line("other", "other").expect("a line").events, 1);
    }
}

//! One event: what Lago keeps of the JSON it is sent, and what it refuses.
//!
//! Pure: the outcome depends on the JSON, the store, the time of receipt and the catalog alone.

use serde_json::{Map, Number, Value};

use crate::catalog::Catalog;
use crate::config::Store;
use crate::decimal::{self, Amount, Read};
use crate::time;

/// An event as the server understood it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub transaction_id: Option<String>,
    pub external_subscription_id: Option<String>,
    pub code: Option<String>,
    /// Microseconds since 1970.
    pub timestamp: i128,
    pub precise_total_amount_cents: Option<String>,
    pub properties: Map<String, Value>,
}

/// Whether `transaction_id` and `code` must be there. The single endpoint of the ClickHouse store does not
/// look; everything else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Required,
    NotChecked,
}

/// Whether the row can be inserted once validation has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertable {
    Yes,
    /// The database raises an error: 500, on every try.
    No,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    pub event: Event,
    pub insertable: Insertable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Field and error code.
    Fields(Vec<(&'static str, &'static str)>),
    /// A custom expression lacks a property; the details are this text.
    Expression(String),
    /// The server crashes while reading: 500.
    Crash,
}

const INVALID_TIMESTAMP: (&str, &str) = ("timestamp", "invalid_format");

/// PostgreSQL's b-tree takes index rows up to 2704 bytes; headers and the organization's UUID are in there
/// with subscription and transaction id.
const LARGEST_KEY: usize = 2660;

/// Reads one event, unknown keys dropped.
pub fn read(
    fields: Map<String, Value>,
    store: Store,
    presence: Presence,
    received: i128,
    catalog: &Catalog,
) -> Result<Checked, Problem> {
    let mut transaction_id = None;
    let mut external_subscription_id = None;
    let mut code = None;
    let mut timestamp = Value::Null;
    let mut amount = Value::Null;
    let mut properties = Map::new();
    for (name, value) in fields {
        match name.as_str() {
            "transaction_id" => transaction_id = text_of(value),
            "external_subscription_id" => external_subscription_id = text_of(value),
            "code" => code = text_of(value),
            "timestamp" => timestamp = value,
            "precise_total_amount_cents" => amount = value,
            "properties" => {
                properties = match value {
                    Value::Object(sent) => permitted(sent),
                    _ => Map::new(),
                }
            }
            _ => {}
        }
    }

    let timestamp = read_timestamp(&timestamp, received)?;
    check_nul_bytes(store, [&transaction_id, &external_subscription_id], &code)?;
    if let Some(metric) = code.as_deref().and_then(|code| catalog.metric(code)) {
        let missing = metric.expression_variables.iter().find(|name| !properties.contains_key(*name));
        if let Some(name) = missing {
            let text = format!("expression_evaluation_failed: Variable: {name} not found");
            return Err(Problem::Expression(text));
        }
    }
    if presence == Presence::Required {
        let blank = |text: &Option<String>| text.as_deref().is_none_or(|text| text.trim().is_empty());
        let missing: Vec<(&str, &str)> = [("transaction_id", &transaction_id), ("code", &code)]
            .into_iter()
            .filter(|(_, text)| blank(text))
            .map(|(field, _)| (field, "value_is_mandatory"))
            .collect();
        if !missing.is_empty() {
            return Err(Problem::Fields(missing));
        }
    }

    let mut insertable = Insertable::Yes;
    let precise_total_amount_cents = match read_amount(&amount) {
        Amount::Absent => None,
        Amount::Value(text) => Some(text),
        Amount::Overflow => {
            insertable = Insertable::No;
            None
        }
    };
    let key = [&transaction_id, &external_subscription_id];
    let key_length: usize = key.into_iter().flatten().map(String::len).sum();
    if !time::fits_postgres(timestamp) || key_length > LARGEST_KEY || properties.iter().any(holds_nul) {
        insertable = Insertable::No;
    }
    if store == Store::ClickHouse {
        // Nothing is inserted during the request: the event is handed to a queue.
        insertable = Insertable::Yes;
    }
    let event = Event {
        transaction_id,
        external_subscription_id,
        code,
        timestamp,
        precise_total_amount_cents,
        properties,
    };
    Ok(Checked { event, insertable })
}

/// The transaction id an element names, for keeping track of what was sent.
pub fn transaction_id_of(fields: &Map<String, Value>) -> Option<String> {
    fields.get("transaction_id").cloned().and_then(text_of)
}

/// Scalars become text in string columns; objects and arrays are not permitted there and dropped.
pub fn text_of(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(decimal::ruby_text(&number.to_string())),
        Value::Bool(true) => Some("t".to_owned()),
        Value::Bool(false) => Some("f".to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn read_timestamp(value: &Value, received: i128) -> Result<i128, Problem> {
    let read = match value {
        // Arrays and objects are not permitted and dropped, so the timestamp is absent.
        Value::Null | Value::Bool(false) | Value::Array(_) | Value::Object(_) => return Ok(received),
        Value::Bool(true) => Read::Invalid,
        Value::Number(number) => decimal::read_strict(&decimal::ruby_text(&number.to_string())),
        Value::String(text) => decimal::read_strict(text),
    };
    match read {
        Read::Number(number) => number.scaled_floor(6).ok_or(Problem::Crash),
        Read::NotFinite => Err(Problem::Crash),
        Read::Invalid => Err(Problem::Fields(vec![INVALID_TIMESTAMP])),
    }
}

/// The database driver refuses U+0000 in text with the same exception a bad timestamp raises, and the
/// server reports the latter. The code is looked up in Postgres whatever the event store.
fn check_nul_bytes(store: Store, ids: [&Option<String>; 2], code: &Option<String>) -> Result<(), Problem> {
    let holds = |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains('\0'));
    if holds(code) || (store == Store::Postgres && ids.into_iter().any(holds)) {
        return Err(Problem::Fields(vec![INVALID_TIMESTAMP]));
    }
    Ok(())
}

fn read_amount(value: &Value) -> Amount {
    match value {
        Value::String(text) => decimal::read_amount(text),
        Value::Number(number) => decimal::read_amount(&decimal::ruby_text(&number.to_string())),
        Value::Bool(true) => Amount::Value("1.0".to_owned()),
        Value::Bool(false) => Amount::Value("0.0".to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => Amount::Absent,
    }
}

/// What Rails' parameters leave of `properties`: null elements of arrays are removed, arrays directly inside
/// arrays are not permitted, fractions go through a double.
fn permitted(properties: Map<String, Value>) -> Map<String, Value> {
    properties.into_iter().map(|(name, value)| (name, permitted_value(value))).collect()
}

fn permitted_value(value: Value) -> Value {
    match value {
        Value::Array(elements) => Value::Array(
            elements
                .into_iter()
                .filter(|element| !matches!(element, Value::Null | Value::Array(_)))
                .map(permitted_value)
                .collect(),
        ),
        Value::Object(object) => Value::Object(permitted(object)),
        Value::Number(number) => permitted_number(number),
        other => other,
    }
}

fn permitted_number(number: Number) -> Value {
    let text = number.to_string();
    if !text.contains(['.', 'e', 'E']) {
        return Value::Number(number);
    }
    let double = text.parse::<f64>().ok().and_then(Number::from_f64);
    double.map_or(Value::Null, Value::Number)
}

fn holds_nul((name, value): (&String, &Value)) -> bool {
    name.contains('\0') || value_holds_nul(value)
}

pub fn value_holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(elements) => elements.iter().any(value_holds_nul),
        Value::Object(object) => object.iter().any(holds_nul),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Metric;
    use serde_json::json;

    const NOW: i128 = 1_700_000_000_000_000;

    fn read_in(store: Store, presence: Presence, value: Value) -> Result<Checked, Problem> {
        let mut catalog = Catalog::default();
        catalog.define_metric(Metric::sum("priced", "total").with_expression_over(&["a", "b"]));
        let Value::Object(fields) = value else { panic!("not an object") };
        read(fields, store, presence, NOW, &catalog)
    }

    fn postgres(value: Value) -> Result<Checked, Problem> {
        read_in(Store::Postgres, Presence::Required, value)
    }

    fn with(field: &str, value: Value) -> Result<Checked, Problem> {
        let mut event = json!({"transaction_id": "t", "external_subscription_id": "s", "code": "c"});
        event[field] = value;
        postgres(event)
    }

    fn event_with(field: &str, value: Value) -> Event {
        with(field, value).expect("valid").event
    }

    fn fields(problems: &[(&'static str, &'static str)]) -> Problem {
        Problem::Fields(problems.to_vec())
    }

    #[test]
    fn missing_and_blank_fields_are_reported_together() {
        let both = fields(&[("transaction_id", "value_is_mandatory"), ("code", "value_is_mandatory")]);
        assert_eq!(postgres(json!({})), Err(both.clone()));
        assert_eq!(postgres(json!({"transaction_id": "", "code": "  "})), Err(both.clone()));
        assert_eq!(postgres(json!({"transaction_id": [1], "code": {"a": 1}})), Err(both));
        assert!(read_in(Store::ClickHouse, Presence::NotChecked, json!({})).is_ok());
    }

    #[test]
    fn scalars_become_text() {
        assert_eq!(event_with("transaction_id", json!(42)).transaction_id.as_deref(), Some("42"));
        assert_eq!(event_with("transaction_id", json!(1.5)).transaction_id.as_deref(), Some("1.5"));
        assert_eq!(event_with("code", json!(true)).code.as_deref(), Some("t"));
        assert_eq!(event_with("external_subscription_id", json!(null)).external_subscription_id, None);
    }

    #[test]
    fn a_timestamp_that_is_absent_null_or_false_is_the_time_of_receipt() {
        for value in [json!(null), json!(false), json!([1]), json!({})] {
            assert_eq!(event_with("timestamp", value).timestamp, NOW);
        }
    }

    #[test]
    fn timestamps_keep_microseconds() {
        assert_eq!(event_with("timestamp", json!("1710421740.1234567")).timestamp, 1_710_421_740_123_456);
        let number: Value = serde_json::from_str("1710421740.123").expect("a number");
        assert_eq!(event_with("timestamp", number).timestamp, 1_710_421_740_123_000);
    }

    #[test]
    fn text_that_is_no_number_is_an_invalid_timestamp() {
        for value in [json!("2024-12-10T00:00:00Z"), json!(""), json!("soon"), json!(true)] {
            assert_eq!(with("timestamp", value), Err(fields(&[("timestamp", "invalid_format")])));
        }
    }

    #[test]
    fn what_crashes_the_server_crashes_here() {
        assert_eq!(with("timestamp", json!("NaN")), Err(Problem::Crash));
        assert_eq!(with("timestamp", json!("-Infinity")), Err(Problem::Crash));
        let insertable = |field: &str, value: Value| with(field, value).expect("valid").insertable;
        assert_eq!(insertable("timestamp", json!(1_700_000_000_000_u64)), Insertable::Yes);
        assert_eq!(insertable("timestamp", json!(1_700_000_000_000_000_u64)), Insertable::No);
        assert_eq!(insertable("transaction_id", json!("x".repeat(2500))), Insertable::Yes);
        assert_eq!(insertable("transaction_id", json!("x".repeat(2700))), Insertable::No);
        assert_eq!(insertable("precise_total_amount_cents", json!("1e25")), Insertable::No);
        assert_eq!(insertable("properties", json!({"a": [{"b": "\0"}]})), Insertable::No);
    }

    #[test]
    fn the_clickhouse_store_inserts_nothing_and_so_cannot_fail_there() {
        let long =
            json!({"transaction_id": "x".repeat(2700), "code": "c", "timestamp": 1_700_000_000_000_000_u64});
        let checked = read_in(Store::ClickHouse, Presence::Required, long).expect("valid");
        assert_eq!(checked.insertable, Insertable::Yes);
    }

    #[test]
    fn a_nul_byte_in_a_text_field_is_blamed_on_the_timestamp() {
        for field in ["transaction_id", "external_subscription_id", "code"] {
            assert_eq!(with(field, json!("a\0b")), Err(fields(&[("timestamp", "invalid_format")])));
        }
    }

    #[test]
    fn properties_lose_what_the_server_drops() {
        assert!(event_with("properties", json!("text")).properties.is_empty());
        assert!(event_with("properties", json!([1])).properties.is_empty());
        let sent = json!({"a": [1, null, {"b": [null]}, [2]], "n": null, "t": true});
        let kept = json!({"a": [1, {"b": []}], "n": null, "t": true});
        assert_eq!(Value::Object(event_with("properties", sent).properties), kept);
        let numbers: Value = serde_json::from_str(
            r#"{"f": 0.1234567890123456789, "huge": 1e400, "exact": 12345678901234567890123}"#,
        )
        .expect("JSON");
        let text = serde_json::to_string(&event_with("properties", numbers).properties).expect("JSON");
        assert_eq!(text, r#"{"f":0.12345678901234568,"huge":null,"exact":12345678901234567890123}"#);
    }

    #[test]
    fn an_expression_needs_its_properties() {
        let event = json!({"transaction_id": "t", "code": "priced", "properties": {"a": 1}});
        let text = "expression_evaluation_failed: Variable: b not found".to_owned();
        assert_eq!(postgres(event), Err(Problem::Expression(text)));
    }
}

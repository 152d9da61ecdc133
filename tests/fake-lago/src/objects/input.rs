//! What the server keeps of an object it is sent, and what it finds wrong with it.
//!
//! Pure. Keys it does not know are dropped without a word; problems are collected and answered together.

use bigdecimal::{BigDecimal, RoundingMode};
use serde_json::{Number, Value, json};

use super::table::Fields;
use crate::decimal;
use crate::event;
use crate::reply::{self, Reply};
use crate::time;

/// The keys an endpoint reads.
pub struct Permitted {
    /// Text columns: scalars become text.
    pub texts: &'static [&'static str],
    /// Other scalars; an array or object in their place is dropped.
    pub scalars: &'static [&'static str],
    /// Arrays and objects; a scalar in their place is dropped.
    pub nested: &'static [&'static str],
}

impl Permitted {
    pub fn read(&self, sent: Fields) -> Fields {
        let mut kept = Fields::new();
        for (name, value) in sent {
            let known = |names: &[&str]| names.contains(&name.as_str());
            let is_nested = value.is_array() || value.is_object();
            if known(self.texts) && !is_nested {
                kept.insert(name, event::text_of(value).map_or(Value::Null, Value::String));
            } else if (known(self.scalars) && !is_nested) || (known(self.nested) && is_nested) {
                kept.insert(name, value);
            }
        }
        kept
    }
}

/// Whether a text anywhere holds U+0000, which the database refuses: 500 on every try.
pub fn holds_nul(fields: &Fields) -> bool {
    fields.iter().any(|(name, value)| name.contains('\0') || event::value_holds_nul(value))
}

/// Rails' `blank?`, but for `false`, which is a value.
pub fn is_blank(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.trim().is_empty(),
        Some(Value::Array(elements)) => elements.is_empty(),
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(Value::Bool(_) | Value::Number(_)) => false,
    }
}

/// A number, or a text that is one.
pub fn number(value: &Value) -> Option<BigDecimal> {
    match value {
        Value::Number(number) => decimal::number(&number.to_string()),
        Value::String(text) => decimal::number(text),
        _ => None,
    }
}

/// Credits are decimal texts; JSON numbers are refused, so that none passes through a double.
pub fn credits(value: &Value) -> Option<BigDecimal> {
    value.as_str().and_then(decimal::number).filter(|credits| *credits >= 0)
}

/// The JSON number of a whole amount.
pub fn whole(amount: &BigDecimal) -> Value {
    let text = decimal::plain_text(&amount.with_scale_round(0, RoundingMode::HalfUp));
    serde_json::from_str::<Number>(&text).map_or(Value::Null, Value::Number)
}

/// Microseconds since 1970 of an ISO 8601 text.
pub fn instant(value: &Value) -> Option<i128> {
    value.as_str().and_then(time::parse_iso)
}

/// The fields of a 422, each with its codes.
#[derive(Debug, Default)]
pub struct Problems(Fields);

impl Problems {
    pub fn add(&mut self, field: &str, code: &str) {
        match self.0.get_mut(field) {
            Some(Value::Array(codes)) => codes.push(json!(code)),
            _ => {
                self.0.insert(field.to_owned(), json!([code]));
            }
        }
    }

    pub fn require(&mut self, fields: &Fields, names: &[&str]) {
        for name in names.iter().filter(|name| is_blank(fields.get(**name))) {
            self.add(name, "value_is_mandatory");
        }
    }

    /// Three capital letters, if there is a currency.
    pub fn check_currency(&mut self, fields: &Fields, name: &str) {
        let known = |code: &str| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        let currency = fields.get(name).filter(|value| !is_blank(Some(value)));
        if currency.is_some_and(|value| !value.as_str().is_some_and(known)) {
            self.add(name, "value_is_invalid");
        }
    }

    /// One of these texts, if there is a value.
    pub fn check_choice(&mut self, fields: &Fields, name: &str, choices: &[&str]) {
        let value = fields.get(name).filter(|value| !is_blank(Some(value)));
        if value.is_some_and(|value| !value.as_str().is_some_and(|text| choices.contains(&text))) {
            self.add(name, "value_is_invalid");
        }
    }

    pub fn check(self) -> Result<(), Reply> {
        if self.0.is_empty() { Ok(()) } else { Err(reply::invalid(Value::Object(self.0))) }
    }
}

/// A 422 for one field.
pub fn problem(field: &str, code: &str) -> Reply {
    reply::invalid(json!({ field: [code] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Fields {
        let Value::Object(fields) = value else { panic!("not an object") };
        fields
    }

    #[test]
    fn unknown_keys_and_wrong_shapes_are_dropped() {
        let permitted = Permitted { texts: &["name", "code"], scalars: &["units"], nested: &["fees"] };
        let sent = json!({"name": 42, "code": ["x"], "units": 1.5, "fees": "none", "Name": "x", "other": {}});
        assert_eq!(permitted.read(object(sent)), object(json!({"name": "42", "units": 1.5})));
    }

    #[test]
    fn credits_are_texts() {
        assert!(credits(&json!("10.50")).is_some());
        for value in [json!(10), json!("ten"), json!("-1"), json!(""), json!(true), json!("1e999999999")] {
            assert!(credits(&value).is_none(), "{value}");
        }
    }

    #[test]
    fn problems_of_one_field_are_answered_together() {
        let mut problems = Problems::default();
        problems.require(&object(json!({"a": " ", "b": false, "c": 0})), &["a", "b", "c", "d"]);
        problems.add("a", "value_is_invalid");
        let refused = problems.check().expect_err("problems");
        let body: Value = serde_json::from_slice(&refused.body).expect("JSON");
        let expected = json!({"a": ["value_is_mandatory", "value_is_invalid"], "d": ["value_is_mandatory"]});
        assert_eq!(body["error_details"], expected);
    }

    #[test]
    fn amounts_are_rounded_to_whole_numbers() {
        assert_eq!(whole(&decimal::number("10.5").expect("a number")), json!(11));
        assert_eq!(number(&json!("x")), None);
    }
}

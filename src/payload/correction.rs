//! Correction: a payload somebody wrote in place of a dead letter's.
//!
//! Between the operator and the outbox. Promises the outbox what capture promises it: a payload Lago would
//! bill, and a path that names exactly one object.
#![forbid(unsafe_code)]

use super::{refusal, request};
use crate::call::{Call, Method, keys_of_path};
use serde_json::{Map, Value};

/// Whether the messages of a sync have a payload; without one the path alone says it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payloads {
    Made,
    None,
}

/// What is stored in the letter.
#[derive(Debug, PartialEq, Eq)]
pub struct Correction {
    pub path: Option<String>,
    pub body: Body,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// Byte for byte.
    AsGiven,
    /// What is left of it when the keys that belong into the path are taken out.
    Rest(String),
    /// The call has none.
    Empty,
}

/// Why a correction is not stored.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    NotJson(String),
    NotBillable(String),
}

/// Looks at a correction. `kept` is the letter's path: a payload that names no key of it leaves it as it is,
/// so that what the view shows can be edited and given back.
pub fn correction(
    call: &Call,
    kept: Option<&str>,
    payloads: Payloads,
    given: &str,
) -> Result<Correction, Refusal> {
    let is_bare = call.method == Method::Delete || payloads == Payloads::None;
    let value = match given.trim() {
        "" if is_bare => Value::Object(Map::new()),
        _ => serde_json::from_str(given).map_err(|error| Refusal::NotJson(error.to_string()))?,
    };
    let body_as_given = match call.method {
        Method::Delete => Body::Empty,
        _ if given.trim().is_empty() => Body::Empty,
        _ => Body::AsGiven,
    };
    let keys = [keys_of_path(&call.path).as_slice(), call.query()].concat();
    let named = keys.iter().find(|key| value.get(**key).is_some());
    let rows_decide = call.path.contains("{{");
    match (kept, named) {
        (None, _) if rows_decide => {
            let why = "the call's path is made of the row, and this letter has none yet";
            Err(Refusal::NotBillable(why.into()))
        }
        (Some(_), Some(key)) if rows_decide => Err(Refusal::NotBillable(format!(
            "\"{key}\" cannot be corrected: the call's path is made of the row"
        ))),
        (Some(path), None) => {
            let filled = Call { path: path.to_owned(), ..call.clone() };
            refuse(&filled, &value)?;
            Ok(Correction { path: Some(path.to_owned()), body: body_as_given })
        }
        (_, _) => {
            refuse(call, &value)?;
            if !call.takes_from_payload() {
                return Ok(Correction { path: None, body: body_as_given });
            }
            let (path, body) = request(call, value).map_err(Refusal::NotBillable)?;
            let body = body.map_or(Body::Empty, |body| Body::Rest(body.to_string()));
            Ok(Correction { path, body })
        }
    }
}

fn refuse(call: &Call, payload: &Value) -> Result<(), Refusal> {
    refusal(call, payload).map_or(Ok(()), |why| Err(Refusal::NotBillable(why)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::MANUAL;
    use crate::payload::samples::{KEPT, call, good};

    fn corrected(call: &Call, kept: Option<&str>, given: &str) -> Result<Correction, Refusal> {
        correction(call, kept, Payloads::Made, given)
    }

    fn stored(path: Option<&str>, body: Body) -> Result<Correction, Refusal> {
        Ok(Correction { path: path.map(str::to_owned), body })
    }

    fn why(result: Result<Correction, Refusal>) -> String {
        match result {
            Err(Refusal::NotBillable(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_good_payload_is_taken_byte_for_byte() {
        for given in [good("event").to_string(), format!(" {}\n", good("event"))] {
            assert_eq!(corrected(&call("event"), None, &given), stored(None, Body::AsGiven));
        }
    }

    #[test]
    fn every_good_payload_is_a_correction() {
        for name in KEPT {
            let result = corrected(&call(name), None, &good(name).to_string());
            assert!(result.is_ok(), "{name}: {result:?}");
        }
    }

    #[test]
    fn what_lago_would_not_bill_is_refused_in_the_same_words() {
        let event = call("event");
        for given in
            ["{}", "[]", "1", "null", "\"{}\"", r#"{"event": {"code": "c"}}"#, r#"{"transaction_id": null}"#]
        {
            let value = serde_json::from_str(given).expect("JSON");
            assert_eq!(Some(why(corrected(&event, None, given))), refusal(&event, &value), "{given}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for given in ["", " ", "{", "{}{}", "{'a': 1}", "nonsense"] {
            assert!(matches!(corrected(&call("event"), None, given), Err(Refusal::NotJson(_))), "{given}");
        }
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert!(matches!(corrected(&call("event"), None, &deep), Err(Refusal::NotJson(_))));
    }

    #[test]
    fn keys_of_the_path_go_into_the_path() {
        let update = call("subscription_update");
        let given = r#"{"name": "n", "external_id": "a b", "status": "pending"}"#;
        let wanted =
            stored(Some("/subscriptions/a%20b?status=pending"), Body::Rest(r#"{"name":"n"}"#.into()));
        assert_eq!(corrected(&update, None, given), wanted);
        assert_eq!(corrected(&update, Some("/subscriptions/old"), given), wanted, "in place of the letter's");
        assert_eq!(
            why(corrected(&update, Some("/subscriptions/old"), r#"{"name": "n", "status": "pending"}"#)),
            "\"external_id\" is missing: the call's path is made of it"
        );
    }

    #[test]
    fn a_payload_without_keys_of_the_path_leaves_the_letters_path() {
        let update = call("subscription_update");
        assert_eq!(
            corrected(&update, Some("/subscriptions/s?status=pending"), r#"{"name": "n"}"#),
            stored(Some("/subscriptions/s?status=pending"), Body::AsGiven)
        );
        assert_eq!(
            why(corrected(&update, None, r#"{"name": "n"}"#)),
            "\"external_id\" is missing: the call's path is made of it"
        );
        assert_eq!(
            why(corrected(&update, Some("/subscriptions/s"), r#"{"endingAt": "n"}"#)),
            "Lago reads no key \"endingAt\" and would drop it without a word"
        );
    }

    #[test]
    fn a_call_without_a_body_is_corrected_by_its_path_alone() {
        let delete = call("customer_delete");
        assert_eq!(
            corrected(&delete, Some("/customers/a"), r#"{"external_id": "b"}"#),
            stored(Some("/customers/b"), Body::Empty)
        );
        for given in ["", "{}"] {
            assert_eq!(
                corrected(&delete, Some("/customers/a"), given),
                stored(Some("/customers/a"), Body::Empty)
            );
        }
        assert!(corrected(&delete, None, "").is_err());
    }

    #[test]
    fn a_path_the_row_decides_stays() {
        let own = Call::of(MANUAL, None, Some("/x/{a}/{{ row.b }}"), None).expect("a call");
        assert_eq!(corrected(&own, Some("/x/1/2"), "[1]"), stored(Some("/x/1/2"), Body::AsGiven));
        assert_eq!(
            why(corrected(&own, Some("/x/1/2"), r#"{"a": 2}"#)),
            "\"a\" cannot be corrected: the call's path is made of the row"
        );
        assert_eq!(
            why(corrected(&own, None, r#"{"a": 2}"#)),
            "the call's path is made of the row, and this letter has none yet"
        );
        assert_eq!(
            correction(&own, Some("/x/1/2"), Payloads::None, " "),
            stored(Some("/x/1/2"), Body::Empty)
        );
        assert!(matches!(corrected(&own, Some("/x/1/2"), " "), Err(Refusal::NotJson(_))));
    }
}

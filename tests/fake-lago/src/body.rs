//! From the bytes of a request to the elements Lago would look at.
//!
//! Malformed JSON and invalid UTF-8 are found here, before anything else is decided. Each element keeps the
//! exact text it was sent as.

use std::collections::HashMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::http::Request;
use crate::reply;

/// One JSON object as sent, and what it says.
#[derive(Debug)]
pub struct Element<'a> {
    pub raw: &'a str,
    pub fields: Map<String, Value>,
}

/// The value below a root key such as `event`.
#[derive(Debug)]
pub enum Root<'a> {
    /// Absent, or one of the values Rails calls blank.
    Missing,
    /// Something that is not an object: the server crashes.
    NotAnObject,
    Object(Element<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl From<serde_json::Error> for Malformed {
    fn from(_: serde_json::Error) -> Malformed {
        Malformed
    }
}

/// The keys of the body. A body without a JSON content type is not parsed, and one that is not an object
/// has no keys.
fn root_keys(request: &Request) -> Result<HashMap<String, &RawValue>, Malformed> {
    if request.body.is_empty() || !request.content_type.as_deref().is_some_and(reply::is_json) {
        return Ok(HashMap::new());
    }
    let text = std::str::from_utf8(&request.body).map_err(|_| Malformed)?;
    if text.trim_start().starts_with('{') {
        return Ok(serde_json::from_str(text)?);
    }
    serde_json::from_str::<&RawValue>(text)?;
    Ok(HashMap::new())
}

/// The object below `key`.
pub fn object<'a>(request: &'a Request, key: &str) -> Result<Root<'a>, Malformed> {
    let Some(value) = root_keys(request)?.get(key).copied() else { return Ok(Root::Missing) };
    let raw = value.get();
    Ok(match serde_json::from_str(raw)? {
        Value::Object(fields) if fields.is_empty() => Root::Missing,
        Value::Object(fields) => Root::Object(Element { raw, fields }),
        Value::Null => Root::Missing,
        Value::String(text) if text.trim().is_empty() => Root::Missing,
        Value::Array(elements) if elements.iter().all(Value::is_null) => Root::Missing,
        _ => Root::NotAnObject,
    })
}

/// The objects of the array below `key`; empty if there is none. Null elements are removed and others that
/// are not objects are not permitted, both before anything is counted or indexed.
pub fn objects<'a>(request: &'a Request, key: &str) -> Result<Vec<Element<'a>>, Malformed> {
    let Some(value) = root_keys(request)?.get(key).copied() else { return Ok(Vec::new()) };
    if !value.get().starts_with('[') {
        serde_json::from_str::<Value>(value.get())?;
        return Ok(Vec::new());
    }
    let values: Vec<&'a RawValue> = serde_json::from_str(value.get())?;
    let mut elements = Vec::with_capacity(values.len());
    for value in values {
        let raw = value.get();
        if let Value::Object(fields) = serde_json::from_str(raw)? {
            elements.push(Element { raw, fields });
        }
    }
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Persistence;

    fn request(content_type: Option<&str>, body: &[u8]) -> Request {
        Request {
            method: "POST".to_owned(),
            path: "/".to_owned(),
            query: String::new(),
            authorization: None,
            content_type: content_type.map(str::to_owned),
            accept: None,
            user_agent: None,
            headers: Vec::new(),
            persistence: Persistence::KeepAlive,
            body: body.to_vec(),
        }
    }

    fn json(body: &str) -> Request {
        request(Some("application/json"), body.as_bytes())
    }

    #[test]
    fn elements_keep_their_exact_text() {
        let request = json(r#" { "events" : [ {"a" : 1.10} , null, 5, [{}], {"b":"\u0041"} ] } "#);
        let elements = objects(&request, "events").expect("well-formed");
        let raw: Vec<&str> = elements.iter().map(|element| element.raw).collect();
        assert_eq!(raw, [r#"{"a" : 1.10}"#, r#"{"b":"\u0041"}"#]);
    }

    #[test]
    fn a_body_is_only_parsed_as_json_if_it_says_so() {
        for content_type in [None, Some("text/plain")] {
            let request = request(content_type, b"{\"event\": broken");
            assert!(matches!(object(&request, "event"), Ok(Root::Missing)));
        }
    }

    #[test]
    fn malformed_bodies_are_told_apart_from_empty_ones() {
        for body in [
            "{",
            "{\"event\":}",
            "  ",
            "{\"events\":[{\"a\":\"\\ud800\"}]}",
            "{} {}",
            "[1,]",
            "{\"event\":NaN}",
        ] {
            assert!(objects(&json(body), "events").is_err(), "{body}");
        }
        assert!(objects(&request(Some("application/json"), b"{\"a\":\"\xff\"}"), "events").is_err());
        for body in ["", "{}", "[]", "1", "{\"events\":{}}", "{\"events\":\"x\"}", "{\"events\":[null, 3]}"] {
            assert!(objects(&json(body), "events").expect(body).is_empty(), "{body}");
        }
    }

    #[test]
    fn blank_roots_are_missing_and_other_scalars_crash() {
        for body in ["{}", "{\"event\":{}}", "{\"event\":null}", "{\"event\":\" \"}", "{\"event\":[null]}"] {
            assert!(matches!(object(&json(body), "event"), Ok(Root::Missing)), "{body}");
        }
        for body in ["{\"event\":\"x\"}", "{\"event\":[{}]}", "{\"event\":1}", "{\"event\":false}"] {
            assert!(matches!(object(&json(body), "event"), Ok(Root::NotAnObject)), "{body}");
        }
    }

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        let request = json(r#"{"event":{"code":"a"},"event":{"code":"b","code":"c"}}"#);
        let Ok(Root::Object(element)) = object(&request, "event") else { panic!("an object") };
        assert_eq!(element.fields["code"], "c");
    }
}

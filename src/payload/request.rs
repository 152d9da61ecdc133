//! Request: a payload taken apart into the path and the body of its call.
#![forbid(unsafe_code)]

use crate::call::{Call, Method, PathPiece, keys_of_path, pieces_of_path};
use serde_json::{Map, Value};
use std::fmt::Write;

/// The path with its `{key}`s filled and the query keys added, and the body without them. No path when
/// the call's own says it all; holes in it are left as they stand. No body for a deletion.
pub fn request(call: &Call, payload: Value) -> Result<(Option<String>, Option<Value>), String> {
    let keys = keys_of_path(&call.path);
    let (members, rest) = match payload {
        Value::Object(members) => (members, None),
        other => (Map::new(), Some(other)),
    };
    if rest.is_some() && !keys.is_empty() {
        return Err("the payload is not a JSON object, and the call's path is made of its keys".into());
    }
    let mut members = members;
    let mut path = filled(&call.path, &members)?;
    for key in &keys {
        members.shift_remove(*key);
    }
    let mut mark = if path.contains('?') { '&' } else { '?' };
    let mut has_query = false;
    for key in call.query() {
        let Some(value) = members.shift_remove(*key) else { continue };
        let Some(text) = text_of(key, &value)? else { continue };
        path.push(mark);
        path.push_str(key);
        path.push('=');
        push_encoded(&mut path, &text);
        mark = '&';
        has_query = true;
    }
    let path = (!keys.is_empty() || has_query).then_some(path);
    let body = match call.method {
        Method::Delete => None,
        Method::Post | Method::Put | Method::Patch => Some(rest.unwrap_or(Value::Object(members))),
    };
    Ok((path, body))
}

fn filled(path: &str, members: &Map<String, Value>) -> Result<String, String> {
    let mut out = String::with_capacity(path.len() + 32);
    for piece in pieces_of_path(path) {
        match piece {
            PathPiece::Text(text) => out.push_str(text),
            PathPiece::Key(key) => match members.get(key) {
                Some(value) => out.push_str(&segment(key, value)?),
                None => return Err(format!("\"{key}\" is missing, and the call's path is made of it")),
            },
        }
    }
    Ok(out)
}

/// A payload's value as one segment of a path.
pub(super) fn segment(key: &str, value: &Value) -> Result<String, String> {
    match text_of(key, value)? {
        Some(text) => percent_encode_segment(&text)
            .map_err(|why| format!("\"{key}\" {why}, and the call's path is made of it")),
        None => Err(format!("\"{key}\" is null or empty, and the call's path is made of it")),
    }
}

/// The text a value has in an address; none for null and the empty text.
fn text_of(key: &str, value: &Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            Err(format!("\"{key}\" is neither text nor number, and the call's path is made of it"))
        }
    }
}

/// One segment of a path, so written that it can be nothing else. What would make the path name another
/// object, or all of them, is refused.
pub fn percent_encode_segment(text: &str) -> Result<String, String> {
    match text {
        "" => return Err("is empty".into()),
        "." | ".." => return Err("is a relative path".into()),
        _ => {}
    }
    let mut out = String::with_capacity(text.len() + 8);
    push_encoded(&mut out, text);
    Ok(out)
}

/// Everything but letters, digits, `-`, `_` and `~` is encoded. The dot too: Lago takes what follows one
/// in `/customers/user@example.com` for the format of the reply.
fn push_encoded(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            // Writing into a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::MANUAL;
    use crate::endpoint::CATALOGUE;
    use crate::payload::samples::{call, json};
    use proptest::prelude::*;

    fn made(call: &Call, payload: &str) -> Result<(Option<String>, Option<String>), String> {
        request(call, json(payload)).map(|(path, body)| (path, body.map(|body| body.to_string())))
    }

    fn both(path: &str, body: &str) -> (Option<String>, Option<String>) {
        (Some(path.to_owned()), Some(body.to_owned()))
    }

    #[test]
    fn a_payload_without_path_keys_is_the_body() {
        assert_eq!(
            made(&call("event"), r#"{"b": 1.50, "a": 12345678901234567890123}"#),
            Ok((None, Some(r#"{"b":1.50,"a":12345678901234567890123}"#.into())))
        );
    }

    #[test]
    fn path_keys_go_into_the_path_and_leave_the_rest_in_its_order() {
        assert_eq!(
            made(&call("plan_update"), r#"{"z": 1, "code": "a/b c", "y": 2, "x": 3}"#),
            Ok(both("/plans/a%2Fb%20c", r#"{"z":1,"y":2,"x":3}"#))
        );
        assert_eq!(
            made(&call("subscription_update"), r#"{"external_id": 12, "status": "pending", "name": "n"}"#),
            Ok(both("/subscriptions/12?status=pending", r#"{"name":"n"}"#))
        );
    }

    #[test]
    fn a_deletion_has_no_body() {
        assert_eq!(
            made(&call("customer_delete"), r#"{"external_id": "user@example.com"}"#),
            Ok((Some("/customers/user%40example%2Ecom".into()), None))
        );
        assert_eq!(
            made(
                &call("subscription_terminate"),
                r#"{"on_termination_invoice": "skip", "external_id": "s", "on_termination_credit_note": "credit"}"#
            ),
            Ok((
                Some("/subscriptions/s?on_termination_credit_note=credit&on_termination_invoice=skip".into()),
                None
            ))
        );
        assert_eq!(
            made(&call("subscription_terminate"), r#"{"external_id": "s", "on_termination_invoice": null}"#),
            Ok((Some("/subscriptions/s".into()), None))
        );
    }

    #[test]
    fn a_call_on_nothing_in_particular_is_never_made() {
        for endpoint in CATALOGUE.iter().filter(|endpoint| endpoint.path.contains('{')) {
            let call = Call::from(endpoint);
            for value in ["null", r#""""#, r#"".""#, r#""..""#, "true", "[]", "{}"] {
                let members: Vec<String> =
                    keys_of_path(endpoint.path).iter().map(|key| format!("\"{key}\": {value}")).collect();
                let reason = made(&call, &format!("{{{}}}", members.join(","))).expect_err(value);
                assert!(reason.contains("path"), "{}: {reason}", endpoint.name);
            }
            for payload in ["{}", "[]", "null"] {
                assert!(made(&call, payload).is_err(), "{}: {payload}", endpoint.name);
            }
        }
    }

    #[test]
    fn a_path_of_ones_own_may_have_keys_holes_and_a_query() {
        let own = |name, path| Call::of(name, None, Some(path), None).expect("a call");
        assert_eq!(
            made(&own(MANUAL, "/x/{a}/{{ row.b }}/{a}"), r#"{"a": "1", "c": 2}"#),
            Ok(both("/x/1/{{ row.b }}/1", r#"{"c":2}"#))
        );
        assert_eq!(
            made(&own("subscription_update", "/s/{id}?a=b"), r#"{"id": "1", "status": "pending"}"#),
            Ok(both("/s/1?a=b&status=pending", "{}"))
        );
        assert_eq!(made(&own(MANUAL, "/x"), "[1]"), Ok((None, Some("[1]".into()))));
    }

    #[test]
    fn a_hole_in_a_value_is_no_hole_in_the_path() {
        let (path, _) =
            request(&call("customer_delete"), json(r#"{"external_id": "{{ row.x }}"}"#)).expect("made");
        assert_eq!(path.as_deref(), Some("/customers/%7B%7B%20row%2Ex%20%7D%7D"));
    }

    fn decoded(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            out.push(if byte == b'%' {
                let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).expect("two digits")
            } else {
                byte
            });
        }
        out
    }

    proptest! {
        #[test]
        fn an_encoded_segment_decodes_to_what_it_was(text in any::<String>()) {
            match percent_encode_segment(&text) {
                Ok(encoded) => {
                    prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_~%".contains(&b)));
                    prop_assert_eq!(decoded(&encoded), text.as_bytes());
                }
                Err(_) => prop_assert!(matches!(text.as_str(), "" | "." | "..")),
            }
        }
    }

    #[test]
    fn an_encoded_segment_is_still_one_segment() {
        assert_eq!(
            percent_encode_segment("a.b/../c?d#e%2F").as_deref(),
            Ok("a%2Eb%2F%2E%2E%2Fc%3Fd%23e%252F")
        );
        assert_eq!(percent_encode_segment("..."), Ok("%2E%2E%2E".into()));
        for refused in ["", ".", ".."] {
            assert!(percent_encode_segment(refused).is_err(), "{refused:?}");
        }
    }
}

//! What the body of an answer says: whose it is, its error code, the errors it lists.
//!
//! Serves the verdict and the look-ups. It promises the sentences made of it that they are short, and
//! that what stands for a code is one.
#![forbid(unsafe_code)]

use serde_json::{Map, Value};

/// The longest part of a sentence that Lago words; its whole answer is kept beside it.
const LONGEST_DETAIL: usize = 400;
/// No code of Lago's is nearly as long.
const LONGEST_CODE: usize = 80;

pub fn object(body: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Some(members),
        _ => None,
    }
}

/// Lago's error code. Anything that is not a word is not one.
pub fn code(body: &[u8]) -> Option<String> {
    code_of(&object(body)?).map(str::to_owned)
}

fn code_of(reply: &Map<String, Value>) -> Option<&str> {
    let is_word = |code: &&str| {
        !code.is_empty()
            && code.len() <= LONGEST_CODE
            && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    reply.get("code")?.as_str().filter(is_word)
}

/// Whether an error is in Lago's form: with a code, or with its own status and the name of that. What
/// stands in front of Lago may well answer in JSON too.
pub fn is_lagos_error(status: u16, body: &[u8]) -> bool {
    object(body).is_some_and(|reply| {
        code_of(&reply).is_some()
            || reply.get("status").and_then(Value::as_u64) == Some(u64::from(status))
                && reply.get("error").is_some_and(Value::is_string)
    })
}

pub fn is_web_page(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<')
}

/// Whether a body is a JSON object that begins with one of these keys. It may be cut off after that:
/// Lago writes its answer when it has done its work.
pub fn begins_with_key(body: &[u8], keys: &[&str]) -> bool {
    let longest = keys.iter().map(|key| key.len() + 4).max().unwrap_or(0);
    let text: Vec<u8> =
        body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(longest).collect();
    keys.iter().any(|key| text.starts_with(format!("{{\"{key}\":").as_bytes()))
}

/// Status and code, for a sentence.
pub fn in_short(status: u16, body: &[u8]) -> String {
    code(body).map_or_else(|| status.to_string(), |code| format!("{status} {code}"))
}

/// What a 422 says is wrong.
pub fn details(body: &[u8]) -> Option<Value> {
    object(body)?.remove("error_details")
}

/// The error codes below one field, one after the other; below fields within fields, each with its
/// place.
fn codes(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) => values.iter().flat_map(codes).collect(),
        Value::String(code) => vec![code.clone()],
        Value::Object(fields) => vec![by_field(fields)],
        other => vec![other.to_string()],
    }
}

/// "field: code, code; field: code".
pub fn by_field(fields: &Map<String, Value>) -> String {
    let all: Vec<String> =
        fields.iter().map(|(field, value)| format!("{field}: {}", codes(value).join(", "))).collect();
    all.join("; ")
}

/// As much of what Lago says as a sentence takes.
pub fn shortened(detail: &str) -> String {
    detail.chars().take(LONGEST_DETAIL).collect()
}

/// Whether an error is nothing but the news that Lago has this already, in `field`.
pub fn exists_already(fields: &Map<String, Value>, field: &str) -> bool {
    fields.len() == 1 && fields.get(field).is_some_and(|value| codes(value) == ["value_already_exist"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_a_word_and_nothing_else() {
        assert_eq!(code(br#"{"code":"plan_not_found"}"#).as_deref(), Some("plan_not_found"));
        for body in [r#"{"code":"anna@example.com"}"#, r#"{"code":""}"#, r#"{"code":7}"#, "[]", "", "{"] {
            assert_eq!(code(body.as_bytes()), None, "{body}");
        }
        assert_eq!(code(format!(r#"{{"code":"{}"}}"#, "a".repeat(81)).as_bytes()), None);
    }

    #[test]
    fn an_error_of_lagos_is_told_from_a_gateways() {
        for body in [r#"{"status":403,"error":"Forbidden"}"#, r#"{"code":"x"}"#, r#"{"status":1,"code":"x"}"#]
        {
            assert!(is_lagos_error(403, body.as_bytes()), "{body}");
        }
        for body in [
            r#"{"message":"Forbidden"}"#,
            r#"{"status":403,"title":"Forbidden"}"#,
            r#"{"status":404,"error":"Not Found"}"#,
            "<html>",
            "",
        ] {
            assert!(!is_lagos_error(403, body.as_bytes()), "{body}");
        }
    }
}

//! Answers and their exact shapes.
//!
//! Every error body here has the keys, order and wording the server uses.

use serde_json::{Map, Value, json};

use crate::config::{Access, Denied};
use crate::event::{Event, Problem};
use crate::time::{self, Fraction};

const JSON: &str = "application/json; charset=utf-8";
pub const HTML: &str = "text/html; charset=UTF-8";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, content_type, headers: Vec::new(), body: body.into() }
    }

    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply::new(status, JSON, body)
    }

    pub fn value(status: u16, value: &Value) -> Reply {
        Reply::json(status, value.to_string())
    }
}

/// Malformed JSON. The server's exception page is empty unless JSON was asked for.
pub fn malformed(accept: Accepts) -> Reply {
    match accept {
        Accepts::Json => Reply::json(400, r#"{"status":400,"error":"Bad Request"}"#),
        Accepts::Other => Reply::new(400, HTML, ""),
    }
}

pub fn missing_root(root: &str) -> Reply {
    let error = format!("BadRequest: param is missing or the value is empty or invalid: {root}");
    Reply::value(400, &json!({"status": 400, "error": error}))
}

pub fn unauthorized() -> Reply {
    Reply::json(401, r#"{"status":401,"error":"Unauthorized"}"#)
}

pub fn forbidden(denied: &Denied) -> Reply {
    let access = match denied.access {
        Access::Read => "read",
        Access::Write => "write",
    };
    let code = format!("{access}_action_not_allowed_for_{}", denied.resource);
    Reply::value(403, &json!({"status": 403, "error": "Forbidden", "code": code}))
}

pub fn feature_unavailable() -> Reply {
    Reply::json(403, r#"{"status":403,"error":"Forbidden","code":"feature_unavailable"}"#)
}

/// A business rule, not a verb.
pub fn not_allowed(code: &str) -> Reply {
    Reply::value(405, &json!({"status": 405, "error": "Method Not Allowed", "code": code}))
}

pub fn not_found(resource: &str) -> Reply {
    let code = format!("{resource}_not_found");
    Reply::value(404, &json!({"status": 404, "error": "Not Found", "code": code}))
}

pub fn internal_error() -> Reply {
    Reply::json(500, r#"{"status":500,"error":"Internal Server Error"}"#)
}

pub fn too_many_requests() -> Reply {
    Reply::json(429, r#"{"status":429,"error":"Too Many Requests"}"#)
}

pub fn invalid(details: Value) -> Reply {
    let mut body = Map::new();
    body.insert("status".to_owned(), json!(422));
    body.insert("error".to_owned(), json!("Unprocessable Entity"));
    body.insert("code".to_owned(), json!("validation_errors"));
    body.insert("error_details".to_owned(), details);
    Reply::value(422, &Value::Object(body))
}

/// The details of one event's problem: an object, or a text for an expression.
pub fn details(problem: &Problem) -> Value {
    match problem {
        Problem::Fields(fields) => {
            Value::Object(fields.iter().map(|(field, code)| ((*field).to_owned(), json!([code]))).collect())
        }
        Problem::Expression(text) => Value::String(text.clone()),
        Problem::Crash => Value::Null,
    }
}

pub fn duplicate_details() -> Value {
    json!({"transaction_id": ["value_already_exist"]})
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    Json,
    Other,
}

impl Accepts {
    /// Rails takes the first format of `Accept`, and treats lists containing `*/*` as a browser's, which
    /// gets HTML.
    pub fn from_header(accept: Option<&str>) -> Accepts {
        let accept = accept.unwrap_or("");
        let mut formats = accept.split(',').map(|format| format.split(';').next().unwrap_or("").trim());
        let browser = accept.contains(',') && formats.clone().any(|format| format == "*/*");
        match formats.next() {
            Some(first) if !browser && is_json(first) => Accepts::Json,
            _ => Accepts::Other,
        }
    }
}

/// The media types Rails parses as JSON.
pub fn is_json(media_type: &str) -> bool {
    let media_type = media_type.split(';').next().unwrap_or("").trim();
    ["application/json", "text/x-json", "application/jsonrequest"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(media_type))
}

/// What identifies a row in a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// The ClickHouse store has no row yet when it answers: `lago_id` and `created_at` are null.
    None,
    Row {
        id: &'a str,
        created: i128,
    },
}

/// Appends `{"lago_id":…,…,"created_at":…}`.
pub fn push_event(out: &mut String, event: &Event, identity: Identity<'_>) {
    out.push_str("{\"lago_id\":");
    match identity {
        Identity::None => out.push_str("null"),
        Identity::Row { id, .. } => push_text(out, Some(id)),
    }
    out.push_str(",\"transaction_id\":");
    push_text(out, event.transaction_id.as_deref());
    out.push_str(",\"lago_customer_id\":null,\"code\":");
    push_text(out, event.code.as_deref());
    out.push_str(",\"timestamp\":\"");
    time::push_iso(out, event.timestamp, Fraction::Millis);
    out.push_str("\",\"precise_total_amount_cents\":");
    push_text(out, event.precise_total_amount_cents.as_deref());
    out.push_str(",\"properties\":");
    push_object(out, &event.properties);
    out.push_str(",\"lago_subscription_id\":null,\"external_subscription_id\":");
    push_text(out, event.external_subscription_id.as_deref());
    out.push_str(",\"created_at\":");
    match identity {
        Identity::None => out.push_str("null"),
        Identity::Row { created, .. } => {
            out.push('"');
            time::push_iso(out, created, Fraction::None);
            out.push('"');
        }
    }
    out.push('}');
}

fn push_text(out: &mut String, text: Option<&str>) {
    let Some(text) = text else { return out.push_str("null") };
    let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // Serializing a text cannot fail.
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

fn push_object(out: &mut String, object: &Map<String, Value>) {
    // Keys are texts, so serializing cannot fail.
    out.push_str(&serde_json::to_string(object).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(reply: &Reply) -> &str {
        std::str::from_utf8(&reply.body).expect("text")
    }

    #[test]
    fn errors_have_the_servers_shape() {
        let missing = "{\"status\":400,\"error\":\"BadRequest: param is missing or the value is empty or invalid: event\"}";
        assert_eq!(body(&missing_root("event")), missing);
        assert_eq!(
            body(&not_found("event")),
            r#"{"status":404,"error":"Not Found","code":"event_not_found"}"#
        );
        assert_eq!(
            body(&forbidden(&Denied::write("event"))),
            r#"{"status":403,"error":"Forbidden","code":"write_action_not_allowed_for_event"}"#
        );
        assert_eq!(
            body(&invalid(duplicate_details())),
            r#"{"status":422,"error":"Unprocessable Entity","code":"validation_errors","error_details":{"transaction_id":["value_already_exist"]}}"#
        );
    }

    #[test]
    fn only_a_leading_json_accept_gets_json_for_malformed_bodies() {
        for accept in ["application/json", "application/json, text/plain", "application/json;q=0.9"] {
            assert_eq!(Accepts::from_header(Some(accept)), Accepts::Json, "{accept}");
        }
        for accept in ["*/*", "text/html, application/json", "application/json, */*", ""] {
            assert_eq!(Accepts::from_header(Some(accept)), Accepts::Other, "{accept}");
        }
        assert_eq!(Accepts::from_header(None), Accepts::Other);
    }

    #[test]
    fn content_types_are_compared_without_their_parameters() {
        assert!(is_json("application/json"));
        assert!(is_json("Application/JSON; charset=utf-8"));
        assert!(!is_json("text/plain"));
        assert!(!is_json("application/x-www-form-urlencoded"));
    }

    #[test]
    fn an_event_prints_in_the_order_of_the_serializer() {
        let event = Event {
            transaction_id: Some("t\"1".to_owned()),
            external_subscription_id: None,
            code: Some("c".to_owned()),
            timestamp: 1_710_421_740_123_456,
            precise_total_amount_cents: Some("1234.56".to_owned()),
            properties: Map::from_iter([("tokens".to_owned(), json!("1500"))]),
        };
        let mut out = String::new();
        push_event(&mut out, &event, Identity::Row { id: "an-id", created: 1_710_421_741_999_999 });
        assert_eq!(
            out,
            r#"{"lago_id":"an-id","transaction_id":"t\"1","lago_customer_id":null,"code":"c","timestamp":"2024-03-14T13:09:00.123Z","precise_total_amount_cents":"1234.56","properties":{"tokens":"1500"},"lago_subscription_id":null,"external_subscription_id":null,"created_at":"2024-03-14T13:09:01Z"}"#
        );
        out.clear();
        push_event(&mut out, &event, Identity::None);
        assert!(out.starts_with(r#"{"lago_id":null,"#) && out.ends_with(r#""created_at":null}"#));
    }
}

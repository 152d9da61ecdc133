//! `/_fake/objects/{kind}`, `/_fake/requests` and `/_fake/license`: the objects besides events, and what was
//! sent to make them.

use serde_json::{Value, json};

use crate::app::{App, lock};
use crate::config::License;
use crate::http::Request;
use crate::objects::Kind;
use crate::store::RequestLog;
use crate::time::{self, Fraction};

/// All objects of a kind, which may be named in the singular or the plural.
pub fn list(app: &App, kind: &str) -> Result<Value, String> {
    let kind = named(kind)?;
    let state = lock(&app.state);
    Ok(state.objects.all(kind).cloned().map(Value::Object).collect())
}

/// Defines the body's object, or each of its array; answers with their ids.
pub fn define(app: &App, kind: &str, request: &Request) -> Result<Value, String> {
    let kind = named(kind)?;
    let value: Value = serde_json::from_slice(&request.body).map_err(|error| error.to_string())?;
    let values = match value {
        Value::Array(values) => values,
        value => vec![value],
    };
    let mut objects = Vec::with_capacity(values.len());
    for value in values {
        let Value::Object(fields) = value else {
            return Err("the body is an object or an array of them".to_owned());
        };
        objects.push(fields);
    }
    let ids: Vec<String> = objects.into_iter().map(|fields| app.define_object(kind, fields)).collect();
    Ok(json!({"lago_ids": ids}))
}

fn named(kind: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.map(Kind::name).join(", ");
    Kind::from_name(kind).ok_or_else(|| format!("there is no {kind:?}; the kinds are {}", names()))
}

/// The latest requests, in the order they were dealt with.
pub fn requests(app: &App, limit: usize) -> Value {
    let log = lock(&app.state).last_requests(limit);
    log.iter().map(describe).collect()
}

fn describe(request: &RequestLog) -> Value {
    json!({
        "number": request.number,
        "method": request.method,
        "path": request.path,
        "status": request.status,
        "headers": request.headers.iter().map(|(name, value)| json!([name, value])).collect::<Vec<_>>(),
        "content_type": request.content_type,
        "user_agent": request.user_agent,
        "body": request.body,
        "body_bytes": request.body_bytes,
        "events": request.events,
        "faulted": request.faulted,
        "at": time::iso(time::micros_of(request.at), Fraction::Millis),
    })
}

pub fn license(value: &Value) -> Result<License, String> {
    match value.as_str() {
        Some("free") => Ok(License::Free),
        Some("premium") => Ok(License::Premium),
        _ => Err("the body is \"free\" or \"premium\"".to_owned()),
    }
}

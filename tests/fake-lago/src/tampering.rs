//! Losing, altering and making up accepted events, for tests of whoever has to find that out.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::app::{self, App, lock};
use crate::config::Store;
use crate::event::{self, Event, Presence, Problem};
use crate::http::Request;
use crate::store::{Arrival, Row};
use crate::time;

pub fn lose(app: &App, transaction_id: &str) -> usize {
    let store = app.settings().config.store;
    lock(&app.state).lose_events(transaction_id, &app.keys, store)
}

pub fn lose_some(app: &App, count: usize, seed: u64) -> Vec<String> {
    let store = app.settings().config.store;
    lock(&app.state).lose_some(count, seed, &app.keys, store)
}

pub fn alter(app: &App, transaction_id: &str, fields: &Value) -> Result<(), String> {
    let known = lock(&app.state).first_with_id(transaction_id).ok_or("there is no such event")?;
    let mut sent: Map<String, Value> = serde_json::from_slice(&known.raw).map_err(|e| e.to_string())?;
    let set = fields.as_object().ok_or("what is set is an object")?;
    sent.extend(set.iter().map(|(name, value)| (name.clone(), value.clone())));
    let event = read(app, sent)?;
    let store = app.settings().config.store;
    lock(&app.state).alter_event(transaction_id, event, &app.keys, store);
    Ok(())
}

pub fn add(app: &App, fields: &Value) -> Result<(), String> {
    let store = app.settings().config.store;
    let event = read(app, fields.as_object().ok_or("an event is an object")?.clone())?;
    let number = app.next_id();
    let lago_id = match store {
        Store::Postgres => app::uuid(number),
        Store::ClickHouse => format!("ch{number}"),
    };
    let key = app.keys.of(&event, store);
    let row = Row { event, lago_id, raw: fields.to_string().into_bytes(), key };
    lock(&app.state).add_event(row, Arrival { at: SystemTime::now(), request: 0 });
    Ok(())
}

fn read(app: &App, fields: Map<String, Value>) -> Result<Event, String> {
    let settings = app.settings();
    let now = time::micros_of(SystemTime::now());
    let read = event::read(fields, settings.config.store, Presence::Required, now, &settings.catalog);
    read.map(|checked| checked.event).map_err(|problem| match problem {
        Problem::Fields(fields) => format!("{fields:?}"),
        Problem::Expression(text) => text,
        Problem::Crash => "the server would crash".to_owned(),
    })
}

pub fn lose_from_json(app: &App, request: &Request) -> Result<Value, String> {
    let ids = match body(request)? {
        Value::String(id) => vec![id],
        Value::Array(ids) => {
            let id = |id: &Value| id.as_str().map(str::to_owned).ok_or("transaction ids are texts");
            ids.iter().map(id).collect::<Result<_, _>>()?
        }
        Value::Object(fields) => {
            let number = |name: &str| fields.get(name).and_then(Value::as_u64);
            let count =
                number("random").and_then(|count| usize::try_from(count).ok()).ok_or("random is how many")?;
            return Ok(json!({"lost": lose_some(app, count, number("seed").unwrap_or(1))}));
        }
        _ => return Err("the body is a transaction id, an array of them, or {\"random\": n}".to_owned()),
    };
    let lost: Vec<String> = ids.into_iter().filter(|id| lose(app, id) > 0).collect();
    Ok(json!({"lost": lost}))
}

pub fn alter_from_json(app: &App, request: &Request) -> Result<Value, String> {
    let body = body(request)?;
    let id = body.get("transaction_id").and_then(Value::as_str).ok_or("transaction_id is missing")?;
    alter(app, id, body.get("set").ok_or("set is missing")?)?;
    Ok(json!({"done": true}))
}

pub fn add_from_json(app: &App, request: &Request) -> Result<Value, String> {
    add(app, &body(request)?)?;
    Ok(json!({"done": true}))
}

fn body(request: &Request) -> Result<Value, String> {
    serde_json::from_slice(&request.body).map_err(|error| error.to_string())
}

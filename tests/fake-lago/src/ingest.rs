//! `POST /events` and `POST /events/batch`: validation, then insertion, then the answer.
//!
//! The two endpoints differ in what they check and in how they report it; both endpoints' order of checks
//! is the server's.

use serde_json::{Map, Value, json};

use crate::app::{self, Call, Stopped, lock};
use crate::body::{Element, Root};
use crate::config::Store;
use crate::event::{self, Insertable, Presence, Problem};
use crate::reply::{self, Identity, Reply};
use crate::store::{self, Inserted, Keep, OnDuplicate, Row};
use crate::time;

pub fn create_event(call: &Call<'_>, root: Root<'_>) -> Result<Reply, Stopped> {
    let element = match root {
        Root::Missing => return Ok(reply::missing_root("event")),
        Root::NotAnObject => return Ok(reply::internal_error()),
        Root::Object(element) => element,
    };
    let presence = match call.settings.config.store {
        Store::Postgres => Presence::Required,
        Store::ClickHouse => Presence::NotChecked,
    };
    let checked = match read(call, element.fields, presence) {
        Ok(checked) => checked,
        Err(Problem::Crash) => return Ok(reply::internal_error()),
        Err(problem) => return Ok(reply::invalid(reply::details(&problem))),
    };
    if checked.insertable == Insertable::No {
        return Ok(reply::internal_error());
    }
    let mut body = String::from("{\"event\":");
    let row = prepare(call, checked.event, element.raw, &mut body);
    body.push('}');
    Ok(match insert(call, vec![row], OnDuplicate::RefuseAll)? {
        Inserted::All => Reply::json(200, body),
        Inserted::Duplicates(_) => reply::invalid(reply::duplicate_details()),
    })
}

pub fn create_events(call: &Call<'_>, elements: Vec<Element<'_>>) -> Result<Reply, Stopped> {
    let config = &call.settings.config;
    if elements.is_empty() {
        return Ok(reply::invalid(json!({"events": ["no_events"]})));
    }
    if elements.len() > config.batch_limit {
        return Ok(reply::invalid(json!({"events": ["too_many_events"]})));
    }
    let mut problems = Map::new();
    let mut insertable = Insertable::Yes;
    let mut rows = Vec::with_capacity(elements.len());
    let mut body = String::with_capacity(elements.len() * 400);
    body.push_str("{\"events\":[");
    for (index, element) in elements.into_iter().enumerate() {
        match read(call, element.fields, Presence::Required) {
            Ok(checked) => {
                if checked.insertable == Insertable::No {
                    insertable = Insertable::No;
                }
                if index > 0 {
                    body.push(',');
                }
                rows.push(prepare(call, checked.event, element.raw, &mut body));
            }
            Err(Problem::Crash) => return Ok(reply::internal_error()),
            Err(problem) => {
                problems.insert(index.to_string(), reply::details(&problem));
            }
        }
    }
    body.push_str("]}");
    if !problems.is_empty() {
        return Ok(reply::invalid(Value::Object(problems)));
    }
    if insertable == Insertable::No {
        return Ok(reply::internal_error());
    }
    let on_duplicate =
        if config.legacy_partial_batch { OnDuplicate::KeepOthers } else { OnDuplicate::RefuseAll };
    Ok(match insert(call, rows, on_duplicate)? {
        Inserted::All => Reply::json(200, body),
        Inserted::Duplicates(indexes) => {
            let details = indexes.into_iter().map(|index| (index.to_string(), reply::duplicate_details()));
            reply::invalid(Value::Object(details.collect()))
        }
    })
}

fn read(call: &Call<'_>, fields: Map<String, Value>, presence: Presence) -> Result<event::Checked, Problem> {
    let received = time::micros_of(call.arrival.at);
    event::read(fields, call.settings.config.store, presence, received, &call.settings.catalog)
}

/// Makes the row and appends what the answer will say about it.
fn prepare(call: &Call<'_>, event: event::Event, raw: &str, answer: &mut String) -> Row {
    let config = &call.settings.config;
    let number = call.app.next_id();
    let lago_id = match config.store {
        Store::Postgres => app::uuid(number),
        Store::ClickHouse => format!("ch{number}"),
    };
    let identity = match config.store {
        Store::Postgres => Identity::Row { id: &lago_id, created: time::micros_of(call.arrival.at) },
        Store::ClickHouse => Identity::None,
    };
    reply::push_event(answer, &event, identity);
    let key = call.app.keys.of(&event, config.store);
    let raw = if config.keep_events { raw.as_bytes().to_vec() } else { Vec::new() };
    Row { event, lago_id, raw, key }
}

fn insert(call: &Call<'_>, rows: Vec<Row>, on_duplicate: OnDuplicate) -> Result<Inserted, Stopped> {
    let config = &call.settings.config;
    let keep = if config.keep_events { Keep::Everything } else { Keep::Counters };
    let repeated = match config.store {
        Store::Postgres => store::repeated_within(&rows),
        Store::ClickHouse => Vec::new(),
    };
    let mut state = lock(&call.app.state);
    if state.generation != call.generation {
        return Err(Stopped);
    }
    Ok(match config.store {
        Store::Postgres => state.insert_unique(rows, &repeated, on_duplicate, keep, call.arrival),
        Store::ClickHouse => {
            state.append(rows, keep, call.arrival);
            Inserted::All
        }
    })
}

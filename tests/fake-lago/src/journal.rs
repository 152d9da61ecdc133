//! What survives `kill -9`: a file with one line for each request, appended before its answer goes out.
//!
//! A line is a JSON array of effects, in the order in which they happened; each says all there is to know, so
//! that reading the file back needs no rule of Lago's. A last line that was not finished has had no answer,
//! and is cut off.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use crate::catalog::{Aggregation, Metric};
use crate::event::Event;
use crate::objects::Kind;
use crate::sent::Name;
use crate::store::{Arrival, RequestLog};

/// One effect, as it is told to the file and as the file tells it.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// An accepted event.
    Event {
        event: Event,
        lago_id: String,
        raw: Vec<u8>,
        arrival: Arrival,
    },
    /// An object as it is now, whether it is new or changed; without fields it was deleted.
    Object {
        kind: Kind,
        index: usize,
        fields: Option<Map<String, Value>>,
        defined: Option<Map<String, Value>>,
    },
    /// A metric a test has defined, which can say more than its object.
    Metric(Metric),
    /// A text that had not been sent before under its name.
    Sent {
        name: Name,
        body: Vec<u8>,
    },
    Request(RequestLog),
    /// The accepted events with this transaction id were deleted.
    Deleted {
        transaction_id: String,
    },
    /// The events at these positions were lost.
    Lost {
        positions: Vec<usize>,
    },
    /// Another event was put at this position.
    Altered {
        position: usize,
        event: Event,
    },
    /// Everything that came in before was forgotten.
    Reset,
}

#[derive(Debug, Default)]
pub struct Journal {
    file: Option<File>,
    pending: Vec<Effect>,
}

impl Journal {
    /// Opens or makes the file, and reads what is in it.
    pub fn open(path: &Path) -> io::Result<(Journal, Vec<Effect>)> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole < bytes.len() {
            file.set_len(u64::try_from(whole).unwrap_or(u64::MAX))?;
        }
        let mut effects = Vec::new();
        for (number, line) in bytes[..whole].split(|byte| *byte == b'\n').enumerate() {
            if !line.is_empty() {
                let wrong = |what: &str| {
                    let text = format!("line {} of {}: {what}", number + 1, path.display());
                    io::Error::new(io::ErrorKind::InvalidData, text)
                };
                let values: Vec<Value> = serde_json::from_slice(line).map_err(|e| wrong(&e.to_string()))?;
                for value in &values {
                    effects.push(read(value).ok_or_else(|| wrong("not an effect"))?);
                }
            }
        }
        Ok((Journal { file: Some(file), pending: Vec::new() }, effects))
    }

    /// Whether there is a file: what is not written need not be told.
    pub fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    pub fn tell(&mut self, effect: impl FnOnce() -> Effect) {
        if self.is_kept() {
            self.pending.push(effect());
        }
    }

    /// Appends what was told since the last line. One write: a process that is killed leaves a whole line, or
    /// one without its end.
    pub fn write(&mut self) -> io::Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| !self.pending.is_empty()) else { return Ok(()) };
        let values: Vec<Value> = self.pending.drain(..).map(|effect| written(&effect)).collect();
        let mut line = Value::Array(values).to_string();
        line.push('\n');
        file.write_all(line.as_bytes())
    }
}

fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn text(body: &[u8]) -> Value {
    Value::String(String::from_utf8_lossy(body).into_owned())
}

fn written(effect: &Effect) -> Value {
    match effect {
        Effect::Event { event, lago_id, raw, arrival } => json!({"event": {
            "lago_id": lago_id,
            "transaction_id": event.transaction_id,
            "external_subscription_id": event.external_subscription_id,
            "code": event.code,
            "timestamp": event.timestamp.to_string(),
            "precise_total_amount_cents": event.precise_total_amount_cents,
            "properties": event.properties,
            "raw": text(raw),
            "at": micros(arrival.at),
            "request": arrival.request,
        }}),
        Effect::Object { kind, index, fields, defined } => {
            json!({"object": {"kind": kind.name(), "index": index, "fields": fields, "defined": defined}})
        }
        Effect::Metric(metric) => json!({"metric": {
            "code": metric.code,
            "aggregation": metric.aggregation.name(),
            "field_name": metric.field_name,
            "expression_variables": metric.expression_variables,
        }}),
        Effect::Sent { name: Name::Event { transaction_id, subscription }, body } => {
            json!({"sent": {"event": transaction_id, "subscription": subscription, "body": text(body)}})
        }
        Effect::Sent { name: Name::Object { call, name }, body } => {
            json!({"sent": {"call": call, "name": name, "body": text(body)}})
        }
        Effect::Request(request) => json!({"request": {
            "number": request.number,
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "content_type": request.content_type,
            "accept": request.accept,
            "headers": request.headers.iter().map(|(name, value)| json!([name, value])).collect::<Vec<_>>(),
            "body": request.body,
            "status": request.status,
            "events": request.events,
            "body_bytes": request.body_bytes,
            "user_agent": request.user_agent,
            "faulted": request.faulted,
            "at": micros(request.at),
        }}),
        Effect::Deleted { transaction_id } => json!({"deleted": transaction_id}),
        Effect::Lost { positions } => json!({"lost": positions}),
        Effect::Altered { position, event } => json!({"altered": {
            "position": position,
            "transaction_id": event.transaction_id,
            "external_subscription_id": event.external_subscription_id,
            "code": event.code,
            "timestamp": event.timestamp.to_string(),
            "precise_total_amount_cents": event.precise_total_amount_cents,
            "properties": event.properties,
        }}),
        Effect::Reset => json!({"reset": true}),
    }
}

fn read(value: &Value) -> Option<Effect> {
    let (name, value) = value.as_object()?.iter().next()?;
    let owned = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let size = |name: &str| number(name).and_then(|number| usize::try_from(number).ok());
    let at = || Some(SystemTime::UNIX_EPOCH + Duration::from_micros(number("at")?));
    let object = |name: &str| value.get(name).and_then(Value::as_object).cloned();
    let event = || {
        Some(Event {
            transaction_id: owned("transaction_id"),
            external_subscription_id: owned("external_subscription_id"),
            code: owned("code"),
            timestamp: owned("timestamp")?.parse().ok()?,
            precise_total_amount_cents: owned("precise_total_amount_cents"),
            properties: object("properties")?,
        })
    };
    Some(match name.as_str() {
        "event" => Effect::Event {
            event: event()?,
            lago_id: owned("lago_id")?,
            raw: owned("raw")?.into_bytes(),
            arrival: Arrival { at: at()?, request: number("request")? },
        },
        "object" => Effect::Object {
            kind: Kind::from_name(&owned("kind")?)?,
            index: size("index")?,
            fields: object("fields"),
            defined: object("defined"),
        },
        "metric" => Effect::Metric(Metric {
            code: owned("code")?,
            aggregation: Aggregation::from_name(&owned("aggregation")?)?,
            field_name: owned("field_name"),
            expression_variables: texts(value.get("expression_variables")?)?,
        }),
        "sent" => {
            let name = match owned("event") {
                Some(transaction_id) => Name::Event { transaction_id, subscription: owned("subscription") },
                None => Name::Object { call: owned("call")?, name: owned("name")? },
            };
            Effect::Sent { name, body: owned("body")?.into_bytes() }
        }
        "request" => Effect::Request(RequestLog {
            number: number("number")?,
            method: owned("method")?,
            path: owned("path")?,
            query: owned("query")?,
            content_type: owned("content_type"),
            accept: owned("accept"),
            headers: value.get("headers")?.as_array()?.iter().map(pair).collect::<Option<_>>()?,
            body: owned("body"),
            status: number("status").and_then(|status| u16::try_from(status).ok()),
            events: size("events")?,
            body_bytes: size("body_bytes")?,
            user_agent: owned("user_agent"),
            faulted: value.get("faulted")?.as_bool()?,
            at: at()?,
        }),
        "deleted" => Effect::Deleted { transaction_id: value.as_str()?.to_owned() },
        "lost" => {
            let positions = value.as_array()?.iter();
            let position = |value: &Value| usize::try_from(value.as_u64()?).ok();
            Effect::Lost { positions: positions.map(position).collect::<Option<_>>()? }
        }
        "altered" => Effect::Altered { position: size("position")?, event: event()? },
        "reset" => Effect::Reset,
        _ => return None,
    })
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

fn pair(value: &Value) -> Option<(String, String)> {
    let [name, value] = <[String; 2]>::try_from(texts(value)?).ok()?;
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects() -> Vec<Effect> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        let fields = || Map::from_iter([("lago_id".to_owned(), json!("1"))]);
        let name = Name::Event { transaction_id: "t".to_owned(), subscription: None };
        vec![
            Effect::Event {
                event: Event {
                    transaction_id: Some("t".to_owned()),
                    external_subscription_id: None,
                    code: Some("c".to_owned()),
                    timestamp: -1_710_421_740_123_456,
                    precise_total_amount_cents: None,
                    properties: fields(),
                },
                lago_id: "ch1".to_owned(),
                raw: b"{ \"a\": 1.10 }".to_vec(),
                arrival: Arrival { at, request: 3 },
            },
            Effect::Object { kind: Kind::Plan, index: 2, fields: Some(fields()), defined: None },
            Effect::Metric(Metric::sum("m", "n").with_expression_over(&["a"])),
            Effect::Sent { name, body: b"x\ny".to_vec() },
            Effect::Request(RequestLog {
                number: 3,
                method: "POST".to_owned(),
                path: "/api/v1/plans".to_owned(),
                status: None,
                query: String::new(),
                content_type: None,
                accept: Some("a".to_owned()),
                headers: vec![("X".to_owned(), "y".to_owned())],
                body: None,
                events: 1,
                body_bytes: 2,
                user_agent: None,
                faulted: true,
                at,
            }),
            Effect::Deleted { transaction_id: "t".to_owned() },
            Effect::Lost { positions: vec![0, 7] },
            Effect::Altered {
                position: 7,
                event: Event {
                    transaction_id: Some("t".to_owned()),
                    external_subscription_id: Some("s".to_owned()),
                    code: Some("c".to_owned()),
                    timestamp: 5,
                    precise_total_amount_cents: Some("1".to_owned()),
                    properties: fields(),
                },
            },
            Effect::Reset,
        ]
    }

    #[test]
    fn every_effect_is_read_as_it_was_written() {
        for effect in effects() {
            let text = written(&effect).to_string();
            assert!(!text.contains('\n'), "{text}");
            let value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(read(&value), Some(effect), "{text}");
        }
    }

    #[test]
    fn a_line_that_was_not_finished_is_cut_off_and_the_next_begins_anew() {
        let path = std::env::temp_dir().join(format!("fake-lago-journal-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let reset = || Effect::Reset;
        let (mut journal, read) = Journal::open(&path).expect("a file");
        assert!(read.is_empty());
        journal.tell(reset);
        journal.write().expect("written");
        let mut file = OpenOptions::new().append(true).open(&path).expect("a file");
        file.write_all(b"[{\"reset\":true},{\"del").expect("written");
        let (mut journal, read) = Journal::open(&path).expect("a file");
        assert_eq!(read, [Effect::Reset]);
        journal.tell(|| Effect::Deleted { transaction_id: "t".to_owned() });
        journal.write().expect("written");
        let (_, read) = Journal::open(&path).expect("a file");
        assert_eq!(read.len(), 2);
        std::fs::write(&path, "[{\"what\":1}]\n").expect("written");
        let error = Journal::open(&path).expect_err("refused");
        assert!(error.to_string().starts_with("line 1 of"), "{error}");
        let _ = std::fs::remove_file(&path);
    }
}

//! What a handler works with: the organization's objects, the time of the request, new ids.

use serde_json::Value;

use super::kind::Kind;
use super::table::{At, Fields, Objects};
use crate::app::App;
use crate::config::License;
use crate::reply::Reply;
use crate::time::{self, Fraction};

/// The object an endpoint answers with, or its refusal.
pub type Outcome = Result<Value, Reply>;

/// Who adds objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Request,
    /// A test, by definition: a reset keeps these.
    Definition,
}

pub struct Books<'a> {
    pub origin: Origin,
    pub objects: &'a mut Objects,
    pub app: &'a App,
    pub license: License,
    /// Microseconds since 1970.
    pub now: i128,
}

impl Books<'_> {
    /// The present as dates are printed.
    pub fn stamp(&self) -> Value {
        stamp(self.now)
    }

    /// Adds an object under a new id.
    pub fn add(&mut self, kind: Kind, fields: Fields) -> At {
        let mut object = Fields::from_iter([("lago_id".to_owned(), Value::String(self.app.next_uuid()))]);
        object.extend(fields);
        object.insert("created_at".to_owned(), self.stamp());
        let at = self.objects.insert(kind, object);
        if self.origin == Origin::Definition {
            self.objects.keep(at);
        }
        at
    }

    pub fn value(&self, at: At) -> Value {
        self.objects.value(at)
    }

    /// The text of an object's field; empty if there is none.
    pub fn text(&self, at: At, name: &str) -> String {
        self.objects.get(at).map(|fields| super::table::text(fields, name).to_owned()).unwrap_or_default()
    }

    pub fn field(&self, at: At, name: &str) -> Value {
        self.objects.get(at).and_then(|fields| fields.get(name)).cloned().unwrap_or_default()
    }
}

pub fn stamp(micros: i128) -> Value {
    Value::String(time::iso(micros, Fraction::Millis))
}

/// Inserts what the object does not say itself.
pub fn complete(fields: &mut Fields, defaults: impl IntoIterator<Item = (&'static str, Value)>) {
    for (name, value) in defaults {
        if fields.get(name).is_none_or(Value::is_null) {
            fields.insert(name.to_owned(), value);
        }
    }
}

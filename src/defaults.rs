//! Defaults: the keys lago_push gives a payload whose template or mapper leaves them out.
//!
//! Between recipe and outbox. They are made at capture and frozen with the rest, so that a retry bills
//! nothing twice. Promises that an id made here is another one for every change of a row.

use crate::buffer::Operation;
use crate::endpoint::Supplied;
use crate::identity::{Identity, push_part};
use crate::json;
use crate::liquid::CLOCK;
use crate::lookup::MARK;
use crate::pg::{encoding, xact};
use crate::render::{Bound, Column, RowView};
use serde_json::Value;
use std::io::Write;

/// Where a row comes from, as far as what is made for it depends on that.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// It has just been changed.
    Change,
    /// Somebody looks at what would be sent.
    Look,
    /// It has been there, and may have been captured when it was written.
    Existing,
    /// A run of a query has found it new, changed or gone.
    Run { number: i64 },
    /// A dead letter keeps it, since then.
    Letter { id: i64, unix_micros: i64 },
}

/// What is known of a table's primary key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrimaryKey {
    None,
    /// The sync may not see this column of it, and nobody is to learn of it from an id either.
    Excludes(String),
    /// Its columns, in its own order.
    Of(Vec<String>),
    /// The rows are a query's, and these tell them apart: one may leave and come back, which is something new.
    OfQuery(Vec<String>),
}

impl PrimaryKey {
    /// Why no id can be made of it.
    pub fn lack(&self) -> Option<String> {
        match self {
            PrimaryKey::None => Some("the table has no primary key to make one of".into()),
            PrimaryKey::Excludes(column) => {
                Some(format!("column \"{column}\" of the primary key is excluded, so none can be made of it"))
            }
            PrimaryKey::Of(_) | PrimaryKey::OfQuery(_) => None,
        }
    }
}

pub struct Defaults {
    supplied: Vec<Supplied>,
    name: Result<RowName, String>,
}

/// What the id of a row is made of.
struct RowName {
    identity: Identity,
    key: Vec<Bound>,
    versioned: Versioned,
}

/// Which of a row's changes may happen again, so that the key does not tell them apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Versioned {
    Updates,
    All,
}

impl Defaults {
    /// `supplied` are the keys that may have to be made.
    pub fn new(supplied: Vec<Supplied>, sync: &str, key: &PrimaryKey, columns: &[Column]) -> Defaults {
        let named = |name: &String| columns.iter().find(|column| column.name == *name).map(Bound::new);
        let name = match (key, key.lack()) {
            (PrimaryKey::Of(names) | PrimaryKey::OfQuery(names), None) => Ok(RowName {
                identity: Identity::new(&encoding::to_server(sync)),
                key: names.iter().filter_map(named).collect(),
                versioned: match key {
                    PrimaryKey::OfQuery(_) => Versioned::All,
                    _ => Versioned::Updates,
                },
            }),
            (_, lack) => Err(lack.unwrap_or_default()),
        };
        Defaults { supplied, name }
    }

    /// The columns that what may have to be made is made of.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let needs_name = self.supplied.iter().any(|supplied| *supplied != Supplied::Time);
        let key = self.name.as_ref().ok().filter(|_| needs_name).map_or(&[][..], |name| &name.key);
        key.iter().map(Bound::name)
    }

    /// Adds every key to a payload that is known to have none of them.
    pub fn add(&self, view: &RowView<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        self.supplied.iter().try_for_each(|supplied| self.add_one(*supplied, view, out).map(|_| ()))
    }

    /// Adds the keys that a payload lacks. `value` is the payload read, and gets them too.
    pub fn complete(&self, value: &mut Value, view: &RowView<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        let Value::Object(members) = value else { return Ok(()) };
        for supplied in &self.supplied {
            let key = supplied.key();
            if members.contains_key(key) {
                continue;
            }
            if let Some(added) = self.add_one(*supplied, view, out)? {
                members.insert(key.to_owned(), added_value(out, added));
            }
        }
        Ok(())
    }

    /// Adds one key at the end of the payload; says where its value stands, if it could be made.
    fn add_one(
        &self,
        supplied: Supplied,
        view: &RowView<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Option<std::ops::Range<usize>>, String> {
        if let (Supplied::Label, Err(_)) = (supplied, &self.name) {
            return Ok(None);
        }
        let blank = out.iter().rev().take_while(|byte| byte.is_ascii_whitespace()).count();
        out.truncate(out.len() - blank);
        // Only an object can be added to; what is none, the check of the payload tells.
        if out.pop_if(|byte| *byte == b'}').is_none() {
            return Ok(None);
        }
        if !out.trim_ascii_end().ends_with(b"{") {
            out.push(b',');
        }
        json::push_string(out, supplied.key().as_bytes());
        out.push(b':');
        let from = out.len();
        match supplied {
            Supplied::Time if matches!(view.origin, Origin::Existing) => {
                return Err(format!("the payload has no \"{}\": {CLOCK}", supplied.key()));
            }
            Supplied::Identity => {
                out.push(b'"');
                self.push_identity(view, out)?;
                out.push(b'"');
            }
            Supplied::Time => json::push_unix_seconds(
                out,
                match view.origin {
                    Origin::Change | Origin::Look | Origin::Existing | Origin::Run { .. } => {
                        xact::began_unix_micros()
                    }
                    Origin::Letter { unix_micros, .. } => unix_micros,
                },
            ),
            Supplied::Label => {
                out.extend_from_slice(b"[{\"key\":");
                json::push_string(out, MARK.as_bytes());
                out.extend_from_slice(b",\"value\":\"");
                self.push_identity(view, out)?;
                out.extend_from_slice(b"\"}]");
            }
        }
        let to = out.len();
        out.push(b'}');
        Ok(Some(from..to))
    }

    fn push_identity(&self, view: &RowView<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        let RowName { identity, key, versioned } = self
            .name
            .as_ref()
            .map_err(|lack| format!("the payload has no \"transaction_id\", and {lack}"))?;
        identity.push(view.operation, out, |out| {
            for column in key {
                push_part(out, |out| match column.write_in_string(view.row, out) {
                    Some(written) => written,
                    None => Err(format!("column \"{}\" of the primary key is null", column.name())),
                })?;
            }
            match (view.operation, versioned) {
                (Operation::Update, _) | (_, Versioned::All) => push_part(out, |out| push_version(view, out)),
                (Operation::Insert | Operation::Delete, Versioned::Updates) => Ok(()),
            }
        })
    }
}

/// Tells the updates of a row apart. The command tells those of one transaction, and its id those of
/// several; the time is there for a database restored elsewhere, where ids begin anew.
fn push_version(view: &RowView<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    // Writing into a Vec cannot fail.
    let _ = match view.origin {
        Origin::Change => {
            let command = view.row.command().ok_or(
                "the payload has no \"transaction_id\", and the table's storage does not tell one update of a row from another",
            )?;
            write!(out, "{:x}-{command:x}-{:x}", xact::top_id(), xact::began_unix_micros())
        }
        Origin::Look | Origin::Existing => write!(out, "look-{:x}", xact::began_unix_micros()),
        // One that did not end has left nothing, and the one after it has its number.
        Origin::Run { number } => write!(out, "{number}"),
        Origin::Letter { id, .. } => write!(out, "letter-{id}"),
    };
    Ok(())
}

fn added_value(out: &[u8], added: std::ops::Range<usize>) -> Value {
    out.get(added).and_then(|written| encoding::json_from_server(written).ok()).unwrap_or(Value::Null)
}

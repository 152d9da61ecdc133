//! Values while a template runs, and how they are read, compared and written.
//!
//! A value borrows from the row and the template wherever it can. Writing is the end of the journey
//! through this module's neighbours, and where injection is made impossible: in a string everything
//! is escaped text, in value position everything is one JSON value.
#![forbid(unsafe_code)]

use super::number::{Impossible, Number};
use super::run::Rendering;
use super::{Reason, Side};
use crate::json;
use crate::template::Place;
use serde_json::Value as Json;
use std::cmp::Ordering;
use std::ops::Deref;
use std::rc::Rc;

#[derive(Clone, Debug)]
pub enum Value<'r> {
    Nil,
    Bool(bool),
    Number(Number),
    /// `NaN` or an infinity, by its name in PostgreSQL: text has it, JSON has no such number.
    NotFinite(&'static str),
    Text(Text<'r>),
    Moment(&'r Moment),
    /// An array or an object out of a `json(b)` column.
    Json(&'r Json),
    List(Rc<Vec<Value<'r>>>),
    /// All integers between two, both included.
    Range(i64, i64),
    /// A whole row.
    Side(Side),
    /// What `forloop` says.
    Loop(Rc<LoopState>),
    /// The words `empty` and `blank`, which are only good for comparing.
    Empty,
    Blank,
}

/// A point in time.
#[derive(Debug)]
pub struct Moment {
    pub iso: String,
    pub unix_micros: i64,
}

/// How far a loop has come.
#[derive(Debug)]
pub struct LoopState {
    pub index: usize,
    pub length: usize,
    pub parent: Option<Rc<LoopState>>,
}

#[derive(Clone, Debug)]
pub enum Text<'r> {
    Borrowed(&'r str),
    Made(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Made(text) => text,
        }
    }
}

/// How a moment is written when it stands alone in a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    Iso,
    UnixSeconds,
}

/// Why a number out of a row cannot be used.
pub const TOO_LARGE: &str = "a number is too large";

/// The longest text or JSON number that is read as a number. It would be read again at every use,
/// which takes the square of its length; a `numeric` column is read once and may be longer.
const LONGEST_NUMBER_TEXT: usize = 1000;

impl<'r> Value<'r> {
    pub fn made(text: String) -> Value<'r> {
        Value::Text(Text::Made(text.into()))
    }

    pub fn integer(value: usize) -> Value<'r> {
        Value::Number(Number::Integer(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    pub fn from_json(json: &'r Json) -> Result<Value<'r>, Reason> {
        Ok(match json {
            Json::Null => Value::Nil,
            Json::Bool(value) => Value::Bool(*value),
            Json::String(text) => Value::Text(Text::Borrowed(text)),
            Json::Number(number) => match number.as_i64() {
                Some(integer) => Value::Number(Number::Integer(integer)),
                None => match parse(number.as_str()) {
                    Some(Ok(number)) => Value::Number(number),
                    _ => return Err(TOO_LARGE.into()),
                },
            },
            Json::Array(_) | Json::Object(_) => Value::Json(json),
        })
    }

    /// As a condition sees it: only nil and false are not true.
    pub fn is_true(&self) -> bool {
        !matches!(self, Value::Nil | Value::Bool(false))
    }

    /// What the filter `default` replaces.
    pub fn is_empty(&self) -> bool {
        match self {
            Value::Text(text) => text.is_empty(),
            Value::Json(Json::Array(items)) => items.is_empty(),
            Value::Json(Json::Object(members)) => members.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Range(from, to) => from > to,
            _ => false,
        }
    }

    fn is_blank(&self) -> bool {
        match self {
            Value::Nil | Value::Bool(false) => true,
            Value::Text(text) => text.trim().is_empty(),
            other => other.is_empty(),
        }
    }

    /// The number this is or looks like.
    pub fn as_number(&self) -> Option<Result<Number, Impossible>> {
        match self {
            Value::Number(number) => Some(Ok(number.clone())),
            Value::Text(text) => parse(text),
            _ => None,
        }
    }

    /// How many items a loop finds in this value; text is one item, as in Liquid.
    pub fn length(&self, rendering: &'r Rendering<'_>) -> usize {
        match self {
            Value::Json(Json::Array(items)) => items.len(),
            Value::Json(Json::Object(members)) => members.len(),
            Value::List(items) => items.len(),
            Value::Range(from, to) if from <= to => {
                usize::try_from(to.abs_diff(*from)).unwrap_or(usize::MAX).saturating_add(1)
            }
            Value::Side(side) => rendering.columns(*side).len(),
            Value::Text(text) => usize::from(!text.is_empty()),
            _ => 0,
        }
    }

    /// The item at a place within [`Value::length`]; an object's items are pairs of name and value.
    pub fn item(&self, at: usize, rendering: &'r Rendering<'_>) -> Result<Value<'r>, Reason> {
        let pair = |name, value| Value::List(Rc::new(vec![name, value]));
        Ok(match self {
            Value::Json(Json::Array(items)) => items.get(at).map_or(Ok(Value::Nil), Value::from_json)?,
            Value::Json(Json::Object(members)) => {
                // This walks; who needs all pairs asks for Value::pairs.
                rendering.step(at as u64 / 64)?;
                match members.iter().nth(at) {
                    Some((name, value)) => pair(Value::Text(Text::Borrowed(name)), Value::from_json(value)?),
                    None => Value::Nil,
                }
            }
            Value::List(items) => items.get(at).cloned().unwrap_or(Value::Nil),
            Value::Range(from, _) => {
                let integer = i64::try_from(at).ok().and_then(|at| from.checked_add(at));
                integer.map_or(Value::Nil, |integer| Value::Number(Number::Integer(integer)))
            }
            Value::Side(side) => match rendering.columns(*side).get(at) {
                Some(name) => pair(Value::Text(Text::Borrowed(name)), rendering.column(*side, name)?),
                None => Value::Nil,
            },
            Value::Text(_) if at == 0 => self.clone(),
            _ => Value::Nil,
        })
    }

    /// An object as the list of its pairs, anything else as it is.
    pub fn pairs(self, rendering: &'r Rendering<'_>) -> Result<Value<'r>, Reason> {
        let Value::Json(Json::Object(members)) = self else {
            return Ok(self);
        };
        rendering.step(members.len() as u64)?;
        let pair = |(name, value): (&'r String, &'r Json)| {
            let name = Value::Text(Text::Borrowed(name));
            Ok(Value::List(Rc::new(vec![name, Value::from_json(value)?])))
        };
        Ok(Value::List(Rc::new(members.iter().map(pair).collect::<Result<_, Reason>>()?)))
    }

    /// What stands under a name or index. Whatever is not there is nil.
    pub fn member(&self, key: &Value<'r>, rendering: &'r Rendering<'_>) -> Result<Value<'r>, Reason> {
        match key {
            Value::Number(number) => match number.as_index() {
                Some(index) => self.at(index, rendering),
                None => Ok(Value::Nil),
            },
            Value::Text(name) => self.named(name, rendering),
            _ => Ok(Value::Nil),
        }
    }

    /// The item at an index; negative ones count from the end.
    pub fn at(&self, index: i64, rendering: &'r Rendering<'_>) -> Result<Value<'r>, Reason> {
        match self {
            Value::Json(Json::Object(_)) | Value::Side(_) => self.named(&index.to_string(), rendering),
            Value::Text(_) => Ok(Value::Nil),
            _ => {
                let length = self.length(rendering);
                let place = match usize::try_from(index) {
                    Ok(place) => Some(place),
                    Err(_) => {
                        usize::try_from(index.unsigned_abs()).ok().and_then(|back| length.checked_sub(back))
                    }
                };
                match place {
                    Some(place) if place < length => self.item(place, rendering),
                    _ => Ok(Value::Nil),
                }
            }
        }
    }

    pub fn named(&self, name: &str, rendering: &'r Rendering<'_>) -> Result<Value<'r>, Reason> {
        match self {
            Value::Json(Json::Object(members)) => {
                if let Some(found) = members.get(name) {
                    return Value::from_json(found);
                }
            }
            Value::Side(side) => return rendering.column(*side, name),
            Value::Loop(state) => return Ok(state.named(name)),
            Value::Text(text) if name == "size" => {
                rendering.step(text.len() as u64 / 1024)?;
                return Ok(Value::integer(text.chars().count()));
            }
            Value::Text(_) => return Ok(Value::Nil),
            _ => {}
        }
        match name {
            "size" if self.is_collection() => Ok(Value::integer(self.length(rendering))),
            "first" => self.item(0, rendering),
            "last" => match self.length(rendering).checked_sub(1) {
                Some(last) => self.item(last, rendering),
                None => Ok(Value::Nil),
            },
            _ => match name.parse() {
                Ok(index) if !matches!(self, Value::Json(Json::Object(_))) => self.at(index, rendering),
                _ => Ok(Value::Nil),
            },
        }
    }

    pub fn is_collection(&self) -> bool {
        matches!(self, Value::Json(_) | Value::List(_) | Value::Range(..) | Value::Side(_))
    }

    pub fn equals(&self, other: &Value<'r>, rendering: &'r Rendering<'_>) -> Result<bool, Reason> {
        Ok(match (self, other) {
            (Value::Nil, Value::Nil) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Number(a), Value::Number(b)) => a.compare(b) == Ordering::Equal,
            (Value::Text(a), Value::Text(b)) => **a == **b,
            (Value::NotFinite(a), Value::NotFinite(b)) => a == b && *a != "NaN",
            (Value::Moment(a), Value::Moment(b)) => a.unix_micros == b.unix_micros,
            (Value::Moment(moment), Value::Text(text)) | (Value::Text(text), Value::Moment(moment)) => {
                moment.iso == **text
            }
            (Value::Empty, value) | (value, Value::Empty) => value.is_empty(),
            (Value::Blank, value) | (value, Value::Blank) => value.is_blank(),
            (a, b) if a.is_collection() && b.is_collection() => a.same_items(b, rendering)?,
            _ => false,
        })
    }

    fn same_items(&self, other: &Value<'r>, rendering: &'r Rendering<'_>) -> Result<bool, Reason> {
        let is_object = |value: &Value<'_>| matches!(value, Value::Json(Json::Object(_)) | Value::Side(_));
        let length = self.length(rendering);
        if length != other.length(rendering) || is_object(self) != is_object(other) {
            return Ok(false);
        }
        for at in 0..length {
            rendering.step(1)?;
            if !self.item(at, rendering)?.equals(&other.item(at, rendering)?, rendering)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The order of two values, if they have one. Text that looks like a number has its place among
    /// numbers, so that the text of `date: "%s"` can be compared.
    pub fn order(&self, other: &Value<'r>) -> Option<Ordering> {
        match (self, other) {
            (Value::Text(a), Value::Text(b)) => Some((**a).cmp(&**b)),
            (Value::Moment(a), Value::Moment(b)) => Some(a.unix_micros.cmp(&b.unix_micros)),
            (Value::Moment(a), Value::Text(b)) => Some(a.iso.as_str().cmp(b)),
            (Value::Text(a), Value::Moment(b)) => Some((**a).cmp(b.iso.as_str())),
            (Value::Number(_), _) | (_, Value::Number(_)) => {
                Some(self.as_number()?.ok()?.compare(&other.as_number()?.ok()?))
            }
            _ => None,
        }
    }

    pub fn contains(&self, wanted: &Value<'r>, rendering: &'r Rendering<'_>) -> Result<bool, Reason> {
        match self {
            Value::Nil => Ok(false),
            Value::Text(text) => {
                Ok(!matches!(wanted, Value::Nil) && text.contains(&*wanted.text(rendering)?))
            }
            Value::Json(Json::Object(members)) => Ok(members.contains_key(&*wanted.text(rendering)?)),
            Value::Side(side) => {
                let wanted = wanted.text(rendering)?;
                Ok(rendering.columns(*side).iter().any(|name| **name == *wanted))
            }
            Value::Json(_) | Value::List(_) | Value::Range(..) => {
                for at in 0..self.length(rendering) {
                    rendering.step(1)?;
                    if self.item(at, rendering)?.equals(wanted, rendering)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// The value as text: nothing for nil, plain digits for numbers, JSON for arrays and objects.
    pub fn text(&self, rendering: &'r Rendering<'_>) -> Result<Text<'r>, Reason> {
        Ok(match self {
            Value::Text(text) => text.clone(),
            Value::Nil | Value::Empty | Value::Blank => Text::Borrowed(""),
            Value::Bool(true) => Text::Borrowed("true"),
            Value::Bool(false) => Text::Borrowed("false"),
            Value::NotFinite(name) => Text::Borrowed(name),
            Value::Moment(moment) => Text::Borrowed(&moment.iso),
            Value::Number(number) => {
                let mut text = String::new();
                number.print(&mut text);
                rendering.step(number.weight() / 16)?;
                Text::Made(text.into())
            }
            Value::Range(from, to) => Text::Made(format!("{from}..{to}").into()),
            Value::Json(_) | Value::List(_) | Value::Side(_) | Value::Loop(_) => {
                let mut json = Vec::new();
                self.write_value(rendering, &mut json)?;
                // The JSON was made from text.
                Text::Made(String::from_utf8_lossy(&json).into())
            }
        })
    }

    /// Appends the value as its place demands.
    pub fn write(
        &self,
        place: Place,
        times: Times,
        rendering: &'r Rendering<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Reason> {
        if let (Value::Moment(moment), Times::UnixSeconds) = (self, times) {
            json::push_unix_seconds(out, moment.unix_micros);
            return Ok(());
        }
        match place {
            Place::InString => {
                push_escaped(out, &self.text(rendering)?);
                Ok(())
            }
            Place::Value => self.write_value(rendering, out),
        }
    }

    fn write_value(&self, rendering: &'r Rendering<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
        rendering.step(1)?;
        match self {
            Value::Nil | Value::Empty | Value::Blank => out.extend_from_slice(b"null"),
            Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Value::Number(_) => out.extend_from_slice(self.text(rendering)?.as_bytes()),
            Value::NotFinite(_) => {
                return Err("a value is infinite or not a number, which JSON cannot carry".into());
            }
            Value::Text(_) | Value::Moment(_) => push_string(out, &self.text(rendering)?),
            Value::Json(json) => write_json(json, rendering, out)?,
            Value::List(_) | Value::Range(..) => {
                out.push(b'[');
                for at in 0..self.length(rendering) {
                    if at > 0 {
                        out.push(b',');
                    }
                    self.item(at, rendering)?.write_value(rendering, out)?;
                    rendering.check_size(out.len())?;
                }
                out.push(b']');
            }
            Value::Side(side) => {
                out.push(b'{');
                for (at, name) in rendering.columns(*side).iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    push_string(out, name);
                    out.push(b':');
                    rendering.column(*side, name)?.write_value(rendering, out)?;
                    rendering.check_size(out.len())?;
                }
                out.push(b'}');
            }
            Value::Loop(state) => {
                out.push(b'{');
                for (at, name) in LOOP_NAMES.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    push_string(out, name);
                    out.push(b':');
                    state.named(name).write_value(rendering, out)?;
                }
                out.push(b'}');
            }
        }
        Ok(())
    }
}

fn parse(text: &str) -> Option<Result<Number, Impossible>> {
    if text.len() > LONGEST_NUMBER_TEXT {
        return text
            .starts_with(|c: char| c == '-' || c.is_ascii_digit())
            .then_some(Err(Impossible::TooLarge));
    }
    Number::parse(text)
}

const LOOP_NAMES: &[&str] = &["index", "index0", "rindex", "rindex0", "first", "last", "length"];

impl LoopState {
    fn named<'r>(&self, name: &str) -> Value<'r> {
        match name {
            "index" => Value::integer(self.index.saturating_add(1)),
            "index0" => Value::integer(self.index),
            "rindex" => Value::integer(self.length.saturating_sub(self.index)),
            "rindex0" => Value::integer(self.length.saturating_sub(self.index).saturating_sub(1)),
            "first" => Value::Bool(self.index == 0),
            "last" => Value::Bool(self.index.saturating_add(1) == self.length),
            "length" => Value::integer(self.length),
            "parentloop" => self.parent.clone().map_or(Value::Nil, Value::Loop),
            _ => Value::Nil,
        }
    }
}

/// U+0000 is in no PostgreSQL text, but `json` can spell it, and Lago cannot store it.
fn push_escaped(out: &mut Vec<u8>, text: &str) {
    for part in text.split('\0') {
        json::push_escaped(out, part.as_bytes());
    }
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
}

fn write_json<'r>(json: &'r Json, rendering: &'r Rendering<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    rendering.step(1)?;
    match json {
        Json::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_json(item, rendering, out)?;
            }
            out.push(b']');
        }
        Json::Object(members) => {
            out.push(b'{');
            for (at, (name, value)) in members.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                push_string(out, name);
                out.push(b':');
                write_json(value, rendering, out)?;
            }
            out.push(b'}');
        }
        Json::Number(number) if !number.as_str().contains(['e', 'E']) => {
            out.extend_from_slice(number.as_str().as_bytes());
        }
        Json::String(text) => {
            rendering.step(text.len() as u64 / 1024)?;
            push_string(out, text);
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {
            Value::from_json(json)?.write_value(rendering, out)?
        }
    }
    rendering.check_size(out.len())
}

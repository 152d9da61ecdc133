//! Run: expressions and programs applied to one row.
//!
//! Last step of a template's journey. A row's columns are read when first asked for and once only,
//! through [`Row`]; steps are counted and sizes checked, so that every template ends.
#![forbid(unsafe_code)]

use super::number::{Impossible, Number};
use super::program::{Node, Target};
use super::syntax::{Chain, Comparison, Condition, Expression, Operand, Root, Step};
use super::value::{LoopState, Moment, TOO_LARGE, Text, Value};
use super::{Datum, Reason, Row, Side, filter};
use std::cell::{Cell, OnceCell};
use std::cmp::Ordering;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// Evaluations a template may take for one row; a step is also a few hundred bytes of text made, or
/// an item of an array. An everyday template takes tens.
const MOST_STEPS: u64 = 1_000_000;

/// The largest text, payload included, a template may make.
pub const MOST_BYTES: usize = 16 << 20;

/// One row being rendered: what has been read of it, and how many steps are left. Shared by all the
/// holes of a template.
pub struct Rendering<'row> {
    row: &'row dyn Row,
    first: OnceCell<Box<Read>>,
    row_columns: OnceCell<Vec<String>>,
    old_columns: OnceCell<Vec<String>>,
    steps_left: Cell<u64>,
}

/// A column that has been read, or what some steps into it led to. They form a list that only grows,
/// so that values can borrow from it; no longer than the template has paths.
struct Read {
    side: Side,
    name: String,
    steps: Vec<Step>,
    datum: Column,
    next: OnceCell<Box<Read>>,
}

enum Column {
    Null,
    Bool(bool),
    Number(Number),
    NotFinite(&'static str),
    Text(String),
    Moment(Moment),
    Json(serde_json::Value),
}

impl<'row> Rendering<'row> {
    pub fn new(row: &'row dyn Row) -> Rendering<'row> {
        Rendering {
            row,
            first: OnceCell::new(),
            row_columns: OnceCell::new(),
            old_columns: OnceCell::new(),
            steps_left: Cell::new(MOST_STEPS),
        }
    }

    /// Whether it may be asked what time it is.
    pub fn clock(&self) -> super::Clock {
        self.row.clock()
    }

    /// Counts steps; an error when there are none left.
    pub fn step(&self, steps: u64) -> Result<(), Reason> {
        match self.steps_left.get().checked_sub(steps) {
            Some(left) => {
                self.steps_left.set(left);
                Ok(())
            }
            None => {
                self.steps_left.set(0);
                Err("the template takes too many steps for this row".into())
            }
        }
    }

    pub fn check_size(&self, bytes: usize) -> Result<(), Reason> {
        if bytes > MOST_BYTES {
            return Err(format!("the template makes more than {} MB of text for this row", MOST_BYTES >> 20));
        }
        Ok(())
    }

    pub fn columns(&self, side: Side) -> &[String] {
        let columns = match side {
            Side::Row => &self.row_columns,
            Side::Old => &self.old_columns,
        };
        columns.get_or_init(|| self.row.columns(side))
    }

    /// A column's value; nil when there is no such column.
    pub fn column<'r>(&'r self, side: Side, name: &str) -> Result<Value<'r>, Reason> {
        self.path(side, name, &[]).map(|(value, _)| value)
    }

    /// What is at the end of a path into a column, or on the way, with the number of steps taken.
    fn path<'r>(&'r self, side: Side, name: &str, steps: &[Step]) -> Result<(Value<'r>, usize), Reason> {
        // What a step computes may differ each time, and would be read and kept each time.
        let fixed = steps.iter().take_while(|step| !matches!(step, Step::Computed(_))).count();
        let steps = steps.get(..fixed).unwrap_or_default();
        let mut place = &self.first;
        while let Some(read) = place.get() {
            if read.side == side && read.name == name && steps.starts_with(&read.steps) {
                return Ok((read.datum.value()?, read.steps.len()));
            }
            place = &read.next;
        }
        let inside = if steps.is_empty() { None } else { self.row.inside(side, name, steps)? };
        let (datum, taken) = match inside {
            Some(found) => found,
            None => (self.row.column(side, name)?.unwrap_or(Datum::Null), 0),
        };
        let datum =
            Column::new(datum).map_err(|_| format!("column \"{name}\" holds a number that is too large"))?;
        let steps = steps.get(..taken).unwrap_or_default().to_vec();
        let read = Box::new(Read { side, name: name.to_owned(), steps, datum, next: OnceCell::new() });
        Ok((place.get_or_init(|| read).datum.value()?, taken))
    }
}

impl Column {
    fn new(datum: Datum) -> Result<Column, Impossible> {
        Ok(match datum {
            Datum::Null => Column::Null,
            Datum::Bool(value) => Column::Bool(value),
            Datum::Integer(value) => Column::Number(Number::Integer(value)),
            Datum::Decimal(text) => match Number::parse_decimal(&text) {
                Some(number) => Column::Number(number?),
                None => Column::NotFinite(match text.trim_start_matches('+') {
                    "Infinity" => "Infinity",
                    "-Infinity" => "-Infinity",
                    _ => "NaN",
                }),
            },
            Datum::Float(value) if value.is_nan() => Column::NotFinite("NaN"),
            Datum::Float(f64::INFINITY) => Column::NotFinite("Infinity"),
            Datum::Float(f64::NEG_INFINITY) => Column::NotFinite("-Infinity"),
            // The shortest digits that name this double, which is what PostgreSQL shows.
            Datum::Float(value) => match Number::parse_decimal(&value.to_string()) {
                Some(number) => Column::Number(number?),
                None => Column::Null,
            },
            Datum::Text(text) => Column::Text(text),
            Datum::Moment { iso, unix_micros } => Column::Moment(Moment { iso, unix_micros }),
            Datum::Json(json) => Column::Json(json),
        })
    }

    fn value(&self) -> Result<Value<'_>, Reason> {
        Ok(match self {
            Column::Null => Value::Nil,
            Column::Bool(value) => Value::Bool(*value),
            Column::Number(number) => Value::Number(number.clone()),
            Column::NotFinite(name) => Value::NotFinite(name),
            Column::Text(text) => Value::Text(Text::Borrowed(text)),
            Column::Moment(moment) => Value::Moment(moment),
            Column::Json(json) => Value::from_json(json)?,
        })
    }
}

/// A program under way: its variables and the loops it is in.
struct Frame<'r, 'row> {
    rendering: &'r Rendering<'row>,
    variables: Vec<Value<'r>>,
    around: Option<Rc<LoopState>>,
}

/// How a list of nodes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

pub(super) fn write_hole(
    expression: &Expression,
    rendering: &Rendering<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    let value = Frame::new(rendering, 0).chain(&expression.chain)?;
    let (place, times) = (expression.place, expression.times);
    let written = if value.is_collection() {
        // A buffer of its own, because what is in `out` already does not count.
        let mut made = Vec::new();
        value.write(place, times, rendering, &mut made).map(|()| out.extend_from_slice(&made))
    } else {
        value.write(place, times, rendering, out)
    };
    written.map_err(|why| format!("the hole at {}: {why}", expression.at))
}

pub(super) fn hole_text(expression: &Expression, rendering: &Rendering<'_>) -> Result<String, Reason> {
    let value = Frame::new(rendering, 0).chain(&expression.chain)?;
    let text = value.text(rendering).map_err(|why| format!("the hole at {}: {why}", expression.at))?;
    Ok(text.to_string())
}

pub(super) fn run(
    nodes: &[Node],
    slots: usize,
    rendering: &Rendering<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    Frame::new(rendering, slots).nodes(nodes, out).map(|_| ())
}

impl<'r, 'row> Frame<'r, 'row> {
    fn new(rendering: &'r Rendering<'row>, slots: usize) -> Frame<'r, 'row> {
        Frame { rendering, variables: vec![Value::Nil; slots], around: None }
    }

    /// A value, paid for by its length.
    fn operand(&self, operand: &'r Operand) -> Result<Value<'r>, Reason> {
        self.rendering.step(1)?;
        let value = self.value(operand)?;
        match &value {
            Value::Number(number) => self.rendering.step(number.weight() / 8)?,
            Value::Text(text) => self.rendering.step(text.len() as u64 / 1024)?,
            _ => {}
        }
        Ok(value)
    }

    fn value(&self, operand: &'r Operand) -> Result<Value<'r>, Reason> {
        Ok(match operand {
            Operand::Nil => Value::Nil,
            Operand::Bool(value) => Value::Bool(*value),
            Operand::Number(number) => Value::Number(number.clone()),
            Operand::Text(text) => Value::Text(Text::Borrowed(text)),
            Operand::Empty => Value::Empty,
            Operand::Blank => Value::Blank,
            Operand::Range(ends) => Value::Range(self.bound(&ends.0)?, self.bound(&ends.1)?),
            Operand::Path(root, steps) => {
                let mut taken = 0;
                let mut value = match root {
                    Root::Side(side) => Value::Side(*side),
                    Root::Column(side, name) => {
                        let value;
                        (value, taken) = self.rendering.path(*side, name, steps)?;
                        value
                    }
                    Root::Operation => Value::Text(Text::Borrowed(self.rendering.row.operation())),
                    Root::Variable(slot) => self.variables.get(*slot).cloned().unwrap_or(Value::Nil),
                    Root::Loop => self.around.clone().map_or(Value::Nil, Value::Loop),
                };
                for step in steps.get(taken..).unwrap_or_default() {
                    value = match step {
                        Step::Name(name) => value.named(name, self.rendering)?,
                        Step::Index(index) => value.at(*index, self.rendering)?,
                        Step::Computed(key) => value.member(&self.operand(key)?, self.rendering)?,
                    };
                }
                value
            }
        })
    }

    /// An end of a range; null counts as 0, so that a missing length means no repetition.
    fn bound(&self, operand: &'r Operand) -> Result<i64, Reason> {
        match self.operand(operand)? {
            Value::Nil => Ok(0),
            value => match filter::number(&value, "an end of a range")?.floor() {
                Ok(number) => number.as_index().ok_or_else(|| TOO_LARGE.to_owned()),
                Err(why) => Err(filter::impossible(why)),
            },
        }
    }

    fn chain(&self, chain: &'r Chain) -> Result<Value<'r>, Reason> {
        let mut value = self.operand(&chain.start)?;
        for call in &chain.filters {
            let mut arguments = [const { Value::Nil }; 2];
            for (place, argument) in arguments.iter_mut().zip(&call.arguments) {
                *place = self.operand(argument)?;
            }
            let arguments = arguments.get(..call.arguments.len()).unwrap_or_default();
            // All that a filter works on has been read: nothing of PostgreSQL, which carries its
            // errors as panics, runs in here. A panic is a bug in this module or in a library.
            let result = catch_unwind(AssertUnwindSafe(|| {
                filter::apply(call.filter, value, arguments, self.rendering)
            }));
            value = match result {
                Ok(result) => result
                    .map_err(|why| format!("filter {} at {}: {why}", filter::name(call.filter), call.at))?,
                Err(_) => return Err("the template failed (a bug in lago_push)".into()),
            };
        }
        Ok(value)
    }

    fn holds(&self, condition: &'r Condition) -> Result<bool, Reason> {
        match condition {
            Condition::True(operand) => Ok(self.operand(operand)?.is_true()),
            Condition::And(both) => Ok(self.holds(&both.0)? && self.holds(&both.1)?),
            Condition::Or(both) => Ok(self.holds(&both.0)? || self.holds(&both.1)?),
            Condition::Compare(left, comparison, right) => {
                let (left, right) = (self.operand(left)?, self.operand(right)?);
                let order = || left.order(&right);
                Ok(match comparison {
                    Comparison::Equal => left.equals(&right, self.rendering)?,
                    Comparison::Unequal => !left.equals(&right, self.rendering)?,
                    Comparison::Less => order() == Some(Ordering::Less),
                    Comparison::Greater => order() == Some(Ordering::Greater),
                    Comparison::LessOrEqual => matches!(order(), Some(Ordering::Less | Ordering::Equal)),
                    Comparison::GreaterOrEqual => {
                        matches!(order(), Some(Ordering::Greater | Ordering::Equal))
                    }
                    Comparison::Contains => left.contains(&right, self.rendering)?,
                })
            }
        }
    }

    fn nodes(&mut self, nodes: &'r [Node], out: &mut Vec<u8>) -> Result<Flow, Reason> {
        for node in nodes {
            self.rendering.step(1)?;
            let flow = self.node(node, out)?;
            self.rendering.check_size(out.len())?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &'r Node, out: &mut Vec<u8>) -> Result<Flow, Reason> {
        match node {
            Node::Literal(text) => out.extend_from_slice(text.as_bytes()),
            // Text that goes on where a value ended would change that value.
            Node::Glued(text) => {
                refuse_glue(out)?;
                out.extend_from_slice(text.as_bytes());
            }
            Node::Hole { chain, target, times, at, .. } => {
                let value = self.chain(chain)?;
                match target {
                    Target::Json(place) => {
                        if *place == crate::template::Place::Value {
                            refuse_glue(out)?;
                        }
                        value.write(*place, *times, self.rendering, out)
                    }
                    Target::Capture => {
                        value.text(self.rendering).map(|text| out.extend_from_slice(text.as_bytes()))
                    }
                }
                .map_err(|why| format!("the hole at {at}: {why}"))?;
            }
            Node::If { branches, otherwise } => {
                for (condition, body) in branches {
                    if self.holds(condition)? {
                        return self.nodes(body, out);
                    }
                }
                return self.nodes(otherwise, out);
            }
            Node::Unless { condition, body, branches, otherwise } => {
                if !self.holds(condition)? {
                    return self.nodes(body, out);
                }
                for (condition, body) in branches {
                    if self.holds(condition)? {
                        return self.nodes(body, out);
                    }
                }
                return self.nodes(otherwise, out);
            }
            Node::Case { subject, branches, otherwise } => {
                let subject = self.operand(subject)?;
                for (candidates, body) in branches {
                    for candidate in candidates {
                        if subject.equals(&self.operand(candidate)?, self.rendering)? {
                            return self.nodes(body, out);
                        }
                    }
                }
                return self.nodes(otherwise, out);
            }
            Node::For(each) => return self.each(each, out),
            Node::Assign { slot, chain } => {
                let value = self.chain(chain)?;
                if let Some(variable) = self.variables.get_mut(*slot) {
                    *variable = value;
                }
            }
            Node::Capture { slot, body } => {
                let mut captured = Vec::new();
                let flow = self.nodes(body, &mut captured)?;
                // Only text goes in.
                let text = String::from_utf8_lossy(&captured).into_owned();
                self.rendering.step(text.len() as u64 / 256)?;
                if let Some(variable) = self.variables.get_mut(*slot) {
                    *variable = Value::made(text);
                }
                return Ok(flow);
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn each(&mut self, each: &'r super::program::For, out: &mut Vec<u8>) -> Result<Flow, Reason> {
        let items = self.operand(&each.items)?.pairs(self.rendering)?;
        let all = items.length(self.rendering);
        let count = |operand: &'r Option<Operand>, otherwise: usize| -> Result<usize, Reason> {
            let Some(operand) = operand else { return Ok(otherwise) };
            match self.operand(operand)? {
                Value::Nil => Ok(otherwise),
                value => filter::integer(&value)
                    .map(|count| usize::try_from(count.max(0)).unwrap_or(usize::MAX))
                    .map_err(|_| format!("the limit or offset at {} is not an integer", each.at)),
            }
        };
        let offset = count(&each.offset, 0)?.min(all);
        let length = count(&each.limit, usize::MAX)?.min(all - offset);
        if length == 0 {
            return self.nodes(&each.otherwise, out);
        }
        let around = self.around.take();
        let mut flow = Ok(Flow::On);
        for index in 0..length {
            let at = match each.order {
                super::program::Order::Forward => offset.saturating_add(index),
                super::program::Order::Reversed => offset.saturating_add(length - 1 - index),
            };
            let item = self.rendering.step(1).and_then(|()| items.item(at, self.rendering));
            let item = match item {
                Ok(item) => item,
                Err(why) => {
                    flow = Err(why);
                    break;
                }
            };
            if let Some(variable) = self.variables.get_mut(each.slot) {
                *variable = item;
            }
            self.around = Some(Rc::new(LoopState { index, length, parent: around.clone() }));
            match self.nodes(&each.body, out) {
                Ok(Flow::On | Flow::Continue) => {}
                Ok(Flow::Break) => break,
                Err(why) => {
                    flow = Err(why);
                    break;
                }
            }
        }
        self.around = around;
        flow
    }
}

/// Two values with nothing between would make one that nobody meant: 1 and 2 make 12.
fn refuse_glue(out: &[u8]) -> Result<(), Reason> {
    match out.last() {
        Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+') => {
            Err(super::program::NO_JSON.into())
        }
        _ => Ok(()),
    }
}

//! Render: a compiled template applied to one row.
//!
//! Between template and outbox. It promises bytes that depend on the row alone and are valid JSON,
//! or a reason that names the column and never its value.

use crate::buffer::Operation;
use crate::defaults::Origin;
use crate::endpoint::{Demand, Endpoint, LATEST_PLAUSIBLE_SECONDS, demand};
use crate::json;
use crate::liquid::{self, Datum, Expression, Program, Side};
use crate::nearest::nearest;
use crate::pg::cell::{Kind, Unwritable};
use crate::pg::encoding;
use crate::pg::jsonb::Document;
use crate::pg::trigger::Tuple;
use crate::template::{Hole, Piece, Place, Position, Subject, Template};
use std::cell::OnceCell;

/// A template whose columns are found in one table.
pub struct Plan {
    steps: Vec<Step>,
}

enum Step {
    Literal(Vec<u8>),
    Operation(Place),
    Cell(Box<Cell>),
    /// A hole with filters or a path: Liquid.
    Expression(Box<Computed>),
    /// A template with tags, whole.
    Program(Box<Program>),
}

struct Computed {
    expression: Expression,
    demand: Demand,
    key: String,
}

struct Cell {
    side: Side,
    number: i16,
    kind: Kind,
    place: Place,
    demand: Demand,
    column: String,
    key: String,
}

/// A column as the table has it.
pub struct Column {
    pub name: String,
    pub number: i16,
    pub type_oid: pgrx::pg_sys::Oid,
}

/// A column Liquid may ask for.
pub struct Bound {
    name: String,
    number: i16,
    kind: Kind,
}

impl Bound {
    pub fn new(column: &Column) -> Bound {
        Bound { name: column.name.clone(), number: column.number, kind: Kind::of(column.type_oid) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Appends the row's value as escaped text; none, and nothing, if it is null.
    pub fn write_in_string(&self, row: Tuple, out: &mut Vec<u8>) -> Option<Result<(), String>> {
        let written = self.kind.write(row.get(self.number)?, Place::InString, out);
        Some(written.map_err(|why| explain(&self.name, &why)))
    }
}

/// A row as Liquid sees it: nothing is converted that is not asked for.
pub struct RowView<'a> {
    pub operation: Operation,
    pub row: Tuple,
    pub old: Option<Tuple>,
    pub origin: Origin,
    columns: &'a [Bound],
    /// Of each column for this row, then of each for the old one; the outer is empty until one is needed.
    documents: OnceCell<Box<[OnceCell<Document>]>>,
}

impl<'a> RowView<'a> {
    pub fn new(
        operation: Operation,
        row: Tuple,
        old: Option<Tuple>,
        origin: Origin,
        columns: &'a [Bound],
    ) -> RowView<'a> {
        RowView { operation, row, old, origin, columns, documents: OnceCell::new() }
    }

    fn tuple(&self, side: Side) -> Option<Tuple> {
        match side {
            Side::Row => Some(self.row),
            Side::Old => self.old,
        }
    }
}

impl liquid::Row for RowView<'_> {
    fn operation(&self) -> &'static str {
        self.operation.word()
    }

    fn column(&self, side: Side, name: &str) -> Result<Option<Datum>, String> {
        let Some(column) = self.columns.iter().find(|column| column.name == name) else { return Ok(None) };
        match self.tuple(side).and_then(|tuple| tuple.get(column.number)) {
            None => Ok(Some(Datum::Null)),
            Some(datum) => column.kind.datum(datum).map(Some).map_err(|why| explain(name, &why)),
        }
    }

    fn inside(
        &self,
        side: Side,
        name: &str,
        steps: &[liquid::Step],
    ) -> Result<Option<(Datum, usize)>, String> {
        let Some(index) = self.columns.iter().position(|column| column.name == name) else { return Ok(None) };
        let Some(column) = self.columns.get(index).filter(|column| matches!(column.kind, Kind::Jsonb)) else {
            return Ok(None);
        };
        let Some(datum) = self.tuple(side).and_then(|tuple| tuple.get(column.number)) else {
            return Ok(None);
        };
        let documents =
            self.documents.get_or_init(|| (0..2 * self.columns.len()).map(|_| OnceCell::new()).collect());
        let place = match side {
            Side::Row => index,
            Side::Old => self.columns.len() + index,
        };
        let Some(document) = documents.get(place) else { return Ok(None) };
        let document = document.get_or_init(|| Document::new(datum));
        document.follow(steps).map(Some).map_err(|why| explain(name, &why))
    }

    fn columns(&self, _side: Side) -> Vec<String> {
        self.columns.iter().map(|column| column.name.clone()).collect()
    }

    fn clock(&self) -> liquid::Clock {
        match self.origin {
            Origin::Existing => liquid::Clock::Refused,
            Origin::Change | Origin::Look | Origin::Run { .. } | Origin::Letter { .. } => {
                liquid::Clock::Allowed
            }
        }
    }
}

/// A column a template names and the table has not.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing {
    pub column: String,
    pub at: Position,
    /// The nearest name there is.
    pub nearest: Option<String>,
}

impl Missing {
    pub fn new(column: &str, at: Position, columns: &[Column]) -> Missing {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let nearest = nearest(column, &names).map(str::to_owned);
        Missing { column: column.to_owned(), at, nearest }
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "column \"{}\" does not exist (any more)", self.column)
    }
}

impl Plan {
    /// `endpoint` is none for a call whose demands are not known.
    pub fn new(
        endpoint: Option<&Endpoint>,
        template: &Template,
        columns: &[Column],
    ) -> Result<Plan, Missing> {
        let demand_of = |key: Option<usize>| {
            let key = key.and_then(|index| template.keys.get(index));
            let demand = key
                .zip(endpoint)
                .map_or(Demand::None, |(key, endpoint)| demand(endpoint, &key.name, &key.value));
            (demand, key.map(|key| key.name.clone()).unwrap_or_default())
        };
        let mut steps = Vec::with_capacity(template.pieces.len());
        for piece in &template.pieces {
            steps.push(match piece {
                Piece::Literal(text) => Step::Literal(encoding::to_server(text)),
                Piece::Hole(hole) => match &hole.subject {
                    Subject::Operation => Step::Operation(hole.place),
                    Subject::Row(name) => {
                        Step::Cell(Box::new(Cell::new(Side::Row, name, hole, demand_of(hole.key), columns)?))
                    }
                    Subject::Old(name) => {
                        Step::Cell(Box::new(Cell::new(Side::Old, name, hole, demand_of(hole.key), columns)?))
                    }
                },
                Piece::Expression(expression) => {
                    let (demand, key) = demand_of(expression.key);
                    Step::Expression(Box::new(Computed { expression: expression.clone(), demand, key }))
                }
                Piece::Program(program) => Step::Program(Box::new(program.clone())),
            });
        }
        Ok(Plan { steps })
    }

    /// Appends the payload to `out`, or says why there is none.
    pub fn render(&self, view: &RowView<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        let word = view.operation.word();
        let rendering = OnceCell::new();
        let rendering = || rendering.get_or_init(|| liquid::Rendering::new(view));
        for step in &self.steps {
            match step {
                Step::Literal(bytes) => out.extend_from_slice(bytes),
                Step::Operation(Place::InString) => out.extend_from_slice(word.as_bytes()),
                Step::Operation(Place::Value) => json::push_string(out, word.as_bytes()),
                Step::Cell(cell) => {
                    let tuple = match cell.side {
                        Side::Row => Some(view.row),
                        Side::Old => view.old,
                    };
                    cell.write(tuple, out)?;
                }
                Step::Expression(computed) => computed.write(rendering(), out)?,
                Step::Program(program) => {
                    let mut text = Vec::new();
                    program.render(rendering(), &mut text)?;
                    encoding::push_json(out, &text);
                }
            }
        }
        Ok(())
    }
}

impl Cell {
    fn new(
        side: Side,
        name: &str,
        hole: &Hole,
        (demand, key): (Demand, String),
        columns: &[Column],
    ) -> Result<Cell, Missing> {
        let column = columns
            .iter()
            .find(|column| column.name == name)
            .ok_or_else(|| Missing::new(name, hole.at, columns))?;
        Ok(Cell {
            side,
            number: column.number,
            kind: Kind::of(column.type_oid),
            place: hole.place,
            demand,
            column: column.name.clone(),
            key,
        })
    }

    fn write(&self, tuple: Option<Tuple>, out: &mut Vec<u8>) -> Result<(), String> {
        let Some(datum) = tuple.and_then(|tuple| tuple.get(self.number)) else {
            if self.demand != Demand::None {
                return Err(format!(
                    "column \"{}\" is null, and \"{}\" needs a value",
                    self.column, self.key
                ));
            }
            if self.place == Place::Value {
                out.extend_from_slice(b"null");
            }
            return Ok(());
        };
        let from = out.len();
        let written = match self.demand {
            Demand::Timestamp => match self.kind.write_unix_seconds(datum, out) {
                Some(written) => written,
                None => self.kind.write(datum, self.place, out),
            },
            _ => self.kind.write(datum, self.place, out),
        };
        written.map_err(|why| explain(&self.column, &why))?;
        check_demand(self.demand, &out[from..], &self.key, || format!("column \"{}\"", self.column))
    }
}

impl Computed {
    fn write(&self, rendering: &liquid::Rendering<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        let mut text = Vec::new();
        self.expression.render(rendering, &mut text)?;
        check_demand(self.demand, &text, &self.key, || "what the template computes".to_owned())?;
        encoding::push_json(out, &text);
        Ok(())
    }
}

/// What Lago would refuse or, worse, take and never bill: `written` as it stands in the payload.
fn check_demand(
    demand: Demand,
    written: &[u8],
    key: &str,
    subject: impl FnOnce() -> String,
) -> Result<(), String> {
    match demand {
        Demand::None => Ok(()),
        Demand::NotNull | Demand::NotEmpty | Demand::Timestamp if written == b"null" => {
            Err(format!("{} is null, and \"{key}\" needs a value", subject()))
        }
        Demand::NotNull => Ok(()),
        Demand::NotEmpty if matches!(written, b"" | b"\"\"") => {
            Err(format!("{} is empty, and \"{key}\" needs a value", subject()))
        }
        Demand::NotEmpty => Ok(()),
        Demand::Timestamp => check_seconds(written, subject),
    }
}

/// Lago takes any number as seconds, and bills nothing that lies millennia ahead.
fn check_seconds(written: &[u8], subject: impl FnOnce() -> String) -> Result<(), String> {
    let bare = written.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(written);
    let seconds = std::str::from_utf8(bare)
        .ok()
        .filter(|text| json::is_plain_decimal(text.as_bytes()))
        .and_then(|text| text.parse::<f64>().ok());
    match seconds {
        Some(seconds) if seconds < LATEST_PLAUSIBLE_SECONDS => Ok(()),
        Some(_) => Err(format!("{} is too large for Unix seconds: it looks like milliseconds", subject())),
        None => Err(format!("{} is not a time in Unix seconds", subject())),
    }
}

fn explain(column: &str, why: &Unwritable) -> String {
    match why {
        Unwritable::NotFinite => {
            format!("column \"{column}\" is infinite or not a number, which JSON cannot carry")
        }
        Unwritable::OutOfRange => format!("column \"{column}\" is out of range"),
        Unwritable::NotJson => format!("column \"{column}\" is nested too deeply"),
        Unwritable::Failed { sqlstate } => format!(
            "column \"{column}\" could not be converted: its type's function failed with SQLSTATE {sqlstate}"
        ),
    }
}

//! Render: a compiled template applied to one row.
//!
//! Between template and outbox. It promises bytes that depend on the row alone and are valid JSON,
//! or a reason that names the column and never its value.

use crate::buffer::Operation;
use crate::endpoint::{Demand, Endpoint, LATEST_PLAUSIBLE_SECONDS, demand};
use crate::json;
use crate::pg::cell::{Kind, Unwritable};
use crate::pg::encoding;
use crate::pg::trigger::Tuple;
use crate::template::{Hole, Piece, Place, Position, Subject, Template};

/// A template whose columns are found in one table.
pub struct Plan {
    steps: Vec<Step>,
}

enum Step {
    Literal(Vec<u8>),
    Operation(Place),
    Cell(Box<Cell>),
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Row,
    Old,
}

/// A column as the table has it.
pub struct Column {
    pub name: String,
    pub number: i16,
    pub type_oid: pgrx::pg_sys::Oid,
}

/// A column a template names and the table has not.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing {
    pub column: String,
    pub at: Position,
    /// The nearest name there is.
    pub nearest: Option<String>,
}

impl Plan {
    pub fn new(endpoint: &Endpoint, template: &Template, columns: &[Column]) -> Result<Plan, Missing> {
        let mut steps = Vec::with_capacity(template.pieces.len());
        for piece in &template.pieces {
            steps.push(match piece {
                Piece::Literal(text) => Step::Literal(encoding::to_server(text)),
                Piece::Hole(hole) => match &hole.subject {
                    Subject::Operation => Step::Operation(hole.place),
                    Subject::Row(name) => {
                        Step::Cell(Box::new(Cell::new(Side::Row, name, hole, endpoint, template, columns)?))
                    }
                    Subject::Old(name) => {
                        Step::Cell(Box::new(Cell::new(Side::Old, name, hole, endpoint, template, columns)?))
                    }
                },
            });
        }
        Ok(Plan { steps })
    }

    /// Appends the payload to `out`, or says why there is none.
    pub fn render(
        &self,
        operation: Operation,
        row: Tuple,
        old: Option<Tuple>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        for step in &self.steps {
            match step {
                Step::Literal(bytes) => out.extend_from_slice(bytes),
                Step::Operation(Place::InString) => out.extend_from_slice(operation.word().as_bytes()),
                Step::Operation(Place::Value) => json::push_string(out, operation.word().as_bytes()),
                Step::Cell(cell) => {
                    let tuple = match cell.side {
                        Side::Row => Some(row),
                        Side::Old => old,
                    };
                    cell.write(tuple, out)?;
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
        endpoint: &Endpoint,
        template: &Template,
        columns: &[Column],
    ) -> Result<Cell, Missing> {
        let column = columns.iter().find(|column| column.name == name).ok_or_else(|| Missing {
            column: name.to_owned(),
            at: hole.at,
            nearest: nearest(name, columns.iter().map(|column| column.name.as_str())),
        })?;
        let key = hole.key.and_then(|index| template.keys.get(index));
        Ok(Cell {
            side,
            number: column.number,
            kind: Kind::of(column.type_oid),
            place: hole.place,
            demand: key.map_or(Demand::None, |key| demand(endpoint, &key.name, &key.value)),
            column: column.name.clone(),
            key: key.map(|key| key.name.clone()).unwrap_or_default(),
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
        written.map_err(|why| self.explain(&why))?;
        match self.demand {
            Demand::Timestamp => self.check_seconds(&out[from..]),
            Demand::NotEmpty if matches!(&out[from..], b"" | b"\"\"") => {
                Err(format!("column \"{}\" is empty, and \"{}\" needs a value", self.column, self.key))
            }
            _ => Ok(()),
        }
    }

    /// What Lago would misread: it takes any number as seconds, and bills nothing that lies millennia
    /// ahead.
    fn check_seconds(&self, written: &[u8]) -> Result<(), String> {
        let bare = written.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(written);
        let seconds = std::str::from_utf8(bare)
            .ok()
            .filter(|text| json::is_plain_decimal(text.as_bytes()))
            .and_then(|text| text.parse::<f64>().ok());
        match seconds {
            Some(seconds) if seconds < LATEST_PLAUSIBLE_SECONDS => Ok(()),
            Some(_) => Err(format!(
                "column \"{}\" is too large for Unix seconds: it looks like milliseconds",
                self.column
            )),
            None => Err(format!("column \"{}\" is not a time in Unix seconds", self.column)),
        }
    }

    fn explain(&self, why: &Unwritable) -> String {
        match why {
            Unwritable::NotFinite => {
                format!("column \"{}\" is infinite or not a number, which JSON cannot carry", self.column)
            }
            Unwritable::OutOfRange => format!("column \"{}\" is out of range", self.column),
            Unwritable::Failed { sqlstate } => {
                format!(
                    "column \"{}\" could not be converted: its type's function failed with SQLSTATE {sqlstate}",
                    self.column
                )
            }
        }
    }
}

/// The name closest to `wanted`, if one is close enough to be what was meant.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let most = wanted.chars().count().div_ceil(3).max(1);
    names
        .map(|name| (distance(wanted, name), name))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name.to_owned())
}

/// Edits between two names, letter case aside (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognized_and_a_different_name_is_not() {
        let names = ["subscription", "created_at", "Amount"];
        let near = |wanted| nearest(wanted, names.into_iter());
        assert_eq!(near("subscriptoin").as_deref(), Some("subscription"));
        assert_eq!(near("createdat").as_deref(), Some("created_at"));
        assert_eq!(near("amount").as_deref(), Some("Amount"));
        assert_eq!(near("x"), None);
        assert_eq!(near("region"), None);
    }
}

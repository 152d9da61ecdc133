//! Liquid, what a template may hold beyond the plain hole: expressions, filters and tags.
//!
//! Serves the template step. The promise: whatever a row's values hold, what is written stays inside
//! the JSON string, or is the one JSON value, that the template's author meant; numbers are exact; no
//! template runs for ever or fills the memory. A row it cannot be applied to gives a reason.
//!
//! The interpreter is our own. That of the `liquid` crates computes in doubles, fails on a missing
//! key, and bounds neither time nor memory; their filters for text and dates serve here
//! ([`library`]). The journey of a template's text: [`markup`] finds holes and tags, [`syntax`] reads
//! what is in them, [`places`] knows where in the JSON each stands, [`program`] puts tags together,
//! [`run`] applies the result to a row with [`value`], [`number`] and [`filter`].
#![forbid(unsafe_code)]

pub mod filter;
pub mod library;
pub mod lists;
pub mod markup;
pub mod number;
pub mod places;
pub mod program;
pub mod run;
pub mod syntax;
pub mod value;
pub mod words;

#[cfg(test)]
mod tests;

pub use program::Program;
pub use run::Rendering;
pub use syntax::{Expression, Reference, References, Step};

/// Which of a change's two rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The row as it is now; the deleted row when the operation is a delete.
    Row,
    /// The row as it was before an update or delete.
    Old,
}

/// A column's value, as the row gives it. All text is UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    Null,
    Bool(bool),
    Integer(i64),
    /// A `numeric`, as PostgreSQL prints it; `NaN` and the infinities included.
    Decimal(String),
    Float(f64),
    Text(String),
    /// A point in time, printed as `iso`; Unix microseconds in UTC.
    Moment {
        iso: String,
        unix_micros: i64,
    },
    Json(serde_json::Value),
}

/// The row a template is applied to. Every column and path is asked for at most once per [`Rendering`].
pub trait Row {
    /// `insert`, `update` or `delete`.
    fn operation(&self) -> &'static str;
    /// A column's value; `None` when there is no such column. On a side that is absent every column
    /// is null. The error is a sentence that names the column.
    fn column(&self, side: Side, name: &str) -> Result<Option<Datum>, String>;
    /// What stands in a column at the end of some steps, and how many of them that took; `None` where
    /// only the whole column is to be had.
    fn inside(&self, _side: Side, _name: &str, _steps: &[Step]) -> Result<Option<(Datum, usize)>, String> {
        Ok(None)
    }
    /// The columns a template may see when it uses a side as a whole.
    fn columns(&self, side: Side) -> Vec<String>;
    /// Whether it may be asked what time it is.
    fn clock(&self) -> Clock {
        Clock::Allowed
    }
}

/// Whether what is made of a row may depend on when that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    Allowed,
    /// What is made of the row has to be what was made of it before.
    Refused,
}

/// The reason where it may not, and does.
pub const CLOCK: &str = "the clock decides what is sent, not the row";

/// Why a row has no payload: a sentence for the operator, without any of the row's values.
pub type Reason = String;

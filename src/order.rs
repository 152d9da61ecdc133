//! Order: what a sync's messages are put in order by, and the number that stands for it.
//!
//! Serves capture, and the lanes that keep messages of one number in line. Promises that rows alike in
//! what `order_by` names have the same number on every machine and in every version.
#![forbid(unsafe_code)]

use crate::liquid::{Reference, Side};
use crate::template::{self, Mistake, MistakeKind, PathTemplate, Position};
use sha2::{Digest, Sha256};

/// What `order_by` says, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderBy {
    Columns(Vec<Reference>),
    /// Text with holes, as in a path.
    Text(PathTemplate),
}

impl OrderBy {
    pub fn references(&self) -> &[Reference] {
        match self {
            OrderBy::Columns(columns) => columns,
            OrderBy::Text(text) => &text.references().columns,
        }
    }
}

/// Reads `customer_id`, `tenant, customer_id`, `"Odd, name"` or `{{ row.customer_id | downcase }}`.
pub fn parse(text: &str) -> Result<OrderBy, Mistake> {
    if text.contains("{{") || text.contains("{%") {
        let text = template::line(text, "order_by")?;
        let references = text.references();
        let old = references.columns.iter().find(|reference| reference.side == Side::Old);
        let whole = references.whole.iter().find(|(side, _)| *side == Side::Old);
        return match old.map(|reference| reference.at).or(whole.map(|(_, at)| *at)) {
            Some(at) => Err(mistake(
                at,
                "order_by names old, which an inserted row has not",
                "write row: in a deletion it is the row that goes",
            )),
            None => Ok(OrderBy::Text(text)),
        };
    }
    columns(text).map(OrderBy::Columns)
}

fn mistake(at: Position, what: &str, hint: &str) -> Mistake {
    Mistake { kind: MistakeKind::Malformed, what: what.into(), at, hint: hint.into() }
}

/// Column names between commas, each as it is or in double quotes.
fn columns(text: &str) -> Result<Vec<Reference>, Mistake> {
    let hint = "write column names with commas between: order_by => 'customer_id'";
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let at = position(text, rest);
        let (name, after) = match rest.strip_prefix('"') {
            Some(inside) => {
                quoted(inside).ok_or_else(|| mistake(at, "a double quote is not closed", hint))?
            }
            None => {
                let (name, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                (name.trim_end().to_owned(), after)
            }
        };
        if name.is_empty() {
            return Err(mistake(at, "the name of a column is expected here", hint));
        }
        found.push(Reference { side: Side::Row, column: name, at });
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(rest) => rest,
            None if after.is_empty() => return Ok(found),
            None => return Err(mistake(position(text, after), "a comma is expected here", hint)),
        };
    }
}

/// A name up to its closing quote, two quotes within being one; and what follows.
fn quoted(inside: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = inside;
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

/// Where `rest`, an end of `text`, begins.
fn position(text: &str, rest: &str) -> Position {
    let before = text.get(..text.len() - rest.len()).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    Position { line, column }
}

/// The number of a row, made of its values one by one.
///
/// The first eight bytes of a SHA-256: its definition is older than any library and outlives them, and
/// numbers in the outbox must mean the same after an upgrade.
#[derive(Default)]
pub struct Number(Sha256);

impl Number {
    pub fn null(&mut self) {
        self.0.update([0]);
    }

    /// Its length goes first, so that values cannot be mistaken for others beside them.
    pub fn value(&mut self, value: &[u8]) {
        self.0.update([1]);
        self.0.update((value.len() as u64).to_be_bytes());
        self.0.update(value);
    }

    pub fn finish(self) -> i64 {
        let hash = self.0.finalize();
        hash.iter().take(8).fold(0_i64, |number, byte| number << 8 | i64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(text: &str) -> Vec<(String, usize)> {
        match parse(text).expect(text) {
            OrderBy::Columns(columns) => {
                columns.into_iter().map(|column| (column.column, column.at.column)).collect()
            }
            OrderBy::Text(_) => panic!("text: {text}"),
        }
    }

    fn fault(text: &str) -> (String, Position) {
        let mistake = parse(text).expect_err(text);
        assert!(!mistake.hint.is_empty());
        (mistake.what, mistake.at)
    }

    #[test]
    fn columns_stand_between_commas() {
        assert_eq!(names("customer_id"), [("customer_id".into(), 1)]);
        assert_eq!(
            names(" a ,größe,\"B, \"\"c\" "),
            [("a".into(), 2), ("größe".into(), 5), ("B, \"c".into(), 11)]
        );
    }

    #[test]
    fn what_is_no_list_of_columns_is_refused_with_its_place() {
        let at = |column| Position { line: 1, column };
        assert_eq!(fault(""), ("the name of a column is expected here".into(), at(1)));
        assert_eq!(fault("a,,b"), ("the name of a column is expected here".into(), at(3)));
        assert_eq!(fault("a,"), ("the name of a column is expected here".into(), at(3)));
        assert_eq!(fault("\"a"), ("a double quote is not closed".into(), at(1)));
        assert_eq!(fault("\"a\" b"), ("a comma is expected here".into(), at(5)));
        assert_eq!(
            fault("x\n, \"y"),
            ("a double quote is not closed".into(), Position { line: 2, column: 3 })
        );
    }

    #[test]
    fn text_has_holes_and_no_tags_and_names_no_old_row() {
        let OrderBy::Text(text) = parse("{{ row.a }}/{{ row.b | downcase }}").expect("text") else {
            panic!("columns")
        };
        assert_eq!(text.references().columns.len(), 2);
        let (what, _) = fault("{% if row.a %}x{% endif %}");
        assert!(what.starts_with("order_by takes no tags"), "{what}");
        assert!(fault("{{ old.a }}").0.contains("old"));
        assert!(fault("x{{ old | json }}").0.contains("old"));
        assert_eq!(fault("x{{ row.a").1, Position { line: 1, column: 2 });
    }

    fn number(values: &[Option<String>]) -> i64 {
        let mut number = Number::default();
        for value in values {
            match value {
                Some(value) => number.value(value.as_bytes()),
                None => number.null(),
            }
        }
        number.finish()
    }

    #[test]
    fn a_number_is_the_same_on_every_machine_and_in_every_version() {
        assert_eq!(number(&[Some("acme".into())]), 1404278349479455373);
        assert_eq!(number(&[None]), 7940984811893783192);
    }

    proptest! {
        #[test]
        fn different_values_have_different_numbers(
            a in prop::collection::vec(prop::option::of("[ab\u{0}\u{1}]{0,3}"), 0..3),
            b in prop::collection::vec(prop::option::of("[ab\u{0}\u{1}]{0,3}"), 0..3),
        ) {
            prop_assert_eq!(number(&a) == number(&b), a == b);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[\", a-zß{}%\n]{0,20}") {
            let _ = parse(&text);
        }
    }
}

//! Template, second step of a row's journey: from the text a user wrote to pieces ready to fill.
//!
//! A template is JSON in which `{{ row.column }}` may stand in a string or in place of a value, with
//! Liquid's filters and paths; or Liquid whose tags decide which JSON there is ([`crate::liquid`]).
//! Parsing happens once, when a sync is defined and again when a backend first needs it; what it
//! promises the next step is a list of literal pieces and holes such that filling every hole with
//! escaped text (inside a string) or one JSON value (in value position) always gives valid JSON.
//! This module knows nothing of PostgreSQL: columns are names here, and become positions in
//! [`crate::render`].
#![forbid(unsafe_code)]

use crate::json::{self, Escape};
use crate::liquid::markup::{self, Whitespace};
use crate::liquid::program;
use crate::liquid::syntax::{Reader, Scope};
use crate::liquid::value::Times;
use crate::liquid::{Expression, Program, Reference, References, Side};
use std::fmt;

/// Where in the template's text something stands; both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// What is wrong with a template, where, and what to type instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub kind: MistakeKind,
    pub what: String,
    pub at: Position,
    pub hint: String,
}

/// Tells a malformed template from one that asks for more than this version can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MistakeKind {
    Malformed,
    Unsupported,
}

/// A parsed template. Whitespace between JSON tokens is gone; everything else is as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub pieces: Vec<Piece>,
    /// The keys of the outermost object, in order; empty when the template is not an object.
    pub keys: Vec<Key>,
    references: References,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Literal(String),
    /// A column, or the operation, as it is: the fast path.
    Hole(Hole),
    /// A hole with paths, filters or literals.
    Expression(Expression),
    /// A whole template that has tags; then this is the only piece.
    Program(Program),
}

impl Template {
    /// Every column the template names, in the order of its text, and the sides it uses as a whole.
    pub fn references(&self) -> &References {
        &self.references
    }

    /// Whether a key stands in every payload, or in some.
    pub fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }

    /// Has moments in expressions and programs written as Unix seconds wherever they stand, unchanged
    /// by a filter, under the outermost key `name`. Plain holes are the renderer's own.
    pub fn write_times_as_seconds(&mut self, name: &str) {
        let keys = &self.keys;
        let is_meant = |index: usize| keys.get(index).is_some_and(|key| key.name == name);
        for piece in &mut self.pieces {
            match piece {
                Piece::Expression(expression) if expression.key.is_some_and(is_meant) => {
                    expression.times = Times::UnixSeconds;
                }
                Piece::Program(program) => program.write_times_as_seconds(&is_meant),
                Piece::Expression(_) | Piece::Literal(_) | Piece::Hole(_) => {}
            }
        }
    }
}

/// A place to fill with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    pub subject: Subject,
    pub place: Place,
    /// The outermost key this hole belongs to, as an index into [`Template::keys`].
    pub key: Option<usize>,
    pub at: Position,
}

/// What a hole asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A column of the row as it is now; of the deleted row when the operation is a delete.
    Row(String),
    /// A column of the row as it was before an update or delete.
    Old(String),
    /// The operation: `insert`, `update` or `delete`.
    Operation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    InString,
    Value,
}

/// One key of the outermost object and the shape of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub name: String,
    pub at: Position,
    pub value: Shape,
    pub presence: Presence,
}

/// Whether a key stands in every payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Always,
    /// It stands in a branch or loop. Such a key may stand in several branches.
    Sometimes,
}

/// The shape of a value under an outermost key, as far as the template alone tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    Null,
    /// A literal true, false or number, as written.
    Bare(String),
    /// A string with no hole in it, as written between the quotes.
    Text(String),
    /// A string that is one hole and nothing else.
    HoleText,
    /// A string of literal text and at least one hole.
    MixedText,
    /// A hole in value position.
    HoleValue,
    Object,
    Array,
    /// Tags decide.
    Unknown,
}

/// A line of text with holes: a URL path, or what messages are put in order by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    pub pieces: Vec<PathPiece>,
    references: References,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPiece {
    Literal(String),
    /// In a path its text is to be percent-encoded.
    Hole(Expression),
}

impl PathTemplate {
    pub fn references(&self) -> &References {
        &self.references
    }
}

/// Parses a URL path such as `/customers/{{ row.id }}/wallets`. Whether its literal parts make a path
/// is for others to judge.
pub fn path(text: &str) -> Result<PathTemplate, Mistake> {
    line(text, "a path")
}

/// Parses text with holes and no tags; `what` is what errors call it.
pub fn line(text: &str, what: &str) -> Result<PathTemplate, Mistake> {
    let mut path = PathTemplate { pieces: Vec::new(), references: References::default() };
    let mut at = 0;
    while let Some((start, kind)) = markup::next(text, at) {
        let position = markup::position(text, start);
        if kind == markup::Kind::Tag {
            return Err(markup::unsupported(
                position,
                format!("{what} takes no tags ({{% %}})"),
                "write {{ row.column }}, with filters if needed",
            ));
        }
        let hole = markup::read(text, start, "}}")?;
        if start > at {
            path.pieces.push(PathPiece::Literal(text.get(at..start).unwrap_or_default().to_owned()));
        }
        let chain = Reader::new(text, hole.inner, hole.inner_start, position)?
            .whole_chain(&Scope::default(), &mut path.references)?;
        path.pieces.push(PathPiece::Hole(Expression {
            place: Place::InString,
            key: None,
            at: position,
            times: Times::Iso,
            chain,
        }));
        at = hole.end;
    }
    if at < text.len() {
        path.pieces.push(PathPiece::Literal(text.get(at..).unwrap_or_default().to_owned()));
    }
    Ok(path)
}

/// Parses a template.
pub fn parse(text: &str) -> Result<Template, Mistake> {
    if program::has_tags(text) {
        let (program, keys, references) = program::compile(text)?;
        return Ok(Template { pieces: vec![Piece::Program(program)], keys, references });
    }
    let out = Template { pieces: Vec::new(), keys: Vec::new(), references: References::default() };
    let mut parser = Parser { text, at: 0, out, key: None, depth: 0 };
    parser.skip_space();
    if parser.at == text.len() {
        return Err(parser.mistake(
            "the template is empty",
            "write a JSON object with {{ row.column }} where a value belongs",
        ));
    }
    parser.value()?;
    parser.skip_space();
    if parser.at < text.len() {
        return Err(parser.mistake(
            "something follows the end of the JSON value",
            "remove what follows, or check the braces before it",
        ));
    }
    Ok(parser.out)
}

pub const HALF_A_CHARACTER: &str = "this escape is half a character";
pub const HALF_A_CHARACTER_HINT: &str = "write the character itself, or both halves: \\ud83d\\ude00";

/// Nesting a person would never reach, but a stack could.
const DEEPEST: usize = 128;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    out: Template,
    key: Option<usize>,
    depth: usize,
}

impl Parser<'_> {
    fn value(&mut self) -> Result<Shape, Mistake> {
        self.skip_space();
        if self.rest().starts_with("{{") {
            self.hole(Place::Value)?;
            return Ok(Shape::HoleValue);
        }
        match self.peek() {
            Some('{') => self.nested(Self::object),
            Some('[') => self.nested(Self::array),
            Some('"') => self.string(),
            Some('-' | '0'..='9') => self.number(),
            Some('a'..='z' | 'A'..='Z') => self.word(),
            Some('\'') => Err(self.mistake("JSON strings stand in double quotes", "write \" instead of '")),
            Some(_) => Err(self.mistake(
                "a JSON value is expected here",
                "write a string, number, object, array, true, false, null or {{ row.column }}",
            )),
            None => Err(self.mistake("the template ends where a value is expected", "complete the JSON")),
        }
    }

    fn nested(&mut self, parse: fn(&mut Self) -> Result<Shape, Mistake>) -> Result<Shape, Mistake> {
        if self.depth == DEEPEST {
            return Err(self.mistake("the template is nested too deeply", "flatten it"));
        }
        self.depth += 1;
        let shape = parse(self);
        self.depth -= 1;
        shape
    }

    fn object(&mut self) -> Result<Shape, Mistake> {
        self.take("{");
        self.skip_space();
        if self.take("}") {
            return Ok(Shape::Object);
        }
        loop {
            self.skip_space();
            let at = self.position();
            if self.peek() != Some('"') {
                return Err(self.mistake(
                    "a key in double quotes is expected here",
                    "write \"key\": value, and no comma before a closing brace",
                ));
            }
            let outermost = self.depth == 1;
            let from = self.at + 1;
            let shape = self.string()?;
            let name = self.text[from..self.at - 1].to_owned();
            self.skip_space();
            if !self.take(":") {
                return Err(self.mistake("a colon is expected after a key", "write \"key\": value"));
            }
            self.literal(":");
            if outermost {
                if !matches!(shape, Shape::Text(_)) {
                    return Err(Mistake {
                        kind: MistakeKind::Malformed,
                        what: "an outermost key holds a {{ }}".into(),
                        at,
                        hint: "outermost keys are the fields Lago knows: write them out".into(),
                    });
                }
                if self.out.keys.iter().any(|key| key.name == name) {
                    return Err(Mistake {
                        kind: MistakeKind::Malformed,
                        what: format!("the key \"{name}\" stands twice"),
                        at,
                        hint: "keep one of them".into(),
                    });
                }
                self.key = Some(self.out.keys.len());
                self.out.keys.push(Key { name, at, value: Shape::Null, presence: Presence::Always });
            }
            let value = self.value()?;
            if outermost && let Some(key) = self.key.take().and_then(|index| self.out.keys.get_mut(index)) {
                key.value = value;
            }
            self.skip_space();
            if self.take(",") {
                self.literal(",");
            } else if self.take("}") {
                return Ok(Shape::Object);
            } else {
                return Err(self.mistake(
                    "a comma or a closing brace is expected here",
                    "check the value before it, and the commas",
                ));
            }
        }
    }

    fn array(&mut self) -> Result<Shape, Mistake> {
        self.take("[");
        self.skip_space();
        if self.take("]") {
            return Ok(Shape::Array);
        }
        loop {
            self.value()?;
            self.skip_space();
            if self.take(",") {
                self.literal(",");
            } else if self.take("]") {
                return Ok(Shape::Array);
            } else {
                return Err(self.mistake(
                    "a comma or a closing bracket is expected here",
                    "check the value before it, and the commas",
                ));
            }
        }
    }

    fn string(&mut self) -> Result<Shape, Mistake> {
        self.take("\"");
        let content_from = self.at;
        let (mut holes, mut literals) = (0, 0);
        loop {
            if self.rest().starts_with("{{") {
                self.hole(Place::InString)?;
                holes += 1;
                continue;
            }
            match self.peek() {
                None => return Err(self.mistake("a string is not closed", "add the closing double quote")),
                Some('"') => {
                    let content = self.text[content_from..self.at].to_owned();
                    self.take("\"");
                    return Ok(match (holes, literals) {
                        (0, _) => Shape::Text(content),
                        (1, 0) => Shape::HoleText,
                        _ => Shape::MixedText,
                    });
                }
                Some('\\') => self.escape()?,
                Some(c) if (c as u32) < 0x20 => {
                    return Err(self.mistake(
                        "a control character stands raw in a string",
                        "write a line break as \\n, a tab as \\t",
                    ));
                }
                Some(c) => self.advance_literal(c.len_utf8()),
            }
            literals += 1;
        }
    }

    fn escape(&mut self) -> Result<(), Mistake> {
        match json::escape(self.rest()) {
            Escape::Character(length) => self.advance_literal(length),
            Escape::Zero => return Err(self.mistake("\\u0000 cannot be stored by Lago", "remove it")),
            Escape::Half => return Err(self.mistake(HALF_A_CHARACTER, HALF_A_CHARACTER_HINT)),
            Escape::Unknown => {
                return Err(self.mistake("this is not an escape JSON knows", "write \\\\ for a backslash"));
            }
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Shape, Mistake> {
        let from = self.at;
        let length = self
            .rest()
            .find(|c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9'))
            .unwrap_or(self.rest().len());
        let number = &self.text[from..from + length];
        if serde_json::from_str::<serde_json::Number>(number).is_err() {
            return Err(self.mistake(
                "this is not a number JSON knows",
                "write digits, without leading zeros or plus signs",
            ));
        }
        let number = number.to_owned();
        self.advance_literal(length);
        Ok(Shape::Bare(number))
    }

    fn word(&mut self) -> Result<Shape, Mistake> {
        for word in ["null", "true", "false"] {
            let rest = self.rest();
            if rest.starts_with(word) && !rest[word.len()..].starts_with(|c: char| c.is_alphanumeric()) {
                self.advance_literal(word.len());
                return Ok(if word == "null" { Shape::Null } else { Shape::Bare(word.into()) });
            }
        }
        Err(self.mistake("this word is not JSON", "put text in double quotes, a column as {{ row.column }}"))
    }

    fn hole(&mut self, place: Place) -> Result<(), Mistake> {
        let at = self.position();
        let hole = markup::read(self.text, self.at, "}}")?;
        if hole.before == Whitespace::Eat
            && let Some(Piece::Literal(literal)) = self.out.pieces.last_mut()
        {
            literal.truncate(literal.trim_end().len());
        }
        self.at = hole.end;
        if hole.after == Whitespace::Eat {
            self.at += self.rest().len() - self.rest().trim_start().len();
        }
        let piece = match plain(hole.inner.trim()) {
            Some(subject) => {
                match &subject {
                    Subject::Row(column) => self.refer(Side::Row, column, at),
                    Subject::Old(column) => self.refer(Side::Old, column, at),
                    Subject::Operation => {}
                }
                Piece::Hole(Hole { subject, place, key: self.key, at })
            }
            None => {
                let chain = Reader::new(self.text, hole.inner, hole.inner_start, at)?
                    .whole_chain(&Scope::default(), &mut self.out.references)?;
                Piece::Expression(Expression { place, key: self.key, at, times: Times::Iso, chain })
            }
        };
        self.out.pieces.push(piece);
        Ok(())
    }

    fn refer(&mut self, side: Side, column: &str, at: Position) {
        self.out.references.columns.push(Reference { side, column: column.to_owned(), at });
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    /// Passes over `token` if it comes next, keeping structural characters in the output.
    fn take(&mut self, token: &str) -> bool {
        let here = self.rest().starts_with(token);
        if here {
            self.at += token.len();
            if !matches!(token, "," | ":") {
                self.literal(token);
            }
        }
        here
    }

    fn advance_literal(&mut self, length: usize) {
        let from = self.at;
        self.at += length;
        match self.out.pieces.last_mut() {
            Some(Piece::Literal(literal)) => literal.push_str(&self.text[from..from + length]),
            _ => self.out.pieces.push(Piece::Literal(self.text[from..from + length].to_owned())),
        }
    }

    fn literal(&mut self, text: &str) {
        match self.out.pieces.last_mut() {
            Some(Piece::Literal(literal)) => literal.push_str(text),
            _ => self.out.pieces.push(Piece::Literal(text.to_owned())),
        }
    }

    fn position(&self) -> Position {
        let before = &self.text[..self.at];
        let line_from = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_from..].chars().count() + 1 }
    }

    fn mistake(&self, what: &str, hint: &str) -> Mistake {
        Mistake { kind: MistakeKind::Malformed, what: what.into(), at: self.position(), hint: hint.into() }
    }
}

/// What stands between `{{` and `}}`, if it is a column or the operation and nothing more.
fn plain(expression: &str) -> Option<Subject> {
    if expression == "op" {
        return Some(Subject::Operation);
    }
    let name_length = expression.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    let (object, path) = expression.split_at(name_length);
    let make = match object {
        "row" => Subject::Row,
        "old" => Subject::Old,
        _ => return None,
    };
    let (column, rest) = column(path.trim_start())?;
    rest.trim().is_empty().then(|| make(column))
}

/// Reads `.name`, `["name"]` or `['name']`; gives the name and what follows it.
fn column(path: &str) -> Option<(String, &str)> {
    if let Some(name) = path.strip_prefix('.') {
        let length =
            name.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(name.len());
        return (length > 0).then(|| (name[..length].to_owned(), &name[length..]));
    }
    let inner = path.strip_prefix('[')?.trim_start();
    let quote = inner.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (name, rest) = inner[1..].split_once(quote)?;
    let rest = rest.trim_start().strip_prefix(']')?;
    (!name.is_empty()).then(|| (name.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compact(template: &Template) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Hole(hole) => match &hole.subject {
                Subject::Row(name) => format!("<row {name} {:?}>", hole.place),
                Subject::Old(name) => format!("<old {name} {:?}>", hole.place),
                Subject::Operation => format!("<op {:?}>", hole.place),
            },
            Piece::Expression(expression) => format!("<expression {:?}>", expression.place),
            Piece::Program(_) => "<program>".to_owned(),
        };
        template.pieces.iter().map(piece).collect()
    }

    #[test]
    fn whitespace_between_tokens_goes_and_everything_else_stays() {
        let template =
            parse("{ \"a\" : [ 1 , \"x  y\\n\" ],\n \"b\": {{ row.n }}, \"c\":\"call-{{row.id}}\" }")
                .expect("valid");
        assert_eq!(
            compact(&template),
            r#"{"a":[1,"x  y\n"],"b":<row n Value>,"c":"call-<row id InString>"}"#
        );
        let shapes: Vec<_> = template.keys.iter().map(|key| (key.name.as_str(), &key.value)).collect();
        assert_eq!(shapes, [("a", &Shape::Array), ("b", &Shape::HoleValue), ("c", &Shape::MixedText)]);
    }

    #[test]
    fn holes_name_columns_old_columns_and_the_operation() {
        let template = parse(
            r#"[{{ row["Mixed Case"] }}, {{ old.qty }}, "{{ op }}", {{ row.größe }}, {{ row [ 'x' ] }}]"#,
        )
        .expect("valid");
        assert_eq!(
            compact(&template),
            r#"[<row Mixed Case Value>,<old qty Value>,"<op InString>",<row größe Value>,<row x Value>]"#
        );
    }

    #[test]
    fn a_hole_knows_its_outermost_key() {
        let template =
            parse(r#"{"a": 1, "properties": {"x": {"timestamp": {{ row.x }}}}, "b": "{{ row.b }}"}"#)
                .expect("valid");
        let keys: Vec<_> = template
            .pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Hole(hole) => hole.key.map(|index| template.keys[index].name.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(keys, ["properties", "b"]);
    }

    #[test]
    fn every_mistake_is_placed() {
        let cases = [
            ("", 1, 1, "empty"),
            ("{\n  \"a\": }", 2, 8, "value is expected"),
            ("{\"a\": 1,}", 1, 9, "key in double quotes"),
            ("{\"a\" 1}", 1, 6, "colon"),
            ("{\"a\": {{ row.x }", 1, 7, "not closed"),
            ("{\"a\": \"x", 1, 9, "not closed"),
            ("{\"a\": 'x'}", 1, 7, "double quotes"),
            ("{\"a\": 01}", 1, 7, "number"),
            ("{\"a\": nil}", 1, 7, "word"),
            ("{\"a\": 1} x", 1, 10, "follows"),
            ("{\"a\": 1, \"a\": 2}", 1, 10, "twice"),
            ("{\"{{ row.k }}\": 1}", 1, 2, "outermost key"),
            ("{\"a\": {{ }}}", 1, 7, "empty"),
            ("{\"a\": {{ customer.x }}}", 1, 7, "neither row, old nor op"),
            ("{\"a\": {{ row }}}", 1, 7, "no column"),
            ("{\"a\": {{ row.a b }}}", 1, 7, "more than one name"),
            ("{\"a\": \"\\q\"}", 1, 8, "escape"),
            ("{\"a\": \"\\u0000\"}", 1, 8, "u0000"),
            ("{\"a\": \"\\ud83d\"}", 1, 8, "half a character"),
            ("{\"a\": \"\t\"}", 1, 8, "control character"),
            ("[1 2]", 1, 4, "comma"),
        ];
        for (text, line, column, what) in cases {
            let mistake = parse(text).expect_err(text);
            assert_eq!(mistake.at, Position { line, column }, "{text}: {mistake:?}");
            assert!(mistake.what.contains(what), "{text}: {mistake:?}");
            assert!(!mistake.hint.is_empty());
            assert_eq!(mistake.kind, MistakeKind::Malformed, "{text}");
        }
    }

    #[test]
    fn what_is_more_than_a_column_is_an_expression_and_tags_make_a_program() {
        let template = parse(
            "{\"a\": {{ row.x | plus: 1 }}, \"b\": \"{{ row.meta.x }}\", \"c\": [{{ row.l[0] }}, {{ \"}}\" }}]}",
        )
        .expect("valid");
        assert_eq!(
            compact(&template),
            r#"{"a":<expression Value>,"b":"<expression InString>","c":[<expression Value>,<expression Value>]}"#
        );
        assert_eq!(compact(&parse("{% if row.x %}{}{% endif %}").expect("valid")), "<program>");
    }

    #[test]
    fn hyphens_eat_the_whitespace_beside_a_hole() {
        let template =
            parse("{\"a\": \"x  {{- row.a -}}  y {{ row.b -}} \", \"c\": {{- row.c -}} }").expect("valid");
        assert_eq!(compact(&template), r#"{"a":"x<row a InString>y <row b InString>","c":<row c Value>}"#);
    }

    #[test]
    fn every_column_is_referred_to_with_its_place() {
        let template = parse(
            "{\"a\": {{ row.x }},\n \"b\": {{ old[\"Y y\"] | append: row.größe | append: \"row.no\" }},\n \"c\": {{ row | json }}}",
        )
        .expect("valid");
        let columns: Vec<_> = template
            .references()
            .columns
            .iter()
            .map(|reference| {
                (reference.side, reference.column.as_str(), reference.at.line, reference.at.column)
            })
            .collect();
        assert_eq!(columns, [(Side::Row, "x", 1, 7), (Side::Old, "Y y", 2, 10), (Side::Row, "größe", 2, 31)]);
        assert_eq!(template.references().whole, [(Side::Row, Position { line: 3, column: 10 })]);
    }

    #[test]
    fn a_path_is_literals_and_expressions() {
        let path = path("/customers/{{ row.id }}/wallets/{{ row.code | downcase }}").expect("valid");
        let literals: Vec<_> = path
            .pieces
            .iter()
            .map(|piece| match piece {
                PathPiece::Literal(text) => text.as_str(),
                PathPiece::Hole(_) => "<hole>",
            })
            .collect();
        assert_eq!(literals, ["/customers/", "<hole>", "/wallets/", "<hole>"]);
        assert_eq!(path.references().columns.len(), 2);
        assert_eq!(super::path("/{% if row.x %}").expect_err("a tag").kind, MistakeKind::Unsupported);
        assert_eq!(super::path("/x/{{ row.x").expect_err("open").at, Position { line: 1, column: 4 });
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_exhaust_the_stack() {
        assert!(parse(&"[".repeat(100_000)).expect_err("too deep").what.contains("deeply"));
    }

    fn json_with_holes() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<i32>().prop_map(|n| n.to_string()),
            "[a-z \\\\\"\n]{0,8}".prop_map(|s| serde_json::to_string(&s).unwrap_or_default()),
            Just("{{ row.x }}".to_owned()),
            Just("\"a {{ row.x }} b\"".to_owned()),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| format!("[ {} ]", items.join(" , "))),
                prop::collection::vec(inner, 0..4).prop_map(|items| {
                    let members: Vec<_> =
                        items.iter().enumerate().map(|(n, item)| format!("\"k{n}\" : {item}")).collect();
                    format!("{{ {} }}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_filled_template_is_valid_json_with_the_literal_parts_unchanged(text in json_with_holes(), value in any::<String>()) {
            let template = parse(&text).expect("generated templates are valid");
            let mut filled = Vec::new();
            for piece in &template.pieces {
                match piece {
                    Piece::Literal(literal) => filled.extend_from_slice(literal.as_bytes()),
                    Piece::Hole(Hole { place: Place::InString, .. }) => crate::json::push_escaped(&mut filled, value.as_bytes()),
                    Piece::Hole(_) => crate::json::push_string(&mut filled, value.as_bytes()),
                    Piece::Expression(_) | Piece::Program(_) => prop_assert!(false, "only plain holes here"),
                }
            }
            let filled: serde_json::Value = serde_json::from_slice(&filled).expect("valid JSON");
            let quoted = serde_json::to_string(&value).expect("a string");
            let expected = text.replace("\"a {{ row.x }} b\"", &serde_json::to_string(&format!("a {value} b")).expect("a string")).replace("{{ row.x }}", &quoted);
            prop_assert_eq!(filled, serde_json::from_str::<serde_json::Value>(&expected).expect("valid JSON"));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[{}\\[\\]\",:a-z0-9 %|.\\\\-]{0,40}") {
            let _ = parse(&text);
            let _ = path(&text);
        }
    }
}

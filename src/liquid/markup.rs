//! Markup: where in a template's text the holes `{{ }}` and tags `{% %}` are.
//!
//! First look at the text. It promises the next steps what stands between the delimiters, and whether
//! a hyphen eats the whitespace beside them.
#![forbid(unsafe_code)]

use crate::template::{Mistake, MistakeKind, Position};

/// A hole or tag. All numbers are byte offsets in the template's text.
#[derive(Clone, Copy, Debug)]
pub struct Markup<'a> {
    pub start: usize,
    pub inner: &'a str,
    pub inner_start: usize,
    pub end: usize,
    pub before: Whitespace,
    pub after: Whitespace,
}

/// What a delimiter does to the whitespace beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whitespace {
    Keep,
    Eat,
}

/// The line and column of a byte offset.
pub fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line_from = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.get(line_from..).unwrap_or_default();
    Position { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
}

pub fn malformed(at: Position, what: impl Into<String>, hint: impl Into<String>) -> Mistake {
    Mistake { kind: MistakeKind::Malformed, what: what.into(), at, hint: hint.into() }
}

pub fn unsupported(at: Position, what: impl Into<String>, hint: impl Into<String>) -> Mistake {
    Mistake { kind: MistakeKind::Unsupported, ..malformed(at, what, hint) }
}

/// Reads the markup whose opening delimiter stands at `start`.
pub fn read<'a>(text: &'a str, start: usize, close: &str) -> Result<Markup<'a>, Mistake> {
    let from = start + 2;
    let rest = text.get(from..).unwrap_or_default();
    if close == "}}" && rest.starts_with('%') {
        return Err(malformed(
            position(text, start),
            "a brace stands directly before a tag, and {{ begins a hole",
            "write a space between: { {% if row.column %}",
        ));
    }
    let Some(length) = end_of_inner(rest, close) else {
        let open = text.get(start..from).unwrap_or_default();
        return Err(malformed(
            position(text, start),
            format!("a {open} is not closed"),
            format!("add {close}"),
        ));
    };
    let inner = rest.get(..length).unwrap_or_default();
    let (inner, inner_start, before) = match inner.strip_prefix('-') {
        Some(inner) => (inner, from + 1, Whitespace::Eat),
        None => (inner, from, Whitespace::Keep),
    };
    let (inner, after) = match inner.strip_suffix('-') {
        Some(inner) => (inner, Whitespace::Eat),
        None => (inner, Whitespace::Keep),
    };
    Ok(Markup { start, inner, inner_start, end: from + length + close.len(), before, after })
}

/// The first closing delimiter outside quotes; if a quote is not closed, the first at all, so that
/// the mistake found is the quote.
fn end_of_inner(rest: &str, close: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in rest.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, _) if rest.get(at..).is_some_and(|rest| rest.starts_with(close)) => return Some(at),
            _ => {}
        }
    }
    rest.find(close)
}

/// Where the next `{{` or `{%` stands, from `from` on.
pub fn next(text: &str, from: usize) -> Option<(usize, Kind)> {
    let mut at = from;
    loop {
        at += text.get(at..)?.find('{')?;
        match text.as_bytes().get(at + 1) {
            Some(b'{') => return Some((at, Kind::Hole)),
            Some(b'%') => return Some((at, Kind::Tag)),
            _ => at += 1,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hole,
    Tag,
}

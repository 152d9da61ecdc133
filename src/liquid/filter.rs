//! Filters: their names, and one value made into another.
//!
//! What a filter cannot do with a value is a reason for a dead letter, never a guess: text that is no
//! number does not count as 0, as Liquid would have it, because the result would be billed.
#![forbid(unsafe_code)]

use super::number::{Impossible, Number};
use super::run::Rendering;
use super::value::{TOO_LARGE, Value};
use super::{Reason, library, lists, words};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    Plus,
    Minus,
    Times,
    DividedBy,
    Modulo,
    Round,
    Ceil,
    Floor,
    Abs,
    AtLeast,
    AtMost,
    Append,
    Prepend,
    Upcase,
    Downcase,
    Strip,
    StripLeft,
    StripRight,
    Remove,
    RemoveFirst,
    RemoveLast,
    Replace,
    ReplaceFirst,
    ReplaceLast,
    Slice,
    Split,
    Join,
    First,
    Last,
    Size,
    Sort,
    SortNatural,
    Reverse,
    Uniq,
    Map,
    Where,
    Sum,
    Concat,
    Compact,
    Default,
    Json,
    Date,
    Library(library::Filter),
}

/// Name, filter, fewest and most arguments.
const FILTERS: &[(&str, Filter, usize, usize)] = &[
    ("plus", Filter::Plus, 1, 1),
    ("minus", Filter::Minus, 1, 1),
    ("times", Filter::Times, 1, 1),
    ("divided_by", Filter::DividedBy, 1, 1),
    ("modulo", Filter::Modulo, 1, 1),
    ("round", Filter::Round, 0, 1),
    ("ceil", Filter::Ceil, 0, 0),
    ("floor", Filter::Floor, 0, 0),
    ("abs", Filter::Abs, 0, 0),
    ("at_least", Filter::AtLeast, 1, 1),
    ("at_most", Filter::AtMost, 1, 1),
    ("append", Filter::Append, 1, 1),
    ("prepend", Filter::Prepend, 1, 1),
    ("upcase", Filter::Upcase, 0, 0),
    ("downcase", Filter::Downcase, 0, 0),
    ("strip", Filter::Strip, 0, 0),
    ("lstrip", Filter::StripLeft, 0, 0),
    ("rstrip", Filter::StripRight, 0, 0),
    ("remove", Filter::Remove, 1, 1),
    ("remove_first", Filter::RemoveFirst, 1, 1),
    ("remove_last", Filter::RemoveLast, 1, 1),
    ("replace", Filter::Replace, 1, 2),
    ("replace_first", Filter::ReplaceFirst, 1, 2),
    ("replace_last", Filter::ReplaceLast, 1, 2),
    ("slice", Filter::Slice, 1, 2),
    ("split", Filter::Split, 1, 1),
    ("join", Filter::Join, 0, 1),
    ("first", Filter::First, 0, 0),
    ("last", Filter::Last, 0, 0),
    ("size", Filter::Size, 0, 0),
    ("sort", Filter::Sort, 0, 1),
    ("sort_natural", Filter::SortNatural, 0, 1),
    ("reverse", Filter::Reverse, 0, 0),
    ("uniq", Filter::Uniq, 0, 1),
    ("map", Filter::Map, 1, 1),
    ("where", Filter::Where, 1, 2),
    ("sum", Filter::Sum, 0, 1),
    ("concat", Filter::Concat, 1, 1),
    ("compact", Filter::Compact, 0, 1),
    ("default", Filter::Default, 1, 2),
    ("json", Filter::Json, 0, 0),
    ("date", Filter::Date, 1, 1),
    ("capitalize", Filter::Library(library::Filter::Capitalize), 0, 0),
    ("escape", Filter::Library(library::Filter::Escape), 0, 0),
    ("escape_once", Filter::Library(library::Filter::EscapeOnce), 0, 0),
    ("newline_to_br", Filter::Library(library::Filter::NewlineToBr), 0, 0),
    ("strip_html", Filter::Library(library::Filter::StripHtml), 0, 0),
    ("strip_newlines", Filter::Library(library::Filter::StripNewlines), 0, 0),
    ("truncate", Filter::Library(library::Filter::Truncate), 0, 2),
    ("truncatewords", Filter::Library(library::Filter::TruncateWords), 0, 2),
    ("url_encode", Filter::Library(library::Filter::UrlEncode), 0, 0),
    ("url_decode", Filter::Library(library::Filter::UrlDecode), 0, 0),
];

pub fn find(name: &str) -> Option<Filter> {
    FILTERS.iter().find(|(known, ..)| *known == name).map(|(_, filter, ..)| *filter)
}

fn entry(filter: Filter) -> Option<&'static (&'static str, Filter, usize, usize)> {
    FILTERS.iter().find(|(_, known, ..)| *known == filter)
}

pub fn name(filter: Filter) -> &'static str {
    entry(filter).map_or("", |(name, ..)| name)
}

/// How many arguments a filter takes, at least and at most.
pub fn arity(filter: Filter) -> (usize, usize) {
    entry(filter).map_or((0, 0), |(_, _, least, most)| (*least, *most))
}

/// The filter whose name is closest to `wanted`, if one is close enough to be what was meant.
pub fn nearest(wanted: &str) -> Option<&'static str> {
    let names: Vec<&str> = FILTERS.iter().map(|(name, ..)| *name).collect();
    crate::nearest::nearest(wanted, &names)
}

/// Applies a filter to values that are all known. What it does depends on nothing else, and calls
/// nothing of PostgreSQL: that is why a panic may be caught around it.
pub fn apply<'r>(
    filter: Filter,
    input: Value<'r>,
    arguments: &[Value<'r>],
    rendering: &'r Rendering<'_>,
) -> Result<Value<'r>, Reason> {
    let first = arguments.first().unwrap_or(&Value::Nil);
    let second = arguments.get(1);
    if let Value::Text(text) = &input {
        rendering.step(text.len() as u64 / 256)?;
    }
    match filter {
        Filter::Plus => arithmetic(&input, first, rendering, Number::plus),
        Filter::Minus => arithmetic(&input, first, rendering, Number::minus),
        Filter::Times => arithmetic(&input, first, rendering, Number::times),
        Filter::DividedBy => arithmetic(&input, first, rendering, Number::divided_by),
        Filter::Modulo => arithmetic(&input, first, rendering, Number::modulo),
        Filter::AtLeast => arithmetic(&input, first, rendering, |a, b| Ok(a.at_least(b))),
        Filter::AtMost => arithmetic(&input, first, rendering, |a, b| Ok(a.at_most(b))),
        Filter::Round => {
            let digits = match arguments.first() {
                None => 0,
                Some(digits) => integer(digits)?,
            };
            rendering.step((digits.unsigned_abs() / 256).saturating_mul(digits.unsigned_abs() / 256))?;
            one_number(&input, rendering, |number| number.round(digits))
        }
        Filter::Ceil => one_number(&input, rendering, Number::ceil),
        Filter::Floor => one_number(&input, rendering, Number::floor),
        Filter::Abs => one_number(&input, rendering, Number::abs),
        Filter::Default => {
            let keeps_false = second.is_some_and(Value::is_true) && matches!(input, Value::Bool(_));
            let replace = !keeps_false && (!input.is_true() || input.is_empty());
            Ok(if replace { first.clone() } else { input })
        }
        Filter::Json => Ok(input),
        Filter::Date => library::date(input, first, rendering),
        Filter::Library(filter) => library::apply(filter, input, arguments, rendering),
        Filter::Append
        | Filter::Prepend
        | Filter::Upcase
        | Filter::Downcase
        | Filter::Strip
        | Filter::StripLeft
        | Filter::StripRight
        | Filter::Remove
        | Filter::RemoveFirst
        | Filter::RemoveLast
        | Filter::Replace
        | Filter::ReplaceFirst
        | Filter::ReplaceLast => words::apply(filter, &input, arguments, rendering),
        Filter::Slice
        | Filter::Split
        | Filter::Join
        | Filter::First
        | Filter::Last
        | Filter::Size
        | Filter::Sort
        | Filter::SortNatural
        | Filter::Reverse
        | Filter::Uniq
        | Filter::Map
        | Filter::Where
        | Filter::Sum
        | Filter::Concat
        | Filter::Compact => lists::apply(filter, input, arguments, rendering),
    }
}

/// The integer an argument has to be.
pub fn integer(value: &Value<'_>) -> Result<i64, Reason> {
    match value.as_number() {
        Some(Ok(number)) => number.as_index().ok_or_else(|| "an argument is not an integer".to_owned()),
        _ => Err("an argument is not an integer".into()),
    }
}

pub fn impossible(why: Impossible) -> Reason {
    match why {
        Impossible::DivisionByZero => "division by zero".into(),
        Impossible::TooLarge => TOO_LARGE.into(),
    }
}

pub fn number(value: &Value<'_>, what: &str) -> Result<Number, Reason> {
    match (value, value.as_number()) {
        (_, Some(number)) => number.map_err(impossible),
        (Value::Nil, None) => Err(format!("{what} is null; put default: 0 before it if that is meant")),
        (Value::NotFinite(_), None) => Err(format!("{what} is infinite or not a number")),
        (_, None) => Err(format!("{what} is not a number")),
    }
}

fn arithmetic<'r>(
    input: &Value<'r>,
    argument: &Value<'r>,
    rendering: &Rendering<'_>,
    operation: impl FnOnce(Number, Number) -> Result<Number, Impossible>,
) -> Result<Value<'r>, Reason> {
    let (a, b) = (number(input, "the input")?, number(argument, "the argument")?);
    rendering.step(a.weight().saturating_add(b.weight()))?;
    operation(a, b).map(Value::Number).map_err(impossible)
}

fn one_number<'r>(
    input: &Value<'r>,
    rendering: &Rendering<'_>,
    operation: impl FnOnce(Number) -> Result<Number, Impossible>,
) -> Result<Value<'r>, Reason> {
    let input = number(input, "the input")?;
    rendering.step(input.weight())?;
    operation(input).map(Value::Number).map_err(impossible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognized() {
        assert_eq!(nearest("upcaes"), Some("upcase"));
        assert_eq!(nearest("divide_by"), Some("divided_by"));
        assert_eq!(nearest("xyzzy"), None);
    }

    #[test]
    fn every_filter_stands_once_in_the_table() {
        for (at, (name, filter, least, most)) in FILTERS.iter().enumerate() {
            assert!(least <= most, "{name}");
            assert!(
                FILTERS.iter().skip(at + 1).all(|(other, same, ..)| other != name && same != filter),
                "{name}"
            );
        }
    }
}

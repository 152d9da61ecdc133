//! Filters on arrays, and between arrays and text.
//!
//! Every item a filter makes counts as a step, so that no chain of them fills the memory.
#![forbid(unsafe_code)]

use super::Reason;
use super::filter::{self, Filter};
use super::number::Number;
use super::run::Rendering;
use super::value::{Text, Value};
use std::cmp::Ordering;
use std::rc::Rc;

pub fn apply<'r>(
    filter: Filter,
    input: Value<'r>,
    arguments: &[Value<'r>],
    rendering: &'r Rendering<'_>,
) -> Result<Value<'r>, Reason> {
    let first = arguments.first();
    match filter {
        Filter::Size => Ok(match &input {
            Value::Text(text) => Value::integer(text.chars().count()),
            other if other.is_collection() => Value::integer(other.length(rendering)),
            _ => Value::integer(0),
        }),
        Filter::First => ends(&input, "first", rendering),
        Filter::Last => ends(&input, "last", rendering),
        Filter::Split => split(&input, first, rendering),
        Filter::Slice => slice(&input, arguments, rendering),
        Filter::Join => join(input, first, rendering),
        Filter::Sum => sum(input, first, rendering),
        _ => {
            let items = items(input, rendering)?;
            list(change(filter, items, arguments, rendering)?)
        }
    }
}

fn list<'r>(items: Vec<Value<'r>>) -> Result<Value<'r>, Reason> {
    Ok(Value::List(Rc::new(items)))
}

/// The items of an array, or the one value there is; nothing for nil.
fn items<'r>(input: Value<'r>, rendering: &'r Rendering<'_>) -> Result<Vec<Value<'r>>, Reason> {
    match input {
        Value::Nil => Ok(Vec::new()),
        Value::Json(serde_json::Value::Object(_)) => Ok(vec![input]),
        collection if collection.is_collection() => {
            let length = collection.length(rendering);
            rendering.step(length as u64)?;
            (0..length).map(|at| collection.item(at, rendering)).collect()
        }
        other => Ok(vec![other]),
    }
}

fn property<'r>(
    item: &Value<'r>,
    name: Option<&Value<'r>>,
    rendering: &'r Rendering<'_>,
) -> Result<Value<'r>, Reason> {
    match name {
        Some(name) => item.member(name, rendering),
        None => Ok(item.clone()),
    }
}

fn change<'r>(
    filter: Filter,
    mut items: Vec<Value<'r>>,
    arguments: &[Value<'r>],
    rendering: &'r Rendering<'_>,
) -> Result<Vec<Value<'r>>, Reason> {
    let first = arguments.first();
    match filter {
        Filter::Reverse => items.reverse(),
        Filter::Map => {
            return items.iter().map(|item| property(item, first, rendering)).collect();
        }
        Filter::Concat => {
            let more = first.cloned().unwrap_or(Value::Nil);
            if !more.is_collection() {
                return Err("the argument is not an array".into());
            }
            items.extend(self::items(more, rendering)?);
        }
        Filter::Compact => {
            let mut kept = Vec::with_capacity(items.len());
            for item in items {
                if !matches!(property(&item, first, rendering)?, Value::Nil) {
                    kept.push(item);
                }
            }
            return Ok(kept);
        }
        Filter::Where => {
            let mut kept = Vec::new();
            for item in items {
                let found = property(&item, first, rendering)?;
                let keep = match arguments.get(1) {
                    Some(wanted) => found.equals(wanted, rendering)?,
                    None => found.is_true(),
                };
                if keep {
                    kept.push(item);
                }
            }
            return Ok(kept);
        }
        Filter::Uniq => {
            let mut kept: Vec<(Value<'r>, Value<'r>)> = Vec::new();
            for item in items {
                let key = property(&item, first, rendering)?;
                let mut known = false;
                for (other, _) in &kept {
                    rendering.step(1)?;
                    known = known || key.equals(other, rendering)?;
                }
                if !known {
                    kept.push((key, item));
                }
            }
            return Ok(kept.into_iter().map(|(_, item)| item).collect());
        }
        Filter::Sort | Filter::SortNatural => return sort(filter, items, first, rendering),
        _ => {}
    }
    Ok(items)
}

/// Nil goes last, as in Liquid. Values of different kinds have an order too, so that sorting is
/// always possible: numbers, then text, then the rest in the order they came.
fn sort<'r>(
    filter: Filter,
    items: Vec<Value<'r>>,
    name: Option<&Value<'r>>,
    rendering: &'r Rendering<'_>,
) -> Result<Vec<Value<'r>>, Reason> {
    let mut keyed = Vec::with_capacity(items.len());
    for item in items {
        let key = property(&item, name, rendering)?;
        let key = match filter {
            Filter::SortNatural if !matches!(key, Value::Nil) => {
                Value::made(key.text(rendering)?.to_lowercase())
            }
            _ => key,
        };
        keyed.push((key, item));
    }
    let rank = |value: &Value<'_>| match value {
        Value::Number(_) => 0,
        Value::Text(_) => 1,
        Value::Moment(_) => 2,
        Value::Nil => 4,
        _ => 3,
    };
    keyed.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| a.order(b).unwrap_or(Ordering::Equal)));
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

fn ends<'r>(input: &Value<'r>, which: &str, rendering: &'r Rendering<'_>) -> Result<Value<'r>, Reason> {
    match input {
        Value::Text(text) => {
            let c = if which == "first" { text.chars().next() } else { text.chars().next_back() };
            Ok(c.map_or(Value::Nil, |c| Value::made(c.to_string())))
        }
        Value::Json(serde_json::Value::Object(_)) if which == "first" => input.item(0, rendering),
        other if other.is_collection() => other.named(which, rendering),
        _ => Ok(Value::Nil),
    }
}

fn split<'r>(
    input: &Value<'r>,
    separator: Option<&Value<'r>>,
    rendering: &'r Rendering<'_>,
) -> Result<Value<'r>, Reason> {
    let text = input.text(rendering)?;
    let separator = separator.map_or(Ok(Text::Borrowed("")), |value| value.text(rendering))?;
    let mut parts = Vec::new();
    let mut add = |part: &str| {
        rendering.step(1)?;
        parts.push(Value::made(part.to_owned()));
        Ok::<(), Reason>(())
    };
    if separator.is_empty() {
        for (at, c) in text.char_indices() {
            add(text.get(at..at + c.len_utf8()).unwrap_or_default())?;
        }
    } else if *separator == *" " {
        for part in text.split_whitespace() {
            add(part)?;
        }
    } else {
        for part in text.split(&*separator) {
            add(part)?;
        }
    }
    // Ruby drops what is empty at the end.
    while matches!(parts.last(), Some(Value::Text(part)) if part.is_empty()) {
        parts.pop();
    }
    list(parts)
}

fn slice<'r>(
    input: &Value<'r>,
    arguments: &[Value<'r>],
    rendering: &'r Rendering<'_>,
) -> Result<Value<'r>, Reason> {
    let from = filter::integer(arguments.first().unwrap_or(&Value::Nil))?;
    let wanted = arguments.get(1).map_or(Ok(1), filter::integer)?;
    let place = |length: usize| {
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        let from = if from < 0 { length.saturating_add(from) } else { from };
        let inside = (0..=length).contains(&from);
        let count = if inside { wanted.clamp(0, length - from) } else { 0 };
        (usize::try_from(from).unwrap_or(0), usize::try_from(count).unwrap_or(0))
    };
    if input.is_collection() {
        let items = items(input.clone(), rendering)?;
        let (from, count) = place(items.len());
        return list(items.into_iter().skip(from).take(count).collect());
    }
    let text = input.text(rendering)?;
    let (from, count) = place(text.chars().count());
    Ok(Value::made(text.chars().skip(from).take(count).collect()))
}

fn join<'r>(
    input: Value<'r>,
    separator: Option<&Value<'r>>,
    rendering: &'r Rendering<'_>,
) -> Result<Value<'r>, Reason> {
    let separator = separator.map_or(Ok(Text::Borrowed(" ")), |value| value.text(rendering))?;
    let mut joined = String::new();
    for (at, item) in items(input, rendering)?.iter().enumerate() {
        if at > 0 {
            joined.push_str(&separator);
        }
        joined.push_str(&item.text(rendering)?);
        rendering.check_size(joined.len())?;
    }
    rendering.step(joined.len() as u64 / 256)?;
    Ok(Value::made(joined))
}

/// Adds up; what is null counts nothing, as in SQL.
fn sum<'r>(
    input: Value<'r>,
    name: Option<&Value<'r>>,
    rendering: &'r Rendering<'_>,
) -> Result<Value<'r>, Reason> {
    let mut total = Number::Integer(0);
    for item in items(input, rendering)? {
        let value = property(&item, name, rendering)?;
        if !matches!(value, Value::Nil) {
            let number = filter::number(&value, "an item")?;
            rendering.step(number.weight().saturating_add(total.weight()))?;
            total = total.plus(number).map_err(filter::impossible)?;
        }
    }
    Ok(Value::Number(total))
}

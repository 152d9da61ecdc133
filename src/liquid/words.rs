//! Filters that make text out of text.
#![forbid(unsafe_code)]

use super::Reason;
use super::filter::Filter;
use super::run::Rendering;
use super::value::{Text, Value};

pub fn apply<'r>(
    filter: Filter,
    input: &Value<'r>,
    arguments: &[Value<'r>],
    rendering: &'r Rendering<'_>,
) -> Result<Value<'r>, Reason> {
    let argument =
        |at: usize| arguments.get(at).map_or(Ok(Text::Borrowed("")), |value| value.text(rendering));
    let text = input.text(rendering)?;
    let (first, second) = (argument(0)?, argument(1)?);
    let made = match filter {
        Filter::Append | Filter::Prepend => {
            rendering.check_size(text.len().saturating_add(first.len()))?;
            let (left, right) = if filter == Filter::Append { (&text, &first) } else { (&first, &text) };
            let mut made = String::with_capacity(left.len() + right.len());
            made.push_str(left);
            made.push_str(right);
            made
        }
        Filter::Upcase => text.to_uppercase(),
        Filter::Downcase => text.to_lowercase(),
        Filter::Strip => text.trim().to_owned(),
        Filter::StripLeft => text.trim_start().to_owned(),
        Filter::StripRight => text.trim_end().to_owned(),
        Filter::Remove => text.replace(&*first, ""),
        Filter::Replace => {
            let added = text.matches(&*first).count().saturating_mul(second.len());
            rendering.check_size(text.len().saturating_add(added))?;
            text.replace(&*first, &second)
        }
        Filter::RemoveFirst => text.replacen(&*first, "", 1),
        Filter::ReplaceFirst => text.replacen(&*first, &second, 1),
        Filter::RemoveLast => replace_last(&text, &first, ""),
        Filter::ReplaceLast => replace_last(&text, &first, &second),
        _ => return Ok(input.clone()),
    };
    rendering.check_size(made.len())?;
    rendering.step(made.len() as u64 / 256)?;
    Ok(Value::made(made))
}

fn replace_last(text: &str, wanted: &str, replacement: &str) -> String {
    match text.rsplit_once(wanted) {
        Some((before, after)) => format!("{before}{replacement}{after}"),
        None => text.to_owned(),
    }
}

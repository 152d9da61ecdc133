//! Filters that are the `liquid` crates': text whose rules are intricate, and dates.
//!
//! Values are handed over as text, and text comes back; no number passes through here, because
//! theirs are doubles.
#![forbid(unsafe_code)]

use super::run::Rendering;
use super::value::Value;
use super::{CLOCK, Clock, Reason};
use liquid_core::model::DateTime;
use liquid_core::parser::{FilterArguments, ParseFilter};
use liquid_core::runtime::{Expression, RuntimeBuilder};
use liquid_core::{Value as Liquid, ValueView};
use liquid_lib::stdlib;
use time::{Date, Duration, Month, OffsetDateTime, Time, UtcOffset};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    Capitalize,
    Escape,
    EscapeOnce,
    NewlineToBr,
    StripHtml,
    StripNewlines,
    Truncate,
    TruncateWords,
    UrlEncode,
    UrlDecode,
}

pub fn apply<'r>(
    filter: Filter,
    input: Value<'r>,
    arguments: &[Value<'r>],
    rendering: &'r Rendering<'_>,
) -> Result<Value<'r>, Reason> {
    if matches!(input, Value::Nil) {
        return Ok(input);
    }
    let parser: &dyn ParseFilter = match filter {
        Filter::Capitalize => &stdlib::Capitalize,
        Filter::Escape => &stdlib::Escape,
        Filter::EscapeOnce => &stdlib::EscapeOnce,
        Filter::NewlineToBr => &stdlib::NewlineToBr,
        Filter::StripHtml => &stdlib::StripHtml,
        Filter::StripNewlines => &stdlib::StripNewlines,
        Filter::Truncate => &stdlib::Truncate,
        Filter::TruncateWords => &stdlib::TruncateWords,
        Filter::UrlEncode => &stdlib::UrlEncode,
        Filter::UrlDecode => &stdlib::UrlDecode,
    };
    let mut handed = Vec::with_capacity(arguments.len());
    for (at, argument) in arguments.iter().enumerate() {
        // The first argument of the truncating filters is a length, all others are text.
        handed.push(if at == 0 {
            let length = super::filter::integer(argument)?;
            Expression::Literal(Liquid::scalar(length.max(0)))
        } else {
            Expression::Literal(Liquid::scalar(argument.text(rendering)?.to_string()))
        });
    }
    let arguments =
        FilterArguments { positional: Box::new(handed.into_iter()), keyword: Box::new(std::iter::empty()) };
    let input = Liquid::scalar(input.text(rendering)?.to_string());
    let runtime = RuntimeBuilder::new().build();
    // Their errors may quote the value; ours must not.
    let result = parser
        .parse(arguments)
        .and_then(|filter| filter.evaluate(&input, &runtime))
        .map_err(|_| "the input is not what this filter takes".to_owned())?;
    let made = result.to_kstr().into_owned().into_string();
    rendering.check_size(made.len())?;
    rendering.step(made.len() as u64 / 256)?;
    Ok(Value::made(made))
}

/// Longer formats, and wider padding, are no format a person would write but could fill the memory.
const LONGEST_FORMAT: usize = 256;
const WIDEST_PADDING: usize = 2;

/// Formats a moment, Unix seconds or text that is a date, in UTC unless the text says otherwise.
pub fn date<'r>(
    input: Value<'r>,
    format: &Value<'r>,
    rendering: &'r Rendering<'_>,
) -> Result<Value<'r>, Reason> {
    let format = format.text(rendering)?;
    if matches!(input, Value::Nil) || format.is_empty() {
        return Ok(input);
    }
    let is_wide = |digits: &str| digits.trim_start_matches('0').len() > WIDEST_PADDING;
    if format.len() > LONGEST_FORMAT || format.split(|c: char| !c.is_ascii_digit()).any(is_wide) {
        return Err("the format is too long".into());
    }
    let not_a_time = || "the input is not a time".to_owned();
    let moment = match &input {
        Value::Moment(moment) => from_micros(i128::from(moment.unix_micros)),
        Value::Number(number) => number.as_micros().and_then(from_micros),
        Value::Text(text) => match input.as_number() {
            Some(Ok(number)) => number.as_micros().and_then(from_micros),
            Some(Err(_)) => None,
            None if is_now(text) && rendering.clock() == Clock::Refused => return Err(CLOCK.into()),
            None => iso(text.trim()).or_else(|| DateTime::from_str(text).map(|moment| *moment)),
        },
        _ => None,
    };
    let mut formatted = DateTime::default();
    *formatted = moment.ok_or_else(not_a_time)?;
    let text = formatted.format(&format).map_err(|_| "the format is not one of strftime".to_owned())?;
    Ok(Value::made(text))
}

/// The words that Liquid takes for the present moment.
fn is_now(text: &str) -> bool {
    let text = text.trim();
    text.eq_ignore_ascii_case("now") || text.eq_ignore_ascii_case("today")
}

fn from_micros(micros: i128) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(micros.checked_mul(1000)?).ok()
}

/// Reads ISO 8601 as PostgreSQL, JSON and people write it: a date, perhaps a time, perhaps an offset.
fn iso(text: &str) -> Option<OffsetDateTime> {
    let number = |from: usize, to: usize| -> Option<u8> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let year: i32 =
        text.get(..4).filter(|year| year.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
    let separated =
        |at: usize, separators: &[u8]| text.as_bytes().get(at).is_some_and(|byte| separators.contains(byte));
    if !separated(4, b"-") || !separated(7, b"-") {
        return None;
    }
    let date = Date::from_calendar_date(year, Month::try_from(number(5, 7)?).ok()?, number(8, 10)?).ok()?;
    if text.len() == 10 {
        return Some(date.midnight().assume_utc());
    }
    if !separated(10, b"T t") || !separated(13, b":") {
        return None;
    }
    let (hour, minute) = (number(11, 13)?, number(14, 16)?);
    let mut rest = text.get(16..)?;
    let (mut second, mut nanosecond) = (0, 0u32);
    if rest.starts_with(':') {
        second = number(17, 19)?;
        rest = text.get(19..)?;
        if let Some(fraction) = rest.strip_prefix(['.', ',']) {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            let nanos: String = fraction.get(..digits)?.chars().chain("000000000".chars()).take(9).collect();
            nanosecond = nanos.parse().ok()?;
            rest = fraction.get(digits..)?;
        }
    }
    let time = Time::from_hms_nano(hour, minute, second, nanosecond).ok()?;
    Some(date.with_time(time).assume_offset(offset(rest.trim())?))
}

/// `Z`, `+02`, `+0200`, `+02:00`, or nothing, which is UTC.
fn offset(text: &str) -> Option<UtcOffset> {
    if matches!(text, "" | "Z" | "z" | "UTC") {
        return Some(UtcOffset::UTC);
    }
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits.replace(':', "")),
        ("-", digits) => (-1, digits.replace(':', "")),
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let hours: i64 = digits.get(..2)?.parse().ok()?;
    let minutes: i64 = match digits.get(2..)? {
        "" => 0,
        minutes => minutes.parse().ok()?,
    };
    let seconds = Duration::minutes(sign * (hours * 60 + minutes)).whole_seconds();
    UtcOffset::from_whole_seconds(i32::try_from(seconds).ok()?).ok()
}

//! Numbers as text, read the way Lago's server reads them.
//!
//! The server is written in Ruby: timestamps go through the strict `BigDecimal(text)`, amounts through
//! the lenient `text.to_d`, and JSON fractions through a double. Everything here is pure.

use std::str::FromStr;

use bigdecimal::{BigDecimal, RoundingMode};

/// A decimal number as `digits × 10^exponent`, kept as text so that an absurd exponent costs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    negative: bool,
    /// Without leading zeros; empty for zero.
    digits: String,
    exponent: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    Number(Plain),
    /// `NaN`, `Infinity` or `-Infinity`.
    NotFinite,
    Invalid,
}

impl Plain {
    fn new(negative: bool, whole: &str, fraction: &str, exponent: i64) -> Plain {
        let mut digits = String::with_capacity(whole.len() + fraction.len());
        digits.extend(whole.chars().chain(fraction.chars()).filter(|c| *c != '_').skip_while(|c| *c == '0'));
        let fraction_digits = fraction.bytes().filter(u8::is_ascii_digit).count();
        let exponent = exponent.saturating_sub(i64::try_from(fraction_digits).unwrap_or(i64::MAX));
        Plain { negative, digits, exponent }
    }

    /// Digits before the decimal point; zero or negative for numbers below one.
    fn magnitude(&self) -> i64 {
        match self.digits.len() {
            0 => 0,
            digits => self.exponent.saturating_add(i64::try_from(digits).unwrap_or(i64::MAX)),
        }
    }

    /// The number times `10^places`, rounded towards minus infinity; `None` beyond 30 digits.
    pub fn scaled_floor(&self, places: i64) -> Option<i128> {
        let exponent = self.exponent.saturating_add(places);
        let magnitude = self.magnitude().saturating_add(places);
        if self.digits.is_empty() {
            return Some(0);
        }
        if magnitude > 30 {
            return None;
        }
        if exponent >= 0 {
            let value = self.digits.parse::<i128>().ok()? * 10i128.pow(u32::try_from(exponent).ok()?);
            return Some(if self.negative { -value } else { value });
        }
        let kept = usize::try_from(magnitude.max(0)).ok()?;
        let whole = if kept == 0 { 0 } else { self.digits.get(..kept)?.parse::<i128>().ok()? };
        let remainder = self.digits.bytes().skip(kept).any(|digit| digit != b'0');
        Some(match self.negative {
            true => -whole - i128::from(remainder),
            false => whole,
        })
    }

    fn to_big(&self) -> Option<BigDecimal> {
        let sign = if self.negative { "-" } else { "" };
        let digits = if self.digits.is_empty() { "0" } else { &self.digits };
        BigDecimal::from_str(&format!("{sign}{digits}e{}", self.exponent)).ok()
    }
}

/// The length of a run of digits in which single underscores may separate digits.
fn digit_run(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut length = 0;
    while length < bytes.len() {
        let separator = bytes[length] == b'_'
            && length > 0
            && bytes[length - 1] != b'_'
            && bytes.get(length + 1).is_some_and(u8::is_ascii_digit);
        if !bytes[length].is_ascii_digit() && !separator {
            break;
        }
        length += 1;
    }
    length
}

/// Splits sign, digits, fraction and exponent off the front. Returns the number and what follows it.
fn leading_number(text: &str) -> Option<(Plain, &str)> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, mut rest) = unsigned.split_at(digit_run(unsigned));
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        let length = digit_run(after);
        if length > 0 {
            (fraction, rest) = after.split_at(length);
        }
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut exponent = 0;
    if let Some(after) = rest.strip_prefix(['e', 'E', 'd', 'D']) {
        let (sign, digits) = match after.as_bytes().first() {
            Some(b'-') => (-1, &after[1..]),
            Some(b'+') => (1, &after[1..]),
            _ => (1, after),
        };
        let length = digit_run(digits);
        if length > 0 {
            let value: String = digits[..length].chars().filter(char::is_ascii_digit).collect();
            exponent = sign * value.parse::<i64>().unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
            rest = &digits[length..];
        }
    }
    Some((Plain::new(negative, whole, fraction, exponent), rest))
}

fn not_finite(text: &str) -> bool {
    matches!(text, "NaN" | "Infinity" | "+Infinity" | "-Infinity")
}

/// `BigDecimal(text)`: surrounding white space, underscores between digits, a leading point and
/// exponents are fine; an empty text, a trailing point and anything after the number are not.
pub fn read_strict(text: &str) -> Read {
    let text = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    if not_finite(text) {
        return Read::NotFinite;
    }
    match leading_number(text) {
        Some((number, "")) => Read::Number(number),
        _ => Read::Invalid,
    }
}

/// A number of a size in which amounts occur; `None` for everything else.
pub fn number(text: &str) -> Option<BigDecimal> {
    match read_strict(text) {
        Read::Number(number) if number.magnitude().abs() <= 40 && number.exponent >= -40 => number.to_big(),
        Read::Number(_) | Read::NotFinite | Read::Invalid => None,
    }
}

/// The text Ruby prints for a JSON number: integers as written, everything else through a double.
pub fn ruby_text(number: &str) -> String {
    if !number.contains(['.', 'e', 'E']) {
        return if number == "-0" { "0".to_owned() } else { number.to_owned() };
    }
    match number.parse::<f64>() {
        Ok(value) if value.is_infinite() => if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        Ok(value) => float_text(value),
        Err(_) => number.to_owned(),
    }
}

/// `Float#to_s`: the shortest digits that read back, in scientific notation outside 1e-4 to 1e16.
fn float_text(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-4..1e16).contains(&magnitude) {
        let text = value.to_string();
        return if text.contains('.') { text } else { format!("{text}.0") };
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}{point}e{sign}{digits:0>2}")
}

/// What becomes of `precise_total_amount_cents`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amount {
    Absent,
    /// As the reply prints it: never an exponent, always a decimal point.
    Value(String),
    /// Does not fit `numeric(40,15)`.
    Overflow,
}

/// An amount given as text: `text.to_d` (a text that is not a number counts as 0), rounded to the 15
/// decimals of its column.
pub fn read_amount(text: &str) -> Amount {
    if text.trim().is_empty() {
        return Amount::Absent;
    }
    let text = text.trim_start();
    if text == "NaN" {
        return Amount::Value("NaN".to_owned());
    }
    if not_finite(text) {
        return Amount::Overflow;
    }
    let Some((number, _)) = leading_number(text) else { return Amount::Value("0.0".to_owned()) };
    if number.magnitude() > 25 {
        return Amount::Overflow;
    }
    if number.magnitude() < -20 {
        return Amount::Value("0.0".to_owned());
    }
    let Some(value) = number.to_big() else { return Amount::Value("0.0".to_owned()) };
    let text = plain_text(&value.with_scale_round(15, RoundingMode::HalfUp));
    Amount::Value(if text.contains('.') { text } else { format!("{text}.0") })
}

/// The shortest plain notation: no exponent, no trailing zeros, no `-0`.
pub fn plain_text(value: &BigDecimal) -> String {
    value.normalized().to_plain_string()
}

/// The Postgres store aggregates a property only if its text matches `^-?\d+(\.\d+)?$`.
pub fn counted_by_postgres(text: &str) -> Option<BigDecimal> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = match unsigned.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (unsigned, None),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !fraction.is_none_or(digits) {
        return None;
    }
    BigDecimal::from_str(text).ok()
}

/// What a `Decimal(38,26)` column makes of a text: 12 digits before the point, 26 after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClickHouseNumber {
    Value(BigDecimal),
    /// Too large: counted as 0.
    DoesNotFit,
    /// Not a number: counted as 0.
    NotNumeric,
}

pub fn counted_by_clickhouse(text: &str) -> ClickHouseNumber {
    let number = match leading_number(text) {
        Some((number, "")) if !text.contains(['_', 'd', 'D']) => number,
        _ => return ClickHouseNumber::NotNumeric,
    };
    if number.magnitude() > 12 {
        return ClickHouseNumber::DoesNotFit;
    }
    if number.magnitude() < -26 {
        return ClickHouseNumber::Value(BigDecimal::from(0));
    }
    match number.to_big() {
        Some(value) => ClickHouseNumber::Value(value.with_scale_round(26, RoundingMode::Down)),
        None => ClickHouseNumber::NotNumeric,
    }
}

/// A JSON number of `properties` as a value: integers are exact, the rest goes through a double.
pub fn json_number(text: &str) -> Option<BigDecimal> {
    match read_strict(&ruby_text(text)) {
        Read::Number(number) => number.to_big(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> Option<i128> {
        match read_strict(text) {
            Read::Number(number) => number.scaled_floor(6),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn strict_text_is_read_as_ruby_reads_it() {
        assert_eq!(micros("1710421740"), Some(1_710_421_740_000_000));
        assert_eq!(micros("1710421740.1234567"), Some(1_710_421_740_123_456));
        assert_eq!(micros("1e9"), Some(1_000_000_000_000_000));
        assert_eq!(micros(" 12 "), Some(12_000_000));
        assert_eq!(micros("1_000"), Some(1_000_000_000));
        assert_eq!(micros("-1.0000001"), Some(-1_000_001));
        assert_eq!(micros("-0.5"), Some(-500_000));
        assert_eq!(micros(".5"), Some(500_000));
        assert_eq!(micros("0"), Some(0));
        assert_eq!(micros("1e-400"), Some(0));
        assert_eq!(micros("-1e-400"), Some(-1));
        assert_eq!(micros("1e400"), None);
        assert_eq!(micros("1e99999999999999999999"), None);
        for text in ["NaN", "Infinity", "-Infinity", " NaN "] {
            assert_eq!(read_strict(text), Read::NotFinite, "{text}");
        }
        for text in
            ["", " ", "5.", "1e", "1__0", "_1", "1_", "true", "2024-12-10T00:00:00Z", "1 2", "nan", "é", "-"]
        {
            assert_eq!(read_strict(text), Read::Invalid, "{text}");
        }
    }

    #[test]
    fn json_fractions_go_through_a_double() {
        assert_eq!(ruby_text("1710421740"), "1710421740");
        assert_eq!(ruby_text("12345678901234567890123"), "12345678901234567890123");
        assert_eq!(ruby_text("0.1234567890123456789"), "0.12345678901234568");
        assert_eq!(ruby_text("1.0"), "1.0");
        assert_eq!(ruby_text("1e2"), "100.0");
        assert_eq!(ruby_text("1e20"), "1.0e+20");
        assert_eq!(ruby_text("1e-7"), "1.0e-07");
        assert_eq!(ruby_text("1e400"), "Infinity");
    }

    #[test]
    fn amounts_are_lenient_and_limited() {
        let value = |text: &str| Amount::Value(text.to_owned());
        assert_eq!(read_amount("1234.56"), value("1234.56"));
        assert_eq!(read_amount("1234"), value("1234.0"));
        assert_eq!(read_amount("-0.10"), value("-0.1"));
        assert_eq!(read_amount("12abc"), value("12.0"));
        assert_eq!(read_amount("abc"), value("0.0"));
        assert_eq!(read_amount("0.0000000000000005"), value("0.000000000000001"));
        assert_eq!(read_amount("1e-300"), value("0.0"));
        assert_eq!(read_amount("9999999999999999999999999"), value("9999999999999999999999999.0"));
        assert_eq!(read_amount("10000000000000000000000000"), Amount::Overflow);
        assert_eq!(read_amount("1e99999999"), Amount::Overflow);
        assert_eq!(read_amount(""), Amount::Absent);
    }

    #[test]
    fn only_plain_decimals_are_aggregated_by_postgres() {
        for text in ["1e-07", ".5", "5.", "+3", " 5", "5\n", "1,000", "NaN", "", "-", "1.2.3"] {
            assert_eq!(counted_by_postgres(text), None, "{text}");
        }
        assert_eq!(counted_by_postgres("-12.50").map(|value| plain_text(&value)), Some("-12.5".to_owned()));
        assert_eq!(counted_by_postgres("100").map(|value| plain_text(&value)), Some("100".to_owned()));
    }

    #[test]
    fn clickhouse_turns_what_does_not_fit_into_zero() {
        assert_eq!(
            counted_by_clickhouse("999999999999.5"),
            ClickHouseNumber::Value("999999999999.5".parse().unwrap())
        );
        assert_eq!(counted_by_clickhouse("1000000000000"), ClickHouseNumber::DoesNotFit);
        assert_eq!(counted_by_clickhouse("1e-07"), ClickHouseNumber::Value("0.0000001".parse().unwrap()));
        assert_eq!(counted_by_clickhouse("abc"), ClickHouseNumber::NotNumeric);
    }

    #[test]
    fn json_numbers_are_numbers_whatever_their_notation() {
        assert_eq!(json_number("1e-7").map(|value| plain_text(&value)), Some("0.0000001".to_owned()));
        assert_eq!(json_number("100").map(|value| plain_text(&value)), Some("100".to_owned()));
        assert_eq!(json_number("1e400"), None);
    }
}

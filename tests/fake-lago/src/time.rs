//! Instants as microseconds since 1970, and their ISO 8601 text.
//!
//! Years beyond 9999 must print too: a timestamp in milliseconds is stored as the year 55840.

use std::time::{Duration, SystemTime};

pub const MICROS: i128 = 1_000_000;

/// The range of PostgreSQL's `timestamp`, in microseconds since 1970: from 4713 BC to the end of 294276.
const POSTGRES_FIRST: i128 = -210_866_803_200 * MICROS;
const POSTGRES_END: i128 = 9_224_318_016_000 * MICROS;

pub fn fits_postgres(micros: i128) -> bool {
    (POSTGRES_FIRST..POSTGRES_END).contains(&micros)
}

pub fn micros_of(time: SystemTime) -> i128 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i128::try_from(since.as_micros()).unwrap_or(i128::MAX),
        Err(before) => -i128::try_from(before.duration().as_micros()).unwrap_or(i128::MAX),
    }
}

/// The instant as a `SystemTime`, if it is one.
pub fn system_time(micros: i128) -> Option<SystemTime> {
    let distance = Duration::from_micros(u64::try_from(micros.unsigned_abs()).ok()?);
    match micros >= 0 {
        true => SystemTime::UNIX_EPOCH.checked_add(distance),
        false => SystemTime::UNIX_EPOCH.checked_sub(distance),
    }
}

pub fn floor_to_millis(micros: i128) -> i128 {
    micros.div_euclid(1000)
}

pub fn year_of(micros: i128) -> i128 {
    civil(micros.div_euclid(86_400 * MICROS)).0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fraction {
    None,
    Millis,
}

/// `2024-03-14T13:09:00.123Z`; digits beyond the wanted fraction are cut off.
pub fn iso(micros: i128, fraction: Fraction) -> String {
    let mut text = String::with_capacity(24);
    push_iso(&mut text, micros, fraction);
    text
}

pub fn push_iso(out: &mut String, micros: i128, fraction: Fraction) {
    use std::fmt::Write;
    let (year, month, day) = civil(micros.div_euclid(86_400 * MICROS));
    let within = micros.rem_euclid(86_400 * MICROS);
    let seconds = within / MICROS;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let sign = if year < 0 { "-" } else { "" };
    let year = year.unsigned_abs();
    // Writing to a String cannot fail.
    let _ = write!(out, "{sign}{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction == Fraction::Millis {
        let _ = write!(out, ".{:03}", within % MICROS / 1000);
    }
    out.push('Z');
}

/// Days since 1970 to year, month, day in the proleptic Gregorian calendar (eras of 400 years starting in
/// March, so that the leap day is the last of its year).
fn civil(days: i128) -> (i128, i128, i128) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i128::from(month <= 2), month, day)
}

fn days_from_civil(year: i128, month: i128, day: i128) -> i128 {
    let year = year - i128::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Reads `2024-03-14`, `2024-03-14T13:09`, `2024-03-14T13:09:00.123Z` and offsets such as `+02:00`.
/// Without an offset the time is UTC. A Unix timestamp is not a date.
pub fn parse_iso(text: &str) -> Option<i128> {
    let number = |part: Option<&str>, digits: usize| {
        part.filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|part| part.parse::<i128>().ok())
    };
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let (year, month, day) = (number(parts.next(), 4)?, number(parts.next(), 2)?, number(parts.next(), 2)?);
    let days = days_from_civil(year, month, day);
    if parts.next().is_some() || civil(days) != (year, month, day) {
        return None;
    }
    let Some(time) = time else { return Some(days * 86_400 * MICROS) };

    let (clock, offset_seconds) = split_offset(time)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':');
    let (hour, minute) = (number(parts.next(), 2)?, number(parts.next(), 2)?);
    let second = match parts.next() {
        Some(part) => number(Some(part), 2)?,
        None => 0,
    };
    let valid_fraction = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if parts.next().is_some() || hour > 24 || minute > 59 || second > 60 || !valid_fraction {
        return None;
    }
    let fraction: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset_seconds;
    Some(seconds * MICROS + fraction.parse::<i128>().ok()?)
}

/// The clock part and the offset in seconds east of UTC.
fn split_offset(time: &str) -> Option<(&str, i128)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = time.rfind(['+', '-', ' ']) else { return Some((time, 0)) };
    let digits: String = time[at + 1..].chars().filter(|c| *c != ':').collect();
    if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = (digits[..2].parse::<i128>().ok()?, digits[2..].parse::<i128>().ok()?);
    let east = hours * 3600 + minutes * 60;
    // A plus sign that was not percent-encoded in a query arrives as a space.
    Some((&time[..at], if time.as_bytes()[at] == b'-' { -east } else { east }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_print_as_lago_prints_them() {
        assert_eq!(iso(1_710_421_740_123_999, Fraction::Millis), "2024-03-14T13:09:00.123Z");
        assert_eq!(iso(1_710_421_740_123_999, Fraction::None), "2024-03-14T13:09:00Z");
        assert_eq!(iso(-1, Fraction::Millis), "1969-12-31T23:59:59.999Z");
        assert_eq!(iso(951_782_400 * MICROS, Fraction::None), "2000-02-29T00:00:00Z");
    }

    #[test]
    fn milliseconds_read_as_seconds_are_tens_of_thousands_of_years_away() {
        assert!((55_000..57_000).contains(&year_of(1_700_000_000_000 * MICROS)));
        assert!(fits_postgres(1_700_000_000_000 * MICROS));
        assert!(!fits_postgres(1_700_000_000_000_000 * MICROS));
        assert_eq!(year_of(POSTGRES_END - 1), 294_276);
        assert_eq!(year_of(POSTGRES_FIRST), -4713);
    }

    #[test]
    fn dates_are_read_in_iso_8601_only() {
        assert_eq!(parse_iso("1970-01-02"), Some(86_400 * MICROS));
        assert_eq!(parse_iso("2024-03-14T13:09:00.123Z"), Some(1_710_421_740_123_000));
        assert_eq!(parse_iso("2024-03-14T15:09:00+02:00"), Some(1_710_421_740_000_000));
        assert_eq!(parse_iso("2024-03-14T15:09:00 0200"), Some(1_710_421_740_000_000));
        assert_eq!(parse_iso("2024-03-14T13:09"), Some(1_710_421_740_000_000));
        for text in
            ["1710421740", "", "yesterday", "2024-02-30", "2024-03-14T25:00:00Z", "2024-3-14", "2024-03-14T"]
        {
            assert_eq!(parse_iso(text), None, "{text}");
        }
    }

    #[test]
    fn system_times_survive_the_round_trip() {
        for micros in [0, 1_710_421_740_123_456, -5] {
            assert_eq!(system_time(micros).map(micros_of), Some(micros));
        }
    }
}

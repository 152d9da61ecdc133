//! Schedule: when the rows of a sync go that does not deliver at once.
//!
//! Serves the worker. Pure: time comes in as an argument. A tick depends on the clock alone, never on
//! when a worker started, so a restart neither loses one nor adds one.
#![forbid(unsafe_code)]

use chrono::DateTime;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Microseconds since 1970.
pub type UnixMicros = i64;

const SECOND: UnixMicros = 1_000_000;
const LONGEST_INTERVAL_SECONDS: i64 = 366 * 86_400;

#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// A tick at every multiple of this since 1970.
    Every { interval: UnixMicros },
    /// Five fields of cron, in UTC.
    Cron(Box<Cron>),
}

impl Schedule {
    /// Reads `every 900 s`, or a cron expression of five fields.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        if let ["every", seconds, "s"] = words[..] {
            return every(seconds);
        }
        if words.len() != 5 {
            return Err(format!(
                "\"{text}\" is neither an interval, such as every 900 s, nor a cron expression of five fields, such as 0 2 * * *"
            ));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron =
            parser.parse(text).map_err(|error| format!("\"{text}\" is not a cron expression: {error}"))?;
        let schedule = Schedule::Cron(Box::new(cron));
        // Any moment does: what has no tick after it is a day like 30 February.
        match schedule.next_after(0) {
            Some(_) => Ok(schedule),
            None => Err(format!("\"{text}\" names a day that never comes")),
        }
    }

    /// The first tick after a moment.
    pub fn next_after(&self, moment: UnixMicros) -> Option<UnixMicros> {
        match self {
            Schedule::Every { interval } => {
                moment.div_euclid(*interval).checked_add(1)?.checked_mul(*interval)
            }
            Schedule::Cron(cron) => {
                // The moment's own second has begun, so a tick in it has passed.
                let second = DateTime::from_timestamp(moment.div_euclid(SECOND), 0)?;
                let next = cron.find_next_occurrence(&second, false).ok()?;
                next.timestamp().checked_mul(SECOND)
            }
        }
    }
}

fn every(seconds: &str) -> Result<Schedule, String> {
    let seconds: i64 = seconds.parse().map_err(|_| format!("\"{seconds}\" is not a number of seconds"))?;
    if !(1..=LONGEST_INTERVAL_SECONDS).contains(&seconds) {
        return Err(format!("an interval of {seconds} s is not between a second and a year"));
    }
    Ok(Schedule::Every { interval: seconds * SECOND })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unix(text: &str) -> UnixMicros {
        DateTime::parse_from_rfc3339(text).expect("a time").timestamp_micros()
    }

    fn next(schedule: &str, after: &str) -> String {
        let tick = Schedule::parse(schedule).expect(schedule).next_after(unix(after)).expect("a tick");
        DateTime::from_timestamp_micros(tick).expect("in range").to_rfc3339()
    }

    #[test]
    fn cron_ticks_are_minutes_in_utc() {
        let cases = [
            ("0 2 * * *", "2026-03-29T01:59:59.999999Z", "2026-03-29T02:00:00+00:00"),
            ("0 2 * * *", "2026-03-29T02:00:00Z", "2026-03-30T02:00:00+00:00"),
            ("0 2 * * *", "2026-03-29T02:00:00.000001Z", "2026-03-30T02:00:00+00:00"),
            ("*/15 * * * *", "2026-12-31T23:50:00Z", "2027-01-01T00:00:00+00:00"),
            ("30 6 * * 1-5", "2026-08-21T06:30:00Z", "2026-08-24T06:30:00+00:00"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00+00:00"),
        ];
        for (schedule, after, tick) in cases {
            assert_eq!(next(schedule, after), tick, "{schedule} after {after}");
        }
    }

    #[test]
    fn interval_ticks_are_multiples_since_1970() {
        assert_eq!(next("every 900 s", "2026-01-01T00:14:59.999999Z"), "2026-01-01T00:15:00+00:00");
        assert_eq!(next("every 900 s", "2026-01-01T00:15:00Z"), "2026-01-01T00:30:00+00:00");
        assert_eq!(next("every 1 s", "1969-12-31T23:59:58.5Z"), "1969-12-31T23:59:59+00:00");
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        let wrong = [
            "",
            "daily",
            "* * * *",
            "* * * * * *",
            "61 * * * *",
            "0 0 30 2 *",
            "every 0 s",
            "every -5 s",
            "every 31622401 s",
            "every x s",
            "every 99999999999999999999 s",
            "900",
        ];
        for text in wrong {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
        assert!(Schedule::parse("every 31622400 s").is_ok());
    }

    proptest! {
        #[test]
        fn the_next_tick_is_later_and_has_none_before_it(
            moment in -1_000_000_000_000_000i64..4_000_000_000_000_000,
            schedule in prop::sample::select(vec!["every 7 s", "every 86400 s", "*/5 * * * *", "17 3 1 * *"]),
        ) {
            let schedule = Schedule::parse(schedule).expect("valid");
            let tick = schedule.next_after(moment).expect("a tick");
            prop_assert!(tick > moment);
            prop_assert_eq!(schedule.next_after(tick - 1), Some(tick));
        }

        #[test]
        fn no_moment_and_no_text_is_too_odd(moment in any::<i64>(), text in ".{0,20}") {
            if let Ok(schedule) = Schedule::parse(&text) {
                let _ = schedule.next_after(moment);
            }
            let _ = Schedule::Every { interval: SECOND }.next_after(moment);
        }
    }
}

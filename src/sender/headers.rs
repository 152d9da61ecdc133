//! Headers: what those of a reply say about how much may be asked, and when.
//!
//! Between sender and verdict. Pure. Lago's cloud sends `X-RateLimit-*` with every answer, where the
//! reset is seconds from now; a proxy may send `Retry-After`, in seconds or as a date (RFC 9110, 10.2.3).
//! It promises that what makes no sense is as good as not there.
#![forbid(unsafe_code)]

use crate::verdict::Allowance;
use chrono::DateTime;
use std::time::{Duration, SystemTime};
use ureq::http::HeaderMap;
use ureq::http::header::{DATE, RETRY_AFTER};

/// A longer window is none: most likely a moment, in seconds since 1970.
const LONGEST_WINDOW_SECONDS: f64 = 86_400.0;

/// What may still be asked before the window resets.
pub fn allowance(headers: &HeaderMap) -> Option<Allowance> {
    Some(Allowance {
        limit: text(headers, "x-ratelimit-limit").and_then(|limit| limit.parse().ok()),
        remaining: text(headers, "x-ratelimit-remaining")?.parse().ok()?,
        reset: seconds(text(headers, "x-ratelimit-reset")?)?,
    })
}

/// How long the server asks to wait before the next request.
pub fn wait(status: u16, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let asked = text(headers, RETRY_AFTER.as_str())
        .and_then(|text| seconds(text).or_else(|| until(date(text)?, headers, now)));
    asked.or_else(|| match status {
        429 => seconds(text(headers, "x-ratelimit-reset")?),
        _ => None,
    })
}

/// By the server's own clock if it tells what it shows: it is the one that will have to agree.
fn until(moment: SystemTime, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let now = text(headers, DATE.as_str()).and_then(date).unwrap_or(now);
    let wait = moment.duration_since(now).unwrap_or_default();
    (wait.as_secs_f64() <= LONGEST_WINDOW_SECONDS).then_some(wait)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    Some(headers.get(name)?.to_str().ok()?.trim())
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    (0.0..=LONGEST_WINDOW_SECONDS).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// The date of HTTP is one of those that mail may carry.
fn date(text: &str) -> Option<SystemTime> {
    DateTime::parse_from_rfc2822(text).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn limits(limit: &'static str, remaining: &'static str, reset: &'static str) -> Option<Allowance> {
        allowance(&headers(&[
            ("x-ratelimit-limit", limit),
            ("x-ratelimit-remaining", remaining),
            ("x-ratelimit-reset", reset),
        ]))
    }

    /// 2026-03-04 05:06:07 UTC.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_600_767)
    }

    fn waits(status: u16, pairs: &[(&'static str, &'static str)]) -> Option<f64> {
        wait(status, &headers(pairs), now()).map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn an_allowance_is_read_from_any_reply() {
        let read = limits("500", "499", "0.75").expect("an allowance");
        assert_eq!(read, Allowance { limit: Some(500), remaining: 499, reset: Duration::from_millis(750) });
        assert_eq!(limits("many", " 3 ", "1").map(|read| (read.limit, read.remaining)), Some((None, 3)));
    }

    #[test]
    fn an_allowance_that_makes_no_sense_is_none() {
        for (remaining, reset) in [
            ("-1", "1"),
            ("1.5", "1"),
            ("", "1"),
            ("1", "-1"),
            ("1", "NaN"),
            ("1", "inf"),
            ("1", "soon"),
            ("1", "1772600767"),
        ] {
            assert_eq!(limits("500", remaining, reset), None, "{remaining} {reset}");
        }
        assert_eq!(allowance(&headers(&[("x-ratelimit-remaining", "1")])), None);
        assert_eq!(allowance(&headers(&[])), None);
    }

    #[test]
    fn a_server_may_ask_for_a_wait_in_seconds_or_until_a_date() {
        assert_eq!(waits(503, &[("retry-after", "7")]), Some(7.0));
        assert_eq!(waits(503, &[("retry-after", "Wed, 04 Mar 2026 05:06:10 GMT")]), Some(3.0));
        assert_eq!(waits(503, &[("retry-after", "Wed, 04 Mar 2026 05:00:00 GMT")]), Some(0.0), "is over");
        for nonsense in ["-1", "inf", "nan", "soon", "Wed, 04 Mar 2099 05:06:10 GMT"] {
            assert_eq!(waits(503, &[("retry-after", nonsense)]), None, "{nonsense}");
        }
    }

    #[test]
    fn a_date_is_told_by_the_clock_of_the_server_that_sends_it() {
        let sent =
            [("date", "Wed, 04 Mar 2026 04:00:00 GMT"), ("retry-after", "Wed, 04 Mar 2026 04:00:05 GMT")];
        assert_eq!(waits(503, &sent), Some(5.0));
    }

    #[test]
    fn only_a_refusal_for_asking_too_much_makes_the_reset_a_wait() {
        let reset = ("x-ratelimit-reset", "2");
        assert_eq!(waits(429, &[reset]), Some(2.0));
        assert_eq!(waits(429, &[("retry-after", "5"), reset]), Some(5.0));
        assert_eq!(waits(429, &[("retry-after", "soon"), reset]), Some(2.0));
        assert_eq!(waits(503, &[reset]), None);
        assert_eq!(waits(200, &[reset]), None);
    }
}

//! Listing: every event of a period, whatever arrives meanwhile.
//!
//! Lago lists newest first and pages by number. What arrives while we turn pages pushes others to the next
//! page, so that some are seen twice and none is skipped. A page far from the first costs Lago's database
//! all those before it; so a period with many pages is cut into shorter ones, which meet at a millisecond
//! that belongs to both.
#![forbid(unsafe_code)]

use super::Period;
use super::event::Shown;
use chrono::{DateTime, SecondsFormat};
use url::form_urlencoded::Serializer;

/// What is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub code: String,
    /// None for those of all subscriptions.
    pub subscription: Option<String>,
}

/// One page of a listing.
#[derive(Debug)]
pub struct Page {
    pub events: Vec<Shown>,
    /// How many events there are on all pages.
    pub total: u64,
}

/// What an answer turned out to be.
#[derive(Debug)]
pub enum Turned {
    Page(Page),
    /// The events are so large that fewer of them make an answer.
    TooLarge,
}

/// Who is asked.
pub trait Pages {
    /// Why it cannot go on.
    type Stop;
    fn turn(&mut self, path: &str) -> Result<Turned, Self::Stop>;
    /// Events are too large even alone.
    fn too_large(&self) -> Self::Stop;
}

/// How a listing is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub per_page: u64,
    /// More pages are not turned in one piece, unless it is a single millisecond.
    pub most_pages: u64,
}

impl Default for Cut {
    fn default() -> Cut {
        Cut { per_page: 100, most_pages: 20 }
    }
}

/// No period is cut into more parts at once: where events stand close together, few parts hold them all.
const MOST_PARTS: u64 = 64;

/// Hands every event of the period to `visit`, some of them more than once.
pub fn walk<P: Pages>(
    pages: &mut P,
    subject: &Subject,
    period: Period,
    cut: Cut,
    visit: &mut impl FnMut(Shown),
) -> Result<(), P::Stop> {
    let mut per_page = cut.per_page.max(1);
    let mut pieces = vec![period];
    while let Some(piece) = pieces.pop() {
        let mut number = 1;
        loop {
            let page = match pages.turn(&path(subject, piece, per_page, number))? {
                Turned::Page(page) => page,
                Turned::TooLarge if per_page == 1 => return Err(pages.too_large()),
                // From the first page on: they are other pages now.
                Turned::TooLarge => {
                    per_page /= 2;
                    number = 1;
                    continue;
                }
            };
            if number == 1 && page.total.div_ceil(per_page) > cut.most_pages {
                let wanted = page.total.div_ceil(per_page * cut.most_pages.div_ceil(2).max(1));
                let parts = parts(piece, wanted.clamp(2, MOST_PARTS));
                if parts.len() > 1 {
                    pieces.extend(parts);
                    break;
                }
            }
            let is_last = page.events.is_empty() || number.saturating_mul(per_page) >= page.total;
            page.events.into_iter().for_each(&mut *visit);
            if is_last {
                break;
            }
            number += 1;
        }
    }
    Ok(())
}

/// Cuts a period into that many, or as many as it has milliseconds; each ends where the next begins. The
/// latest first, so that the earliest is the first to be taken from the end.
fn parts(period: Period, wanted: u64) -> Vec<Period> {
    let length = period.to_ms.saturating_sub(period.from_ms);
    let wanted = i64::try_from(wanted).unwrap_or(i64::MAX).min(length).max(1);
    let bound = |index: i64| {
        let share = i128::from(length) * i128::from(index) / i128::from(wanted);
        period.from_ms.saturating_add(i64::try_from(share).unwrap_or(i64::MAX))
    };
    (0..wanted).rev().map(|index| Period { from_ms: bound(index), to_ms: bound(index + 1) }).collect()
}

fn path(subject: &Subject, period: Period, per_page: u64, number: u64) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("code", &subject.code);
    if let Some(subscription) = &subject.subscription {
        query.append_pair("external_subscription_id", subscription);
    }
    for (key, ms) in [("timestamp_from", period.from_ms), ("timestamp_to", period.to_ms)] {
        if let Some(moment) = DateTime::from_timestamp_millis(ms) {
            query.append_pair(key, &moment.to_rfc3339_opts(SecondsFormat::Millis, true));
        }
    }
    query.append_pair("per_page", &per_page.to_string()).append_pair("page", &number.to_string());
    format!("/events?{}", query.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_written_as_lago_reads_it() {
        let subject = Subject { code: "api calls".into(), subscription: Some("a&b".into()) };
        let period = Period { from_ms: 1_710_421_740_123, to_ms: 1_710_421_741_000 };
        assert_eq!(
            path(&subject, period, 100, 2),
            "/events?code=api+calls&external_subscription_id=a%26b&timestamp_from=2024-03-14T13%3A09%3A00.123Z&timestamp_to=2024-03-14T13%3A09%3A01.000Z&per_page=100&page=2"
        );
    }

    #[test]
    fn parts_meet_and_cover_the_whole() {
        for (length, wanted) in [(10, 3), (64, 64), (2, 64), (1, 64), (0, 2), (i64::MAX, 64)] {
            let mut parts = parts(Period { from_ms: 0, to_ms: length }, wanted);
            parts.reverse();
            assert_eq!((parts[0].from_ms, parts[parts.len() - 1].to_ms), (0, length));
            assert!(parts.windows(2).all(|pair| pair[0].to_ms == pair[1].from_ms), "{parts:?}");
            assert_eq!(parts.len() as u64, wanted.min(length.max(1) as u64));
        }
    }
}

//! The listing and the comparison together, against a Lago of a few lines.

use super::Period;
use super::event::{Sent, Shown};
use super::expected::{Expected, Fate, Met, Witness};
use super::listing::{Cut, Page, Pages, Subject, Turned, walk};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use url::form_urlencoded;

const CODE: &str = "c";
const ALL: Period = Period { from_ms: 0, to_ms: 1000 };

fn shown(id: &str, ms: i64, amount: i64) -> Shown {
    let moment = chrono::DateTime::from_timestamp_millis(ms).expect("a moment");
    let event = json!({"lago_id": "ch1", "transaction_id": id, "external_subscription_id": "s", "code": CODE,
        "timestamp": moment.to_rfc3339_opts(chrono::SecondsFormat::Millis, true), "properties": {"n": amount}});
    Shown::read(&event).expect("an event")
}

fn sent(id: &str, ms: i64, amount: i64) -> Sent {
    let seconds = format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000));
    let payload = json!({"transaction_id": id, "external_subscription_id": "s", "code": CODE,
        "timestamp": seconds, "properties": {"n": amount}});
    Sent::read(&payload).expect("an event")
}

/// Lists as Lago does. Before each answer the next arrivals come in.
struct Lago {
    /// Time and id, in the order of arrival.
    events: Vec<(i64, String)>,
    arrivals: Vec<Vec<i64>>,
    asked: usize,
    deepest_page: u64,
    /// More events than this are too many for one answer.
    fits: usize,
}

impl Lago {
    fn new(times: &[i64]) -> Lago {
        let events = times.iter().enumerate().map(|(index, ms)| (*ms, format!("e{index}"))).collect();
        Lago { events, arrivals: Vec::new(), asked: 0, deepest_page: 0, fits: usize::MAX }
    }
}

impl Pages for Lago {
    type Stop = String;

    fn too_large(&self) -> String {
        "too large".into()
    }

    fn turn(&mut self, path: &str) -> Result<Turned, String> {
        self.asked += 1;
        if let Some(times) = self.arrivals.pop() {
            let from = self.events.len();
            let arrived = times.into_iter().enumerate();
            self.events.extend(arrived.map(|(index, ms)| (ms, format!("late{from}-{index}"))));
        }
        let (_, query) = path.split_once('?').ok_or("no query")?;
        let query: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let ms =
            |key: &str| chrono::DateTime::parse_from_rfc3339(&query[key]).map(|at| at.timestamp_millis());
        let number = |key: &str| query[key].parse::<usize>().map_err(|error| error.to_string());
        let (from, to) = (ms("timestamp_from").expect("from"), ms("timestamp_to").expect("to"));
        let (page, per_page) = (number("page")?, number("per_page")?);
        self.deepest_page = self.deepest_page.max(page as u64);
        let mut matching: Vec<(i64, &str)> = self
            .events
            .iter()
            .rev()
            .filter(|(ms, _)| (from..=to).contains(ms))
            .map(|(ms, id)| (*ms, id.as_str()))
            .collect();
        matching.sort_by_key(|(ms, _)| std::cmp::Reverse(*ms));
        let total = matching.len() as u64;
        let events: Vec<Shown> = matching
            .iter()
            .skip((page - 1) * per_page)
            .take(per_page)
            .map(|(ms, id)| shown(id, *ms, 0))
            .collect();
        if events.len() > self.fits {
            return Ok(Turned::TooLarge);
        }
        Ok(Turned::Page(Page { events, total }))
    }
}

fn listed(lago: &mut Lago, cut: Cut) -> BTreeSet<String> {
    let subject = Subject { code: CODE.into(), subscription: None };
    let mut seen = BTreeSet::new();
    walk(lago, &subject, ALL, cut, &mut |event| {
        seen.insert(event.transaction_id);
    })
    .expect("listed");
    seen
}

proptest! {
    #[test]
    fn nothing_that_was_there_is_skipped_whatever_arrives(
        times in prop::collection::vec(0..=1000i64, 0..200),
        arrivals in prop::collection::vec(prop::collection::vec(0..=1000i64, 0..4), 0..30),
        per_page in 1..8u64,
        most_pages in 1..6u64,
    ) {
        let mut lago = Lago { arrivals, ..Lago::new(&times) };
        let seen = listed(&mut lago, Cut { per_page, most_pages });
        let there: BTreeSet<String> = (0..times.len()).map(|index| format!("e{index}")).collect();
        prop_assert!(seen.is_superset(&there), "skipped {:?}", there.difference(&seen).collect::<Vec<_>>());
    }

    #[test]
    fn exactly_what_was_lost_altered_or_added_is_found(
        events in prop::collection::btree_map(0..500u32, (0..1000i64, 0..4i64), 1..80),
        lost in prop::collection::btree_set(0..500u32, 0..20),
        altered in prop::collection::btree_set(0..500u32, 0..20),
        added in prop::collection::btree_set(500..600u32, 0..10),
    ) {
        let id = |number: &u32| format!("e{number}");
        let mut expected = Expected::default();
        for (number, (ms, amount)) in &events {
            expected.push(Witness::Row, &sent(&id(number), *ms, *amount));
        }
        expected.seal();
        let mut strangers = BTreeSet::new();
        for (number, (ms, amount)) in events.iter().filter(|(number, _)| !lost.contains(number)) {
            let amount = amount + i64::from(altered.contains(number));
            // Twice, as where two slices meet.
            for _ in 0..2 {
                prop_assert_eq!(expected.meet(&shown(&id(number), *ms, amount)), Met::Expected);
            }
        }
        for number in &added {
            let event = shown(&id(number), 5, 0);
            if expected.meet(&event) == Met::Stranger {
                strangers.insert(*number);
            }
        }
        prop_assert_eq!(strangers, added);
        let mut flaws = 0;
        for (number, (ms, amount)) in &events {
            let fate = expected.tell(sent(&id(number), *ms, *amount).key(), Witness::Row);
            if lost.contains(number) {
                prop_assert_eq!(fate, Fate::Missing);
                flaws += 1;
            } else if altered.contains(number) {
                let Fate::Differing(differences) = fate else { return Err(TestCaseError::fail("not found")) };
                prop_assert_eq!(differences.names(), ["properties"]);
                flaws += 1;
            } else {
                prop_assert_eq!(fate, Fate::Fine);
            }
        }
        prop_assert_eq!(expected.is_flawless(), flaws == 0);
    }
}

#[test]
fn a_million_would_not_be_turned_to_the_last_page() {
    let times: Vec<i64> = (0..5000).map(|index| index % 1000).collect();
    let mut lago = Lago::new(&times);
    let cut = Cut { per_page: 10, most_pages: 20 };
    assert_eq!(listed(&mut lago, cut).len(), 5000);
    assert!(lago.deepest_page <= cut.most_pages, "page {}", lago.deepest_page);
    assert!(lago.asked < 700, "{} requests for 500 pages", lago.asked);
}

#[test]
fn what_stands_at_one_millisecond_is_turned_page_by_page() {
    let mut lago = Lago::new(&[500; 300]);
    assert_eq!(listed(&mut lago, Cut { per_page: 10, most_pages: 5 }).len(), 300);
}

#[test]
fn large_events_are_asked_for_in_smaller_pages() {
    let times: Vec<i64> = (0..50).collect();
    let mut lago = Lago { fits: 3, ..Lago::new(&times) };
    assert_eq!(listed(&mut lago, Cut { per_page: 10, most_pages: 100 }).len(), 50);
    let mut none = Lago { fits: 0, ..Lago::new(&times) };
    let subject = Subject { code: CODE.into(), subscription: None };
    let stopped = walk(&mut none, &subject, ALL, Cut::default(), &mut |_| {});
    assert_eq!(stopped, Err("too large".into()));
}

#[test]
fn of_copies_the_last_written_counts_and_of_witnesses_the_reply() {
    let mut expected = Expected::default();
    expected.push(Witness::Row, &sent("a", 1, 9));
    expected.push(Witness::Reply, &sent("a", 1, 7));
    expected.seal();
    // Newest first: the copy that corrected the event, then what it corrected.
    expected.meet(&shown("a", 1, 7));
    expected.meet(&shown("a", 1, 8));
    let key = sent("a", 1, 7).key();
    assert_eq!(expected.tell(key, Witness::Row), Fate::Fine, "the reply is to tell");
    assert_eq!(expected.tell(key, Witness::Reply), Fate::Fine);
}

#[test]
fn what_is_not_settled_is_neither_missing_nor_differing() {
    let mut expected = Expected::default();
    expected.push(Witness::Row, &sent("a", 1, 1));
    expected.push(Witness::Unsettled, &sent("a", 1, 1));
    expected.push(Witness::Unsettled, &sent("b", 1, 1));
    expected.seal();
    assert!(expected.is_flawless());
    assert_eq!(expected.meet(&shown("b", 1, 2)), Met::Expected, "nor unexpected");
    assert_eq!(expected.tell(sent("a", 1, 1).key(), Witness::Row), Fate::Fine);
}

#[test]
fn an_id_that_is_there_twice_is_told() {
    let mut expected = Expected::default();
    expected.push(Witness::Row, &sent("a", 1, 1));
    expected.seal();
    expected.meet(&shown("a", 1, 1));
    expected.meet(&shown("a", 900, 1));
    assert!(!expected.is_flawless());
    let key = sent("a", 1, 1).key();
    assert!(matches!(expected.tell(key, Witness::Row), Fate::Twice(found) if found.names() == ["timestamp"]));
    assert_eq!(expected.tell(key, Witness::Row), Fate::Fine, "told once");
    assert_eq!(expected.tell(0, Witness::Row), Fate::Unknown);
}

#[test]
fn a_period_is_rounded_outwards_to_milliseconds() {
    let period = Period::of_micros(1_001, 2_001);
    assert_eq!(period, Period { from_ms: 1, to_ms: 3 });
    assert!(period.holds_micros(1_000) && period.holds_micros(2_999));
    assert!(!period.holds_micros(999) && !period.holds_micros(3_000));
    let all = Period::of_micros(i64::MIN, i64::MAX);
    assert!(all.from_ms < 0 && chrono::DateTime::from_timestamp_millis(all.to_ms).is_some());
}

#[test]
fn an_unreadable_payload_is_no_event() {
    assert_eq!(Sent::read(&Value::Null), None);
}

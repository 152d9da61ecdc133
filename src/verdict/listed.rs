//! Which events a success lists.
//!
//! Serves the verdict on a batch. Lago answers with every event it has taken, in the order of the
//! request. One pass over the text that keeps nothing but the ids, because it is done to every batch.
#![forbid(unsafe_code)]

use crate::message::Message;
use memchr::memchr2;
use memchr::memmem::Finder;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;
use std::collections::HashMap;
use std::fmt;

/// What a body that begins as Lago's success does says of the events sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Listed {
    /// It ends too early to tell.
    CutOff,
    /// Whether it lists each message sent, in their order.
    Each(Vec<bool>),
}

/// Compares the list under `root` with what was sent.
pub fn listed(body: &[u8], root: &str, sent: &[Message]) -> Listed {
    let taken = match serde_json::from_slice::<Body>(body) {
        Ok(Body(lists)) => {
            lists.into_iter().find(|(key, _)| key == root).map_or_else(Vec::new, |(_, ids)| ids)
        }
        Err(error) if error.classify() == Category::Eof => return Listed::CutOff,
        Err(_) => Vec::new(),
    };
    Listed::Each(compare(&taken, sent))
}

/// How an id begins in what Lago writes and in what templates render.
const ID: &[u8] = b"\"transaction_id\":\"";

/// Whether a body names the ids of all messages in their order, each as Lago writes it: that is what nearly
/// every success looks like, and to see it costs a small part of reading the body as JSON. Within a text of
/// JSON quotes are escaped, so what is found is always a key with its value. (It may be one of the event's
/// properties, which is as good: Lago takes a request as a whole or not at all.)
pub fn lists_all_in_order(body: &[u8], sent: &[Message]) -> bool {
    let finder = Finder::new(ID);
    let mut named = finder.find_iter(body);
    sent.iter().all(|message| {
        let payload = message.payload.as_bytes();
        let Some(id) = finder.find(payload).and_then(|at| plain_text(&payload[at + ID.len()..])) else {
            return false;
        };
        named.any(|at| plain_text(&body[at + ID.len()..]) == Some(id))
    })
}

/// The text that ends at the next quote, if it means just what it says.
fn plain_text(from: &[u8]) -> Option<&[u8]> {
    let end = memchr2(b'"', b'\\', from)?;
    (from[end] == b'"').then(|| &from[..end])
}

/// Events are told by their ids. Where one has none, or one that is not text (Lago makes text of it), the
/// place in the list tells, if the list is as long as the request.
fn compare(taken: &[Option<Value>], sent: &[Message]) -> Vec<bool> {
    let mut left: HashMap<&str, usize> = HashMap::new();
    for id in taken.iter().flatten().filter_map(Value::as_str) {
        *left.entry(id).or_default() += 1;
    }
    let same_length = taken.len() == sent.len();
    sent.iter()
        .enumerate()
        .map(|(index, message)| {
            let Some(Value::String(ours)) = id_of(&message.payload) else { return same_length };
            if let Some(count) = left.get_mut(ours.as_str()).filter(|count| **count > 0) {
                *count -= 1;
                return true;
            }
            same_length && matches!(taken.get(index), Some(None))
        })
        .collect()
}

/// The `transaction_id` of a payload, if it can be read.
pub fn id_of(payload: &str) -> Option<Value> {
    serde_json::from_str::<Event>(payload).ok()?.0
}

/// The lists in a JSON object whose members are lists of objects.
struct Body(Vec<(String, Vec<Option<Value>>)>);

struct Event(Option<Value>);

struct Events(Vec<Option<Value>>);

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Body, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Body;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Body, A::Error> {
                let mut lists = Vec::new();
                // Lago's list comes first; what a later version puts after it may be anything.
                if let Some(key) = members.next_key::<String>()? {
                    lists.push((key, members.next_value::<Events>()?.0));
                }
                while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Body(lists))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for Events {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Events, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Events;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Events, A::Error> {
                let mut ids = Vec::new();
                while let Some(Event(id)) = elements.next_element()? {
                    ids.push(id);
                }
                Ok(Events(ids))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Event;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an event")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Event, A::Error> {
                let mut id = None;
                while let Some(IsId(is_id)) = members.next_key()? {
                    if is_id {
                        id = Some(members.next_value::<Value>()?).filter(|id| !id.is_null());
                    } else {
                        members.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Event(id))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Whether a key is that of the id.
struct IsId(bool);

impl<'de> Deserialize<'de> for IsId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IsId, D::Error> {
        struct Key;
        impl Visitor<'_> for Key {
            type Value = IsId;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<IsId, E> {
                Ok(IsId(key == "transaction_id"))
            }
        }
        deserializer.deserialize_str(Key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(ids: &[&str]) -> Vec<Message> {
        let payload =
            |id: &&str| format!(r#"{{"code":"c","transaction_id":{id},"properties":{{"a":[1,2]}}}}"#);
        (1..).zip(ids).map(|(id, text)| Message::sample(id, &payload(text))).collect()
    }

    fn each(body: &str, ids: &[&str]) -> Vec<bool> {
        match listed(body.as_bytes(), "events", &sent(ids)) {
            Listed::Each(each) => each,
            Listed::CutOff => panic!("{body}"),
        }
    }

    #[test]
    fn an_event_is_listed_by_its_id_wherever_it_stands() {
        let two = r#"{"events":[{"transaction_id":"b"},{"properties":{"transaction_id":"x"},"transaction_id":"a"}]}"#;
        assert_eq!(each(two, &[r#""a""#, r#""b""#]), [true, true]);
        assert_eq!(each(two, &[r#""a""#, r#""x""#, r#""b""#]), [true, false, true]);
        assert_eq!(each(two, &[r#""a""#, r#""a""#]), [true, false], "one entry stands for one event");
        assert_eq!(each(two, &[r#""\u0061""#, r#""b""#]), [true, true], "however it is written");
    }

    #[test]
    fn where_ids_do_not_tell_a_list_as_long_as_the_request_does() {
        assert_eq!(each(r#"{"events":[{},{"transaction_id":null}]}"#, &[r#""a""#, r#""b""#]), [true, true]);
        assert_eq!(each(r#"{"events":[{"transaction_id":"1.5"}]}"#, &["1.50"]), [true]);
        assert_eq!(each(r#"{"events":[{}]}"#, &[r#""a""#, "7"]), [false, false]);
        assert_eq!(each(r#"{"events":[{},{}]}"#, &["{", r#""b""#]), [true, true], "an unreadable payload");
    }

    #[test]
    fn a_success_as_lago_writes_it_is_known_at_a_glance() {
        let in_order = |body: &str, ids: &[&str]| lists_all_in_order(body.as_bytes(), &sent(ids));
        let three = r#"{"events":[{"lago_id":"1","transaction_id":"a","x":1},{"transaction_id":"b"},{"transaction_id":"c"}]}"#;
        assert!(in_order(three, &[r#""a""#, r#""b""#, r#""c""#]));
        assert!(in_order(three, &[r#""a""#, r#""c""#]), "it may list more");
        for missing in [&[r#""a""#, r#""d""#][..], &[r#""b""#, r#""a""#], &[r#""c""#, r#""c""#], &[r#""""#]] {
            assert!(!in_order(three, missing), "{missing:?}");
        }
        assert!(!in_order(three, &["1"]), "what is no text is compared with care");
        assert!(
            !in_order(r#"{"events":[{"transaction_id":"\u0061"}]}"#, &[r#""a""#]),
            "so is what is escaped"
        );
        assert!(
            !in_order(r#"{"events":[{"code":"\"transaction_id\":\"a\""}]}"#, &[r#""a""#]),
            "text is no key"
        );
        assert!(!in_order(r#"{"events":[{"transaction_id":"a"#, &[r#""a""#]), "it ends too early");
    }

    #[test]
    fn a_body_that_lists_nothing_lists_nobody() {
        for body in [
            r#"{"events":[]}"#,
            r#"{"events":"ok"}"#,
            r#"{"events":[1]}"#,
            r#"{"events":[]} <"#,
            r#"{"event":[{}]}"#,
        ] {
            assert_eq!(each(body, &[r#""a""#]), [false], "{body}");
        }
    }

    #[test]
    fn a_body_that_ends_too_early_does_not_tell() {
        let whole = r#"{"events":[{"transaction_id":"a","properties":{"n":1}}],"more":{"b":[]}}"#;
        for end in 0..whole.len() {
            assert_eq!(
                listed(&whole.as_bytes()[..end], "events", &sent(&[r#""a""#])),
                Listed::CutOff,
                "{end}"
            );
        }
        assert_eq!(each(whole, &[r#""a""#]), [true]);
    }
}
